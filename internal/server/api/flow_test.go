package api_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/server/api"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

// status is the status of a refusal, 0 for none.
func status(err error) int {
	var refused *client.Error
	if errors.As(err, &refused) {
		return refused.Status
	}
	return 0
}

func TestDevicesFromAddToRetire(t *testing.T) {
	p := start(t, nil)
	c, ctx := p.local(t), t.Context()

	added, err := c.AddDevice(ctx, v1.NewDevice{Name: "pump/17", Names: []string{"dns:pump-17.example.com"}, Group: "plant", Tags: map[string]string{"site": "a"},
		Profile: "device", Token: true, TokenLife: "2h"})
	if err != nil || added.Token == nil || !strings.HasPrefix(added.Token.Token, "mt_") || added.Device.State != "registered" {
		t.Fatalf("got %+v, %v, want a device with a token", added, err)
	}
	if left := time.Until(added.Token.Until); left < time.Hour || left > 2*time.Hour {
		t.Errorf("token good for %s, want 2h", left)
	}
	for _, name := range []string{"pump/17", added.Device.ID} { // a slash in a name is no separator
		got, err := c.Device(ctx, name)
		if err != nil || got.Name != "pump/17" || got.Token == nil || got.Created.IsZero() || got.Created.Location() != time.UTC {
			t.Errorf("Device(%q): %+v, %v", name, got, err)
		}
	}
	if _, err := c.AddDevice(ctx, v1.NewDevice{Name: "pump/17", Profile: "device"}); status(err) != http.StatusConflict {
		t.Errorf("the same name again: %v, want 409", err)
	}
	group, none := "depot", map[string]string{}
	changed, err := c.ChangeDevice(ctx, "pump/17", v1.ChangeDevice{Group: &group, Tags: &none})
	if err != nil || changed.Group != "depot" || len(changed.Tags) != 0 || !slices.Equal(changed.Names, []string{"dns:pump-17.example.com"}) {
		t.Errorf("changed: %+v, %v", changed, err)
	}
	token, err := c.NewToken(ctx, "pump/17", 0)
	if err != nil || token.Token == added.Token.Token {
		t.Errorf("new token: %v, %v", token.Until, err)
	}
	for _, step := range []struct{ move, state string }{{"suspend", "suspended"}, {"resume", "registered"}, {"retire", "retired"}} {
		moved, err := c.MoveDevice(ctx, "pump/17", step.move, "")
		if err != nil || moved.Device.State != step.state {
			t.Errorf("%s: %+v, %v, want %s", step.move, moved, err, step.state)
		}
	}
	if _, err := c.MoveDevice(ctx, "pump/17", "resume", ""); status(err) != http.StatusConflict {
		t.Errorf("resuming what is retired: %v, want 409", err)
	}
	if _, err := c.MoveDevice(ctx, "pump/17", "retire", "boredom"); status(err) != http.StatusBadRequest {
		t.Errorf("an unknown reason: %v, want 400", err)
	}
}

func TestListingsComeByThePage(t *testing.T) {
	p := start(t, nil)
	c, ctx := p.local(t), t.Context()
	for i := range 7 {
		if _, err := c.AddDevice(ctx, v1.NewDevice{Name: fmt.Sprintf("d-%d", i), Group: []string{"even", "odd"}[i%2], Profile: "device"}); err != nil {
			t.Fatal(err)
		}
	}
	page, err := c.Devices(ctx, client.Devices{Limit: 3})
	if err != nil || len(page.Devices) != 3 || page.Next == "" {
		t.Fatalf("first page: %d devices, next %q, %v", len(page.Devices), page.Next, err)
	}
	seen := map[string]bool{}
	for d, err := range c.AllDevices(ctx, client.Devices{Group: "even", Limit: 2}) {
		if err != nil {
			t.Fatal(err)
		}
		seen[d.Name] = true
	}
	if len(seen) != 4 {
		t.Errorf("got %v, want the four of the group even", seen)
	}
	if _, err := c.Devices(ctx, client.Devices{Cursor: "nonsense"}); status(err) != http.StatusBadRequest {
		t.Errorf("a wrong cursor: %v, want 400", err)
	}
	if err := p.deps.Audit.Sequence(ctx); err != nil {
		t.Fatal(err)
	}
	var indexes []int64
	for after := int64(0); ; {
		entries, err := c.Audit(ctx, client.Audit{After: after, Limit: 2, Action: "device.add"})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries.Entries {
			indexes = append(indexes, e.Index)
		}
		if after = entries.Next; after == 0 {
			break
		}
	}
	if len(indexes) != 7 || !slices.IsSorted(indexes) {
		t.Errorf("got the entries %v, want seven in order", indexes)
	}
}

