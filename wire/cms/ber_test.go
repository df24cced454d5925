package cms

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// inBER writes DER as an old encoder would: each constructed element with an indefinite length, each string of octets in pieces of 5, and the
// encrypted content of an envelope too.
func inBER(t testing.TB, der []byte) []byte {
	t.Helper()
	s := cryptobyte.String(der)
	var out []byte
	for !s.Empty() {
		var content cryptobyte.String
		var tag cbasn1.Tag
		if !s.ReadAnyASN1(&content, &tag) {
			t.Fatalf("not DER: %x", der)
		}
		pieces := func(tag byte) {
			out = append(out, tag, 0x80)
			for rest := []byte(content); len(rest) > 0; {
				n := min(5, len(rest))
				out = append(append(out, 4, byte(n)), rest[:n]...)
				rest = rest[n:]
			}
			out = append(out, 0, 0)
		}
		switch {
		case tag == cbasn1.OCTET_STRING:
			pieces(0x24)
		case tag == tag0Prim:
			pieces(0xa0)
		case tag&constructedBit != 0:
			out = append(out, byte(tag), 0x80)
			out = append(out, inBER(t, content)...)
			out = append(out, 0, 0)
		default:
			out = append(out, byte(tag), 0x84, 0, byte(len(content)>>16), byte(len(content)>>8), byte(len(content)))
			out = append(out, content...)
		}
	}
	return out
}

func TestFromBER(t *testing.T) {
	p := pairs(t)[0]
	for name, der := range map[string][]byte{
		"signed":        signExample(t, newCertificate(t, "P-256"), nil),
		"encrypted":     encryptExample(t, AES128CBC, bytes.Repeat([]byte("hello"), 100), p.recipient),
		"authenticated": encryptExample(t, AES256GCM, []byte("hello"), p.recipient),
	} {
		ber := inBER(t, der)
		if bytes.Equal(ber, der) {
			t.Fatalf("%s: the test's BER is DER", name)
		}
		if got, err := FromBER(ber); err != nil || !bytes.Equal(got, der) {
			t.Errorf("%s: got %x, %v, want %x", name, got, err, der)
		}
		if got, err := FromBER(der); err != nil || !bytes.Equal(got, der) {
			t.Errorf("%s: DER became %x, %v", name, got, err)
		}
		for n := range ber {
			if got, err := FromBER(ber[:n]); err == nil {
				t.Fatalf("%s: the first %d of %d bytes were read as %x", name, n, len(ber), got)
			}
		}
	}
}

func TestFromBERRefuses(t *testing.T) {
	for name, in := range map[string][]byte{
		"nothing":                    nil,
		"primitive and indefinite":   {0x04, 0x80, 0, 0},
		"no end":                     {0x30, 0x80, 0x05, 0},
		"length beyond the end":      {0x30, 0x82, 1, 0, 5, 0},
		"length of many octets":      {0x30, 0x85, 0, 0, 0, 0, 0},
		"high tag":                   {0x3f, 0x81, 0x01, 0},
		"end mark alone":             {0, 0},
		"bytes behind":               {0x30, 0, 0x30, 0},
		"a piece of another type":    {0x24, 0x80, 0x02, 1, 1, 0, 0},
		"deep":                       append(bytes.Repeat([]byte{0x30, 0x80}, maxDepth+2), make([]byte, 2*(maxDepth+2))...),
		"too long":                   make([]byte, MaxSize+1),
		"end mark in definite":       {0x30, 2, 0, 0},
		"length that wraps an int32": {0x30, 0x84, 0xff, 0xff, 0xff, 0xff},
	} {
		if got, err := FromBER(in); err == nil {
			t.Errorf("%s: read as %x, want an error", name, got)
		}
	}
}

