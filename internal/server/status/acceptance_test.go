package status

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"

	xocsp "golang.org/x/crypto/ocsp"

	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
	"mooring/wire/ocsp"
)

// successor makes the CA that takes the place of devices.
func (w *world) successor(t *testing.T) {
	t.Helper()
	subject, err := der.ParseDN("O=Acme, CN=Acme devices 2")
	must(t, err)
	_, err = w.ca.Create(t.Context(), admin, ca.Spec{Name: "devices-2", Parent: "root", Subject: subject, Algorithm: key.P256, Validity: 86400 * 365})
	must(t, err)
}

// TestAcceptance has a row for each case of the acceptance list of OCSP and CRLs, over HTTP. Those in which time passes are package revoke's.
func TestAcceptance(t *testing.T) {
	w := newWorld(t)
	leaf, _ := w.issue(t, "pump")
	other, _ := w.issue(t, "valve")
	devices := w.issuer(t, "devices")
	unknown := new(big.Int).SetBytes(append([]byte{0x41}, make([]byte, 15)...))
	typed := []string{"Content-Type", "application/ocsp-request"}
	// ask posts a question and reads the answer, whose signature it checks; what comes with every answer is checked as well.
	ask := func(t *testing.T, q []byte) (*ocsp.Response, http.Header) {
		t.Helper()
		r, body := w.do(t, "POST", "/ocsp", q, typed...)
		parsed, err := ocsp.ParseResponse(body)
		if err != nil || r.StatusCode != 200 || r.Header.Get("Content-Type") != "application/ocsp-response" {
			t.Fatalf("got %d %v: %v", r.StatusCode, r.Header, err)
		}
		if parsed.Status == ocsp.Successful && len(parsed.Certs) == 0 {
			must(t, parsed.CheckSignature(devices.PublicKey()))
		}
		return parsed, r.Header
	}
	element := func(tag byte, parts ...[]byte) []byte { return der.AppendElement(nil, tag, bytes.Join(parts, nil)) }
	q := w.question(t, crypto.SHA256, nil, leaf.SerialNumber)
	id, plain := ocsp.Plain(q)
	if !plain {
		t.Fatal("a plain question is none")
	}
	list := element(0x30, element(0x30, id)) // the part of a question that says which
	entryOf := func(l *x509.RevocationList, serial *big.Int) *x509.RevocationListEntry {
		for i := range l.RevokedCertificateEntries {
			if l.RevokedCertificateEntries[i].SerialNumber.Cmp(serial) == 0 {
				return &l.RevokedCertificateEntries[i]
			}
		}
		return nil
	}
	// crl fetches a list and checks its signature by the CA of this name.
	crl := func(t *testing.T, path, name string) *x509.RevocationList {
		t.Helper()
		r, body := w.do(t, "GET", path, nil)
		l, err := x509.ParseRevocationList(body)
		if err != nil || r.StatusCode != 200 || r.Header.Get("Content-Type") != "application/pkix-crl" {
			t.Fatalf("%s: got %d %v: %v", path, r.StatusCode, r.Header, err)
		}
		must(t, l.CheckSignatureFrom(w.issuer(t, name).Certificate()))
		return l
	}
	extension := func(l *x509.RevocationList, oid string) (value []byte, critical bool) {
		for _, e := range l.Extensions {
			if e.Id.String() == oid {
				return e.Value, e.Critical
			}
		}
		return nil, false
	}
	const point, base = "2.5.29.28", "2.5.29.27"

	for _, row := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"SHA-1 and SHA-256 CertID", func(t *testing.T) {
			for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
				q := w.question(t, hash, nil, leaf.SerialNumber)
				asked, _ := ocsp.Plain(q)
				r, _ := ask(t, q)
				if len(r.Singles) != 1 || r.Singles[0].Status != ocsp.Good || !bytes.Equal(r.Singles[0].ID.Raw, asked) {
					t.Errorf("%v: got %+v, want good for the CertID as it was asked", hash, r.Singles)
				}
			}
		}},
		{"several CertIDs", func(t *testing.T) {
			r, _ := ask(t, w.question(t, crypto.SHA1, nil, leaf.SerialNumber, unknown, other.SerialNumber))
			if len(r.Singles) != 3 || r.Singles[0].Status != ocsp.Good || r.Singles[1].Status != ocsp.Unknown || r.Singles[2].Status != ocsp.Good {
				t.Errorf("got %+v, want one for each, in their order", r.Singles)
			}
		}},
		{"wrong issuer hash: unauthorized", func(t *testing.T) {
			for _, at := range []int{40, 75} { // in the hash of the name, and of the key
				strange := bytes.Clone(q)
				strange[at] ^= 1
				if r, _ := ask(t, strange); r.Status != ocsp.Unauthorized {
					t.Errorf("octet %d: got %s", at, r.Status)
				}
			}
		}},
		{"unknown serial: unknown", func(t *testing.T) {
			if r, _ := ask(t, w.question(t, crypto.SHA256, nil, unknown)); r.Singles[0].Status != ocsp.Unknown {
				t.Errorf("got %+v", r.Singles[0])
			}
		}},
		{"unknown serial, strict mode: revoked since 1970", func(t *testing.T) {
			w.revoke.Deps.OCSP.Strict = true
			defer func() { w.revoke.Deps.OCSP.Strict = false }()
			r, _ := ask(t, w.question(t, crypto.SHA256, nil, unknown))
			if s := r.Singles[0]; s.Status != ocsp.Revoked || s.Reason != int(revoke.CertificateHold) || s.RevokedAt != 0 {
				t.Errorf("got %+v", s)
			}
			if extended := []byte("\x2b\x06\x01\x05\x05\x07\x30\x01\x09"); !bytes.Contains(r.RawTBS, extended) {
				t.Error("the answer has no extended-revoke (RFC 6960, section 4.4.8)")
			}
		}},
		{"nonce 0 or > 128 octets: malformedRequest", func(t *testing.T) {
			for _, n := range []int{0, 129, 1000} {
				value := ocsp.NonceValue(make([]byte, n))
				extensions := element(0x30, der.Extension{OID: "\x2b\x06\x01\x05\x05\x07\x30\x01\x02", Value: value}.Append(nil))
				if r, _ := ask(t, element(0x30, element(0x30, list, element(0xa2, extensions)))); r.Status != ocsp.MalformedRequest {
					t.Errorf("%d octets: got %s", n, r.Status)
				}
			}
		}},
		{"nonce of 1 to 128 octets accepted and echoed exactly", func(t *testing.T) {
			for _, n := range []int{1, 16, 32, 33, 128} {
				nonce := bytes.Repeat([]byte{0x80}, n)
				r, h := ask(t, w.question(t, crypto.SHA256, nonce, leaf.SerialNumber))
				if !bytes.Equal(r.Nonce, ocsp.NonceValue(nonce)) || h.Get("Cache-Control") != "no-store" {
					t.Errorf("%d octets: got %x, %v", n, r.Nonce, h)
				}
			}
		}},
		{"nonce absent when not sent", func(t *testing.T) {
			if r, _ := ask(t, q); r.Status != ocsp.Successful || r.Nonce != nil {
				t.Errorf("got %s with the nonce %x", r.Status, r.Nonce)
			}
		}},
		{"requestorName tolerated", func(t *testing.T) {
			name := element(0xa1, element(0xa4, element(0x30)))
			if r, _ := ask(t, element(0x30, element(0x30, name, list))); r.Status != ocsp.Successful || r.Singles[0].Status != ocsp.Good {
				t.Errorf("got %+v", r)
			}
		}},
		{"signed requests tolerated", func(t *testing.T) {
			signature := element(0xa0, element(0x30, element(0x30, []byte("\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02")), []byte{3, 2, 0, 1}))
			if r, _ := ask(t, element(0x30, element(0x30, list), signature)); r.Status != ocsp.Successful || r.Singles[0].Status != ocsp.Good {
				t.Errorf("got %+v", r)
			}
		}},
		{"GET with %2F, %2B, raw / +, //, and POST", func(t *testing.T) {
			// A question with all of these in its base64; its certificate is unknown.
			serial := new(big.Int).SetBytes(append([]byte{0x41}, bytes.Repeat([]byte{0xff}, 15)...))
			odd := w.question(t, crypto.SHA256, nil, serial)
			for shift := 0; !strings.Contains(base64.StdEncoding.EncodeToString(odd), "+"); shift++ {
				serial = new(big.Int).SetBytes(append([]byte{0x41, byte(shift), 0xfb, 0xef, 0xbe}, bytes.Repeat([]byte{0xff}, 11)...))
				odd = w.question(t, crypto.SHA256, nil, serial)
			}
			text := base64.StdEncoding.EncodeToString(odd)
			if !strings.Contains(text, "//") || !strings.Contains(text, "+") {
				t.Fatalf("the question %s shows nothing", text)
			}
			for name, path := range map[string]string{"raw / + and //": text, "%2F and %2B": url.QueryEscape(text), "as ours": ocsp.EncodePath(odd)} {
				r, body := w.do(t, "GET", "/ocsp/"+path, nil)
				parsed, err := ocsp.ParseResponse(body)
				if err != nil || r.StatusCode != 200 || len(parsed.Singles) != 1 || parsed.Singles[0].Status != ocsp.Unknown {
					t.Errorf("%s: got %d, %+v, %v", name, r.StatusCode, parsed, err)
				}
			}
			if r, _ := ask(t, odd); len(r.Singles) != 1 || r.Singles[0].Status != ocsp.Unknown {
				t.Errorf("POST: got %+v", r)
			}
		}},
		{"wrong content type", func(t *testing.T) {
			_, body := w.do(t, "POST", "/ocsp", q, "Content-Type", "text/plain")
			if r, err := ocsp.ParseResponse(body); err != nil || r.Status != ocsp.MalformedRequest {
				t.Errorf("got %+v, %v", r, err)
			}
		}},
		{"right content type even on errors", func(t *testing.T) {
			for _, body := range [][]byte{nil, []byte("noise"), make([]byte, ocsp.MaxRequest+1), append(bytes.Clone(q), 0)} {
				if r, h := ask(t, body); r.Status != ocsp.MalformedRequest || h.Get("Cache-Control") != "no-store" {
					t.Errorf("%d octets: got %s, %v", len(body), r.Status, h)
				}
			}
		}},
		{"nextUpdate and caching headers", func(t *testing.T) {
			r, body := w.do(t, "GET", "/ocsp/"+ocsp.EncodePath(q), nil)
			parsed, err := xocsp.ParseResponse(body, devices.Certificate())
			must(t, err)
			var age int
			_, err = fmt.Sscanf(r.Header.Get("Cache-Control"), "max-age=%d, public, no-transform, must-revalidate", &age)
			if err != nil || age <= 0 || !parsed.NextUpdate.After(parsed.ThisUpdate) || r.Header.Get("ETag") == "" ||
				r.Header.Get("Expires") != parsed.NextUpdate.UTC().Format(http.TimeFormat) || r.Header.Get("Last-Modified") != parsed.ThisUpdate.UTC().Format(http.TimeFormat) {
				t.Errorf("%s to %s, %v: %v", parsed.ThisUpdate, parsed.NextUpdate, r.Header, err)
			}
		}},

		{"empty CRL, AKI", func(t *testing.T) {
			l := crl(t, "/crl/devices.crl", "devices")
			if len(l.RevokedCertificateEntries) != 0 || !bytes.Equal(l.AuthorityKeyId, devices.Certificate().SubjectKeyId) || bytes.Contains(l.RawTBSRevocationList, []byte{0x30, 0}) {
				t.Errorf("%d entries, AKI %x: an empty list has no revokedCertificates (RFC 5280, section 5.1.2.6)", len(l.RevokedCertificateEntries), l.AuthorityKeyId)
			}
		}},
		{"CRL number monotonic, reason codes, hold/release", func(t *testing.T) {
			before := crl(t, "/crl/devices.crl", "devices")
			step := func(what string, do func() error, want int) { // -1: no entry
				t.Helper()
				must(t, do())
				l := crl(t, "/crl/devices.crl", "devices")
				e := entryOf(l, other.SerialNumber)
				if l.Number.Cmp(before.Number) <= 0 || (e != nil) != (want >= 0) || e != nil && e.ReasonCode != want {
					t.Errorf("%s: list %d after %d says %+v, want the reason %d", what, l.Number, before.Number, e, want)
				}
				before = l
			}
			serial := other.SerialNumber.Bytes()
			step("hold", func() error {
				_, err := w.revoke.Certificate(t.Context(), admin, serial, revoke.CertificateHold)
				return err
			}, 6)
			step("release", func() error { _, err := w.revoke.Release(t.Context(), admin, serial); return err }, -1)
			step("revocation", func() error {
				_, err := w.revoke.Certificate(t.Context(), admin, serial, revoke.CessationOfOperation)
				return err
			}, 5)
			if r, _ := ask(t, w.question(t, crypto.SHA1, nil, other.SerialNumber)); r.Singles[0].Status != ocsp.Revoked || r.Singles[0].Reason != 5 {
				t.Errorf("OCSP says %+v", r.Singles[0])
			}
		}},
		{"IDP critical for shards", func(t *testing.T) {
			path := strings.TrimPrefix(leaf.CRLDistributionPoints[0], w.url)
			value, critical := extension(crl(t, path, "devices"), point)
			if scoped := strings.Count(path, "/") == 3; scoped != (value != nil) || scoped && (!critical || !bytes.Contains(value, []byte(leaf.CRLDistributionPoints[0]))) {
				t.Errorf("%s: the scope is %q, critical: %v", path, value, critical)
			}
			subject, err := der.ParseDN("O=Acme, CN=Acme sharded")
			must(t, err)
			sharded, err := w.ca.Create(t.Context(), admin, ca.Spec{Name: "sharded", Parent: "root", Subject: subject, Algorithm: key.P256, Validity: 86400 * 365, Shards: 4})
			must(t, err)
			for shard := range int64(4) {
				address := w.ca.CRLAddress(sharded.ID(), shard)
				value, critical := extension(crl(t, strings.TrimPrefix(address, w.url), "sharded"), point)
				if !critical || !bytes.Contains(value, []byte(address)) {
					t.Errorf("shard %d: the scope is %q, critical: %v, want %s", shard, value, critical, address)
				}
			}
			if value, _ := extension(crl(t, "/crl/sharded.crl", "sharded"), point); value != nil {
				t.Errorf("the complete list has the scope %x", value)
			}
		}},
		{"delta", func(t *testing.T) {
			w.revoke.DeltaLists = true
			defer func() { w.revoke.DeltaLists = false }()
			l := crl(t, "/crl/devices.delta.crl", "devices")
			if value, critical := extension(l, base); value == nil || !critical {
				t.Errorf("the base is %x, critical: %v", value, critical)
			}
		}},
		{"delegated responder with ocsp-nocheck, same issuing key, after rollover", func(t *testing.T) {
			w := newWorld(t) // who answers for a CA is settled at its first question
			w.revoke.Deps.OCSP.Mode = func(string) revoke.Mode { return revoke.Delegated }
			w.successor(t)
			fresh, _ := w.issue(t, "late")
			for name, serial := range map[string]*big.Int{"devices": fresh.SerialNumber, "devices-2": unknown} {
				issuer := w.issuer(t, name).Certificate()
				ids, err := ocsp.NewIssuer(issuer.RawSubject, issuer.RawSubjectPublicKeyInfo)
				must(t, err)
				id, err := ids.CertID(crypto.SHA256, serial.Bytes())
				must(t, err)
				question, err := ocsp.AppendRequest(nil, []ocsp.CertID{id}, nil)
				must(t, err)
				_, body := w.do(t, "POST", "/ocsp", question, typed...)
				parsed, err := xocsp.ParseResponse(body, issuer) // which wants the signer to be signed by this key
				if err != nil || parsed.Certificate == nil {
					t.Fatalf("%s: %+v, %v", name, parsed, err)
				}
				nocheck := false
				for _, e := range parsed.Certificate.Extensions {
					nocheck = nocheck || e.Id.String() == "1.3.6.1.5.5.7.48.1.5" && !e.Critical && bytes.Equal(e.Value, []byte{5, 0})
				}
				if u := parsed.Certificate.ExtKeyUsage; !nocheck || len(u) != 1 || u[0] != x509.ExtKeyUsageOCSPSigning {
					t.Errorf("%s: the signer has the usages %v, and ocsp-nocheck: %v", name, u, nocheck)
				}
			}
		}},
		{"CRL signature by rolled key", func(t *testing.T) {
			w.successor(t)
			for _, name := range []string{"devices", "devices-2"} { // crl checks by the key of the one named
				if l := crl(t, "/crl/"+name+".crl", name); !bytes.Equal(l.AuthorityKeyId, w.issuer(t, name).Certificate().SubjectKeyId) {
					t.Errorf("%s: AKI %x", name, l.AuthorityKeyId)
				}
			}
		}},
	} {
		t.Run(row.name, row.run)
	}
}
