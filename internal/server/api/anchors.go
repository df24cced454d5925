package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/server/api/v1"
)

type anchorsInput struct {
	Group string `query:"group" maxLength:"255" doc:"Only devices of this group"`
}

func (s *server) listAnchors(ctx context.Context, actor access.Actor, in *anchorsInput) (v1.AnchorList, error) {
	if err := s.Access.Require(ctx, actor, access.DeviceRead, "devices"); err != nil {
		return v1.AnchorList{}, err
	}
	out := v1.AnchorList{Anchors: []v1.AnchorState{}}
	for _, root := range s.CA.Successors() {
		n, err := s.Devices.CountAnchor(ctx, actor, device.Anchor(root.ID()), in.Group)
		if err != nil {
			return v1.AnchorList{}, err
		}
		out.Anchors = append(out.Anchors, shownAnchor(root, n))
	}
	return out, nil
}

func shownAnchor(root *ca.Issuer, n [4]int64) v1.AnchorState {
	cert := root.Certificate()
	sum := sha256.Sum256(cert.Raw)
	return v1.AnchorState{Name: root.Name(), ID: root.ID().String(), Subject: cert.Subject.String(), Fingerprint: hex.EncodeToString(sum[:]), None: n[device.NoEvidence],
		Delivered: n[device.Delivered], Reported: n[device.Reported], Proven: n[device.Proven]}
}

type missingInput struct {
	Anchor string `path:"anchor" maxLength:"64" doc:"Name or id of the root" example:"root-g2"`
	Group  string `query:"group" maxLength:"255" doc:"Only devices of this group"`
	Grade  int    `query:"min_grade" minimum:"1" maximum:"3" default:"3" doc:"The evidence that is asked for: 1 delivered, 2 reported, 3 proven"`
	Cursor string `query:"cursor" maxLength:"1024" doc:"The next of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Devices a page"`
}

func (s *server) missingAnchor(ctx context.Context, actor access.Actor, in *missingInput) (v1.MissingAnchorPage, error) {
	if err := s.Access.Require(ctx, actor, access.DeviceRead, "devices"); err != nil {
		return v1.MissingAnchorPage{}, err
	}
	root, err := s.CA.Issuer(in.Anchor)
	if err != nil {
		return v1.MissingAnchorPage{}, err
	}
	if err := s.tracked(root); err != nil {
		return v1.MissingAnchorPage{}, err
	}
	page, next, err := s.Devices.MissingAnchor(ctx, actor, device.Anchor(root.ID()), device.Grade(in.Grade), in.Group, in.Cursor, in.Limit)
	if err != nil {
		return v1.MissingAnchorPage{}, err
	}
	return v1.MissingAnchorPage{Devices: each(page, shownMissing), Next: next}, nil
}

// tracked refuses a root of which no evidence is kept, so that a fleet without any does not look like one that knows nothing.
func (s *server) tracked(root *ca.Issuer) error {
	var names []string
	for _, other := range s.CA.Successors() {
		if other.ID() == root.ID() {
			return nil
		}
		names = append(names, other.Name())
	}
	there := "no root is tracked now"
	if len(names) > 0 {
		there = "tracked are " + strings.Join(names, ", ")
	}
	return errs.New(errs.Conflict, "anchor: %s is not tracked, because no older root vouches for it: have one do so with mooring ca cross; %s", root.Name(), there)
}

func shownMissing(m device.WithoutAnchor) v1.MissingAnchor {
	out := v1.MissingAnchor{ID: m.ID.String(), Name: m.Name, Group: m.Group, State: m.State.String(), Grade: int(m.Grade)}
	if m.At > 0 {
		at := moment(m.At)
		out.At = &at
	}
	return out
}
