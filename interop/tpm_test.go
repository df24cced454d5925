//go:build interop

package interop

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	agent "mooring/agent/acme"
	"mooring/wire/acme"
	"mooring/wire/der"
)

// socket speaks to a software TPM.
type socket struct {
	mu   sync.Mutex // one command at a time
	conn net.Conn
}

// Send implements the transport of go-tpm. A TPM may be busy with itself and ask for the same command again.
func (s *socket) Send(command []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range 20 {
		answer, err := s.send(command)
		if err != nil || tpm2.TPMRC(binary.BigEndian.Uint32(answer[6:])) != tpm2.TPMRCRetry {
			return answer, err
		}
	}
	return nil, errors.New("the TPM is always busy")
}

func (s *socket) send(command []byte) ([]byte, error) {
	if _, err := s.conn.Write(command); err != nil {
		return nil, err
	}
	answer := make([]byte, 10)
	if _, err := io.ReadFull(s.conn, answer); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(answer[2:])
	if size < 10 || size > 1<<16 {
		return nil, errors.New("the TPM's answer has an odd size")
	}
	rest := make([]byte, size-10)
	_, err := io.ReadFull(s.conn, rest)
	return append(answer, rest...), err
}

// startTPM makes a TPM with a certificate of its endorsement key by swtpm's own CA, and runs it. In the site's folder are then maker.pem, the
// root, and issuer.pem, ek.der (RSA-2048) and ek384.der (P-384), the certificates below it.
func startTPM(t *testing.T, s *site) *socket {
	t.Helper()
	for _, program := range []string{"swtpm", "swtpm_setup"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("this test needs %s (Debian: swtpm swtpm-tools): %v", program, err)
		}
	}
	s.sh(t, `mkdir -p maker state ekcerts
printf 'statedir = %s\nsigningkey = %s/signkey.pem\nissuercert = %s/issuercert.pem\ncertserial = %s/certserial\n' "$PWD/maker" "$PWD/maker" "$PWD/maker" "$PWD/maker" > localca.conf
printf -- '--platform-manufacturer Example\n--platform-version 1\n--platform-model X\n' > localca.options
printf 'create_certs_tool = %s\ncreate_certs_tool_config = %s/localca.conf\ncreate_certs_tool_options = %s/localca.options\nactive_pcr_banks = sha256\n' "$(command -v swtpm_localca)" "$PWD" "$PWD" > setup.conf
swtpm_setup --tpm2 --tpmstate state --config setup.conf --create-ek-cert --lock-nvram --overwrite --write-ek-cert-files ekcerts > setup.log 2>&1 || { cat setup.log; exit 1; }
cp maker/swtpm-localca-rootca-cert.pem maker.pem; cp maker/issuercert.pem issuer.pem; cp ekcerts/*rsa*.crt ek.der; cp ekcerts/*secp384r1*.crt ek384.der`)
	dir, err := os.MkdirTemp("", "tpm") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	tpm := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+filepath.Join(s.dir, "state"), "--server", "type=unixio,path="+path, "--flags", "not-need-init,startup-clear")
	if err := tpm.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = tpm.Process.Kill() // it ends by itself when the connection does
		_ = tpm.Wait()
	})
	var conn net.Conn
	for late := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if conn, err = net.Dial("unix", path); err == nil || time.Now().After(late) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &socket{conn: conn}
}

func ecTemplate(restricted bool) tpm2.TPMTPublic {
	scheme := tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})}
	return tpm2.TPMTPublic{Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: restricted, SignEncrypt: true},
		Parameters:       tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256, Scheme: scheme})}
}

// tpmKey is a key in the TPM.
type tpmKey struct {
	tpm    *socket
	handle tpm2.NamedHandle
	public tpm2.TPMTPublic
	key    *ecdsa.PublicKey
}

func makeKey(t *testing.T, tpm *socket, restricted bool) *tpmKey {
	t.Helper()
	made, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(ecTemplate(restricted))}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	public, err := made.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm2.Pub(*public)
	if err != nil {
		t.Fatal(err)
	}
	return &tpmKey{tpm, tpm2.NamedHandle{Handle: made.ObjectHandle, Name: made.Name}, *public, key.(*ecdsa.PublicKey)}
}

func (k *tpmKey) auth() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: k.handle.Handle, Name: k.handle.Name, Auth: tpm2.PasswordAuth(nil)}
}

// Public implements crypto.Signer.
func (k *tpmKey) Public() crypto.PublicKey { return k.key }

// Sign implements crypto.Signer, in the TPM.
func (k *tpmKey) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	signed, err := tpm2.Sign{KeyHandle: k.auth(), Digest: tpm2.TPM2BDigest{Buffer: digest}, Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull}}.Execute(k.tpm)
	if err != nil {
		return nil, err
	}
	s, err := signed.Signature.Signature.ECDSA()
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(s.SignatureR.Buffer), new(big.Int).SetBytes(s.SignatureS.Buffer)})
}

