package acme_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/base/db"
	core "mooring/internal/core/acme"
	"mooring/internal/core/device"
	"mooring/wire/acme"
)

// stored returns the state of an order's row, 0 when there is none.
func (w *world) stored(t *testing.T, url string) (state int64) {
	t.Helper()
	id, err := core.ParseID(url[strings.LastIndex(url, "/")+1:])
	if err != nil {
		t.Fatal(err)
	}
	err = w.DB.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		state = 0
		_, err := tx.Get(ctx, []any{&state}, `SELECT state FROM acme_order WHERE id = $1`, id[:])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// TestOrdersThatAreNotStoredAtOnce: with SQLite an order is in memory until it is finished, and not for long. Nobody can tell but by a crash.
func TestOrdersThatAreNotStoredAtOnce(t *testing.T) {
	w := newWorld(t, nil)
	a, d := w.bound(t, "gw-1", "validated")

	t.Run("an order that nobody finishes is stored in a while", func(t *testing.T) {
		url, _ := a.order(t, acme.NewOrder{Identifiers: identifiers("slow.example.com")})
		for w.stored(t, url) != 1 {
			select {
			case <-t.Context().Done():
				t.Fatal("it is not stored")
			case <-time.After(20 * time.Millisecond):
			}
		}
		if o := into[acme.Order](t, a.post(t, url, nil)); o.Status != acme.StatusPending {
			t.Errorf("it is %s, want pending", o.Status)
		}
	})
	t.Run("what could not be shown is stored when it is told", func(t *testing.T) {
		before := len(w.Record(t))
		url, o := a.order(t, acme.NewOrder{Identifiers: identifiers("wrong.example.com")})
		w.net.Name("wrong.example.com")
		w.net.Handle("wrong.example.com", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "ftp://elsewhere", http.StatusFound) })
		z := into[acme.Authorization](t, a.post(t, o.Authorizations[0], nil))
		for _, ch := range z.Challenges {
			if ch.Type == acme.HTTP01 {
				into[acme.Challenge](t, a.post(t, ch.URL, struct{}{}))
			}
		}
		for into[acme.Order](t, a.post(t, url, nil)).Status != acme.StatusInvalid {
			time.Sleep(time.Millisecond)
		}
		if got := w.stored(t, url); got != 1 {
			t.Errorf("the row's state is %d, want 1", got)
		}
		refused := 0
		for _, e := range w.Record(t)[before:] {
			if e.Action == "acme.validate" && e.Refused != "" {
				refused++
			}
		}
		if refused != 1 {
			t.Errorf("the record tells of %d failures, want 1", refused)
		}
	})
	t.Run("an order outlives an orderly end of the process", func(t *testing.T) {
		url, o := a.order(t, acme.NewOrder{Identifiers: identifiers("kept.example.com")})
		a.validate(t, o)
		w.Restart(t)
		if now := into[acme.Order](t, a.post(t, url, nil)); now.Status != acme.StatusReady {
			t.Errorf("it is %s, want ready", now.Status)
		}
		if done := into[acme.Order](t, a.post(t, o.Finalize, csr(t, apptest.Key(t), "kept.example.com"))); done.Status != acme.StatusValid {
			t.Errorf("it is %s, want valid", done.Status)
		}
	})
	t.Run("the record has the names before the certificate", func(t *testing.T) {
		before := len(w.Record(t))
		url, _ := a.obtain(t, acme.NewOrder{Identifiers: identifiers("one.example.com", "two.example.com")}, apptest.Key(t))
		if got := w.stored(t, url); got != 3 {
			t.Errorf("the row's state is %d, want 3", got)
		}
		var story []string
		for _, e := range w.Record(t)[before:] {
			if e.Device == d.ID.String() {
				story = append(story, e.Action)
			}
		}
		if got, want := strings.Join(story, " "), "acme.validate acme.validate cert.issue"; got != want {
			t.Errorf("the record says %q, want %q", got, want)
		}
	})
	if r := w.Verify(t); len(r.Findings) > 0 {
		t.Errorf("the record does not fit: %v", r.Findings)
	}
}

