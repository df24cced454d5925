package enrol

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
)

// rowMark is the digest of a waiting request as the record holds it: what the person who decides is shown, and what a decision stands for.
func (p *Pending) rowMark() string {
	h := sha256.New()
	for _, text := range []string{string(p.Device[:]), string(p.id), p.Profile, p.Subject, p.Names, p.Key, string(p.SPKI), fmt.Sprint(p.Created), fmt.Sprint(p.Rescue)} {
		fmt.Fprintf(h, "%d:%s", len(text), text)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// standing is what the record says about a device's request.
type standing struct {
	row     string
	state   PendingState
	decided int64
	decider string
}

const requestCells = `SELECT cell, device FROM request`

// checker replays what became of requests. It remembers one standing for each device that has a request, which is few of them.
type checker struct {
	requests map[string]standing
	cellOf   func(device.ID) uint8
}

// Checker compares the waiting and decided requests with the replayed record: a decision that nobody took must be named. Requests that were
// forgotten after their time leave no entry, so a missing row is no finding. A Checker serves one verification.
func (s *Service) Checker() audit.Checker {
	c := &checker{requests: map[string]standing{}, cellOf: s.Devices.CellOf}
	return audit.Checker{Name: "enrol", Entry: c.entry, Finish: c.finish, Save: c.save, Load: c.load}
}

func (c *checker) entry(_ int64, e audit.Entry) error {
	if e.Refused != "" {
		return nil
	}
	switch e.Action {
	case "enrol.request":
		c.requests[e.Device] = standing{row: e.Detail["row"], state: Waiting}
	case "enrol.approve", "enrol.deny":
		known, ok := c.requests[e.Device]
		if !ok || known.state != Waiting {
			return errors.New("a request was decided that did not wait")
		}
		known.state, known.decided, known.decider = Refused, e.At, e.Actor
		if e.Action == "enrol.approve" {
			known.state = Approved
		}
		c.requests[e.Device] = known
	case "cert.issue":
		if e.Detail["approved"] != "" {
			delete(c.requests, e.Device)
		}
	}
	return nil
}

func (c *checker) finish(ctx context.Context, tx *db.Tx) error {
	var found []error
	err := tx.Each(ctx, func(r db.Row) error {
		p, err := scanPending(r)
		if err != nil {
			return err
		}
		if known, ok := c.requests[p.Device.String()]; !ok || known != (standing{p.rowMark(), p.State, p.Decided, p.Decider}) {
			found = append(found, fmt.Errorf("table request: the row of device %s is not what the record says", p.Device))
		}
		return nil
	}, selectRequest)
	if err == nil {
		err = tx.Each(ctx, func(r db.Row) error {
			var cell int64
			var id []byte
			if err := r.Scan(&cell, &id); err != nil {
				return err
			}
			if len(id) != len(device.ID{}) || cell != int64(c.cellOf(device.ID(id))) {
				found = append(found, fmt.Errorf("table request: the row of device %x stands in cell %d, where nobody looks for it", id, cell))
			}
			return nil
		}, requestCells)
	}
	return errors.Join(append(found, err)...)
}
