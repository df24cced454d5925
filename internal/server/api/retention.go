package api

import (
	"context"
	"strconv"
	"time"

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
	return out, nil
}

func (s *server) runRetention(ctx context.Context, actor access.Actor, _ *none) (v1.RetentionRun, error) {
	done, err := s.CA.Purge(ctx, actor)
	return v1.RetentionRun{Certificates: done.Certificates, Months: done.Months}, err
}
