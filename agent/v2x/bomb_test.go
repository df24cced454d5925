package v2x

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"runtime"
	"testing"
	"time"

	"mooring/wire/cocoon"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
	"mooring/wire/trustlist"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// bombs are octets that announce more than there is, or lie in each other without end: few of them, or as many as are taken.
func bombs(t testing.TB) map[string][]byte {
	t.Helper()
	in := unhex(t, "03810040") // a message, signed, whose payload is a message
	return map[string][]byte{
		"depth, 64 KiB":              bytes.Repeat(in, its.MaxRequest/4),
		"depth, 4 MiB":               bytes.Repeat(in, its.MaxTrustList/4),
		"depth, one too many":        bytes.Repeat(in, 20),
		"length":                     unhex(t, "038084ffffffff"),
		"length of 64 bits":          unhex(t, "038088ffffffffffffffff"),
		"number":                     unhex(t, "038204ffffffff80"),
		"number of 64 bits":          unhex(t, "038208ffffffffffffffff80"),
		"number, then 64 KiB":        append(unhex(t, "038204ffffffff80"), make([]byte, its.MaxRequest-16)...),
		"length of the length":       append(unhex(t, "0380ff"), bytes.Repeat([]byte{0xff}, 127)...),
		"content of TS 102 941":      unhex(t, "0185000001028404ffffffff"),
		"the same, longer":           unhex(t, "010185000001028404ffffffff"),
		"certificates of a list":     append(unhex(t, "018600000000000001040000ffff"), bytes.Repeat([]byte{0x80, 0x80}, 64)...),
		"permissions of a ticket":    append(unhex(t, "800300810008830000000000000000018400010104ffffffff"), bytes.Repeat([]byte{0x80, 1, 0x24}, 50)...),
		"certificates of the signer": append(unhex(t, "0381004003800000240000000000000000008104ffffffff"), bytes.Repeat([]byte{0x80, 3}, 50)...),
	}
}

// decoders are all ways in for octets of strangers.
func decoders(t testing.TB) map[string]func([]byte) error {
	t.Helper()
	w := newWorld(t)
	k := w.speaker(t, TalkOptions{}, w.ticket(t, w.aa, nil))
	var holder spdu.Holder
	_, session, err := scr.Seal(rand.Reader, its.Unsecured(nil), w.aa.cert)
	if err != nil {
		t.Fatal(err)
	}
	at := w.at()
	all := map[string]func([]byte) error{
		"certificate":      func(b []byte) error { _, err := its.ParseCertificate(b); return err },
		"message":          func(b []byte) error { _, err := its.ParseData(b, its.MaxTrustList); return err },
		"management":       func(b []byte) error { _, err := its.ParseManagement(b); return err },
		"SCMS":             func(b []byte) error { _, err := its.ParseScms(b); return err },
		"request":          func(b []byte) error { _, err := scr.Open(b, holder); return err },
		"answer":           func(b []byte) error { _, _, err := scr.OpenAnswer(b, session, its.EnrolmentResponse); return err },
		"trust list":       func(b []byte) error { _, err := trustlist.ReadCTL(b, w.root.cert, at); return err },
		"revocation list":  func(b []byte) error { _, err := trustlist.ReadCRL(b, w.root.cert, at); return err },
		"link":             func(b []byte) error { _, err := trustlist.ReadLink(b); return err },
		"list of managers": func(b []byte) error { _, err := trustlist.ReadECTL(b, w.root.cert, at); return err },
		"butterfly keys":   func(b []byte) error { _, err := cocoon.ParseRequests(b); return err },
		"archive":          func(b []byte) error { _, err := cocoon.ParseArchive(b); return err },
		"heard":            func(b []byte) error { _, err := k.Hear(b); return err },
	}
	for _, name := range its.Names() {
		all["as "+name] = func(b []byte) error { return coer.Unmarshal(b, its.Make(name)) }
	}
	return all
}

// ENC-6: bombs cost at most 64 kB at each of them, less than a millisecond, few allocations, and few steps: whatever is read consumes an octet, and they are refused before many are read, or for
// their length alone.
func TestENC6Bombs(t *testing.T) {
	const most, allocations, steps = 64 << 10, 400, 2048
	for name, decode := range decoders(t) {
		for kind, b := range bombs(t) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := decode(b)
			runtime.ReadMemStats(&after)
			if cost := after.TotalAlloc - before.TotalAlloc; cost > most || after.Mallocs-before.Mallocs > allocations {
				t.Errorf("%s, read as %s: it took %d octets in %d pieces", kind, name, cost, after.Mallocs-before.Mallocs)
			}
			if took := quickest(decode, b); took > time.Millisecond {
				t.Errorf("%s, read as %s: it took %v", kind, name, took)
			}
			var fault *coer.Error
			if err == nil || errors.As(err, &fault) && fault.Offset > steps && fault.Offset != its.MaxRequest {
				t.Errorf("%s, read as %s: %v", kind, name, err)
			}
		}
	}
}

// quickest is how long something takes that is tried until it takes less than a millisecond, or often: who waits for a processor does not compute.
func quickest(decode func([]byte) error, b []byte) (took time.Duration) {
	for range 100 {
		began := time.Now()
		_ = decode(b)
		if took = time.Since(began); took < time.Millisecond {
			break
		}
	}
	return took
}

// BenchmarkBombs fails where one takes more than a millisecond in any way that it is read, at the best of several tries.
func BenchmarkBombs(b *testing.B) {
	all := decoders(b)
	for kind, octets := range bombs(b) {
		b.Run(kind, func(b *testing.B) {
			best := map[string]time.Duration{}
			for b.Loop() {
				for name, decode := range all {
					began := time.Now()
					if decode(octets) == nil {
						b.Fatalf("it is read as %s", name)
					}
					if took := time.Since(began); best[name] == 0 || took < best[name] {
						best[name] = took
					}
				}
			}
			var slowest string
			for name, took := range best {
				if took > best[slowest] {
					slowest = name
				}
			}
			b.ReportMetric(float64(best[slowest].Nanoseconds()), "ns/slowest")
			if best[slowest] > time.Millisecond {
				b.Errorf("as %s it takes %v", slowest, best[slowest])
			}
		})
	}
}
