package device

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/approve"
	"mooring/internal/core/audit"
	"mooring/internal/core/job"
)

// jobWorld is a world that imports by jobs.
type jobWorld struct {
	*world
	*Importer
	jobs *job.Service
}

func newJobWorld(t testing.TB) *jobWorld {
	t.Helper()
	w := worldOn(t, dbtest.Open(t, audit.Schema(), approve.Schema(), job.Schema(), Schema()))
	began := time.Now()
	clock := func() time.Time { return w.now.Add(time.Since(began)) } // a job that cannot go on waits by it
	decider := access.NewDecider(w.log)
	jobs := job.New(job.Deps{DB: w.db, Audit: w.log, Access: decider, Now: clock, Approve: approve.New(approve.Deps{DB: w.db, Audit: w.log, Access: decider, Now: clock})})
	i := NewImporter(w.Registry, jobs)
	jobs.Register(i.Worker())
	return &jobWorld{w, i, jobs}
}

// run works on jobs until the test ends, or stop is called.
func (w *jobWorld) run(t testing.TB) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan struct{})
	go func() { defer close(ended); _ = w.jobs.Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(stop)
	return stop
}

func (w *jobWorld) ended(t testing.TB, id job.ID) job.Job {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	j, err := w.jobs.Await(ctx, auditor, id, func(j job.Job) bool { return j.State.Ended() })
	if err != nil {
		t.Fatalf("the job is %s, %d of %d, %q: %v", j.State, j.Handled(), j.Total, j.Note, err)
	}
	return j
}

// sound fails the test when the record does not verify with registry and jobs.
func (w *jobWorld) sound(t *testing.T) {
	t.Helper()
	report, err := w.log.Verify(t.Context(), audit.VerifyOptions{Checkers: []audit.Checker{w.Checker(), w.jobs.Checker()}})
	if err != nil || len(report.Findings) > 0 {
		t.Errorf("verify: %v, %v", report.Findings, err)
	}
}

