package app_test

import (
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/enrol"
)

// TestForging is somebody who can write to the database and knows how everything in it looks, but has no key: he makes himself a certificate
// of the administrator, puts it on record wherever a certificate stands, and adds the entry that tells of it. He is nobody all the same, and
// a verification names what he wrote.
func TestForging(t *testing.T) {
	ofFiles(t)
	dir := smallLife(t)
	v := &tampered{test: t, dir: copyOf(t, dir), original: dir}
	v.open(t)
	defer v.close(t)
	forged := v.forgeCertificate(t)
	batch := v.forgeEntry(t, forged)
	if id, err := v.platform.Enrol.Authenticate(t.Context(), [][]byte{forged.DER}); !errors.Is(err, enrol.ErrUnauthenticated) {
		t.Errorf("the forged certificate: got %+v, %v, want a stranger", id, err)
	}
	if err := v.platform.Audit.Sequence(t.Context()); err == nil {
		t.Error("the forged entry was given its place")
	}
	found := strings.Join(v.verify(t), "\n")
	for _, want := range []string{
		"audit_batch in batch " + batch + ": its row does not bear the MAC of this platform's key",
		"certificate " + hex.EncodeToString(forged.Serial[:]) + " is in the database, but no entry says that it was issued",
	} {
		if !strings.Contains(found, want) {
			t.Errorf("the verification finds\n%s\nwant %q in it", found, want)
		}
	}
}

// TestOtherKeys: a server with another key store than the database's does not start, and writes nothing there.
func TestOtherKeys(t *testing.T) {
	ofFiles(t)
	dir := smallLife(t)
	c, _ := apptest.Init(t, &apptest.Clock{}, &apptest.Log{}, onSQLite)
	c.Database.URL = "sqlite:" + filepath.Join(dir, "mooring.db")
	p, err := app.Build(t.Context(), app.Options{Config: c})
	if err == nil {
		must(t, p.Close())
	}
	want := "the database belongs to another installation: " + c.KeyDir() + " holds the key of none of its CAs. It was left alone; set database.url and keys.dir to those of one installation"
	if !errs.Is(err, errs.Conflict) || errs.Public(err) != want {
		t.Errorf("starting: got %v, want %q", err, want)
	}
	v := &tampered{test: t, dir: dir, original: dir}
	v.open(t)
	defer v.close(t)
	if found := v.verify(t); len(found) > 0 {
		t.Errorf("afterwards: %v", found)
	}
}

func wantUnreadable(t *testing.T, c *conf.Config) {
	t.Helper()
	p, err := app.Build(t.Context(), app.Options{Config: c})
	if err == nil {
		must(t, p.Close())
	}
	if !errs.Is(err, errs.Unavailable) || !strings.HasPrefix(errs.Public(err), "the newest entry of the audit record cannot be read") {
		t.Errorf("starting: got %v, want a refusal", err)
	}
}

// TestDamagedEndIsVerified: where the end of the record is damaged, so that no server starts, a verification still opens it.
func TestDamagedEndIsVerified(t *testing.T) {
	ofFiles(t)
	dir := smallLife(t)
	v := &tampered{test: t, dir: dir, original: dir}
	v.open(t)
	config := v.platform.Config
	v.exec(t, `UPDATE audit_batch SET mac = zeroblob(32) WHERE EXISTS (SELECT 1 FROM audit_pos p WHERE p.stream = audit_batch.stream AND p.seq = audit_batch.seq AND p.part = audit_batch.part AND p.idx = (SELECT MAX(idx) FROM audit_pos))`)
	v.close(t)
	wantUnreadable(t, config)
	v.open(t)
	defer v.close(t)
	if found := v.verify(t); len(found) != 1 || !strings.Contains(found[0], "MAC") {
		t.Errorf("found %q, want the one batch", found)
	}
}

