package export_test

import (
	"bytes"
	"crypto/rand"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"mooring/internal/app/apptest"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/device"
	"mooring/internal/core/export"
	"mooring/internal/core/revoke"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func written(t *testing.T, p *apptest.Platform, q export.Query) (string, *export.File) {
	t.Helper()
	f, err := p.Export.Write(t.Context(), apptest.Operator(), q, nil)
	must(t, err)
	t.Cleanup(f.Close)
	var b bytes.Buffer
	_, err = f.WriteTo(&b)
	must(t, err)
	return b.String(), f
}

func verifier(t *testing.T, p *apptest.Platform) note.Verifier {
	t.Helper()
	v, err := note.NewVerifier(p.AuditKey)
	must(t, err)
	return v
}

func TestExports(t *testing.T) {
	p := apptest.Start(t, nil)
	for i := range 3 {
		d, _ := p.Enrolled(t, fmt.Sprintf("meter-%d", i), "device")
		group, tags := "hall", map[string]string{"a": "=1+1", "b": `x,"y"`}
		_, err := p.Devices.Change(t.Context(), apptest.Operator(), d.ID, device.Change{Group: &group, Tags: &tags})
		must(t, err)
		if i == 0 {
			_, err := p.Revoke.Device(t.Context(), apptest.Operator(), d.ID, device.Lose, revoke.Unspecified)
			must(t, err)
		}
	}
	text, f := written(t, p, export.Query{What: export.Devices, Format: "csv", Group: "hall", State: "enrolled"})
	table, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	must(t, err)
	if f.Rows != 2 || len(table) != 3 || table[0][1] != "name" || !strings.HasPrefix(table[1][1], "meter-") || table[1][6] != `a==1+1;b=x,"y"` {
		t.Errorf("got %d rows, %q", f.Rows, table)
	}
	m, err := export.Verify(strings.NewReader(text), f.Manifest, verifier(t, p))
	must(t, err)
	if m.What != "devices" || m.Query != `group="hall" state="enrolled"` || m.Rows != 2 || m.Entries == 0 || m.Log != p.Config.AuditOrigin() {
		t.Errorf("the manifest: got %+v", m)
	}
	text, f = written(t, p, export.Query{What: export.Certificates, Format: "jsonl", Issuer: "devices", Profile: "device"})
	var revoked []string
	for line := range strings.Lines(text) {
		var c struct{ Serial, Issuer, Profile, Reason string }
		must(t, json.Unmarshal([]byte(line), &c))
		if c.Issuer != "devices" || c.Profile != "device" || len(c.Serial) != 32 {
			t.Errorf("got %+v", c)
		}
		revoked = append(revoked, c.Reason)
	}
	if slices.Sort(revoked); f.Rows != 3 || !slices.Equal(revoked, []string{"", "", "keyCompromise"}) {
		t.Errorf("got %d rows, reasons %q", f.Rows, revoked)
	}
	if again, _ := written(t, p, export.Query{What: export.Certificates, Format: "jsonl", Issuer: "devices", Profile: "device"}); again != text {
		t.Error("the same export again is another one")
	}
}

func TestATamperedExportFails(t *testing.T) {
	p := apptest.Start(t, nil)
	p.Add(t, device.Spec{Name: "meter-1", Profile: "device"})
	text, f := written(t, p, export.Query{What: export.Devices, Format: "jsonl"})
	v := verifier(t, p)
	if _, err := export.Verify(strings.NewReader(text), f.Manifest, v); err != nil {
		t.Fatal(err)
	}
	_, foreign, err := note.GenerateKey(rand.Reader, p.Config.AuditOrigin())
	must(t, err)
	other, err := note.NewVerifier(foreign)
	must(t, err)
	for name, row := range map[string]struct {
		text     string
		manifest []byte
		v        note.Verifier
	}{
		"a changed row":      {strings.Replace(text, "meter-1", "meter-2", 1), f.Manifest, v},
		"a row left out":     {"", f.Manifest, v},
		"a row more":         {text + "{}\n", f.Manifest, v},
		"a changed manifest": {text, bytes.Replace(f.Manifest, []byte("rows: "), []byte("rows: 1"), 1), v},
		"another key":        {text, f.Manifest, other},
		"a checkpoint":       {text, checkpoint(t, p), v},
		"nothing":            {text, nil, v},
	} {
		if _, err := export.Verify(strings.NewReader(row.text), row.manifest, row.v); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func checkpoint(t *testing.T, p *apptest.Platform) []byte {
	t.Helper()
	signed, _, err := p.Audit.Checkpoint(t.Context())
	must(t, err)
	return signed
}

func TestWhatCannotBeExported(t *testing.T) {
	p := apptest.Start(t, nil)
	for _, row := range []struct {
		actor access.Actor
		q     export.Query
		kind  errs.Kind
	}{
		{access.Device("dd", "api"), export.Query{What: export.Devices, Format: "csv"}, errs.Denied},
		{apptest.Operator(), export.Query{What: "keys", Format: "csv"}, errs.Invalid},
		{apptest.Operator(), export.Query{What: export.Devices, Format: "xml"}, errs.Invalid},
		{apptest.Operator(), export.Query{What: export.Devices, Format: "csv", Issuer: "devices"}, errs.Invalid},
		{apptest.Operator(), export.Query{What: export.Devices, Format: "csv", State: "nope"}, errs.Invalid},
		{apptest.Operator(), export.Query{What: export.Certificates, Format: "csv", Group: "hall"}, errs.Invalid},
		{apptest.Operator(), export.Query{What: export.Certificates, Format: "csv", Issuer: "nobody"}, errs.Invalid},
	} {
		if _, err := p.Export.Write(t.Context(), row.actor, row.q, nil); !errs.Is(err, row.kind) {
			t.Errorf("%+v: got %v, want %s", row.q, err, row.kind)
		}
	}
}
