package api

import (
	"context"
	"encoding/hex"
	"encoding/pem"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/internal/server/api/v1"
	"mooring/wire/der"
)

func (s *server) listCARequests(ctx context.Context, actor access.Actor, _ *none) (v1.CARequestList, error) {
	list, err := s.CA.Requests(ctx, actor)
	if err != nil {
		return v1.CARequestList{}, err
	}
	out := v1.CARequestList{Requests: []v1.CARequest{}}
	for _, p := range list {
		shown, err := shownCARequest(p)
		if err != nil {
			return v1.CARequestList{}, err
		}
		out.Requests = append(out.Requests, shown)
	}
	return out, nil
}

type requestCAInput struct{ Body v1.NewCARequest }

func (s *server) requestCA(ctx context.Context, actor access.Actor, in *requestCAInput) (v1.CARequest, error) {
	b := &in.Body
	subject, err := der.ParseDN(b.Subject)
	if err != nil {
		return v1.CARequest{}, errs.New(errs.Invalid, "subject: %v", err)
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
	p, err := s.CA.Request(ctx, actor, ca.Spec{Name: b.Name, Subject: subject, Algorithm: key.Algorithm(b.Algorithm), PathLen: b.PathLen, Shards: shards,
		Custody: key.Place(b.Custody)})
	if err != nil {
		return v1.CARequest{}, err
	}
	return shownCARequest(p)
}

func shownCARequest(p *ca.Pending) (v1.CARequest, error) {
	r, err := der.ParseRequest(p.Request)
	if err != nil {
		return v1.CARequest{}, err
	}
	sum := r.HashSPKI()
	return v1.CARequest{Name: p.Name, Subject: der.FormatName(r.Subject), Key: hex.EncodeToString(sum[:]), Shards: p.Shards, Created: moment(p.Created),
		Request: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: p.Request}))}, nil
}

type withdrawCAInput struct {
	Name string `path:"ca" maxLength:"64" doc:"Name of the CA that waits" example:"devices"`
}

func (s *server) withdrawCA(ctx context.Context, actor access.Actor, in *withdrawCAInput) (v1.CARequestList, error) {
	if err := s.CA.Withdraw(ctx, actor, in.Name); err != nil {
		return v1.CARequestList{}, err
	}
	return s.listCARequests(ctx, actor, nil)
}

type importCAInput struct{ Body v1.CAImport }

func (s *server) importCA(ctx context.Context, actor access.Actor, in *importCAInput) (v1.CAImported, error) {
	order := ca.Import{Name: in.Body.Name, Chain: certificatesOf(in.Body.Chain)}
	if in.Body.Record != "" {
		order.Record = []byte(in.Body.Record)
	}
	done, err := s.CA.Import(ctx, actor, order)
	if err != nil {
		return v1.CAImported{}, err
	}
	return v1.CAImported{CAs: each(done.Issuers, s.shownCA), Entries: done.Entries}, nil
}

// certificatesOf returns the certificates in PEM, in DER.
func certificatesOf(text string) (all [][]byte) {
	for rest := []byte(text); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return all
		}
		if b.Type == "CERTIFICATE" {
			all = append(all, b.Bytes)
		}
	}
}

type recordInput struct{ Body v1.RecordText }

func (s *server) importRecord(ctx context.Context, actor access.Actor, in *recordInput) (v1.RecordImported, error) {
	root, n, err := s.CA.ImportRecord(ctx, actor, []byte(in.Body.Record))
	if err != nil {
		return v1.RecordImported{}, err
	}
	return v1.RecordImported{CA: root.Name(), Entries: n}, nil
}

func (s *server) listCrosses(ctx context.Context, actor access.Actor, _ *none) (v1.CrossList, error) {
	if err := s.Access.Require(ctx, actor, access.CARead, "ca"); err != nil {
		return v1.CrossList{}, err
	}
	return v1.CrossList{Crosses: each(s.CA.AllCrosses(), func(x *ca.Cross) v1.Cross {
		shown := shownCross(x)
		shown.Revoked = s.CA.CrossBarred(x)
		return shown
	})}, nil
}

