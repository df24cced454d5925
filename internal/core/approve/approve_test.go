package approve

import (
	"context"
	"crypto/sha256"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
)

var (
	anna   = access.Actor{Kind: access.KindOperator, ID: "aa", Role: access.RoleOperator, Via: "api"}
	annaAs = access.Actor{Kind: access.KindOperator, ID: "aa", Role: access.RoleAdmin, Via: "api"} // the same person in another role
	bert   = access.Actor{Kind: access.KindOperator, ID: "bb", Role: access.RoleOperator, Via: "api"}
	reader = access.Actor{Kind: access.KindOperator, ID: "cc", Role: access.RoleAuditor, Via: "api"}
	root   = access.Actor{Kind: access.KindLocal, ID: "uid=0", Role: access.RoleAdmin, Via: "socket"}
	owner  = access.Actor{Kind: access.KindLocal, ID: "uid=996", Role: access.RoleAdmin, Via: "socket"}
)

type world struct {
	*Service
	log *audit.Log
	now *atomic.Int64
	// tampered says that the test changes the database behind the platform's back.
	tampered bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{now: &atomic.Int64{}}
	w.now.Store(1_800_000_000)
	clock := func() time.Time { return time.Unix(w.now.Load(), 0) }
	signer, vkey, err := audit.NoteKey("test", make([]byte, 32))
	must(t, err)
	verifier, err := note.NewVerifier(vkey)
	must(t, err)
	d := dbtest.Open(t, audit.Schema(), Schema())
	w.log = audit.New(d, audit.Options{Origin: "test", Signer: signer, Verifier: verifier, BatchKey: make([]byte, 32), Now: clock})
	w.Service = New(Deps{DB: d, Audit: w.log, Access: access.NewDecider(w.log), Now: clock})
	t.Cleanup(func() { w.verify(t) })
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) verify(t *testing.T) {
	t.Helper()
	if w.tampered {
		return
	}
	report, err := w.log.Verify(context.WithoutCancel(t.Context()), audit.VerifyOptions{Checkers: []audit.Checker{w.Checker()}})
	must(t, err)
	for _, f := range report.Findings {
		t.Errorf("the record does not verify: %s", f)
	}
}

func act(object, content string) Act {
	return Act{Kind: "revoke", Object: object, Digest: sha256.Sum256([]byte(content)), Needs: access.CertRevoke, Summary: "revoke much"}
}

func (w *world) request(t *testing.T, actor access.Actor, a Act) Approval {
	t.Helper()
	var got Approval
	must(t, w.DB.Do(t.Context(), func(ctx context.Context, tx *db.Tx) (err error) {
		got, err = w.Request(ctx, tx, actor, a, 0)
		return err
	}))
	return got
}

func (w *world) spend(t *testing.T, a Act) error {
	return w.DB.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := w.Spend(ctx, tx, a)
		return err
	})
}

func wants(t *testing.T, err error, kind errs.Kind, text string) {
	t.Helper()
	if !errs.Is(err, kind) || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want %s %q", err, kind, text)
	}
}

func TestAGrantIsForOneActOnce(t *testing.T) {
	w := newWorld(t)
	a := act("job 1", "these")
	wants(t, w.spend(t, a), errs.Denied, "no request of it is open")
	asked := w.request(t, anna, a)
	if again := w.request(t, anna, a); again.ID != asked.ID {
		t.Errorf("asking again made another request")
	}
	wants(t, w.spend(t, a), errs.Denied, "approval "+asked.ID.String()+" waits")
	_, err := w.Grant(t.Context(), bert, asked.ID)
	must(t, err)
	for _, other := range []Act{act("job 1", "others"), act("job 2", "these"), {Kind: "issue", Object: "job 1", Digest: a.Digest}} {
		wants(t, w.spend(t, other), errs.Denied, "no request of it is open")
	}
	must(t, w.spend(t, a))
	wants(t, w.spend(t, a), errs.Denied, "no request of it is open")
	_, err = w.Grant(t.Context(), bert, asked.ID)
	wants(t, err, errs.Conflict, "spent already")
}

