package revoke

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
)

// Result is what became of a certificate.
type Result struct {
	Revocation
	Already bool  // it was so before; Revocation is what the first act made
	Listed  int64 // the number of the CRL that shows it; 0 when none could be signed in time
	// Successor is the serial number of a newer certificate that the device got with this one and that stays valid. Whoever revokes because
	// the key is in wrong hands wants to look at it.
	Successor []byte
	// Also are the serial numbers of the device's other certificates of the same public key, which a compromise of the key revoked with it.
	Also [][]byte
}

// Certificate revokes a certificate of ours or puts it on hold. It needs the permission cert.revoke, and access.grant when the certificate or
// its device has a role; nobody takes the last administrator's away but on the server's machine. Doing it again changes nothing and
// returns the first result; only a hold can become final, and then keeps its time (X.509). A serial number that was never issued is NotFound.
//
// The certificate of a CA that another CA here has signed is revoked in the same way, by whoever has ca.manage as well. From then on nothing
// is issued below it and nobody is believed whose certificate it issued. So is a cross certificate, which is then not announced any more.
//
// For KeyCompromise the other certificates of the same public key that the device has and that have not expired are revoked in the same
// transaction: a renewal may have kept the key.
func (s *Service) Certificate(ctx context.Context, actor access.Actor, serial []byte, reason Reason) (Result, error) {
	if err := reason.check(); err != nil {
		return Result{}, err
	}
	return s.change(ctx, actor, serial, reason)
}

// Release lifts a hold. It needs the permission cert.revoke, and access.grant as Certificate does. A certificate that is not on hold, or
// revoked for good, is a Conflict, and so is one of a suspended device, whose certificates come back when it is resumed.
func (s *Service) Release(ctx context.Context, actor access.Actor, serial []byte) (Result, error) {
	return s.change(ctx, actor, serial, released)
}

func (s *Service) change(ctx context.Context, actor access.Actor, serial []byte, reason Reason) (Result, error) {
	if err := s.Access.Require(ctx, actor, access.CertRevoke, "certificate "+hex.EncodeToString(serial[:min(len(serial), 20)])); err != nil {
		return Result{}, err
	}
	of, known, err := s.known(ctx, actor, serial) // of what is not kept the record knows enough, and it never changes
	if err != nil {
		return Result{}, err
	}
	return s.carryOut(ctx, actor, of, known, serial, reason)
}

// carryOut does what actor may do; of is the CA whose certificate known is, or nil.
func (s *Service) carryOut(ctx context.Context, actor access.Actor, of *ca.Issuer, known *ca.Certificate, serial []byte, reason Reason) (Result, error) {
	heirs, err := s.mayTake(ctx, actor, known, reason)
	if err != nil {
		return Result{}, err
	}
	var r Result
	var changed []Revocation
	err = s.do(ctx, func(ctx context.Context, tx *db.Tx) error {
		c := known
		if of == nil && ca.KeptAs(serial) == ca.Full {
			if c, err = s.CA.GetTx(ctx, tx, serial); err != nil {
				return err
			}
		}
		certs, err := s.concernedTx(ctx, tx, c, reason)
		if err != nil {
			return err
		}
		if err := s.withinPower(actor, certs); err != nil {
			return err
		}
		list, err := s.changeTx(ctx, tx, actor, certs, reason, false)
		if err != nil {
			return err
		}
		r = Result{Revocation: list[0].Revocation, Already: !list[0].changed}
		changed = []Revocation{r.Revocation}
		for i := range list[1:] {
			if o := &list[1+i]; o.changed {
				r.Also, changed = append(r.Also, o.Serial), append(changed, o.Revocation)
			}
		}
		return s.keepTx(ctx, tx, heirs)
	})
	if err != nil {
		return Result{}, s.refusedFor(ctx, actor, "certificate "+hex.EncodeToString(serial), err)
	}
	if of != nil {
		s.bar(ctx, of, r.standing())
	}
	if x := s.CA.CrossOf(serial); x != nil {
		s.barCross(ctx, x, r.standing())
	}
	s.renewAnswersOf(ctx, changed)
	r.Listed = s.makeVisible(ctx, changed)
	r.Successor = s.successor(ctx, &r.Revocation)
	r.Serial = ca.ShownSerial(r.Serial)
	return r, nil
}

