package ocsp_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	oracle "golang.org/x/crypto/ocsp"

	"mooring/wire/der"
	"mooring/wire/ocsp"
)

// ca is an issuer with one leaf, made by the standard library.
type ca struct {
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
	leaf   *x509.Certificate
	issuer *ocsp.Issuer
}

func newCA(t testing.TB) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &ca{key: key}
	c.cert = c.issue(t, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Acme CA"}, IsCA: true, BasicConstraintsValid: true}, &key.PublicKey)
	c.leaf = c.issue(t, &x509.Certificate{SerialNumber: big.NewInt(0xfedcba98), Subject: pkix.Name{CommonName: "dev1"}}, &key.PublicKey)
	if c.issuer, err = ocsp.NewIssuer(c.cert.RawSubject, c.cert.RawSubjectPublicKeyInfo); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *ca) issue(t testing.TB, template *x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	t.Helper()
	template.NotBefore, template.NotAfter = time.Unix(1_700_000_000, 0), time.Unix(1_900_000_000, 0)
	parent := c.cert
	if parent == nil {
		parent = template
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, pub, c.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// serial is the content of the leaf's serial number, which has a leading zero.
func (c *ca) serial() []byte { return append([]byte{0}, c.leaf.SerialNumber.Bytes()...) }

func (c *ca) id(t testing.TB, hash crypto.Hash) ocsp.CertID {
	t.Helper()
	id, err := c.issuer.CertID(hash, c.serial())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func signed(t testing.TB, data ocsp.ResponseData, key crypto.Signer, certs ...[]byte) []byte {
	t.Helper()
	tbs, err := ocsp.AppendTBSResponse(nil, data)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := key.Sign(rand.Reader, der.ECDSAWithSHA256.Digest(tbs), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return ocsp.WrapResponse(nil, tbs, der.ECDSAWithSHA256, signature, certs...)
}

func wantError(t *testing.T, err error, words string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), words) {
		t.Fatalf("error %v, want one with %q", err, words)
	}
}

func hashes() []crypto.Hash {
	return []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512}
}

func TestRequestsOfAnotherImplementation(t *testing.T) {
	c, other := newCA(t), newCA(t)
	for _, hash := range hashes() {
		in, err := oracle.CreateRequest(c.leaf, c.cert, &oracle.RequestOptions{Hash: hash})
		if err != nil {
			t.Fatal(err)
		}
		r, err := ocsp.ParseRequest(in)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.IDs) != 1 || r.Nonce != nil || r.Signed {
			t.Fatalf("read %+v", r)
		}
		id := r.IDs[0]
		if id.Hash != hash || !bytes.Equal(id.Serial, c.serial()) || !c.issuer.Issued(id) || other.issuer.Issued(id) {
			t.Errorf("%s: read %+v", hash, id)
		}
		if own := c.id(t, hash); !bytes.Equal(own.Raw, id.Raw) {
			t.Errorf("%s: CertID %x, the oracle's %x", hash, own.Raw, id.Raw)
		}
		out, err := ocsp.AppendRequest(nil, []ocsp.CertID{id}, nil)
		if err != nil || !bytes.Equal(out, in) {
			t.Errorf("%s: request %x, %v; the oracle's %x", hash, out, err, in)
		}
	}
}

func TestRequestRoundTrip(t *testing.T) {
	c := newCA(t)
	nonce := bytes.Repeat([]byte{7}, 32)
	in, err := ocsp.AppendRequest(nil, []ocsp.CertID{c.id(t, crypto.SHA1), c.id(t, crypto.SHA256)}, nonce)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ocsp.ParseRequest(in)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.IDs) != 2 || r.IDs[1].Hash != crypto.SHA256 || !bytes.Equal(r.Nonce, ocsp.NonceValue(nonce)) {
		t.Errorf("read %+v", r)
	}
	for _, path := range []string{ocsp.EncodePath(in), base64.StdEncoding.EncodeToString(in), base64.RawStdEncoding.EncodeToString(in)} {
		if out, err := ocsp.DecodePath(path); err != nil || !bytes.Equal(out, in) {
			t.Errorf("DecodePath(%q) = %x, %v", path, out, err)
		}
	}
	for _, path := range []string{"%zz", "?", "AAA*", "AAAA\n", "AAB=", strings.Repeat("A", 1<<16)} {
		if out, err := ocsp.DecodePath(path); err == nil {
			t.Errorf("DecodePath(%.20q) = %x", path, out)
		}
	}
}