func FuzzFromBER(f *testing.F) {
	der := signExample(f, newCertificate(f, "P-256"), nil)
	f.Add(der)
	f.Add(inBER(f, der))
	f.Add(inBER(f, encryptExample(f, AES128CBC, []byte("hello"), pairs(f)[0].recipient)))
	f.Fuzz(func(t *testing.T, ber []byte) {
		der, err := FromBER(ber)
		if err != nil {
			return
		}
		if again, err := FromBER(der); err != nil || !bytes.Equal(again, der) {
			t.Errorf("%x became %x, and that %x, %v", ber, der, again, err)
		}
	})
}

// SHA-1 is refused to all who do not ask for it, and is never written.
func TestSHA1IsAsked(t *testing.T) {
	id := newCertificate(t, "RSA")
	for _, oid := range []asn1.ObjectIdentifier{oidSHA1RSA, oidRSA} {
		der, err := sign(SignInput{ContentType: OIDData, Content: []byte("hello"), Signer: id.signer, Certificate: id.cert, Rand: rand.Reader}, scheme{familyRSA, crypto.SHA1, oidSHA1, oid})
		if err != nil {
			t.Fatal(err)
		}
		signed, err := ParseSigned(der)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := signed.Verify(id.cert); err == nil || !strings.Contains(err.Error(), "not supported") {
			t.Errorf("not asked for: %v, want that it is not supported", err)
		}
		if _, err := signed.VerifySHA1(id.cert); err != nil {
			t.Error(err)
		}
		signed.Content[0] ^= 1
		if _, err := signed.VerifySHA1(id.cert); err == nil {
			t.Error("changed content verifies")
		}
	}
}

// What only SCEP may use is refused to all who do not ask for it.
func TestLegacyIsAsked(t *testing.T) {
	id := newCertificate(t, "RSA")
	private := id.signer.(*rsa.PrivateKey)
	old := RSARecipient{ID: IssuerAndSerial(id.cert), Key: &private.PublicKey, PKCS1v15: true}
	modern := RSARecipient{ID: IssuerAndSerial(id.cert), Key: &private.PublicKey}
	key := RSAKey{ID: IssuerAndSerial(id.cert), Key: private, Rand: rand.Reader}
	for _, c := range []struct {
		name          string
		der           []byte
		oldRSA, oldCC bool
		want          string
	}{
		{"PKCS #1 v1.5, not asked for", encryptExample(t, AES128CBC, []byte("hello"), old), false, false, "cannot be opened"},
		{"PKCS #1 v1.5", encryptExample(t, AES128CBC, []byte("hello"), old), true, false, ""},
		{"OAEP where both may be", encryptExample(t, AES128CBC, []byte("hello"), modern), true, true, ""},
		{"triple DES, not asked for", encryptExample(t, TripleDESCBC, []byte("hello"), old), true, false, "not supported"},
		{"triple DES", encryptExample(t, TripleDESCBC, []byte("hello"), old), true, true, ""},
	} {
		e, err := ParseEnveloped(c.der)
		if err != nil {
			t.Fatal(err)
		}
		key.PKCS1v15, key.TripleDES = c.oldRSA, c.oldCC
		got, err := e.Open(key)
		switch {
		case c.want == "" && (err != nil || string(got) != "hello"):
			t.Errorf("%s: got %q, %v", c.name, got, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %q, %v, want an error with %q", c.name, got, err, c.want)
		}
	}
	// A wrong padding must look like wrong content, whatever stands in it.
	wrong := encryptExample(t, AES128CBC, bytes.Repeat([]byte("x"), 160), old)
	e, err := ParseEnveloped(wrong)
	if err != nil {
		t.Fatal(err)
	}
	key.PKCS1v15 = true
	for i := range 20 {
		e.Recipients[0].encrypted = bytes.Clone(e.Recipients[0].encrypted)
		e.Recipients[0].encrypted[i+10] ^= 1
		if got, err := e.Open(key); err != nil && err != errOpen || err == nil && bytes.Contains(got, []byte("xxxx")) {
			t.Errorf("got %q, %v, want nonsense or %v", got, err, errOpen)
		}
	}
}
