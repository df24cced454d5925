package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mooring/internal/server/api/v1"
)

// The operators of the enrolment authority look at a station by the command line and revoke its credential: it gets no further ticket, and another credential by its canonical key.
func TestV2XStationByCommand(t *testing.T) {
	t.Parallel()
	dc, root, key := v2xServer(t, "car-1")
	ea := func(want int, args ...string) string {
		t.Helper()
		var out, report bytes.Buffer
		args = append([]string{"v2x", "ea"}, append(args, "--dir", filepath.Join(filepath.Dir(root), "data"))...)
		if code := run(t.Context(), args, strings.NewReader(""), &out, &report); code != want {
			t.Fatalf("%q exited with %d, want %d: %s%s", args, code, want, &out, &report)
		}
		return out.String() + report.String()
	}
	d := &device{t: t, dir: filepath.Join(t.TempDir(), "agent")}
	d.run(t.Context(), exitOK, "", "v2x", "enrol", "--root", root, "--dc", dc, "--name", "car-1", "--key", key, "--stock", "2", "--pause", "0s")
	out, _ := d.run(t.Context(), exitOK, "", "v2x", "run", "--once", "--json")
	var status stationStatus
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		t.Fatal(err)
	}
	var st v1.V2XStation
	if err := json.Unmarshal([]byte(ea(exitOK, "station", "car-1", "--json")), &st); err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for _, week := range st.Tickets.Weeks {
		total += week.Tickets
	}
	if len(st.Credentials) != 1 || st.Credentials[0].ID != status.Credential || st.Tickets.Valid != 2 || total != 4 || st.Tickets.Limit != 100 {
		t.Errorf("station --json: %+v; the station has the credential %s", st, status.Credential)
	}
	if text := ea(exitOK, "station", "car-1"); !strings.Contains(text, "2 valid now, of 100") || !strings.Contains(text, status.Credential) || !strings.Contains(text, "valid") {
		t.Errorf("station printed %s", text)
	}
	if text := ea(exitNotFound, "station", "car-2"); !strings.Contains(text, "there is no device") {
		t.Errorf("station of nobody printed %s", text)
	}
	if text := ea(exitUsage, "revoke", "car-1"); !strings.Contains(text, "is no HashedId8") {
		t.Errorf("revoke of no credential printed %s", text)
	}
	ea(exitNotFound, "revoke", "0123456789ABCDEF")
	if text := ea(exitOK, "revoke", strings.ToLower(status.Credential)); !strings.Contains(text, "revoked") || !strings.Contains(text, "car-1") {
		t.Errorf("revoke printed %s", text)
	}
	if text := ea(exitOK, "station", "car-1"); !strings.Contains(text, "revoked 20") {
		t.Errorf("after the revocation station printed %s", text)
	}
	if err := os.RemoveAll(filepath.Join(d.dir, "v2x", "tickets")); err != nil { // so that it asks for some
		t.Fatal(err)
	}
	if _, report := d.run(t.Context(), exitDenied, "", "v2x", "run", "--once"); !strings.Contains(report, "deniedpermissions") || !strings.Contains(report, "mooring v2x ea station") {
		t.Errorf("with the revoked credential run --once says %s", report)
	}
	again := &device{t: t, dir: filepath.Join(t.TempDir(), "agent")}
	again.run(t.Context(), exitOK, "", "v2x", "enrol", "--root", root, "--dc", dc, "--name", "car-1", "--key", key)
	if err := json.Unmarshal([]byte(ea(exitOK, "station", "car-1", "--json")), &st); err != nil || len(st.Credentials) != 2 || st.Credentials[0].State != "valid" && st.Credentials[1].State != "valid" {
		t.Errorf("with another credential: %+v, %v", st, err)
	}
}
