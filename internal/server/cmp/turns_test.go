package cmp

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"mooring/wire/cmp"
)

// TestTurns has MACs of many iterations wait for one another, with somebody's share of those that wait, for a time.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTurns()
		dear, cheap := &cmp.MAC{Old: true, Iterations: cheapRounds + 1}, &cmp.MAC{Old: true, Iterations: cheapRounds}
		here := netip.MustParseAddr("2001:db8::1")
		var taken []func()
		for i := range cap(q.free) {
			done, err := q.take(t.Context(), netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), dear)
			if err != nil {
				t.Fatal(err)
			}
			taken = append(taken, done)
		}
		came := make(chan func(), turnsOfSource)
		for range turnsOfSource {
			go func() {
				done, _ := q.take(t.Context(), here, dear)
				came <- done
			}()
		}
		synctest.Wait()
		start := time.Now()
		if _, err := q.take(t.Context(), here.Next(), dear); err == nil || time.Since(start) > 0 {
			t.Errorf("one more of a network: got %v after %v, want a refusal at once", err, time.Since(start))
		}
		if _, err := q.take(t.Context(), here, cheap); err != nil {
			t.Errorf("a MAC of few iterations: got %v", err)
		}
		taken[0]()
		synctest.Wait()
		if len(came) != 1 {
			t.Fatalf("%d got the turn that was given back, want 1", len(came))
		}
		taken[0] = <-came
		if taken[0] == nil {
			t.Fatal("who waited got no turn")
		}
		time.Sleep(turnPatience)
		synctest.Wait()
		for range turnsOfSource - 1 {
			if done := <-came; done != nil {
				t.Error("there was a turn for who had to give up")
			}
		}
		proven := make(chan error, 1)
		go func() {
			done, err := q.wait(t.Context(), dear)
			if err == nil {
				done()
			}
			proven <- err
		}()
		time.Sleep(10 * turnPatience)
		for _, done := range taken {
			done()
		}
		if err := <-proven; err != nil {
			t.Errorf("somebody who is known: got %v", err)
		}
		if len(q.sources) > 0 || len(q.free) > 0 {
			t.Errorf("%v and %d turns are left", q.sources, len(q.free))
		}
	})
}
