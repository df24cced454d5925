package est

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"mooring/wire/cms"
	"mooring/wire/coap"
	wire "mooring/wire/est"
)

// TestPartOrderFree reads a generated key and its certificate, whichever comes first (RFC 9148, section 4.8).
func TestPartOrderFree(t *testing.T) {
	key := coap.Part{Format: coap.PKCS8, Body: []byte{0x30, 0}}
	certs, err := cms.CertsOnly([][]byte{{0x30, 3, 2, 1, 1}})
	if err != nil {
		t.Fatal(err)
	}
	for name, parts := range map[string][]coap.Part{
		"key first":                              {key, {Format: coap.PKCS7CertsOnly, Body: certs}},
		"part order free: certificate first":     {{Format: coap.PKCS7CertsOnly, Body: certs}, key},
		"part order free: one certificate first": {{Format: coap.PKIXCert, Body: []byte{0x30, 3, 2, 1, 1}}, key},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := translateKeygen(&http.Request{}, coap.AppendMultipart(nil, parts...))
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			got, err := wire.ParseKeygen(text, r.Header.Get("Content-Type"))
			if err != nil || got.KeyType != wire.TypePlainKey || !bytes.Equal(got.Key, key.Body) || !bytes.Equal(got.Certificates, certs) {
				t.Errorf("read %+v, %v", got, err)
			}
		})
	}
}
