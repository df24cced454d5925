package app_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/key"
	"mooring/internal/server/api/client"
)

const (
	revokers         = 8  // who revoke at once
	readers          = 4  // who fetch lists at once
	revokedPerRound  = 40 // certificates that are there to revoke in a round
	revokedUntilKill = 25
)

// TestCrashOfCRLs kills the server again and again while certificates are revoked, held and released and the lists are read, and holds it to its
// promises: whatever was acknowledged stands on the list that the certificate names, numbers only grow, one number is one list, and every
// list verifies and is that of its address. MOORING_CRASH_ROUNDS says how often; 3 is the default.
func TestCrashOfCRLs(t *testing.T) {
	rounds := 3
	if text := os.Getenv("MOORING_CRASH_ROUNDS"); text != "" {
		var err error
		rounds, err = strconv.Atoi(text)
		must(t, err)
	}
	c, made := apptest.Init(t, &apptest.Clock{}, &apptest.Log{}, nil)
	b := newBoard(t, app.Options{Config: c}, rounds*revokedPerRound)
	for round := range rounds {
		s := startServer(t, made.Dir)
		b.revokeUntil(t, s, b.certs[round*revokedPerRound:(round+1)*revokedPerRound], revokedUntilKill)
	}
	s := startServer(t, made.Dir)
	b.everyAcknowledged(t)
	s.kill()
	p, err := load(t.Context(), made.Dir, app.Open)
	must(t, err)
	defer func() { must(t, p.Close()) }()
	report, err := p.Audit.Verify(t.Context(), audit.VerifyOptions{Checkers: p.Checkers()})
	must(t, err)
	for _, found := range report.Findings {
		t.Errorf("the record does not verify: %s", found)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	t.Logf("%d kills; %d lists read, %d of them different; %d acts acknowledged", rounds, b.read, len(b.digests), b.acks)
}

// board is what the world outside has seen.
type board struct {
	issuer *x509.Certificate
	certs  []*revokee

	mu      sync.Mutex
	newest  map[string]seenList // by address
	digests map[string][32]byte // by address and number
	read    int
	acks    int
}

type revokee struct {
	serial  string
	leaf    *x509.Certificate
	address string

	mu     sync.Mutex
	listed bool // it was acknowledged that it is revoked for good
	free   bool // it was acknowledged that its hold was lifted, and nothing was asked for since
}

type seenList struct {
	number  int64
	entries map[string]int // serial to reason
}

// newBoard makes an installation with n certificates, before it is served.
func newBoard(t *testing.T, o app.Options, n int) *board {
	t.Helper()
	p, err := app.Open(t.Context(), o)
	must(t, err)
	devices, err := p.CA.Issuer("devices")
	must(t, err)
	b := &board{issuer: devices.Certificate(), newest: map[string]seenList{}, digests: map[string][32]byte{}}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Enrol.Run(ctx) }()
	for i := range n {
		d, err := p.Devices.Add(t.Context(), apptest.Operator(), device.Spec{Name: fmt.Sprintf("meter-%04d", i), Profile: "device"})
		must(t, err)
		k, err := key.New(key.P256)
		must(t, err)
		answer, err := p.Enrol.Direct(t.Context(), apptest.Operator(), d.ID, k)
		must(t, err)
		leaf, err := x509.ParseCertificate(answer.Certificate.DER)
		must(t, err)
		b.certs = append(b.certs, &revokee{serial: fmt.Sprintf("%x", leaf.SerialNumber), leaf: leaf, address: leaf.CRLDistributionPoints[0]})
	}
	stop()
	must(t, <-ended)
	must(t, p.Close())
	if devices.Shards() != ca.MostShards {
		t.Fatalf("the CA has %d shards", devices.Shards())
	}
	return b
}

