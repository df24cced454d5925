package device

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
)

var (
	admin    = access.Actor{Kind: access.KindOperator, ID: "aa", Role: access.RoleAdmin}
	operator = access.Actor{Kind: access.KindOperator, ID: "bb", Role: access.RoleOperator}
	auditor  = access.Actor{Kind: access.KindOperator, ID: "cc", Role: access.RoleAuditor}
)

// world is a registry on a real database with a real audit record.
type world struct {
	*Registry
	log *audit.Log
	db  *db.DB
	now time.Time
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return worldOn(t, dbtest.Open(t, audit.Schema(), Schema()))
}

func worldOn(t testing.TB, d *db.DB) *world {
	t.Helper()
	w := &world{now: time.Unix(1_800_000_000, 0), db: d}
	clock := func() time.Time { return w.now }
	skey, vkey, err := note.GenerateKey(rand.Reader, "test.example/log")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	w.log = audit.New(w.db, audit.Options{Origin: "test.example/log", Signer: signer, Verifier: verifier, BatchKey: make([]byte, 32), Now: clock})
	w.Registry = New(Deps{DB: w.db, Audit: w.log, Access: access.NewDecider(w.log), Key: bytes.Repeat([]byte{7}, 32), Now: clock,
		Own: []string{"dns:pki.test", "ip:2001:DB8::1"},
		ProfileGrants: func(p string) (bool, access.Role) {
			switch p {
			case "sensor", "gateway":
				return true, access.RoleNone
			case "staff":
				return true, access.RoleOperator
			}
			return false, access.RoleNone
		}})
	return w
}

func (w *world) add(t testing.TB, s Spec) Device {
	t.Helper()
	if s.Profile == "" {
		s.Profile = "sensor"
	}
	d, err := w.Add(t.Context(), admin, s)
	if err != nil {
		t.Fatalf("adding %q: %v", s.Name, err)
	}
	return d
}

