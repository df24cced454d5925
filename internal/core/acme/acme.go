// Package acme keeps accounts and orders of the Automatic Certificate Management Environment (RFC 8555) and decides about them: who may have an
// account, what an account may order, when a name counts as validated. The certificate itself is asked for in package enrol, as by every other
// protocol; what this slice adds is its word on who asks and which names were shown (enrol.Proven).
//
// Whose account is it? There are two kinds. A bound account was made with an external account binding (RFC 8555, section 7.3.4): the key
// identifier is a device's external name, the key its one-time token, which is spent thereby. It speaks for that device; its orders are for
// names that the device's profile permits, each validated by a challenge unless the profile trusts bound accounts. The evidence is
// "account". An open account, where they are allowed at all, belongs to nobody: it orders for the registered device whose external name is one
// of the ordered names, and the control of all names is the only evidence, "domain". Either way the profile must accept the evidence. A device
// has one account: who is given a new token and makes another account with it puts an end to the older one.
//
// State. An order and its authorizations are one row, changed by compare and swap, so that orders never wait for each other; the row is
// made when the order is finished, or after a moment (draft.go). An order becomes valid in the very transaction that records the certificate, so one order leads to one certificate on however many nodes it is finished. Nonces
// need no rows while one process serves (nonce.go). All that strangers can grow is bounded (limits below) and purged by whoever holds a lease.
//
// What is validated is asked of a Validator, which reaches out; at most so many at a time do. A validation under way is this process's affair:
// when the process ends, the challenge is pending as before, and the client asks for it again.
//
// Contacts of accounts are checked and forgotten: they name people, and nothing here writes to anybody.
package acme

import (
	"context"
	"embed"
	"encoding/hex"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/core/revoke"
	"mooring/wire/acme"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// Schema returns the migrations of this slice.
func Schema() db.Schema {
	files, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		panic(err) // "schema" is a valid path; fs.Sub looks at nothing else
	}
	return db.Schema{Name: "acme", FS: files}
}

// The bounds of what is kept.
const (
	orderLife     = 7 * 24 * time.Hour  // of an order, and of its row after it has ended
	openLife      = 90 * 24 * time.Hour // of an open account that orders nothing
	endedLife     = 30 * 24 * time.Hour // of a row of an account that has ended
	maxNames      = 100                 // in an order
	maxAccountNew = 300                 // orders of one account that are not finished
	maxOrders     = 1 << 20             // orders in all
	maxOpen       = 10_000              // open accounts
	maxWaiting    = 1024                // validations under way or waiting, in this process
	validators    = 64                  // of these at work

	maxAccountWaiting = 16             // validations of one account under way or waiting
	maxAccountWorking = 4              // of these at work
	maxOpenWaiting    = maxWaiting / 2 // validations of all open accounts under way or waiting
	maxOpenWorking    = validators / 2 // of these at work
)

// ID names an account or an order: 16 random octets.
type ID [16]byte

// String returns the id as 32 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads what String wrote.
func ParseID(text string) (id ID, err error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(id) || hex.EncodeToString(raw) != text {
		return id, errs.New(errs.NotFound, "there is no such thing here")
	}
	return ID(raw), nil
}

// Type is a kind of problem that ACME has a name for (RFC 8555, section 6.7). It stands in the chain of an error as its cause.
type Type string

// The kinds.
const (
	AccountDoesNotExist     Type = "accountDoesNotExist"
	AlreadyReplaced         Type = "alreadyReplaced"
	AlreadyRevoked          Type = "alreadyRevoked"
	BadAttestationStatement Type = "badAttestationStatement"
	BadCSR                  Type = "badCSR"
	BadNonce                Type = "badNonce"
	BadPublicKey            Type = "badPublicKey"
	BadRevocationReason     Type = "badRevocationReason"
	BadSignatureAlgorithm   Type = "badSignatureAlgorithm"
	Connection              Type = "connection"
	DNS                     Type = "dns"
	ExternalAccountRequired Type = "externalAccountRequired"
	IncorrectResponse       Type = "incorrectResponse"
	InvalidContact          Type = "invalidContact"
	InvalidProfile          Type = "invalidProfile"
	Malformed               Type = "malformed"
	OrderNotReady           Type = "orderNotReady"
	RateLimited             Type = "rateLimited"
	RejectedIdentifier      Type = "rejectedIdentifier"
	ServerInternal          Type = "serverInternal"
	TLS                     Type = "tls"
	Unauthorized            Type = "unauthorized"
	UnsupportedContact      Type = "unsupportedContact"
	UnsupportedIdentifier   Type = "unsupportedIdentifier"
	UserActionRequired      Type = "userActionRequired"
)

// Error returns the name.
func (t Type) Error() string { return string(t) }

func refuse(k errs.Kind, t Type, format string, args ...any) error {
	return errs.Wrap(k, t, format, args...)
}

// Rejected lists what is wrong with which of several names. It stands in the chain of an error whose Type is that of the first.
type Rejected struct{ Names []RejectedName }

// RejectedName is a name, as it was asked for, and what is wrong with it.
type RejectedName struct {
	Kind, Value string
	Type        Type
	Detail      string
}

// Error returns the first thing that is wrong.
func (r *Rejected) Error() string { return r.Names[0].Detail }

// Unwrap returns the Type of the first.
func (r *Rejected) Unwrap() error { return r.Names[0].Type }

