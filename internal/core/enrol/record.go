package enrol

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/wire/der"
)

// item is a certificate to be recorded, with the claim on its device.
type item struct {
	device  device.ID
	cell    uint8
	entry   audit.Entry
	claim   device.Claim
	cert    *ca.Certificate
	expired int64 // when the certificate ended by which it was asked for, in a rescue
	// approved is set when a person's approval is used up by this certificate.
	approved   bool
	take, back *db.Stmt                           // of Proven.Take; nil
	then       func() ([]*db.Stmt, []audit.Entry) // of Proven.Then; nil
	kept       func(*ca.Certificate)              // of Proven.Kept; nil
	await      *db.Stmt                           // has the certificate wait for its confirmation; nil
	reported   map[[32]byte]bool                  // which keys of the batch were reported as compromised when it was committed; nil: not known
}

func (i *item) key() db.Key { return db.Key{Cell: i.cell, ID: i.device} }

func (s *Service) newItem(sub *submission, c *ca.Certificate) *item {
	id := sub.identity
	token := id.token
	if id.Device.Token.Used != 0 { // it is spent, and this is the very request that spent it
		token = nil
	}
	i := &item{device: id.Device.ID, cell: id.Device.Cell, cert: c, approved: sub.approved, entry: c.Entry(id.Actor(sub.req.Protocol))}
	i.claim = device.Claim{ID: id.Device.ID, Cell: id.Device.Cell, Policy: id.Device.Policy, Token: token, Slot: c.Slot, Serial: c.Serial[:], Prev: id.presented(c.Slot),
		NotAfter: c.NotAfter, SPKI: c.SPKIHash[:], Request: sub.sameness(), At: s.Now().Unix(), Seen: id.Device.Issued,
		Issuer: c.Issuer[:], Key: sub.keyKind(), Rescue: s.rescueClaim(sub)}
	i.expired = id.expired
	i.entry.Detail["evidence"] = string(id.Evidence)
	i.entry.Detail["protocol"] = sub.req.Protocol
	if p := sub.req.Proven; p != nil {
		i.settle(p)
	}
	if id.authority != "" {
		i.entry.Detail["authority"] = id.authority
	}
	i.await = s.await(sub, i)
	return i
}

// keyKind names the kind of the key that is certified.
func (sub *submission) keyKind() string {
	if sub.key != nil {
		return string(sub.profile.ServerKeygen)
	}
	return string(der.KindOf(sub.csr.PublicKey))
}

// presented returns the serial of the certificate that proved the identity, when it stands in the slot: it stays good beside the new one.
func (id *Identity) presented(slot string) []byte {
	if id.proven {
		return id.present(slot)
	}
	if id.Own == nil || id.Own.Slot != slot {
		return nil
	}
	return id.Own.Serial[:]
}

// recordedError is a refusal that needs no entry of its own: it stands in the batch that refused, or cannot stand anywhere.
type recordedError struct{ error }

func (e recordedError) Unwrap() error { return e.error }

func isRecorded(err error) bool {
	var r recordedError
	return errors.As(err, &r)
}

// apply records a batch. The claims come first: each is the lock on its device's row and the authorisation in one statement. Only what it
// accepted is written; what it refused leaves an entry with the serial that was signed for nothing. What the registry does not keep is only
// looked up there. An optimist sends takes and claims together: that a take comes too late or a key is blocked in the last moment is rare.
func (s *Service) apply(ctx context.Context, tx *db.Tx, batch []*item) ([]error, error) {
	refused := make([]error, len(batch))
	takes := s.takesOf(tx, batch)
	before := takes.stmts
	if !tx.Optimistic() {
		before = nil
		if err := tx.Send(ctx, takes.stmts...); err != nil {
			return nil, fmt.Errorf("taking what may be had once, and looking for blocked keys: %w", err)
		}
		takes.refuse(refused)
	}
	var kept, passing []int // places in the batch
	for k, i := range batch {
		switch {
		case refused[k] != nil:
		case ca.KeptAs(i.cert.Serial[:]) == ca.Ephemeral:
			passing = append(passing, k)
		default:
			kept = append(kept, k)
		}
	}
	if err := claim(ctx, tx, batch, kept, refused, before, s.Devices.ClaimTx); err != nil {
		return nil, fmt.Errorf("claiming the devices: %w", err)
	}
	if len(kept) > 0 {
		before = nil
	}
	if err := claim(ctx, tx, batch, passing, refused, before, s.Devices.AllowTx); err != nil {
		return nil, fmt.Errorf("looking the devices up: %w", err)
	}
	if tx.Optimistic() && takes.refuse(refused) {
		return nil, db.ErrPessimist
	}
	tx.Defer(s.statements(tx, batch, refused)...)
	s.lookAgain(tx, batch, takes.hashes)
	return refused, nil
}

