package app_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/db"
	"mooring/internal/core/device"
	"mooring/wire/butterfly"
)

// startButterfly starts a platform whose stations get tickets by butterfly keys: three in each of two periods, mixed as soon as so many stations are there.
func startButterfly(t *testing.T, stations int, change func(*conf.Config)) *v2xPlatform {
	t.Helper()
	return startV2X(t, func(c *conf.Config) {
		c.V2X.Butterfly = conf.Butterfly{On: true, Period: 7 * 24 * time.Hour, Overlap: time.Hour, Tickets: 3, Ahead: 2, Stations: stations, Wait: 24 * time.Hour}
		if change != nil {
			change(c)
		}
	})
}

// car is a vehicle that has enrolled.
type car struct {
	client *agent.Client
	ec     *agent.Credential
	device device.ID
	plain  bool // as in agent.ButterflyOrder
}

func (p *v2xPlatform) car(t *testing.T, name string) car {
	t.Helper()
	canonical, d := p.vehicle(t, name)
	c := car{client: p.client(t), device: d.ID}
	var err error
	c.ec, err = c.client.Enrol(t.Context(), name, canonical)
	must(t, err)
	return c
}

// order sends a request for tickets by butterfly keys.
func (c car) order(t *testing.T, v butterfly.Variant) *agent.Butterfly {
	t.Helper()
	b, err := c.client.PrepareButterfly(c.ec, agent.ButterflyOrder{Variant: v, Plain: c.plain})
	must(t, err)
	must(t, c.client.OrderButterfly(t.Context(), b))
	return b
}

// fetch waits for the tickets of a period.
func (c car) fetch(t *testing.T, b *agent.Butterfly, i uint16) (batch *agent.Batch) {
	t.Helper()
	apptest.Until(t, "the tickets are there", func() bool {
		var err error
		batch, err = c.client.FetchButterfly(t.Context(), c.ec, b, i)
		if status(err) == http.StatusNotFound {
			return false
		}
		must(t, err)
		return true
	})
	return batch
}

// status is the status of an answer that is no message.
func status(err error) int {
	var s *agent.StatusError
	if !errors.As(err, &s) {
		return 0
	}
	return s.Code
}

func rowsOf(t *testing.T, in *db.DB, sql string) (n int64) {
	t.Helper()
	must(t, in.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&n}, sql)
		return err
	}))
	return n
}

// BFK-1, BFK-2, BFK-3, BFK-12: vehicles enrol, ask, fetch, and verify all tickets up to the root. Nothing leaves before there are enough of them that expand alike, and none of the keys is one that
// the enrolment authority can compute.
func TestV2XButterfly(t *testing.T) {
	t.Parallel()
	p := startButterfly(t, 2, nil)
	one, two, three, four := p.car(t, "car-1"), p.car(t, "car-2"), p.car(t, "car-3"), p.car(t, "car-4")
	first, third := one.order(t, butterfly.Original), three.order(t, butterfly.Unified)
	if _, err := one.client.FetchButterfly(t.Context(), one.ec, first, first.First); status(err) != http.StatusNotFound {
		t.Errorf("BFK-12: the tickets of one vehicle: %v", err)
	}
	must(t, p.V2X.RA.Mix(t.Context()))
	if n := rowsOf(t, p.Tickets().DB, `SELECT COUNT(*) FROM v2x_ticket`); n != 0 {
		t.Errorf("BFK-12: %d tickets were asked for while one vehicle was there of each variant", n)
	}
	second := two.order(t, butterfly.Original)
	must(t, p.V2X.RA.Mix(t.Context()))
	if _, err := three.client.FetchButterfly(t.Context(), three.ec, third, third.First); status(err) != http.StatusNotFound {
		t.Errorf("BFK-12: the unified tickets of one vehicle, which were mixed with none alike: %v", err)
	}
	fourth := four.order(t, butterfly.Unified)
	keys := map[string]bool{}
	for _, row := range []struct {
		car
		order *agent.Butterfly
	}{{one, first}, {two, second}, {three, third}, {four, fourth}} {
		for n := range uint16(2) {
			batch := row.fetch(t, row.order, row.order.First+n)
			if len(batch.Tickets) != 3 || batch.I != row.order.First+n || batch.Next.Before(p.clock.Now().Add(-time.Minute)) {
				t.Errorf("period %d: %d tickets, the next at %v", batch.I, len(batch.Tickets), batch.Next)
			}
			public := row.order.Keys.Public()
			for j, ticket := range batch.Tickets {
				point := ticket.Certificate.ToBeSigned.VerifyKeyIndicator.VerificationKey.Point.X
				if signing, encryption := public.Cocoon(uint32(batch.I), uint32(j)); bytes.Equal(point, signing.Bytes()[1:]) || bytes.Equal(point, encryption.Bytes()[1:]) {
					t.Errorf("BFK-3: the ticket %d_%d has a key that the enrolment authority can compute", batch.I, j)
				}
				keys[string(point)] = true
				if _, err := ticket.Signer().Sign(make([]byte, 32)); err != nil {
					t.Errorf("BFK-1: the key of the ticket does not sign: %v", err)
				}
			}
		}
	}
	if len(keys) != 24 {
		t.Errorf("there are %d different keys of 24 tickets", len(keys))
	}
	if n := rowsOf(t, p.DB, `SELECT SUM(tickets) FROM v2x_interval`); n != 24 {
		t.Errorf("%d tickets were counted, want 24", n)
	}
	if n := rowsOf(t, p.Tickets().DB, `SELECT COUNT(*) FROM v2x_ticket`); n != 24 {
		t.Errorf("%d tickets were issued, want 24", n)
	}
}
