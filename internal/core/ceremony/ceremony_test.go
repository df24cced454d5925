package ceremony_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/ceremony"
	"mooring/internal/core/ceremony/minutes"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

const year = 365 * 86400

// memory is a custody of keys that live as long as the test.
type memory map[key.ID]crypto.Signer

func (m memory) Generate(_ context.Context, alg key.Algorithm, label string) (key.ID, crypto.PublicKey, error) {
	signer, err := key.New(alg)
	if err != nil {
		return "", nil, err
	}
	id := key.ID(label + string(rune('0'+len(m))))
	m[id] = signer
	return id, signer.Public(), nil
}

func (m memory) Signer(_ context.Context, id key.ID) (crypto.Signer, error) {
	if s := m[id]; s != nil {
		return s, nil
	}
	return nil, errs.New(errs.Unavailable, "no key %s", id)
}

// site is a machine with a root.
type site struct {
	dir  string
	keys memory
	now  time.Time
}

func (s *site) deps() ceremony.Deps {
	return ceremony.Deps{Now: func() time.Time { return s.now }, By: "Alice", With: []string{"Bob"}}
}

func newSite(t *testing.T, subject string, alg key.Algorithm) (*site, *ceremony.Root) {
	t.Helper()
	s := &site{dir: filepath.Join(t.TempDir(), "root"), keys: memory{}, now: time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC)}
	name, err := der.ParseDN(subject)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ceremony.Create(t.Context(), s.dir, s.keys, ceremony.Spec{Subject: name, Algorithm: alg, Validity: 30 * year, PathLen: 2, Status: "http://pki.test/"}, s.deps())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return s, r
}