// claim puts the claims at the given places of the batch, after other statements, before ask and its refusals into refused.
func claim(ctx context.Context, tx *db.Tx, batch []*item, places []int, refused []error, before []*db.Stmt,
	ask func(context.Context, *db.Tx, []device.Claim, ...*db.Stmt) ([]error, error)) error {
	if len(places) == 0 {
		return nil
	}
	claims := make([]device.Claim, len(places))
	for n, k := range places {
		claims[n] = batch[k].claim
	}
	answers, err := ask(ctx, tx, claims, before...)
	if err != nil {
		return err
	}
	for n, k := range places {
		batch[k].claim.Issued = claims[n].Issued
		if answers[n] != nil {
			refused[k] = recordedError{answers[n]}
		}
	}
	return nil
}

// statements returns what is written for the batch after the claims.
func (s *Service) statements(tx *db.Tx, batch []*item, refused []error) []*db.Stmt {
	claims, certs, entries := make([]device.Claim, 0, len(batch)), make([]*ca.Certificate, 0, len(batch)), make([]audit.Entry, 0, len(batch))
	passing := map[string][]*ca.Certificate{} // by profile and version
	var stmts []*db.Stmt
	for k, i := range batch {
		record := ca.KeptAs(i.cert.Serial[:])
		switch {
		case refused[k] != nil:
			entries = append(entries, i.refusal(refused[k]))
			if i.back != nil && !errors.Is(refused[k], errTaken) {
				stmts = append(stmts, i.back)
			}
			continue
		}
		if i.then != nil {
			also, about := i.then()
			stmts, entries = append(stmts, also...), append(entries, about...)
		}
		if i.kept != nil {
			tx.OnCommit(func() { i.kept(i.cert) })
		}
		if record == ca.Ephemeral {
			kind := i.cert.Profile + " " + i.cert.Version
			passing[kind] = append(passing[kind], i.cert)
			continue
		}
		certs = append(certs, i.cert)
		claims = append(claims, i.claim)
		entries = append(entries, i.issued()...)
		if i.await != nil {
			stmts = append(stmts, i.await)
		}
		if i.approved {
			stmts = append(stmts, &db.Stmt{SQL: deleteRequest, Args: []any{int64(i.cell), i.device[:]}})
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(passing)) {
		entries = append(entries, ca.EphemeralEntries(passing[kind])...)
	}
	stmts = append(stmts, s.Devices.SlotStmts(tx, claims)...)
	stmts = append(stmts, s.CA.InsertStmts(tx, certs)...)
	return append(stmts, s.Audit.Stmt(tx, entries...))
}

// issued returns the entries about an accepted item.
func (i *item) issued() []audit.Entry {
	e := i.entry
	i.claim.Annotate(&e) // when the transaction runs again, over what stands there
	if i.approved {
		e.Detail["approved"] = "yes"
	}
	if i.expired == 0 {
		return []audit.Entry{e}
	}
	return []audit.Entry{e, {Action: "device.rescue", Actor: e.Actor, Device: e.Device, Serial: hex.EncodeToString(i.claim.Prev), Detail: map[string]string{
		"new": e.Serial, "expired": strconv.FormatInt(i.expired, 10), "profile": i.cert.Profile}}}
}

// refusal returns the entry about an item that was turned away.
func (i *item) refusal(why error) audit.Entry {
	e := i.entry
	e.Action, e.Refused, e.Serial = "enrol.refuse", unquoted(errs.Public(why)), ""
	e.Detail = map[string]string{"protocol": i.entry.Detail["protocol"], "evidence": i.entry.Detail["evidence"], "burnt": hex.EncodeToString(i.cert.Serial[:])}
	return e
}

// values returns what the registry says about a device, for the profile's templates.
func values(d *device.Device) (ca.Values, error) {
	v := ca.Values{ID: d.ID.String(), Name: d.Name, Group: d.Group, Tags: d.Tags}
	for _, name := range d.Names {
		kind, value, _ := strings.Cut(name, ":")
		switch kind {
		case "dns":
			v.Names.DNS = append(v.Names.DNS, value)
		case "ip":
			ip, err := netip.ParseAddr(value)
			if err != nil {
				return ca.Values{}, fmt.Errorf("reading the registered name %q: %w", name, err)
			}
			v.Names.IP = append(v.Names.IP, ip)
		case "uri":
			v.Names.URI = append(v.Names.URI, value)
		case "email":
			v.Names.Email = append(v.Names.Email, value)
		}
	}
	names, err := v.Names.Normalise()
	if err != nil {
		return ca.Values{}, fmt.Errorf("reading the registered names: %w", err)
	}
	v.Names = names
	return v, nil
}
