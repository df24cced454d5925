package api

import (
	"context"
	"strconv"
	"time"

	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/server/api/v1"
)

func (s *server) getRetention(ctx context.Context, actor access.Actor, _ *none) (v1.Retention, error) {
	state, err := s.CA.RetentionState(ctx, actor)
	if err != nil {
		return v1.Retention{}, err
	}
	out := v1.Retention{Hold: state.Hold, AtLeast: ca.TimeText(int64(state.Slack / time.Second)), Months: state.Months, Last: []v1.Purge{},
		Profiles: each(state.Profiles, func(p *ca.Profile) v1.RetentionProfile {
			return v1.RetentionProfile{Name: p.Name, Record: string(p.Record), Retention: p.RetentionText()}
		})}
	for _, e := range state.Last {
		n, err := strconv.ParseInt(e.Detail["n"], 10, 64)
		if err != nil {
			return v1.Retention{}, err
		}
		out.Last = append(out.Last, v1.Purge{At: moment(e.At), What: e.Object, Certificates: n, Whole: e.Detail["month"] == "whole", Index: e.Index})
	}
	record, err := s.Audit.RetentionState(ctx, actor)
	if errs.Is(err, errs.Denied) {
		return out, nil
	}
	out.Audit = &v1.RetentionAudit{Entries: record.Entries, Until: record.Left, From: record.From, Octets: record.Octets}
	if record.Keep != 0 {
		out.Audit.Keep = conf.FormatDuration(record.Keep)
	}
	if record.At != 0 {
		at := moment(record.At)
		out.Audit.At = &at
	}
	return out, err
}

func (s *server) runRetention(ctx context.Context, actor access.Actor, _ *none) (v1.RetentionRun, error) {
	done, err := s.CA.Purge(ctx, actor)
	if err != nil {
		return v1.RetentionRun{}, err
	}
	left, err := s.Audit.Drop(ctx, actor)
	return v1.RetentionRun{Certificates: done.Certificates, Months: done.Months, Entries: left.Entries, Until: left.Month}, err
}