func seq(parts ...[]byte) []byte { return der.AppendElement(nil, 0x30, bytes.Join(parts, nil)) }

func tagged(n byte, parts ...[]byte) []byte {
	return der.AppendElement(nil, 0xa0+n, bytes.Join(parts, nil))
}

// request puts a request together: TBS parts in front of and behind the list.
func request(before []byte, list []byte, after ...[]byte) []byte {
	return seq(seq(before, der.AppendElement(nil, 0x30, list), bytes.Join(after, nil)))
}

func extensions(list ...der.Extension) []byte {
	var content []byte
	for _, e := range list {
		content = e.Append(content)
	}
	return seq(content)
}

const (
	oidNonce der.OID = "\x2b\x06\x01\x05\x05\x07\x30\x01\x02"
	oidSHA1  der.OID = "\x2b\x0e\x03\x02\x1a"
)

func nonceExtension(value []byte) []byte {
	return tagged(2, extensions(der.Extension{OID: oidNonce, Value: value}))
}

func TestParseRequestAccepts(t *testing.T) {
	c := newCA(t)
	single := seq(c.id(t, crypto.SHA1).Raw)
	withoutNull := seq(seq([]byte{6, 5, 0x2b, 0x0e, 3, 2, 0x1a}), der.AppendElement(nil, 4, c.id(t, crypto.SHA1).NameHash), der.AppendElement(nil, 4, c.id(t, crypto.SHA1).KeyHash), []byte{2, 1, 0})
	for _, row := range []struct {
		name  string
		in    []byte
		nonce []byte
	}{
		{"version 1 said", request(tagged(0, []byte{2, 1, 0}), single), nil},
		{"requestor name", request(tagged(1, tagged(4, seq())), single), nil},
		{"signature", seq(seq(seq(single)), tagged(0, seq(seq(), []byte{3, 1, 0}))), nil},
		{"unknown extension", request(nil, single, tagged(2, extensions(der.Extension{OID: "\x2a", Value: []byte{5, 0}}))), nil},
		{"critical nonce", request(nil, single, tagged(2, extensions(der.Extension{OID: oidNonce, Critical: true, Value: ocsp.NonceValue([]byte{1})}))), ocsp.NonceValue([]byte{1})},
		{"service locator", request(nil, seq(c.id(t, crypto.SHA1).Raw, tagged(0, extensions(der.Extension{OID: "\x2b\x06\x01\x05\x05\x07\x30\x01\x07", Critical: true})))), nil},
		{"nonce of 1", request(nil, single, nonceExtension(ocsp.NonceValue([]byte{9}))), ocsp.NonceValue([]byte{9})},
		{"nonce of 128", request(nil, single, nonceExtension(ocsp.NonceValue(make([]byte, 128)))), ocsp.NonceValue(make([]byte, 128))},
		{"bare nonce", request(nil, single, nonceExtension([]byte("old style"))), []byte("old style")},
		{"hash without NULL, serial zero", request(nil, seq(withoutNull)), nil},
		{"32 certificates", request(nil, bytes.Repeat(single, 32)), nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			r, err := ocsp.ParseRequest(row.in)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(r.Nonce, row.nonce) || !c.issuer.Issued(r.IDs[0]) || r.Signed != (row.name == "signature") {
				t.Errorf("read %+v", r)
			}
		})
	}
}

