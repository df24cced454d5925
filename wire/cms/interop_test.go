//go:build interop

package cms

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"
)

// openssl runs "openssl cms" in a folder and returns what it wrote to the file "out".
func openssl(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	command := exec.Command("openssl", append([]string{"cms", "-binary", "-out", "out"}, args...)...)
	command.Dir = dir
	if text, err := command.CombinedOutput(); err != nil {
		t.Fatalf("openssl cms %s: %v\n%s", strings.Join(args, " "), err, text)
	}
	out, err := os.ReadFile(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func write(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// save writes an identity as cert.pem and key.pem into a new folder.
func (i identity) save(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(i.signer)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.cert.Raw}))
	write(t, dir, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	return dir
}

// Ed25519 is missing here: OpenSSL 3.0 refuses it in CMS ("invalid digest").
func TestInteropSigned(t *testing.T) {
	for _, kind := range []string{"RSA", "P-256", "P-384", "P-521"} {
		t.Run(kind, func(t *testing.T) {
			id := newCertificate(t, kind)
			dir := id.save(t)
			for _, bySubjectKey := range []bool{false, true} {
				write(t, dir, "in", signExample(t, id, func(in *SignInput) { in.BySubjectKey = bySubjectKey }))
				if got := openssl(t, dir, "-verify", "-inform", "DER", "-in", "in", "-CAfile", "cert.pem"); string(got) != "hello" {
					t.Errorf("openssl verified %q", got)
				}
			}
			write(t, dir, "in", []byte("hello"))
			args := []string{"-sign", "-nodetach", "-outform", "DER", "-in", "in", "-signer", "cert.pem", "-inkey", "key.pem", "-keyid"}
			if hash := map[string]string{"P-384": "sha384", "P-521": "sha512"}[kind]; hash != "" {
				args = append(args, "-md", hash)
			}
			signed, err := ParseSigned(openssl(t, dir, args...))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := signed.Verify(id.cert); err != nil || string(signed.Content) != "hello" {
				t.Errorf("we verified %q, %v", signed.Content, err)
			}
		})
	}
}

func TestInteropCertsOnly(t *testing.T) {
	a, b := newCertificate(t, "P-256"), newCertificate(t, "RSA")
	dir := a.save(t)
	der, err := CertsOnly([][]byte{a.cert.Raw, b.cert.Raw})
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "in", der)
	command := exec.Command("openssl", "pkcs7", "-inform", "DER", "-in", "in", "-print_certs")
	command.Dir = dir
	if out, err := command.CombinedOutput(); err != nil || bytes.Count(out, []byte("BEGIN CERTIFICATE")) != 2 {
		t.Errorf("openssl printed %s, %v", out, err)
	}
	command = exec.Command("openssl", "crl2pkcs7", "-nocrl", "-certfile", "cert.pem", "-outform", "DER")
	command.Dir = dir
	out, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	if certs, err := ParseCertsOnly(out); err != nil || len(certs) != 1 || !bytes.Equal(certs[0], a.cert.Raw) {
		t.Errorf("openssl's message was read as %x, %v", certs, err)
	}
}

// agreement and OAEP options that openssl needs to meet our choice of algorithms.
func recipientOptions(kind string) []string {
	if kind == "RSA" {
		return []string{"-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256", "-keyopt", "rsa_mgf1_md:sha256"}
	}
	return []string{"-keyopt", "ecdh_kdf_md:sha256"}
}

func TestInteropEnveloped(t *testing.T) {
	names := map[Cipher]string{AES128CBC: "-aes128", AES256CBC: "-aes256", AES128GCM: "-aes-128-gcm", AES256GCM: "-aes-256-gcm"}
	for _, kind := range []string{"RSA", "P-256", "P-384"} {
		for _, bySubjectKey := range []bool{false, true} {
			id := newCertificate(t, kind)
			dir := id.save(t)
			keyID, option := IssuerAndSerial(id.cert), []string{}
			if bySubjectKey {
				keyID, option = KeyID{SubjectKey: id.cert.SubjectKeyId}, []string{"-keyid"}
			}
			var recipient Recipient
			var key Key
			if kind == "RSA" {
				private := id.signer.(*rsa.PrivateKey)
				recipient, key = RSARecipient{ID: keyID, Key: &private.PublicKey}, RSAKey{ID: keyID, Key: private}
			} else {
				private := id.ecKey(t)
				recipient, key = ECRecipient{keyID, private.PublicKey()}, ECKey{keyID, private}
			}
			for c, name := range names {
				write(t, dir, "in", encryptExample(t, c, []byte("hello"), recipient))
				if got := openssl(t, dir, "-decrypt", "-inform", "DER", "-in", "in", "-recip", "cert.pem", "-inkey", "key.pem"); string(got) != "hello" {
					t.Errorf("%s %s: openssl decrypted %q", kind, name, got)
				}
				write(t, dir, "in", []byte("hello"))
				args := append([]string{"-encrypt", name, "-outform", "DER", "-in", "in", "-recip", "cert.pem"}, recipientOptions(kind)...)
				e, err := ParseEnveloped(openssl(t, dir, append(args, option...)...))
				if err != nil {
					t.Fatalf("%s %s: %v", kind, name, err)
				}
				if got, err := e.Open(key); err != nil || string(got) != "hello" {
					t.Errorf("%s %s: we decrypted %q, %v", kind, name, got, err)
				}
			}
		}
	}
}