func TestCertificatesAreShownAndRevoked(t *testing.T) {
	p := start(t, nil)
	c, ctx := p.local(t), t.Context()
	certificate, _ := p.credential(t, "pump-1", "device")
	block, _ := pem.Decode(certificate)
	d, err := c.Device(ctx, "pump-1")
	if err != nil || len(d.Slots) != 1 {
		t.Fatalf("got %+v, %v, want one slot", d, err)
	}
	serial := d.Slots[0].Serial
	got, err := c.Certificate(ctx, serial)
	if err != nil || got.PEM != string(certificate) || got.IssuerName != "devices" || got.Device != d.ID || got.Revocation != nil {
		t.Errorf("got %+v, %v", got, err)
	}
	call := p.raw(t, "reader", "auditor")
	for format, want := range map[string]string{"pem": string(certificate), "der": string(block.Bytes)} {
		if status, header, body := call("GET", "/v1/certificates/"+serial+"?format="+format, "", ""); status != 200 || body != want {
			t.Errorf("format %s: %d %s", format, status, header.Get("Content-Type"))
		}
	}
	held, err := c.Revoke(ctx, serial, "certificateHold")
	if err != nil || held.Already {
		t.Fatalf("hold: %+v, %v", held, err)
	}
	if _, err := c.Release(ctx, serial); err != nil {
		t.Errorf("release: %v", err)
	}
	for _, already := range []bool{false, true} {
		r, err := c.Revoke(ctx, serial, "keyCompromise")
		if err != nil || r.Already != already || r.Revocation.Reason != "keyCompromise" || r.Listed == 0 {
			t.Errorf("revoke: %+v, %v, want already %v", r, err, already)
		}
	}
	if _, err := c.Release(ctx, serial); status(err) != http.StatusConflict {
		t.Errorf("releasing what is revoked: %v, want 409", err)
	}
	for _, revoked := range []bool{true, false} {
		var serials []string
		for cert, err := range c.AllCertificates(ctx, client.Certificates{Device: "pump-1", Issuer: "devices", Profile: "device", Revoked: &revoked}) {
			if err != nil {
				t.Fatal(err)
			}
			serials = append(serials, cert.Serial)
		}
		if (len(serials) == 1) != revoked {
			t.Errorf("revoked=%v: %v", revoked, serials)
		}
	}
	for text, want := range map[string]int{"zz": 400, "00": 404, "4165a1b2c3d4e5f60718293a4b5c6d7e": 404} {
		if _, err := c.Certificate(ctx, text); status(err) != want {
			t.Errorf("serial %s: %v, want %d", text, err, want)
		}
	}
}

