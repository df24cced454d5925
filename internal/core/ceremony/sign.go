package ceremony

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/ceremony/minutes"
	"mooring/wire/der"
)

// Order is what the people at the root decide about a request.
type Order struct {
	Validity int64 // seconds
	PathLen  int   // how many tiers of CAs may follow below
	AnyName  bool  // also for another organisation
	OCSP     bool  // the certificate says where OCSP is asked: a responder of the root is to answer there
}

// Request is a request that passed every check. It comes from Review, ReviewResponder and ReviewRoot alone; its public fields are what people compare before it
// is signed.
type Request struct {
	Subject string
	Key     der.KeyKind
	SPKI    [32]byte // SHA-256 of the public key

	NotBefore, NotAfter int64
	PathLen             int
	Responder           bool // for an OCSP responder and not for a CA

	act       string
	cert      ca.CACertificate
	responder ca.ResponderCertificate
	csr       []byte
}

// Made is what came of an act.
type Made struct {
	DER    []byte
	Digest [32]byte
}

// Review reads a request (PKCS#10, DER) for a CA below the root. Every complaint says what is wrong with it.
func (r *Root) Review(csr []byte, o Order) (*Request, error) {
	request, err := ca.ReadCARequest(csr, ca.RequestRules{Parent: r.cert, PathLen: o.PathLen, AnyName: o.AnyName})
	if err != nil {
		return nil, err
	}
	subject := der.FormatName(request.Subject)
	if err := r.unknown(request, subject); err != nil {
		return nil, err
	}
	now := r.deps.Now().Unix()
	begin := max(now-backdate, r.cert.NotBefore.Unix())
	end := begin + o.Validity - 1
	switch last := r.cert.NotAfter.Unix(); {
	case o.Validity < 86400:
		return nil, errs.New(errs.Invalid, "the validity of a CA must be a day or more")
	case end > last:
		return nil, errs.New(errs.Invalid, "the CA would outlive the root, which ends at %s: choose a shorter validity", stamp(last))
	}
	c := ca.CACertificate{Subject: request.RawSubject, SPKI: request.RawSPKI, NotBefore: begin, NotAfter: end, PathLen: o.PathLen, Issuer: r.cert}
	if status := strings.TrimSuffix(r.record.Entries[0].Fact("status"), "/"); status != "" {
		id := ca.IDOf(r.cert)
		c.CRL, c.CAIssuers = status+"/crl/"+id.String()+".crl", status+"/ca/"+id.String()+".cer"
		if o.OCSP {
			c.OCSP = status + "/ocsp"
		}
	} else if o.OCSP {
		return nil, errs.New(errs.Invalid, "the root was made without --status-url, so it does not know where OCSP would be asked")
	}
	return &Request{Subject: subject, Key: der.KindOf(request.PublicKey), SPKI: request.HashSPKI(), NotBefore: begin, NotAfter: end,
		PathLen: o.PathLen, act: minutes.Sign, cert: c, csr: csr}, nil
}

// unknown refuses a key or a name that was certified before: verifiers take the first certificate that fits, and would mix them up.
func (r *Root) unknown(request *der.Request, subject string) error {
	if bytes.Equal(request.RawSPKI, r.cert.RawSubjectPublicKeyInfo) {
		return errs.New(errs.Invalid, "the request is for the key of the root itself")
	}
	revoked := r.revoked()
	for i := range r.record.Entries {
		e := &r.record.Entries[i]
		sum := request.HashSPKI()
		switch same := e.Fact("spki") == hex.EncodeToString(sum[:]); {
		case same && e.Act == minutes.Answer:
			return errs.New(errs.Invalid, "the key of the request is that of an OCSP responder, in entry %d: a CA needs a key of its own", i+1)
		case e.Act != minutes.Sign && e.Act != minutes.Cross:
		case same && e.Fact("subject") != subject:
			return errs.New(errs.Invalid, "the key of the request was certified before, in entry %d, under the name %s: a CA with another name needs a key of its own", i+1, e.Fact("subject"))
		case same && revoked[e.Fact("serial")] != nil:
			return errs.New(errs.Invalid, "the certificate of this key was revoked: the CA needs a new one")
		case !same && e.Fact("subject") == subject:
			return errs.New(errs.Invalid, "another key was certified under this name before, in entry %d: give the CA a name of its own, best with its generation", i+1)
		}
	}
	return nil
}

// Of a responder nobody can say that it is revoked to those who ask it (ocsp-nocheck), so its certificate is short-lived: as long as from one
// yearly visit to the root to the next, with a month to be late.
const (
	responderLeast = 86400
	responderMost  = 400 * 86400
)

