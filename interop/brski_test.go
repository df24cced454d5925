//go:build interop

package interop

import "testing"

// TestInteropBRSKI does what doc/brski.md says: a device that finds its owner by our agent, and another one by openssl cms and curl alone.
func TestInteropBRSKI(t *testing.T) {
	engines(t, func(t *testing.T, database string) { newSite(t).follow(t, database, "../doc/brski.md", 10) })
}
