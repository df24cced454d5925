package aa

import (
	"crypto/sha256"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"mooring/internal/core/v2x/trust"
	"mooring/wire/butterfly"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/its/chain"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

// Responder makes tickets for cocoon keys, and of each the message that only the vehicle can read (TS 102 941, 6.2.3.5; IEEE 1609.2.1, 9.3). It looks at nothing but
// the request, and records nothing. It is safe for concurrent use if Random is.
type Responder struct {
	Random io.Reader
	by     *its.Certificate
	id     its.HashedId8
	sum    [sha256.Size]byte // of the certificate, which goes into each signature
	sign   func(digest []byte) (its.Signature, error)
}

// NewResponder returns the one of an authority with this certificate, which is of P-256, and key.
func NewResponder(by *its.Certificate, sign func(digest []byte) (its.Signature, error), random io.Reader) (*Responder, error) {
	if k := &by.ToBeSigned.VerifyKeyIndicator; k.Choice != its.VerificationKey || k.VerificationKey.Choice != its.ECDSANistP256 {
		return nil, its.ErrAlgorithm
	}
	b, err := coer.Normal(by)
	if err != nil {
		return nil, err
	}
	r := &Responder{Random: random, by: by, sum: sha256.Sum256(b), sign: sign}
	r.id = its.HashedId8(r.sum[24:])
	return r, nil
}

// Response is a ticket for a cocoon key, and what the vehicle gets of it.
type Response struct {
	Ticket *its.Certificate
	Answer its.AcaResponse
}

// Why a request for a cocoon key is refused.
var (
	errKind       = errors.New("the type, flags and keys of the request do not belong together")
	errContent    = errors.New("the certificate would say what a ticket may not say")
	errPermission = errors.New("this authority may not issue what is asked for")
	errPeriod     = errors.New("the ticket would not lie within the validity of this authority")
)

// Respond answers one request. The ticket is explicit: its key is the cocoon key plus a random point, or the cocoon key itself where the request does not ask
// for that (butterflyExplicit), as TS 102 941 has it.
func (r *Responder) Respond(q *its.RaAcaCertRequest, at its.Time64) (*Response, error) {
	if err := r.allowed(q); err != nil {
		return nil, err
	}
	cocoon, err := point(&q.TbsCert.VerifyKeyIndicator.VerificationKey.Point)
	if err != nil {
		return nil, errKind
	}
	key := cocoon
	said := its.AcaEeCertResponse{GenerationTime: its.Time32(at / 1e6)}
	if q.Flags&its.ButterflyExplicit != 0 {
		s, err := butterfly.RandomScalar(r.Random)
		if err != nil {
			return nil, err
		}
		key = butterfly.Randomise(cocoon, s)
		said.PrivateKeyInfo = coer.Some(its.PrivateKeyInfo(s.Bytes()))
	}
	if key.IsInfinity() { // whoever sent it would know the key, or nobody
		return nil, errKind
	}
	x := &its.Certificate{Issuer: its.IssuerIdentifier{Digest: r.id}, ToBeSigned: q.TbsCert}
	x.ToBeSigned.Octets = nil // it says something else now
	x.ToBeSigned.VerifyKeyIndicator.VerificationKey.Point = its.Compressed(key.Bytes())
	sig, err := r.signed(&x.ToBeSigned)
	if err != nil {
		return nil, err
	}
	x.Signature = coer.Some(sig)
	if x.CheckRole(its.EtsiAT, 0) != nil {
		return nil, errContent // what was signed is thrown away
	}
	said.Certificate = *x
	answer, err := r.message(q, &said)
	return &Response{x, answer}, err
}

// signed is the signature of something by the authority.
func (r *Responder) signed(tbs coer.Value) (its.Signature, error) {
	b, err := coer.Normal(tbs)
	if err != nil {
		return its.Signature{}, err
	}
	sum := sha256.Sum256(b)
	both := sha256.Sum256(append(sum[:], r.sum[:]...))
	return r.sign(both[:])
}

// message puts the ticket into the form that the request asks for: encrypted and then signed (private), or encrypted to the cocoon key and not signed (compact
// unified), where the signature of the ticket is what proves it.
func (r *Responder) message(q *its.RaAcaCertRequest, said *its.AcaEeCertResponse) (a its.AcaResponse, err error) {
	b, err := coer.Marshal(&its.ScmsPdu{Choice: its.ScmsAcaEe, AcaEe: its.AcaEeInterfacePdu{AcaEeCertResponse: said}})
	if err != nil {
		return a, err
	}
	key, private := q.CertEncKey.Get()
	if !private {
		key = its.PublicEncryptionKey{PublicKey: its.BasePublicEncryptionKey{Point: q.TbsCert.VerifyKeyIndicator.VerificationKey.Point}}
	}
	to, err := spdu.ToKey(key)
	if err != nil {
		return a, err
	}
	sealed, _, err := spdu.Seal(r.Random, its.Unsecured(b), to)
	if err != nil {
		return a, err
	}
	if !private {
		return its.AcaResponse{Choice: its.AcaResponseCubk, Data: sealed}, nil
	}
	if b, err = coer.Marshal(sealed); err != nil {
		return a, err
	}
	// The whole certificate goes along, and no time (IEEE 1609.2.1, AcaEeCertResponsePrivateSpdu); the application is that of TS 102 941.
	d := &its.SignedData{HashId: its.SHA256, TbsData: its.ToBeSignedData{Payload: spdu.Payload(b), HeaderInfo: its.HeaderInfo{Psid: its.PsidSCR}},
		Signer: its.SignerIdentifier{Choice: its.SignerCertificate, Certificate: []its.Certificate{*r.by}}}
	if d.Signature, err = r.signed(&d.TbsData); err != nil {
		return a, err
	}
	return its.AcaResponse{Choice: its.AcaResponsePrivate, Data: &its.Ieee1609Dot2Data{Content: its.Ieee1609Dot2Content{Choice: its.ContentSigned, SignedData: d}}}, nil
}

// allowed says whether a request is one, and for what this authority may issue.
func (r *Responder) allowed(q *its.RaAcaCertRequest) error {
	t := &q.TbsCert
	k := &t.VerifyKeyIndicator
	enc, private := q.CertEncKey.Get()
	compact := q.Flags&its.Cubk != 0
	above := r.by.ToBeSigned.ValidityPeriod
	switch {
	case q.Type != its.Explicit, k.Choice != its.VerificationKey, k.VerificationKey.Choice != its.ECDSANistP256, q.LinkageInfo.Present,
		q.Flags&^(its.ButterflyExplicit|its.Cubk) != 0, private == compact, private && !scr.UsableForEncryption(&enc),
		compact && r.by.ToBeSigned.Flags.Value&its.UsesCubk == 0:
		return errKind
	case t.Id.Choice != its.IdNone, t.CertIssuePermissions != nil, t.CertRequestPermissions != nil, t.EncryptionKey.Present, t.Flags.Present, t.AppExtensions != nil, t.Region.Present,
		len(t.Additions.Unknown) > 0, len(t.AppPermissions) == 0:
		return errContent
	case t.ValidityPeriod.Start < above.Start || t.ValidityPeriod.End() > above.End() || t.ValidityPeriod.Duration.Value == 0:
		return errPeriod
	}
	for _, p := range t.AppPermissions {
		if p.Psid >= its.PsidCRL && p.Psid <= its.PsidCTL || !chain.MayIssue(r.by.ToBeSigned.CertIssuePermissions, p) {
			return errPermission
		}
	}
	return nil
}

// point reads a point of P-256.
func point(p *its.CurvePoint) (butterfly.Point, error) {
	b, err := p.SEC1()
	if err != nil {
		return butterfly.Point{}, err
	}
	return butterfly.NewPoint(b)
}

// RespondAll answers many requests, each processor some of them. What is refused has no response; err is that something else went wrong.
func (r *Responder) RespondAll(qs []its.RaAcaCertRequest, at its.Time64, workers int) (all []*Response, err error) {
	all = make([]*Response, len(qs))
	failed := make([]error, max(workers, 1))
	var next atomic.Int64
	var group sync.WaitGroup
	for w := range failed {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(qs); i = int(next.Add(1)) - 1 {
				a, err := r.Respond(&qs[i], at)
				switch {
				case err == nil:
					all[i] = a
				case !refusal(err):
					failed[w] = err
					return
				}
			}
		})
	}
	group.Wait()
	return all, errors.Join(failed...)
}

// refusal says whether an error lies with the request.
func refusal(err error) bool {
	for _, e := range []error{errKind, errContent, errPermission, errPeriod} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// responder is that of the authority in use.
func (s *Service) responder(c *trust.Credential) (*Responder, error) {
	return NewResponder(c.Certificate, c.Signer.Sign, s.Random)
}
