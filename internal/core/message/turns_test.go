package message

import "testing"

// The text of a use stays while others are released, also over a restart, and is another one for the next use.
func TestTurns(t *testing.T) {
	var x turns
	none := func(uint16) bool { return false }
	restart := func() {
		r := &record{Turn: x.last, Floor: x.floor, Turns: x.records()}
		x = turns{}
		x.resume(r)
	}
	seen := map[[2]uint32]int64{} // identifier and number, when last
	now := int64(1_000_000)
	for step := range 20_000 {
		id := uint16(1 + step*7%900)
		use := [2]uint32{uint32(id), x.number(id)}
		if at, again := seen[use]; again && now-at < 120 {
			t.Fatalf("step %d: identifier %d has the number %d twice within %d s", step, id, use[1], now-at)
		}
		other := uint16(2000 + step%3)
		x.released(other, now, func(in uint16) bool { return in == id })
		restart()
		if x.number(id) != use[1] {
			t.Fatalf("step %d: the number of %d changed while it was in use", step, id)
		}
		seen[use] = now
		x.released(id, now, none)
		if step%10 == 0 {
			now++
		}
		if len(x.of) > mostTurns {
			t.Fatalf("%d are kept", len(x.of))
		}
	}
	for id := range uint16(mostTurns + 10) {
		x.released(id, now, none)
	}
	if len(x.of) > mostTurns || x.number(60000) != x.floor || x.floor == 0 {
		t.Errorf("after too many: %d kept, floor %d", len(x.of), x.floor)
	}
}
