package api

import (
	"context"
	"encoding/hex"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/device"
	"mooring/internal/core/masa"
	"mooring/internal/server/api/v1"
)

type registrarInput struct {
	Registrar string `path:"registrar" maxLength:"64" doc:"Its name" example:"customer-7"`
}

type addRegistrarInput struct{ Body v1.NewRegistrar }

type vouchersInput struct {
	Maker  string `query:"maker" maxLength:"64" doc:"The device's manufacturer" example:"acme"`
	Serial string `query:"serial" maxLength:"64" doc:"Its serial number" example:"AC-00017"`
}

func (s *server) showMASA(ctx context.Context, actor access.Actor, _ *none) (v1.MASA, error) {
	if err := s.Access.Require(ctx, actor, access.CARead, "masa"); err != nil {
		return v1.MASA{}, err
	}
	signer, err := s.MASA.Signer()
	if err != nil {
		return v1.MASA{}, err
	}
	issuer := s.CA.IssuerOf(signer.Certificate)
	if issuer == nil {
		return v1.MASA{}, errs.New(errs.Unavailable, "the CA of the certificate that signs vouchers is not there: the server's log says more")
	}
	return v1.MASA{CA: shownMakerAnchor(issuer.Certificate()), Signer: shownMakerAnchor(signer.Certificate)}, nil
}

func (s *server) listRegistrars(ctx context.Context, actor access.Actor, _ *none) (v1.RegistrarList, error) {
	all, err := s.MASA.Registrars(ctx, actor)
	if err != nil {
		return v1.RegistrarList{}, err
	}
	out := v1.RegistrarList{Registrars: each(all, shownRegistrar)}
	for i := range out.Registrars {
		for j := range out.Registrars[i].Certificates {
			out.Registrars[i].Certificates[j].PEM = ""
		}
	}
	return out, nil
}

func (s *server) getRegistrar(ctx context.Context, actor access.Actor, in *registrarInput) (v1.Registrar, error) {
	r, err := s.MASA.Registrar(ctx, actor, in.Registrar)
	if err != nil {
		return v1.Registrar{}, err
	}
	return shownRegistrar(r), nil
}

func (s *server) addRegistrar(ctx context.Context, actor access.Actor, in *addRegistrarInput) (v1.Registrar, error) {
	b := &in.Body
	r, err := s.MASA.AddRegistrar(ctx, actor, masa.Spec{Name: b.Name, Group: b.Group, Offline: b.Offline, Anchors: certificatesOf(b.Certificates)})
	if err != nil {
		return v1.Registrar{}, err
	}
	return shownRegistrar(r), nil
}

func (s *server) removeRegistrar(ctx context.Context, actor access.Actor, in *registrarInput) (v1.Registrar, error) {
	r, err := s.MASA.RemoveRegistrar(ctx, actor, in.Registrar)
	if err != nil {
		return v1.Registrar{}, err
	}
	return shownRegistrar(r), nil
}

func shownRegistrar(r masa.Registrar) v1.Registrar {
	return v1.Registrar{Name: r.Name, Group: r.Group, Offline: r.Offline, Created: moment(r.Created), Certificates: each(r.Anchors, shownMakerAnchor)}
}

func (s *server) listVouchers(ctx context.Context, actor access.Actor, in *vouchersInput) (v1.VoucherList, error) {
	all, err := s.MASA.Vouchers(ctx, actor, device.Product{Maker: in.Maker, Serial: in.Serial})
	if err != nil {
		return v1.VoucherList{}, err
	}
	return v1.VoucherList{Vouchers: each(all, shownVoucher)}, nil
}

func shownVoucher(v masa.Issued) v1.IssuedVoucher {
	out := v1.IssuedVoucher{Number: v.Number, Issued: moment(v.At), Registrar: v.Registrar, Domain: hex.EncodeToString(v.Domain), Nonce: hex.EncodeToString(v.Nonce),
		Assertion: string(v.Assertion), Voucher: v.Voucher}
	if v.Expires != 0 {
		at := moment(v.Expires)
		out.Expires = &at
	}
	return out
}
