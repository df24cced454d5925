package revoke

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/approve"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/job"
)

// bulkWorld is a world in which jobs run.
type bulkWorld struct {
	*world
	bulk    *Bulk
	jobs    *job.Service
	approve *approve.Service
}

func newBulkWorld(t testing.TB, askAbove int) *bulkWorld {
	t.Helper()
	w := &bulkWorld{world: newWorld(t)}
	must(t, w.world.DB.Migrate(t.Context(), audit.Schema(), approve.Schema(), job.Schema()))
	d, clock := w.world.DB, w.world.Now
	w.approve = approve.New(approve.Deps{DB: d, Audit: w.log, Access: w.world.Access, Now: clock})
	w.jobs = job.New(job.Deps{DB: d, Audit: w.log, Access: w.world.Access, Approve: w.approve, Now: clock})
	w.bulk = NewBulk(w.world.Service, w.jobs, askAbove)
	for _, worker := range w.bulk.Workers() {
		w.jobs.Register(worker)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan struct{})
	go func() { defer close(ended); _ = w.jobs.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return w
}

// sound verifies the record with the jobs.
func (w *bulkWorld) sound(t testing.TB) {
	t.Helper()
	report, err := w.log.Verify(t.Context(), audit.VerifyOptions{Checkers: []audit.Checker{w.Devices.Checker(), w.CA.Checker(), w.Checker(), w.jobs.Checker(), w.approve.Checker()}})
	must(t, err)
	for _, f := range report.Findings {
		t.Errorf("verification: %s", f)
	}
}

func (w *bulkWorld) until(t testing.TB, j job.Job, what string, pass func(job.Job) bool) job.Job {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		now, err := w.jobs.Get(t.Context(), admin, j.ID)
		must(t, err)
		if pass(now) {
			return now
		}
		if time.Now().After(deadline) || now.State.Ended() {
			t.Fatalf("waiting for %s: the job is %s, ready %v, %d of %d: %s", what, now.State, now.Ready, now.Handled(), now.Total, now.Note)
		}
	}
}

func standsAt(s job.State) func(job.Job) bool { return func(j job.Job) bool { return j.State == s } }

// grouped adds n devices of a group, each with a certificate.
func (w *bulkWorld) grouped(t testing.TB, group string, n int) (all []*ca.Certificate) {
	t.Helper()
	for i := range n {
		d, err := w.Devices.Add(t.Context(), admin, device.Spec{Name: fmt.Sprintf("%s-%d", group, i), Profile: "device", Group: group, Tags: map[string]string{"half": fmt.Sprint(i % 2)}})
		must(t, err)
		all = append(all, w.issue(t, d.ID, nil))
	}
	return all
}

func (w *bulkWorld) revoked(t testing.TB, c *ca.Certificate) bool {
	t.Helper()
	_, is, err := w.Status(t.Context(), c.Serial[:])
	must(t, err)
	return is
}