// concernedTx returns the certificates that change with c, which is the first: at a compromise those of the same key.
func (s *Service) concernedTx(ctx context.Context, tx *db.Tx, c *ca.Certificate, to Reason) ([]*ca.Certificate, error) {
	certs := []*ca.Certificate{c}
	if c.Device == [16]byte{} || to != released && to != KeyCompromise {
		return certs, nil
	}
	if to == KeyCompromise { // locks the device first: a renewal with the same key waits, and is turned away afterwards
		if err := s.Devices.SlotRevokedTx(ctx, tx, c.Device, "", nil, s.Now().Unix()); err != nil {
			return nil, fmt.Errorf("locking the device of a certificate: %w", err)
		}
	}
	d, err := s.Devices.LoadTx(ctx, tx, c.Device)
	if errs.Is(err, errs.NotFound) {
		return certs, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the device of a certificate: %w", err)
	}
	if to == released {
		if d.State == device.Suspended {
			return nil, errs.New(errs.Conflict, "the device %q is suspended: resume it, and the holds of its certificates are lifted with that", d.Name)
		}
		return certs, nil
	}
	all, err := s.certificatesTx(ctx, tx, &d, nil)
	if err != nil {
		return nil, err
	}
	for _, other := range s.live(all) {
		if other.SPKIHash == c.SPKIHash && other.Serial != c.Serial {
			certs = append(certs, other)
		}
	}
	return certs, nil
}

// successor returns the serial of a certificate that the device got by proving itself with the revoked one. It is only a hint, so that
// what goes wrong here is no error.
func (s *Service) successor(ctx context.Context, r *Revocation) []byte {
	d, err := s.Devices.Load(ctx, r.Device)
	if err != nil {
		return nil
	}
	for _, slot := range d.Slots {
		if slot.Revoked == 0 && bytes.Equal(slot.Prev, r.Serial) {
			return slot.Serial
		}
	}
	return nil
}

// errOvertaken says that somebody changed a row between our reading and writing it.
var errOvertaken = errs.New(errs.Conflict, "somebody else is changing the same certificate: try again")

// do is DB.Do, and again when overtaken.
func (s *Service) do(ctx context.Context, fn func(ctx context.Context, tx *db.Tx) error) error {
	var err error
	for range 5 {
		if err = s.DB.Do(ctx, fn); !errors.Is(err, errOvertaken) {
			return err
		}
	}
	return err
}

// outcome is what changeTx made of one certificate.
type outcome struct {
	Revocation
	spki    [32]byte // SHA-256 of the certificate's public key
	changed bool
}

// changeTx revokes, holds or releases the certificates, which all belong to one device, in the order given: rows, the device's slots, and an
// entry for each. Locks are taken in the order device, lists; renewal takes the device's first as well.
func (s *Service) changeTx(ctx context.Context, tx *db.Tx, actor access.Actor, certs []*ca.Certificate, to Reason, byDevice bool) ([]outcome, error) {
	list := make([]outcome, len(certs))
	now := s.Now().Unix()
	for i, c := range certs {
		was, err := readTx(ctx, tx, c.Cell, c.Serial[:])
		if err != nil {
			return nil, fmt.Errorf("reading a revocation: %w", err)
		}
		if list[i], err = next(was, c, to, byDevice, now); err != nil {
			return nil, err
		}
		list[i].spki = c.SPKIHash
		if list[i].changed {
			if list[i].Shard, err = s.shardOf(c); err != nil {
				return nil, err
			}
		}
	}
	for i, c := range certs {
		if list[i].changed {
			if err := s.markDevice(ctx, tx, c, to, list[i].At); err != nil {
				return nil, err
			}
		}
	}
	if err := numberTx(ctx, tx, list); err != nil {
		return nil, fmt.Errorf("numbering the changes of a list: %w", err)
	}
	for i := range list {
		if !list[i].changed {
			continue
		}
		if err := writeTx(ctx, tx, certs[i].Cell, &list[i].Revocation); err != nil {
			return nil, err
		}
		if err := s.Audit.Append(ctx, tx, list[i].entry(actor)); err != nil {
			return nil, err
		}
	}
	if err := s.blockTx(ctx, tx, list); err != nil {
		return nil, err
	}
	s.countOnCommit(tx, list)
	tx.OnCommit(func() { s.changed(list) })
	return list, nil
}

