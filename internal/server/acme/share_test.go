package acme_test

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"mooring/wire/acme"
)

// TestShareOfValidations: an account whose names do not answer gets no more validations under way than its share, of which few are at work, and others are
// validated meanwhile, though there are several like it.
func TestShareOfValidations(t *testing.T) {
	w := newWorld(t, nil)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	const share, atWork, more = 16, 4, 4
	var asked [2]atomic.Int64
	for k := range asked {
		slow, _ := w.bound(t, fmt.Sprintf("gw-slow-%d", k), "validated")
		var names []string
		for i := range share + more {
			name := fmt.Sprintf("s%d-%d.example.com", k, i)
			w.net.Name(name)
			w.net.Handle(name, func(http.ResponseWriter, *http.Request) { asked[k].Add(1); <-release })
			names = append(names, name)
		}
		_, o := slow.order(t, acme.NewOrder{Identifiers: identifiers(names...)})
		answers := make([]reply, len(names))
		var all sync.WaitGroup
		for i, url := range o.Authorizations {
			all.Go(func() {
				z := into[acme.Authorization](t, slow.post(t, url, nil))
				for _, ch := range z.Challenges {
					if ch.Type == acme.HTTP01 {
						answers[i] = slow.post(t, ch.URL, struct{}{})
					}
				}
			})
		}
		all.Wait()
		underway := 0
		for _, r := range answers {
			if r.Response != nil && r.StatusCode == http.StatusOK {
				underway++
				continue
			}
			want(t, r, http.StatusTooManyRequests, "rateLimited")
			if r.Header.Get("Retry-After") == "" {
				t.Error("a refusal does not say when to come again")
			}
		}
		if underway != share {
			t.Errorf("%d validations are under way, want %d", underway, share)
		}
	}
	other, _ := w.bound(t, "gw-other", "validated", "dns:other.example.com")
	_, o := other.order(t, acme.NewOrder{Identifiers: identifiers("other.example.com")})
	other.validate(t, o)
	for k := range asked {
		if n := asked[k].Load(); n > atWork {
			t.Errorf("%d names of account %d were asked at once, want at most %d", n, k, atWork)
		}
	}
}