func TestParseRequestRefuses(t *testing.T) {
	c := newCA(t)
	id := c.id(t, crypto.SHA1)
	single := seq(id.Raw)
	good := request(nil, single)
	name, key := der.AppendElement(nil, 4, id.NameHash), der.AppendElement(nil, 4, id.KeyHash)
	sha1 := seq([]byte{6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0})
	critical := der.Extension{OID: "\x2a", Critical: true, Value: []byte{5, 0}}
	for _, row := range []struct {
		name, words string
		in          []byte
	}{
		{"nothing", "malformed", nil},
		{"too long", "octets", make([]byte, ocsp.MaxRequest+1)},
		{"trailing byte", "malformed", append(bytes.Clone(good), 0)},
		{"truncated", "malformed", good[:len(good)-1]},
		{"version 2", "version", request(tagged(0, []byte{2, 1, 1}), single)},
		{"no certificate", "no certificate", request(nil, nil)},
		{"33 certificates", "more than 32", request(nil, bytes.Repeat(single, 33))},
		{"bytes in the single request", "malformed", request(nil, seq(id.Raw, []byte{5, 0}))},
		{"unknown critical extension", "critical", request(nil, single, tagged(2, extensions(critical)))},
		{"unknown critical single extension", "critical", request(nil, seq(id.Raw, tagged(0, extensions(critical))))},
		{"extension twice", "twice", request(nil, single, tagged(2, extensions(der.Extension{OID: oidNonce, Value: []byte{1}}, der.Extension{OID: oidNonce, Value: []byte{1}})))},
		{"nonce of 0", "nonce of 0", request(nil, single, nonceExtension(ocsp.NonceValue(nil)))},
		{"nonce without anything", "nonce of 0", request(nil, single, nonceExtension(nil))},
		{"nonce of 129", "nonce of 129", request(nil, single, nonceExtension(ocsp.NonceValue(make([]byte, 129))))},
		{"bare nonce of 129", "nonce of 129", request(nil, single, nonceExtension(bytes.Repeat([]byte{0xff}, 129)))},
		{"MD5", "hash algorithm", request(nil, seq(seq(seq([]byte{6, 8, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 5}), name, key, []byte{2, 1, 1})))},
		{"hash parameters", "malformed", request(nil, seq(seq(seq([]byte{6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 4, 0}), name, key, []byte{2, 1, 1})))},
		{"short hash", "length", request(nil, seq(seq(sha1, name, []byte{4, 1, 0}, []byte{2, 1, 1})))},
		{"serial of 21", "serial", request(nil, seq(seq(sha1, name, key, der.AppendElement(nil, 2, bytes.Repeat([]byte{1}, 21)))))},
		{"padded serial", "serial", request(nil, seq(seq(sha1, name, key, []byte{2, 2, 0, 1})))},
		{"empty serial", "serial", request(nil, seq(seq(sha1, name, key, []byte{2, 0})))},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := ocsp.ParseRequest(row.in)
			wantError(t, err, row.words)
		})
	}
}

func TestResponsesReadByAnotherImplementation(t *testing.T) {
	c := newCA(t)
	for _, hash := range hashes() {
		for _, single := range []ocsp.Single{
			{Status: ocsp.Good, ThisUpdate: 1_700_000_000, NextUpdate: 1_700_600_000},
			{Status: ocsp.Good, ThisUpdate: 1_700_000_000},
			{Status: ocsp.Unknown, ThisUpdate: 1_700_000_000, NextUpdate: 4_000_000_000},
			{Status: ocsp.Revoked, RevokedAt: 1_600_000_000, Reason: 1, ThisUpdate: 1_700_000_000, NextUpdate: 1_700_600_000},
			{Status: ocsp.Revoked, RevokedAt: 0, Reason: 0, ThisUpdate: 1_700_000_000},
		} {
			single.ID = c.id(t, hash)
			in := signed(t, ocsp.ResponseData{
				Responder: c.issuer.KeyHash(), ProducedAt: 1_700_000_100, Singles: []ocsp.Single{single},
				Nonce: ocsp.NonceValue([]byte{1, 2}), ExtendedRevoke: true,
			}, c.key)

			std, err := oracle.ParseResponseForCert(in, c.leaf, c.cert)
			if err != nil {
				t.Fatal(err)
			}
			want := map[ocsp.CertStatus]int{ocsp.Good: oracle.Good, ocsp.Unknown: oracle.Unknown, ocsp.Revoked: oracle.Revoked}[single.Status]
			if std.Status != want || std.ThisUpdate.Unix() != single.ThisUpdate || std.ProducedAt.Unix() != 1_700_000_100 || std.IssuerHash != hash {
				t.Errorf("the oracle reads %+v of %+v", std, single)
			}
			if single.NextUpdate != 0 && std.NextUpdate.Unix() != single.NextUpdate {
				t.Errorf("the oracle reads next update %v of %+v", std.NextUpdate, single)
			}
			if single.Status == ocsp.Revoked && (std.RevokedAt.Unix() != single.RevokedAt || std.RevocationReason != single.Reason) {
				t.Errorf("the oracle reads %+v of %+v", std, single)
			}

			r, err := ocsp.ParseResponse(in)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.CheckSignature(c.cert.PublicKey); err != nil {
				t.Error(err)
			}
			got, ok := r.Find(single.ID)
			if !ok || got.Status != single.Status || got.RevokedAt != single.RevokedAt || got.Reason != single.Reason ||
				got.ThisUpdate != single.ThisUpdate || got.NextUpdate != single.NextUpdate {
				t.Errorf("read %+v, %v; want %+v", got, ok, single)
			}
			if key := c.issuer.KeyHash(); !bytes.Equal(r.ResponderKey, key[:]) || !bytes.Equal(r.Nonce, ocsp.NonceValue([]byte{1, 2})) {
				t.Errorf("read %+v", r)
			}
			r.Signature[8] ^= 1
			if err := r.CheckSignature(c.cert.PublicKey); !errors.Is(err, der.ErrSignature) {
				t.Errorf("changed signature: %v", err)
			}
		}
	}
}

