// Package ea is an enrolment authority of TS 102 941: it gives stations their enrolment credentials (6.2.3.2), and tells authorization authorities whether a
// station may have a ticket (6.2.3.4). It knows who a station is. It never sees a ticket, its keys, or the key of its tag: package aa has those, in a store of its
// own, and the two talk by the encrypted messages of the standard alone.
//
// Stations are devices of the registry with the tag v2x. The name of the device is the canonical identifier. The canonical key is what the tag v2x-key says, a
// compressed point of P-256 in hexadecimal digits; without that tag it is the key of the device's own X.509 certificate, so that a device that is enrolled
// already needs no second secret. Whoever is suspended, lost or retired in the registry gets neither credentials nor tickets from the same moment on: its
// state is read, under its lock, in the transaction that records what it would get.
//
// How many tickets of a station may be valid at once, how long each, and how far ahead, is Policy. It is enforced in one transaction that locks the station, so
// that neither parallel requests nor several nodes get past it. A request that is repeated is answered as before, and counted once.
//
// Each refusal has its code and an entry in the record. What is recorded of a validation is the station and the hour, nothing that the other authority knows.
package ea

import (
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/its"
	"mooring/wire/scr"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// Schema returns the migrations of this slice.
func Schema() db.Schema {
	files, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		panic(err) // "schema" is a valid path; fs.Sub looks at nothing else
	}
	return db.Schema{Name: "v2xea", FS: files}
}

// Policy is what stations may have. The defaults of the configuration are those of the certificate policy of the EU.
type Policy struct {
	Credential time.Duration // how long an enrolment credential lives
	Ticket     time.Duration // how long a ticket may live
	Preload    time.Duration // how far ahead a ticket may begin
	Tickets    int           // how many tickets of a station may be valid at once
	Window     time.Duration // how far the time of a request may be off
}

// Deps are what a Service stands on.
type Deps struct {
	DB      *db.DB
	Audit   *audit.Log
	Trust   *trust.Service
	Devices *device.Registry
	CA      *ca.Authority
	Revoke  *revoke.Service
	Policy  Policy
	Random  io.Reader
	Now     func() time.Time
}

// Service is the authority. It is safe for concurrent use. Tickets are counted only while Commit runs.
type Service struct {
	Deps
	commit      *db.Group[*inquiry]
	permissions []its.PsidGroupPermissions
	peers       trust.Peers // authorization authorities

	mu   sync.Mutex
	kept map[its.HashedId8]*credential // guarded by mu; credentials that were in use last, which do not change
}

// New returns the service over d. It starts nothing.
func New(d Deps) *Service {
	s := &Service{Deps: d, permissions: Permissions(), kept: map[its.HashedId8]*credential{}}
	s.commit = db.NewGroup(d.DB, db.Plan[*inquiry]{Key: func(q *inquiry) db.Key { return db.Key{ID: q.opened.Hash} }, Apply: s.apply, Size: weight, Linger: linger})
	return s
}

// linger is how long tickets wait for others to be counted with: a commit costs as much as two signatures, whoever shares it.
const linger = 5 * time.Millisecond

// weight is what an inquiry takes of memory, by which a transaction has not too many.
func weight(q *inquiry) int { return len(q.list) * 4 << 10 }

// Commit counts tickets, those of many stations in one transaction, until ctx ends.
func (s *Service) Commit(ctx context.Context) error { return s.commit.Run(ctx) }

// Unanswerable is a request to which there is no answer: its key could not be had. The server says 400 and nothing else.
type Unanswerable struct{ Fault error }

// Error tells it in the server's log.
func (u *Unanswerable) Error() string { return "the request cannot be answered: " + u.Fault.Error() }

// Unwrap gives the fault.
func (u *Unanswerable) Unwrap() error { return u.Fault }

// fresh says whether the time of a request is within the window.
func (s *Service) fresh(d *its.SignedData) bool {
	made, at, window := d.TbsData.HeaderInfo.GenerationTime.Value, s.Trust.At(), its.Time64(s.Policy.Window.Microseconds())
	return made+window >= at && made <= at+window
}

// answer signs an answer and encrypts it with the key of its request.
func (s *Service) answer(o *scr.Opened, by *trust.Credential, content its.EtsiTs102941DataContent) ([]byte, error) {
	signed, err := scr.Sign(content, s.Trust.At(), by.Signer)
	if err != nil {
		return nil, err
	}
	return scr.Answer(s.Random, o.Session, signed)
}

// hour is the present, as far as the record of tickets tells it: exact times would join this record with that of an authorization authority.
func (s *Service) hour() int64 { return s.Now().Unix() / 3600 * 3600 }

// Run takes away what is over, until ctx ends.
func (s *Service) Run(ctx context.Context, log *slog.Logger) error {
	tick := time.NewTicker(prune)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := s.Prune(ctx); err != nil && ctx.Err() == nil {
				log.LogAttrs(ctx, slog.LevelError, "taking away old V2X requests", slog.Any("error", err))
			}
		}
	}
}

// prune is how often old rows are looked for.
const prune = 5 * time.Minute

// Prune takes away answers and validations beyond the window, and intervals and keys that are over.
func (s *Service) Prune(ctx context.Context) error {
	now := s.Now()
	old := now.Add(-3 * s.Policy.Window).Unix()
	return s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM v2x_enrolment WHERE cell = 0 AND at < $1`, old)
		_, err2 := tx.Exec(ctx, `DELETE FROM v2x_validation WHERE cell = 0 AND at < $1`, old)
		_, err3 := tx.Exec(ctx, `DELETE FROM v2x_interval WHERE cell = 0 AND ends < $1`, int64(s.Trust.At()/1e6))
		_, err4 := tx.Exec(ctx, `DELETE FROM v2x_credential_key WHERE cell = 0 AND expires < $1`, now.Unix())
		return errors.Join(err, err2, err3, err4)
	})
}

func digest(parts ...[]byte) []byte {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// actor is who the record names for a station, or for somebody unknown.
func actor(from access.Actor, st *station) access.Actor {
	if st == nil {
		return from
	}
	return access.Device(st.device.ID.String(), from.Via)
}