// entry returns the newest entry of an action.
func (w *jobWorld) entry(t *testing.T, action string) audit.Entry {
	t.Helper()
	if err := w.log.Sequence(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, err := w.log.List(t.Context(), auditor, audit.Query{Action: action, Newest: true, Limit: 1})
	if err != nil || len(list) != 1 {
		t.Fatalf("%s: %v, %v", action, list, err)
	}
	return list[0].Entry
}

// TestImportAsAJob: what is accepted is kept before anything is written, and then is written once, with tokens that hold.
func TestImportAsAJob(t *testing.T) {
	w := newJobWorld(t)
	const n = 2*importChunk + 7
	var tokens bytes.Buffer
	file := func() *fleet { return &fleet{n: n, births: true} }
	var last, total int64
	j, report, err := w.Importer.Import(t.Context(), operator, Source{R: file(), Name: "fleet.csv", Format: "csv", Size: 1000, Tokens: &tokens}, func(done, of int64) { last, total = done, of })
	if err != nil || report.Devices != n || j.Total != n || j.Title != "import fleet.csv" || len(j.Sample) != job.SampleMost || j.Sample[0] != "pump-0000001.plant.example, profile sensor, group site-1" {
		t.Fatalf("got %+v, %+v, %v", j, report, err)
	}
	if last == 0 || total == 0 {
		t.Errorf("no progress was told: %d of %d", last, total)
	}
	if w.count(t, "device") != 0 {
		t.Error("devices are there before the job began")
	}
	if e := w.entry(t, "device.import"); e.Detail["job"] != j.ID.String() || e.Detail["rows"] != fmt.Sprint(n) || e.Detail["sha256"] != fmt.Sprintf("%x", report.SHA256) || e.Detail["tokens"] != "true" {
		t.Errorf("the entry says %v", e.Detail)
	}
	secret := strings.Split(strings.Split(tokens.String(), "\n")[1], ",")[1]
	if strings.Contains(j.Params, secret) {
		t.Errorf("a token stands in the job: %s", j.Params)
	}
	_, _, err = w.Importer.Import(t.Context(), operator, Source{R: file(), Name: "again.csv", Format: "csv"}, nil)
	if !errs.Is(err, errs.Conflict) || !strings.Contains(errs.Public(err), "again.csv: this very file is being imported already: job "+j.ID.String()) {
		t.Errorf("the same file at the same time: %v", err)
	}
	w.run(t)
	if j = w.ended(t, j.ID); j.State != job.Done || j.Done != n || j.Failed != 0 || w.count(t, "device") != n || w.count(t, "birth") != n {
		t.Fatalf("the job is %s (%s): %d done, %d failed; %d devices, %d birth certificates", j.State, j.Note, j.Done, j.Failed, w.count(t, "device"), w.count(t, "birth"))
	}
	hash, err := HashToken(secret)
	if d, failed := w.Get(t.Context(), auditor, "pump-0000001.plant.example"); err != nil || failed != nil || d.TokenMatches(hash, w.now.Unix()) != nil {
		t.Errorf("the token of the first device: %v, %v, %v", err, failed, d.TokenMatches(hash, w.now.Unix()))
	}
	_, report, err = w.Importer.Import(t.Context(), operator, Source{R: file(), Name: "fleet.csv", Format: "csv"}, nil)
	if !errs.Is(err, errs.Invalid) || report.Wrong != 2*n {
		t.Errorf("the same file afterwards: %d wrong, %v", report.Wrong, err)
	}
	w.sound(t)
}

// TestImportJobIsRefusedWhole: nothing is made of a file with a mistake, nor by whoever may not.
func TestImportJobIsRefusedWhole(t *testing.T) {
	w := newJobWorld(t)
	for name, try := range map[string]struct {
		by   access.Actor
		file string
		kind errs.Kind
	}{
		"a mistake":    {operator, "name,profile\na,sensor\nb,x\n", errs.Invalid},
		"no right":     {auditor, "name,profile\na,sensor\n", errs.Denied},
		"gives a role": {operator, "name,profile\na,staff\n", errs.Denied},
	} {
		_, report, err := w.Importer.Import(t.Context(), try.by, Source{R: strings.NewReader(try.file), Name: "f", Format: "csv"}, nil)
		if !errs.Is(err, try.kind) || report.Devices != 0 {
			t.Errorf("%s: got %+v, %v", name, report, err)
		}
	}
	_, _, err := w.Importer.Import(t.Context(), operator, Source{R: strings.NewReader("name,profile\na,sensor\n"), Format: "csv", Tokens: fullDisk{}}, nil)
	if !errs.Is(err, errs.Invalid) {
		t.Errorf("tokens that cannot be written: %v", err)
	}
	if list, _, err := w.jobs.List(t.Context(), auditor, job.Filter{}); err != nil || len(list) != 0 {
		t.Errorf("jobs: %v, %v", list, err)
	}
}

// TestWhatComesBetween: a device that is registered after the check stays as it is; its row is a failed item with its line, and so is the row whose
// birth certificate another device got. The job goes on after it was stopped and started again.
func TestWhatComesBetween(t *testing.T) {
	w := newJobWorld(t)
	birth := birthCertificate(t, "between")
	print := sha256.Sum256(birth)
	var file strings.Builder
	file.WriteString("name,profile,group,birth\n")
	const n = importChunk + 50
	for i := range n {
		fmt.Fprintf(&file, "d%d,gateway,file,", i)
		if i == 40 {
			fmt.Fprintf(&file, "%x", print)
		}
		file.WriteString("\n")
	}
	j, _, err := w.Importer.Import(t.Context(), operator, Source{R: strings.NewReader(file.String()), Name: "f.csv", Format: "csv"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.add(t, Spec{Name: "d7", Group: "by-hand"})
	w.add(t, Spec{Name: "other", Birth: birth})
	w.run(t)
	j = w.ended(t, j.ID)
	if j.State != job.Done || j.Done != n-2 || j.Failed != 2 {
		t.Fatalf("the job is %s (%s): %d done, %d failed", j.State, j.Note, j.Done, j.Failed)
	}
	results, err := w.jobs.Results(t.Context(), auditor, j.ID, 0, 0)
	if err != nil || len(results) != 2 {
		t.Fatalf("got %v, %v", results, err)
	}
	for _, want := range []job.Result{{Item: "d7", Text: "f.csv:9: a device of this name was registered meanwhile, and stays as it is"},
		{Item: "d40", Text: "f.csv:42: another device was registered with this birth certificate meanwhile, so that this one is not"}} {
		if results[0] != want && results[1] != want {
			t.Errorf("got %v, want %v among them", results, want)
		}
	}
	if d, err := w.Get(t.Context(), auditor, "d7"); err != nil || d.Group != "by-hand" || d.Profile != "sensor" {
		t.Errorf("got %+v, %v", d, err)
	}
	if _, err := w.Get(t.Context(), auditor, "d40"); !errs.Is(err, errs.NotFound) {
		t.Errorf("d40: %v", err)
	}
	if got := w.count(t, "device"); got != n {
		t.Errorf("got %d devices, want %d", got, n)
	}
	w.sound(t)
}

// TestWhatComesAtTheSameMoment: whatever others register while the job writes, each name is there once, and the job accounts for each line.
func TestWhatComesAtTheSameMoment(t *testing.T) {
	w := newJobWorld(t)
	const n = 3 * importChunk
	j, _, err := w.Importer.Import(t.Context(), operator, Source{R: &fleet{n: n}, Name: "f.csv", Format: "csv"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.run(t)
	by := int64(0)
	for i := 1; i <= 60; i++ {
		_, err := w.Add(t.Context(), admin, Spec{Name: fmt.Sprintf("pump-%07d.plant.example", i*97), Profile: "gateway"})
		if err == nil {
			by++
		} else if !errs.Is(err, errs.Conflict) {
			t.Fatal(err)
		}
	}
	j = w.ended(t, j.ID)
	if j.State != job.Done || j.Done+j.Failed != n || j.Failed != by || w.count(t, "device") != n {
		t.Errorf("the job is %s (%s): %d done, %d failed, %d came first; %d devices of %d", j.State, j.Note, j.Done, j.Failed, by, w.count(t, "device"), n)
	}
	w.sound(t)
}

// TestImportStepsAreSmall: however the rows are, none of them makes a step that does not fit into memory.
func TestImportStepsAreSmall(t *testing.T) {
	w := newJobWorld(t)
	var file strings.Builder
	for i := range 600 {
		tags := map[string]string{}
		for k := range 32 {
			tags[fmt.Sprintf("k%d", k)] = strings.Repeat("v", 128)
		}
		row, err := json.Marshal(map[string]any{"name": fmt.Sprintf("d%d", i), "profile": "sensor", "tags": tags})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&file, "%s\n", row)
	}
	j, _, err := w.Importer.Import(t.Context(), operator, Source{R: strings.NewReader(file.String()), Name: "f", Format: "jsonl"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var most int64
	w.do(t, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&most}, `SELECT MAX(length(body)) FROM job_chunk`)
		return err
	})
	if j.Chunks < 2 || most > 1<<20 {
		t.Errorf("%d steps, the largest of %d octets", j.Chunks, most)
	}
}

// caCertificate returns a self-signed certificate of a CA, in DER.
func caCertificate(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Unix(1_900_000_000, 0)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestBirthCertificatesInFiles: a file may hold the certificate itself, and then that of a CA is refused with its line, as by Add.
func TestBirthCertificatesInFiles(t *testing.T) {
	birth, ca := birthCertificate(t, "a"), caCertificate(t)
	armoured := func(raw []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}))
	}
	cert, err := x509.ParseCertificate(birth)
	if err != nil {
		t.Fatal(err)
	}
	print, spki := sha256.Sum256(birth), sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	quoted, err := json.Marshal(armoured(birth))
	if err != nil {
		t.Fatal(err)
	}
	for format, file := range map[string]string{
		"csv":    "name,profile,birth\na,sensor,\"" + armoured(birth) + "\"\nb,sensor," + hexDigest("ab") + "\n",
		"jsonl":  `{"name":"a","profile":"sensor","birth":` + string(quoted) + `}` + "\n" + `{"name":"b","profile":"sensor","birth":"` + hexDigest("ab") + `"}`,
		"base64": "name,profile,birth\na,sensor," + base64.StdEncoding.EncodeToString(birth) + "\nb,sensor," + hexDigest("ab") + "\n",
	} {
		w := newJobWorld(t)
		w.run(t)
		if format == "base64" {
			format = "csv"
		}
		j, _, err := w.Importer.Import(t.Context(), operator, Source{R: strings.NewReader(file), Name: "f", Format: format}, nil)
		if err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		w.ended(t, j.ID)
		d, err := w.ByBirth(t.Context(), print)
		if err != nil || d.Name != "a" {
			t.Errorf("%s: by birth: %q, %v", format, d.Name, err)
		}
		if s, _ := d.Slot(SlotBirth); s.NotAfter != cert.NotAfter.Unix() || !bytes.Equal(s.SPKI, spki[:]) {
			t.Errorf("%s: the slot says %+v", format, s)
		}
		w.sound(t)
	}
	w := newJobWorld(t)
	for text, want := range map[string]string{
		"\"" + armoured(ca) + "\"":                "f:3: column birth: this is the certificate of a CA, with which no device can enrol: give the certificate that the CA issued to the device\n",
		base64.StdEncoding.EncodeToString(ca):     "f:3: column birth: this is the certificate of a CA, with which no device can enrol: give the certificate that the CA issued to the device\n",
		base64.StdEncoding.EncodeToString(ca[1:]): "f:3: column birth: not an X.509 certificate in DER\n",
		"MIIB": "f:3: column birth: must be the SHA-256 of the certificate, 64 hexadecimal digits, or the certificate itself in PEM or base64\n",
		"\"" + armoured(birth) + armoured(birth) + "\"": "f:3: column birth: must be the SHA-256 of the certificate, 64 hexadecimal digits, or the certificate itself in PEM or base64\n",
	} {
		_, _, err := w.Importer.Import(t.Context(), operator, Source{R: strings.NewReader("name,profile,birth\na,sensor,\nb,sensor," + text + "\n"), Name: "f", Format: "csv"}, nil)
		if got := errs.Public(err); !errs.Is(err, errs.Invalid) || got != want+"nothing was stored" {
			t.Errorf("%.40s: got\n%s\nwant\n%s", text, got, want)
		}
	}
}

// BenchmarkImportJob imports b.N devices as BenchmarkImport does, by a job.
func BenchmarkImportJob(b *testing.B) {
	for _, births := range []bool{false, true} {
		b.Run(fmt.Sprintf("births=%v", births), func(b *testing.B) {
			w := newJobWorld(b)
			b.ResetTimer()
			j, _, err := w.Importer.Import(b.Context(), admin, Source{R: &fleet{n: b.N, births: births}, Name: "fleet.csv", Format: "csv"}, nil)
			if err != nil {
				b.Fatal(err)
			}
			w.run(b)
			if j = w.ended(b, j.ID); j.Done != int64(b.N) {
				b.Fatalf("the job is %s, %d done", j.State, j.Done)
			}
			b.ReportMetric(float64(b.N)/j.Busy.Seconds(), "items/s")
		})
	}
}