// shardOf returns which list of its CA tells about the certificate.
func (s *Service) shardOf(c *ca.Certificate) (int64, error) {
	i, err := s.CA.IssuerByID(c.Issuer)
	if err != nil {
		return 0, fmt.Errorf("finding the list of a certificate: %w", err)
	}
	return i.Shard(c.Serial[:]), nil
}

// next says what the row of c becomes. The table of allowed changes: nothing or released → hold or final; hold → final or released; final
// stays.
func next(was Revocation, c *ca.Certificate, to Reason, byDevice bool, now int64) (outcome, error) {
	same := outcome{Revocation: was}
	r := Revocation{Serial: c.Serial[:], Issuer: c.Issuer, At: now, Reason: to, NotAfter: c.NotAfter, Device: c.Device, ByDevice: byDevice, turn: was.turn + 1}
	if was.turn > 0 { // the row keeps what it says of the certificate; of one without a row of its own the slot knows it less exactly
		r.Issuer, r.NotAfter = was.Issuer, was.NotAfter
	}
	switch {
	case to == released && byDevice && (!was.standing() || was.final() || !was.ByDevice):
		return same, nil // what was held or revoked by itself stays so when the device resumes
	case to == released && was.final():
		return same, errs.New(errs.Conflict, "the certificate is revoked for good (%s): only a hold can be lifted", was.Reason)
	case to == released && was.Reason != CertificateHold:
		return same, errs.New(errs.Conflict, "the certificate is not on hold")
	case to == released:
		return outcome{Revocation: r, changed: true}, nil
	case was.final(), was.standing() && to == CertificateHold:
		return same, nil
	case was.standing():
		r.At = was.At // X.509: the time when it was first put on hold
	}
	return outcome{Revocation: r, changed: true}, nil
}

// markDevice raises the device's policy number, so that a renewal that was decided before is turned away, and marks the slot when the
// revocation is final. A hold leaves no mark: the slot's certificate may come back.
func (s *Service) markDevice(ctx context.Context, tx *db.Tx, c *ca.Certificate, to Reason, at int64) error {
	m, ok := markOf(c, to, at)
	if !ok {
		return nil
	}
	if err := s.Devices.SlotRevokedTx(ctx, tx, m.ID, m.Slot, m.Serial, m.At); err != nil {
		return fmt.Errorf("marking the device of a certificate: %w", err)
	}
	return nil
}

// markOf returns what markDevice marks, if anything.
func markOf(c *ca.Certificate, to Reason, at int64) (device.Marked, bool) {
	m := device.Marked{ID: c.Device, Slot: c.Slot, Serial: c.Serial[:], At: at}
	if to == CertificateHold {
		m.Slot = "" // no slot is called so: only the number is raised
	}
	return m, to != released && m.ID != device.ID{}
}

// addChanges takes numbers for $3 changes. The row stays locked until the commit, so that numbers are committed in their order.
const addChanges = `INSERT INTO crl_scope (cell, issuer, shard, changes, number) VALUES (0, $1, $2, $3, 0)
 ON CONFLICT (cell, issuer, shard) DO UPDATE SET changes = crl_scope.changes + excluded.changes RETURNING changes`

// numberTx gives every change its number within its list, lists in a fixed order so that two transactions cannot wait for each other.
func numberTx(ctx context.Context, tx *db.Tx, list []outcome) error {
	byScope := map[scopeKey][]*Revocation{}
	for i := range list {
		if r := &list[i].Revocation; list[i].changed {
			byScope[r.scope()] = append(byScope[r.scope()], r)
		}
	}
	scopes := make([]scopeKey, 0, len(byScope))
	for k := range byScope {
		scopes = append(scopes, k)
	}
	slices.SortFunc(scopes, scopeKey.compare)
	for _, k := range scopes {
		var last int64
		changes := byScope[k]
		if _, err := tx.Get(ctx, []any{&last}, addChanges, k.issuer[:], k.shard, int64(len(changes))); err != nil {
			return err
		}
		for i, r := range changes {
			r.change = last - int64(len(changes)-1-i)
		}
	}
	return nil
}