func TestAFilterRevokesWhatItFitsAndNothingElse(t *testing.T) {
	w := newBulkWorld(t, -1)
	here, there := w.grouped(t, "here", 30), w.grouped(t, "there", 5)
	here = append(here, w.issue(t, here[3].Device, here[3].Serial[:])) // renewed: the old one is good until the new one was used
	here = append(here, w.issue(t, here[4].Device, nil))               // got by a token: no slot leads to the old one
	_, err := w.Certificate(t.Context(), operator, here[7].Serial[:], Superseded)
	must(t, err)
	w.now.Add(1)
	j, err := w.bulk.RevokeMany(t.Context(), operator, Filter{Group: "here"}, How{Reason: KeyCompromise, Undo: time.Minute})
	must(t, err)
	j = w.until(t, j, "the preview", func(j job.Job) bool { return j.Ready })
	if j.State != job.Draft || j.Total != 31 || len(j.Sample) != job.SampleMost || !strings.Contains(j.Sample[0], "device, of device") {
		t.Errorf("the preview: got %s, %d, %q; want a draft of 31", j.State, j.Total, j.Sample)
	}
	w.now.Add(1)
	later := w.issue(t, here[5].Device, here[5].Serial[:]) // issued after the look: not meant
	_, err = w.jobs.Start(t.Context(), operator, j.ID)
	must(t, err)
	if w.until(t, j, "the time to think", standsAt(job.Scheduled)); w.revoked(t, here[0]) {
		t.Error("something was revoked in the time to think better of it")
	}
	_, err = w.Certificate(t.Context(), operator, here[9].Serial[:], Superseded) // by somebody else meanwhile
	must(t, err)
	w.now.Add(60)
	j = w.until(t, j, "the end", standsAt(job.Done))
	if j.Done != 30 || j.Skipped != 1 || j.Failed != 0 {
		t.Errorf("got %d done, %d skipped, %d failed; want 30, 1, 0", j.Done, j.Skipped, j.Failed)
	}
	for i, c := range here {
		if !w.revoked(t, c) {
			t.Errorf("certificate %d is not revoked", i)
		}
	}
	for _, c := range append(there, later) {
		if w.revoked(t, c) {
			t.Errorf("certificate %x is revoked", c.Serial)
		}
	}
	l := w.crl(t, "devices")
	if len(l.RevokedCertificateEntries) != 32 {
		t.Errorf("the list has %d entries, want 32", len(l.RevokedCertificateEntries))
	}
	if e := entryOf(l, here[0].Serial[:]); e == nil || e.ReasonCode != int(KeyCompromise) {
		t.Errorf("the entry of one: %+v", e)
	}
	w.sound(t)
}

func TestFiltersOfCertificates(t *testing.T) {
	w := newBulkWorld(t, -1)
	all := append(w.grouped(t, "a", 6), w.grouped(t, "b", 4)...)
	w.now.Add(1)
	for _, row := range []struct {
		f    Filter
		want int64
	}{
		{Filter{Everything: true}, 10},
		{Filter{Issuer: "devices", Everything: true}, 10},
		{Filter{Profile: "device", Everything: true}, 10},
		{Filter{Group: "a", Tag: "half=1"}, 3},
		{Filter{Tag: "half=0"}, 5},
		{Filter{State: "enrolled", Group: "b"}, 4},
		{Filter{Group: "b", Issuer: "devices", Profile: "device"}, 4},
	} {
		j, err := w.bulk.RevokeMany(t.Context(), operator, row.f, How{})
		must(t, err)
		j = w.until(t, j, "the preview of "+row.f.String(), func(j job.Job) bool { return j.Ready })
		if j.Total != row.want {
			t.Errorf("%s: found %d, want %d", row.f, j.Total, row.want)
		}
		_, err = w.jobs.Cancel(t.Context(), operator, j.ID)
		must(t, err)
	}
	for _, row := range []struct {
		f    Filter
		text string
	}{
		{Filter{}, "everything: this filter fits everything"},
		{Filter{Profile: "nope"}, "there is no profile"},
		{Filter{Issuer: "nope"}, "issuer: "},
		{Filter{State: "nope"}, "state: "},
	} {
		if _, err := w.bulk.RevokeMany(t.Context(), operator, row.f, How{}); !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), row.text) {
			t.Errorf("%+v: got %v, want %q", row.f, err, row.text)
		}
	}
	// A filter that turns out to fit all there is.
	for _, f := range []Filter{{Issuer: "devices"}, {Profile: "device"}, {State: "enrolled"}} {
		j, err := w.bulk.RevokeMany(t.Context(), operator, f, How{Start: true})
		must(t, err)
		for deadline := time.Now().Add(time.Minute); !j.State.Ended(); time.Sleep(5 * time.Millisecond) {
			j, err = w.jobs.Get(t.Context(), admin, j.ID)
			must(t, err)
			if time.Now().After(deadline) {
				t.Fatal("the job does not end")
			}
		}
		if j.State != job.Failed || !strings.Contains(j.Note, "fits all certificates there are (10)") {
			t.Errorf("%s: got %s, %q", f, j.State, j.Note)
		}
	}
	if _, err := w.bulk.RevokeMany(t.Context(), auditor, Filter{Group: "a"}, How{}); !errs.Is(err, errs.Denied) {
		t.Errorf("an auditor: got %v", err)
	}
	for _, c := range all {
		if w.revoked(t, c) {
			t.Fatal("a look revoked something")
		}
	}
	w.sound(t)
}

