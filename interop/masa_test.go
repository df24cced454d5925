//go:build interop

package interop

import "testing"

// TestInteropMASA does what doc/masa.md says: openssl signs what a device and a registrar ask, curl carries it, and openssl checks the voucher.
func TestInteropMASA(t *testing.T) {
	engines(t, func(t *testing.T, database string) {
		s := newSite(t)
		s.env["MASA"] = "https://" + s.env["HOST"] + ":9444"
		s.followWith(t, database, "../doc/masa.md", 5, "127.0.0.1:9444", s.env["HOST"]+":9444")
	})
}
