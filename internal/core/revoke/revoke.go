// Package revoke takes certificates back and tells the world about it: revocation and hold of single certificates and of devices with all
// they hold, certificate revocation lists (RFC 5280, section 5), and answers of the Online Certificate Status Protocol (RFC 6960, RFC 5019,
// RFC 9654).
//
// How it is meant to be used. Operators revoke by Certificate and Device, which write the row, mark the device and record the act in one
// transaction. Status is the point read on which enrolment decides. CRL and OCSP are what the status server hands out. Run keeps the lists
// fresh and notices what other nodes of a cluster did.
//
// When Certificate or Device returns, this node answers "revoked" by OCSP and serves a list that says so; other nodes follow within a
// second. If the list could not be signed in time the revocation stands all the same, and Run signs as soon as it can.
//
// Which lists there are. A CA without shards has one list of everything. A CA with shards has one for each, numbered from 0, with a critical
// issuingDistributionPoint (RFC 5280, section 5.2.5) that names the address in the certificates, and a complete one (ca.Complete), which
// is made on schedule only and may be longer than memory. Delta lists (section 5.2.4) are made when somebody asks for them.
//
// How a list is made. The row crl_scope of a list counts the changes to it; whoever changes something takes the next number there, under
// the row's lock, so that the numbers follow the commits and "what is new since n" has no gaps. To publish, a node reads what is new in one
// state of the database, signs, and stores number, times and signature with the audit entry, unless a list with a higher number or with more
// changes is there. A list that was signed and not stored is never seen. A list with a higher number never says less than one with a lower
// number, whichever nodes made them. Numbers are at least the second in which they were made, so that they do not start again when a
// database is restored from a backup. The octets are not stored: they follow from the rows in the order of their changes, and the digest tells
// whether they still do. The encoded entries stay in memory, where Run reads them ahead after a start: a revocation appends 49 octets and signs, whatever
// came before.
//
// What others do is known from the audit record (see Watch and look), and which lists are due from an index: nothing looks at every list.
//
// The CA's own key signs lists. OCSP answers are signed by it, or by a delegated responder: see Mode. CAs whose certificate does not permit
// their key to sign answers, such as those above others, answer no OCSP unless they delegate.
//
// The package deliberately knows no HTTP, and makes no indirect lists. Keys that were reported as compromised it
// blocks: see KeyBlocked.
package revoke

import (
	"context"
	"embed"
	"errors"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/key"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// Schema returns the migrations of this package's tables.
func Schema() db.Schema {
	sub, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		panic(err) // the name above is wrong
	}
	return db.Schema{Name: "revoke", FS: sub}
}

// Deps are what a Service stands on.
type Deps struct {
	DB      *db.DB
	Audit   *audit.Log
	Access  *access.Decider
	CA      *ca.Authority
	Devices *device.Registry
	Keys    key.Custody
	Now     func() time.Time
	Log     *slog.Logger // nil: silent

	Validity   time.Duration // of a list; 0 means 7 days
	Refresh    time.Duration // a list is made anew at least this often; 0 means 12 hours
	DeltaLists bool          // delta lists are made when somebody asks, and full lists say where
	ReadAhead  int           // octets of lists that Run reads before anybody asks; 0 means 64 MiB
	OCSP       OCSPOptions
}

// Service revokes and tells. It is safe for concurrent use.
type Service struct {
	Deps
	answers    answers
	responders responders
	signing    chan struct{} // holds a token for every OCSP signature under way
	liveRate   bucket        // for OCSP answers that are signed for one question alone
	counts     counts
	hub        hub
	duties     duties
	own        own
	blocked    blocked

	place  int64 // in the record, up to which follow has read; it alone uses this
	looked bool  // place is set

	mu     sync.Mutex
	scopes map[scopeKey]*scope // guarded by mu; see makeRoom
}

type counts struct {
	revoked, held, released        atomic.Int64
	lists, deltas, listFailures    atomic.Int64
	answers, cached, answersFailed atomic.Int64
	answersRefused, delegates      atomic.Int64
}

// maxSigning bounds how many OCSP answers are signed at once; who waits longer than a second for a turn is told to try later.
const maxSigning = 64

