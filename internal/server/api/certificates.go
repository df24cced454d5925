package api

import (
	"context"
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/internal/core/revoke"
	"mooring/internal/server/api/v1"
	"mooring/wire/der"
)

type listCertificatesInput struct {
	Device        string    `query:"device" maxLength:"255" doc:"Of this device: name or id"`
	Profile       string    `query:"profile" doc:"Of this profile"`
	Issuer        string    `query:"issuer" doc:"By this CA: name or id"`
	Revoked       string    `query:"revoked" enum:"true,false" doc:"Only those that are, or are not, revoked or on hold"`
	ExpiresBefore time.Time `query:"expires_before" doc:"Ending before this time" example:"2026-12-31T00:00:00Z"`
	Cursor        string    `query:"cursor" maxLength:"1024" doc:"The next of the page before"`
	Limit         int       `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Certificates a page"`
}

func (s *server) listCertificates(ctx context.Context, actor access.Actor, in *listCertificatesInput) (v1.CertificatePage, error) {
	f := ca.CertFilter{Profile: in.Profile, ExpiresBefore: seconds(in.ExpiresBefore), Cursor: in.Cursor, Limit: in.Limit}
	if in.Device != "" {
		d, err := s.named(ctx, actor, access.CertRead, in.Device)
		if err != nil {
			return v1.CertificatePage{}, err
		}
		f.Device, f.Cell = (*[16]byte)(&d.ID), &d.Cell
	}
	if in.Issuer != "" {
		i, err := s.CA.Issuer(in.Issuer)
		if err != nil {
			return v1.CertificatePage{}, err
		}
		id := i.ID()
		f.Issuer = &id
	}
	list, next, err := s.CA.List(ctx, actor, f)
	if err == nil && len(list) == 0 && next == "" && in.Cursor == "" {
		err = s.unknownProfile(errs.NotFound, in.Profile)
	}
	if err != nil {
		return v1.CertificatePage{}, err
	}
	page := v1.CertificatePage{Certificates: []v1.Certificate{}, Next: next}
	for _, c := range list {
		shown, err := s.shownCertificate(ctx, c)
		if err != nil {
			return v1.CertificatePage{}, err
		}
		if in.Revoked == "" || (in.Revoked == "true") == (shown.Revocation != nil) {
			page.Certificates = append(page.Certificates, shown)
		}
	}
	return page, nil
}

// shownCertificate leaves the PEM out.
func (s *server) shownCertificate(ctx context.Context, c *ca.Certificate) (v1.Certificate, error) {
	out := v1.Certificate{Serial: hex.EncodeToString(c.Serial[:]), Issuer: c.Issuer.String(), Profile: c.Profile, Version: c.Version, Slot: c.Slot,
		Device: hex.EncodeToString(c.Device[:]), NotBefore: moment(c.NotBefore), NotAfter: moment(c.NotAfter), Key: hex.EncodeToString(c.SPKIHash[:]),
		Previous: hex.EncodeToString(c.PrevSerial), Record: string(ca.KeptAs(c.Serial[:])), Kept: c.DER != nil}
	if c.Device == [16]byte{} { // an OCSP responder's
		out.Device = ""
	}
	if i, err := s.CA.IssuerByID(c.Issuer); err == nil { // a CA that this node does not know yet has no name
		out.IssuerName = i.Name()
	}
	r, revoked, err := s.Revoke.Status(ctx, c.Serial[:])
	if revoked {
		out.Revocation = &v1.Revocation{At: moment(r.At), Reason: r.Reason.String()}
	}
	return out, err
}

type getCertificateInput struct {
	Serial string `path:"serial" maxLength:"64" doc:"Serial number in hexadecimal digits" example:"4165a1b2c3d4e5f60718293a4b5c6d7e"`
	Format string `query:"format" enum:"json,pem,der" default:"json" doc:"Form of the answer"`
}

// certificateRoute declares the three forms of the answer.
func certificateRoute(s *server, a huma.API, op huma.Operation) {
	describe(&op, "application/json", a.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[v1.Certificate](), true, ""))
	describe(&op, "application/pem-certificate-chain", &huma.Schema{Type: huma.TypeString})
	describe(&op, "application/pkix-cert", &huma.Schema{Type: huma.TypeString, Format: "binary"})
	serve(a, op, writes(s, (*server).getCertificate))
}

