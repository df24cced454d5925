package cmp_test

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/wire/cmp"
	"mooring/wire/der"
)

func withCMP(c *conf.Config) { c.Listen.CMP = "127.0.0.1:0" }

// client is somebody who sends messages. Its header can be changed before each.
type client struct {
	t    *testing.T
	p    *apptest.Platform
	path string
	// Who it is: a secret with a name, or a certificate. Neither: it protects nothing.
	name, secret string
	mac          *cmp.MAC // how; nil = as new messages have it
	pair         *tls.Certificate

	id, theirs []byte // transactionID, and the nonce of the last answer
	header     func(*cmp.Header)
	raw        func([]byte) []byte // changes the octets that are sent
	sent       []byte
}

func byMAC(t *testing.T, p *apptest.Platform, name, secret string) *client {
	return &client{t: t, p: p, path: cmp.WellKnown, name: name, secret: secret, id: random(16)}
}

func byCert(t *testing.T, p *apptest.Platform, pair tls.Certificate) *client {
	return &client{t: t, p: p, path: cmp.WellKnown, pair: &pair, id: random(16)}
}

func random(n int) []byte {
	out := make([]byte, n)
	rand.Read(out)
	return out
}

// build makes a message.
func (c *client) build(body cmp.Body) []byte {
	c.t.Helper()
	h := cmp.Header{Version: 2, Sender: []byte(cmp.Empty), Recipient: []byte(cmp.Empty), Time: c.p.Clock.Now(), Transaction: c.id, SenderNonce: random(16), RecipientNonce: c.theirs}
	var protector cmp.Protector
	var certs [][]byte
	switch {
	case c.pair != nil:
		protector, certs = &cmp.Signer{Key: c.pair.PrivateKey.(crypto.Signer), Rand: rand.Reader}, c.pair.Certificate
		h.Sender, h.SenderKID = c.pair.Leaf.RawSubject, c.pair.Leaf.SubjectKeyId
	case c.secret != "":
		mac := c.mac
		if mac == nil {
			var err error
			if mac, err = cmp.NewMAC([]byte(c.secret), rand.Reader); err != nil {
				c.t.Fatal(err)
			}
		}
		protector, h.SenderKID = mac, []byte(c.name)
	}
	if c.header != nil {
		c.header(&h)
	}
	out, err := cmp.Build(h, body, certs, protector)
	if err != nil {
		c.t.Fatal(err)
	}
	if c.raw != nil {
		out = c.raw(out)
	}
	c.header, c.raw = nil, nil
	return out
}

// post sends octets and returns the answer's.
func (c *client) post(body []byte) []byte {
	c.t.Helper()
	r, err := http.Post(c.p.Addresses().CMP+c.path, cmp.MediaType, bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := io.ReadAll(r.Body)
	if err := errors.Join(err, r.Body.Close()); err != nil {
		c.t.Fatal(err)
	}
	if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != cmp.MediaType {
		c.t.Fatalf("%s: got %d %q %q", c.path, r.StatusCode, r.Header.Get("Content-Type"), out)
	}
	return out
}

// send sends a body, checks the answer's protection and header, and returns its body.
func (c *client) send(body cmp.Body) cmp.Body {
	c.t.Helper()
	c.sent = c.build(body)
	return c.read(c.post(c.sent))
}

// refusals counts the answers that refuse. TestAcceptance compares it with the record.
var refusals atomic.Int64

func (c *client) read(out []byte) cmp.Body {
	c.t.Helper()
	m, err := cmp.Parse(out)
	if err != nil {
		c.t.Fatalf("reading the answer: %v\n%x", err, out)
	}
	if asked, err := cmp.Parse(c.sent); err == nil && (!bytes.Equal(m.Header.RecipientNonce, asked.Header.SenderNonce) ||
		asked.Header.Transaction != nil && !bytes.Equal(m.Header.Transaction, asked.Header.Transaction)) {
		c.t.Errorf("the answer has the nonce %x and the transaction %x, want %x and %x", m.Header.RecipientNonce, m.Header.Transaction, asked.Header.SenderNonce, asked.Header.Transaction)
	}
	if len(m.Header.SenderNonce) < 16 || m.Header.Time.IsZero() {
		c.t.Errorf("the answer's header: got %+v", m.Header)
	}
	if failure(c.t, m.Body) >= 0 {
		refusals.Add(1)
	}
	c.theirs = m.Header.SenderNonce
	c.protected(m)
	return m.Body
}

// protected checks who protected an answer: whoever has the secret, or the platform's server certificate.
func (c *client) protected(m *cmp.Message) {
	c.t.Helper()
	if cmp.IsMAC(m.Header.Protection) {
		mac, err := cmp.ParseMAC(m.Header.Protection)
		if err != nil {
			c.t.Fatal(err)
		}
		mac.Secret = []byte(c.secret)
		if err := m.CheckMAC(mac); err != nil || c.pair != nil {
			c.t.Errorf("the answer's MAC: got %v", err)
		}
		return
	}
	if len(m.Certs) == 0 {
		c.t.Fatal("the answer is neither signed nor has it a MAC")
	}
	leaf, err := x509.ParseCertificate(m.Certs[0])
	if err != nil {
		c.t.Fatal(err)
	}
	between := x509.NewCertPool()
	for _, raw := range m.Certs[1:] {
		above, err := x509.ParseCertificate(raw)
		if err != nil {
			c.t.Fatal(err)
		}
		between.AddCert(above)
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: c.p.Pool(), Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, CurrentTime: c.p.Clock.Now()})
	if err == nil {
		err = m.Verify(leaf.PublicKey)
	}
	if err != nil || leaf.Subject.CommonName != "mooring" {
		c.t.Errorf("the answer is signed by %v: %v", leaf.Subject, err)
	}
}

