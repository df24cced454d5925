package api

import (
	"context"
	"encoding/hex"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/enrol"
	"mooring/internal/server/api/v1"
)

type listRequestsInput struct {
	Limit int `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"At most so many"`
}

func (s *server) listRequests(ctx context.Context, actor access.Actor, in *listRequestsInput) (v1.RequestList, error) {
	list, err := s.Enrol.Waiting(ctx, actor, in.Limit)
	if err != nil {
		return v1.RequestList{}, err
	}
	return v1.RequestList{Requests: each(list, shownRequest)}, nil
}

type decideInput struct {
	Device string       `path:"device" maxLength:"255" doc:"Name or id" example:"sensor-0017"`
	Body   *v1.Decision `doc:"May be absent"`
}

func (s *server) approve(ctx context.Context, actor access.Actor, in *decideInput) (v1.Request, error) {
	return s.decide(ctx, actor, in, true)
}

func (s *server) refuse(ctx context.Context, actor access.Actor, in *decideInput) (v1.Request, error) {
	return s.decide(ctx, actor, in, false)
}

func (s *server) decide(ctx context.Context, actor access.Actor, in *decideInput, approve bool) (v1.Request, error) {
	d, err := s.named(ctx, actor, access.EnrolApprove, in.Device)
	if err != nil {
		return v1.Request{}, err
	}
	seen := ""
	if in.Body != nil {
		seen = in.Body.Request
	}
	if approve && seen == "" {
		return v1.Request{}, errs.New(errs.Invalid, "request: name the request that you looked at, so that no other one is approved in its place")
	}
	p, err := s.Enrol.Decide(ctx, actor, d.ID.String(), seen, approve)
	return shownRequest(p), err
}

func shownRequest(p enrol.Pending) v1.Request {
	return v1.Request{ID: p.ID(), Device: p.Device.String(), Profile: p.Profile, State: p.State.String(), Subject: p.Subject, Names: p.Names, Key: p.Key,
		SPKI: hex.EncodeToString(p.SPKI), Created: moment(p.Created), Decided: moment(p.Decided), Decider: p.Decider,
		Expired: moment(p.Rescue), Second: p.Second}
}
