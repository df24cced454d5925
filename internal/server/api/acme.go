package api

import (
	"context"
	"encoding/hex"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/acme"
	"mooring/internal/core/device"
	"mooring/internal/server/api/v1"
)

type acmeAccountsInput struct {
	Device string `query:"device" maxLength:"255" doc:"Only accounts of this device, by name or id"`
	Cursor string `query:"cursor" maxLength:"64" doc:"The next of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Accounts a page"`
}

type acmeAccountInput struct {
	Account string `path:"account" maxLength:"64" doc:"Id of the account"`
}

func (s *server) listACMEAccounts(ctx context.Context, actor access.Actor, in *acmeAccountsInput) (v1.ACMEAccountPage, error) {
	var of device.ID
	if in.Device != "" {
		d, err := s.Devices.Get(ctx, actor, in.Device)
		if err != nil {
			return v1.ACMEAccountPage{}, err
		}
		of = d.ID
	}
	var after acme.ID
	if in.Cursor != "" {
		var err error
		if after, err = acme.ParseID(in.Cursor); err != nil {
			return v1.ACMEAccountPage{}, errs.New(errs.Invalid, "cursor: take it from the page before")
		}
	}
	page, err := s.ACME.Accounts(ctx, actor, of, after, in.Limit)
	if err != nil {
		return v1.ACMEAccountPage{}, err
	}
	out := v1.ACMEAccountPage{Accounts: each(page, shownACMEAccount)}
	if len(page) == in.Limit {
		out.Next = page[len(page)-1].ID.String()
	}
	return out, nil
}

func shownACMEAccount(a acme.Account) v1.ACMEAccount {
	out := v1.ACMEAccount{ID: a.ID.String(), State: a.State.String(), Key: hex.EncodeToString(a.Key.Thumbprint[:]), Created: moment(a.Created), Used: moment(a.Used)}
	if a.Bound() {
		out.Device = a.Device.String()
	}
	return out
}

func (s *server) getACMEAccount(ctx context.Context, actor access.Actor, in *acmeAccountInput) (v1.ACMEAccount, error) {
	id, err := acmeAccountID(ctx, s, actor, access.DeviceRead, in)
	if err != nil {
		return v1.ACMEAccount{}, err
	}
	a, err := s.ACME.Show(ctx, actor, id)
	if err != nil {
		return v1.ACMEAccount{}, err
	}
	return shownACMEAccount(a), nil
}

// acmeAccountID asks for the permission before it says that no account can have this id.
func acmeAccountID(ctx context.Context, s *server, actor access.Actor, perm access.Permission, in *acmeAccountInput) (acme.ID, error) {
	id, err := acme.ParseID(in.Account)
	if err != nil {
		if denied := s.Access.Require(ctx, actor, perm, "acme account"); denied != nil {
			return id, denied
		}
	}
	return id, err
}

func (s *server) endACMEAccount(ctx context.Context, actor access.Actor, in *acmeAccountInput) (v1.ACMEAccount, error) {
	id, err := acmeAccountID(ctx, s, actor, access.DeviceState, in)
	if err != nil {
		return v1.ACMEAccount{}, err
	}
	a, err := s.ACME.End(ctx, actor, id)
	if err != nil {
		return v1.ACMEAccount{}, err
	}
	return shownACMEAccount(a), nil
}

func (s *server) listACMEOrders(ctx context.Context, actor access.Actor, in *acmeAccountInput) (v1.ACMEOrderList, error) {
	id, err := acmeAccountID(ctx, s, actor, access.DeviceRead, in)
	if err != nil {
		return v1.ACMEOrderList{}, err
	}
	list, err := s.ACME.OrdersOf(ctx, actor, id, 1000)
	if err != nil {
		return v1.ACMEOrderList{}, err
	}
	now := s.Now().Unix()
	return v1.ACMEOrderList{Orders: each(list, func(o acme.Order) v1.ACMEOrder { return shownACMEOrder(&o, now) })}, nil
}

func shownACMEOrder(o *acme.Order, now int64) v1.ACMEOrder {
	out := v1.ACMEOrder{ID: o.ID.String(), Account: o.Account.String(), Device: o.Device.String(), Profile: o.Profile, State: o.Status(now), Serial: hex.EncodeToString(o.Serial),
		Created: moment(o.Created), Expires: moment(o.Expires)}
	names := o.Names()
	for i, z := range o.Authz {
		name := v1.ACMEName{Name: names[i], State: z.Status, Method: z.Method}
		if z.Problem != nil {
			name.Error = z.Problem.Detail
		}
		out.Names = append(out.Names, name)
	}
	return out
}
