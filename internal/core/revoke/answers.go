package revoke

import (
	"sync"
)

const (
	maxAnswers  = 20_000 // answers in the cache: about 12 MB
	maxVariants = 8      // answers about one certificate: four hash algorithms, each with and without parameters
)

// answers is the cache of signed OCSP answers: questions without a nonce for one certificate that we issued. Strangers choose what is in it,
// so it is bounded, and what nobody asks again goes when room is needed.
type answers struct {
	mu         sync.Mutex
	bySerial   map[string]map[string]*Answer // serial, then CertID as asked; guarded by mu
	n          int                           // guarded by mu
	generation uint64                        // grows with every purge; guarded by mu
}

// get returns the answer to a question that may still be given at now, and what put needs.
func (a *answers) get(serial, id []byte, now int64) (answer *Answer, generation uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if answer = a.bySerial[string(serial)][string(id)]; answer != nil && now >= answer.Refresh {
		answer = nil
	}
	return answer, a.generation
}

// put keeps an answer for which the database was read after get had returned generation. When anything was purged since, the reading may be
// older than what was purged, and the answer is not kept.
func (a *answers) put(serial, id []byte, answer *Answer, generation uint64, now int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if generation != a.generation {
		return
	}
	if a.bySerial == nil {
		a.bySerial = map[string]map[string]*Answer{}
	}
	if a.n >= maxAnswers {
		a.makeRoom(now)
	}
	variants := a.bySerial[string(serial)]
	if variants == nil {
		variants = map[string]*Answer{}
		a.bySerial[string(serial)] = variants
	}
	if variants[string(id)] == nil {
		if len(variants) == maxVariants {
			return
		}
		a.n++
	}
	variants[string(id)] = answer
}

// makeRoom drops the answers about some certificates, in the accidental order of the map: outdated ones among the first hundred, else one.
func (a *answers) makeRoom(now int64) {
	looked, oldest := 0, ""
	for serial, variants := range a.bySerial {
		if oldest == "" {
			oldest = serial
		}
		for _, answer := range variants {
			if now >= answer.Refresh {
				a.drop(serial)
				break
			}
		}
		if looked++; looked == 100 {
			break
		}
	}
	if a.n >= maxAnswers {
		a.drop(oldest)
	}
}

func (a *answers) drop(serial string) {
	a.n -= len(a.bySerial[serial])
	delete(a.bySerial, serial)
}

// purge drops the answers about a certificate, also those that are being made.
func (a *answers) purge(serial []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drop(string(serial))
	a.generation++
}

// clear drops everything.
func (a *answers) clear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bySerial, a.n = nil, 0
	a.generation++
}

func (a *answers) size() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.n
}