func TestDelegatedSigner(t *testing.T) {
	c := newCA(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer := c.issue(t, &x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "OCSP"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}}, &key.PublicKey)
	self, err := ocsp.NewIssuer(signer.RawSubject, signer.RawSubjectPublicKeyInfo)
	if err != nil {
		t.Fatal(err)
	}
	data := ocsp.ResponseData{Responder: self.KeyHash(), ProducedAt: 1_700_000_000, Singles: []ocsp.Single{
		{ID: c.id(t, crypto.SHA256), Status: ocsp.Good, ThisUpdate: 1_700_000_000},
		{ID: c.id(t, crypto.SHA1), Status: ocsp.Unknown, ThisUpdate: 1_700_000_000},
	}}
	in := signed(t, data, key, signer.Raw)
	if _, err := oracle.ParseResponseForCert(in, c.leaf, c.cert); err != nil {
		t.Errorf("the oracle: %v", err)
	}
	r, err := ocsp.ParseResponse(in)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Certs) != 1 || !bytes.Equal(r.Certs[0], signer.Raw) || len(r.Singles) != 2 {
		t.Errorf("read %+v", r)
	}
	if err := r.CheckSignature(c.cert.PublicKey); !errors.Is(err, der.ErrSignature) {
		t.Errorf("the CA's key fits a delegate's signature: %v", err)
	}
	if err := r.CheckSignature(signer.PublicKey); err != nil {
		t.Error(err)
	}
}

func TestResponsesOfAnotherImplementation(t *testing.T) {
	c := newCA(t)
	in, err := oracle.CreateResponse(c.cert, c.cert, oracle.Response{
		Status: oracle.Revoked, SerialNumber: c.leaf.SerialNumber, RevokedAt: time.Unix(1_600_000_000, 0), RevocationReason: oracle.Superseded,
		ThisUpdate: time.Unix(1_700_000_000, 0), NextUpdate: time.Unix(1_700_600_000, 0), IssuerHash: crypto.SHA256,
	}, c.key)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ocsp.ParseResponse(in)
	if err != nil {
		t.Fatal(err)
	}
	got, ok := r.Find(c.id(t, crypto.SHA256))
	if !ok || got.Status != ocsp.Revoked || got.RevokedAt != 1_600_000_000 || got.Reason != 4 || !bytes.Equal(r.ResponderName, c.cert.RawSubject) {
		t.Errorf("read %+v, %v, by %x", got, ok, r.ResponderName)
	}
	if err := r.CheckSignature(c.cert.PublicKey); err != nil {
		t.Error(err)
	}
}

func TestErrorResponses(t *testing.T) {
	for _, status := range []ocsp.Status{ocsp.MalformedRequest, ocsp.InternalError, ocsp.TryLater, ocsp.SigRequired, ocsp.Unauthorized} {
		in := ocsp.ErrorResponse(status)
		var std oracle.ResponseError
		if _, err := oracle.ParseResponse(in, nil); !errors.As(err, &std) || int(std.Status) != int(status) {
			t.Errorf("the oracle reads %s as %v", status, err)
		}
		r, err := ocsp.ParseResponse(in)
		if err != nil || r.Status != status || strings.HasPrefix(status.String(), "status") {
			t.Fatalf("%s: read %+v, %v", status, r, err)
		}
		wantError(t, r.CheckSignature(nil), "not signed")
	}
}