// exec changes one row behind the platform's back.
func (v *tampered) exec(t *testing.T, query string, args ...any) {
	t.Helper()
	result, err := v.behind.Exec(query, args...)
	must(t, err)
	if n, err := result.RowsAffected(); err != nil || n != 1 {
		t.Fatalf("%s: %d rows, %v", query, n, err)
	}
}

// forgeCertificate makes a self-signed certificate for the administrator that the installation has and writes its rows.
func (v *tampered) forgeCertificate(t *testing.T) *ca.Certificate {
	t.Helper()
	var serial []byte
	must(t, v.behind.QueryRow(`SELECT s.serial FROM slot s JOIN device d ON d.cell = s.cell AND d.id = s.device WHERE d.profile = 'operator-admin' AND s.slot = 'operational'`).Scan(&serial))
	own, err := v.platform.CA.Get(t.Context(), serial)
	must(t, err)
	c := *own
	c.PrevSerial, c.Serial[15] = serial, c.Serial[15]^1
	leaf, err := x509.ParseCertificate(own.DER)
	must(t, err)
	key := apptest.Key(t)
	c.DER = selfSigned(t, leaf, c.Serial[:], key)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	c.SPKIHash = sha256.Sum256(spki)
	v.exec(t, `INSERT INTO cert (cell, day, serial, device, slot, issuer, profile, version, prev_serial, not_before, not_after, spki, der) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		c.Cell, c.Day, c.Serial[:], c.Device[:], c.Slot, c.Issuer[:], c.Profile, c.Version, c.PrevSerial, c.NotBefore, c.NotAfter, c.SPKIHash[:], c.DER)
	v.exec(t, `UPDATE slot SET serial = ?, prev_serial = ?, spki = ? WHERE cell = ? AND device = ? AND slot = ?`, c.Serial[:], serial, c.SPKIHash[:], c.Cell, c.Device[:], c.Slot)
	v.exec(t, `UPDATE device SET issued = issued + 1 WHERE cell = ? AND id = ?`, c.Cell, c.Device[:])
	return &c
}

// selfSigned makes a certificate that is like another one in all but serial number, key and signature, which is by its own key.
func selfSigned(t *testing.T, like *x509.Certificate, serial []byte, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	raw, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: new(big.Int).SetBytes(serial), Subject: like.Subject, NotBefore: like.NotBefore, NotAfter: like.NotAfter,
		KeyUsage: like.KeyUsage, ExtKeyUsage: like.ExtKeyUsage, BasicConstraintsValid: true, URIs: like.URIs}, &x509.Certificate{RawSubject: like.RawIssuer}, key.Public(), key)
	must(t, err)
	return raw
}

// forgeEntry writes the entry that a certificate's issue leaves, in a stream of its own, and returns the batch's name.
func (v *tampered) forgeEntry(t *testing.T, c *ca.Certificate) string {
	t.Helper()
	now := time.Now()
	e := c.Entry(access.Device(hex.EncodeToString(c.Device[:]), "est"))
	e.At = now.Unix()
	e.Detail["n"], e.Detail["presented"], e.Detail["evidence"], e.Detail["protocol"] = "2", hex.EncodeToString(c.PrevSerial), "operational", "est"
	text := e.Bytes()
	body := append(binary.AppendUvarint(binary.AppendUvarint([]byte{1}, uint64(now.UnixMicro())), uint64(len(text))), text...)
	mac := hmac.New(sha256.New, make([]byte, 32)) // of a key that he made up
	mac.Write(body)
	stream := []byte("forged-1")
	v.exec(t, `INSERT INTO stream (cell, stream, node, next, closed, checked) VALUES (0, ?, 'node', 2, 0, 0)`, stream)
	v.exec(t, `INSERT INTO audit_batch (cell, stream, seq, part, ts, n, body, mac) VALUES (0, ?, 1, 0, ?, 1, ?, ?)`, stream, now.UnixMicro(), body, mac.Sum(nil))
	return hex.EncodeToString(stream) + "/1/0"
}
