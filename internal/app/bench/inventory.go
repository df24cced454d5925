package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"mooring/internal/app"
	"mooring/internal/base/db"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
)

// InventoryOptions say what Inventory measures.
type InventoryOptions struct {
	Database   string // "sqlite", or the URL of a PostgreSQL server, in which a schema is made and dropped
	Registered int    // devices, each with a certificate
	Rounds     int    // measurements of each page; the slowest counts
	// Progress, if not nil, is told what is being done.
	Progress func(text string)
}

// InventoryLine is the result for one combination of filters. Times are the slowest of all rounds, in milliseconds.
type InventoryLine struct {
	Bench      string  `json:"bench"`
	Case       string  `json:"case"`
	Registered int     `json:"registered"`
	Matches    int64   `json:"matches"`                   // devices that pass the filter
	First      float64 `json:"first_ms"`                  // the first page of 100
	Middle     float64 `json:"middle_ms"`                 // a page of 100 from the middle of the registry, or of the ends of certificates
	Large      float64 `json:"large_ms"`                  // the first page of 1,000
	Count      float64 `json:"count_ms"`                  // the exact count
	CPU        float64 `json:"cpu_ms"`                    // CPU time of the dearest of these four, the median of the rounds, that of the database included
	Database   float64 `json:"database_cpu_ms,omitempty"` // of it, what a PostgreSQL server used, the mean of the rounds: its clock is coarse
}

// Inventory measures pages of lists of devices by combinations of filters, common and rare, and such that hardly anything or nothing passes
// though each filter alone is passed by many. It works on the registry itself, without HTTP.
func Inventory(ctx context.Context, o InventoryOptions, print func(InventoryLine) error) (err error) {
	parent, err := os.MkdirTemp("", "mooring-bench-")
	if err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(parent)) }()
	c, err := app.Loopback("Mooring Bench")
	if err != nil {
		return err
	}
	c.Log.Level = "warn"
	postmaster := 0
	if kind(o.Database) == "postgres" {
		url, drop, err := schema(ctx, o.Database)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, drop()) }()
		c.Database.URL = url
		if postmaster, err = postmasterOf(ctx, o.Database); err != nil {
			return err
		}
	}
	if _, err := app.Init(ctx, app.InitOptions{Dir: filepath.Join(parent, "data"), Config: c}); err != nil {
		return err
	}
	p, err := app.Open(ctx, app.Options{Config: c})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	f := &crowd{Platform: p, o: o, actor: access.Actor{Kind: access.KindLocal, ID: "bench", Role: access.RoleAdmin}, now: time.Now().Unix(), postmaster: postmaster}
	for _, step := range []func(context.Context) error{f.register, f.certify, f.move, f.index} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if postmaster > 0 {
		if err := settle(ctx, c.Database.URL); err != nil {
			return err
		}
	}
	for _, c := range f.cases() {
		l, err := f.measure(ctx, c)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if err := print(l); err != nil {
			return err
		}
	}
	return nil
}

// crowd is a registry that is filled and asked.
type crowd struct {
	*app.Platform
	o          InventoryOptions
	actor      access.Actor
	postmaster int // process of the PostgreSQL server; 0 = SQLite
	now        int64
	main       ca.IssuerID // of nearly all certificates
	other      ca.IssuerID // of one in twenty
	devices    []device.ID // by cell and id
	cells      map[device.ID]uint8
}

func (f *crowd) say(format string, args ...any) {
	if f.o.Progress != nil {
		f.o.Progress(fmt.Sprintf(format, args...))
	}
}

// register imports the devices: a hundred groups, one device in a hundred a gateway, one in 100,000 with a rare tag.
func (f *crowd) register(ctx context.Context) error {
	f.say("registering %d devices", f.o.Registered)
	list, out := io.Pipe()
	go func() {
		var err error
		fmt.Fprintln(out, "name,group,profile,tags")
		for i := 0; i < f.o.Registered && err == nil; i++ {
			profile, tags := "device", fmt.Sprintf("site=s%d", i%1000)
			if i%100 == 7 {
				profile = "gateway"
			}
			if i%100_000 == 11 {
				tags += ";trial=yes"
			}
			_, err = fmt.Fprintf(out, "%s,group-%d,%s,%s\n", meter(i), i%100, profile, tags)
		}
		out.CloseWithError(err)
	}()
	_, err := f.Devices.Import(ctx, f.actor, device.Source{R: list, Name: "fleet.csv", Format: "csv"}, nil)
	return err
}