// attest makes the statement of ak about k.
func (k *tpmKey) attest(ak *tpmKey, chain [][]byte, keyAuthorization string) ([]byte, error) {
	nonce := sha256.Sum256([]byte(keyAuthorization))
	c, err := tpm2.Certify{ObjectHandle: k.auth(), SignHandle: ak.auth(), QualifyingData: tpm2.TPM2BData{Buffer: nonce[:]}, InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}}.Execute(k.tpm)
	if err != nil {
		return nil, err
	}
	return cbor.Marshal(map[string]any{"fmt": "tpm", "attStmt": map[string]any{"ver": "2.0", "alg": -7, "x5c": chain, "sig": tpm2.Marshal(c.Signature),
		"certInfo": c.CertifyInfo.Bytes(), "pubArea": tpm2.Marshal(k.public)}})
}

// endorser is an endorsement key that was made with the TPM.
type endorser struct {
	handle       tpm2.NamedHandle
	public, spki []byte
	auth         func() tpm2.Session
}

// endorsement returns the endorsement key at a place.
func endorsement(t *testing.T, tpm *socket, place tpm2.TPMHandle) *endorser {
	t.Helper()
	ek, err := tpm2.ReadPublic{ObjectHandle: place}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	contents, err := ek.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm2.Pub(*contents)
	if err != nil {
		t.Fatal(err)
	}
	e := &endorser{handle: tpm2.NamedHandle{Handle: place, Name: ek.Name}, public: tpm2.Marshal(*contents)}
	if e.spki, err = x509.MarshalPKIXPublicKey(key); err != nil {
		t.Fatal(err)
	}
	e.auth = func() tpm2.Session { return tpm2.PasswordAuth(nil) }
	if !contents.ObjectAttributes.UserWithAuth { // by policy alone, as keys of the older templates
		e.auth = func() tpm2.Session {
			return tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(t transport.TPM, h tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
				_, err := tpm2.PolicySecret{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, PolicySession: h, NonceTPM: nonce}.Execute(t)
				return err
			})
		}
	}
	return e
}

// open has the TPM open a credential for ak.
func open(tpm *socket, ek *endorser, ak *tpmKey) func(credential, secret []byte) ([]byte, error) {
	return func(credential, secret []byte) ([]byte, error) {
		opened, err := tpm2.ActivateCredential{ActivateHandle: ak.auth(), KeyHandle: tpm2.AuthHandle{Handle: ek.handle.Handle, Name: ek.handle.Name, Auth: ek.auth()},
			CredentialBlob: tpm2.TPM2BIDObject{Buffer: credential[2:]}, Secret: tpm2.TPM2BEncryptedSecret{Buffer: secret[2:]}}.Execute(tpm)
		if err != nil {
			return nil, err
		}
		return opened.CertInfo.Buffer, nil
	}
}

func (s *site) pemCertificates(t *testing.T, name string) (list []*x509.Certificate) {
	t.Helper()
	for block, rest := pem.Decode(s.read(t, name)); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, c)
	}
	return list
}

