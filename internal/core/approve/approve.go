// Package approve is the second pair of eyes: what one person asks for is done only after another person has agreed to exactly that.
//
// How it is meant to be used. A slice that wants a second person describes what is to be done as an Act and calls Request in the transaction
// in which it notes that it waits. Somebody else looks at it (List) and decides (Grant, Refuse). The slice then calls Spend in the
// transaction of the deed: a grant is good for one act of the same kind, object and digest, once, and until it expires. The digest covers
// everything that the deed depends on, so that nothing can be changed between the look and the deed.
//
// Who asked can not agree, whatever roles he has. All users of the server's own machine count as one person, since whoever is root there
// can be each of them. Whoever agrees needs approve.grant and the permission of the act itself: to approve is not less than to do. Devices and
// the platform itself can ask, but never agree.
//
// The package deliberately does nothing that it approves, tells nobody that something waits, and cannot know that two operators'
// certificates belong to one person: give each person one.
package approve

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// Schema returns the migrations of this slice.
func Schema() db.Schema {
	files, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		panic(err) // "schema" is a valid path; fs.Sub looks at nothing else
	}
	return db.Schema{Name: "approve", FS: files}
}

// ID names one approval.
type ID [16]byte

// String returns the id in hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads what String writes.
func ParseID(text string) (ID, error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(ID{}) {
		return ID{}, errs.New(errs.Invalid, "approval: %q is not an id of 32 hexadecimal digits", text[:min(len(text), 64)])
	}
	return ID(b), nil
}

// Kind names what is to be done, such as "revoke".
type Kind string

// Act is one deed, described so that no other one has the same description.
type Act struct {
	Kind   Kind
	Object string            // to what, such as "job 6f0c…"
	Digest [32]byte          // SHA-256 of everything else that it depends on
	Needs  access.Permission // that whoever does it must have
	// Summary says to the person who decides what will be done. It is kept, so it names nobody.
	Summary string
}

// State is where an approval stands. The numbers are stored.
type State int16

// The states. A refused or spent approval stays as it is.
const (
	Waiting State = 1
	Granted State = 2
	Refused State = 3
	Spent   State = 4
)

// String returns the state's name.
func (s State) String() string {
	switch s {
	case Waiting:
		return "waiting"
	case Granted:
		return "granted"
	case Refused:
		return "refused"
	case Spent:
		return "spent"
	}
	return "unknown"
}

// Approval is an act with what became of it.
type Approval struct {
	ID ID
	Act
	State     State
	Requester string // as the record names actors
	Created   int64  // UTC seconds
	Expires   int64
	Decided   int64 // 0 = not yet
	Decider   string
	Spent     int64 // 0 = not yet
}

// Over reports whether its time has passed without its being spent.
func (a *Approval) Over(now time.Time) bool { return a.State != Spent && a.Expires <= now.Unix() }

// The bounds of what can be asked for.
const (
	Life       = 24 * time.Hour     // how long a request and the grant that it gets are good, if nothing else is said
	lifeMost   = 7 * 24 * time.Hour // the longest
	waitingMax = 10_000             // requests that wait at once
	keepFor    = 30 * 24 * time.Hour
	textMost   = 1000 // octets of a summary
)

// Deps are what a Service stands on.
type Deps struct {
	DB     *db.DB
	Audit  *audit.Log
	Access *access.Decider
	Now    func() time.Time
}

// Service keeps approvals. It is safe for concurrent use. It runs nothing.
type Service struct{ Deps }

// New returns the service over d.
func New(d Deps) *Service { return &Service{d} }

const (
	columns = `id, kind, object, digest, needs, summary, state, requester, created, expires, decided, decider, spent`
	selects = `SELECT ` + columns + ` FROM approval WHERE cell = 0`
)

func (a *Approval) scan(r db.Row, before ...any) error {
	var id, digest []byte
	var kind, needs string
	var state int64
	err := r.Scan(append(before, &id, &kind, &a.Object, &digest, &needs, &a.Summary, &state, &a.Requester, &a.Created, &a.Expires, &a.Decided, &a.Decider, &a.Spent)...)
	if err != nil {
		return err
	}
	if len(id) != len(a.ID) || len(digest) != len(a.Digest) {
		return fmt.Errorf("the row of approval %x is damaged", id)
	}
	a.ID, a.Digest, a.Kind, a.Needs, a.State = ID(id), [32]byte(digest), Kind(kind), access.Permission(needs), State(state)
	return nil
}

