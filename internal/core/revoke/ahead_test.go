package revoke

import (
	"fmt"
	"testing"

	"mooring/internal/core/ca"
)

// TestReadAhead: a node that starts reads the lists of others before anybody asks, the newest first and no more than it may; what it read, a
// revocation extends without reading any row again.
func TestReadAhead(t *testing.T) {
	w := newSharded(t, 16)
	devices := w.issuer(t, "devices")
	var certs []*ca.Certificate
	shards := map[int64]bool{}
	for n := range 12 {
		c := w.issue(t, w.add(t, fmt.Sprint("pump", n)).ID, nil)
		_, err := w.Certificate(t.Context(), operator, c.Serial[:], KeyCompromise)
		must(t, err)
		certs = append(certs, c)
		shards[devices.Shard(c.Serial[:])] = true
		w.now.Add(1)
	}
	_, err := w.CRL(t.Context(), devices.ID(), ca.Complete) // which is in pieces, and not read
	must(t, err)
	far := w.other()
	read, err := far.ReadAhead(t.Context())
	must(t, err)
	if read.Lists != len(shards) || read.Octets < int64(len(shards)*300) {
		t.Errorf("read ahead were %+v, want %d lists", read, len(shards))
	}
	for shard := range shards {
		sc, err := far.scopeOf(scopeKey{devices.ID(), shard})
		must(t, err)
		here, err := w.CRL(t.Context(), devices.ID(), shard)
		must(t, err)
		if l := sc.current.Load(); l == nil || l.digest != here.Digest || !sc.kept.loaded {
			t.Errorf("the list of shard %d was not read ahead: %+v", shard, l)
		}
	}
	tight := w.Deps
	last := devices.Shard(certs[len(certs)-1].Serial[:])
	l, err := w.CRL(t.Context(), devices.ID(), last)
	must(t, err)
	tight.ReadAhead = int(l.Size)
	few := New(tight)
	if read, err = few.ReadAhead(t.Context()); err != nil || read.Lists != 1 || read.Octets != l.Size {
		t.Errorf("with room for one list: %+v, %v", read, err)
	}
	if sc := few.scopes[scopeKey{devices.ID(), last}]; sc == nil || sc.current.Load() == nil {
		t.Error("the list that changed last was not the one that was read")
	}
}
