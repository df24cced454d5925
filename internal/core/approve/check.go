package approve

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// entry is what the record keeps of a request or a decision.
func (a *Approval) entry(action, actor string, at int64) audit.Entry {
	return audit.Entry{At: at, Action: action, Actor: actor, Object: "approval " + a.ID.String(), Detail: map[string]string{
		"kind": string(a.Kind), "of": a.Object, "digest": hex.EncodeToString(a.Digest[:]), "needs": string(a.Needs), "requester": a.Requester,
		"expires": time.Unix(a.Expires, 0).UTC().Format(time.RFC3339), "row": a.rowMark()}}
}

// rowMark is the digest of what never changes in the row, as the record holds it.
func (a *Approval) rowMark() string {
	h := sha256.New()
	for _, text := range []string{string(a.ID[:]), string(a.Kind), a.Object, string(a.Digest[:]), string(a.Needs), a.Summary, a.Requester, fmt.Sprint(a.Created), fmt.Sprint(a.Expires)} {
		fmt.Fprintf(h, "%d:%s", len(text), text)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// standing is what the record says about an approval.
type standing struct {
	row     string
	state   State
	decided int64
	decider string
	spent   int64
	expires int64
	met     bool
}

type checker struct {
	now   int64
	last  int64                // when the latest entry about an approval was written
	known map[string]*standing // by object
	found []error
}

// Checker compares the approvals with the replayed record: one that nobody asked for, a decision that nobody took and a deed without one must
// be named. Rows leave a month after their time, without an entry, so that only a younger one can be missing. A Checker serves one
// verification.
func (s *Service) Checker() audit.Checker {
	c := &checker{now: s.Now().Unix(), known: map[string]*standing{}}
	return audit.Checker{Name: "approve", Entry: c.entry, Finish: c.finish, Save: c.save, Load: c.load}
}

func (c *checker) entry(_ int64, e audit.Entry) error {
	if e.Refused != "" || !strings.HasPrefix(e.Action, "approve.") {
		return nil
	}
	c.last = max(c.last, e.At)
	k := c.known[e.Object]
	if e.Action == "approve.request" {
		if k != nil {
			return errors.New("the approval was asked for already")
		}
		until, err := time.Parse(time.RFC3339, e.Detail["expires"])
		c.known[e.Object] = &standing{row: e.Detail["row"], state: Waiting, expires: until.Unix()}
		return err
	}
	if k == nil {
		return errors.New("nobody asked for this approval")
	}
	switch {
	case e.Action == "approve.grant" && k.state == Waiting:
		k.state, k.decided, k.decider = Granted, e.At, e.Actor
	case e.Action == "approve.refuse" && k.state == Waiting:
		k.state, k.decided, k.decider = Refused, e.At, e.Actor
	case e.Action == "approve.withdraw" && (k.state == Waiting || k.state == Granted):
		k.state, k.decided, k.decider = Refused, e.At, e.Actor
	case e.Action == "approve.spend" && k.state == Granted:
		k.state, k.spent = Spent, e.At
	default:
		return fmt.Errorf("an approval that is %s cannot become this", k.state)
	}
	return nil
}

func (c *checker) finish(ctx context.Context, tx *db.Tx) error {
	err := tx.Each(ctx, func(r db.Row) error {
		var a Approval
		var cell int64
		if err := a.scan(r, &cell); err != nil {
			c.found = append(c.found, fmt.Errorf("table approval: %w", err))
			return nil
		}
		k := c.known["approval "+a.ID.String()]
		if k == nil || cell != 0 {
			c.found = append(c.found, fmt.Errorf("table approval: nobody recorded that approval %s was asked for", a.ID))
			return nil
		}
		k.met = true
		if k.row != a.rowMark() || k.state != a.State || k.decided != a.Decided || k.decider != a.Decider || k.spent != a.Spent {
			c.found = append(c.found, fmt.Errorf("table approval: the row of approval %s is not what the record says", a.ID))
		}
		return nil
	}, `SELECT cell, `+columns+` FROM approval ORDER BY cell, id`)
	for _, object := range slices.Sorted(maps.Keys(c.known)) {
		if k := c.known[object]; !k.met && k.expires > c.now-int64(keepFor.Seconds()) {
			c.found = append(c.found, fmt.Errorf("table approval: the row of %s is missing", object))
		}
	}
	return errors.Join(append(c.found, err)...)
}