const writeRevoked = `INSERT INTO revoked (cell, serial, ` + revokedColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)` + writeConflict

const writeConflict = `
 ON CONFLICT (cell, serial) DO UPDATE SET at = excluded.at, reason = excluded.reason, origin = excluded.origin, turn = excluded.turn,
 change = excluded.change WHERE revoked.turn = excluded.turn - 1`

func writeTx(ctx context.Context, tx *db.Tx, cell uint8, r *Revocation) error {
	s := writeStmt(cell, r)
	n, err := tx.Exec(ctx, s.SQL, s.Args...)
	if err != nil {
		return fmt.Errorf("writing a revocation: %w", err)
	}
	if n == 0 {
		return errOvertaken
	}
	return nil
}

// writeStmt changes no row when somebody else changed it meanwhile.
func writeStmt(cell uint8, r *Revocation) *db.Stmt {
	return &db.Stmt{SQL: writeRevoked, Args: []any{int64(cell), r.Serial, r.Issuer[:], r.Shard, r.At, int64(r.Reason), r.NotAfter, r.Device[:], r.origin(), r.turn, r.change}}
}

func (r *Revocation) origin() int64 {
	if r.ByDevice {
		return 1
	}
	return 0
}

// entry is what the record keeps: everything that the row says. Holds and their end have actions of their own, since a slot is marked by
// final revocations only.
func (r *outcome) entry(actor access.Actor) audit.Entry {
	action := "cert.revoke"
	switch r.Reason {
	case CertificateHold:
		action = "cert.hold"
	case released:
		action = "cert.release"
	}
	n := func(i int64) string { return strconv.FormatInt(i, 10) }
	e := audit.Entry{Action: action, Actor: actor.String(), Device: r.Device.String(), Serial: hex.EncodeToString(ca.ShownSerial(r.Serial)), Detail: map[string]string{
		"issuer": r.Issuer.String(), "shard": n(r.Shard), "at": n(r.At), "reason": r.Reason.String(), "not_after": n(r.NotAfter),
		"origin": n(r.origin()), "turn": n(r.turn), "change": n(r.change), "spki": hex.EncodeToString(r.spki[:])}}
	if r.blocks() {
		e.Detail[blockedDetail] = "1"
	}
	return e
}

func (s *Service) countOnCommit(tx *db.Tx, list []outcome) {
	tx.OnCommit(func() {
		for i := range list {
			switch {
			case !list[i].changed:
			case list[i].Reason == CertificateHold:
				s.counts.held.Add(1)
			case list[i].Reason == released:
				s.counts.released.Add(1)
			default:
				s.counts.revoked.Add(1)
			}
		}
	})
}

// visibleIn is how long a revocation waits for its list. Later it returns without; Run goes on trying.
const visibleIn = 5 * time.Second

// makeVisible returns when the lists show the changes or time is up: the lowest number of these lists, or 0. A client that goes away does
// not stop it.
func (s *Service) makeVisible(ctx context.Context, changed []Revocation) int64 {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), visibleIn)
	defer cancel()
	need := map[scopeKey]int64{}
	for i := range changed {
		need[changed[i].scope()] = max(need[changed[i].scope()], changed[i].change)
	}
	lowest := int64(0)
	for k, change := range need {
		l, err := s.listCovering(ctx, k, change)
		if errs.Is(err, errs.NotFound) { // no address for its shards: what is not published needs no signature
			continue
		}
		if err != nil {
			s.Log.LogAttrs(ctx, slog.LevelError, "a revocation is recorded but its CRL could not be signed yet", slog.String("issuer", k.issuer.String()), slog.Any("cause", err))
			return 0
		}
		if lowest == 0 || l.number < lowest {
			lowest = l.number
		}
	}
	return lowest
}

// scopeKey names one list.
type scopeKey struct {
	issuer ca.IssuerID
	shard  int64
}

func (k scopeKey) compare(o scopeKey) int {
	return cmp.Or(bytes.Compare(k.issuer[:], o.issuer[:]), cmp.Compare(k.shard, o.shard))
}

func (r *Revocation) scope() scopeKey { return scopeKey{r.Issuer, r.Shard} }