type crossInput struct{ Body v1.NewCross }

func (s *server) crossCAs(ctx context.Context, actor access.Actor, in *crossInput) (v1.CrossList, error) {
	made, err := s.CA.Cross(ctx, actor, in.Body.Old, in.Body.New)
	if err != nil {
		return v1.CrossList{}, err
	}
	return v1.CrossList{Crosses: each(made, shownCross)}, nil
}

type certificateInput struct{ Body v1.CertificateText }

func (s *server) importCross(ctx context.Context, actor access.Actor, in *certificateInput) (v1.Cross, error) {
	var raw []byte // what is not one certificate is refused after the permission was looked at
	if all := certificatesOf(in.Body.Certificate); len(all) == 1 {
		raw = all[0]
	}
	c, err := s.CA.ImportCross(ctx, actor, raw)
	if err != nil {
		return v1.Cross{}, err
	}
	return shownCross(c), nil
}

func shownCross(c *ca.Cross) v1.Cross {
	return v1.Cross{Subject: c.Subject.Name(), Issuer: c.Issuer.Name(), Serial: hex.EncodeToString(c.Cert.SerialNumber.Bytes()), NotBefore: c.Cert.NotBefore.UTC(), NotAfter: c.Cert.NotAfter.UTC(),
		Shadowed: c.Shadowed(), PEM: string(pemOf(c.Cert.Raw))}
}

type responderRequestInput struct{ Body v1.NewResponder }

func (s *server) requestResponder(ctx context.Context, actor access.Actor, in *responderRequestInput) (v1.CARequest, error) {
	p, err := s.CA.RequestResponder(ctx, actor, ca.NewResponder{CA: in.Body.CA, Algorithm: key.Algorithm(in.Body.Algorithm), Custody: key.Place(in.Body.Custody)})
	if err != nil {
		return v1.CARequest{}, err
	}
	return shownCARequest(p)
}

func (s *server) importResponder(ctx context.Context, actor access.Actor, in *certificateInput) (v1.Responder, error) {
	var raw []byte // what is not one certificate is refused after the permission was looked at
	if all := certificatesOf(in.Body.Certificate); len(all) == 1 {
		raw = all[0]
	}
	r, err := s.CA.ImportResponder(ctx, actor, raw)
	if err != nil {
		return v1.Responder{}, err
	}
	return s.shownResponder(r), nil
}

func (s *server) listResponders(ctx context.Context, actor access.Actor, _ *none) (v1.ResponderList, error) {
	if err := s.Access.Require(ctx, actor, access.CARead, "ca"); err != nil {
		return v1.ResponderList{}, err
	}
	return v1.ResponderList{Responders: each(s.CA.Responders(), s.shownResponder)}, nil
}

func (s *server) shownResponder(r *ca.Responder) v1.Responder {
	return v1.Responder{CA: r.Issuer.Name(), Serial: hex.EncodeToString(r.Cert.SerialNumber.Bytes()), NotBefore: r.Cert.NotBefore.UTC(), NotAfter: r.Cert.NotAfter.UTC(),
		Answers: s.CA.ResponderOf(r.Issuer.ID()) == r, Revoked: s.CA.ResponderBarred(r), PEM: string(pemOf(r.Cert.Raw))}
}

type listInput struct{ Body v1.ListText }

func (s *server) importCRL(ctx context.Context, actor access.Actor, in *listInput) (v1.ListImported, error) {
	var raw []byte // what is no list is refused after the permission was looked at
	if b, _ := pem.Decode([]byte(in.Body.CRL)); b != nil && b.Type == "X509 CRL" {
		raw = b.Bytes
	}
	i, l, err := s.Revoke.ImportCRL(ctx, actor, raw)
	if err != nil {
		return v1.ListImported{}, err
	}
	return v1.ListImported{CA: i.Name(), Number: l.Number, ThisUpdate: moment(l.ThisUpdate), NextUpdate: moment(l.NextUpdate)}, nil
}
