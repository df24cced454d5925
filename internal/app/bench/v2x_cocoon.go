package bench

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"mooring/internal/core/v2x/aa"
	"mooring/internal/core/v2x/ea"
	"mooring/internal/core/v2x/ra"
	"mooring/wire/butterfly"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
)

// cocoonCase is something that an authority does for tickets of cocoon keys, in this process.
type cocoonCase struct {
	name  string
	once  func(number, i int) error // number is another one each time, i that within the round
	floor func() error              // the primitives of one
}

// cocoonAt is the time of the requests.
const cocoonAt its.Time64 = 700_000_000_000_000

// cocoons measures the expansion of cocoon keys and the answers to requests for their tickets, which happen within one process: CPU time of all workers for one, and how
// much faster two workers are than one, without the time for which other work of the machine kept them waiting. The floors:
//
//	expansion   a multiple of the base point, a sum of points, a point encoded
//	private     a point decoded, a multiple of the base point, a sum, a point encoded, the signature of the ticket, a key wrapped, the signature of the answer
//	compact     the same without the signature of the answer
func (b *v2xBench) cocoons(print func(Line) error) error {
	cases, err := cocoonCases(b.N)
	if err != nil {
		return err
	}
	for _, c := range cases {
		b.say("%s", c.name)
		var samples []sample
		var scales []float64
		for round := range b.Rounds {
			s, scale, err := c.sample(round, b.N)
			if err != nil {
				return err
			}
			samples, scales = append(samples, s), append(scales, scale)
		}
		line := summary(samples)
		line.Bench, line.Case, line.Scale = "v2x", c.name, median(scales)
		if err := print(perCore(line)); err != nil {
			return err
		}
	}
	return nil
}

// perCore says how many one core does in a second.
func perCore(l Line) Line {
	l.PerCore = 1e6 / l.CPU
	return l
}

// sample measures the floor, and then the case with one worker and with one for each core, and again the other way round.
func (c *cocoonCase) sample(round, n int) (s sample, scale float64, err error) {
	var one, several, wall, cpu time.Duration
	for turn := range 2 {
		floor, err := costOf(n, c.floor)
		if err != nil {
			return s, 0, err
		}
		s.floor += floor / 2
		for k := range 2 {
			workers := 1
			if k != turn {
				workers = min(2, runtime.GOMAXPROCS(0))
			}
			from := (4*round + 2*turn + k) * n
			used, began := cpuSelf(), time.Now()
			busy, err := byWorkers(workers, n, func(i int) error { return c.once(from+i, i) })
			if err != nil {
				return s, 0, err
			}
			if k == turn {
				one += busy
				continue
			}
			several, wall, cpu = several+busy, wall+time.Since(began), cpu+cpuSelf()-used
		}
	}
	s.n, s.rate, s.server = 2*n, float64(2*n)/wall.Seconds(), micros(cpu, 2*n)
	return s, one.Seconds() / several.Seconds(), nil
}

// byWorkers has workers do n things, and returns how long that took, without the time for which other work of the machine kept the workers from their processors: it
// says nothing about how they get along with each other.
func byWorkers(workers, n int, each func(i int) error) (busy time.Duration, err error) {
	var next atomic.Int64
	failed := make([]error, workers)
	took := make([]time.Duration, workers)
	var all sync.WaitGroup
	for k := range workers {
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			kept, began := keptWaiting(), time.Now()
			for i := int(next.Add(1)) - 1; i < n && failed[k] == nil; i = int(next.Add(1)) - 1 {
				failed[k] = each(i)
			}
			took[k] = time.Since(began) - keptWaiting() + kept
		})
	}
	all.Wait()
	for _, t := range took {
		busy += t / time.Duration(workers)
	}
	return busy, errors.Join(failed...)
}

// keptWaiting is how long the thread that asks wanted a processor and had none. It is 0 where the system does not tell.
func keptWaiting() time.Duration {
	text, err := os.ReadFile("/proc/thread-self/schedstat")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) != 3 {
		return 0
	}
	n, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return time.Duration(n)
}