func TestAFileOfSerialNumbers(t *testing.T) {
	w := newBulkWorld(t, 2)
	all := w.grouped(t, "a", 4)
	file := func(lines ...string) (job.Job, error) {
		return w.bulk.RevokeFile(t.Context(), operator, strings.NewReader(strings.Join(lines, "\r\n")), "batch.txt", How{Reason: KeyCompromise, Start: true})
	}
	serial := func(i int) string { return fmt.Sprintf("%x", all[i].Serial) }
	unknown := "41" + serial(0)[2:12] + strings.Repeat("0", 20)
	_, err := file("# of the bad batch", serial(0), "nonsense", unknown, "", "1234", serial(1))
	want := "batch.txt:3: \"nonsense\" is no serial number in hexadecimal digits\nbatch.txt:6: 1234 is not a serial number of this installation\n" +
		"batch.txt:4: there is no certificate with the serial number " + unknown + "\nnothing was done"
	if !errs.Is(err, errs.Invalid) || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
	if jobs, _, err := w.jobs.List(t.Context(), admin, job.Filter{}); err != nil || len(jobs) != 0 {
		t.Errorf("a wrong file made %d jobs, %v", len(jobs), err)
	}
	if _, err := file("", "# nothing"); !errs.Is(err, errs.Invalid) {
		t.Errorf("an empty file: got %v", err)
	}
	j, err := file(strings.ToUpper(serial(0)), serial(1), serial(1))
	must(t, err)
	if j = w.until(t, j, "the end", standsAt(job.Done)); j.Done != 2 || !w.revoked(t, all[0]) || !w.revoked(t, all[1]) || w.revoked(t, all[2]) {
		t.Errorf("got %d done", j.Done)
	}
	if _, err := file(serial(0)); !errs.Is(err, errs.Conflict) || !strings.Contains(err.Error(), "nothing to do") {
		t.Errorf("a file of revoked ones: got %v", err)
	}
	// Above the count a second person must agree.
	d, err := w.Devices.Add(t.Context(), admin, device.Spec{Name: "one-more", Profile: "device"})
	must(t, err)
	more := w.issue(t, d.ID, nil)
	j, err = file(serial(2), serial(3), fmt.Sprintf("%x", more.Serial))
	must(t, err)
	w.until(t, j, "the wait", standsAt(job.Waiting))
	list, err := w.approve.List(t.Context(), auditor, false, 0)
	must(t, err)
	if len(list) != 1 || list[0].Summary != "revoke the certificates of batch.txt (keyCompromise): 3 certificates" {
		t.Fatalf("got %+v", list)
	}
	if _, err := w.approve.Grant(t.Context(), operator, list[0].ID); !errs.Is(err, errs.Denied) {
		t.Errorf("by whoever asked: got %v", err)
	}
	other := operator
	other.ID = "dd"
	_, err = w.approve.Grant(t.Context(), other, list[0].ID)
	must(t, err)
	if j = w.until(t, j, "the end", standsAt(job.Done)); j.Done != 3 || !w.revoked(t, more) {
		t.Errorf("got %d done", j.Done)
	}
	w.sound(t)
}