func TestWhoAskedCannotApprove(t *testing.T) {
	w := newWorld(t)
	for _, row := range []struct {
		name        string
		asks, other access.Actor
		kind        errs.Kind
		text        string
	}{
		{"oneself", anna, anna, errs.Denied, "whoever asked"},
		{"oneself in another role", anna, annaAs, errs.Denied, "whoever asked"},
		{"another user of the machine", root, owner, errs.Denied, "count as one"},
		{"a reader", anna, reader, errs.Denied, "approve.grant"},
		{"a device", anna, access.Device("dd", "est"), errs.Denied, "approve.grant"},
		{"the platform", anna, access.System("job"), errs.Denied, "only a person"},
	} {
		t.Run(row.name, func(t *testing.T) {
			asked := w.request(t, row.asks, act(row.name, "x"))
			_, err := w.Grant(t.Context(), row.other, asked.ID)
			wants(t, err, row.kind, row.text)
			wants(t, w.spend(t, asked.Act), errs.Denied, "waits")
		})
	}
	asked := w.request(t, anna, act("the machine's user for an operator", "x"))
	_, err := w.Grant(t.Context(), root, asked.ID)
	must(t, err)
	// To approve is not less than to do.
	high := act("a new CA", "x")
	high.Needs = access.CAManage
	asked = w.request(t, annaAs, high)
	_, err = w.Grant(t.Context(), bert, asked.ID)
	wants(t, err, errs.Denied, "ca.manage")
	must(t, w.log.Sequence(t.Context()))
	entries, err := w.log.List(t.Context(), reader, audit.Query{Action: "approve.grant"})
	must(t, err)
	refused := 0
	for _, e := range entries {
		if e.Refused != "" {
			refused++
		}
	}
	if refused != 4 {
		t.Errorf("%d refusals stand in the record, want 4", refused)
	}
}

func TestTimeEndsWhatNobodyDecided(t *testing.T) {
	w := newWorld(t)
	a := act("job 1", "x")
	late, granted := w.request(t, anna, a), w.request(t, anna, act("job 2", "x"))
	_, err := w.Grant(t.Context(), bert, granted.ID)
	must(t, err)
	w.now.Add(int64(Life.Seconds()))
	_, err = w.Grant(t.Context(), bert, late.ID)
	wants(t, err, errs.Conflict, "not decided in time")
	wants(t, w.spend(t, granted.Act), errs.Denied, "no request of it is open")
	fresh := w.request(t, anna, a)
	if fresh.ID == late.ID {
		t.Error("an old request was taken for a new one")
	}
	refused, err := w.Refuse(t.Context(), bert, fresh.ID)
	must(t, err)
	if refused.State != Refused || refused.Decider != bert.String() {
		t.Errorf("got %+v", refused)
	}
	wants(t, w.spend(t, a), errs.Denied, "has refused this")
	if again := w.request(t, anna, a); again.State != Refused {
		t.Errorf("asking again after a refusal: got %s, want the refusal", again.State)
	}
	list, err := w.List(t.Context(), reader, false, 0)
	must(t, err)
	all, err := w.List(t.Context(), reader, true, 0)
	must(t, err)
	if len(list) != 0 || len(all) != 3 {
		t.Errorf("%d wait of %d, want 0 of 3", len(list), len(all))
	}
	// What ended long ago goes, and the record does not miss it.
	w.now.Add(int64(keepFor.Seconds()) + 1)
	w.request(t, anna, act("job 3", "x"))
	if all, err = w.List(t.Context(), reader, true, 0); err != nil || len(all) != 2 {
		t.Errorf("%d are kept, %v, want the younger two", len(all), err)
	}
}

func TestEveryChangeBehindTheBackIsNamed(t *testing.T) {
	for _, change := range []string{
		`UPDATE approval SET state = 2, decided = 1800000000, decider = 'operator:bb'`, `UPDATE approval SET requester = 'operator:zz'`,
		`UPDATE approval SET object = 'job 9'`, `UPDATE approval SET expires = expires + 1`, `DELETE FROM approval`, `UPDATE approval SET needs = 'device.read'`,
		`UPDATE approval SET spent = 1`, `UPDATE approval SET summary = 'harmless'`, `UPDATE approval SET cell = 1`,
	} {
		t.Run(change, func(t *testing.T) {
			w := newWorld(t)
			w.tampered = true
			w.request(t, anna, act("job 1", "x"))
			must(t, w.DB.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
				_, err := tx.Exec(ctx, change)
				return err
			}))
			report, err := w.log.Verify(t.Context(), audit.VerifyOptions{Checkers: []audit.Checker{w.Checker()}})
			must(t, err)
			if len(report.Findings) == 0 {
				t.Error("nobody noticed")
			}
		})
	}
}
