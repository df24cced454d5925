package ea

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/device"
	"mooring/wire/its"
)

// Station is what the authority knows of a station, for its operators: nothing of it says which tickets the station has.
type Station struct {
	Device      device.Device
	Tagged      bool      // it is one; otherwise it was
	Credentials []*Issued // the newest first, issuedMost at the most
	Valid       int64     // tickets that are valid now
	Weeks       []Week    // those with tickets that are not over, the first one first
}

// Week is how many tickets begin in a week, which begins as the periods of tickets do: on Tuesday, 9:00 UTC less the leap seconds since 2015.
type Week struct {
	From    time.Time
	Tickets int64
}

// issuedMost is how many credentials of a station are shown.
const issuedMost = 1000

const selectCounted = `SELECT start, ends, tickets FROM v2x_interval WHERE cell = 0 AND device = $1 AND ends > $2`

// Station returns what there is of a device, by its name or id: its credentials, and how many tickets it has when. It needs the permission v2x.ea.
func (s *Service) Station(ctx context.Context, actor access.Actor, nameOrID string) (*Station, error) {
	if err := s.Trust.Access.Require(ctx, actor, access.V2XEnrolment, "v2x ea"); err != nil {
		return nil, err
	}
	d, err := s.deviceOf(ctx, nameOrID)
	if err != nil {
		return nil, err
	}
	st := &Station{Device: d, Tagged: d.Tagged(TagStation)}
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		if st.Credentials, err = eachIssued(ctx, tx, selectIssuedTo, d.ID[:], issuedMost); err != nil {
			return err
		}
		return s.countTx(ctx, tx, st)
	})
	if err != nil {
		return nil, err
	}
	if !st.Tagged && len(st.Credentials) == 0 {
		return nil, errs.New(errs.NotFound, "the device %s is no station: it has not the tag %s", d.Name, TagStation)
	}
	for _, i := range st.Credentials {
		i.Device = d
	}
	return st, nil
}

func (s *Service) deviceOf(ctx context.Context, nameOrID string) (d device.Device, err error) {
	err = errs.New(errs.NotFound, "")
	if id, isID := device.ParseID(nameOrID); isID == nil {
		d, err = s.Devices.Load(ctx, id)
	}
	if errs.Is(err, errs.NotFound) {
		id, _ := s.Devices.IDOf(nameOrID)
		d, err = s.Devices.Load(ctx, id)
	}
	if errs.Is(err, errs.NotFound) {
		err = errs.New(errs.NotFound, "there is no device of that name")
	}
	return d, err
}

// period is that of tickets, in seconds.
const period = 7 * 24 * 3600

// countTx counts the tickets of a station that are not over.
func (s *Service) countTx(ctx context.Context, tx *db.Tx, st *Station) error {
	now := its.Time32(s.Trust.At() / 1e6)
	weeks := map[int64]int64{} // by the number of the period
	st.Valid, st.Weeks = 0, nil
	err := tx.Each(ctx, func(row db.Row) error {
		var i interval
		if err := row.Scan(&i.start, &i.ends, &i.tickets); err != nil {
			return fmt.Errorf("reading table v2x_interval: %w", err)
		}
		if i.start <= int64(now) {
			st.Valid += i.tickets
		}
		weeks[(i.start-int64(its.FirstPeriod))/period] += i.tickets
		return nil
	}, selectCounted, st.Device.ID[:], int64(now))
	for _, n := range slices.Sorted(maps.Keys(weeks)) {
		from := its.FirstPeriod + its.Time32(n*period)
		st.Weeks = append(st.Weeks, Week{from.Time(s.Trust.Leap), weeks[n]})
	}
	return err
}