func meter(i int) string { return fmt.Sprintf("meter-%07d", i) }

// certify gives each device a certificate as issuing would, but for the signature: rows of the device, its slot and the certificate.
func (f *crowd) certify(ctx context.Context) error {
	f.say("giving each of them a certificate")
	issuer, err := f.CA.Issuer("devices")
	if err != nil {
		return err
	}
	f.main, f.other, f.cells = issuer.ID(), ca.IssuerID{1, 2, 3, 4, 5, 6, 7, 8}, make(map[device.ID]uint8, f.o.Registered)
	numbers := make(map[device.ID]int, f.o.Registered)
	for i := range f.o.Registered {
		id, cell := f.Devices.IDOf(meter(i))
		f.devices = append(f.devices, id)
		f.cells[id], numbers[id] = cell, i
	}
	slices.SortFunc(f.devices, func(a, b device.ID) int {
		if c := int(f.cells[a]) - int(f.cells[b]); c != 0 {
			return c
		}
		return bytes.Compare(a[:], b[:])
	})
	for at := f.now - 60*86400; at <= f.now; at += 86400 {
		if err := f.CA.Ready(ctx, at/86400); err != nil {
			return err
		}
	}
	dice := rand.New(rand.NewPCG(1, 1))
	for batch := range slices.Chunk(f.devices, 2000) {
		claims, certs := make([]device.Claim, len(batch)), make([]*ca.Certificate, len(batch))
		for k, id := range batch {
			certs[k] = f.certificate(dice, id, numbers[id])
			c := certs[k]
			claims[k] = device.Claim{ID: id, Cell: c.Cell, Policy: 1, Slot: c.Slot, Serial: c.Serial[:], NotAfter: c.NotAfter, SPKI: c.SPKIHash[:], Request: c.SPKIHash[:],
				At: f.now, Issuer: c.Issuer[:], Key: keyOf(numbers[id])}
		}
		err := f.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
			if _, err := f.Devices.ClaimTx(ctx, tx, claims); err != nil {
				return err
			}
			return tx.Send(ctx, append(f.Devices.SlotStmts(tx, claims), f.CA.InsertStmts(tx, certs)...)...)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// keyOf: nine in ten have a P-256 key, one in 10,000 an Ed25519 key.
func keyOf(i int) string {
	switch {
	case i%10_000 == 3:
		return "ed25519"
	case i%10 == 3:
		return "ec-p384"
	}
	return "ec-p256"
}

func (f *crowd) certificate(dice *rand.Rand, id device.ID, i int) *ca.Certificate {
	issued := f.now - int64(dice.IntN(60*86400))
	c := &ca.Certificate{Cell: f.cells[id], Day: issued / 86400, Issuer: f.main, Profile: "device", Version: "bench", Slot: "operational", Device: id,
		NotBefore: issued, NotAfter: issued + 90*86400, DER: make([]byte, 600)}
	if i%20 == 0 { // never together with a P-384 key: i%10 is 0
		c.Issuer = f.other
	}
	c.Serial[0] = 0x41
	binary.BigEndian.PutUint32(c.Serial[1:], uint32(issued))
	c.Serial[5] = c.Cell
	binary.BigEndian.PutUint64(c.Serial[8:], dice.Uint64())
	binary.BigEndian.PutUint64(c.SPKIHash[:], dice.Uint64())
	return c
}

// move suspends one device in a thousand.
func (f *crowd) move(ctx context.Context) error {
	f.say("suspending one in a thousand")
	for i := 5; i < f.o.Registered; i += 1000 {
		id, _ := f.Devices.IDOf(meter(i))
		if _, err := f.Devices.Move(ctx, f.actor, id, device.Suspend, ""); err != nil {
			return err
		}
	}
	return nil
}

func (f *crowd) index(ctx context.Context) error {
	f.say("making the inventory")
	return f.Devices.Reindex(ctx)
}

type inventoryCase struct {
	name   string
	filter device.Filter
}

// cases are the combinations. "disjoint": many devices pass each of the filters and none passes both.
func (f *crowd) cases() []inventoryCase {
	const day = 86400
	soon := f.now + 40*day
	return []inventoryCase{
		{"none", device.Filter{}},
		{"group", device.Filter{Group: "group-42"}},
		{"state enrolled", device.Filter{State: device.Enrolled}},
		{"state suspended", device.Filter{State: device.Suspended}},
		{"state suspended, issuer", device.Filter{State: device.Suspended, Issuer: f.main[:]}},
		{"state suspended, other issuer, group (nothing)", device.Filter{State: device.Suspended, Issuer: f.other[:], Group: "group-42"}},
		{"issuer, algorithm (disjoint)", device.Filter{Issuer: f.other[:], Key: "ec-p384"}},
		{"group, algorithm (disjoint)", device.Filter{Group: "group-42", Key: "ec-p384"}},
		{"algorithm ed25519 (rare)", device.Filter{Key: "ed25519"}},
		{"profile gateway, algorithm ec-p256", device.Filter{Profile: "gateway", Key: "ec-p256"}},
		{"tag trial=yes (very rare)", device.Filter{Tag: "trial=yes"}},
		{"tag site=s77, state, profile", device.Filter{Tag: "site=s77", State: device.Enrolled, Profile: "device"}},
		{"expires before", device.Filter{ExpiresBefore: soon}},
		{"expires before, state enrolled", device.Filter{ExpiresBefore: soon, State: device.Enrolled}},
		{"expires within a day, group, other issuer", device.Filter{ExpiresAfter: soon, ExpiresBefore: soon + day, Group: "group-40", Issuer: f.other[:]}},
		{"expires after, algorithm, profile", device.Filter{ExpiresAfter: soon, Key: "ec-p384", Profile: "device"}},
		{"seen before", device.Filter{SeenBefore: f.now - 30*day}},
		{"seen within a day, state suspended", device.Filter{SeenAfter: f.now - 31*day, SeenBefore: f.now - 30*day, State: device.Suspended}},
		{"all of them", device.Filter{State: device.Enrolled, Group: "group-42", Profile: "device", Issuer: f.main[:], Key: "ec-p256", Tag: "site=s942",
			ExpiresAfter: f.now, ExpiresBefore: soon, SeenAfter: f.now - 60*day, SeenBefore: f.now}},
		{"all of them (nothing)", device.Filter{State: device.Enrolled, Group: "group-42", Profile: "device", Issuer: f.main[:], Key: "ec-p384", Tag: "site=s942",
			ExpiresAfter: f.now, ExpiresBefore: soon, SeenAfter: f.now - 60*day, SeenBefore: f.now}},
	}
}

func (f *crowd) measure(ctx context.Context, c inventoryCase) (InventoryLine, error) {
	l := InventoryLine{Bench: "inventory", Case: c.name, Registered: f.o.Registered}
	first, middle, large := c.filter, c.filter, c.filter
	first.Limit, middle.Limit, large.Limit = 100, 100, 1000
	middle.Cursor = f.Devices.CursorBehind(c.filter, f.now+35*86400, f.devices[len(f.devices)/2])
	list := func(page device.Filter) func() error {
		return func() error {
			_, _, err := f.Devices.List(ctx, f.actor, page)
			return err
		}
	}
	looks := []struct {
		do      func() error
		slowest *float64
	}{{list(first), &l.First}, {list(middle), &l.Middle}, {list(large), &l.Large}, {func() (err error) {
		l.Matches, err = f.Devices.Count(ctx, f.actor, c.filter)
		return err
	}, &l.Count}}
	for _, look := range looks {
		var cpu []float64
		before, err := f.databaseCPU()
		if err != nil {
			return l, err
		}
		for range f.o.Rounds {
			began, used := time.Now(), cpuSelf()
			if err := look.do(); err != nil {
				return l, err
			}
			*look.slowest = max(*look.slowest, time.Since(began).Seconds()*1000)
			cpu = append(cpu, (cpuSelf()-used).Seconds()*1000)
		}
		after, err := f.databaseCPU()
		if err != nil {
			return l, err
		}
		database := (after - before).Seconds() * 1000 / float64(f.o.Rounds)
		if sum := median(cpu) + database; sum > l.CPU {
			l.CPU, l.Database = sum, database
		}
	}
	return l, nil
}

func (f *crowd) databaseCPU() (time.Duration, error) {
	if f.postmaster == 0 {
		return 0, nil
	}
	return cpuOfDatabase(f.postmaster)
}
