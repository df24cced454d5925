package message

import "slices"

// turns tell the uses of a packet identifier apart. A client sends a message of QoS 2 again, under its identifier, until it is released, also after a crash of
// ours; the fabric drops what comes again under the same text (Fabric.Append). So the text must be the same for as long as the identifier is in use, whatever
// happens to others meanwhile, and another one when it is used anew. It contains the number of the release after which the use began, which is stored before
// that release is answered, and so before the identifier can be used anew.
type turns struct {
	last  uint32          // releases so far
	floor uint32          // the number for identifiers that are not in of
	of    map[uint16]turn // identifiers that were released lately
}

type turn struct {
	N  uint32
	At int64 // Unix seconds
}

// turnRecord is a turn as it is stored.
type turnRecord struct {
	ID uint16
	turn
}

const (
	// turnKept is longer than the fabric remembers texts: a number may be used again then.
	turnKept = 150
	// prunedAt is from how many on old ones are looked for, and mostTurns how many there may be. Beyond, all get another number at once: what a client sends again
	// after a crash may then come twice, and is never lost.
	prunedAt  = 256
	mostTurns = 4096
)

func (t *turns) number(id uint16) uint32 {
	if u, ok := t.of[id]; ok {
		return u.N
	}
	return t.floor
}

// released notes that id may be used anew. inUse reports which identifiers are.
func (t *turns) released(id uint16, now int64, inUse func(uint16) bool) {
	t.last++
	if len(t.of) >= prunedAt {
		for other, u := range t.of {
			if now-u.At > turnKept && !inUse(other) {
				delete(t.of, other)
			}
		}
	}
	if len(t.of) >= mostTurns {
		clear(t.of)
		t.floor = t.last
	}
	if t.of == nil {
		t.of = map[uint16]turn{}
	}
	t.of[id] = turn{t.last, now}
}

func (t *turns) records() (list []turnRecord) {
	for id, u := range t.of {
		list = append(list, turnRecord{id, u})
	}
	slices.SortFunc(list, func(a, b turnRecord) int { return int(a.ID) - int(b.ID) })
	return list
}

func (t *turns) resume(r *record) {
	*t = turns{last: r.Turn, floor: r.Floor}
	for _, u := range r.Turns {
		if t.of == nil {
			t.of = make(map[uint16]turn, len(r.Turns))
		}
		t.of[u.ID] = u.turn
	}
}
