package app_test

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/job"
	"mooring/internal/core/key"
	"mooring/internal/core/revoke"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

// TestCrashDuringAJob kills the server again and again while a job revokes a fleet, and holds it to its promise: no certificate is left out or
// revoked twice, the counts are right, the record verifies, and every list is signed and says no less than the one before. MOORING_CRASH_ROUNDS
// says how often; 3 is the default.
func TestCrashDuringAJob(t *testing.T) {
	rounds := 3
	if text := os.Getenv("MOORING_CRASH_ROUNDS"); text != "" {
		var err error
		rounds, err = strconv.Atoi(text)
		must(t, err)
	}
	c, made := apptest.Init(t, &apptest.Clock{}, &apptest.Log{}, nil)
	v := &victims{numbers: map[int64]*big.Int{}}
	v.enrol(t, c, (rounds+1)*job.ChunkMost+17)
	v.order(t, c)
	for round := range rounds {
		s := startServer(t, made.Dir)
		v.killInTheMiddle(t, s, round)
		v.check(t, made.Dir, fmt.Sprintf("round %d", round+1))
	}
	s := startServer(t, made.Dir)
	v.await(t, s, "the end", func(j v1.Job) bool { return j.State == "done" })
	s.kill()
	last := v.check(t, made.Dir, "at the end")
	if last.State != job.Done || last.Done != int64(len(v.serials)) || last.Skipped != 0 || last.Failed != 0 {
		t.Errorf("the job is %s: %d done, %d skipped, %d failed of %d", last.State, last.Done, last.Skipped, last.Failed, len(v.serials))
	}
}

// victims are the certificates that a job revokes, and what was seen of it.
type victims struct {
	serials  []string
	job      job.ID
	handled  int64
	numbers  map[int64]*big.Int // the highest number of each list, by shard
	unharmed string             // of the device that the filter does not fit
}

// enrol gets n devices of a group a certificate, and one more of another.
func (v *victims) enrol(t *testing.T, c *conf.Config, n int) {
	t.Helper()
	p, err := app.Open(t.Context(), app.Options{Config: c})
	must(t, err)
	defer func() { must(t, p.Close()) }()
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = p.Enrol.Run(ctx) })
	defer running.Wait()
	defer stop()
	var mu sync.Mutex
	var workers sync.WaitGroup
	next := make(chan int)
	for range 32 {
		workers.Go(func() {
			for i := range next {
				group := "doomed"
				if i == 0 {
					group = "spared"
				}
				serial, err := enrolled(ctx, p, fmt.Sprintf("meter-%d", i), group)
				mu.Lock()
				switch {
				case err != nil:
					t.Errorf("enrolling: %v", err)
				case i == 0:
					v.unharmed = serial
				default:
					v.serials = append(v.serials, serial)
				}
				mu.Unlock()
			}
		})
	}
	for i := range n + 1 {
		next <- i
	}
	close(next)
	workers.Wait()
	if len(v.serials) != n {
		t.Fatalf("%d of %d were enrolled", len(v.serials), n)
	}
}

func enrolled(ctx context.Context, p *app.Platform, name, group string) (string, error) {
	d, err := p.Devices.Add(ctx, apptest.Operator(), device.Spec{Name: name, Profile: "device", Group: group})
	if err != nil {
		return "", err
	}
	signer, err := key.New(key.P256)
	if err != nil {
		return "", err
	}
	a, err := p.Enrol.Direct(ctx, apptest.Operator(), d.ID, signer)
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(a.Certificate.Serial[:]), nil
}

// order makes the job, so that it begins as soon as a server runs.
func (v *victims) order(t *testing.T, c *conf.Config) {
	t.Helper()
	p, err := app.Open(t.Context(), app.Options{Config: c})
	must(t, err)
	defer func() { must(t, p.Close()) }()
	bulk := revoke.NewBulk(p.Revoke, p.Jobs, -1)
	j, err := bulk.RevokeMany(t.Context(), apptest.Operator(), revoke.Filter{Group: "doomed"}, revoke.How{Reason: revoke.KeyCompromise, Start: true})
	must(t, err)
	v.job = j.ID
}

