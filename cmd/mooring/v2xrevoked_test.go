package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"mooring/internal/server/api/v1"
)

// authorities runs commands on the server of a test, whose certificate of the root is at root.
type authorities struct {
	t    *testing.T
	root string
}

func (a authorities) run(want int, args ...string) string {
	a.t.Helper()
	var out, report bytes.Buffer
	args = append([]string{"v2x"}, append(args, "--dir", filepath.Join(filepath.Dir(a.root), "data"))...)
	if code := run(a.t.Context(), args, strings.NewReader(""), &out, &report); code != want {
		a.t.Fatalf("%q exited with %d, want %d: %s%s", args, code, want, &out, &report)
	}
	return out.String()
}

// of is the authority of a role that is not revoked.
func (a authorities) of(role string) (found v1.V2XAuthority) {
	a.t.Helper()
	var all []v1.V2XAuthority
	if err := json.Unmarshal([]byte(a.run(exitOK, "rca", "list", "--json")), &all); err != nil {
		a.t.Fatal(err)
	}
	for _, one := range all {
		if one.Role == role && one.State != "revoked" {
			found = one
		}
	}
	if found.ID == "" {
		a.t.Fatalf("there is no %s in %+v", role, all)
	}
	return found
}

// another begins another authority in the place of one that was revoked.
func (a authorities) another(was v1.V2XAuthority) {
	a.t.Helper()
	dir := a.t.TempDir()
	request, cert, root := filepath.Join(dir, "request"), filepath.Join(dir, "cert"), filepath.Join(dir, "root")
	a.run(exitOK, was.Role, "request", "--name", "Another", "--out", request)
	args := []string{"rca", "issue", request, "--role", was.Role, "--url", was.URL, "--out", cert, "--root", root}
	if was.Peer != "" {
		args = append(args, "--peer", was.Peer)
	}
	a.run(exitOK, args...)
	a.run(exitOK, was.Role, "install", cert, "--root", root)
}

// stationOf is what a vehicle has.
func stationOf(d *device) (st stationStatus, text string) {
	d.t.Helper()
	out, _ := d.run(d.t.Context(), exitOK, "", "v2x", "status", "--json")
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		d.t.Fatal(err)
	}
	text, _ = d.run(d.t.Context(), exitOK, "", "v2x", "status")
	return st, text
}

// A vehicle whose authorization authority is revoked signs by none of its tickets any more and says so. When there is another authority it gets as many from that, and whatever it signs is
// believed. When the enrolment authority is revoked it says what to do, and renews its credential by another one.
func TestAgentV2XAuthoritiesRevoked(t *testing.T) {
	t.Parallel()
	dc, root, key := v2xServer(t, "car-1")
	by := authorities{t, root}
	d := &device{t: t, dir: filepath.Join(t.TempDir(), "agent")}
	d.run(t.Context(), exitOK, "", "v2x", "enrol", "--root", root, "--dc", dc, "--name", "car-1", "--key", key, "--stock", "3", "--pause", "0s")
	d.run(t.Context(), exitOK, "", "v2x", "run", "--once")
	if st, text := stationOf(d); st.Now != 3 || st.Later != 3 || len(st.Useless) != 0 || st.Revoked || strings.Contains(text, "of no use") {
		t.Fatalf("at first it has %s", text)
	}

	aa := by.of("aa")
	by.run(exitUsage, "rca", "revoke", aa.ID)
	by.run(exitOK, "rca", "revoke", aa.ID, "--yes")
	if _, report := d.run(t.Context(), exitFailure, "", "v2x", "run", "--once"); !strings.Contains(report, "the trust list has no") {
		t.Errorf("without an authorization authority run --once says %s", report)
	}
	st, text := stationOf(d)
	if st.Now != 0 || st.Later != 0 || st.Useless[aa.ID] != 6 || st.Revoked || !strings.Contains(text, "0 valid now, 0 for later") || !strings.Contains(text, "6 more of "+aa.ID) {
		t.Errorf("after the revocation its status is %+v, %s", st, text)
	}
	payload, cam := d.file("cam", "hello"), filepath.Join(t.TempDir(), "cam.oer")
	if _, report := d.run(t.Context(), exitNotFound, "", "v2x", "sign", payload, "--out", cam); !strings.Contains(report, "no ticket") {
		t.Errorf("sign says %s", report)
	}
	by.another(aa)
	d.run(t.Context(), exitOK, "", "v2x", "run", "--once")
	if st, text := stationOf(d); st.Now != 3 || st.Later != 3 || len(st.Useless) != 0 || strings.Contains(text, aa.ID) {
		t.Errorf("by the other authority it has %s", text)
	}
	if files, err := filepath.Glob(filepath.Join(d.dir, "v2x", "tickets", "*.pem")); err != nil || len(files) != 6 {
		t.Errorf("the folder has the tickets %q: %v", files, err)
	}
	other := &device{t: t, dir: filepath.Join(t.TempDir(), "other")}
	other.run(t.Context(), exitOK, "", "v2x", "enrol", "--root", root, "--dc", dc, "--name", "car-1", "--key", key)
	for range 4 {
		d.run(t.Context(), exitOK, "", "v2x", "sign", payload, "--out", cam)
		other.run(t.Context(), exitOK, "", "v2x", "hear", cam, "--age", "1h")
	}

	ea := by.of("ea")
	by.run(exitUsage, "rca", "revoke", ea.ID)
	by.run(exitOK, "rca", "revoke", ea.ID, "--yes")
	if _, report := d.run(t.Context(), exitUnavailable, "", "v2x", "run", "--once"); !strings.Contains(report, "the authority that gave it was revoked") || !strings.Contains(report, "by the canonical key") {
		t.Errorf("without an enrolment authority run --once says %s", report)
	}
	if st, text := stationOf(d); st.Now != 3 || !st.Revoked || !strings.Contains(text, "mooring agent v2x enrol") {
		t.Errorf("after the revocation of the enrolment authority its status is %s", text)
	}
	other.run(t.Context(), exitUnavailable, "", "v2x", "run", "--once")
	by.another(ea)
	d.run(t.Context(), exitOK, "", "v2x", "run", "--once")
	after, text := stationOf(d)
	if after.Credential == st.Credential || after.Revoked || after.Now != 3 {
		t.Errorf("by the other enrolment authority it has %s", text)
	}
	before, _ := stationOf(other)
	other.run(t.Context(), exitOK, "", "v2x", "enrol", "--key", key) // by its canonical key
	if after, text := stationOf(other); !before.Revoked || after.Revoked || after.Credential == before.Credential {
		t.Errorf("enrolled anew it has %s", text)
	}

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	says, report := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"agent", "v2x", "run", "--dir", d.dir}, strings.NewReader(""), io.Discard, report)
		report.Close()
	}()
	lines := bufio.NewScanner(says)
	for _, want := range []string{`"begins: fetches the lists, then gets the tickets that are missing" station=car-1 tickets_now=3 tickets_later=3 credential_until=`, `"nothing else is due now" stock=6`} {
		if !lines.Scan() || !strings.Contains(lines.Text(), want) {
			t.Errorf("run says %s, want %s in it", lines.Text(), want)
		}
	}
	stop()
	if _, err := io.Copy(io.Discard, says); err != nil {
		t.Error(err)
	}
	if code := <-ended; code != exitOK {
		t.Errorf("run exited with %d", code)
	}
}
