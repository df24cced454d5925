package demo

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"mooring/agent/est"
	"mooring/agent/mqtt"
	"mooring/wire/der"
	"mooring/wire/ocsp"
)

// fleet is the simulated devices and what they share: the server and the root that they were made to trust.
type fleet struct {
	demo    *Demo
	server  string
	root    *x509.Certificate
	devices []*simulated
}

// simulated is one device. Its key never leaves it.
type simulated struct {
	name, token string
	key         crypto.Signer
	cert        *x509.Certificate
	chain       []*x509.Certificate
	conn        *mqtt.Conn // nil: it does not talk
}

// atOnce is how many devices are busy at the same time.
const atOnce = 64

func newFleet(d *Demo, tokens map[string]string) (*fleet, error) {
	text, err := os.ReadFile(d.made.Root)
	if err != nil {
		return nil, fmt.Errorf("reading the root certificate: %w", err)
	}
	block, _ := pem.Decode(text)
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parsing the root certificate: %w", err)
	}
	f := &fleet{demo: d, server: d.Addresses().EST, root: root}
	for i := range d.o.Devices {
		name := fmt.Sprintf("meter-%06d", i+1)
		f.devices = append(f.devices, &simulated{name: name, token: tokens[name]})
	}
	return f, nil
}

// each has every device do something, some at a time, and returns how many did and how many per second.
func (f *fleet) each(ctx context.Context, stage string, do func(*simulated, context.Context, *fleet) error) (n int, perSecond float64, err error) {
	began := f.demo.o.Now()
	var done atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, s := range f.devices {
		group.Go(func() error {
			if err := do(s, ctx, f); err != nil {
				return fmt.Errorf("%s of %s: %w", stage, s.name, err)
			}
			f.demo.progress(stage, int(done.Add(1)), len(f.devices))
			return nil
		})
	}
	err = group.Wait()
	n = int(done.Load())
	return n, float64(n) / max(f.demo.o.Now().Sub(began).Seconds(), 1e-9), err
}

func (f *fleet) client() (*est.Client, error) {
	return est.New(est.Config{Server: f.server, Roots: []*x509.Certificate{f.root}, Now: f.demo.o.Now})
}

// enrol makes a key and gets the first certificate with the token.
func (s *simulated) enrol(ctx context.Context, f *fleet) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	subject := []der.Attribute{{Type: der.OIDCommonName, Value: s.name}}
	return s.ask(ctx, f, est.Credential{User: s.name, Secret: s.token}, func(session *est.Session) (*x509.Certificate, error) {
		return session.Enrol(ctx, est.Order{Key: key, Subject: subject, Bind: true})
	}, key)
}

// renew gets a new certificate for a new key, authenticated by the old one.
func (s *simulated) renew(ctx context.Context, f *fleet) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	order, err := est.OrderAgain(s.cert, key, nil)
	if err != nil {
		return err
	}
	order.Bind = true
	return s.ask(ctx, f, est.Credential{Certificate: s.credential()}, func(session *est.Session) (*x509.Certificate, error) {
		return session.Renew(ctx, order)
	}, key)
}

func (s *simulated) credential() *tls.Certificate {
	c := &tls.Certificate{PrivateKey: s.key, Leaf: s.cert}
	for _, cert := range s.chain {
		c.Certificate = append(c.Certificate, cert.Raw)
	}
	return c
}

// ask opens a session, gets a certificate, checks that it leads to the root, and keeps it.
func (s *simulated) ask(ctx context.Context, f *fleet, credential est.Credential, get func(*est.Session) (*x509.Certificate, error), key crypto.Signer) error {
	client, err := f.client()
	if err != nil {
		return err
	}
	session, err := client.Connect(ctx, credential)
	if err != nil {
		return err
	}
	defer session.Close()
	cert, err := get(session)
	if err != nil {
		return err
	}
	bundle, err := session.CACerts(ctx)
	if err != nil {
		return err
	}
	chain, err := bundle.Chain(cert, f.demo.o.Now())
	if err != nil {
		return err
	}
	s.key, s.cert, s.chain = key, cert, chain
	return nil
}

func isRefused(err error) bool {
	var refused *est.RefusedError
	return errors.As(err, &refused) && refused.Status == http.StatusForbidden
}

// status asks the OCSP responder about a device's certificate.
func (f *fleet) status(ctx context.Context, s *simulated) (string, error) {
	if len(s.chain) < 2 {
		return "", errors.New("the device has no chain to ask about")
	}
	issuer, err := ocsp.NewIssuer(s.chain[1].RawSubject, s.chain[1].RawSubjectPublicKeyInfo)
	if err != nil {
		return "", err
	}
	id, err := issuer.CertID(crypto.SHA256, s.cert.SerialNumber.Bytes())
	if err != nil {
		return "", err
	}
	nonce := make([]byte, 16)
	rand.Read(nonce)
	request, err := ocsp.AppendRequest(nil, []ocsp.CertID{id}, nonce)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, f.demo.Addresses().Status+"/ocsp", bytes.NewReader(request))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/ocsp-request")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", fmt.Errorf("asking for the certificate's status: %w", err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	if err != nil {
		return "", err
	}
	response, err := ocsp.ParseResponse(body)
	if err != nil {
		return "", fmt.Errorf("reading the certificate's status: %w", err)
	}
	if err := response.CheckSignature(s.chain[1].PublicKey); err != nil {
		return "", fmt.Errorf("checking the certificate's status: %w", err)
	}
	single, found := response.Find(id)
	if !found {
		return "", errors.New("the answer about the certificate's status is about another one")
	}
	return single.Status.String(), nil
}
