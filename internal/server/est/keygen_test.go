package est_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"

	"mooring/internal/app/apptest"
	"mooring/internal/core/enrol"
	"mooring/wire/cms"
	"mooring/wire/der"
	"mooring/wire/est"
)

// OIDs of the attributes by which a request asks for encryption (RFC 7030, section 4.4.1).
const (
	decryptKeyID           = der.OID("\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x02\x25")
	asymmetricDecryptKeyID = der.OID("\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x02\x36")
	smimeCapabilities      = der.OID("\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0f")
)

// generated checks the form of a key generation's answer and returns its parts.
func generated(t *testing.T, r apptest.Reply) (est.Keygen, *x509.Certificate) {
	t.Helper()
	if r.StatusCode != 200 {
		t.Fatalf("got %s, want a key", r)
	}
	wantFraming(t, r)
	if r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("Cache-Control: %q, want no-store", r.Header.Get("Cache-Control"))
	}
	if bare := bytes.ReplaceAll(r.Text, []byte("\r\n"), nil); bytes.ContainsAny(bare, "\r\n") {
		t.Error("a line does not end in CRLF")
	}
	for _, line := range strings.Split(string(r.Text), "\r\n") {
		if len(line) > 64 && !strings.Contains(line, ":") && !strings.HasPrefix(line, "--") {
			t.Errorf("a line has %d characters, want at most 64", len(line))
		}
	}
	k, err := est.ParseKeygen(r.Text, r.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	certs, err := cms.ParseCertsOnly(k.Certificates)
	if err != nil || len(certs) != 1 {
		t.Fatalf("%d certificates, %v", len(certs), err)
	}
	cert, err := x509.ParseCertificate(certs[0])
	if err != nil {
		t.Fatal(err)
	}
	return k, cert
}

func wantKeyOf(t *testing.T, cert *x509.Certificate, pkcs8 []byte) {
	t.Helper()
	key, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		t.Fatal(err)
	}
	pub, ok := key.(crypto.Signer).Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(cert.PublicKey) {
		t.Error("the key is not the certificate's")
	}
}

func TestPlainKey(t *testing.T) {
	p := apptest.Start(t, nil)
	f := &fresh{p: p, profile: "device"}
	call := f.call(t, keygen)
	// Key and signature of the request mean nothing: RFC 7030, section 4.4.1.
	csr := mustDecode(t, call.Body)
	csr[len(csr)-1] ^= 1
	call.Body = apptest.Body(csr)
	t.Run("serverkeygen plain, CSR key ignored, CRLF multipart, no-store", func(t *testing.T) {
		k, cert := generated(t, p.Send(t, call))
		if k.KeyType != est.TypePlainKey {
			t.Errorf("the key has the type %q", k.KeyType)
		}
		wantKeyOf(t, cert, k.Key)
		request, err := der.ParseRequest(csr)
		if err != nil || bytes.Equal(request.RawSPKI, cert.RawSubjectPublicKeyInfo) {
			t.Errorf("the certificate has the key of the request, %v", err)
		}
		if strings.Contains(p.Log.String(), string(est.EncodeBase64Line(k.Key)[40:80])) {
			t.Error("the key stands in the log")
		}
	})
	t.Run("serverkeygen once for a token", func(t *testing.T) { want(t, p.Send(t, call), 401, "") })
	t.Run("serverkeygen unauthenticated", func(t *testing.T) {
		none := f.call(t, keygen)
		none.Secret = ""
		want(t, p.Send(t, none), 401, "")
	})
}

// sealedFor asks for a key that is encrypted to the key of the client certificate. ski names that key.
func sealedFor(t *testing.T, p *apptest.Platform, pair tls.Certificate, ski []byte, ciphers ...string) apptest.Reply {
	t.Helper()
	attributes := []der.RequestAttribute{{Type: asymmetricDecryptKeyID, Values: [][]byte{der.AppendElement(nil, 0x04, ski)}}}
	if len(ciphers) > 0 {
		var list []byte
		for _, c := range ciphers {
			oid, err := der.ParseOID(c)
			if err != nil {
				t.Fatal(err)
			}
			list = der.AppendElement(list, 0x30, oid.Append(nil))
		}
		attributes = append(attributes, der.RequestAttribute{Type: smimeCapabilities, Values: [][]byte{der.AppendElement(nil, 0x30, list)}})
	}
	call := apptest.Call{Path: keygen, Body: apptest.Body(apptest.CSR(t, apptest.Key(t), der.RequestSpec{Attributes: attributes}))}
	return p.Send(t, call, pair)
}