func TestInteropSharedKey(t *testing.T) {
	dir := t.TempDir()
	for size, cipher := range map[int]Cipher{16: AES128CBC, 32: AES256CBC} {
		secret := make([]byte, size)
		rand.Read(secret)
		options := []string{"-secretkey", hex.EncodeToString(secret), "-secretkeyid", hex.EncodeToString([]byte("key-7"))}
		write(t, dir, "in", encryptExample(t, cipher, []byte("hello"), SharedRecipient{[]byte("key-7"), secret}))
		if got := openssl(t, dir, append([]string{"-decrypt", "-inform", "DER", "-in", "in"}, options...)...); string(got) != "hello" {
			t.Errorf("openssl decrypted %q", got)
		}
		write(t, dir, "in", []byte("hello"))
		e, err := ParseEnveloped(openssl(t, dir, append([]string{"-encrypt", "-aes256", "-outform", "DER", "-in", "in"}, options...)...))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := e.Open(SharedKey{[]byte("key-7"), secret}); err != nil || string(got) != "hello" {
			t.Errorf("we decrypted %q, %v", got, err)
		}
	}
}

func TestInteropSealKeys(t *testing.T) {
	device, server := newCertificate(t, "RSA"), newCertificate(t, "P-256")
	made, err := x509.MarshalPKCS8PrivateKey(newKey(t, "P-256"))
	if err != nil {
		t.Fatal(err)
	}
	dir, serverDir := device.save(t), server.save(t)
	recipient := RSARecipient{ID: IssuerAndSerial(device.cert), Key: device.cert.PublicKey.(*rsa.PublicKey)}
	// Only CBC: OpenSSL 3.0 reads no authenticated attributes, which content other than plain data needs with GCM.
	for _, c := range []Cipher{AES128CBC, AES256CBC} {
		der, err := SealKeys([][]byte{made}, SignInput{Signer: server.signer, Certificate: server.cert, Rand: rand.Reader},
			EncryptInput{Cipher: c, Recipients: []Recipient{recipient}, Rand: rand.Reader})
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, "in", der)
		inner := openssl(t, dir, "-decrypt", "-inform", "DER", "-in", "in", "-recip", "cert.pem", "-inkey", "key.pem")
		// openssl gives the bare SignedData and reads only a ContentInfo.
		info, err := buildContentInfo(OIDSignedData, func(b *cryptobyte.Builder) { b.AddBytes(inner) })
		if err != nil {
			t.Fatal(err)
		}
		write(t, serverDir, "in", info)
		got := openssl(t, serverDir, "-verify", "-inform", "DER", "-in", "in", "-CAfile", "cert.pem")
		if keys, err := ParseKeyPackage(got); err != nil || len(keys) != 1 || !bytes.Equal(keys[0], made) {
			t.Errorf("cipher %d: openssl found %x, %v", c, got, err)
		}
	}
}

// OpenSSL's stream encoding is BER, and its older smime command encrypts by PKCS #1 v1.5.
func TestInteropBER(t *testing.T) {
	id := newCertificate(t, "RSA")
	dir := id.save(t)
	write(t, dir, "in", bytes.Repeat([]byte("hello"), 2000))
	ber := openssl(t, dir, "-sign", "-nodetach", "-stream", "-outform", "DER", "-in", "in", "-signer", "cert.pem", "-inkey", "key.pem")
	der, err := FromBER(ber)
	if err != nil || bytes.Equal(der, ber) {
		t.Fatalf("openssl's BER became %x, %v", der, err)
	}
	signed, err := ParseSigned(der)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signed.Verify(id.cert); err != nil || len(signed.Content) != 10000 {
		t.Errorf("we verified %d bytes, %v", len(signed.Content), err)
	}
	private := id.signer.(*rsa.PrivateKey)
	key := RSAKey{ID: IssuerAndSerial(id.cert), Key: private, PKCS1v15: true, TripleDES: true, Rand: rand.Reader}
	for name, c := range map[string]Cipher{"-aes128": AES128CBC, "-aes256": AES256CBC, "-des3": TripleDESCBC} {
		der, err := FromBER(openssl(t, dir, "-encrypt", name, "-stream", "-outform", "DER", "-in", "in", "cert.pem"))
		if err != nil {
			t.Fatal(err)
		}
		e, err := ParseEnveloped(der)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := e.Open(key); err != nil || len(got) != 10000 || e.Cipher() != c {
			t.Errorf("%s: we decrypted %d bytes in cipher %d, %v", name, len(got), e.Cipher(), err)
		}
		write(t, dir, "in2", encryptExample(t, c, []byte("hello"), RSARecipient{ID: IssuerAndSerial(id.cert), Key: &private.PublicKey, PKCS1v15: true}))
		if got := openssl(t, dir, "-decrypt", "-inform", "DER", "-in", "in2", "-recip", "cert.pem", "-inkey", "key.pem"); string(got) != "hello" {
			t.Errorf("%s: openssl decrypted %q", name, got)
		}
	}
}