func cocoonCases(n int) ([]cocoonCase, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	by, err := cocoonAuthority(key)
	if err != nil {
		return nil, err
	}
	responder, err := aa.NewResponder(by, scr.Signature(key), rand.Reader)
	if err != nil {
		return nil, err
	}
	floors, err := cocoonFloors(key)
	if err != nil {
		return nil, err
	}
	unified, err := expansion(butterfly.Unified)
	if err != nil {
		return nil, err
	}
	cases := []cocoonCase{{name: "cocoon expansion", floor: floors.expansion, once: func(number, _ int) error {
		_, err := unified.Request(uint32(number)>>8, uint32(number)&0xff, validity(), its.Time32(cocoonAt/1e6))
		return err
	}}}
	for _, c := range []struct {
		name    string
		variant butterfly.Variant
		floor   func() error
	}{{"private butterfly response", butterfly.Unified, floors.private}, {"compact unified response", butterfly.CompactUnified, floors.compact}} {
		e, err := expansion(c.variant)
		if err != nil {
			return nil, err
		}
		requests := make([]its.RaAcaCertRequest, n)
		for i := range requests {
			if requests[i], err = e.Request(1, uint32(i), validity(), its.Time32(cocoonAt/1e6)); err != nil {
				return nil, err
			}
		}
		cases = append(cases, cocoonCase{name: c.name, floor: c.floor, once: func(_, i int) error { _, err := responder.Respond(&requests[i], cocoonAt); return err }})
	}
	return cases, nil
}

func validity() its.ValidityPeriod {
	return its.ValidityPeriod{Start: its.Time32(cocoonAt / 1e6), Duration: its.Duration{Choice: its.Hours, Value: 168}}
}

// expansion is that of a vehicle.
func expansion(v butterfly.Variant) (*ra.Expansion, error) {
	k := butterfly.CaterpillarKeys{Variant: v}
	var err error
	if k.SigningKey, err = butterfly.RandomScalar(rand.Reader); err != nil {
		return nil, err
	}
	if _, err := rand.Read(k.SigningExpansion[:]); err != nil {
		return nil, err
	}
	return ra.NewExpansion(k.Public(), []its.PsidSsp{its.Bitmap(its.PsidCAM, 1, 0, 0), its.Bitmap(its.PsidDENM, 1, 0, 0, 0)}, false), nil
}

// cocoonAuthority is the certificate of an authorization authority that answers compact unified requests too.
func cocoonAuthority(key *ecdsa.PrivateKey) (*its.Certificate, error) {
	public, err := scr.VerificationKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	x := &its.Certificate{Issuer: its.IssuerIdentifier{Choice: its.IssuerSelf}, ToBeSigned: its.ToBeSignedCertificate{Id: its.Name("Bench AA"),
		ValidityPeriod: its.ValidityPeriod{Start: its.Time32(cocoonAt/1e6) - 1000, Duration: its.Duration{Choice: its.Years, Value: 5}},
		AppPermissions: []its.PsidSsp{its.Bitmap(its.PsidSCR, 1, 0x32)}, CertIssuePermissions: ea.Permissions(),
		VerifyKeyIndicator: its.VerificationKeyIndicator{VerificationKey: public}, Flags: coer.Some(its.UsesCubk)}}
	digest, err := x.Input(nil)
	if err != nil {
		return nil, err
	}
	signature, err := scr.Signature(key)(digest)
	x.Signature = coer.Some(signature)
	return x, err
}

type floorsOfCocoons struct{ expansion, private, compact func() error }

// cocoonFloors are the primitives, with fixed scalars and points.
func cocoonFloors(key *ecdsa.PrivateKey) (f floorsOfCocoons, err error) {
	scalar, err := butterfly.RandomScalar(rand.Reader)
	if err != nil {
		return f, err
	}
	caterpillar := scalar.Public()
	octets := caterpillar.Bytes()
	digest := sha256.Sum256([]byte("a ticket"))
	expand := func() error {
		if octets := butterfly.Randomise(caterpillar, scalar).Bytes(); len(octets) != 33 {
			return errors.New("a point has another size")
		}
		return nil
	}
	sign := func() error { _, err := ecdsa.SignASN1(rand.Reader, key, digest[:]); return err }
	decode := func() error { _, err := butterfly.NewPoint(octets); return err }
	wrap := func() error { _, err := butterfly.Wrap(rand.Reader, caterpillar, [16]byte{1}, nil); return err }
	return floorsOfCocoons{expansion: expand, private: inTurn(decode, expand, sign, wrap, sign), compact: inTurn(decode, expand, sign, wrap)}, nil
}

// inTurn does one thing after the other.
func inTurn(steps ...func() error) func() error {
	return func() error {
		for _, step := range steps {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	}
}