func TestAppendTBSResponseRefuses(t *testing.T) {
	id := newCA(t).id(t, crypto.SHA1)
	good := ocsp.Single{ID: id, Status: ocsp.Good, ThisUpdate: 10}
	for _, row := range []struct {
		words  string
		change func(*ocsp.ResponseData)
	}{
		{"0 certificates", func(d *ocsp.ResponseData) { d.Singles = nil }},
		{"33 certificates", func(d *ocsp.ResponseData) { d.Singles = make([]ocsp.Single, 33) }},
		{"produced before", func(d *ocsp.ResponseData) { d.ProducedAt = 9 }},
		{"next update", func(d *ocsp.ResponseData) { d.Singles[0].NextUpdate = 9 }},
		{"without a CertID", func(d *ocsp.ResponseData) { d.Singles[0].ID = ocsp.CertID{} }},
		{"certificate status", func(d *ocsp.ResponseData) { d.Singles[0].Status = 0 }},
		{"revocation reason", func(d *ocsp.ResponseData) { d.Singles[0].Status, d.Singles[0].Reason = ocsp.Revoked, 7 }},
		{"time outside", func(d *ocsp.ResponseData) { d.ProducedAt = der.NoExpiry + 1 }},
		{"time outside", func(d *ocsp.ResponseData) { d.Singles[0].Status, d.Singles[0].RevokedAt = ocsp.Revoked, -1<<62 }},
	} {
		data := ocsp.ResponseData{ProducedAt: 10, Singles: []ocsp.Single{good}}
		row.change(&data)
		_, err := ocsp.AppendTBSResponse(nil, data)
		wantError(t, err, row.words)
	}
}

func TestParseResponseRefuses(t *testing.T) {
	c := newCA(t)
	good := signed(t, ocsp.ResponseData{ProducedAt: 1_700_000_000, Singles: []ocsp.Single{{ID: c.id(t, crypto.SHA1), Status: ocsp.Good, ThisUpdate: 1_700_000_000}}}, c.key)
	replace := func(old, new string) []byte {
		t.Helper()
		if !bytes.Contains(good, []byte(old)) {
			t.Fatalf("response %x has no %q", good, old)
		}
		return bytes.Replace(good, []byte(old), []byte(new), 1)
	}
	for _, row := range []struct {
		name, words string
		in          []byte
	}{
		{"nothing", "malformed", nil},
		{"too long", "octets", make([]byte, ocsp.MaxResponse+1)},
		{"trailing byte", "malformed", append(bytes.Clone(good), 0)},
		{"truncated", "malformed", good[:len(good)-1]},
		{"successful without content", "malformed", ocsp.ErrorResponse(ocsp.Successful)},
		{"other type", "type other than basic", replace("\x2b\x06\x01\x05\x05\x07\x30\x01\x01", "\x2b\x06\x01\x05\x05\x07\x30\x01\x02")},
		{"unsuccessful with content", "unsuccessful", replace("\x0a\x01\x00", "\x0a\x01\x03")},
		{"no such month", "malformed", replace("20231114221320Z", "20231314221320Z")},
		{"status of another kind", "malformed", replace("\x80\x00\x18", "\x83\x00\x18")},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := ocsp.ParseResponse(row.in)
			wantError(t, err, row.words)
		})
	}
}

func FuzzParseRequest(f *testing.F) {
	c := newCA(f)
	in, err := ocsp.AppendRequest(nil, []ocsp.CertID{c.id(f, crypto.SHA1), c.id(f, crypto.SHA256)}, []byte{1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(in)
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := ocsp.ParseRequest(in)
		if err != nil {
			return
		}
		out, err := ocsp.AppendRequest(nil, r.IDs, nil)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ocsp.ParseRequest(out); err != nil || len(again.IDs) != len(r.IDs) {
			t.Fatalf("round trip of %+v gives %+v, %v", r, again, err)
		}
	})
}