// wanted is a request for a key with the subject and, of a renewal, the names of a certificate.
func (c *client) wanted(key crypto.Signer, like *x509.Certificate) cmp.Request {
	c.t.Helper()
	var r cmp.Request
	var err error
	if r.Template.SPKI, err = der.EncodePublicKey(key.Public()); err != nil {
		c.t.Fatal(err)
	}
	if like != nil {
		san, err := der.NewAltNames(der.AltNames{URI: []string{like.URIs[0].String()}}, false)
		if err != nil {
			c.t.Fatal(err)
		}
		r.Template.Subject, r.Template.Extensions = like.RawSubject, der.AppendElement(nil, 0x30, san.Append(nil))
	}
	if err := r.Prove(key, rand.Reader); err != nil {
		c.t.Fatal(err)
	}
	return r
}

// failure returns why a body refuses; -1 when it does not.
func failure(t *testing.T, b cmp.Body) cmp.Failure {
	t.Helper()
	var s cmp.Status
	switch b := b.(type) {
	case *cmp.Failed:
		s = b.Status
	case *cmp.Responses:
		s = b.List[0].Status
	case *cmp.Revoked:
		s = b.List[0]
	}
	if s.Status != cmp.Rejection {
		return -1
	}
	if len(s.Failures) != 1 || len(s.Text) != 1 || s.Text[0] == "" {
		t.Errorf("a refusal without a failure or a text: %+v", s)
		return -1
	}
	return s.Failures[0]
}

// issued returns the certificate that a body carries.
func (c *client) issued(b cmp.Body, as cmp.Kind) *x509.Certificate {
	c.t.Helper()
	r, ok := b.(*cmp.Responses)
	if !ok || r.As != as || r.List[0].Certificate == nil {
		c.t.Fatalf("got %s %+v, want a certificate in a %s", b.Kind(), b, as)
	}
	cert, err := x509.ParseCertificate(r.List[0].Certificate)
	if err != nil {
		c.t.Fatal(err)
	}
	return cert
}

// confirm is the certConf for a certificate.
func confirm(cert *x509.Certificate) cmp.Confirmation {
	h := crypto.SHA256
	if cert.SignatureAlgorithm == x509.ECDSAWithSHA384 {
		h = crypto.SHA384
	}
	sum := h.New()
	sum.Write(cert.Raw)
	return cmp.Confirmation{{Hash: sum.Sum(nil)}}
}

// implicit asks for no confirmation.
func implicit(h *cmp.Header) {
	h.Info = append(h.Info, cmp.Info{Type: cmp.OIDImplicitConfirm, Value: []byte(cmp.Null)})
}

// parts are the values in a message: header, body, protection, extraCerts.
func parts(t *testing.T, message []byte) (list [][]byte) {
	t.Helper()
	var all asn1.RawValue
	if _, err := asn1.Unmarshal(message, &all); err != nil {
		t.Fatal(err)
	}
	for rest := all.Bytes; len(rest) > 0; {
		var v asn1.RawValue
		next, err := asn1.Unmarshal(rest, &v)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, v.FullBytes)
		rest = next
	}
	return list
}

func join(list ...[]byte) []byte { return der.AppendElement(nil, 0x30, bytes.Join(list, nil)) }

func ecdhOf(pair *tls.Certificate) (ecdh.KeyExchanger, error) {
	return pair.PrivateKey.(*ecdsa.PrivateKey).ECDH()
}