// TestLeavingWhileFinishing: whoever hangs up while his certificate is made finds the order as it is: ready, or valid with one certificate.
func TestLeavingWhileFinishing(t *testing.T) {
	w := newWorld(t, nil)
	a, d := w.bound(t, "gw-1", "trusted")
	id, err := core.ParseID(a.url[strings.LastIndex(a.url, "/")+1:])
	if err != nil {
		t.Fatal(err)
	}
	const orders = 12
	for i := range orders {
		account, err := w.ACME.Account(t.Context(), id, core.ID{})
		if err != nil {
			t.Fatal(err)
		}
		o, err := w.ACME.NewOrder(t.Context(), &account, core.Wanted{Identifiers: identifiers("gw1.example.com"), Source: netip.MustParseAddr("127.0.0.1")})
		if err != nil {
			t.Fatal(err)
		}
		request := csr(t, apptest.Key(t), "gw1.example.com")
		raw, err := base64.RawURLEncoding.DecodeString(request.CSR)
		if err != nil {
			t.Fatal(err)
		}
		ctx, leave := context.WithTimeout(t.Context(), time.Duration(i)*300*time.Microsecond)
		_, failure := w.ACME.Finalize(ctx, &account, o.ID, raw)
		leave()
		shown := into[acme.Order](t, a.post(t, w.base+"/acme/order/"+o.ID.String(), nil))
		if shown.Status != acme.StatusReady && shown.Status != acme.StatusValid || failure == nil && shown.Status != acme.StatusValid {
			t.Errorf("order %d, after %v: it is %s", i, failure, shown.Status)
		}
		r := a.post(t, shown.Finalize, request)
		for ; r.kind() == "serverInternal" || r.kind() == "rateLimited"; r = a.post(t, shown.Finalize, request) {
			time.Sleep(time.Millisecond)
		}
		if done := into[acme.Order](t, r); done.Status != acme.StatusValid {
			t.Errorf("order %d, after %v: asked for again it is %s, want valid", i, failure, done.Status)
		}
	}
	issued := 0
	for _, e := range w.Record(t) {
		if e.Action == "cert.issue" && e.Device == d.ID.String() {
			issued++
		}
	}
	if issued != orders {
		t.Errorf("%d orders led to %d certificates", orders, issued)
	}
	if r := w.Verify(t); len(r.Findings) > 0 {
		t.Errorf("the record does not fit: %v", r.Findings)
	}
}

// TestOrdersThatAreNotStoredCount: of the orders that an account may have open, those that are not stored yet are some.
func TestOrdersThatAreNotStoredCount(t *testing.T) {
	w := newWorld(t, nil)
	a, _ := w.bound(t, "gw-1", "validated")
	url, _ := a.order(t, acme.NewOrder{Identifiers: identifiers("gw1.example.com")})
	if r := a.post(t, a.url+"/orders", nil); r.StatusCode != http.StatusOK { // which stores it
		t.Fatalf("the orders: %d %s", r.StatusCode, r.Text)
	}
	id, err := core.ParseID(url[strings.LastIndex(url, "/")+1:])
	if err != nil {
		t.Fatal(err)
	}
	const most, room = 300, 3
	if err := w.DB.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		for range most - room - 1 {
			copied := id
			rand.Read(copied[4:])
			if _, err := tx.Exec(ctx, `INSERT INTO acme_order (id, account, device, evidence, profile, state, authz, csr, problem, serial, cert, replaces, created, expires)
 SELECT $1, account, device, evidence, profile, state, authz, csr, problem, serial, cert, replaces, created, expires FROM acme_order WHERE id = $2`, copied[:], id[:]); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	answers := make([]reply, 2*room)
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() {
			answers[i] = a.post(t, w.base+"/acme/new-order", acme.NewOrder{Identifiers: identifiers("gw1.example.com")})
		})
	}
	all.Wait()
	made := 0
	for _, r := range answers {
		if r.StatusCode == http.StatusCreated {
			made++
		} else {
			want(t, r, http.StatusTooManyRequests, "rateLimited")
		}
	}
	if made > room || made == 0 {
		t.Errorf("%d orders were made where there was room for %d", made, room)
	}
}

// postAt is post to a node, with a nonce of that one.
func (a *account) postAt(t testing.TB, node *world, url string, payload any) reply {
	t.Helper()
	h := header{"alg": "ES256", "nonce": node.nonceAt(t), "url": url, "kid": a.url}
	return node.do(t, http.MethodPost, node.at(url), acme.TypeRequest, sign(t, a.key, h, encode(t, payload)))
}

