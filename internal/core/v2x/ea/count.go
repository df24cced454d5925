package ea

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/wire/coer"
	"mooring/wire/its"
)

const (
	lockStation     = `INSERT INTO v2x_station (cell, device, turn) VALUES (0, $1, 1)` + nextTurn
	selectIntervals = `SELECT start, ends, tickets FROM v2x_interval WHERE cell = 0 AND device = $1 AND ends > $2 AND start < $3`

	// For many stations at once; the rows stand between the parts.
	lockStations      = `INSERT INTO v2x_station (cell, device, turn) VALUES `
	nextTurn          = ` ON CONFLICT (cell, device) DO UPDATE SET turn = v2x_station.turn + 1`
	lookValidations   = `SELECT digest, start, ends FROM v2x_validation WHERE cell = 0 AND digest IN `
	lookIntervals     = `SELECT device, start, ends, tickets FROM v2x_interval WHERE cell = 0 AND ends > $1 AND start < $2 AND device IN `
	countTickets      = `INSERT INTO v2x_interval (cell, device, start, ends, tickets) VALUES `
	soMany            = ` ON CONFLICT (cell, device, start, ends) DO UPDATE SET tickets = v2x_interval.tickets + excluded.tickets`
	insertValidations = `INSERT INTO v2x_validation (cell, digest, start, ends, at) VALUES `
)

// interval is when so many tickets are valid.
type interval struct{ start, ends, tickets int64 }

// count counts the tickets of an inquiry, in the transaction that looks whether there may be one more of each. One that was counted before is not counted again, if the same
// authority asks: another one gives out a ticket of its own.
func (s *Service) count(ctx context.Context, q *inquiry) error {
	open := 0
	for _, v := range q.list {
		if v.code != its.ValidationOk {
			continue
		}
		sealed, err := coer.Marshal(&v.asked.EcSignature)
		if err != nil {
			return err
		}
		v.mark = digest(q.outer.Signer.Digest[:], v.asked.SharedAtRequest.Octets, sealed)
		open++
	}
	if open == 0 {
		return nil
	}
	err := s.commit.Do(ctx, q)
	var found verdicts
	if !errors.As(err, &found) {
		return err
	}
	for i, v := range q.list {
		if v.code != its.ValidationOk {
			continue
		}
		v.code = found[i].code
		// One that is asked for again has the time that it had, if that follows from nothing but the clock.
		if found[i].again && !v.asked.SharedAtRequest.RequestedSubjectAttributes.ValidityPeriod.Present {
			v.period.Start = its.Time32(found[i].start)
		}
	}
	return nil
}

// verdicts are what was decided of the questions of an inquiry, in their order. They are no error, but a batch has no other way to say something to whoever waits.
type verdicts []verdict

type verdict struct {
	code  its.AuthorizationValidationResponseCode
	again bool  // it was counted before
	start int64 // then: when the ticket begins
}

func (v verdicts) Error() string { return "the questions were decided on" }

// apply counts the tickets of a batch of inquiries. A station may have several in it. Stations are locked first, so that nobody else counts their tickets until this is over.
func (s *Service) apply(ctx context.Context, tx *db.Tx, batch []*inquiry) (decided []error, err error) {
	var all []*validating
	for _, q := range batch {
		for _, v := range q.list {
			if v.code == its.ValidationOk {
				all = append(all, v)
			}
		}
	}
	n, err := s.look(ctx, tx, all)
	if err != nil {
		return nil, err
	}
	decided = make([]error, len(batch))
	var counted []*validating
	for i, q := range batch {
		found := make(verdicts, len(q.list))
		for k, v := range q.list {
			if v.code != its.ValidationOk {
				continue
			}
			found[k] = s.decide(v, n)
			if found[k] == (verdict{}) {
				counted = append(counted, v)
			}
		}
		decided[i] = found
	}
	if len(counted) > 0 {
		s.write(tx, counted)
	}
	return decided, nil
}

// decide decides on one more ticket, and takes it into what is known if there may be one.
func (s *Service) decide(v *validating, n *seen) verdict {
	if code := may(v, n); code != its.ValidationOk {
		return verdict{code: code}
	}
	if was, again := n.before[string(v.mark)]; again {
		return verdict{again: true, start: was.start}
	}
	if most(v.beside(n.there[v.cred.device]), int64(v.period.Start))+1 > int64(s.Policy.Tickets) {
		return verdict{code: its.ValidationDeniedTooManyCerts}
	}
	one := interval{int64(v.period.Start), int64(v.period.End()), 1}
	n.before[string(v.mark)] = one
	n.there[v.cred.device] = append(n.there[v.cred.device], one)
	return verdict{}
}

// seen is what the database knows of a batch.
type seen struct {
	before  map[string]interval      // by the marks of requests that were counted before
	there   map[device.ID][]interval // tickets that are valid at a time with the one that is asked for
	devices map[device.ID]device.Device
	revoked map[its.HashedId8]bool // credentials
}