// killInTheMiddle kills the server soon after it has done a step, at another moment each time: between two steps, in one, while lists are
// signed, while items are looked for.
func (v *victims) killInTheMiddle(t *testing.T, s *server, round int) {
	t.Helper()
	v.await(t, s, "a step", func(j v1.Job) bool {
		return round == 0 && j.Total > 0 || j.Done+j.Skipped+j.Failed > v.handled || j.State == "done"
	})
	time.Sleep(time.Duration(round*17%60) * time.Millisecond)
	s.kill()
}

// await asks the server about the job until it passes.
func (v *victims) await(t *testing.T, s *server, what string, pass func(v1.Job) bool) {
	t.Helper()
	c := client.New(s.addresses.Socket)
	defer c.Close()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(2 * time.Millisecond) {
		j, err := c.Job(t.Context(), v.job.String())
		must(t, err)
		if pass(j) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s: the job is %s, %d of %d: %s", what, j.State, j.Done, j.Total, j.Note)
		}
	}
}

// check opens the installation of the killed server and compares job, revocations, record and lists.
func (v *victims) check(t *testing.T, dir, when string) job.Job {
	t.Helper()
	p, err := load(t.Context(), dir, app.Open)
	must(t, err)
	defer func() { must(t, p.Close()) }()
	report, err := p.Audit.Verify(t.Context(), audit.VerifyOptions{Checkers: p.Checkers()})
	must(t, err)
	for _, found := range report.Findings {
		t.Errorf("%s: the record does not verify: %s", when, found)
	}
	j, err := p.Jobs.Get(t.Context(), apptest.Operator(), v.job)
	must(t, err)
	if j.Handled() < v.handled {
		t.Errorf("%s: the job went back from %d to %d", when, v.handled, j.Handled())
	}
	v.handled = j.Handled()
	recorded := v.recorded(t, p, when)
	revoked := 0
	for _, serial := range v.serials {
		raw, err := hex.DecodeString(serial)
		must(t, err)
		_, is, err := p.Revoke.Status(t.Context(), raw)
		must(t, err)
		if is {
			revoked++
		}
		if is != (recorded[serial] == 1) {
			t.Errorf("%s: %s: revoked %v, entries about it %d", when, serial, is, recorded[serial])
		}
	}
	if int64(revoked) != j.Done || recorded[v.unharmed] != 0 {
		t.Errorf("%s: %d are revoked, the job says %d; of the device that was not meant %d", when, revoked, j.Done, recorded[v.unharmed])
	}
	if listed := v.lists(t, p, when); j.State == job.Done && listed != len(v.serials) {
		t.Errorf("%s: the lists have %d entries, want %d", when, listed, len(v.serials))
	}
	t.Logf("%s: the job is %s, %d of %d", when, j.State, j.Handled(), j.Total)
	return j
}

// recorded counts the entries of revocations by serial.
func (v *victims) recorded(t *testing.T, p *app.Platform, when string) map[string]int {
	t.Helper()
	count := map[string]int{}
	for after := int64(0); ; {
		page, err := p.Audit.List(t.Context(), apptest.Operator(), audit.Query{After: after, Limit: 1000, Action: "cert.revoke"})
		must(t, err)
		if len(page) == 0 {
			return count
		}
		for _, e := range page {
			after = e.Index + 1
			if count[e.Serial]++; count[e.Serial] > 1 {
				t.Errorf("%s: %s was revoked twice", when, e.Serial)
			}
		}
	}
}

// lists checks every list that there is and returns how many entries they have together.
func (v *victims) lists(t *testing.T, p *app.Platform, when string) (entries int) {
	t.Helper()
	i, err := p.CA.Issuer("devices")
	must(t, err)
	for shard := range int64(max(1, i.Shards())) {
		published, err := p.Revoke.CRL(t.Context(), i.ID(), shard)
		must(t, err)
		raw, err := io.ReadAll(p.Revoke.Content(t.Context(), published))
		must(t, err)
		l, err := x509.ParseRevocationList(raw)
		must(t, err)
		if err := l.CheckSignatureFrom(i.Certificate()); err != nil {
			t.Errorf("%s: the list of shard %d: %v", when, shard, err)
		}
		if before := v.numbers[shard]; before != nil && l.Number.Cmp(before) < 0 {
			t.Errorf("%s: the number of the list of shard %d went back from %s to %s", when, shard, before, l.Number)
		}
		v.numbers[shard] = l.Number
		entries += len(l.RevokedCertificateEntries)
	}
	return entries
}
