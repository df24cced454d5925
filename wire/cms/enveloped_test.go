package cms

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// The vectors of RFC 3394, section 4.
func TestKeyWrapVectors(t *testing.T) {
	const kek = "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F"
	const key = "00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F"
	for _, c := range []struct {
		kekSize, keySize int
		want             string
	}{
		{16, 16, "1FA68B0A8112B447 AEF34BD8FB5A7B82 9D3E862371D2CFE5"},
		{24, 16, "96778B25AE6CA435 F92B5B97C050AED2 468AB8A17AD84E5D"},
		{32, 16, "64E8C3F9CE0F5BA2 63E9777905818A2A 93C8191E7D6E8AE7"},
		{24, 24, "031D33264E15D332 68F24EC260743EDC E1C6C7DDEE725A93 6BA814915C6762D2"},
		{32, 24, "A8F9BC1612C68B3F F6E6F4FBE30E71E4 769C8B80A32CB895 8CD5D17D6B254DA1"},
		{32, 32, "28C9F404C4B810F4 CBCCB35CFB87F826 3F5786E2D80ED326 CBC7F0E71A99F43B FB988B9B7A02DD21"},
	} {
		kek := unhex(t, kek)[:c.kekSize]
		key := append(unhex(t, key)[:min(16, c.keySize)], unhex(t, key)[16:]...)[:c.keySize]
		wrapped, err := wrapKey(kek, key)
		if err != nil || !bytes.Equal(wrapped, unhex(t, c.want)) {
			t.Errorf("%d bytes under %d: got %x, %v, want %s", c.keySize, c.kekSize, wrapped, err, c.want)
			continue
		}
		if got, err := unwrapKey(kek, wrapped); err != nil || !bytes.Equal(got, key) {
			t.Errorf("%d bytes under %d: unwrapped to %x, %v", c.keySize, c.kekSize, got, err)
		}
		wrapped[5] ^= 1
		if got, err := unwrapKey(kek, wrapped); err == nil {
			t.Errorf("%d bytes under %d: changed, but unwrapped to %x", c.keySize, c.kekSize, got)
		}
	}
	for _, size := range []int{0, 8, 17} {
		if _, err := wrapKey(make([]byte, 16), make([]byte, size)); err == nil {
			t.Errorf("%d bytes were wrapped", size)
		}
		if _, err := unwrapKey(make([]byte, 16), make([]byte, size)); err == nil {
			t.Errorf("%d bytes were unwrapped", size)
		}
	}
}

// pair is a recipient with the key that belongs to it.
type pair struct {
	name      string
	recipient Recipient
	key       Key
}

func pairs(t testing.TB) []pair {
	t.Helper()
	rsaID, p256, p384 := newCertificate(t, "RSA"), newCertificate(t, "P-256"), newCertificate(t, "P-384")
	subject := func(i identity) KeyID { return KeyID{SubjectKey: i.cert.SubjectKeyId} }
	rsaPublic, rsaPrivate := rsaID.cert.PublicKey.(*rsa.PublicKey), rsaID.signer.(*rsa.PrivateKey)
	short, long := bytes.Repeat([]byte{5}, 16), bytes.Repeat([]byte{6}, 32)
	return []pair{
		{"RSA", RSARecipient{ID: IssuerAndSerial(rsaID.cert), Key: rsaPublic}, RSAKey{ID: IssuerAndSerial(rsaID.cert), Key: rsaPrivate}},
		{"RSA by subject key", RSARecipient{ID: subject(rsaID), Key: rsaPublic}, RSAKey{ID: subject(rsaID), Key: rsaPrivate}},
		{"P-256", ECRecipient{IssuerAndSerial(p256.cert), p256.ecKey(t).PublicKey()}, ECKey{IssuerAndSerial(p256.cert), p256.ecKey(t)}},
		{"P-384 by subject key", ECRecipient{subject(p384), p384.ecKey(t).PublicKey()}, ECKey{subject(p384), p384.ecKey(t)}},
		{"AES-128", SharedRecipient{[]byte("short"), short}, SharedKey{[]byte("short"), short}},
		{"AES-256", SharedRecipient{[]byte("long"), long}, SharedKey{[]byte("long"), long}},
		{"RSA by PKCS #1 v1.5", RSARecipient{ID: subject(rsaID), Key: rsaPublic, PKCS1v15: true}, RSAKey{ID: subject(rsaID), Key: rsaPrivate, PKCS1v15: true, Rand: rand.Reader}},
	}
}

func ciphers() []Cipher { return []Cipher{AES128CBC, AES256CBC, AES128GCM, AES256GCM} }

