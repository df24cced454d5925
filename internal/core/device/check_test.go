package device

import (
	"context"
	"strings"
	"testing"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

func revokeEntry(c Claim) audit.Entry {
	return audit.Entry{Action: "cert.revoke", Actor: "operator:bb", Device: c.ID.String(), Serial: keyOfSerial(c.Serial).String()}
}

// TestEveryFlipIsNamed changes one column of one row at a time behind the registry's back.
func TestEveryFlipIsNamed(t *testing.T) {
	w := newWorld(t)
	w.add(t, Spec{Name: "z"})
	d := w.add(t, Spec{Name: "a", Group: "g", Tags: map[string]string{"k": "v"}, Names: []string{"dns:a.example"}, Birth: birthCertificate(t, "a")})
	text, _, err := w.Token(t.Context(), operator, d.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	d = w.load(t, d.ID)
	c := w.claim(d, 1)
	if c.Token, err = HashToken(text); err != nil {
		t.Fatal(err)
	}
	next := w.claim(d, 2)
	next.Prev = c.Serial
	for _, c := range []Claim{c, next} {
		if refused := w.enrol(t, c); refused[0] != nil {
			t.Fatal(refused[0])
		}
	}
	if found := w.verify(t); found != nil {
		t.Fatalf("verify before: got %q, want nothing", found)
	}
	id, admin := d.ID.String(), "device "+d.ID.String()+": name, names, group, tags, profile, state or birth certificate was changed"
	flips := []struct{ table, set, want string }{
		{"device", "name = 'b'", admin},
		{"device", "names = 'dns:b.example'", admin},
		{"device", "profile = 'staff'", admin},
		{"device", "grp = 'h'", admin},
		{"device", "tags = 'k=w'", admin},
		{"device", "tags = ''", admin},
		{"device", "state = 3", admin},
		{"device", "state = 5", admin},
		{"device", "state = 1", "device " + id + ": the row says registered, but the record knows 2 certificates"},
		{"device", "issued = 1", "device " + id + ": the row counts 1 certificates, the record 2"},
		{"device", "token = id", "device " + id + ": the token was changed"},
		{"device", "token_salt = id", "device " + id + ": the token was changed"},
		{"device", "token_until = token_until + 1", "device " + id + ": the end of the token was changed"},
		{"device", "token_used = 0", "device " + id + ": the use of the token was changed"},
		{"slot", "serial = prev_serial", "slot " + id + "/operational: the row holds certificate 0101"},
		{"slot", "prev_serial = serial", "slot " + id + "/operational: the row holds the certificate before as 0202"},
		{"slot", "revoked = 7", "slot " + id + "/operational: the row and the record disagree on whether"},
		{"slot", "slot = 'vpn'", "slot " + id + "/vpn: nobody recorded that certificate 0202"},
		{"slot", "slot = 'vpn'", "slot " + id + "/operational: the row is missing"},
		{"slot", "issuer = serial", "slot " + id + "/operational: the row does not have the end, the CA and the key of certificate 0202"},
		{"slot", "alg = 'x'", "slot " + id + "/operational: the row does not have the end, the CA and the key of certificate 0202"},
		{"slot", "fingerprint = serial", "slot " + id + "/operational: a birth certificate was put there"},
		{"birthslot", "fingerprint = spki", admin},
		{"birthslot", "issuer = spki", "slot " + id + "/birth: nobody recorded that certificate"},
		{"birthslot", "alg = 'x'", "slot " + id + "/birth: nobody recorded that certificate"},
		{"birthslot", "serial = spki", "slot " + id + "/birth: nobody recorded that certificate"},
	}
	where := map[string]string{"device": "name = 'a'", "slot": "slot = 'operational'", "birthslot": "slot = 'birth'"}
	for _, flip := range flips {
		text := "UPDATE " + strings.TrimPrefix(flip.table, "birth") + " SET " + flip.set + " WHERE " + where[flip.table]
		w.flip(t, text, flip.want)
	}
	for text, want := range map[string]string{
		"DELETE FROM device WHERE name = 'a'":           "device " + id + ": the row is missing",
		"DELETE FROM device":                            "slot " + id + "/operational: the row belongs to no device",
		"DELETE FROM slot WHERE slot = 'operational'":   "slot " + id + "/operational: the row is missing, certificate 0202",
		"DELETE FROM slot WHERE slot = 'birth'":         admin,
		"DELETE FROM birth":                             ": the row is missing or leads to another device than " + id,
		"UPDATE birth SET device = fingerprint":         ": the row is missing or leads to another device than " + id,
		"UPDATE device SET id = token WHERE name = 'a'": "the id has 32 octets",
		"UPDATE device SET cell = cell / 2 + 1":         admin,
		"INSERT INTO birth (cell, fingerprint, device_cell, device) SELECT cell, id, cell, id FROM device WHERE name = 'a'":                                               "which nobody recorded",
		"INSERT INTO slot (cell, device, slot, serial, prev_serial, spki, request, fingerprint) SELECT cell, id, 'x', id, id, id, id, token FROM device WHERE name = 'z'": "/x: nobody recorded that certificate",
	} {
		w.flip(t, text, want)
	}
	if !w.db.Arrays() { // only SQLite stores what does not fit
		w.flip(t, "UPDATE device SET token = name WHERE name = 'a'", "device "+id+": the row cannot be read")
		w.flip(t, "UPDATE slot SET serial = slot WHERE slot = 'operational'", "slot "+id+"/operational: the row cannot be read")
	}
	w.do(t, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO device (cell, id, state, policy, name, profile, token, created, updated) VALUES (7, $1, 1, 1, 'q', 'sensor', $2, 0, 0)`, make([]byte, 16), []byte{})
		return err
	})
	if found := w.verify(t); len(found) != 1 || !strings.Contains(found[0], "device 00000000000000000000000000000000: nobody recorded that it was added") {
		t.Errorf("an unrecorded device: got %q", found)
	}
}

// flip runs text inside a transaction, verifies there, and rolls back.
func (w *world) flip(t *testing.T, text, want string) {
	t.Helper()
	var report error
	err := w.db.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		n, err := tx.Exec(ctx, text)
		if err != nil {
			return err
		}
		if n == 0 {
			t.Errorf("%s: changed no row", text)
		}
		c := w.Checker()
		for _, e := range w.entries(t) {
			if err := c.Entry(e.Index, e.Entry); err != nil {
				return err
			}
		}
		report = c.Finish(ctx, tx)
		return errRollback
	})
	if err != errRollback {
		t.Fatalf("%s: %v", text, err)
	}
	if report == nil || !strings.Contains(report.Error(), want) {
		t.Errorf("%s: got %v, want %q", text, report, want)
	}
}

var errRollback = errorString("put back")

type errorString string

func (e errorString) Error() string { return string(e) }

// entries is the whole record.
func (w *world) entries(t *testing.T) []audit.Indexed {
	t.Helper()
	list, err := w.log.List(t.Context(), admin, audit.Query{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestReplayDoesNotDependOnTheOrder feeds the entries backwards: writers do not wait for each other, so the record's order is not that of the
// commits.
func TestReplayDoesNotDependOnTheOrder(t *testing.T) {
	w := newWorld(t)
	d := w.add(t, Spec{Name: "a"})
	group := "g"
	for range 2 {
		w.must(t, func() error { _, _, err := w.Token(t.Context(), operator, d.ID, 0); return err })
	}
	w.must(t, func() error { _, err := w.Change(t.Context(), operator, d.ID, Change{Group: &group}); return err })
	d = w.load(t, d.ID)
	c := w.claim(d, 1)
	c.Token = d.Token.Hash
	next := w.claim(d, 2)
	next.Prev = c.Serial
	w.enrol(t, c)
	w.enrol(t, next)
	w.must(t, func() error { _, err := w.Move(t.Context(), operator, d.ID, Lose, "left in a train"); return err })
	w.must(t, func() error { return w.log.Sequence(t.Context()) })
	list := w.entries(t)
	err := w.db.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		checker := w.Checker()
		for i := len(list) - 1; i >= 0; i-- {
			if err := checker.Entry(list[i].Index, list[i].Entry); err != nil {
				return err
			}
		}
		return checker.Finish(ctx, tx)
	})
	if err != nil {
		t.Errorf("backwards: got %v, want nothing", err)
	}
}

func TestCheckerNamesBadEntries(t *testing.T) {
	w := newWorld(t)
	id := ID{1}.String()
	for _, e := range []audit.Entry{
		{Action: "device.add", Device: "x"},
		{Action: "device.add", Device: id},
		{Action: "device.add", Device: id, Detail: map[string]string{"policy": "1", "row": "zz"}},
		{Action: "device.token", Device: id, Detail: map[string]string{"policy": "1", "token": "00"}},
		{Action: "device.token", Device: id, Detail: map[string]string{"policy": "2", "token": mark{}.String(), "until": "soon"}},
		{Action: "cert.issue", Device: id, Serial: "x"},
		{Action: "cert.issue", Device: id, Detail: map[string]string{"n": "-1"}},
		{Action: "cert.revoke", Serial: "x"},
	} {
		if err := w.Checker().Entry(1, e); err == nil {
			t.Errorf("%+v: got success", e)
		}
	}
	if err := w.Checker().Entry(1, audit.Entry{Action: "device.add", Refused: "no"}); err != nil {
		t.Errorf("a refused act: got %v, want success", err)
	}
}