// ReviewResponder reads a request (PKCS#10, DER) for the certificate of an OCSP responder that answers for the root (RFC 6960, section 4.2.2.2).
func (r *Root) ReviewResponder(csr []byte, validity int64) (*Request, error) {
	request, err := ca.ReadResponderRequest(csr, r.cert)
	if err != nil {
		return nil, err
	}
	subject := der.FormatName(request.Subject)
	if err := r.unusedBy(request); err != nil {
		return nil, err
	}
	if validity < responderLeast || validity > responderMost {
		return nil, errs.New(errs.Invalid, "the validity of a responder must lie between a day and %d days: nobody who asks it learns that it was revoked", responderMost/86400)
	}
	begin := max(r.deps.Now().Unix()-backdate, r.cert.NotBefore.Unix())
	end := min(begin+validity-1, r.cert.NotAfter.Unix())
	if end <= r.deps.Now().Unix() {
		return nil, errs.New(errs.Invalid, "the root has ended: nobody asks about what it signed any more")
	}
	return &Request{Subject: subject, Key: der.KindOf(request.PublicKey), SPKI: request.HashSPKI(), NotBefore: begin, NotAfter: end, Responder: true, act: minutes.Answer,
		responder: ca.ResponderCertificate{Subject: request.RawSubject, SPKI: request.RawSPKI, NotBefore: begin, NotAfter: end, Issuer: r.cert}, csr: csr}, nil
}

// unusedBy refuses the key of the root or of a CA for a responder, and one that was revoked.
func (r *Root) unusedBy(request *der.Request) error {
	if bytes.Equal(request.RawSPKI, r.cert.RawSubjectPublicKeyInfo) {
		return errs.New(errs.Invalid, "the request is for the key of the root itself")
	}
	sum, revoked := request.HashSPKI(), r.revoked()
	for i := range r.record.Entries {
		e := &r.record.Entries[i]
		switch same := e.Fact("spki") == hex.EncodeToString(sum[:]); {
		case !same:
		case e.Act == minutes.Sign || e.Act == minutes.Cross:
			return errs.New(errs.Invalid, "the key of the request is that of a CA, in entry %d: a responder needs a key of its own", i+1)
		case e.Act == minutes.Answer && revoked[e.Fact("serial")] != nil:
			return errs.New(errs.Invalid, "the certificate of this key was revoked: the responder needs a new one")
		}
	}
	return nil
}

// ReviewRoot reads the certificate of another root that this one is to vouch for (see ca.NewCross).
func (r *Root) ReviewRoot(raw []byte) (*Request, error) {
	other, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the certificate of the other root cannot be read: %v", err)
	}
	c, err := ca.NewCross(r.cert, other, r.deps.Now().Unix())
	if err != nil {
		return nil, err
	}
	pub, err := der.ParsePublicKey(other.RawSubjectPublicKeyInfo)
	if err != nil {
		return nil, err // NewCross has read it before
	}
	subject, err := der.ParseName(other.RawSubject)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the name of the other root cannot be read: %v", err)
	}
	return &Request{Subject: der.FormatName(subject), Key: der.KindOf(pub), SPKI: der.HashSPKI(other.RawSubjectPublicKeyInfo), NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		PathLen: c.PathLen, act: minutes.Cross, cert: c, csr: raw}, nil
}

// Sign makes the certificate of a reviewed request and records it.
func (r *Root) Sign(ctx context.Context, q *Request) (Made, error) {
	signer, err := r.signer(ctx)
	if err != nil {
		return Made{}, err
	}
	raw, err := q.certify(signer, r.deps.Rand, r.deps.Now().Unix())
	if err != nil {
		return Made{}, fmt.Errorf("making the certificate of %s: %w", q.Subject, err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return Made{}, fmt.Errorf("reading the certificate of %s: %w", q.Subject, err)
	}
	facts := minutes.Facts("subject", q.Subject, "serial", hex.EncodeToString(cert.SerialNumber.Bytes()), "spki", hex.EncodeToString(q.SPKI[:]),
		"not_after", stamp(q.NotAfter), "request", digest(q.csr), "sha256", digest(raw), "certificate", base64.StdEncoding.EncodeToString(raw))
	if !q.Responder {
		facts = append(facts, minutes.Fact{Name: "path_length", Value: strconv.Itoa(q.PathLen)})
	}
	if err := r.append(ctx, q.act, facts); err != nil {
		return Made{}, err
	}
	return made(raw), nil
}

func (q *Request) certify(signer crypto.Signer, random io.Reader, now int64) ([]byte, error) {
	if q.Responder {
		return ca.CertifyResponder(signer, random, now, q.responder)
	}
	return ca.Certify(signer, random, now, q.cert)
}

// Shadowed reports whether the cross certificate made of q comes after the self-signed one in a sorted set; see ca.ComesFirst.
func (q *Request) Shadowed(m Made) bool {
	return q.act == minutes.Cross && !ca.ComesFirst(m.DER, q.csr)
}
