package audit

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"sync"
)

// minBatchKey is how many octets the key of the batches has at least.
const minBatchKey = 32

// batchDomain keeps these MACs apart from anything else that is made with the same key.
const batchDomain = "mooring audit_batch v1"

// batchMAC authenticates rows of audit_batch: HMAC-SHA256 over the domain, stream, seq, part, ts, n and body, each behind its length in four
// octets. Only whoever has the key can write a row that is given a place in the tree, so that write access to the database is not enough to
// add an entry. It is safe for concurrent use.
type batchMAC struct{ states sync.Pool } // of *macState

// macState is one keyed hash, which is dear to make and cheap to use again.
type macState struct {
	hash hash.Hash
	head []byte
}

func newBatchMAC(key []byte) *batchMAC {
	key = append([]byte(nil), key...)
	return &batchMAC{sync.Pool{New: func() any { return &macState{hash: hmac.New(sha256.New, key)} }}}
}

// sum returns the MAC of the row that b and body make.
func (m *batchMAC) sum(b batch, body []byte) []byte {
	s := m.states.Get().(*macState)
	defer m.states.Put(s)
	head := appendFramed(s.head[:0], []byte(batchDomain))
	head = appendFramed(head, b.stream[:])
	for _, n := range [4]int64{b.seq, b.part, b.ts, b.n} {
		head = binary.BigEndian.AppendUint32(head, 8)
		head = binary.BigEndian.AppendUint64(head, uint64(n))
	}
	s.head = binary.BigEndian.AppendUint32(head, uint32(len(body)))
	s.hash.Reset()
	s.hash.Write(s.head)
	s.hash.Write(body)
	return s.hash.Sum(make([]byte, 0, sha256.Size))
}

func appendFramed(b, value []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(value))), value...)
}

var errMAC = errors.New("its row does not bear the MAC of this platform's key: it was added or changed by somebody who does not have the key, or the key is another one")

// check returns errMAC when mac is not that of the row.
func (m *batchMAC) check(b batch, body, mac []byte) error {
	if !hmac.Equal(m.sum(b, body), mac) {
		return errMAC
	}
	return nil
}