func FuzzParseResponse(f *testing.F) {
	c := newCA(f)
	f.Add(signed(f, ocsp.ResponseData{ProducedAt: 1, Nonce: []byte{1}, Singles: []ocsp.Single{
		{ID: c.id(f, crypto.SHA1), Status: ocsp.Revoked, Reason: 1, RevokedAt: 1, ThisUpdate: 1, NextUpdate: 2},
	}}, c.key, c.cert.Raw))
	f.Add(ocsp.ErrorResponse(ocsp.TryLater))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := ocsp.ParseResponse(in)
		if err != nil {
			return
		}
		_ = r.CheckSignature(&c.key.PublicKey) // must not panic
		for _, single := range r.Singles {
			if single.Status < ocsp.Good || single.Status > ocsp.Unknown {
				t.Fatalf("a certificate without a status: %+v", single)
			}
		}
	})
}

func FuzzDecodePath(f *testing.F) {
	f.Add("MEI%2FAA%3D%3D")
	f.Add("AAA=")
	f.Fuzz(func(t *testing.T, path string) {
		in, err := ocsp.DecodePath(path)
		if err != nil {
			return
		}
		if again, err := ocsp.DecodePath(ocsp.EncodePath(in)); err != nil || !bytes.Equal(again, in) {
			t.Fatalf("round trip of %q gives %x, not %x, %v", path, again, in, err)
		}
	})
}

// The price of an answer beside its signature.
func BenchmarkAnswer(b *testing.B) {
	c := newCA(b)
	in, err := oracle.CreateRequest(c.leaf, c.cert, nil)
	if err != nil {
		b.Fatal(err)
	}
	signature := make([]byte, 71)
	buffer := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		r, err := ocsp.ParseRequest(in)
		if err != nil || !c.issuer.Issued(r.IDs[0]) {
			b.Fatal(err)
		}
		tbs, err := ocsp.AppendTBSResponse(buffer, ocsp.ResponseData{Responder: c.issuer.KeyHash(), ProducedAt: 2, Singles: []ocsp.Single{{ID: r.IDs[0], Status: ocsp.Good, ThisUpdate: 1, NextUpdate: 3}}})
		if err != nil {
			b.Fatal(err)
		}
		ocsp.WrapResponse(nil, tbs, der.ECDSAWithSHA256, signature)
	}
}

func TestPlain(t *testing.T) {
	c := newCA(t)
	id := c.id(t, crypto.SHA256)
	single := seq(id.Raw)
	for _, row := range []struct {
		name string
		in   []byte
		want bool
	}{
		{"one certificate", request(nil, single), true},
		{"nothing", nil, false},
		{"two certificates", request(nil, bytes.Repeat(single, 2)), false},
		{"no certificate", request(nil, nil), false},
		{"version", request(tagged(0, []byte{2, 1, 0}), single), false},
		{"requestor", request(tagged(1, tagged(4, seq())), single), false},
		{"nonce", request(nil, single, nonceExtension(ocsp.NonceValue([]byte{1}))), false},
		{"single extension", request(nil, seq(id.Raw, tagged(0, extensions(der.Extension{OID: "\x2a"})))), false},
		{"signature", seq(seq(seq(single)), tagged(0, seq())), false},
		{"trailing octet", append(request(nil, single), 0), false},
		{"too long", request(nil, seq(seq(make([]byte, ocsp.MaxRequest)))), false},
	} {
		if got, ok := ocsp.Plain(row.in); ok != row.want || ok && !bytes.Equal(got, id.Raw) {
			t.Errorf("%s: Plain = %x, %v, want %v", row.name, got, ok, row.want)
		}
	}
	in := request(nil, single)
	if n := testing.AllocsPerRun(100, func() { ocsp.Plain(in) }); n > 0 {
		t.Errorf("Plain allocates %v times", n)
	}
}

