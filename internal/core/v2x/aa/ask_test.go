package aa

import (
	"testing"
	"testing/synctest"
	"time"

	"mooring/internal/core/v2x/trust"
	"mooring/wire/its"
	"mooring/wire/scr"
)

// What waits leaves together, as much as one message has.
func TestGather(t *testing.T) {
	t.Parallel()
	c := newCounter()
	for range scr.MaxMany + 10 {
		c.queue <- &asking{}
	}
	if n := len(c.gather(&asking{})); n != scr.MaxMany {
		t.Errorf("%d questions leave together, want %d", n, scr.MaxMany)
	}
	if n := len(c.gather(&asking{})); n != 12 {
		t.Errorf("%d questions leave together, want those that are left: 12", n)
	}
}

// How long a question waits: for nobody, for one that is being read, and for answers to those before it.
func TestGatherWaits(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name        string
		coming      bool          // another one is announced
		comes       time.Duration // when it is there; 0: never
		refused     bool          // it is none
		away        bool          // a message is not answered yet
		answered    time.Duration // when it is; 0: never
		wait        time.Duration
		questions   int
		stillComing int64
	}{
		{name: "alone", questions: 1},
		{name: "one comes", coming: true, comes: waitComing / 2, wait: waitComing / 2, questions: 2},
		{name: "one is refused", coming: true, comes: waitComing / 2, refused: true, wait: waitComing / 2, questions: 1},
		{name: "one does not come", coming: true, wait: waitComing, questions: 1, stillComing: 1},
		{name: "answered soon", away: true, answered: waitComing / 2, wait: waitComing / 2, questions: 1},
		{name: "answered while one comes", away: true, answered: waitComing / 2, coming: true, comes: waitComing * 3 / 4, wait: waitComing * 3 / 4, questions: 2},
		{name: "answered late", away: true, answered: waitComing * 3 / 2, coming: true, wait: waitComing * 3 / 2, questions: 1, stillComing: 1},
		{name: "not answered", away: true, wait: waitAsked, questions: 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newCounter()
			arrived := func() {}
			if row.coming {
				arrived = c.expect()
			}
			if row.comes > 0 {
				go func() {
					time.Sleep(row.comes)
					if !row.refused {
						c.queue <- &asking{}
					}
					arrived()
					arrived() // once more does nothing
				}()
			}
			if row.away {
				c.away.Add(1)
			}
			if row.answered > 0 {
				go func() {
					time.Sleep(row.answered)
					c.answered()
				}()
			}
			began := time.Now()
			n := len(c.gather(&asking{}))
			if took := time.Since(began); n != row.questions || took != row.wait || c.coming.Load() != row.stillComing {
				t.Errorf("%s: %d questions left after %v, and %d are to come; want %d after %v, %d", row.name, n, took, c.coming.Load(), row.questions, row.wait, row.stillComing)
			}
		})
	}
}

// Questions of one authority to one other go in one message, unless it would be too long.
func TestTogether(t *testing.T) {
	t.Parallel()
	first, second := new(trust.Credential), new(trust.Credential)
	question := func(by *trust.Credential, to byte, size int) *asking {
		a := &asking{aa: by, size: size, asked: new(its.InnerAtRequest)}
		a.asked.SharedAtRequest.EaId[0] = to
		return a
	}
	lists := together([]*asking{question(first, 1, 10), question(first, 2, 10), question(second, 1, 10), question(first, 1, togetherMost-10), question(first, 1, 1), question(first, 2, 10)})
	want := []int{2, 2, 1, 1}
	if len(lists) != len(want) {
		t.Fatalf("%d messages, want %d", len(lists), len(want))
	}
	for i, list := range lists {
		if len(list) != want[i] {
			t.Errorf("message %d has %d questions, want %d", i, len(list), want[i])
		}
		for _, a := range list {
			if a.aa != list[0].aa || a.asked.SharedAtRequest.EaId != list[0].asked.SharedAtRequest.EaId {
				t.Errorf("message %d has questions of different authorities, or to different ones", i)
			}
		}
	}
}