func (w *world) do(t testing.TB, fn func(ctx context.Context, tx *db.Tx) error) {
	t.Helper()
	if err := w.db.Do(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

// enrol claims, fills the slots and records, as package enrol does.
func (w *world) enrol(t testing.TB, claims ...Claim) []error {
	t.Helper()
	var refused []error
	w.do(t, func(ctx context.Context, tx *db.Tx) error {
		var err error
		if refused, err = w.ClaimTx(ctx, tx, claims); err != nil {
			return err
		}
		var accepted []Claim
		var entries []audit.Entry
		for i, c := range claims {
			if refused[i] != nil {
				continue
			}
			accepted = append(accepted, c)
			e := audit.Entry{Action: "cert.issue", Actor: "device:" + c.ID.String(), Device: c.ID.String(), Serial: keyOfSerial(c.Serial).String()}
			e.Detail = map[string]string{"not_after": strconv.FormatInt(c.NotAfter, 10), "spki": hex.EncodeToString(c.SPKI), "issuer": hex.EncodeToString(c.Issuer)}
			c.Annotate(&e)
			entries = append(entries, e)
		}
		if err := tx.Send(ctx, w.SlotStmts(tx, accepted)...); err != nil {
			return err
		}
		return w.log.Append(ctx, tx, entries...)
	})
	return refused
}

func (w *world) claim(d Device, n byte) Claim {
	return Claim{ID: d.ID, Cell: d.Cell, Policy: d.Policy, Slot: "operational", Serial: bytes.Repeat([]byte{n}, 16), NotAfter: w.now.Unix() + 1000*int64(n),
		SPKI: bytes.Repeat([]byte{n}, 32), Request: bytes.Repeat([]byte{n + 1}, 32), At: w.now.Unix(),
		Issuer: bytes.Repeat([]byte{9}, 8), Key: "ec-p256"}
}

func (w *world) load(t testing.TB, id ID) Device {
	t.Helper()
	d, err := w.Load(t.Context(), id)
	if err != nil {
		t.Fatalf("loading %s: %v", id, err)
	}
	return d
}

// verify returns what the verification of the record finds in the registry's tables.
func (w *world) verify(t testing.TB) []string {
	t.Helper()
	report, err := w.log.Verify(t.Context(), audit.VerifyOptions{Checkers: []audit.Checker{w.Checker()}})
	if err != nil {
		t.Fatalf("verifying: %v", err)
	}
	var found []string
	for _, f := range report.Findings {
		found = append(found, f.String())
	}
	return found
}

func birthCertificate(t testing.TB, name string) []byte { return someCertificate(t, name, false) }

func someCertificate(t testing.TB, name string, ca bool) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(77), Subject: pkix.Name{CommonName: name}, NotBefore: time.Unix(1_700_000_000, 0), NotAfter: time.Unix(2_000_000_000, 0),
		BasicConstraintsValid: ca, IsCA: ca}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestAddGetAndFindByBirth(t *testing.T) {
	w := newWorld(t)
	der := birthCertificate(t, "pump-1")
	spec := Spec{Name: "pump-1", Names: []string{"dns:Pump-1.example", "ip:2001:db8:0::1"}, Group: "site-a", Tags: map[string]string{"floor": "2", "room": "boiler room"}, Profile: "sensor", Birth: der}
	d := w.add(t, spec)
	w.add(t, Spec{Name: "pump-2"})

	byName, err := w.Get(t.Context(), auditor, "pump-1")
	if err != nil || !reflect.DeepEqual(byName.Names, []string{"dns:pump-1.example", "ip:2001:db8::1"}) || byName.Group != "site-a" ||
		!reflect.DeepEqual(byName.Tags, spec.Tags) || byName.State != Registered || byName.Policy != 1 || byName.Created != w.now.Unix() {
		t.Errorf("Get by name: got %+v, %v", byName, err)
	}
	byID, err := w.Get(t.Context(), auditor, d.ID.String())
	if err != nil || !reflect.DeepEqual(byID, byName) {
		t.Errorf("Get by id: got %+v, %v, want %+v", byID, err, byName)
	}
	fingerprint := sha256.Sum256(der)
	byBirth, err := w.ByBirth(t.Context(), fingerprint)
	if err != nil || byBirth.ID != d.ID {
		t.Errorf("ByBirth: got %s, %v, want %s", byBirth.ID, err, d.ID)
	}
	s, ok := byName.Slot(SlotBirth)
	if !ok || !bytes.Equal(s.Fingerprint, fingerprint[:]) || s.NotAfter != 2_000_000_000 || len(s.SPKI) != 32 {
		t.Errorf("birth slot: got %+v, %v", s, ok)
	}
	if _, err := w.Get(t.Context(), auditor, "pump-3"); !errs.Is(err, errs.NotFound) {
		t.Errorf("Get of nothing: got %v, want NotFound", err)
	}
	if _, err := w.ByBirth(t.Context(), [32]byte{1}); !errs.Is(err, errs.NotFound) {
		t.Errorf("ByBirth of nothing: got %v, want NotFound", err)
	}
	id, cell := w.IDOf("pump-1")
	if id != d.ID || cell != d.Cell || cell != w.CellOf(id) {
		t.Errorf("IDOf: got %s %d, want %s %d", id, cell, d.ID, d.Cell)
	}
}

func TestAddRefuses(t *testing.T) {
	w := newWorld(t)
	der := birthCertificate(t, "x")
	w.add(t, Spec{Name: "known", Birth: der})
	long := strings.Repeat("x", 129)
	tests := []struct {
		spec Spec
		kind errs.Kind
		text string
	}{
		{Spec{Profile: "sensor"}, errs.Invalid, "name: required"},
		{Spec{Name: "a b", Profile: "sensor"}, errs.Invalid, `name: "a b": must be 1 to 128 characters: letters, digits and . _ - : @ / + without blanks`},
		{Spec{Name: long, Profile: "sensor"}, errs.Invalid, `name: "` + long[:64] + `"…: must be 1 to 128 characters: letters, digits and . _ - : @ / + without blanks`},
		{Spec{Name: "a", Group: "ä", Profile: "sensor"}, errs.Invalid, `group: "ä": must be at most 64 characters: letters, digits and . _ - : @ / + without blanks`},
		{Spec{Name: "a"}, errs.Invalid, "profile: required"},
		{Spec{Name: "a", Profile: "nope"}, errs.Invalid, `profile: unknown profile "nope"`},
		{Spec{Name: "a", Profile: "sensor", Tags: map[string]string{"": "v"}}, errs.Invalid, `tags: key "": must be 1 to 64 characters: letters, digits and . _ - : @ / + without blanks`},
		{Spec{Name: "a", Profile: "sensor", Tags: map[string]string{"k": "a;b"}}, errs.Invalid, `tags: value of "k": must be at most 128 octets of printable text without a semicolon`},
		{Spec{Name: "a", Profile: "sensor", Names: []string{"dns:*.example"}}, errs.Invalid, `names: "dns:*.example": must be a DNS name of letters, digits and hyphens, without a wildcard`},
		{Spec{Name: "a", Profile: "sensor", Names: []string{"ip:1.2.3"}}, errs.Invalid, `names: "ip:1.2.3": must be an IPv4 or IPv6 address without a zone`},
		{Spec{Name: "a", Profile: "sensor", Names: []string{"uri:here"}}, errs.Invalid, `names: "uri:here": must be an absolute URI of at most 512 ASCII characters without blanks or a semicolon`},
		{Spec{Name: "a", Profile: "sensor", Names: []string{"email:x"}}, errs.Invalid, `names: "email:x": must be a mail address of at most 254 ASCII characters`},
		{Spec{Name: "a", Profile: "sensor", Names: []string{"a.example"}}, errs.Invalid, `names: "a.example": must begin with dns:, ip:, uri: or email:`},
		{Spec{Name: "a", Profile: "sensor", Names: []string{"dns:a.example", "dns:A.example"}}, errs.Invalid, `names: "dns:a.example": given twice`},
		{Spec{Name: "a", Profile: "sensor", Birth: []byte("no")}, errs.Invalid, "birth: not an X.509 certificate in DER"},
		{Spec{Name: "a", Profile: "sensor", Birth: someCertificate(t, "a CA", true)}, errs.Invalid,
			"birth: this is the certificate of a CA, with which no device can enrol: give the certificate that the CA issued to the device"},
		{Spec{Name: "known", Profile: "sensor"}, errs.Conflict, `name: a device "known" exists already`},
		{Spec{Name: "a", Profile: "sensor", Birth: der}, errs.Conflict, "birth: another device is known by this certificate"},
	}
	for _, test := range tests {
		_, err := w.Add(t.Context(), admin, test.spec)
		if !errs.Is(err, test.kind) || errs.Public(err) != test.text {
			t.Errorf("Add(%+v): got %v %q, want %v %q", test.spec, errs.KindOf(err), errs.Public(err), test.kind, test.text)
		}
	}
	if found := w.verify(t); found != nil {
		t.Errorf("verify after refusals: got %q, want nothing", found)
	}
}

// TestPermissions calls every method that takes an actor as somebody who may not, and looks for the recorded refusal.
func TestPermissions(t *testing.T) {
	w := newWorld(t)
	d := w.add(t, Spec{Name: "a"})
	staff := w.add(t, Spec{Name: "s", Profile: "staff"})
	self := w.add(t, Spec{Name: "mooring", Profile: "sensor", Names: []string{"dns:pki.test"}})
	ctx := t.Context()
	group, profile := "g", "staff"
	stranger := access.Actor{}
	calls := map[string]func() error{
		"Add":     func() error { _, err := w.Add(ctx, auditor, Spec{Name: "b", Profile: "sensor"}); return err },
		"Change":  func() error { _, err := w.Change(ctx, auditor, d.ID, Change{Group: &group}); return err },
		"Move":    func() error { _, err := w.Move(ctx, auditor, d.ID, Suspend, ""); return err },
		"Token":   func() error { _, _, err := w.Token(ctx, auditor, d.ID, 0); return err },
		"Import":  func() error { _, err := w.Import(ctx, auditor, Source{}, nil); return err },
		"Get":     func() error { _, err := w.Get(ctx, stranger, "a"); return err },
		"List":    func() error { _, _, err := w.List(ctx, stranger, Filter{}); return err },
		"Grant 1": func() error { _, err := w.Add(ctx, operator, Spec{Name: "b", Profile: "staff"}); return err },
		"Grant 2": func() error { _, err := w.Change(ctx, operator, staff.ID, Change{Group: &group}); return err },
		"Grant 3": func() error { _, err := w.Change(ctx, operator, d.ID, Change{Profile: &profile}); return err },
		"Grant 4": func() error { _, _, err := w.Token(ctx, operator, staff.ID, 0); return err },
		"Grant 5": func() error { _, err := w.Move(ctx, operator, staff.ID, Resume, ""); return err },
		"Own 1": func() error {
			_, err := w.Add(ctx, operator, Spec{Name: "b", Profile: "sensor", Names: []string{"dns:a.test", "dns:PKI.test"}})
			return err
		},
		"Own 2": func() error {
			_, err := w.Change(ctx, operator, d.ID, Change{Names: &[]string{"ip:2001:db8:0::1"}})
			return err
		},
		"Own 3": func() error { _, err := w.Add(ctx, operator, Spec{Name: "pki.Test", Profile: "sensor"}); return err },
		"Own 4": func() error { _, _, err := w.Token(ctx, operator, self.ID, 0); return err },
		"Own 5": func() error { _, err := w.Change(ctx, operator, self.ID, Change{Group: &group}); return err },
		"Own 6": func() error {
			_, err := w.Import(ctx, operator, Source{R: strings.NewReader("name,profile,names\nb,sensor,dns:pki.test\n"), Format: "csv"}, nil)
			return err
		},
		"Grant 7": func() error { _, err := w.Move(ctx, operator, staff.ID, Suspend, "stolen badge"); return err },
		"Grant 6": func() error {
			_, err := w.Import(ctx, operator, Source{R: strings.NewReader("name,profile\nb,staff\n"), Format: "csv"}, nil)
			return err
		},
	}
	for name, call := range calls {
		if err := call(); !errs.Is(err, errs.Denied) {
			t.Errorf("%s: got %v, want Denied", name, err)
		}
	}
	if _, err := w.Move(ctx, admin, staff.ID, Suspend, "stolen badge"); err != nil {
		t.Errorf("an administrator suspends what grants a role: got %v, want success", err)
	}
	if err := w.log.Sequence(ctx); err != nil {
		t.Fatal(err)
	}
	list, err := w.log.List(ctx, admin, audit.Query{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	refusals := 0
	for _, e := range list {
		if e.Refused != "" {
			refusals++
		}
	}
	if refusals < len(calls)-2 { // a stranger's are counted together
		t.Errorf("recorded refusals: got %d, want about %d", refusals, len(calls))
	}
}

func mustSlot(t testing.TB, d Device, name string) Slot {
	t.Helper()
	s, ok := d.Slot(name)
	if !ok {
		t.Fatalf("device %s has no slot %q", d.ID, name)
	}
	return s
}

func TestChange(t *testing.T) {
	w := newWorld(t)
	first, second := birthCertificate(t, "one"), birthCertificate(t, "two")
	d := w.add(t, Spec{Name: "a", Group: "g1", Birth: first})
	w.enrol(t, w.claim(d, 1))
	group, tags, names, profile := "g2", map[string]string{"k": "v"}, []string{"dns:a.example"}, "gateway"
	if _, err := w.Change(t.Context(), operator, d.ID, Change{Group: &group, Tags: &tags, Names: &names, Profile: &profile, Birth: &second}); err != nil {
		t.Fatal(err)
	}
	got := w.load(t, d.ID)
	if got.Group != "g2" || !reflect.DeepEqual(got.Tags, tags) || !reflect.DeepEqual(got.Names, names) || got.Profile != "gateway" || got.Policy != 2 || got.State != Enrolled {
		t.Errorf("after Change: got %+v", got)
	}
	if _, err := w.ByBirth(t.Context(), sha256.Sum256(first)); !errs.Is(err, errs.NotFound) {
		t.Errorf("the old birth certificate: got %v, want NotFound", err)
	}
	if b, err := w.ByBirth(t.Context(), sha256.Sum256(second)); err != nil || b.ID != d.ID {
		t.Errorf("the new birth certificate: got %s, %v", b.ID, err)
	}
	if s, _ := got.Slot(SlotBirth); bytes.Equal(s.SPKI, mustSlot(t, d, SlotBirth).SPKI) || len(s.SPKI) != 32 {
		t.Errorf("key of the new birth certificate: got %x, the old one or none", s.SPKI)
	}
	page, _, err := w.List(t.Context(), operator, Filter{Group: "g2", ExpiresBefore: w.now.Unix() + 10_000})
	if err != nil || len(page) != 1 {
		t.Errorf("expiring in the new group: got %d, %v, want 1", len(page), err)
	}
	none := []byte{}
	if _, err := w.Change(t.Context(), operator, d.ID, Change{Birth: &none}); err != nil {
		t.Fatal(err)
	}
	if got := w.load(t, d.ID); len(got.Slots) != 1 {
		t.Errorf("slots without a birth certificate: got %+v, want operational alone", got.Slots)
	}
	if _, err := w.Move(t.Context(), operator, d.ID, Retire, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Change(t.Context(), operator, d.ID, Change{Group: &group}); !errs.Is(err, errs.Conflict) {
		t.Errorf("changing a retired device: got %v, want Conflict", err)
	}
	if _, err := w.Change(t.Context(), operator, ID{1}, Change{Group: &group}); !errs.Is(err, errs.NotFound) {
		t.Errorf("changing nothing: got %v, want NotFound", err)
	}
	if found := w.verify(t); found != nil {
		t.Errorf("verify: got %q, want nothing", found)
	}
}

// TestMoves walks through the whole table.
func TestMoves(t *testing.T) {
	allowed := map[string]State{
		"registered suspend": Suspended, "registered lost": Lost, "registered retire": Retired,
		"enrolled suspend": Suspended, "enrolled lost": Lost, "enrolled retire": Retired,
		"suspended resume": Registered, "suspended lost": Lost, "suspended retire": Retired,
		"lost retire": Retired,
	}
	for _, from := range States() {
		for _, m := range Moves() {
			want, ok := allowed[from.String()+" "+string(m)]
			got, err := from.after(m, 0)
			if ok != (err == nil) || got != want {
				t.Errorf("%s from %s: got %s, %v, want %s", m, from, got, err, want)
			}
			if !ok && !errs.Is(err, errs.Conflict) {
				t.Errorf("%s from %s: got %v, want Conflict", m, from, err)
			}
		}
	}
	_, err := Lost.after(Resume, 1)
	if want := `a device that is lost cannot be moved by "resume": possible is retire`; errs.Public(err) != want {
		t.Errorf("text: got %q, want %q", errs.Public(err), want)
	}
	for _, s := range States() {
		if got, err := ParseState(s.String()); err != nil || got != s {
			t.Errorf("ParseState(%q): got %v, %v", s.String(), got, err)
		}
	}
	if _, err := ParseState("gone"); !errs.Is(err, errs.Invalid) {
		t.Errorf("ParseState: got %v, want Invalid", err)
	}
	if _, err := ParseMove("gone"); !errs.Is(err, errs.Invalid) {
		t.Errorf("ParseMove: got %v, want Invalid", err)
	}
}

func TestMoveStopsEnrolment(t *testing.T) {
	w := newWorld(t)
	d := w.add(t, Spec{Name: "a"})
	w.enrol(t, w.claim(d, 1))
	decided := w.load(t, d.ID)
	if _, err := w.Move(t.Context(), operator, d.ID, Suspend, "odd traffic"); err != nil {
		t.Fatal(err)
	}
	if refused := w.enrol(t, w.claim(decided, 2)); !errs.Is(refused[0], errs.Denied) || errs.Public(refused[0]) != "this device is suspended: it may not enrol; ask its operator" {
		t.Errorf("claim of a suspended device: got %v", refused[0])
	}
	back, err := w.Move(t.Context(), operator, d.ID, Resume, "")
	if err != nil || back.State != Enrolled {
		t.Fatalf("resume: got %s, %v, want enrolled", back.State, err)
	}
	if refused := w.enrol(t, w.claim(decided, 2)); !errs.Is(refused[0], errs.Conflict) {
		t.Errorf("claim decided before the moves: got %v, want Conflict", refused[0])
	}
	if refused := w.enrol(t, w.claim(w.load(t, d.ID), 2)); refused[0] != nil {
		t.Errorf("claim decided anew: got %v, want success", refused[0])
	}
	if _, err := w.Move(t.Context(), operator, d.ID, Suspend, strings.Repeat("x", 201)); !errs.Is(err, errs.Invalid) {
		t.Errorf("a long reason: got %v, want Invalid", err)
	}
	if found := w.verify(t); found != nil {
		t.Errorf("verify: got %q, want nothing", found)
	}
}

func TestTokens(t *testing.T) {
	w := newWorld(t)
	d := w.add(t, Spec{Name: "a"})
	text, until, err := w.Token(t.Context(), operator, d.ID, 0)
	if err != nil || until != w.now.Add(7*24*time.Hour).Unix() || !strings.HasPrefix(text, "mt_") || len(text) != 39 {
		t.Fatalf("Token: got %q, %d, %v", text, until, err)
	}
	hash, err := HashToken(" " + strings.ToUpper(text) + "\n")
	if err != nil {
		t.Fatalf("HashToken: %v", err)
	}
	d = w.load(t, d.ID)
	if bytes.Contains(d.Token.Hash, []byte(text)) || len(d.Token.Hash) != 32 {
		t.Errorf("stored: got %x", d.Token.Hash)
	}
	other := sha256.Sum256([]byte("other"))
	used, expired, none := d, d, Device{}
	used.Token.Used = 1
	expired.Token.Until = w.now.Unix()
	for _, test := range []struct {
		name string
		d    Device
		hash []byte
		want error
	}{
		{"good", d, hash, nil}, {"wrong", d, other[:], ErrTokenWrong}, {"empty", d, nil, ErrTokenWrong}, {"used", used, hash, ErrTokenUsed},
		{"expired", expired, hash, ErrTokenExpired}, {"used, but another", used, other[:], ErrTokenWrong}, {"no device", none, hash, ErrTokenWrong},
		{"no device, zero hash", none, make([]byte, 32), ErrTokenWrong},
	} {
		if err := test.d.TokenMatches(test.hash, w.now.Unix()); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
	}

	c := w.claim(d, 1)
	c.Token = other[:]
	if refused := w.enrol(t, c); refused[0] != ErrTokenWrong {
		t.Errorf("claim by a wrong token: got %v", refused[0])
	}
	late := w.claim(d, 1)
	late.Token, late.At = hash, until
	if refused := w.enrol(t, late); refused[0] != ErrTokenExpired {
		t.Errorf("claim by an expired token: got %v", refused[0])
	}
	c.Token = hash
	if refused := w.enrol(t, c); refused[0] != nil {
		t.Errorf("claim: got %v, want success", refused[0])
	}
	if refused := w.enrol(t, c); refused[0] != ErrTokenUsed {
		t.Errorf("claim again: got %v", refused[0])
	}
	stranger := w.claim(Device{ID: ID{9}, Policy: 1}, 1)
	stranger.Token = hash
	if refused := w.enrol(t, stranger); refused[0] != ErrTokenWrong {
		t.Errorf("claim for no device: got %v, want the text of a wrong token", refused[0])
	}
	if found := w.verify(t); found != nil {
		t.Errorf("verify: got %q, want nothing", found)
	}
	if _, _, err := w.Token(t.Context(), operator, d.ID, 91*24*time.Hour); !errs.Is(err, errs.Invalid) {
		t.Errorf("a long life: got %v, want Invalid", err)
	}
	if _, err := w.Move(t.Context(), operator, d.ID, Lose, ""); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Token(t.Context(), operator, d.ID, 0); !errs.Is(err, errs.Conflict) {
		t.Errorf("a token for a lost device: got %v, want Conflict", err)
	}
}

// TestTokenTypos changes each character of a token in turn: a typing error must be told from a wrong token.
func TestTokenTypos(t *testing.T) {
	text := encodeTokenText(bytes.Repeat([]byte{0x5a}, tokenSize))
	missed := 0
	for i := len(tokenPrefix); i < len(text); i++ {
		for _, c := range "abcdefghijklmnopqrstuvwxyz234567" {
			typo := text[:i] + string(c) + text[i+1:]
			if _, err := HashToken(typo); typo != text && err == nil {
				missed++
			} else if typo != text && !errs.Is(err, errs.Invalid) {
				t.Fatalf("HashToken(%q): got %v, want Invalid", typo, err)
			}
		}
	}
	if missed != 0 {
		t.Errorf("typing errors that pass: got %d, want 0", missed)
	}
	for _, bad := range []string{"", "mt_", text[:38], text + "a", "xx_" + text[3:], strings.Replace(text, text[5:6], "1", 1)} {
		if _, err := HashToken(bad); !errs.Is(err, errs.Invalid) {
			t.Errorf("HashToken(%q): got %v, want Invalid", bad, err)
		}
	}
}

func FuzzHashToken(f *testing.F) {
	f.Add("mt_")
	f.Add(encodeTokenText(make([]byte, tokenSize)))
	f.Fuzz(func(t *testing.T, text string) {
		hash, err := HashToken(text)
		if (err == nil) != (len(hash) == 32) {
			t.Errorf("HashToken(%q): got %x, %v", text, hash, err)
		}
	})
}

func TestSeen(t *testing.T) {
	w := newWorld(t)
	var ids []ID
	for i := range 2500 {
		var id ID
		id[0], id[1] = byte(i), byte(i>>8)
		ids = append(ids, id)
		w.Seen(id, 100)
	}
	d := w.add(t, Spec{Name: "a"})
	w.Seen(d.ID, 500)
	w.Seen(d.ID, 400)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Run(ctx); err != nil {
		t.Fatal(err)
	}
	lastSeen := func() int64 {
		t.Helper()
		got, err := w.Get(t.Context(), operator, d.ID.String())
		if err != nil {
			t.Fatal(err)
		}
		return got.LastSeen
	}
	if got := lastSeen(); got != 500 {
		t.Errorf("last seen: got %d, want 500", got)
	}
	w.Seen(d.ID, 450) // an older note that comes late
	if err := w.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if got := lastSeen(); got != 500 {
		t.Errorf("last seen after an older note: got %d, want 500", got)
	}
	var n int64
	w.do(t, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&n}, `SELECT count(*) FROM last_seen`)
		return err
	})
	if n != int64(len(ids))+1 {
		t.Errorf("rows: got %d, want %d", n, len(ids)+1)
	}
	for i := range seenMost + 10 {
		w.Seen(ID{byte(i), byte(i >> 8), byte(i >> 16)}, 1)
	}
	if len(w.seen.at) != seenMost {
		t.Errorf("remembered: got %d, want the bound %d", len(w.seen.at), seenMost)
	}
}

// TestWildcardsForThePlatform looks at names that are the platform's own by a wildcard, which stands for exactly one label.
func TestWildcardsForThePlatform(t *testing.T) {
	w := newWorld(t) // pki.test and 2001:db8::1
	d := w.add(t, Spec{Name: "a"})
	for name, own := range map[string]bool{
		"dns:pki.test": true, "dns:PKI.Test": true, "dns:*.test": true, "dns:*.TEST": true, "ip:2001:db8::1": true,
		"dns:*.pki.test": false, "dns:*.com": false, "dns:test": false, "dns:other.test": false, "dns:*.st": false, "ip:2001:db8::2": false, "dns:*.": false,
	} {
		if err := w.NotOwn(&d, []string{"dns:harmless.example", name}); errs.Is(err, errs.Denied) != own {
			t.Errorf("%s: got %v, want a refusal: %v", name, err, own)
		}
		if w.owns([]string{name}) != own {
			t.Errorf("%s counts as the platform's own: %v, want %v", name, !own, own)
		}
	}
	d.Names = []string{"dns:pki.test"}
	if err := w.NotOwn(&d, []string{"dns:PKI.test"}); err != nil {
		t.Errorf("a name that is registered for the device: %v", err)
	}
	if err := w.NotOwn(&d, []string{"dns:*.test"}); !errs.Is(err, errs.Denied) {
		t.Errorf("a wildcard where one of its names is registered: got %v, want a refusal", err)
	}
}

// TestManyLoads reads any number of devices at once, some with certificates and one that is not there, as one by one.
func TestManyLoads(t *testing.T) {
	w := newWorld(t)
	var ids []ID
	for i := range 10 {
		d := w.add(t, Spec{Name: fmt.Sprintf("d%d", i)})
		ids = append(ids, d.ID)
		for slot := range i % 3 {
			c := w.claim(d, byte(10*i+slot))
			c.Slot = fmt.Sprintf("slot-%d", slot)
			w.enrol(t, c)
		}
	}
	missing, _ := w.IDOf("nobody")
	ids = slices.Insert(ids, 3, missing)
	for n := range len(ids) + 1 {
		w.do(t, func(ctx context.Context, tx *db.Tx) error {
			got, err := w.loadMany(ctx, tx, ids[:n])
			if err != nil {
				return err
			}
			if want := n - min(n/4, 1); len(got) != want {
				t.Errorf("%d at once: got %d devices, want %d", n, len(got), want)
			}
			for id, d := range got {
				one, err := w.LoadTx(ctx, tx, id)
				if err != nil {
					return err
				}
				one.LastSeen = d.LastSeen // what decides does not read the sighting
				if !reflect.DeepEqual(d, one) {
					t.Errorf("%d at once: got %+v, alone %+v", n, d, one)
				}
			}
			return nil
		})
	}
}
