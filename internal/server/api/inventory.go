package api

import (
	"context"
	"time"

	"mooring/internal/core/access"
	"mooring/internal/server/api/v1"
)

func (s *server) countDevices(ctx context.Context, actor access.Actor, in *DeviceFilter) (v1.DeviceCount, error) {
	f, err := s.filter(in)
	if err != nil {
		return v1.DeviceCount{}, err
	}
	n, err := s.Devices.Count(ctx, actor, f)
	return v1.DeviceCount{Count: n, Exact: true}, err
}

type forecastInput struct {
	DeviceFilter
	By    string `query:"by" enum:"hour,day" default:"day" doc:"Length of a span"`
	Spans int    `query:"spans" minimum:"1" maximum:"1000" default:"100" doc:"How many spans"`
}

func (s *server) forecastRenewals(ctx context.Context, actor access.Actor, in *forecastInput) (v1.Forecast, error) {
	f, err := s.filter(&in.DeviceFilter)
	if err != nil {
		return v1.Forecast{}, err
	}
	unit := 24 * time.Hour
	if in.By == "hour" {
		unit = time.Hour
	}
	found, err := s.Devices.Forecast(ctx, actor, f, int64(unit/time.Second), in.Spans)
	if err != nil {
		return v1.Forecast{}, err
	}
	out := v1.Forecast{Overdue: found.Overdue, Later: found.Later, Never: found.Never, Spans: make([]v1.Span, len(found.Spans))}
	for i, n := range found.Spans {
		out.Spans[i] = v1.Span{From: moment(found.From + int64(i)*found.Unit), Due: n}
	}
	return out, nil
}
