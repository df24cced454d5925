package api

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"

	"mooring/internal/core/access"
	"mooring/internal/core/maker"
	"mooring/internal/server/api/v1"
)

type makerInput struct {
	Manufacturer string `path:"manufacturer" maxLength:"64" doc:"Its name" example:"acme"`
}

type addMakerInput struct{ Body v1.NewManufacturer }

type makerMASAInput struct {
	Manufacturer string `path:"manufacturer" maxLength:"64" doc:"Its name" example:"acme"`
	Body         v1.MASAChoice
}

func (s *server) listMakers(ctx context.Context, actor access.Actor, _ *none) (v1.ManufacturerList, error) {
	all, err := s.Makers.List(ctx, actor)
	if err != nil {
		return v1.ManufacturerList{}, err
	}
	out := v1.ManufacturerList{Manufacturers: each(all, shownMaker)}
	for i := range out.Manufacturers {
		for j := range out.Manufacturers[i].Certificates {
			out.Manufacturers[i].Certificates[j].PEM = ""
		}
		for j := range out.Manufacturers[i].MASACertificates {
			out.Manufacturers[i].MASACertificates[j].PEM = ""
		}
	}
	return out, nil
}

func (s *server) getMaker(ctx context.Context, actor access.Actor, in *makerInput) (v1.Manufacturer, error) {
	m, err := s.Makers.Get(ctx, actor, in.Manufacturer)
	if err != nil {
		return v1.Manufacturer{}, err
	}
	return shownMaker(m), nil
}

func (s *server) addMaker(ctx context.Context, actor access.Actor, in *addMakerInput) (v1.Manufacturer, error) {
	b := &in.Body
	m, err := s.Makers.Add(ctx, actor, maker.Spec{Name: b.Name, Organization: b.Organization, Timeless: b.IgnoreLifetime, Anchors: certificatesOf(b.Certificates),
		MASA: b.MASA, Trusted: certificatesOf(b.MASACertificates)})
	if err != nil {
		return v1.Manufacturer{}, err
	}
	return shownMaker(m), nil
}

func (s *server) changeMakerMASA(ctx context.Context, actor access.Actor, in *makerMASAInput) (v1.Manufacturer, error) {
	m, err := s.Makers.ChangeMASA(ctx, actor, in.Manufacturer, in.Body.MASA, certificatesOf(in.Body.MASACertificates))
	if err != nil {
		return v1.Manufacturer{}, err
	}
	return shownMaker(m), nil
}

func (s *server) removeMaker(ctx context.Context, actor access.Actor, in *makerInput) (v1.Manufacturer, error) {
	m, err := s.Makers.Remove(ctx, actor, in.Manufacturer)
	if err != nil {
		return v1.Manufacturer{}, err
	}
	return shownMaker(m), nil
}

func shownMaker(m maker.Maker) v1.Manufacturer {
	return v1.Manufacturer{Name: m.Name, Organization: m.Organization, IgnoreLifetime: m.Timeless, Created: moment(m.Created), Certificates: each(m.Anchors, shownMakerAnchor),
		MASA: m.MASA.Where, MASACertificates: each(m.MASA.Trusted, shownMakerAnchor)}
}

func shownMakerAnchor(a *x509.Certificate) v1.MakerAnchor {
	sum := sha256.Sum256(a.Raw)
	return v1.MakerAnchor{Subject: a.Subject.String(), Fingerprint: hex.EncodeToString(sum[:]), NotAfter: a.NotAfter,
		PEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Raw}))}
}
