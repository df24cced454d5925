package revoke

import (
	"bytes"
	"math"
	"sync"
	"sync/atomic"

	"mooring/wire/ocsp"
)

const (
	answerShards = 64               // each with a lock of its own
	maxVariants  = 8                // answers about one certificate: four hash algorithms, each with and without parameters
	answerCost   = 640              // octets in memory for an answer beside its DER: itself, its places in map and ring, what its server prepared
	renewPause   = 5                // seconds after an attempt to renew an answer, in which others get the old one
	tagInteger   = 0x02             // of a serial number
	serialLength = 16               // of our serial numbers
	idTail       = 2 + serialLength // octets of a CertID from the tag of the serial number on
)

// Answer is an OCSP response. It is shared: do not change DER. Its size and order count: the cache holds many, and what is not in the processor's
// own cache costs more than the rest of an answer.
type Answer struct {
	DER                 []byte
	NextUpdate, Refresh int64 // UTC seconds: of several certificates the earliest end; from when on a newer answer is worth asking for

	// What the cache knows of it.
	retry     atomic.Int64  // UTC second from which renewing may be tried again
	next      *Answer       // another form of the question about the same certificate; guarded by the shard
	used      atomic.Uint32 // 1 when asked for since the hand came by
	at, until uint16        // where in DER the CertID stands as it was asked

	// Memo is for who serves the answer: what he made of it, to be used again. Its content is at most about as large as DER.
	Memo       atomic.Value
	ThisUpdate int64       // UTC seconds
	place      int32       // in the shard's ring; guarded by the shard
	Status     ocsp.Status // anything but Successful is unsigned, and without the times
	Cacheable  bool        // others may keep the answer; false for errors and for answers to a nonce
}

// id returns the CertID as it was asked.
func (answer *Answer) id() []byte { return answer.DER[answer.at:answer.until] }

// answers is the cache of signed OCSP answers: to questions without a nonce for one certificate that we issued. Strangers choose what is in
// it, so it is bounded by octets; what nobody asked since the last turn of the clock's hand goes when room is needed. All answers about a
// certificate are in one shard, which follows from the random end of the serial number.
type answers struct {
	limit  int // octets in each shard
	shards [answerShards]answerShard
}

type answerShard struct {
	mu         sync.RWMutex
	bySerial   map[[serialLength]byte]*Answer // the first of the forms; guarded by mu
	ring       []*Answer                      // all of them; guarded by mu
	hand       int                            // where to look next for one to drop; guarded by mu
	octets     int                            // guarded by mu
	generation uint64                         // grows with every purge; guarded by mu
}

// serialOf returns the serial number of a CertID when it has the form of ours.
func serialOf(id []byte) (serial [serialLength]byte, ok bool) {
	at := len(id) - idTail
	if at < 0 || id[at] != tagInteger || id[at+1] != serialLength {
		return serial, false
	}
	return [serialLength]byte(id[at+2:]), true
}

func (a *answers) shard(serial *[serialLength]byte) *answerShard {
	return &a.shards[serial[serialLength-1]%answerShards]
}

// get returns the answer to the question id, nil when there is none that holds at now. It allocates nothing.
func (a *answers) get(id []byte, now int64) (answer *Answer, generation uint64) {
	serial, ok := serialOf(id)
	if !ok {
		return nil, 0
	}
	s := a.shard(&serial)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for answer = s.bySerial[serial]; answer != nil && !bytes.Equal(answer.id(), id); {
		answer = answer.next
	}
	if answer == nil || now > answer.NextUpdate {
		return nil, s.generation
	}
	if answer.used.Load() == 0 { // a write at every question would make the cores wait for each other
		answer.used.Store(1)
	}
	return answer, s.generation
}

// current reports whether the answer may be given at now without renewing it: it is new enough, or somebody is renewing it.
func (answer *Answer) current(now int64) bool {
	return now < answer.Refresh || now < answer.retry.Load()
}

// claim reports whether the caller is the one who renews the answer.
func (answer *Answer) claim(now int64) bool {
	last := answer.retry.Load()
	return now >= last && answer.retry.CompareAndSwap(last, now+renewPause)
}

// put keeps an answer for which the database was read after get had returned generation. When anything was purged since, the reading may be
// older than what was purged, and the answer is not kept.
func (a *answers) put(id []byte, answer *Answer, generation uint64) {
	serial, ok := serialOf(id)
	size, at := len(answer.DER)+answerCost, bytes.Index(answer.DER, id) // the answer repeats the question, so that the key costs nothing more
	if !ok || at < 0 || size > a.limit || len(answer.DER) > math.MaxUint16 {
		return
	}
	s := a.shard(&serial)
	s.mu.Lock()
	defer s.mu.Unlock()
	if generation != s.generation {
		return
	}
	if s.bySerial == nil {
		s.bySerial = map[[serialLength]byte]*Answer{}
	}
	forms := 0
	for old := s.bySerial[serial]; old != nil; old = old.next {
		if bytes.Equal(old.id(), id) {
			s.drop(old)
			break
		}
		if forms++; forms == maxVariants {
			return
		}
	}
	s.makeRoom(a.limit - size)
	answer.at, answer.until = uint16(at), uint16(at+len(id))
	answer.next, answer.place = s.bySerial[serial], int32(len(s.ring))
	s.bySerial[serial] = answer
	s.ring = append(s.ring, answer)
	s.octets += size
}

// makeRoom drops answers until at most so many octets are left: each that the hand meets, unless it was used since the last time.
func (s *answerShard) makeRoom(octets int) {
	for s.octets > octets {
		if s.hand >= len(s.ring) {
			s.hand = 0
		}
		if answer := s.ring[s.hand]; answer.used.Swap(0) != 0 {
			s.hand++
		} else {
			s.drop(answer)
		}
	}
}

// drop takes an answer out of the chain of its certificate and out of the ring, where the last one takes its place.
func (s *answerShard) drop(answer *Answer) {
	serial, _ := serialOf(answer.id())
	first := s.bySerial[serial]
	switch {
	case first != answer:
		for first.next != answer {
			first = first.next
		}
		first.next = answer.next
	case answer.next != nil:
		s.bySerial[serial] = answer.next
	default:
		delete(s.bySerial, serial)
	}
	last := len(s.ring) - 1
	s.ring[answer.place] = s.ring[last]
	s.ring[answer.place].place = answer.place
	s.ring[last] = nil
	s.ring = s.ring[:last]
	s.octets -= len(answer.DER) + answerCost
}

// purge drops the answers about a certificate, also those that are being made, and returns the questions to which they were.
func (a *answers) purge(serial []byte) (asked [][]byte) {
	if len(serial) != serialLength {
		return nil
	}
	key := [serialLength]byte(serial)
	s := a.shard(&key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation++
	for answer := s.bySerial[key]; answer != nil; answer = s.bySerial[key] {
		asked = append(asked, answer.id())
		s.drop(answer)
	}
	return asked
}

// clear drops everything.
func (a *answers) clear() {
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.Lock()
		s.bySerial, s.ring, s.hand, s.octets = nil, nil, 0, 0
		s.generation++
		s.mu.Unlock()
	}
}

// size returns how many answers are kept, and in how many octets.
func (a *answers) size() (n, octets int) {
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.RLock()
		n, octets = n+len(s.ring), octets+s.octets
		s.mu.RUnlock()
	}
	return n, octets
}