// reopen is a later day.
func (s *site) reopen(t *testing.T, r *ceremony.Root) *ceremony.Root {
	t.Helper()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	s.now = s.now.Add(24 * time.Hour)
	r, err := ceremony.Open(s.dir, s.keys, s.deps())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// request makes a certification request.
func request(t *testing.T, signer crypto.Signer, subject string, extensions ...der.Extension) []byte {
	t.Helper()
	name, err := der.ParseDN(subject)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := der.EncodePublicKey(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	info, err := der.AppendRequestInfo(nil, der.RequestSpec{Subject: name, SPKI: spki, Extensions: extensions})
	if err != nil {
		t.Fatal(err)
	}
	algorithm, err := der.AlgorithmFor(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	signature, err := signer.Sign(rand.Reader, algorithm.Digest(info), algorithm.Hash())
	if err != nil {
		t.Fatal(err)
	}
	return der.Wrap(nil, info, algorithm, signature)
}

func newKey(t *testing.T, alg key.Algorithm) crypto.Signer {
	t.Helper()
	signer, err := key.New(alg)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func isCA(pathLen int) []der.Extension {
	return []der.Extension{der.NewBasicConstraints(true, pathLen), der.NewKeyUsage(der.KeyCertSign | der.CRLSign)}
}

func sign(t *testing.T, r *ceremony.Root, csr []byte, o ceremony.Order) *x509.Certificate {
	t.Helper()
	q, err := r.Review(csr, o)
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.Sign(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(m.DER)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestLifeOfARoot makes a root, certifies a CA, revokes it and lists it, on several days, for every kind of key.
func TestLifeOfARoot(t *testing.T) {
	for _, alg := range []key.Algorithm{key.P256, key.P384, key.Ed25519, key.RSA3072, key.MLDSA65} {
		t.Run(string(alg), func(t *testing.T) {
			s, r := newSite(t, "CN=Acme Root G1,O=Acme", alg)
			r = s.reopen(t, r)
			cert := sign(t, r, request(t, newKey(t, key.P256), "CN=Acme Devices G1,O=Acme", isCA(0)...), ceremony.Order{Validity: 10 * year})
			pub, err := der.ParsePublicKey(r.Certificate().RawSubjectPublicKeyInfo)
			if err != nil {
				t.Fatal(err)
			}
			if err := der.CheckCertificate(cert, pub); err != nil {
				t.Errorf("the certificate of the CA: %v", err)
			}
			if want := "http://pki.test/crl/" + ca.IDOf(r.Certificate()).String() + ".crl"; len(cert.CRLDistributionPoints) != 1 || cert.CRLDistributionPoints[0] != want {
				t.Errorf("it points to %v, want %s", cert.CRLDistributionPoints, want)
			}
			serial := cert.SerialNumber.Text(16)
			r = s.reopen(t, r)
			if err := r.Revoke(t.Context(), "4711", "superseded"); !errs.Is(err, errs.NotFound) {
				t.Errorf("revoking a foreign certificate: %v", err)
			}
			if err := r.Revoke(t.Context(), serial, "cACompromise"); err != nil {
				t.Fatal(err)
			}
			if err := r.Revoke(t.Context(), serial, "cACompromise"); !errs.Is(err, errs.Conflict) {
				t.Errorf("revoking twice: %v", err)
			}
			r = s.reopen(t, r)
			first, err := r.SignCRL(t.Context(), year)
			if err != nil {
				t.Fatal(err)
			}
			second, err := r.SignCRL(t.Context(), year)
			if err != nil || second.Number <= first.Number {
				t.Errorf("list %d follows list %d, %v", second.Number, first.Number, err)
			}
			list, err := x509.ParseRevocationList(second.DER)
			if err != nil || len(list.RevokedCertificateEntries) != 1 || list.RevokedCertificateEntries[0].SerialNumber.Cmp(cert.SerialNumber) != 0 || list.RevokedCertificateEntries[0].ReasonCode != 2 {
				t.Errorf("the list: %+v, %v", list, err)
			}
			if _, err := minutes.Parse(r.Record().Text()); err != nil {
				t.Errorf("the record: %v", err)
			}
		})
	}
}

// TestRequestsThatAreRefused are those that a root must not sign, each with what people are told.
func TestRequestsThatAreRefused(t *testing.T) {
	s, r := newSite(t, "CN=Acme Root G1,O=Acme", key.P256)
	signer, used := newKey(t, key.P256), newKey(t, key.P256)
	sign(t, r, request(t, used, "CN=Acme Used G1,O=Acme", isCA(0)...), ceremony.Order{Validity: year})
	gone := newKey(t, key.P256)
	if err := r.Revoke(t.Context(), sign(t, r, request(t, gone, "CN=Acme Gone G1,O=Acme", isCA(0)...), ceremony.Order{Validity: year}).SerialNumber.Text(16), "superseded"); err != nil {
		t.Fatal(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	const good = "CN=Acme Devices G1,O=Acme"
	forged := request(t, signer, good, isCA(0)...)
	forged[len(forged)-1] ^= 1
	san, err := der.NewAltNames(der.AltNames{DNS: []string{"pki.example.com"}}, false)
	if err != nil {
		t.Fatal(err)
	}
	own := s.keys[firstKey(s.keys)]
	for _, row := range []struct {
		name  string
		csr   []byte
		order ceremony.Order
		want  string
	}{
		{"excessive path length", request(t, signer, good, isCA(3)...), ceremony.Order{}, "excessive path length: 3 tiers"},
		{"more than the root permits", request(t, signer, good, isCA(2)...), ceremony.Order{PathLen: 2}, "can permit at most 1"},
		{"no CA", request(t, signer, good), ceremony.Order{}, "not for a CA"},
		{"CA:FALSE", request(t, signer, good, der.NewBasicConstraints(false, 0)), ceremony.Order{}, "not for a CA"},
		{"wrong signature", forged, ceremony.Order{}, "signature on the request is wrong"},
		{"weak key", request(t, weak, good, isCA(0)...), ceremony.Order{}, "weak"},
		{"foreign organisation", request(t, signer, "CN=Acme Devices G1,O=Evil", isCA(0)...), ceremony.Order{}, "foreign organisation"},
		{"alternative names", request(t, signer, good, append(isCA(0), san)...), ceremony.Order{}, "alternative names"},
		{"usage of a device", request(t, signer, good, der.NewBasicConstraints(true, 0), der.NewKeyUsage(der.KeyCertSign|der.KeyEncipherment)), ceremony.Order{}, "no business"},
		{"usage without certificates", request(t, signer, good, der.NewBasicConstraints(true, 0), der.NewKeyUsage(der.CRLSign)), ceremony.Order{}, "without keyCertSign"},
		{"extended usage", request(t, signer, good, append(isCA(0), der.NewExtKeyUsage(der.OIDOCSPSigning))...), ceremony.Order{}, "2.5.29.37"},
		{"name of the root", request(t, signer, "CN=Acme Root G1,O=Acme", isCA(0)...), ceremony.Order{}, "name of the CA that is to sign"},
		{"no common name", request(t, signer, "O=Acme", isCA(0)...), ceremony.Order{}, "no common name"},
		{"key of the root", request(t, own, good, isCA(0)...), ceremony.Order{}, "key of the root itself"},
		{"key of another CA", request(t, used, good, isCA(0)...), ceremony.Order{}, "certified before, in entry 2"},
		{"name of another CA", request(t, signer, "CN=Acme Used G1,O=Acme", isCA(0)...), ceremony.Order{}, "another key was certified under this name"},
		{"revoked key", request(t, gone, "CN=Acme Gone G1,O=Acme", isCA(0)...), ceremony.Order{}, "was revoked"},
		{"outliving the root", request(t, signer, good, isCA(0)...), ceremony.Order{Validity: 31 * year}, "outlive the root"},
		{"not a request", []byte("hello"), ceremony.Order{}, "cannot be read"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.order.Validity == 0 {
				row.order.Validity = year
			}
			before := r.Record().Text()
			if _, err := r.Review(row.csr, row.order); !errs.Is(err, errs.Invalid) || !strings.Contains(errs.Public(err), row.want) {
				t.Errorf("got %v, want a refusal with %q", err, row.want)
			}
			if !bytes.Equal(r.Record().Text(), before) {
				t.Error("the record changed")
			}
		})
	}
	for name, csr := range map[string][]byte{"plain": request(t, signer, good, isCA(0)...), "without limit asked": request(t, newKey(t, key.P384), "CN=Acme Services G1,O=Acme", isCA(-1)...)} {
		if _, err := r.Review(csr, ceremony.Order{Validity: year}); err != nil {
			t.Errorf("the %s request is refused: %v", name, err)
		}
	}
	if _, err := r.Review(request(t, signer, "CN=Partner CA,O=Partner", isCA(0)...), ceremony.Order{Validity: year, AnyName: true}); err != nil {
		t.Errorf("a partner that was meant is refused: %v", err)
	}
}

func firstKey(m memory) key.ID {
	for id := range m {
		return id
	}
	return ""
}

// TestCrossCertificatesComeFirst makes the four certificates of RFC 4210, section 4.4, many times, for the lengths of signatures vary.
func TestCrossCertificatesComeFirst(t *testing.T) {
	for _, algs := range [][2]key.Algorithm{{key.P256, key.P256}, {key.P384, key.P384}, {key.P256, key.P384}, {key.P384, key.MLDSA65}} {
		for range 20 {
			a, oldRoot := newSite(t, "CN=Acme Root G1,O=Acme", algs[0])
			a.now = a.now.Add(year * time.Second)
			b, newRoot := newSite(t, "CN=Acme Root G2,O=Acme", algs[1])
			b.now = a.now
			newWithOld := cross(t, oldRoot, newRoot)
			oldWithNew := cross(t, newRoot, oldRoot)
			if !ca.ComesFirst(newWithOld.Raw, newRoot.Certificate().Raw) {
				t.Fatalf("%v: NewWithOld has %d octets, NewWithNew %d", algs, len(newWithOld.Raw), len(newRoot.Certificate().Raw))
			}
			if algs[0] == algs[1] && !ca.ComesFirst(oldWithNew.Raw, oldRoot.Certificate().Raw) {
				t.Fatalf("%v: OldWithNew has %d octets, OldWithOld %d", algs, len(oldWithNew.Raw), len(oldRoot.Certificate().Raw))
			}
			if end := oldRoot.Certificate().NotAfter; !newWithOld.NotAfter.Equal(end) || !oldWithNew.NotAfter.Equal(end) {
				t.Fatalf("the cross certificates end at %s and %s, want %s", newWithOld.NotAfter, oldWithNew.NotAfter, end)
			}
			if newWithOld.MaxPathLen != 1 || oldWithNew.MaxPathLen != 1 {
				t.Fatalf("path lengths %d and %d", newWithOld.MaxPathLen, oldWithNew.MaxPathLen)
			}
		}
	}
}

func cross(t *testing.T, by, of *ceremony.Root) *x509.Certificate {
	t.Helper()
	q, err := by.ReviewRoot(of.Certificate().Raw)
	if err != nil {
		t.Fatal(err)
	}
	m, err := by.Sign(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(m.DER)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestPowerCuts puts the directory into each state that a power cut can leave.
func TestPowerCuts(t *testing.T) {
	s, r := newSite(t, "CN=Acme Root G1,O=Acme", key.P256)
	path := filepath.Join(s.dir, "root.json")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	older := r.Record().Text()
	if err := r.Note(t.Context(), "the box was sealed with number 4711"); err != nil {
		t.Fatal(err)
	}
	list, err := r.SignCRL(t.Context(), year)
	if err != nil {
		t.Fatal(err)
	}
	// The record was written and the state was not: what was signed counts.
	if err := os.WriteFile(path, before, 0o600); err != nil {
		t.Fatal(err)
	}
	r = s.reopen(t, r)
	if n := len(r.Record().Entries); n != 3 {
		t.Errorf("%d entries are known, want 3", n)
	}
	next, err := r.SignCRL(t.Context(), year)
	if err != nil || next.Number <= list.Number {
		t.Errorf("list %d follows list %d after the state was lost, %v", next.Number, list.Number, err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	// The record was cut short.
	if err := os.WriteFile(filepath.Join(s.dir, "record.txt"), older, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ceremony.Open(s.dir, s.keys, s.deps()); !errs.Is(err, errs.Unavailable) || !strings.Contains(errs.Public(err), "cut short") {
		t.Errorf("a record that was cut short: %v", err)
	}
}

// TestRecordsThatWereChanged changes each octet and line of a record in turn.
func TestRecordsThatWereChanged(t *testing.T) {
	_, r := newSite(t, "CN=Acme Root G1,O=Acme", key.P256)
	sign(t, r, request(t, newKey(t, key.P256), "CN=Acme Devices G1,O=Acme", isCA(0)...), ceremony.Order{Validity: year})
	if err := r.Note(t.Context(), "done"); err != nil {
		t.Fatal(err)
	}
	text := r.Record().Text()
	if _, err := minutes.Parse(text); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(text); i += 3 {
		changed := bytes.Clone(text)
		changed[i] ^= 1
		if _, err := minutes.Parse(changed); err == nil {
			t.Errorf("octet %d was changed and nobody noticed: %q", i, text[max(0, i-20):i+1])
		}
	}
	lines := strings.SplitAfter(string(text), "\n")
	for i := range lines {
		if lines[i] == "" {
			continue
		}
		without := strings.Join(append(append([]string{}, lines[:i]...), lines[i+1:]...), "")
		if _, err := minutes.Parse([]byte(without)); err == nil {
			t.Errorf("line %d was taken out and nobody noticed: %q", i+1, lines[i])
		}
	}
	if err := r.Note(t.Context(), "two\nlines"); !errs.Is(err, errs.Invalid) {
		t.Errorf("a note of two lines: %v", err)
	}
}

// TestOneAtATime locks the directory, wants the clock to go on, and refuses a second root.
func TestOneAtATime(t *testing.T) {
	s, r := newSite(t, "CN=Acme Root G1,O=Acme", key.P256)
	if _, err := ceremony.Open(s.dir, s.keys, s.deps()); !errs.Is(err, errs.Conflict) {
		t.Errorf("opening it twice: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	name, _ := der.ParseDN("CN=Other,O=Acme")
	if _, err := ceremony.Create(t.Context(), s.dir, s.keys, ceremony.Spec{Subject: name, Algorithm: key.P256, Validity: year, PathLen: 1}, s.deps()); !errs.Is(err, errs.Conflict) {
		t.Errorf("a second root: %v", err)
	}
	s.now = s.now.Add(-time.Hour)
	if _, err := ceremony.Open(s.dir, s.keys, s.deps()); !errs.Is(err, errs.Unavailable) || !strings.Contains(errs.Public(err), "set the clock") {
		t.Errorf("a clock that was put back: %v", err)
	}
	if _, err := ceremony.Open(t.TempDir(), s.keys, s.deps()); !errs.Is(err, errs.NotFound) {
		t.Errorf("no root: %v", err)
	}
}