// Request asks in tx for a second person's agreement to act. life is how long the request and its grant are good; 0 means Life. Asking again
// for the same act returns what became of the first request, as long as that is neither spent nor over: a refusal stands until then. The
// caller has asked whether actor may do the act.
func (s *Service) Request(ctx context.Context, tx *db.Tx, actor access.Actor, act Act, life time.Duration) (Approval, error) {
	if life == 0 {
		life = Life
	}
	if act.Kind == "" || act.Object == "" || act.Needs == "" || life < time.Minute || life > lifeMost {
		return Approval{}, fmt.Errorf("asking for an approval of %q %q: it needs a kind, an object, a permission and a life of one minute to %s", act.Kind, act.Object, lifeMost)
	}
	now := s.Now()
	if known, found, err := s.Look(ctx, tx, act); err != nil || found {
		return known, err
	}
	if err := s.makeRoom(ctx, tx, now); err != nil {
		return Approval{}, err
	}
	act.Summary = strings.ToValidUTF8(act.Summary[:min(len(act.Summary), textMost)], "") // the cut may fall into a character
	a := Approval{Act: act, State: Waiting, Requester: actor.String(), Created: now.Unix(), Expires: now.Add(life).Unix()}
	rand.Read(a.ID[:])
	_, err := tx.Exec(ctx, `INSERT INTO approval (cell, `+columns+`) VALUES (0, $1, $2, $3, $4, $5, $6, 1, $7, $8, $9, 0, '', 0)`,
		a.ID[:], string(a.Kind), a.Object, a.Digest[:], string(a.Needs), a.Summary, a.Requester, a.Created, a.Expires)
	if err != nil {
		return Approval{}, fmt.Errorf("keeping a request for approval: %w", err)
	}
	return a, s.Audit.Append(ctx, tx, a.entry("approve.request", a.Requester, a.Created))
}

// makeRoom takes away what ended long ago and refuses when too many wait.
func (s *Service) makeRoom(ctx context.Context, tx *db.Tx, now time.Time) error {
	if _, err := tx.Exec(ctx, `DELETE FROM approval WHERE cell = 0 AND expires < $1`, now.Add(-keepFor).Unix()); err != nil {
		return err
	}
	var waiting int64
	if _, err := tx.Get(ctx, []any{&waiting}, `SELECT count(*) FROM (SELECT 1 AS one FROM approval WHERE cell = 0 AND state = 1 AND expires > $1 LIMIT $2) AS w`,
		now.Unix(), int64(waitingMax)); err != nil {
		return err
	}
	if waiting >= waitingMax {
		return errs.WithRetry(errs.New(errs.Limited, "%d requests wait for a second person: some must be decided first", waiting), time.Minute)
	}
	return nil
}

// Look returns what became of the request for act, the newest that is neither spent nor over.
func (s *Service) Look(ctx context.Context, tx *db.Tx, act Act) (a Approval, found bool, err error) {
	now := s.Now().Unix()
	err = tx.Each(ctx, func(r db.Row) error {
		var one Approval
		if err := one.scan(r); err != nil {
			return err
		}
		if one.Digest == act.Digest && one.State != Spent && one.Expires > now {
			a, found = one, true
		}
		return nil
	}, selects+` AND kind = $1 AND object = $2 ORDER BY created, id`, string(act.Kind), act.Object)
	if err != nil {
		return Approval{}, false, fmt.Errorf("looking for an approval: %w", err)
	}
	return a, found, nil
}

// Spend uses up, in the transaction of the deed, the grant for act and returns it. Without one the error is Denied and says what is missing.
func (s *Service) Spend(ctx context.Context, tx *db.Tx, act Act) (Approval, error) {
	a, found, err := s.Look(ctx, tx, act)
	switch {
	case err != nil:
		return a, err
	case !found:
		return a, errs.New(errs.Denied, "a second person must approve this first, and no request of it is open")
	case a.State == Waiting:
		return a, errs.New(errs.Denied, "a second person must approve this first: approval %s waits", a.ID)
	case a.State == Refused:
		return a, errs.New(errs.Denied, "a second person has refused this (approval %s)", a.ID)
	}
	a.Spent, a.State = s.Now().Unix(), Spent
	n, err := tx.Exec(ctx, `UPDATE approval SET state = 4, spent = $2 WHERE cell = 0 AND id = $1 AND state = 2 AND expires > $2`, a.ID[:], a.Spent)
	if err != nil {
		return a, fmt.Errorf("spending an approval: %w", err)
	}
	if n != 1 {
		return a, errs.New(errs.Conflict, "the approval %s was used by somebody else", a.ID)
	}
	return a, s.Audit.Append(ctx, tx, audit.Entry{At: a.Spent, Action: "approve.spend", Actor: a.Requester, Object: "approval " + a.ID.String(),
		Detail: map[string]string{"kind": string(a.Kind), "of": a.Object, "digest": hex.EncodeToString(a.Digest[:])}})
}
