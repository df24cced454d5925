package registrar

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/device"
	"mooring/wire/voucher"
)

// dead is a MASA that never answers; own is one that refuses.
type dead struct{}

func (dead) Voucher(ctx context.Context, _ *Ask) ([]byte, time.Duration, error) {
	<-ctx.Done()
	return nil, 0, errs.New(errs.Unavailable, "it does not answer")
}

func (dead) Log(context.Context, *Ask) (l voucher.AuditLog, err error) { return l, nil }

type own struct{ dead }

func (own) Voucher(context.Context, *Ask) ([]byte, time.Duration, error) {
	return nil, 0, errs.New(errs.Denied, "ours refuses")
}

type crowd struct {
	*testing.T
	s  *Service
	by Signer
	n  int
}

func newCrowd(t *testing.T) *crowd {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "registrar"}, NotAfter: time.Unix(1<<33, 0)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &crowd{T: t, s: New(Deps{Remote: dead{}, Own: own{}, Now: time.Now, Log: slog.New(slog.DiscardHandler)}), by: Signer{Key: key, Certificate: cert}}
}

// one is a request of another device of a manufacturer.
func (c *crowd) one(maker, url string) *pledge {
	c.n++
	d := &device.Device{}
	d.ID[0], d.ID[1], d.ID[2] = byte(c.n), byte(c.n>>8), 1
	return &pledge{leaf: c.by.Certificate, product: device.Product{Maker: maker, Serial: "1"}, device: d, url: url, by: c.by, message: fmt.Append(nil, c.n),
		request: &voucher.SignedRequest{Request: voucher.Request{Nonce: []byte("0123456789abcdef")}}}
}

// TestDeadMASA: a MASA that does not answer keeps back no devices of others.
func TestDeadMASA(t *testing.T) {
	c := newCrowd(t)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- c.s.Run(ctx) }()
	for maker := range 5 {
		for range 2 * maxEach {
			if _, _, err := c.s.enqueue(c.one(fmt.Sprint("dead-", maker), "https://masa.example")); err != nil {
				t.Fatal(err)
			}
		}
	}
	a, done, err := c.s.enqueue(c.one("ours", ""))
	if err != nil {
		t.Fatal(err)
	}
	<-done
	if c.s.mu.Lock(); !errs.Is(a.err, errs.Denied) || c.s.remote > maxAsking || c.s.asking["dead-0"] > maxEach {
		t.Errorf("got %v; %d are with MASAs, %d with one", a.err, c.s.remote, c.s.asking["dead-0"])
	}
	c.s.mu.Unlock()
	cancel()
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
}

// TestCrowd: one manufacturer's devices do not fill the queue, and refused requests make room for others.
func TestCrowd(t *testing.T) {
	c := newCrowd(t)
	var err error
	for n := 0; err == nil; n++ {
		if _, _, err = c.s.enqueue(c.one("many", "https://masa.example")); n > maxQueue {
			t.Fatal("one manufacturer fills the queue")
		}
	}
	if _, _, err := c.s.enqueue(c.one("other", "https://masa.example")); err != nil {
		t.Errorf("the device of another: %v", err)
	}
	c.s.queue, c.s.asked = nil, map[askKey]*asked{}
	for n := range maxAsked {
		c.s.asked[askKey{device: fmt.Sprint(n)}] = &asked{err: errs.New(errs.Denied, "no"), until: time.Now().Add(time.Hour)}
	}
	if _, _, err := c.s.enqueue(c.one("other", "")); err != nil {
		t.Errorf("while there are many that were refused: %v", err)
	}
}