// Challenge is what a Validator is to find out.
type Challenge struct {
	Type             string // "http-01", …
	Name             string // "dns:…" or "ip:…", without the star of a wildcard
	Token            string
	KeyAuthorization string
	Response         []byte // what the client said when it asked for the validation
}

// Shown is what a validation brought to light besides the name.
type Shown struct {
	SPKI     []byte // SHA-256 of the key that was attested; empty = any key will do
	Hardware string // the type of the hardware module, a dotted number, and its serial number in hexadecimal digits, if one was attested
}

// Validator finds out whether a client controls a name. It reaches out into the network, with its own limits on time and size.
//
// The error is nil when it does. It has a Type in its chain, and kind Unavailable when trying again may help; its public text is for the client
// and holds nothing that was fetched. Validate is called from many goroutines.
type Validator interface {
	Validate(ctx context.Context, c Challenge) (Shown, error)
}

// Campaigns tells what a campaign wants of a device.
type Campaigns interface {
	Demand(ctx context.Context, d *device.Device) (enrol.Demand, error)
}

// Deps is what the service stands on.
type Deps struct {
	DB        *db.DB
	Audit     *audit.Log
	Access    *access.Decider
	Devices   *device.Registry
	CA        *ca.Authority
	Revoke    *revoke.Service
	Enrol     *enrol.Service
	Campaigns Campaigns // may be nil
	Validator Validator
	Key       []byte // of nonces, 32 octets, the same on all nodes
	Now       func() time.Time
	Log       *slog.Logger
	Roots     Roots           // of attestation
	Open      bool            // accounts without a binding are allowed
	Again     []time.Duration // pauses before a validation is tried again; nil = 3 s, 9 s and 18 s
}

// Service keeps accounts and orders. It is safe for concurrent use.
type Service struct {
	Deps
	Nonces     *Nonces
	writes     *db.Group[*write]
	several    bool // nodes may have the database, not this process alone
	sights     *db.Lookup[sight, seen]
	openOrders *db.Lookup[ID, int64]
	byThumb    *db.Lookup[[32]byte, Account]
	accounts   *shelf[Account]
	orderShelf *shelf[Order]
	drafts     *drafts
	leaves     *shelf[leaf] // on every node: a certificate does not change
	keys       keyring
	seeking    seekers
	orders     atomic.Int64 // rows of acme_order, when last counted, and what this process added since
	line       *line
}

// New returns the service. Nothing is validated until Run runs.
func New(d Deps) *Service {
	if d.Again == nil {
		d.Again = []time.Duration{3 * time.Second, 9 * time.Second, 18 * time.Second}
	}
	s := &Service{Deps: d, Nonces: newNonces(d.DB, d.Key, d.Now), keys: keyring{keys: map[string]*acme.Key{}}, line: newLine(), leaves: &shelf[leaf]{rows: map[ID]leaf{}},
		several: d.DB.Arrays(), accounts: &shelf[Account]{rows: map[ID]Account{}}, drafts: newDrafts(), seeking: seekers{orders: map[sight]int{}, of: map[ID]int{}}}
	s.writes = db.NewGroup(d.DB, db.Plan[*write]{Key: (*write).key, Apply: s.applyWrites})
	s.sights, s.byThumb = db.NewLookup(d.DB, s.see), db.NewLookup(d.DB, s.seeByThumb)
	s.openOrders = db.NewLookup(d.DB, s.countOpen)
	if !s.several {
		s.orderShelf = &shelf[Order]{rows: map[ID]Order{}}
	}
	return s
}

// Run validates, purges what has expired (on the node that holds the lease) and keeps count, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for range validators {
		all.Go(func() { s.validate(ctx) })
	}
	var lead, nonces, writes, drafts error
	all.Go(func() { lead = s.DB.Lead(ctx, leaseName, s.purge) })
	all.Go(func() { nonces = s.Nonces.run(ctx) })
	all.Go(func() { writes = s.writes.Run(ctx) })
	all.Go(func() { drafts = s.runDrafts(ctx) })
	s.count(ctx)
	all.Wait()
	return errors.Join(lead, nonces, writes, drafts)
}

// actor is who did something with an account: its device, or for an open account the network it came from.
func (a *Account) actor(source netip.Addr) access.Actor {
	if a.Bound() {
		return access.Device(a.Device.String(), protocol)
	}
	return access.Stranger(source, protocol)
}

const protocol = "acme"

// Refuse records that a message was turned away before anything here saw it, or that err was the answer to it. It is called once for each
// refusal, by the server.
func (s *Service) Refuse(ctx context.Context, a *Account, source netip.Addr, what string, err error) {
	k := errs.KindOf(err)
	if k == errs.Internal || k == errs.Unavailable {
		return
	}
	actor := access.Stranger(source, protocol)
	if a != nil {
		actor = a.actor(source)
	}
	e := audit.Entry{Action: "acme.refuse", Refused: enrol.Reason(err), Detail: map[string]string{"op": what}}
	if a != nil {
		if a.ID != (ID{}) {
			e.Object = a.ID.String()
		}
		if a.Bound() {
			e.Device = a.Device.String()
		}
	}
	if err := s.Audit.Refuse(ctx, actor, e); err != nil {
		s.Log.WarnContext(ctx, "a refusal could not be recorded", "cause", err)
	}
}
