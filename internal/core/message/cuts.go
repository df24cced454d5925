package message

import (
	"encoding/json"
	"sync"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/device"
)

// Selector says which connections are meant: those that fit all of its fields that are set. The zero Selector means none.
type Selector struct {
	Device device.ID // the thing
	Thing  string    // its name
	Serial string    // connected under this certificate; content octets
	Issuer string    // … by this CA
	Group  string    // of the registry
	// Holder is whose certificate Serial is, where that is known: only his sessions are looked through then. It selects nothing.
	Holder device.ID
	// Superseded: the certificate was replaced by another one of its holder, who keeps what he left under it while he is away.
	Superseded bool
	Gateway    string // a gateway of this name, and things that it speaks for (by the tag gateway) where they are connected themselves
}

// empty reports whether nothing is set.
func (x *Selector) empty() bool { return *x == Selector{} }

func (x *Selector) hits(id *Identity) bool {
	switch {
	case x.empty():
		return false
	case x.Device != device.ID{} && x.Device != id.ID,
		x.Thing != "" && x.Thing != id.Subject.Thing,
		x.Serial != "" && x.Serial != id.Serial,
		x.Issuer != "" && x.Issuer != id.Issuer,
		x.Group != "" && x.Group != id.Subject.Group,
		x.Gateway != "" && x.Gateway != id.Subject.Thing && x.Gateway != id.Subject.Tags[GatewayTag]:
		return false
	}
	return true
}

// GatewayTag is the tag by which the registry says for whom a gateway speaks: the children of the gateway NAME have gateway=NAME.
const GatewayTag = "gateway"

const (
	cutsKept = 10 * time.Minute
	maxCuts  = 1 << 16
)

// cuts are the recent ones, for whoever looked the peer up before and registers his connection afterwards. They have numbers on this node; who was looked up
// after a cut was noted was looked up in what led to it, so only later ones concern him.
type cuts struct {
	mu   sync.Mutex
	n    uint64 // guarded by mu: the number of the newest
	list []cut  // guarded by mu: by number
	lost uint64 // guarded by mu: the newest that is not in the list any more
}

type cut struct {
	n  uint64
	x  Selector
	at time.Time
}

// note adds a cut.
func (k *cuts) note(x Selector, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.list) > 0 && (len(k.list) >= maxCuts || now.Sub(k.list[0].at) > cutsKept) {
		k.forgetFirst()
	}
	k.n++
	k.list = append(k.list, cut{k.n, x, now})
}

// forgetFirst drops the oldest. k.mu is held.
func (k *cuts) forgetFirst() {
	k.lost = k.list[0].n
	k.list[0] = cut{}
	k.list = k.list[1:]
}

func (k *cuts) last() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.n
}

// check refuses who was cut off since he was looked up, and takes away from children who was.
func (k *cuts) check(id *Identity, children *map[string]device.ID) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if id.asOf < k.lost && id.Group == "" { // who comes by a listener with a fixed group was never looked up
		return errs.New(errs.Unavailable, "too much changed meanwhile: connect again")
	}
	for i := len(k.list) - 1; i >= 0 && k.list[i].n > id.asOf; i-- {
		x := &k.list[i].x
		if x.hits(id) {
			return errs.New(errs.Denied, "this thing may not connect")
		}
		if children == nil || x.Device == (device.ID{}) {
			continue
		}
		for name, child := range *children { // nobody else has the map yet
			if child == x.Device {
				delete(*children, name)
			}
		}
	}
	return nil
}

// announcement is what nodes tell each other.
type announcement struct {
	Node    string
	Cut     *told     `json:",omitempty"`
	Device  device.ID `json:",omitzero"` // of Cut or Changed
	Spread  *spread   `json:",omitempty"`
	Reason  string    `json:",omitempty"`
	Policy  int64     `json:",omitempty"` // the version that holds now
	Changed bool      `json:",omitempty"` // the registry says something else of Device
}

// told is a Selector with octets where JSON has no strings for them.
type told struct {
	Device                device.ID
	Thing, Group, Gateway string
	Serial, Issuer        []byte
}

func (x *Selector) told() *told {
	return &told{x.Device, x.Thing, x.Group, x.Gateway, []byte(x.Serial), []byte(x.Issuer)}
}

func (t *told) selector() Selector {
	return Selector{Device: t.Device, Thing: t.Thing, Serial: string(t.Serial), Issuer: string(t.Issuer), Group: t.Group, Gateway: t.Gateway}
}

func (a *announcement) bytes() []byte {
	data, err := json.Marshal(a)
	if err != nil {
		panic(err) // strings, numbers and arrays only
	}
	return data
}
