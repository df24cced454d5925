package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mooring/agent/keyfile"
	"mooring/internal/app"
	"mooring/internal/app/v2xsim"
	"mooring/internal/base/conf"
	"mooring/wire/its"
)

// v2xServer runs a platform with its authorities, with one vehicle that has this key, and writes root.oer and key.pem.
func v2xServer(t *testing.T, vehicle string) (dc, root, key string) {
	t.Helper()
	return v2xServerOf(t, vehicle, func(*conf.Config) {})
}

func v2xServerOf(t *testing.T, vehicle string, change func(*conf.Config)) (dc, root, key string) {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c, err := app.LoopbackV2X("Test")
	must(err)
	change(c)
	made, err := app.Init(t.Context(), app.InitOptions{Dir: filepath.Join(dir, "data"), Config: c, Now: time.Now})
	must(err)
	o := app.Options{Config: c, Keys: made.Keys}
	v2x, err := app.MakeV2X(t.Context(), o, "Test")
	must(err)
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	text, err := keyfile.Encode(k)
	must(err)
	root, key = filepath.Join(dir, "root.oer"), filepath.Join(dir, "key.pem")
	must(os.WriteFile(root, v2x.Certificate, 0o600))
	must(os.WriteFile(key, text, 0o600))
	p, err := app.Build(t.Context(), o)
	must(err)
	running, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ready, stopped := make(chan struct{}), make(chan error, 1)
	go func() { stopped <- p.Run(running, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-stopped:
		stop()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	canonical, err := v2xsim.CanonicalKey(k)
	must(err)
	var out, report bytes.Buffer
	if code := run(t.Context(), []string{"device", "add", vehicle, "--dir", filepath.Join(dir, "data"), "--profile", "device", "--tag", "v2x=vehicle", "--tag", "v2x-key=" + canonical},
		strings.NewReader(""), &out, &report); code != exitOK {
		t.Fatalf("registering the vehicle: %s%s", &out, &report)
	}
	return c.V2XDCURL(), root, key
}

// A vehicle by the command line: it enrols, fills its stock, signs, and another one hears that.
func TestAgentV2X(t *testing.T) {
	t.Parallel()
	dc, root, key := v2xServer(t, "car-1")
	d := &device{t: t, dir: filepath.Join(t.TempDir(), "agent")}
	if _, report := d.run(t.Context(), exitNotFound, "", "v2x", "status"); !strings.Contains(report, "mooring agent v2x enrol makes one") {
		t.Errorf("without a station: %s", report)
	}
	if _, report := d.run(t.Context(), exitUsage, "", "v2x", "enrol", "--key", key); !strings.Contains(report, "--root with --dc") {
		t.Errorf("without whom to believe: %s", report)
	}
	if _, report := d.run(t.Context(), exitFailure, "", "v2x", "enrol", "--root", root, "--dc", dc, "--name", "car-1"); !strings.Contains(report, "name it with --key") {
		t.Errorf("without a key: %s", report)
	}
	out, _ := d.run(t.Context(), exitOK, "", "v2x", "enrol", "--root", root, "--dc", dc, "--name", "car-1", "--key", key, "--stock", "2", "--pause", "0s")
	if !strings.Contains(out, "car-1") || !strings.Contains(out, "0 valid now") {
		t.Errorf("enrol printed %s", out)
	}
	if _, report := d.run(t.Context(), exitFailure, "", "v2x", "enrol", "--root", root, "--dc", dc, "--name", "car-2", "--key", key); !strings.Contains(report, `of the station "car-1" already`) {
		t.Errorf("another name in the same folder: %s", report)
	}
	if _, report := d.run(t.Context(), exitFailure, "", "v2x", "enrol", "--root", root, "--dc", "http://localhost:1", "--name", "car-1", "--key", key); !strings.Contains(report, "--dc "+dc+": remove it to begin anew") {
		t.Errorf("another distribution centre in the same folder: %s", report)
	}
	failed, other := &device{t: t, dir: filepath.Join(t.TempDir(), "agent")}, filepath.Join(t.TempDir(), "other.oer")
	if err := os.WriteFile(other, []byte("another root"), 0o600); err != nil {
		t.Fatal(err)
	}
	failed.run(t.Context(), exitFailure, "", "v2x", "enrol", "--root", root, "--dc", "http://localhost:1", "--name", "car-1", "--key", key)
	if _, report := failed.run(t.Context(), exitFailure, "", "v2x", "enrol", "--root", other, "--dc", "http://localhost:1", "--name", "car-1", "--key", key); !strings.Contains(report, "with another --root or --manager") {
		t.Errorf("another root after a try that failed: %s", report)
	}
	seen := filepath.Join(t.TempDir(), "seen")
	out, _ = d.run(t.Context(), exitOK, "", "v2x", "run", "--once", "--json", "--before", "echo x >> "+seen)
	var status stationStatus
	if err := json.Unmarshal([]byte(out), &status); err != nil || status.Now != 2 || status.Later != 2 || status.Credential == "" {
		t.Errorf("run --once printed %s: %v", out, err)
	}
	if text, err := os.ReadFile(seen); err != nil || strings.Count(string(text), "x") != 4 {
		t.Errorf("before the requests %q was written: %v", text, err)
	}
	if tickets, err := filepath.Glob(filepath.Join(d.dir, "v2x", "tickets", "*.pem")); err != nil || len(tickets) != 4 {
		t.Errorf("the folder has the tickets %q: %v", tickets, err)
	} else {
		var shown, report bytes.Buffer
		id := strings.TrimSuffix(filepath.Base(tickets[0]), ".pem")
		if code := run(t.Context(), []string{"v2x", "show", tickets[0]}, strings.NewReader(""), &shown, &report); code != exitOK || !strings.Contains(shown.String(), "HashedId8 "+id) {
			t.Errorf("v2x show of a ticket of the folder printed %s%s, want %s in it", &shown, &report, id)
		}
	}
	payload, cam, denm := d.file("cam", "hello"), filepath.Join(t.TempDir(), "cam.oer"), filepath.Join(t.TempDir(), "denm.oer")
	if out, _ := d.run(t.Context(), exitOK, "", "v2x", "sign", payload, "--out", cam, "--json"); !strings.Contains(out, `"octets": `) {
		t.Errorf("sign --json printed %q", out)
	}
	d.run(t.Context(), exitOK, "", "v2x", "sign", payload, "--out", denm, "--at", "48.1372,11.5756")
	if _, report := d.run(t.Context(), exitUsage, "", "v2x", "sign", payload, "--out", denm, "--at", "north"); !strings.Contains(report, "48.1372,11.5756") {
		t.Errorf("a place that is none: %s", report)
	}
	for path, want := range map[string][]string{cam: {"CAM", "68656c6c6f"}, denm: {"DENM", "48.1372000,11.5756000"}} {
		out, _ := d.run(t.Context(), exitOK, "", "v2x", "hear", path, "--age", "1h")
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("hear printed %s, want %q in it", out, w)
			}
		}
	}
	if out, _ := d.run(t.Context(), exitOK, "", "v2x", "hear", denm, "--age", "1h", "--json"); !strings.Contains(out, `"place": "48.1372000,11.5756000"`) || !strings.Contains(out, `"permissions": "01`) {
		t.Errorf("hear --json printed %s, want the place and the permissions in it", out)
	}
	forged, err := os.ReadFile(cam)
	if err != nil {
		t.Fatal(err)
	}
	forged[len(forged)-1] ^= 1
	if _, report := d.run(t.Context(), exitFailure, "", "v2x", "hear", d.file("forged", string(forged)), "--age", "1h"); !strings.Contains(report, "signature") {
		t.Errorf("a forged message: %s", report)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	d.run(ctx, exitOK, "", "v2x", "run")
}

// A vehicle whose authorities offer many tickets with one request: it asks for them in the way that it is told to, has a ticket to drive with until they come, and signs by them what others believe.
func TestAgentV2XButterfly(t *testing.T) {
	t.Parallel()
	dc, root, key := v2xServerOf(t, "car-1", func(c *conf.Config) {
		c.V2X.Butterfly = conf.Butterfly{On: true, Compact: true, Period: 7 * 24 * time.Hour, Tickets: 3, Ahead: 2, Stations: 1}
	})
	d := &device{t: t, dir: filepath.Join(t.TempDir(), "agent")}
	args := []string{"v2x", "enrol", "--root", root, "--dc", dc, "--name", "car-1", "--key", key, "--stock", "1", "--ahead", "-1", "--pause", "0s", "--butterfly"}
	if _, report := d.run(t.Context(), exitUsage, "", append(args, "moth")...); !strings.Contains(report, "original, unified, compact and no") {
		t.Errorf("another way: %s", report)
	}
	if out, _ := d.run(t.Context(), exitOK, "", append(args, "compact")...); !strings.Contains(out, "not asked yet") {
		t.Errorf("enrol printed %s", out)
	}
	var status stationStatus
	for status.Later == 0 { // the process of the agent ends each time, as one that is killed
		out, _ := d.run(t.Context(), exitOK, "", "v2x", "run", "--once", "--json")
		if err := json.Unmarshal([]byte(out), &status); err != nil {
			t.Fatalf("run --once printed %s: %v", out, err)
		}
	}
	if status.Now < 3 || status.Now > 4 || status.Later != 3 || status.Butterfly != "compact" || status.Next.Before(time.Now().Add(-time.Hour)) {
		t.Errorf("it has %+v", status)
	}
	if out, _ := d.run(t.Context(), exitOK, "", "v2x", "status"); !strings.Contains(out, "by butterfly keys (compact), the next ones by ") {
		t.Errorf("status printed %s", out)
	}
	payload, ctl := d.file("cam", "hello"), filepath.Join(t.TempDir(), "ctl.oer")
	fetchTo(t, dc, root, ctl)
	for range 4 {
		cam := filepath.Join(t.TempDir(), "cam.oer")
		d.run(t.Context(), exitOK, "", "v2x", "sign", payload, "--out", cam)
		if out, _ := d.run(t.Context(), exitOK, "", "v2x", "hear", cam, "--age", "1h"); !strings.Contains(out, "68656c6c6f") {
			t.Errorf("hear printed %s", out)
		}
		var out, report bytes.Buffer
		if code := run(t.Context(), []string{"v2x", "verify", cam, "--root", root, "--known", ctl}, strings.NewReader(""), &out, &report); code != exitOK || !strings.Contains(out.String(), "valid") {
			t.Errorf("v2x verify printed %s%s", &out, &report)
		}
	}
}

// fetchTo writes the trust list of a root to a file.
func fetchTo(t *testing.T, dc, root, file string) {
	t.Helper()
	b, err := os.ReadFile(root)
	if err != nil {
		t.Fatal(err)
	}
	x, err := its.ParseCertificate(b)
	if err != nil {
		t.Fatal(err)
	}
	id, err := x.HashedId8()
	if err != nil {
		t.Fatal(err)
	}
	a, err := http.Get(dc + "/getctl/" + id.String())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	if b, err = io.ReadAll(a.Body); err != nil || a.StatusCode != http.StatusOK {
		t.Fatalf("%d, %v", a.StatusCode, err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