func (s *server) getCertificate(w http.ResponseWriter, r *http.Request, actor access.Actor, in *getCertificateInput) error {
	ctx := r.Context()
	serial, err := parseSerial(in.Serial)
	if err != nil {
		return err
	}
	if err := s.Access.Require(ctx, actor, access.CertRead, "certificate "+hex.EncodeToString(serial)); err != nil {
		return err
	}
	c, err := s.CA.Known(ctx, serial)
	if err != nil {
		return err
	}
	if c.DER == nil && in.Format != "json" {
		return errs.New(errs.NotFound, "the certificate with the serial number %x is not kept; in the format json there is what the record of its issue says", serial)
	}
	switch in.Format {
	case "pem":
		web.Write(w, http.StatusOK, "application/pem-certificate-chain", pemOf(c.DER))
		return nil
	case "der":
		web.Write(w, http.StatusOK, "application/pkix-cert", c.DER)
		return nil
	}
	shown, err := s.shownCertificate(ctx, c)
	if err != nil {
		return err
	}
	if shown.Kept {
		shown.PEM = string(pemOf(c.DER))
	}
	writeJSON(w, http.StatusOK, "application/json", shown)
	return nil
}

func pemOf(certificate []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})
}

// parseSerial reads a serial number. Whether there is such a certificate is for the CA to say.
func parseSerial(text string) ([]byte, error) {
	serial, err := hex.DecodeString(text)
	if err != nil || len(serial) == 0 || len(serial) > 20 {
		return nil, errs.New(errs.Invalid, "serial: give the serial number in hexadecimal digits, two for each octet, without colons")
	}
	return serial, nil
}

type revokeInput struct {
	Serial string     `path:"serial" maxLength:"64" doc:"Serial number in hexadecimal digits" example:"4165a1b2c3d4e5f60718293a4b5c6d7e"`
	Body   *v1.Reason `doc:"May be absent"`
}

func (s *server) revokeCertificate(ctx context.Context, actor access.Actor, in *revokeInput) (v1.RevokeResult, error) {
	serial, err := parseSerial(in.Serial)
	if err != nil {
		return v1.RevokeResult{}, err
	}
	why, err := parseReason(in.Body)
	if err != nil {
		return v1.RevokeResult{}, err
	}
	r, err := s.Revoke.Certificate(ctx, actor, serial, why)
	return shownRevocation(r), err
}

type releaseInput struct {
	Serial string `path:"serial" maxLength:"64" doc:"Serial number in hexadecimal digits" example:"4165a1b2c3d4e5f60718293a4b5c6d7e"`
}

func (s *server) releaseCertificate(ctx context.Context, actor access.Actor, in *releaseInput) (v1.RevokeResult, error) {
	serial, err := parseSerial(in.Serial)
	if err != nil {
		return v1.RevokeResult{}, err
	}
	r, err := s.Revoke.Release(ctx, actor, serial)
	return shownRevocation(r), err
}

func shownRevocation(r revoke.Result) v1.RevokeResult {
	return v1.RevokeResult{Serial: hex.EncodeToString(r.Serial), Revocation: v1.Revocation{At: moment(r.At), Reason: r.Reason.String()}, Already: r.Already,
		Listed: r.Listed, Successor: hex.EncodeToString(r.Successor), Also: each(r.Also, hex.EncodeToString)}
}

func (s *server) listCAs(ctx context.Context, actor access.Actor, _ *none) (v1.CAList, error) {
	list, err := s.CA.Issuers(ctx, actor)
	if err != nil {
		return v1.CAList{}, err
	}
	return v1.CAList{CAs: each(list, s.shownCA)}, nil
}

type getCAInput struct {
	CA string `path:"ca" maxLength:"64" doc:"Name or id" example:"devices"`
}

func (s *server) getCA(ctx context.Context, actor access.Actor, in *getCAInput) (v1.CA, error) {
	if err := s.Access.Require(ctx, actor, access.CARead, "ca"); err != nil {
		return v1.CA{}, err
	}
	i, err := s.CA.Issuer(in.CA)
	if err != nil {
		return v1.CA{}, err
	}
	out := s.shownCA(i)
	out.Chain = string(i.PEM())
	for _, raw := range s.CA.Ladder(i) {
		out.Sent += string(pemOf(raw))
	}
	return out, nil
}

type createCAInput struct{ Body v1.NewCA }

