package scep_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/wire/cms"
	"mooring/wire/der"
	"mooring/wire/scep"
)

// TestNextCA: the CA that is to come is announced, signed by the authority, and certificates of the CA before renew under it.
func TestNextCA(t *testing.T) {
	begin := time.Now()
	from := begin.AddDate(0, 0, 20).UTC().Format(time.RFC3339)
	p := start(t, turning("printer-2", fmt.Sprintf("issuers: [{name: devices}, {name: devices-2, from: %s}]", from)))
	if _, err := p.CA.Create(t.Context(), apptest.Operator(), ca.Spec{Name: "devices-2", Parent: "root", Algorithm: key.P256, Validity: 4 * 365 * 86400,
		Subject: []der.Attribute{{Type: der.OIDCommonName, Value: "Second CA"}}}); err != nil {
		t.Fatal(err)
	}
	p.Restart(t)
	one, two := rsaKeys()[0], rsaKeys()[1]
	c := enrolled(t, p, "printer-2", "old", one)
	_, _, caps := c.fetch(t, "operation=GetCACaps")
	if !strings.Contains(string(caps), "GetNextCACert") {
		t.Errorf("the capabilities are %q", caps)
	}
	status, mediaType, body := c.fetch(t, "operation=GetNextCACert&message=x")
	signed, err := cms.ParseSigned(body)
	if status != 200 || mediaType != scep.TypeNextCAChain || err != nil {
		t.Fatalf("got %d, %s, %v", status, mediaType, err)
	}
	if _, err := signed.Verify(c.ra); err != nil {
		t.Error(err)
	}
	certs, err := cms.ParseCertsOnly(signed.Content)
	if err != nil || !slices.ContainsFunc(certs, func(raw []byte) bool { return bytes.Contains(raw, []byte("Second CA")) }) {
		t.Errorf("the next CA is not among %d certificates, %v", len(certs), err)
	}
	p.Clock.Move(21 * 24 * time.Hour)
	p.Restart(t)
	t.Run("renewal under older CA", func(t *testing.T) {
		c.cert, c.key = c.certificate(t, c.send(t, scep.RenewalReq, "2", c.csr(t, two, "old", ""))), two
		if c.cert.Issuer.CommonName != "Second CA" {
			t.Errorf("renewed by %s", c.cert.Issuer)
		}
	})
}
