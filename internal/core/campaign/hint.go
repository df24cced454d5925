package campaign

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"time"
	"unicode"

	"mooring/internal/base/db"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/wire/der"
)

// Hint is what a device is told about its renewal.
type Hint struct {
	RenewAt  int64         // UTC seconds; 0 = never by what is known now
	Key      der.KeyKind   // of the next certificate; "" = as the device likes
	NewKey   bool          // the next certificate must be for a new key
	Campaign string        // whose wish it is; "" = nobody's, it is the profile's time
	Ask      time.Duration // when to ask again
}

const (
	askEvery = 6 * time.Hour   // how often a device asks when nothing is to be expected
	askLeast = 5 * time.Minute // and at most
)

// Hint tells a device, which proved by the certificate with this serial number who it is, when it is to renew. It notes that the device was
// told, and that it uses its new certificate. problem is what the device says went wrong when it tried last.
func (s *Service) Hint(ctx context.Context, d *device.Device, presented []byte, problem string) (Hint, error) {
	slot := s.slotOf(d)
	h := Hint{RenewAt: s.Devices.RenewAt(d, &slot), Ask: askEvery}
	now := s.Now().Unix()
	for _, c := range *s.running.Load() {
		if !d.State.Active() {
			break
		}
		m, found, err := s.member(ctx, &c, d)
		if err != nil {
			return h, err
		}
		if !found || m.standing == Succeeded || m.standing == Closing || m.standing == Skipped {
			continue
		}
		if s.fulfilled(&c, &slot, m.base) {
			if bytes.Equal(presented, slot.Serial) {
				err = s.shift(ctx, &c, m, c.success(), "")
			}
			if err != nil {
				return h, err
			}
			continue
		}
		if err := s.tell(ctx, &c, m, &h, problem, now); err != nil {
			return h, err
		}
	}
	return h, nil
}

// success is where a device stands that has used its new certificate.
func (c *Campaign) success() Standing {
	if c.RevokeOld {
		return Closing
	}
	return Succeeded
}

// tell puts into h what the campaign wants of a device.
func (s *Service) tell(ctx context.Context, c *Campaign, m member, h *Hint, problem string, now int64) error {
	turn := c.Turn(m.place, now)
	if m.place >= c.released(now) || !c.open(now) {
		if turn <= now { // outside of the hours
			turn = c.clockAt(now, 1)
		}
		h.Ask = min(h.Ask, max(time.Duration(turn-now)*time.Second, askLeast))
		return nil
	}
	if h.RenewAt == 0 || turn < h.RenewAt {
		h.RenewAt = min(turn, now)
	}
	h.Campaign = c.Name
	if c.Action == Rekey {
		h.Key, h.NewKey = c.Algorithm, true
	}
	problem = printable(problem)
	switch {
	case problem != "" && m.standing == Told: // what it says before it was told is about something else
		return s.shift(ctx, c, m, Failed, "the device says: "+problem)
	case m.standing == Waiting:
		return s.shift(ctx, c, m, Told, "")
	}
	return nil
}

func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	return strings.TrimSpace(shortened(text))
}

// shortened cuts what is kept about a device, between characters.
func shortened(note string) string { return strings.ToValidUTF8(note[:min(len(note), noteMost)], "") }

func (s *Service) member(ctx context.Context, c *Campaign, d *device.Device) (m member, found bool, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		m, found, err = memberTx(ctx, tx, c.ID, d.Cell, d.ID)
		return err
	})
	return m, found, err
}

// shift moves a device in a transaction of its own.
func (s *Service) shift(ctx context.Context, c *Campaign, m member, to Standing, note string) error {
	err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		return m.moveTx(ctx, tx, c.ID, to, s.Now().Unix(), note)
	})
	if to == Failed {
		s.nudge()
	}
	return err
}

// Demand returns what a campaign demands of the next certificate of a device: of one whose turn came longer ago than the grace.
func (s *Service) Demand(ctx context.Context, d *device.Device) (enrol.Demand, error) {
	now := s.Now().Unix()
	for _, c := range *s.running.Load() {
		m, found, err := s.member(ctx, &c, d)
		if err != nil {
			return enrol.Demand{}, err
		}
		if !found || !c.demands(&m, now) {
			continue
		}
		if slot := s.slotOf(d); s.fulfilled(&c, &slot, m.base) {
			continue
		}
		return enrol.Demand{Campaign: c.Name, Key: c.Algorithm, NewKey: true, Since: c.Turn(m.place, now)}, nil
	}
	return enrol.Demand{}, nil
}

// demands reports whether nothing else than what the campaign wants is granted to the device any more.
func (c *Campaign) demands(m *member, now int64) bool {
	if c.Action != Rekey { // the profile does it by itself
		return false
	}
	over := m.standing == Succeeded || m.standing == Closing || m.standing == Skipped
	return !over && m.place < c.released(now) && now >= c.Turn(m.place, now)+c.Grace
}

// Refused notes that a request of a device was refused: if it was told to renew, or never asks and met the campaign's demand, it failed.
func (s *Service) Refused(ctx context.Context, d *device.Device, why string) {
	for _, c := range *s.running.Load() {
		m, found, err := s.member(ctx, &c, d)
		if err == nil && found && (m.standing == Told || m.standing == Waiting && c.demands(&m, s.Now().Unix())) {
			err = s.shift(ctx, &c, m, Failed, "its request was refused: "+why)
		}
		if err != nil {
			s.Log.LogAttrs(ctx, slog.LevelWarn, "the failure of a device in a campaign could not be noted", slog.Any("cause", err))
		}
	}
}
