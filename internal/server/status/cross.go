package status

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"time"

	"mooring/internal/core/ca"
	"mooring/wire/cms"
)

const (
	typeBundle = "application/pkcs7-mime" // RFC 5280, section 4.2.2.1
	bundleAge  = time.Hour                // a cross certificate may come, and ends before its root does
)

// crossed serves all certificates for a CA's key: its own, and those by which other roots vouch for it. In a DER set the shorter ones come first,
// which cross certificates are.
func (s *server) crossed(w http.ResponseWriter, r *http.Request, i *ca.Issuer) error {
	certs, newest := [][]byte{i.Certificate().Raw}, i.Certificate().NotBefore
	for _, c := range s.CA.Crosses() {
		if c.Subject == i {
			certs = append(certs, c.Cert.Raw)
			if c.Cert.NotBefore.After(newest) {
				newest = c.Cert.NotBefore
			}
		}
	}
	bundle, err := cms.CertsOnly(certs)
	if err != nil {
		return fmt.Errorf("encoding the certificates of a CA: %w", err)
	}
	sum := sha256.Sum256(bundle)
	serve(w, r, file{typeBundle, bytes.NewReader(bundle), sum[:8], newest, bundleAge})
	return nil
}