func TestCAsAndProfiles(t *testing.T) {
	p := start(t, nil)
	c, ctx := p.local(t), t.Context()
	made, err := c.CreateCA(ctx, v1.NewCA{Name: "devices-2", Parent: "root", Subject: "CN=Devices 2,O=Test", Validity: "8760h"})
	if err != nil || made.Parent != "root" || strings.Count(made.Chain, "BEGIN CERTIFICATE") != 2 {
		t.Fatalf("made %+v, %v", made, err)
	}
	for _, name := range []string{"devices-2", made.ID} {
		if got, err := c.CA(ctx, name); err != nil || got.Chain != made.Chain {
			t.Errorf("CA(%q): %+v, %v", name, got, err)
		}
	}
	if list, err := c.CAs(ctx); err != nil || len(list) != 4 || list[0].Chain != "" {
		t.Errorf("got %d CAs, %v, want 4", len(list), err)
	}
	for _, wrong := range []v1.NewCA{{Name: "Upper", Subject: "CN=x", Validity: "1h"}, {Name: "x", Subject: "no name", Validity: "1h"}, {Name: "x", Subject: "CN=x", Validity: "soon"},
		{Name: "x", Subject: "CN=x", Validity: "1h", Algorithm: "rot13"}} {
		if _, err := c.CreateCA(ctx, wrong); status(err) != http.StatusBadRequest {
			t.Errorf("%+v: %v, want 400", wrong, err)
		}
	}
	list, err := c.Profiles(ctx)
	if err != nil || len(list) < 5 || list[0].Source != "" {
		t.Errorf("got %d profiles, %v", len(list), err)
	}
	if got, err := c.Profile(ctx, "operator"); err != nil || got.Grants != "operator" || !strings.Contains(got.Source, "name: operator") || got.Validity != "2160h0m0s" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestTheRecordIsProvenAndVerified(t *testing.T) {
	p := start(t, nil)
	c, ctx := p.local(t), t.Context()
	p.credential(t, "pump-1", "device")
	first, err := c.Prove(ctx, 0) // has it sequenced
	if err != nil {
		t.Fatal(err)
	}
	_, vkey, err := audit.NoteKey("test.example/audit", make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	verifier := must[note.Verifier](t)(note.NewVerifier(vkey))
	if err := audit.CheckProof([]byte(first.Proof), []byte(first.Entry), verifier); err != nil {
		t.Errorf("the proof does not hold: %v", err)
	}
	checkpoint, err := c.Checkpoint(ctx)
	if err != nil || checkpoint.Size == 0 {
		t.Fatalf("got %+v, %v", checkpoint, err)
	}
	calls := 0
	report, err := c.Verify(ctx, []string{checkpoint.Checkpoint}, func(int64, int64) { calls++ })
	if err != nil || !report.Sound || report.Entries < checkpoint.Size || calls == 0 {
		t.Errorf("got %+v after %d calls, %v, want a sound record", report, calls, err)
	}
	forged := strings.Replace(checkpoint.Checkpoint, "test.example/audit", "other.example/audit", 1)
	if report, err := c.Verify(ctx, []string{forged}, nil); err == nil && report.Sound {
		t.Errorf("a forged checkpoint was accepted: %+v", report)
	}
	if _, err := c.Prove(ctx, 1<<40); status(err) != http.StatusNotFound {
		t.Errorf("a proof of nothing: %v, want 404", err)
	}
}

func TestImportStreams(t *testing.T) {
	p := start(t, nil)
	ctx := t.Context()
	var file strings.Builder
	file.WriteString("name,group\n")
	const rows = 5000
	for i := range rows {
		fmt.Fprintf(&file, "sensor-%05d,plant-%d\n", i, i%3)
	}
	for name, c := range map[string]*client.Client{"socket": p.local(t), "tls": p.operator(t, "op-1", "operator")} {
		var tokens bytes.Buffer
		calls, last := 0, int64(-1)
		text := strings.ReplaceAll(file.String(), "sensor", name)
		report, err := c.Import(ctx, client.Import{R: strings.NewReader(text), Name: "fleet.csv", Format: "csv", Size: int64(len(text)), Profile: "device", Tokens: &tokens},
			func(done, total int64) { calls, last = calls+1, done })
		if err != nil || report.Devices != rows || calls == 0 || last < 0 {
			t.Fatalf("%s: got %+v after %d calls, %v", name, report, calls, err)
		}
		if lines := strings.Count(tokens.String(), "\n"); lines != rows+1 || !strings.HasPrefix(tokens.String(), "name,token\n"+name+"-00000,mt_") {
			t.Errorf("%s: %d lines of tokens, beginning %.40q, want %d", name, lines, tokens.String(), rows+1)
		}
	}
	_, err := p.local(t).Import(ctx, client.Import{R: strings.NewReader(`{"name":"a","profile":"device"}` + "\n" + `{"name":"b","profile":"nope"}` + "\n"), Name: "two.jsonl", Format: "jsonl"}, nil)
	var refused *client.Error
	if !errors.As(err, &refused) || refused.Status != http.StatusBadRequest || refused.Wrong != 1 || len(refused.Problems) != 1 || !strings.HasPrefix(refused.Problems[0], "two.jsonl:2:") {
		t.Errorf("got %#v, want line 2 named", err)
	}
	if _, err := p.local(t).Device(ctx, "a"); status(err) != http.StatusNotFound {
		t.Errorf("half a file was stored: %v", err)
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestTokensThatCannotBeWritten(t *testing.T) {
	p := start(t, nil)
	c, ctx := p.local(t), t.Context()
	report, err := c.Import(ctx, client.Import{R: strings.NewReader("name,profile\na,device\n"), Format: "csv", Tokens: fullDisk{}}, nil)
	var lost *client.TokensLost
	if !errors.As(err, &lost) || report.Devices != 1 {
		t.Errorf("got %+v, %v, want that the tokens are lost", report, err)
	}
	if _, err := c.Device(ctx, "a"); err != nil {
		t.Errorf("the device is not there: %v", err)
	}
}

// slowFile hands out its second part when the first was answered: the answer must come while the body is still being sent.
type slowFile struct {
	first, rest io.Reader
	answered    chan struct{}
}

func (f *slowFile) Read(b []byte) (int, error) {
	n, err := f.first.Read(b)
	if err != io.EOF {
		return n, err
	}
	<-f.answered
	return f.rest.Read(b)
}

func TestImportAnswersDuringTheUpload(t *testing.T) {
	p := start(t, nil)
	for name, c := range map[string]*client.Client{"socket": p.local(t), "tls": p.operator(t, "op-1", "operator")} {
		f := &slowFile{strings.NewReader("name,profile\n" + name + "-1,device\n"), strings.NewReader(name + "-2,device\n"), make(chan struct{})}
		open := false
		report, err := c.Import(t.Context(), client.Import{R: f, Format: "csv"}, func(int64, int64) {
			if !open {
				open = true
				close(f.answered)
			}
		})
		if err != nil || report.Devices != 2 {
			t.Errorf("%s: got %+v, %v, want two devices", name, report, err)
		}
	}
}

// TestImportsTakeTurns holds all turns with files that do not end.
func TestImportsTakeTurns(t *testing.T) {
	p := start(t, nil)
	goOn := make(chan struct{})
	begun, ended := make(chan struct{}, 2), make(chan error, 2)
	for range 2 {
		one := &slowFile{strings.NewReader("name,profile\n"), strings.NewReader(""), goOn}
		go func() {
			told := false
			_, err := p.local(t).Import(t.Context(), client.Import{R: one, Format: "csv"}, func(int64, int64) {
				if !told {
					told = true
					begun <- struct{}{}
				}
			})
			ended <- err
		}()
	}
	<-begun
	<-begun
	_, err := p.local(t).Import(t.Context(), client.Import{R: strings.NewReader("name,profile\n"), Format: "csv"}, nil)
	var refused *client.Error
	if !errors.As(err, &refused) || refused.Status != http.StatusTooManyRequests || refused.RetryAfter != time.Minute {
		t.Errorf("a third import: %v, want 429 with advice", err)
	}
	close(goOn)
	<-ended
	<-ended
	if _, err := p.local(t).Import(t.Context(), client.Import{R: strings.NewReader("name,profile\na,device\n"), Format: "csv"}, nil); err != nil {
		t.Errorf("after the others: %v", err)
	}
}

// TestImportOverHTTP2 does what other clients than ours do.
func TestImportOverHTTP2(t *testing.T) {
	p := start(t, nil)
	certificate, k := p.credential(t, "op-1", "operator")
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(p.roots)
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{must[tls.Certificate](t)(tls.X509KeyPair(certificate, k))}}}
	t.Cleanup(transport.CloseIdleConnections)
	for i := range 2 {
		file := fmt.Sprintf("name,profile\nd-%d,device\n", i)
		r, err := (&http.Client{Transport: transport}).Post(p.url+"/v1/devices/import?name=fleet.csv", "text/csv", strings.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		body := string(must[[]byte](t)(io.ReadAll(r.Body)))
		r.Body.Close()
		if r.ProtoMajor != 2 || r.StatusCode != 200 || !strings.Contains(body, `{"report":{"devices":1,`) {
			t.Errorf("got HTTP/%d %d %s, want a report over HTTP/2", r.ProtoMajor, r.StatusCode, body)
		}
	}
}

// TestStreamThatIsCutOff has a server break off in the middle.
func TestStreamThatIsCutOff(t *testing.T) {
	dir := must[string](t)(os.MkdirTemp("", "api"))
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := must[net.Listener](t)(net.Listen("unix", dir+"/m.sock"))
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"progress":{"done":1,"total":2}}`+"\n")
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	_, err := client.New(dir+"/m.sock").Import(t.Context(), client.Import{R: strings.NewReader(""), Format: "csv"}, nil)
	var away *client.Unreachable
	if !errors.As(err, &away) {
		t.Errorf("got %v, want that no end came", err)
	}
}

func TestStatusAndHealth(t *testing.T) {
	p := start(t, nil)
	c, ctx := p.local(t), t.Context()
	ready, err := c.Ready(ctx)
	if err != nil || !ready.Ready || len(ready.Checks) != 3 {
		t.Errorf("got %+v, %v, want ready", ready, err)
	}
	s, err := c.Status(ctx)
	if err != nil || len(s.Listeners) != 2 || s.Version.Version != "test" || s.Version.API != "v1" || !s.Ready.Ready {
		t.Errorf("got %+v, %v", s, err)
	}
	if !slices.ContainsFunc(s.Counts, func(n v1.Count) bool { return n.Name == `mooring_connections_total{surface="socket"}` && n.Value > 0 }) {
		t.Errorf("the socket's connections are not counted: %+v", s.Counts)
	}
	who, err := c.WhoAmI(ctx)
	if err != nil || who.Role != "admin" || who.Kind != "local" || who.Via != "socket" || !slices.Contains(who.Permissions, "ca.manage") {
		t.Errorf("got %+v, %v", who, err)
	}
	_, _, metrics := p.raw(t, "scraper", "auditor")("GET", "/metrics", "", "")
	for _, want := range []string{"go_goroutines", "process_cpu_seconds_total", `mooring_ca_not_after_seconds{ca="root"}`, `mooring_request_seconds_bucket{class="2xx",route="GET /v1/whoami"`,
		"mooring_certificates_issued_total 1", `mooring_refused_total{reason="rate",surface="api"} 0`, "mooring_database_fault 0"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	bare := start(t, func(d *api.Deps) { // with a CA that was never loaded
		d.CA = ca.New(ca.Deps{DB: d.DB, Audit: d.Audit, Access: d.Access, Profiles: d.Profiles, Now: d.Now})
	})
	ready, err = bare.local(t).Ready(ctx)
	if err != nil || ready.Ready || !ready.Checks[0].OK || ready.Checks[2].OK || ready.Checks[2].Text == "" {
		t.Errorf("without a CA: got %+v, %v, want not ready", ready, err)
	}
	if status, _, body := bare.raw(t, "", "")("GET", "/readyz", "", ""); status != http.StatusServiceUnavailable {
		t.Errorf("got %d %s, want 503", status, body)
	}
}