// TestSeveralNodes: what one node has in memory of orders and accounts, another one does without, or waits for.
func TestSeveralNodes(t *testing.T) {
	w := newWorld(t, nil)
	if !w.DB.Arrays() {
		t.Skip("with SQLite there is one node")
	}
	second := &world{Platform: w.Second(t), net: w.net, base: w.base}
	second.http = second.client(second.Platform)

	t.Run("an order that was made at one node is finished at the other", func(t *testing.T) {
		a, _ := w.bound(t, "gw-1", "trusted")
		url, o := a.order(t, acme.NewOrder{Identifiers: identifiers("gw1.example.com")})
		if got := w.stored(t, url); got != 0 {
			t.Fatalf("the row's state is %d: it is stored already, and this test shows nothing", got)
		}
		if seen := into[acme.Order](t, a.postAt(t, second, url, nil)); seen.Status != acme.StatusReady {
			t.Errorf("at the other node it is %s, want ready", seen.Status)
		}
		if done := into[acme.Order](t, a.postAt(t, second, o.Finalize, csr(t, apptest.Key(t), "gw1.example.com"))); done.Status != acme.StatusValid {
			t.Errorf("finished at the other node it is %s, want valid", done.Status)
		}
		if r := a.postAt(t, w, url+"/certificate", nil); r.StatusCode != http.StatusOK {
			t.Errorf("its certificate at the first node: %d %s", r.StatusCode, r.Text)
		}
	})
	t.Run("there is no order of that name", func(t *testing.T) {
		a, _ := w.bound(t, "gw-2", "trusted")
		url, _ := a.order(t, acme.NewOrder{Identifiers: identifiers("gw1.example.com")})
		want(t, a.postAt(t, second, url[:len(url)-8]+"00000000", nil), http.StatusNotFound, "malformed")
	})
	t.Run("who asks for many orders that are not there waits for few of them", func(t *testing.T) {
		a, _ := w.bound(t, "gw-7", "trusted")
		other, _ := w.bound(t, "gw-8", "trusted")
		url, _ := a.order(t, acme.NewOrder{Identifiers: identifiers("gw1.example.com")})
		answers := make([]reply, 12)
		var all sync.WaitGroup
		for i := range answers {
			all.Go(func() { answers[i] = a.postAt(t, second, fmt.Sprintf("%s%08x", url[:len(url)-8], i), nil) })
		}
		all.Wait()
		limited := 0
		for _, r := range answers {
			if r.StatusCode == http.StatusTooManyRequests {
				limited++
			} else {
				want(t, r, http.StatusNotFound, "malformed")
			}
		}
		if limited == 0 {
			t.Error("all were looked for at once")
		}
		url, _ = other.order(t, acme.NewOrder{Identifiers: identifiers("gw1.example.com")})
		if seen := into[acme.Order](t, other.postAt(t, second, url, nil)); seen.Status != acme.StatusReady {
			t.Errorf("the order of another account at the other node is %s, want ready", seen.Status)
		}
	})
	t.Run("an account that was ended at another node gets no certificate", func(t *testing.T) {
		a, d := w.bound(t, "gw-3", "trusted")
		_, o := a.order(t, acme.NewOrder{Identifiers: identifiers("gw1.example.com")})
		id, err := core.ParseID(a.url[strings.LastIndex(a.url, "/")+1:])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := second.ACME.End(t.Context(), apptest.Operator(), id); err != nil {
			t.Fatal(err)
		}
		if r := a.postAt(t, w, o.Finalize, csr(t, apptest.Key(t), "gw1.example.com")); r.StatusCode < 400 {
			t.Errorf("finishing the order: %d %s", r.StatusCode, r.Text)
		}
		want(t, a.postAt(t, w, a.url, nil), http.StatusUnauthorized, "unauthorized")
		for _, e := range w.Record(t) {
			if e.Action == "cert.issue" && e.Device == d.ID.String() {
				t.Error("there is a certificate")
			}
		}
	})
	t.Run("a device that was suspended at another node gets no certificate", func(t *testing.T) {
		a, d := w.bound(t, "gw-4", "trusted")
		_, o := a.order(t, acme.NewOrder{Identifiers: identifiers("gw1.example.com")})
		if _, err := second.Devices.Move(t.Context(), apptest.Operator(), d.ID, device.Suspend, "a test"); err != nil {
			t.Fatal(err)
		}
		want(t, a.postAt(t, w, o.Finalize, csr(t, apptest.Key(t), "gw1.example.com")), http.StatusForbidden, "unauthorized")
	})
	t.Run("a key that was exchanged at another node is the account's at once", func(t *testing.T) {
		a, _ := w.bound(t, "gw-5", "trusted")
		key, at := apptest.Key(t), w.base+"/acme/key-change"
		inner := sign(t, key, header{"alg": "ES256", "jwk": jwkOf(t, key), "url": at}, encode(t, acme.KeyChange{Account: a.url, OldKey: jwkOf(t, a.key)}))
		if r := a.postAt(t, second, at, inner); r.StatusCode != http.StatusOK {
			t.Fatalf("exchanging the key: %d %s", r.StatusCode, r.Text)
		}
		a.key = key
		if r := a.postAt(t, w, w.base+"/acme/new-order", acme.NewOrder{Identifiers: identifiers("gw1.example.com")}); r.StatusCode != http.StatusCreated {
			t.Errorf("an order signed with the new key: %d %s", r.StatusCode, r.Text)
		}
	})
	t.Run("clients that go from one node to the other have their orders stored at once", func(t *testing.T) {
		a, _ := w.bound(t, "gw-6", "trusted")
		h := header{"alg": "ES256", "nonce": second.nonceAt(t), "url": a.url, "kid": a.url}
		want(t, w.do(t, http.MethodPost, a.url, acme.TypeRequest, sign(t, a.key, h, nil)), http.StatusBadRequest, "badNonce")
		url, _ := a.order(t, acme.NewOrder{Identifiers: identifiers("gw1.example.com")})
		if got := w.stored(t, url); got != 1 {
			t.Errorf("the row's state is %d, want 1", got)
		}
	})
	if r := w.Verify(t); len(r.Findings) > 0 {
		t.Errorf("the record does not fit: %v", r.Findings)
	}
}
