package api

import (
	"context"
	"slices"

	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/internal/server/api/v1"
)

type listKeysInput struct {
	After string `query:"after" maxLength:"255" doc:"The next of the page before"`
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Keys a page"`
}

func (s *server) listKeys(ctx context.Context, actor access.Actor, in *listKeysInput) (v1.KeyPage, error) {
	signs := map[key.ID][]string{}
	var expected []key.ID
	s.CA.Each(func(i *ca.Issuer) {
		if signs[i.Key()] == nil {
			expected = append(expected, i.Key())
		}
		signs[i.Key()] = append(signs[i.Key()], i.Name())
	})
	reports, err := s.Custody.Reports(ctx, actor, expected, key.ID(in.After), in.Limit)
	if err != nil {
		return v1.KeyPage{}, err
	}
	page := v1.KeyPage{Keys: []v1.Key{}}
	for _, r := range reports {
		page.Keys = append(page.Keys, shownKey(r, signs[r.ID]))
	}
	if len(reports) == in.Limit {
		page.Next = string(reports[len(reports)-1].ID)
	}
	return page, nil
}

func shownKey(r key.Report, cas []string) v1.Key {
	slices.Sort(cas)
	out := v1.Key{ID: string(r.ID), CAs: cas, Custody: string(r.ID.Place()), State: string(r.State), Problem: r.Problem, Label: r.Label, Algorithm: string(r.Algorithm), Uses: r.Uses, StatusUses: r.StatusUses}
	if r.Limit != (key.Limit{}) {
		out.Limit = &v1.KeyLimit{MaxUses: r.Limit.MaxUses, StatusUses: r.Limit.StatusUses}
		if r.Limit.Until > 0 {
			until := moment(r.Limit.Until)
			out.Limit.Until = &until
		}
	}
	return out
}

type limitCAInput struct {
	CA   string `path:"ca" maxLength:"64" doc:"Name or id" example:"devices"`
	Body v1.KeyLimit
}

func (s *server) limitCA(ctx context.Context, actor access.Actor, in *limitCAInput) (v1.SetKeyLimit, error) {
	l := limitOf(&in.Body)
	if err := s.CA.SetLimit(ctx, actor, in.CA, l); err != nil {
		return v1.SetKeyLimit{}, err
	}
	if l.MaxUses > 0 && l.StatusUses == 0 {
		in.Body.StatusUses = key.DefaultStatusUses
	}
	i, err := s.CA.Issuer(in.CA)
	if err != nil {
		return v1.SetKeyLimit{}, err
	}
	over, err := s.Custody.Over(ctx, i.Key())
	if err != nil {
		return v1.SetKeyLimit{}, err
	}
	out := v1.SetKeyLimit{KeyLimit: in.Body}
	if over != "" {
		out.Note = "from now on the CA issues nothing: " + over
	}
	return out, nil
}

// limitOf is the limit that was asked for; nil asks for none.
func limitOf(l *v1.KeyLimit) key.Limit {
	if l == nil {
		return key.Limit{}
	}
	limit := key.Limit{MaxUses: l.MaxUses, StatusUses: l.StatusUses}
	if l.Until != nil {
		limit.Until = l.Until.Unix()
	}
	return limit
}