// look locks the stations of a batch, in the order in which everybody does, and reads what is known of it.
func (s *Service) look(ctx context.Context, tx *db.Tx, batch []*validating) (*seen, error) {
	n := &seen{before: map[string]interval{}, there: make(map[device.ID][]interval, len(batch)), revoked: map[its.HashedId8]bool{}}
	ids := make([]device.ID, len(batch))
	first, last := batch[0].period.Start, batch[0].period.End()
	for i, v := range batch {
		ids[i] = v.cred.device
		first, last = min(first, v.period.Start), max(last, v.period.End())
	}
	slices.SortFunc(ids, func(a, b device.ID) int { return bytes.Compare(a[:], b[:]) })
	ids = slices.Compact(ids)
	var locks, looks []*db.Stmt
	err := db.Chunks(len(ids), func(from, to int) error {
		stations, devices := make([]any, 0, 2*(to-from)), []any{int64(first), int64(last)}
		for i := range ids[from:to] {
			id := ids[from+i][:]
			stations, devices = append(stations, id, int64(1)), append(devices, id)
		}
		locks = append(locks, &db.Stmt{SQL: lockStations + db.Values("0, ", 2, to-from) + nextTurn, Args: stations})
		looks = append(looks, &db.Stmt{SQL: lookIntervals + db.List(3, to-from), Args: devices, Each: n.overlapping})
		return nil
	})
	err2 := db.Chunks(len(batch), func(from, to int) error {
		var marks, credentials []any
		for _, v := range batch[from:to] {
			marks, credentials = append(marks, v.mark), append(credentials, v.cred.id[:])
		}
		looks = append(looks, &db.Stmt{SQL: lookValidations + db.List(1, to-from), Args: marks, Each: n.countedBefore},
			&db.Stmt{SQL: lookRevoked + db.List(1, to-from), Args: credentials, Each: readRevoked(n.revoked)})
		return nil
	})
	if err = errors.Join(err, err2, tx.Send(ctx, append(locks, looks...)...)); err != nil {
		return nil, err
	}
	n.devices, err = s.Devices.LoadManyTx(ctx, tx, ids)
	return n, err
}

func (n *seen) countedBefore(row db.Row) error {
	var mark []byte
	var was interval
	err := row.Scan(&mark, &was.start, &was.ends)
	n.before[string(mark)] = was
	return err
}

func (n *seen) overlapping(row db.Row) error {
	var dev []byte
	var i interval
	if err := row.Scan(&dev, &i.start, &i.ends, &i.tickets); err != nil {
		return err
	}
	if len(dev) != len(device.ID{}) {
		return errs.New(errs.Internal, "table v2x_interval: a row of %x is damaged", dev)
	}
	n.there[device.ID(dev)] = append(n.there[device.ID(dev)], i)
	return nil
}

// may says whether a station may have such a ticket at the moment, also one that was counted before: nobody knows whether it was given out.
func may(v *validating, seen *seen) its.AuthorizationValidationResponseCode {
	d, found := seen.devices[v.cred.device]
	switch {
	case !found || !d.Tagged(TagStation):
		return its.ValidationUnknownIts
	case !d.State.Active() || seen.revoked[v.cred.id]:
		return its.ValidationDeniedRequest
	case !granted(&d, v.asked.SharedAtRequest.RequestedSubjectAttributes.AppPermissions):
		return its.ValidationDeniedPermissions
	}
	return its.ValidationOk
}

// beside are those of the intervals that share time with the ticket.
func (v *validating) beside(all []interval) (list []interval) {
	start, ends := int64(v.period.Start), int64(v.period.End())
	for _, i := range all {
		if i.ends > start && i.start < ends {
			list = append(list, i)
		}
	}
	return list
}

// write counts tickets. Record and rows have them in the order of their stations, not in that of the questions.
func (s *Service) write(tx *db.Tx, counted []*validating) {
	slices.SortStableFunc(counted, func(a, b *validating) int { return bytes.Compare(a.cred.device[:], b.cred.device[:]) })
	type place struct {
		device      device.ID
		start, ends int64
	}
	now, hour := s.Now().Unix(), s.hour()
	more := map[place]int64{}
	var places []place
	entries := make([]audit.Entry, len(counted))
	for i, v := range counted {
		p := place{v.cred.device, int64(v.period.Start), int64(v.period.End())}
		if more[p]++; more[p] == 1 {
			places = append(places, p)
		}
		entries[i] = audit.Entry{Action: "v2x.validate", At: hour, Actor: "system:v2x", Device: p.device.String()}
	}
	_ = db.Chunks(len(places), func(from, to int) error {
		intervals := make([]any, 0, 4*(to-from))
		for i := range places[from:to] {
			p := &places[from+i]
			intervals = append(intervals, p.device[:], p.start, p.ends, more[*p])
		}
		tx.Defer(&db.Stmt{SQL: countTickets + db.Values("0, ", 4, to-from) + soMany, Args: intervals})
		return nil
	})
	_ = db.Chunks(len(counted), func(from, to int) error {
		validations := make([]any, 0, 4*(to-from))
		for _, v := range counted[from:to] {
			validations = append(validations, v.mark, int64(v.period.Start), int64(v.period.End()), now)
		}
		tx.Defer(&db.Stmt{SQL: insertValidations + db.Values("0, ", 4, to-from), Args: validations})
		return nil
	})
	s.Audit.Defer(tx, entries...)
}

// most is how many tickets are valid at once at the most, from a moment on, of intervals that all end after it. A station may have very many, of a second each.
func most(list []interval, from int64) (n int64) {
	type change struct{ at, by int64 }
	changes := make([]change, 0, 2*len(list))
	for _, i := range list {
		changes = append(changes, change{max(i.start, from), i.tickets}, change{i.ends, -i.tickets})
	}
	slices.SortFunc(changes, func(a, b change) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.by, b.by)) }) // what ends comes first
	var here int64
	for _, c := range changes {
		here += c.by
		n = max(n, here)
	}
	return n
}