// New returns the service over d. It starts nothing; Run does.
func New(d Deps) *Service {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Validity == 0 {
		d.Validity = 7 * 24 * time.Hour
	}
	if d.Refresh == 0 {
		d.Refresh = 12 * time.Hour
	}
	if d.ReadAhead == 0 {
		d.ReadAhead = aheadMost
	}
	d.OCSP.setDefaults()
	s := &Service{Deps: d, scopes: map[scopeKey]*scope{}, signing: make(chan struct{}, maxSigning),
		answers: answers{limit: d.OCSP.Cache / answerShards}, liveRate: bucket{rate: float64(d.OCSP.Live)}}
	s.blocked.committed = db.NewLookup(d.DB, s.BlockedTx)
	return s
}

// Metrics are counts since the start of this process.
type Metrics struct {
	Revoked, Held, Released int64 // certificates
	Lists, ListFailures     int64 // CRLs published, and attempts that failed
	Deltas                  int64 // delta lists made
	Watchers                int64 // of the feed, at present
	Answers                 int64 // OCSP answers that were signed for their question
	Cached                  int64 // OCSP answers from the cache
	AnswersFailed           int64 // OCSP questions that could not be answered now
	AnswersRefused          int64 // OCSP questions that were malformed or about CAs for which nobody answers here
	CacheSize, CacheOctets  int64 // OCSP answers in the cache, and in how many octets
	Delegates               int64 // certificates of delegated OCSP responders that were issued
}

// Metrics returns the counts.
func (s *Service) Metrics() Metrics {
	c := &s.counts
	size, octets := s.answers.size()
	return Metrics{Revoked: c.revoked.Load(), Held: c.held.Load(), Released: c.released.Load(), Lists: c.lists.Load(), ListFailures: c.listFailures.Load(),
		Deltas: c.deltas.Load(), Watchers: int64(s.hub.size()), Answers: c.answers.Load(), Cached: c.cached.Load(), AnswersFailed: c.answersFailed.Load(),
		AnswersRefused: c.answersRefused.Load(), CacheSize: int64(size), CacheOctets: int64(octets), Delegates: c.delegates.Load()}
}

// Revocation is what is known about a certificate that is revoked or on hold.
type Revocation struct {
	Serial   []byte
	Issuer   ca.IssuerID
	Shard    int64 // of the issuer's lists
	At       int64 // UTC seconds
	Reason   Reason
	NotAfter int64 // of the certificate, UTC seconds
	Device   device.ID
	ByDevice bool // it came with a move of the device

	turn   int64 // how often the row was written; 0 = not there
	change int64 // number of the latest change within issuer and shard
}

const (
	revokedColumns = `issuer, crl_shard, at, reason, not_after, device, origin, turn, change`
	selectRevoked  = `SELECT ` + revokedColumns + ` FROM revoked WHERE cell = $1 AND serial = $2`
)

// scan reads revokedColumns and, into before, what precedes them.
func (r *Revocation) scan(row db.Row, before ...any) error {
	var issuer, id []byte
	var origin int64
	err := row.Scan(append(before, &issuer, &r.Shard, &r.At, (*uint8)(&r.Reason), &r.NotAfter, &id, &origin, &r.turn, &r.change)...)
	if err != nil {
		return err
	}
	if len(issuer) != len(r.Issuer) || len(id) != len(r.Device) || origin>>1 != 0 {
		return errors.New("the row of a revocation is damaged: its issuer, device or origin cannot be")
	}
	r.Issuer, r.Device, r.ByDevice = ca.IssuerID(issuer), device.ID(id), origin == 1
	return nil
}

// readTx reads the row of serial, also that of a released hold. turn is 0 when there is none.
func readTx(ctx context.Context, tx *db.Tx, cell uint8, serial []byte) (Revocation, error) {
	r := Revocation{Serial: serial}
	err := tx.Each(ctx, func(row db.Row) error { return r.scan(row) }, selectRevoked, int64(cell), serial)
	return r, err
}

// Status returns the revocation of the certificate with this serial number, and whether it is revoked or on hold. It asks nobody for
// permission: the answer is public. A serial number that is not one of ours is not revoked.
func (s *Service) Status(ctx context.Context, serial []byte) (Revocation, bool, error) {
	cell, serial, ok := rowOf(serial)
	if !ok {
		return Revocation{}, false, nil
	}
	var r Revocation
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		r, err = readTx(ctx, tx, cell, serial)
		return err
	})
	if err != nil || !r.standing() {
		return Revocation{}, false, err
	}
	return r, true, nil
}

// standing reports whether the certificate is revoked or on hold.
func (r *Revocation) standing() bool { return r.turn > 0 && r.Reason != released }

// final reports whether the certificate is revoked for good.
func (r *Revocation) final() bool { return r.standing() && r.Reason != CertificateHold }