func b64url(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

// TestInteropTPM has a TPM (swtpm) certified: its endorsement key has a certificate of swtpm's CA, or is registered with the device; credential
// activation gives its attestation key a certificate; that key vouches for another one in device-attest-01; and the certificate of that key, which
// never leaves the TPM, is used for a TLS handshake.
func TestInteropTPM(t *testing.T) {
	engines(t, func(t *testing.T, database string) {
		s := newSite(t)
		tpm := startTPM(t, s)
		s.sh(t, `mooring init -q --name Acme `+s.initFlags(database)+`
sed -i "0,/^  # acme: \"\"/s||  acme: \"$HOST:8444\"|; s|^  # attest_ek: .*|  attest_ek: \"$PWD/maker.pem\"|" d/mooring.yaml
sed 's|^name: .*|name: attested|; s|^evidence: .*|evidence: [attested]|; s|^san:|san:\n  attested: true|' d/profiles/gateway.yaml > d/profiles/attested.yaml
sed 's|^name: .*|name: attestation-keys\nalso_for: [attested]|; s|^evidence: .*|evidence: [attested]|; s|^slot: .*|slot: attestation|; s|^ext_key_usage: .*|ext_key_usage: [2.23.133.8.3]|; s|^san:|san:\n  attested: true|' d/profiles/gateway.yaml > d/profiles/attestation-keys.yaml
mooring profile lint d/profiles/*.yaml`)
		s.serve(t)
		s.sh(t, `mooring ca export --root -o root.pem`)
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(s.read(t, "root.pem"))
		ek, curve := endorsement(t, tpm, 0x81010001), endorsement(t, tpm, 0x81010016) // where the profile of the TCG has RSA-2048, and swtpm P-384
		sum := sha256.Sum256(ek.spki)
		issuer := b64url(s.pemCertificates(t, "issuer.pem")[0].Raw)
		begin := acme.Activation{EK: b64url(ek.public), Certificates: []string{b64url(s.read(t, "ek.der")), issuer}}
		client := func(t *testing.T, name string, flags ...string) *agent.Client {
			t.Helper()
			token := s.device(t, name, "attested", flags...)
			account, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			c := &agent.Client{Directory: "https://" + s.env["HOST"] + ":8444/acme/directory", Key: account, Now: time.Now,
				HTTP: &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}}
			if err := c.Register(t.Context(), &agent.Binding{Name: name, Token: strings.TrimSpace(token)}); err != nil {
				t.Fatal(err)
			}
			return c
		}
		ak, key := makeKey(t, tpm, true), makeKey(t, tpm, false)
		begin.AK = b64url(tpm2.Marshal(ak.public))
		for _, row := range []struct {
			name, device string
			flags        []string
			begin        acme.Activation
			ek           *endorser
		}{
			{"by the manufacturer's certificate", "unit-1", nil, begin, ek},
			{"by the registered key", "unit-2", []string{"--tag", "tpm-ek=" + hex.EncodeToString(sum[:])}, acme.Activation{EK: begin.EK, AK: begin.AK}, ek},
			{"by the manufacturer's certificate for P-384", "unit-6", nil, acme.Activation{EK: b64url(curve.public), AK: begin.AK, Certificates: []string{b64url(s.read(t, "ek384.der")), issuer}}, curve},
		} {
			t.Run(row.name, func(t *testing.T) {
				c := client(t, row.device, row.flags...)
				chain, err := c.ActivateTPM(t.Context(), row.begin, open(tpm, row.ek, ak))
				if err != nil {
					t.Fatal(err)
				}
				request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: row.device}}, key)
				if err != nil {
					t.Fatal(err)
				}
				wanted := acme.NewOrder{Identifiers: []acme.Identifier{{Type: acme.KindPermanent, Value: row.device}}}
				got, err := c.Obtain(t.Context(), wanted, request, agent.Attest(func(_, auth string) ([]byte, error) { return key.attest(ak, chain, auth) }))
				if err != nil {
					t.Fatal(err)
				}
				leaf, err := x509.ParseCertificate(got[0])
				if err != nil {
					t.Fatal(err)
				}
				if name := der.PermanentIdentifier(row.device, ""); !bytes.Contains(leaf.Raw, name.Value) || !key.key.Equal(leaf.PublicKey) {
					t.Errorf("the certificate is not for the TPM's key, or lacks its permanent identifier: %x", leaf.Raw)
				}
				handshake(t, &tls.Certificate{Certificate: got, PrivateKey: key}, roots)
			})
		}
		t.Run("refusals", func(t *testing.T) {
			stranger := client(t, "unit-3", "--tag", "tpm-ek="+strings.Repeat("00", 32))
			if _, err := stranger.ActivateTPM(t.Context(), begin, open(tpm, ek, ak)); !agent.Is(err, "badAttestationStatement") {
				t.Errorf("a TPM that is not the registered one: %v", err)
			}
			c := client(t, "unit-4")
			if _, err := c.ActivateTPM(t.Context(), begin, func([]byte, []byte) ([]byte, error) { return make([]byte, 32), nil }); !agent.Is(err, "badAttestationStatement") {
				t.Errorf("a secret that was guessed: %v", err)
			}
			bare := begin
			bare.Certificates = nil
			if _, err := c.ActivateTPM(t.Context(), bare, open(tpm, ek, ak)); !agent.Is(err, "badAttestationStatement") {
				t.Errorf("an endorsement key that nobody knows: %v", err)
			}
			loose := begin
			loose.AK = b64url(tpm2.Marshal(key.public))
			if _, err := c.ActivateTPM(t.Context(), loose, open(tpm, ek, key)); !agent.Is(err, "badAttestationStatement") {
				t.Errorf("a key that signs anything as an attestation key: %v", err)
			}
			chain, err := client(t, "unit-5").ActivateTPM(t.Context(), begin, open(tpm, ek, ak))
			if err != nil {
				t.Fatal(err)
			}
			request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Obtain(t.Context(), acme.NewOrder{Identifiers: []acme.Identifier{{Type: acme.KindPermanent, Value: "unit-4"}}}, request,
				agent.Attest(func(_, auth string) ([]byte, error) { return key.attest(ak, chain, auth) }))
			if !agent.Is(err, "badAttestationStatement") {
				t.Errorf("a statement by another device's attestation key: %v", err)
			}
		})
	})
}

// handshake uses a certificate on both sides of a TLS connection.
func handshake(t *testing.T, own *tls.Certificate, roots *x509.CertPool) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	served := make(chan error, 1)
	server := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{*own}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots})
	go func() { served <- server.HandshakeContext(ctx) }()
	client := tls.Client(b, &tls.Config{Certificates: []tls.Certificate{*own}, InsecureSkipVerify: true, VerifyConnection: func(state tls.ConnectionState) error { // it has no DNS name
		between := x509.NewCertPool()
		for _, c := range state.PeerCertificates[1:] {
			between.AddCert(c)
		}
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between})
		return err
	}})
	if err := client.HandshakeContext(ctx); err != nil {
		t.Errorf("the client's side of the handshake: %v", err)
	}
	if _, err := client.Write(nil); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Errorf("the server's side of the handshake: %v", err)
	}
}