// revokeUntil revokes the certificates, reads lists meanwhile, and kills the server when enough was acknowledged.
func (b *board) revokeUntil(t *testing.T, s *server, certs []*revokee, enough int) {
	t.Helper()
	defer s.kill()
	c := client.New(s.addresses.Socket)
	defer c.Close()
	ctx, over := context.WithCancel(t.Context())
	defer over()
	var reading, revoking sync.WaitGroup
	for range readers {
		reading.Go(func() {
			for ctx.Err() == nil {
				b.look(ctx, t, b.certs[rand.IntN(len(b.certs))].address)
			}
		})
	}
	queue := make(chan *revokee, len(certs))
	for _, r := range certs {
		queue <- r
	}
	close(queue)
	acked := make(chan struct{}, len(certs))
	for range revokers {
		revoking.Go(func() {
			for r := range queue {
				if b.act(ctx, c, r) {
					acked <- struct{}{}
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { revoking.Wait(); close(done) }()
	for n := 0; n < enough; n++ {
		select {
		case <-acked:
		case <-done:
			n = enough
		}
	}
	s.kill()
	over()
	<-done
	reading.Wait()
}

// act revokes for good, or holds, releases, and then sometimes revokes. Whatever goes wrong is the crash that the test is about.
func (b *board) act(ctx context.Context, c *client.Client, r *revokee) bool {
	ack := func() {
		b.mu.Lock()
		b.acks++
		b.mu.Unlock()
	}
	if rand.IntN(3) == 0 {
		if _, err := c.Revoke(ctx, r.serial, "certificateHold"); err != nil {
			return false
		}
		ack()
		if _, err := c.Release(ctx, r.serial); err != nil {
			return false
		}
		ack()
		if rand.IntN(2) == 0 {
			r.mu.Lock()
			r.free = true
			r.mu.Unlock()
			return true
		}
	}
	if _, err := c.Revoke(ctx, r.serial, "superseded"); err != nil {
		return false
	}
	ack()
	r.mu.Lock()
	r.listed = true
	r.mu.Unlock()
	return true
}

// look fetches the list at an address and compares it with all that was seen there.
func (b *board) look(ctx context.Context, t *testing.T, address string) {
	b.mu.Lock()
	before := b.newest[address].number
	b.mu.Unlock()
	l, digest, err := b.fetch(ctx, address)
	if err != nil {
		return // the server is gone, or not there yet
	}
	if n := l.Number.Int64(); n < before {
		t.Errorf("%s: the list %d was served after %d", address, n, before)
	}
	if err := b.check(address, l, digest); err != nil {
		t.Errorf("%s: %v", address, err)
	}
}

func (b *board) fetch(ctx context.Context, address string) (*x509.RevocationList, [32]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, [32]byte{}, err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, [32]byte{}, err
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		return nil, [32]byte{}, errors.Join(err, errors.New(answer.Status))
	}
	l, err := x509.ParseRevocationList(raw)
	return l, sha256.Sum256(raw), err
}

// check says what is wrong with a list.
func (b *board) check(address string, l *x509.RevocationList, digest [32]byte) error {
	if err := l.CheckSignatureFrom(b.issuer); err != nil {
		return err
	}
	point := []byte(nil)
	for _, e := range l.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 28}) && e.Critical {
			point = e.Value
		}
	}
	if !bytes.Contains(point, append([]byte{0x86, byte(len(address))}, address...)) {
		return fmt.Errorf("the list %s names another address: %q", l.Number, point)
	}
	if l.NextUpdate.Before(time.Now()) || l.ThisUpdate.After(time.Now().Add(time.Minute)) {
		return fmt.Errorf("the list %s is of %s to %s", l.Number, l.ThisUpdate, l.NextUpdate)
	}
	seen := seenList{number: l.Number.Int64(), entries: map[string]int{}}
	for _, e := range l.RevokedCertificateEntries {
		serial := fmt.Sprintf("%x", e.SerialNumber)
		if _, twice := seen.entries[serial]; twice {
			return fmt.Errorf("the list %s has the entry %s twice", l.Number, serial)
		}
		seen.entries[serial] = e.ReasonCode
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.read++
	which := fmt.Sprint(address, seen.number)
	if before, known := b.digests[which]; known && before != digest {
		return fmt.Errorf("there are two lists with the number %s", l.Number)
	}
	b.digests[which] = digest
	was := b.newest[address]
	if seen.number < was.number { // another reader was faster; see look
		return nil
	}
	for serial, reason := range was.entries {
		if _, there := seen.entries[serial]; !there && reason != 6 {
			return fmt.Errorf("the list %s lost the entry %s of the list %d", l.Number, serial, was.number)
		}
	}
	b.newest[address] = seen
	return nil
}

// everyAcknowledged reads, one after the other, the lists of all certificates of which something was acknowledged.
func (b *board) everyAcknowledged(t *testing.T) {
	t.Helper()
	last := map[string]int64{}
	for address, was := range b.newest {
		last[address] = was.number
	}
	for _, r := range b.certs {
		l, digest, err := b.fetch(t.Context(), r.address)
		if err != nil {
			t.Errorf("%s: %v", r.address, err)
			continue
		}
		if err := b.check(r.address, l, digest); err != nil {
			t.Errorf("%s: %v", r.address, err)
		}
		if l.Number.Int64() < last[r.address] {
			t.Errorf("%s: the list %s was served after %d", r.address, l.Number, last[r.address])
		}
		reason, there := b.newest[r.address].entries[r.serial]
		switch {
		case r.listed && (!there || reason != 4):
			t.Errorf("%s: the entry of %s was acknowledged and is lost (reason %d)", r.address, r.serial, reason)
		case r.free && there:
			t.Errorf("%s: the hold of %s was lifted, and it is on the list", r.address, r.serial)
		}
	}
}