// FuzzPlain holds Plain to ParseRequest: what one takes for the question about a single certificate, the other must read the same.
func FuzzPlain(f *testing.F) {
	c := newCA(f)
	in, err := ocsp.AppendRequest(nil, []ocsp.CertID{c.id(f, crypto.SHA1)}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(in)
	f.Fuzz(func(t *testing.T, in []byte) {
		id, plain := ocsp.Plain(in)
		r, err := ocsp.ParseRequest(in)
		if err != nil {
			return
		}
		if plain && (len(r.IDs) != 1 || r.Nonce != nil || r.Signed || !bytes.Equal(r.IDs[0].Raw, id)) {
			t.Fatalf("%x is plain, but read as %+v", in, r)
		}
		again, err := ocsp.AppendRequest(nil, r.IDs, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.IDs) == 1 && bytes.Equal(again, in) && !plain {
			t.Fatalf("%x is not plain", in)
		}
	})
}

// FuzzRequestFields puts anything into each field of a request, which random octets reach too seldom.
func FuzzRequestFields(f *testing.F) {
	c := newCA(f)
	id := c.id(f, crypto.SHA1)
	f.Add([]byte{0}, []byte("requestor"), []byte(oidSHA1), []byte{5, 0}, id.NameHash, id.KeyHash, c.serial(), []byte(oidNonce), true, ocsp.NonceValue([]byte{1}), []byte{}, byte(0x7f))
	f.Add([]byte{}, []byte{}, []byte("\x60\x86\x48\x01\x65\x03\x04\x02\x01"), []byte{}, make([]byte, 32), make([]byte, 32), []byte{0}, []byte("\x2a"), false, []byte{}, []byte{1}, byte(0))
	f.Fuzz(func(t *testing.T, version, requestor, hash, parameters, name, key, serial, extension []byte, critical bool, value, signature []byte, parts byte) {
		algorithm := seq(der.AppendElement(nil, 6, hash), parameters)
		single := seq(seq(algorithm, der.AppendElement(nil, 4, name), der.AppendElement(nil, 4, key), der.AppendElement(nil, 2, serial)))
		e := extensions(der.Extension{OID: der.OID(extension), Critical: critical, Value: value})
		var before, after []byte
		if parts&1 > 0 {
			before = append(before, tagged(0, der.AppendElement(nil, 2, version))...)
		}
		if parts&2 > 0 {
			before = append(before, tagged(1, tagged(4, requestor))...)
		}
		if parts&4 > 0 {
			single = seq(single[2:], tagged(0, e))
		}
		if parts&8 > 0 {
			after = tagged(2, e)
		}
		in := request(before, bytes.Repeat(single, int(parts>>5)), after)
		if parts&16 > 0 {
			in = seq(in[2:], tagged(0, signature))
		}
		r, err := ocsp.ParseRequest(in)
		if err != nil {
			return
		}
		if len(r.IDs) == 0 || len(r.IDs) > ocsp.MaxCertIDs || len(r.Nonce) > ocsp.MaxNonce+3 || r.Nonce != nil && len(r.Nonce) == 0 {
			t.Fatalf("read %+v", r)
		}
		for _, id := range r.IDs {
			if len(id.NameHash) != id.Hash.Size() || len(id.KeyHash) != id.Hash.Size() || len(id.Serial) == 0 || len(id.Serial) > 20 || !bytes.Contains(in, id.Raw) {
				t.Fatalf("CertID %+v", id)
			}
			single := ocsp.Single{ID: id, Status: ocsp.Good, ThisUpdate: 1, NextUpdate: 2}
			tbs, err := ocsp.AppendTBSResponse(nil, ocsp.ResponseData{ProducedAt: 1, Singles: []ocsp.Single{single}, Nonce: r.Nonce})
			if err != nil {
				t.Fatal(err)
			}
			answer, err := ocsp.ParseResponse(ocsp.WrapResponse(nil, tbs, der.ECDSAWithSHA256, make([]byte, 71)))
			if err != nil || !bytes.Equal(answer.Nonce, r.Nonce) {
				t.Fatalf("the answer to %x is %+v, %v", in, answer, err)
			}
			if _, ok := answer.Find(id); !ok {
				t.Fatalf("the answer does not repeat CertID %x", id.Raw)
			}
		}
	})
}

func TestResponderByName(t *testing.T) {
	c := newCA(t)
	in := signed(t, ocsp.ResponseData{ResponderName: c.cert.RawSubject, ProducedAt: 1_700_000_000, Singles: []ocsp.Single{{ID: c.id(t, crypto.SHA1), Status: ocsp.Good, ThisUpdate: 1_700_000_000}}}, c.key)
	r, err := ocsp.ParseResponse(in)
	if err != nil || !bytes.Equal(r.ResponderName, c.cert.RawSubject) || r.ResponderKey != nil {
		t.Errorf("read %+v, %v", r, err)
	}
	parsed, err := oracle.ParseResponse(in, c.cert)
	if err != nil || !bytes.Equal(parsed.RawResponderName, c.cert.RawSubject) {
		t.Errorf("the oracle reads %+v, %v", parsed, err)
	}
}
