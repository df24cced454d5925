package ca

import (
	"context"
	"fmt"
	"strings"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/wire/der"
)

// ResponderProfile stands in the rows of delegated OCSP responders' certificates in the place of a profile's name. It is not a file: what such
// a certificate says is fixed by RFC 6960, section 4.2.2.2. The blank keeps it apart from all names that files can have.
const (
	ResponderProfile        = "ocsp responder"
	responderProfileVersion = "built-in"
)

// PrepareResponder prepares the certificate of an OCSP responder to which the CA delegates: digitalSignature, the purpose OCSPSigning, and
// ocsp-nocheck, since nobody could say whether the one who says is revoked (RFC 6960, section 4.2.2.2.1). It is signed and recorded like
// every other; its row belongs to no device. It ends with the CA if that ends sooner. A CA without a key here is Unavailable.
func (a *Authority) PrepareResponder(ctx context.Context, id IssuerID, spki []byte, validity int64) (*Prepared, error) {
	i, err := a.IssuerByID(id)
	if err != nil {
		return nil, err
	}
	if i.Key() == "" {
		return nil, errs.New(errs.Unavailable, "the CA %q has no key here, so it cannot delegate OCSP answers", i.name)
	}
	t, err := a.responderTemplate(ctx, i)
	if err != nil {
		return nil, err
	}
	v, err := responderVariable(i, spki)
	if err != nil {
		return nil, err
	}
	now := a.deps.Now().Unix()
	v.NotBefore = max(now-defaultBackdate, i.cert.NotBefore.Unix())
	v.NotAfter = min(v.NotBefore+validity-1, i.cert.NotAfter.Unix())
	if v.NotAfter <= now {
		return nil, errs.New(errs.Unavailable, "the CA %q has ended and delegates no OCSP answers", i.name)
	}
	if err := a.ready(ctx, now/86400); err != nil {
		return nil, err
	}
	serial, err := newSerial(classOrdinary, now, 0, a.deps.Rand)
	if err != nil {
		return nil, err
	}
	v.Serial = serial[:]
	tbs, err := t.der.AppendTBS(nil, v)
	if err != nil {
		return nil, fmt.Errorf("building the certificate of an OCSP responder: %w", err)
	}
	return &Prepared{authority: a, template: t, tbs: tbs, cert: Certificate{Serial: serial, Day: now / 86400, Issuer: i.id,
		Profile: ResponderProfile, Version: responderProfileVersion, NotBefore: v.NotBefore, NotAfter: v.NotAfter, SPKIHash: der.HashSPKI(spki)}}, nil
}

func (a *Authority) responderTemplate(ctx context.Context, i *Issuer) (*template, error) {
	signer, err := a.statusSigner(ctx, i)
	if err != nil {
		return nil, err
	}
	if !i.holds(signer) {
		return nil, errs.New(errs.Unavailable, "the key of CA %q is not the one in its certificate: restore the right key store", i.name)
	}
	t, err := der.NewTemplate(der.TemplateSpec{Algorithm: i.algorithm, Issuer: i.cert.RawSubject, Extensions: responderExtensions(i.cert)})
	if err != nil {
		return nil, fmt.Errorf("building the certificate of an OCSP responder: %w", err)
	}
	return &template{issuer: i, profile: &Profile{Name: ResponderProfile, Version: responderProfileVersion}, signer: signer, der: t}, nil
}

// responderVariable says who the responder is: the CA's organisation, and that it speaks for this CA.
func responderVariable(i *Issuer, spki []byte) (v der.Variable, err error) {
	var subject []der.Attribute
	if o := i.cert.Subject.Organization; len(o) > 0 {
		subject = append(subject, der.Attribute{Type: der.OIDOrganization, Value: o[0]})
	}
	subject = append(subject, der.Attribute{Type: der.OIDCommonName, Value: "OCSP responder of " + i.name})
	if v.Subject, err = der.BuildName(subject); err != nil {
		return v, fmt.Errorf("building the name of an OCSP responder: %w", err)
	}
	ski, err := der.SubjectKeyID(spki)
	if err != nil {
		return v, fmt.Errorf("reading the key of an OCSP responder: %w", err)
	}
	v.SPKI, v.SKI = spki, ski[:]
	return v, nil
}

// Count returns how many CAs there are. It only grows, so that who keeps something about all of them sees that there are new ones.
func (a *Authority) Count() int {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return len(a.byID)
}

// IssuerOfTx returns the CA that issued the certificate with the serial number, and false when none is on record. It reads less than GetTx.
func (a *Authority) IssuerOfTx(ctx context.Context, tx *db.Tx, serial []byte) (id IssuerID, found bool, err error) {
	cell, day, err := Locate(serial)
	if err != nil {
		return id, false, nil
	}
	var issuer []byte
	found, err = tx.Get(ctx, []any{&issuer}, `SELECT issuer FROM `+tableOf(serial)+` WHERE cell = $1 AND day = $2 AND serial = $3`, int64(cell), day, serial)
	if err != nil || !found {
		return id, false, err
	}
	if len(issuer) != len(id) {
		return id, false, fmt.Errorf("the row of certificate %x has an issuer of the wrong length", serial)
	}
	return IssuerID(issuer), true, nil
}

// FindOCSP returns file and line of the first profile that puts the OCSP responder's address into certificates of a CA for
// which off reports true, and the CA's name; "" when there is none.
func (ps *Profiles) FindOCSP(off func(issuer string) bool) (place, issuer string) {
	for _, p := range ps.All() {
		if !p.OCSP {
			continue
		}
		if off(p.Issuer) {
			return p.placeOf("ocsp"), p.Issuer
		}
		for _, t := range p.Turns {
			if off(t.Issuer) {
				return p.placeOf("ocsp"), t.Issuer
			}
		}
	}
	return "", ""
}

// placeOf names the line of the file on which the top-level key stands, in the form that editors follow.
func (p *Profile) placeOf(key string) string {
	line := 1
	for text := range strings.Lines(p.Source) {
		if strings.HasPrefix(text, key+":") {
			return fmt.Sprintf("profiles/%s.yaml:%d", p.Name, line)
		}
		line++
	}
	return fmt.Sprintf("profiles/%s.yaml:1", p.Name)
}
