// Package device is the registry: which devices there are, what they may be called, in which state they stand, and which certificate each
// of them holds for which purpose. It also keeps enrolment tokens, imports fleets, and notes when a device was last heard of.
//
// How it is meant to be used. Operators reach it through the methods that take an access.Actor; each asks access.Decider first and writes
// its audit entry in the transaction of the change. Enrolment uses Load, ByBirth, ClaimTx and SlotStmts, revocation MoveTx and
// SlotRevokedTx, inside their own transactions. Checker lets the verification of the audit record compare every row with what was recorded.
//
// The row of a device is the lock for everything about it. Every change by an administrator raises its policy number, and issuing demands
// the number that it decided upon (ClaimTx): there is no gap between looking and acting.
//
// The id follows from the external name by a keyed hash, so a name can be used once and for ever, and the id is a pseudonym for whoever
// has no access to the registry. The package deliberately issues and revokes nothing, knows no protocol, and never deletes a device.
package device

import (
	"context"
	"embed"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// Schema returns the migrations of the registry's tables.
func Schema() db.Schema {
	// The folder is embedded above; Sub fails only for an invalid path.
	sub, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		panic(err)
	}
	return db.Schema{Name: "device", FS: sub}
}

// Device is one device as the registry knows it.
type Device struct {
	ID      ID
	Cell    uint8
	Name    string            // the external name, unique for ever
	Names   []string          // further names for its certificates: "dns:…", "ip:…", "uri:…", "email:…"
	Group   string            // "" = none
	Tags    map[string]string // free pairs for people and filters
	Profile string            // the profile by which it is issued
	Product Product           // what it is on an ownership list
	State   State
	Policy  int64 // raised by every change of an administrator and by revocation; from 1
	Issued  int64 // certificates issued so far
	Created int64 // UTC seconds
	Updated int64 // UTC seconds
	// Rescued is when it last got a certificate by one that had expired, in UTC seconds, or 0.
	Rescued int64
	// LastSeen is when the device was last heard of, in UTC seconds, or 0. It lags by up to half a minute.
	LastSeen int64
	Slots    []Slot // by name
	Token    TokenState
}

// Slot is the certificate that a device holds for one purpose.
type Slot struct {
	Name     string // the profile's slot, such as "operational", or SlotBirth
	Serial   []byte // of the newest certificate; empty for a foreign birth certificate
	Prev     []byte // serial of the certificate with which that one was asked for; it stays good until the newest one has been used
	NotAfter int64  // UTC seconds; 0 = not known
	SPKI     []byte // SHA-256 of the certificate's public key
	Request  []byte // SHA-256 of the request that got it
	Revoked  int64  // UTC seconds; 0 = not revoked
	Issuer   []byte // id of the CA that signed the certificate; empty for a foreign birth certificate
	Key      string // kind of its key, such as "ec-p256"; "" where it is not known
	// Fingerprint is the SHA-256 of the birth certificate that another authority issued to the device, else empty.
	Fingerprint []byte
}

// SlotBirth is the slot of the certificate that a device was born with.
const SlotBirth = "birth"

// TokenState is what is known about a device's enrolment token; the token itself is not.
type TokenState struct {
	Hash  []byte // SHA-256 of the token; empty = none was given out
	Until int64  // UTC seconds
	Used  int64  // UTC seconds; 0 = not used
}

// LogValue leaves out the hash, with which a stolen log would confirm a guess.
func (t TokenState) LogValue() slog.Value {
	return slog.GroupValue(slog.Bool("given", len(t.Hash) > 0), slog.Int64("until", t.Until), slog.Int64("used", t.Used))
}

// Slot returns the slot called name.
func (d *Device) Slot(name string) (Slot, bool) {
	for _, s := range d.Slots {
		if s.Name == name {
			return s, true
		}
	}
	return Slot{}, false
}

// birth returns the fingerprint of the foreign birth certificate, or nothing.
func (d *Device) birth() []byte {
	s, _ := d.Slot(SlotBirth)
	return s.Fingerprint
}

// Recorder is what the registry needs of the audit record: an entry in the transaction of the change.
type Recorder interface {
	Append(ctx context.Context, tx *db.Tx, entries ...audit.Entry) error
}

// Deps are what a Registry stands on.
type Deps struct {
	DB     *db.DB
	Audit  Recorder
	Access *access.Decider
	Key    []byte // the deployment key, at least 32 octets. It names rows and never changes
	Now    func() time.Time
	Log    *slog.Logger // of Run; nil = silent
	// ProfileGrants tells whether there is a profile of this name, and which role its certificates grant.
	ProfileGrants func(profile string) (exists bool, grants access.Role)
	// ProfileSpeaks tells whether certificates of a profile let their holders speak for the platform or for manufacturers. They are kept as those
	// that grant a role are. Optional.
	ProfileSpeaks func(profile string) bool
	// Changed is called after a device was changed, by whoever changed it; nil: nobody wants to know. It must not block.
	Changed func(ctx context.Context, id ID)
	// Renewal tells when certificates of a profile are to be renewed: so many seconds before their end, give or take spread. Optional.
	Renewal func(profile string) (before, spread int64, ok bool)
	// Own are the names of the platform's own listeners, "dns:…" and "ip:…". Whoever else had a certificate for them could be the server to
	// devices that enrol, so they are for those only who may give roles.
	Own []string
	// Itself tells whether the device of this name is the platform, which would stop if that were suspended, lost or retired. Optional.
	Itself func(name string) bool
}

// Registry is the set of devices. It is safe for concurrent use.
type Registry struct {
	db       *db.DB
	audit    Recorder
	access   *access.Decider
	macs     *sync.Pool // of hash.Hash: HMAC-SHA256 under the deployment key
	now      func() time.Time
	log      *slog.Logger
	profiles func(string) (bool, access.Role)
	speaks   func(profile string) bool // nil: none does
	changed  func(context.Context, ID) // nil: nobody is told
	own      map[string]bool
	itself   func(name string) bool
	seen     sightings
	evidence evidence
	loads    *db.Lookup[ID, Device]
	tokens   *db.Lookup[ID, tokenRow]
	inv      inventory
	renewal  func(profile string) (before, spread int64, ok bool)
}

// New returns the registry over d. It starts nothing; Run writes down what Seen was told.
func New(d Deps) *Registry {
	if len(d.Key) < 32 {
		panic("device: the deployment key is shorter than 32 octets")
	}
	log := d.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := &Registry{db: d.DB, audit: d.Audit, access: d.Access, now: d.Now, log: log, profiles: d.ProfileGrants, speaks: d.ProfileSpeaks, changed: d.Changed, own: map[string]bool{}, seen: newSightings(), evidence: newEvidence(), inv: newInventory(), renewal: d.Renewal, itself: d.Itself}
	if r.itself == nil {
		r.itself = func(string) bool { return false }
	}
	r.setKey(d.Key)
	if r.renewal == nil {
		r.renewal = func(string) (int64, int64, bool) { return 0, 0, false }
	}
	for _, name := range d.Own {
		if clean, err := cleanName(name); err == nil { // what is no name for the registry cannot stand in it either
			r.own[clean] = true
		}
	}
	r.loads = db.NewLookup(d.DB, r.loadMany)
	r.tokens = db.NewLookup(d.DB, r.readTokens)
	return r
}