func TestManyDevicesAreMoved(t *testing.T) {
	w := newBulkWorld(t, -1)
	here, there := w.grouped(t, "here", 8), w.grouped(t, "there", 2)
	_, err := w.Device(t.Context(), operator, here[0].Device, device.Lose, Unspecified)
	must(t, err)
	j, err := w.bulk.MoveMany(t.Context(), operator, Filter{Group: "here"}, device.Suspend, How{})
	must(t, err)
	if j = w.until(t, j, "the preview", func(j job.Job) bool { return j.Ready }); j.Total != 7 {
		t.Errorf("found %d, want the 7 that can be suspended", j.Total)
	}
	_, err = w.Device(t.Context(), operator, here[1].Device, device.Suspend, Unspecified) // by somebody else meanwhile
	must(t, err)
	_, err = w.jobs.Start(t.Context(), operator, j.ID)
	must(t, err)
	if j = w.until(t, j, "the end", standsAt(job.Done)); j.Done != 6 || j.Failed != 1 {
		t.Errorf("got %d done, %d failed", j.Done, j.Failed)
	}
	results, err := w.jobs.Results(t.Context(), auditor, j.ID, 0, 0)
	must(t, err)
	if len(results) != 1 || results[0].OK || !strings.Contains(results[0].Text, "suspended cannot be moved") {
		t.Errorf("got %+v", results)
	}
	for i, c := range append(here, there...) {
		if on := w.revoked(t, c); on != (i < 8) {
			t.Errorf("certificate %d: revoked or on hold %v", i, on)
		}
	}
	j, err = w.bulk.MoveMany(t.Context(), admin, Filter{Group: "here", State: "suspended"}, device.Resume, How{Start: true})
	must(t, err)
	if j = w.until(t, j, "the end", standsAt(job.Done)); j.Done != 7 || w.revoked(t, here[5]) || !w.revoked(t, here[0]) {
		t.Errorf("resumed: got %d done", j.Done)
	}
	w.sound(t)
}

// TestOperatorsAreLeftOut: nobody locks himself out by the way.
func TestOperatorsAreLeftOut(t *testing.T) {
	b := NewBulk(newWorld(t).Service, nil, 0)
	for profile, want := range map[string]bool{"device": false, "gateway": false, "operator": true, "operator-admin": true, "auditor": true, "server": true} {
		if got := b.privileged(profile); got != want {
			t.Errorf("%s: got %v, want %v", profile, got, want)
		}
	}
}

// TestACompromisedKeyTakesItsOtherCertificatesAlong: a renewal in the time to think may have kept the key.
func TestACompromisedKeyTakesItsOtherCertificatesAlong(t *testing.T) {
	w := newBulkWorld(t, -1)
	d, err := w.Devices.Add(t.Context(), admin, device.Spec{Name: "pump", Profile: "device"})
	must(t, err)
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	first, claim := w.prepareKey(t, d.ID, nil, k)
	must(t, w.record(t.Context(), first, claim))
	file := strings.NewReader(fmt.Sprintf("%x", first.Serial))
	j, err := w.bulk.RevokeFile(t.Context(), operator, file, "one.txt", How{Reason: KeyCompromise, Undo: time.Minute, Start: true})
	must(t, err)
	w.until(t, j, "the time to think", standsAt(job.Scheduled))
	second, claim := w.prepareKey(t, d.ID, first.Serial[:], k)
	must(t, w.record(t.Context(), second, claim))
	third := w.issue(t, d.ID, second.Serial[:]) // with another key
	w.now.Add(60)
	if j = w.until(t, j, "the end", standsAt(job.Done)); j.Done != 1 || j.Skipped != 0 {
		t.Errorf("got %d done, %d skipped", j.Done, j.Skipped)
	}
	for c, want := range map[*ca.Certificate]bool{first: true, second: true, third: false} {
		if got := w.revoked(t, c); got != want {
			t.Errorf("%x: revoked %v, want %v", c.Serial, got, want)
		}
	}
	w.sound(t)
}