func TestSealedKey(t *testing.T) {
	p := apptest.Start(t, nil)
	ecDevice, ec := p.Enrolled(t, "ec", "device")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, token := p.Device(t, "rsa", "device")
	a, err := p.Enrol.Submit(t.Context(), enrol.Request{Protocol: "est", Op: enrol.Enrol, Basic: true, User: "rsa", Secret: token, CSR: apptest.CSR(t, rsaKey, der.RequestSpec{})})
	if err != nil {
		t.Fatal(err)
	}
	agreed, err := ec.PrivateKey.(*ecdsa.PrivateKey).ECDH()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		pair tls.Certificate
		open func(ski []byte) cms.Key
	}{
		{"serverkeygen KARI", ec, func(ski []byte) cms.Key { return cms.ECKey{ID: cms.KeyID{SubjectKey: ski}, Key: agreed} }},
		{"serverkeygen KTRI", p.Pair(t, rsaKey, a.Certificate.DER), func(ski []byte) cms.Key { return cms.RSAKey{ID: cms.KeyID{SubjectKey: ski}, Key: rsaKey} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			ski := c.pair.Leaf.SubjectKeyId
			k, cert := generated(t, sealedFor(t, p, c.pair, ski, "2.16.840.1.101.3.4.1.6")) // AES-128 in GCM
			if k.KeyType != est.TypeSealedKey {
				t.Fatalf("the key has the type %q", k.KeyType)
			}
			keys, signed, err := cms.OpenKeys(k.Key, c.open(ski))
			if err != nil || len(keys) != 1 {
				t.Fatalf("%d keys, %v", len(keys), err)
			}
			wantKeyOf(t, cert, keys[0])
			conn := p.Dial(t, p.TLS(nil))
			if _, err := signed.Verify(conn.ConnectionState().PeerCertificates[0]); err != nil {
				t.Errorf("the package is not signed by the server: %v", err)
			}
		})
	}
	t.Run("serverkeygen unknown key identifier", func(t *testing.T) {
		const text = "the key identifier does not name the key of the client certificate, and no other key of this device is known\n"
		before := p.Load(t, ecDevice.ID).Issued
		r := sealedFor(t, p, ec, []byte("nonesuch"))
		// The certificate was followed by a newer one, which does not matter here: nothing is issued.
		want(t, r, 400, text)
		wantTrace(t, p, strings.TrimSuffix(text, "\n"))
		if p.Load(t, ecDevice.ID).Issued != before {
			t.Error("a certificate was issued all the same")
		}
	})
	t.Run("serverkeygen unknown cipher", func(t *testing.T) {
		oid, err := der.ParseOID("1.2.840.113549.3.7") // triple DES
		if err != nil {
			t.Fatal(err)
		}
		attributes := []der.RequestAttribute{{Type: asymmetricDecryptKeyID, Values: [][]byte{der.AppendElement(nil, 0x04, ec.Leaf.SubjectKeyId)}},
			{Type: smimeCapabilities, Values: [][]byte{der.AppendElement(nil, 0x30, der.AppendElement(nil, 0x30, oid.Append(nil)))}}}
		r := p.Send(t, apptest.Call{Path: keygen, Body: apptest.Body(apptest.CSR(t, apptest.Key(t), der.RequestSpec{Attributes: attributes}))}, ec)
		want(t, r, 400, "none of the request's SMIMECapabilities is known here; AES-128 and AES-256 in CBC and GCM are\n")
	})
	t.Run("serverkeygen KEK: no shared keys are registered", func(t *testing.T) {
		attributes := []der.RequestAttribute{{Type: decryptKeyID, Values: [][]byte{der.AppendElement(nil, 0x04, []byte("k1"))}}}
		f := &fresh{p: p, profile: "device"}
		call := f.call(t, keygen)
		call.Body = apptest.Body(apptest.CSR(t, apptest.Key(t), der.RequestSpec{Attributes: attributes}))
		want(t, p.Send(t, call), 400, "no shared key of this identifier is registered; name the key of the client certificate by AsymmetricDecryptKeyIdentifier\n")
	})
	t.Run("serverkeygen encrypted, without a certificate", func(t *testing.T) {
		attributes := []der.RequestAttribute{{Type: asymmetricDecryptKeyID, Values: [][]byte{der.AppendElement(nil, 0x04, []byte("k1"))}}}
		f := &fresh{p: p, profile: "device", n: 100}
		call := f.call(t, keygen)
		call.Body = apptest.Body(apptest.CSR(t, apptest.Key(t), der.RequestSpec{Attributes: attributes}))
		want(t, p.Send(t, call), 400, "the key identifier does not name the key of the client certificate, and no other key of this device is known\n")
	})
}