func (s *server) createCA(ctx context.Context, actor access.Actor, in *createCAInput) (v1.CA, error) {
	b := &in.Body
	subject, err := der.ParseDN(b.Subject)
	if err != nil {
		return v1.CA{}, errs.New(errs.Invalid, "subject: %v", err)
	}
	validity, err := parseLength("validity", b.Validity)
	if err != nil {
		return v1.CA{}, err
	}
	if b.Algorithm == "" {
		b.Algorithm = string(key.P256)
	}
	shards := 0
	switch {
	case b.Shards != nil:
		shards = *b.Shards
	case b.PathLen == 0:
		shards = ca.MostShards
	}
	i, err := s.CA.Create(ctx, actor, ca.Spec{Name: b.Name, Parent: b.Parent, Subject: subject, Algorithm: key.Algorithm(b.Algorithm),
		Validity: int64(validity / time.Second), Forever: b.Forever, PathLen: b.PathLen, Shards: shards,
		Custody: key.Place(b.Custody), Limit: limitOf(b.KeyLimit)})
	if err != nil {
		return v1.CA{}, err
	}
	out := s.shownCA(i)
	out.Chain = string(i.PEM())
	return out, nil
}

// shownCA leaves the chain out.
func (s *server) shownCA(i *ca.Issuer) v1.CA {
	c := i.Certificate()
	out := v1.CA{ID: i.ID().String(), Name: i.Name(), Subject: c.Subject.String(), Serial: hex.EncodeToString(c.SerialNumber.Bytes()),
		Signature: i.Algorithm().String(), NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(), Forever: i.Forever(), Offline: i.Offline(), Shards: i.Shards(), Created: moment(i.Created())}
	if p := i.Parent(); p != nil {
		out.Parent = p.Name()
	}
	if barred := s.CA.Barred(i); barred != nil {
		out.Revoked = barred.Name()
	}
	return out
}

func (s *server) listProfiles(ctx context.Context, actor access.Actor, _ *none) (v1.ProfileList, error) {
	if err := s.Access.Require(ctx, actor, access.ProfileRead, "profiles"); err != nil {
		return v1.ProfileList{}, err
	}
	return v1.ProfileList{Profiles: each(s.Profiles.All(), s.shownProfile)}, nil
}

type getProfileInput struct {
	Profile string `path:"profile" maxLength:"64" doc:"Name" example:"device"`
}

func (s *server) getProfile(ctx context.Context, actor access.Actor, in *getProfileInput) (v1.Profile, error) {
	if err := s.Access.Require(ctx, actor, access.ProfileRead, "profile"); err != nil {
		return v1.Profile{}, err
	}
	p, err := s.Profiles.Get(in.Profile)
	if err != nil {
		return v1.Profile{}, err
	}
	out := s.shownProfile(p)
	out.Source = p.Source
	return out, nil
}

func shownTurn(t ca.Turn) v1.Turn {
	out := v1.Turn{Issuer: t.Issuer}
	if t.From > 0 {
		from := moment(t.From)
		out.From = &from
	}
	return out
}

// shownProfile leaves the source out.
func (s *server) shownProfile(p *ca.Profile) v1.Profile {
	return v1.Profile{Name: p.Name, Description: p.Description, Version: p.Version, Issuer: p.IssuerAt(s.Now().Unix()), Turns: each(p.Turns, shownTurn), Slot: p.Slot, Forever: p.Forever,
		Keys:     each(p.Keys, func(k der.KeyKind) string { return string(k) }),
		Validity: length(p.Validity), Backdate: length(p.Backdate), RenewBefore: length(p.RenewBefore), ReuseKey: p.ReuseKey,
		Evidence: each(p.Evidence, func(e ca.Evidence) string { return string(e) }), Approval: p.Approval, ServerKeygen: string(p.ServerKeygen),
		Grants: string(p.Grants), CRL: p.CRL, OCSP: p.OCSP, NoRevAvail: p.NoRevAvail, Record: string(p.Record), Retention: p.RetentionText(),
		Rescue: shownRescue(p.Rescue), AlsoFor: p.AlsoFor, LintExceptions: p.LintExceptions}
}

func shownRescue(r *ca.Rescue) *v1.Rescue {
	if r == nil {
		return nil
	}
	out := &v1.Rescue{MaxExpired: ca.TimeText(r.MaxExpired), Approval: string(r.Approval), Evidence: "certificate", Validity: ca.TimeText(r.Validity)}
	if r.Token {
		out.Evidence = "certificate-and-token"
	}
	return out
}

// length writes a number of seconds; 0 is left out.
func length(seconds int64) string {
	if seconds == 0 {
		return ""
	}
	return (time.Duration(seconds) * time.Second).String()
}