func encryptExample(t testing.TB, c Cipher, content []byte, recipients ...Recipient) []byte {
	t.Helper()
	der, err := Encrypt(EncryptInput{ContentType: OIDData, Content: content, Cipher: c, Recipients: recipients, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestEncryptAndOpen(t *testing.T) {
	all := pairs(t)
	var recipients []Recipient
	for _, p := range all {
		recipients = append(recipients, p.recipient)
	}
	for _, c := range ciphers() {
		for _, size := range []int{0, 1, 15, 16, 17, 1000} {
			content := bytes.Repeat([]byte{0xc3}, size)
			e, err := ParseEnveloped(encryptExample(t, c, content, recipients...))
			if err != nil {
				t.Fatal(err)
			}
			if want := c == AES128GCM || c == AES256GCM; e.Authenticated != want {
				t.Errorf("cipher %d: authenticated is %v, want %v", c, e.Authenticated, want)
			}
			for _, p := range all {
				if got, err := e.Open(p.key); err != nil || !bytes.Equal(got, content) {
					t.Errorf("cipher %d, %s, %d bytes: got %x, %v", c, p.name, size, got, err)
				}
			}
		}
	}
}

func TestOpenWithOtherKeys(t *testing.T) {
	ours, theirs := pairs(t), pairs(t)
	for i, p := range ours {
		e, err := ParseEnveloped(encryptExample(t, AES128GCM, []byte("hello"), p.recipient))
		if err != nil {
			t.Fatal(err)
		}
		for j, q := range theirs {
			// Shared keys are the same in both sets.
			if i == j && strings.HasPrefix(p.name, "AES") {
				continue
			}
			if got, err := e.Open(q.key); err == nil {
				t.Errorf("%s: opened by another %s: %q", p.name, q.name, got)
			}
		}
	}
	e, err := ParseEnveloped(encryptExample(t, AES128GCM, []byte("hello"), SharedRecipient{[]byte("a"), make([]byte, 16)}))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range [][]byte{bytes.Repeat([]byte{1}, 16), make([]byte, 32), nil} {
		if _, err := e.Open(SharedKey{[]byte("a"), key}); err != errOpen {
			t.Errorf("key %x: got %v, want %v", key, err, errOpen)
		}
	}
}

// Every change must be noticed in an authenticated message, and must never make the reader panic in the other.
func TestOpenChanged(t *testing.T) {
	p := pairs(t)[4]
	for _, c := range ciphers() {
		good := encryptExample(t, c, []byte("hello"), p.recipient)
		for i := range good {
			changed := bytes.Clone(good)
			changed[i] ^= 1
			e, err := ParseEnveloped(changed)
			if err != nil {
				continue
			}
			if content, err := e.Open(p.key); err == nil && e.Authenticated {
				t.Errorf("cipher %d: opened to %q after a change at %d", c, content, i)
			}
		}
	}
}

func TestUnpad(t *testing.T) {
	block := func(text string) []byte { return []byte(strings.Repeat("x", 16-len(text)) + text) }
	for _, c := range []struct {
		in   string
		want int
	}{
		{"\x01", 15}, {"\x02\x02", 14}, {strings.Repeat("\x10", 16), 0},
		{"\x00", -1}, {"\x11", -1}, {"\x02", -1}, {"\x03\x02\x03", -1}, {"\x0f" + strings.Repeat("\x10", 15), -1}, {"\xff", -1},
	} {
		got, err := unpad(block(c.in), 16)
		if err == nil && len(got) != c.want || err != nil && c.want >= 0 {
			t.Errorf("%q: got %d bytes, %v, want %d", c.in, len(got), err, c.want)
		}
	}
}

func TestEncryptRefuses(t *testing.T) {
	good := pairs(t)[2].recipient
	for name, in := range map[string]EncryptInput{
		"no recipient":       {Cipher: AES128CBC},
		"too many":           {Cipher: AES128CBC, Recipients: make([]Recipient, maxRecipients+1)},
		"no cipher":          {Recipients: []Recipient{good}},
		"odd shared key":     {Cipher: AES128CBC, Recipients: []Recipient{SharedRecipient{[]byte("a"), make([]byte, 17)}}},
		"unnamed shared key": {Cipher: AES128CBC, Recipients: []Recipient{SharedRecipient{nil, make([]byte, 16)}}},
		"unnamed key":        {Cipher: AES128CBC, Recipients: []Recipient{ECRecipient{Key: good.(ECRecipient).Key}}},
		"too long":           {Cipher: AES128CBC, Recipients: []Recipient{good}, Content: make([]byte, MaxSize)},
		"dry randomness":     {Cipher: AES128CBC, Recipients: []Recipient{good}, Rand: strings.NewReader("abc")},
	} {
		in.ContentType = OIDData
		if in.Rand == nil {
			in.Rand = rand.Reader
		}
		if _, err := Encrypt(in); err == nil {
			t.Errorf("%s: encrypted, want an error", name)
		}
	}
}

func TestSealKeys(t *testing.T) {
	server := newCertificate(t, "P-256")
	made, err := x509.MarshalPKCS8PrivateKey(newKey(t, "P-384"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pairs(t) {
		for _, c := range ciphers() {
			der, err := SealKeys([][]byte{made}, SignInput{Signer: server.signer, Certificate: server.cert, Rand: rand.Reader},
				EncryptInput{Cipher: c, Recipients: []Recipient{p.recipient}, Rand: rand.Reader})
			if err != nil {
				t.Fatalf("%s: %v", p.name, err)
			}
			if bytes.Contains(der, made[len(made)-40:]) {
				t.Fatalf("%s: the key stands in the message", p.name)
			}
			keys, signed, err := OpenKeys(der, p.key)
			if err != nil || !reflect.DeepEqual(keys, [][]byte{made}) {
				t.Fatalf("%s: got %x, %v", p.name, keys, err)
			}
			if _, err := signed.Verify(server.cert); err != nil {
				t.Errorf("%s: %v", p.name, err)
			}
		}
	}
	for name, keys := range map[string][][]byte{"none": nil, "not PKCS#8": {{1, 2, 3}}, "too many": make([][]byte, maxKeys+1)} {
		if _, err := encodeKeyPackage(keys); err == nil {
			t.Errorf("%s: packed, want an error", name)
		}
	}
}

// An envelope around something else must not pass for keys.
func TestOpenKeysRefusesOtherContent(t *testing.T) {
	p := pairs(t)[4]
	if _, _, err := OpenKeys(encryptExample(t, AES256GCM, []byte("hello"), p.recipient), p.key); err == nil {
		t.Error("plain data was taken for keys")
	}
	_, signed, err := ParseContentInfo(signExample(t, newCertificate(t, "P-256"), nil))
	if err != nil {
		t.Fatal(err)
	}
	der, err := Encrypt(EncryptInput{ContentType: OIDSignedData, Content: signed, Cipher: AES256GCM, Recipients: []Recipient{p.recipient}, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenKeys(der, p.key); err == nil {
		t.Error("signed data that is no key package was taken for keys")
	}
}

func TestSharedKeysAreNotPrinted(t *testing.T) {
	for _, v := range []any{SharedKey{[]byte("id"), []byte("secret")}, SharedRecipient{[]byte("id"), []byte("secret")}} {
		for _, verb := range []string{"%v", "%+v", "%#v"} {
			if text := fmt.Sprintf(verb, v); strings.Contains(text, "secret") || strings.Contains(text, "115") || strings.Contains(text, "0x73") {
				t.Errorf("%s prints %s", verb, text)
			}
		}
	}
}

func TestCipherByOID(t *testing.T) {
	if c, ok := CipherByOID(asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 46}); !ok || c != AES256GCM {
		t.Errorf("got %d, %v, want AES256GCM", c, ok)
	}
	if c, ok := CipherByOID(asn1.ObjectIdentifier{1, 2, 840, 113549, 3, 7}); ok {
		t.Errorf("triple DES was taken for cipher %d", c)
	}
}

func FuzzParseEnveloped(f *testing.F) {
	all := pairs(f)
	for _, p := range all {
		f.Add(encryptExample(f, AES128CBC, []byte("hello"), p.recipient))
		f.Add(encryptExample(f, AES256GCM, []byte("hello"), p.recipient))
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		e, err := ParseEnveloped(der)
		if err != nil {
			return
		}
		if len(e.Recipients) > maxRecipients {
			t.Errorf("%x has %d recipients", der, len(e.Recipients))
		}
		for _, p := range all {
			e.Open(p.key)
		}
	})
}

func FuzzParseKeyPackage(f *testing.F) {
	f.Add([]byte{0x30, 2, 0x30, 0})
	f.Fuzz(func(t *testing.T, der []byte) {
		keys, err := ParseKeyPackage(der)
		if err != nil {
			return
		}
		if again, err := encodeKeyPackage(keys); err != nil || !bytes.Equal(again, der) {
			t.Errorf("%x became %x, %v", der, again, err)
		}
	})
}
