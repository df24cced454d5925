package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"mooring/internal/app"
	"mooring/internal/base/db"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/wire/der"
)

// StorageOptions say what Storage measures.
type StorageOptions struct {
	Database string // "sqlite" or the URL of a PostgreSQL server
	Devices  int
	Renewals int // of each device
	Progress func(string)
}

// StorageLine is one result: what is stored after so many certificates of one recording class.
type StorageLine struct {
	Bench        string  `json:"bench"`
	Case         string  `json:"case"` // recording class and engine
	At           string  `json:"at"`   // "half", "end", "after retention" or "entries left"
	N            int     `json:"n"`    // certificates issued so far, beyond the first one of each device
	Registry     int64   `json:"registry_octets"`
	Record       int64   `json:"record_octets"`
	RegistryEach float64 `json:"registry_octets_each"` // by certificate
	RecordEach   float64 `json:"record_octets_each"`
	Rows         int64   `json:"certificates_kept"`
}

// renewEvery is how far apart the renewals are, by a clock that is moved: two thirds of a certificate's day.
const renewEvery = 16 * time.Hour

// Storage renews the certificates of a small fleet again and again, once for each recording class, and measures what the database holds: the
// registry with the certificates, and the audit record. Time is a clock that is moved, so that months pass and retention comes due.
func Storage(ctx context.Context, o StorageOptions, print func(StorageLine) error) error {
	for _, class := range []ca.Record{ca.Full, ca.Brief, ca.Ephemeral} {
		if err := storage(ctx, o, class, print); err != nil {
			return fmt.Errorf("storing %s: %w", class, err)
		}
	}
	return nil
}

// store is one installation that is measured.
type store struct {
	*app.Platform
	o      StorageOptions
	class  ca.Record
	url    string // of PostgreSQL; "" for SQLite
	offset atomic.Int64
	actor  access.Actor
	fleet  []owner
	before sizes
	print  func(StorageLine) error
}

// owner is a device with what it proves itself by.
type owner struct {
	id   device.ID
	key  *ecdsa.PrivateKey
	leaf *x509.Certificate
}

func storage(ctx context.Context, o StorageOptions, class ca.Record, print func(StorageLine) error) (err error) {
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
	c.Retention.Audit = audit.MinKeep
	s := &store{o: o, class: class, actor: access.Actor{Kind: access.KindLocal, ID: "bench", Role: access.RoleAdmin}, print: print}
	if kind(o.Database) == "postgres" {
		url, drop, err := schema(ctx, o.Database)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, drop()) }()
		c.Database.URL, s.url = url, url
	}
	now := func() time.Time { return time.Now().Add(time.Duration(s.offset.Load())) }
	made, err := app.Init(ctx, app.InitOptions{Dir: filepath.Join(parent, "data"), Config: c, Now: now})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(made.Dir, "profiles", "stored.yaml"), []byte(storedProfile(class)), 0o600); err != nil {
		return fmt.Errorf("writing a profile: %w", err)
	}
	if err := os.WriteFile(filepath.Join(made.Dir, "profiles", "passing.yaml"), []byte(passingProfile), 0o600); err != nil {
		return fmt.Errorf("writing a profile: %w", err)
	}
	if s.Platform, err = app.Open(ctx, app.Options{Config: c, Now: now}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return s.run(ctx)
}

// storedProfile is a profile of one-day certificates; for the class ephemeral it is what the devices prove themselves by.
func storedProfile(class ca.Record) string {
	text := `name: stored
issuer: devices
subject:
  - CN: "{device.name}"
san:
  uri:
    fixed: ["urn:mooring:device:{device.id}"]
key_usage: [digitalSignature]
ext_key_usage: [clientAuth]
reuse_key: allowed
evidence: [token, operational]
`
	switch class {
	case ca.Full:
		text += "validity: 24h\ncrl: true\nretention: 1d\n"
	case ca.Brief:
		text += "validity: 24h\nrecord: brief\nno_rev_avail: true\n"
	case ca.Ephemeral:
		text += "validity: 8y\ncrl: true\n"
	}
	return text
}

// passingProfile is for one transaction.
const passingProfile = `name: passing
also_for: [stored]
issuer: devices
slot: passing
subject:
  - CN: "{device.name}"
san:
  uri:
    fixed: ["urn:mooring:device:{device.id}"]
key_usage: [digitalSignature]
ext_key_usage: [clientAuth]
evidence: [operational]
validity: 5m
record: ephemeral
no_rev_avail: true
`

func (s *store) run(ctx context.Context) (err error) {
	own, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Enrol.Run(own) }()
	defer func() { stop(); err = errors.Join(err, <-ended) }()
	if err := s.found(ctx); err != nil {
		return err
	}
	if s.before, err = s.measure(ctx); err != nil {
		return err
	}
	for round := 1; round <= s.o.Renewals; round++ {
		if s.o.Progress != nil && round%100 == 1 {
			s.o.Progress(fmt.Sprintf("%s: round %d of %d", s.class, round, s.o.Renewals))
		}
		s.offset.Add(int64(renewEvery))
		if err := s.renew(ctx); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if s.class == ca.Brief && (round == s.o.Renewals/2 || round == s.o.Renewals) { // a server does so each hour
			if _, err := s.CA.Purge(ctx, s.actor); err != nil {
				return err
			}
		}
		if round == s.o.Renewals/2 {
			if err := s.report(ctx, "half", round); err != nil {
				return err
			}
		}
	}
	if err := s.report(ctx, "end", s.o.Renewals); err != nil {
		return err
	}
	if s.class == ca.Full {
		if _, err := s.CA.Purge(ctx, s.actor); err != nil {
			return err
		}
	}
	if err := s.report(ctx, "after retention", s.o.Renewals); err != nil {
		return err
	}
	s.offset.Add(int64(audit.MinKeep + 32*24*time.Hour))
	if _, err := s.Audit.Drop(ctx, s.actor); err != nil {
		return err
	}
	return s.report(ctx, "entries left", s.o.Renewals)
}

// found registers the devices and gives each its first certificate.
func (s *store) found(ctx context.Context) error {
	for i := range s.o.Devices {
		d, err := s.Devices.Add(ctx, s.actor, device.Spec{Name: meter(i), Profile: "stored"})
		if err != nil {
			return err
		}
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return fmt.Errorf("making a key: %w", err)
		}
		a, err := s.Enrol.Direct(ctx, s.actor, d.ID, k)
		if err != nil {
			return err
		}
		leaf, err := x509.ParseCertificate(a.Certificate.DER)
		if err != nil {
			return fmt.Errorf("reading a certificate: %w", err)
		}
		s.fleet = append(s.fleet, owner{d.ID, k, leaf})
	}
	return nil
}

// atOnce is how many devices renew at a time.
const atOnce = 64

// renew lets each device get one more certificate, many at once.
func (s *store) renew(ctx context.Context) error {
	results := make([]error, len(s.fleet))
	room := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i := range s.fleet {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			results[i] = s.renewOne(ctx, &s.fleet[i])
		})
	}
	wg.Wait()
	return errors.Join(results...)
}

func (s *store) renewOne(ctx context.Context, o *owner) (err error) {
	defer s.Enrol.Expect()()
	r := enrol.Request{Protocol: "bench", Op: enrol.Renew, Chain: [][]byte{o.leaf.Raw}}
	if s.class == ca.Ephemeral {
		r.Op, r.Profile = enrol.Enrol, "passing"
	}
	if r.CSR, err = repeating(o); err != nil {
		return err
	}
	a, err := s.Enrol.Submit(ctx, r)
	if err != nil || s.class == ca.Ephemeral {
		return err
	}
	o.leaf, err = x509.ParseCertificate(a.Certificate.DER)
	return err
}

// repeating is a request with the names of the device's certificate.
func repeating(o *owner) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(o.key.Public())
	if err != nil {
		return nil, err
	}
	spec := der.RequestSpec{RawSubject: o.leaf.RawSubject, SPKI: spki}
	for _, u := range o.leaf.URIs {
		spec.Names.URI = append(spec.Names.URI, u.String())
	}
	info, err := der.AppendRequestInfo(nil, spec)
	if err != nil {
		return nil, err
	}
	signature, err := o.key.Sign(rand.Reader, der.ECDSAWithSHA256.Digest(info), der.ECDSAWithSHA256.Hash())
	if err != nil {
		return nil, err
	}
	return der.Wrap(nil, info, der.ECDSAWithSHA256, signature), nil
}

// sizes are octets on the disk, of tables with their indexes.
type sizes struct{ registry, record, rows int64 }

// ofRecord reports whether a table is one of the audit record, of which PostgreSQL has some for each month; all others count as the registry.
func ofRecord(table string) bool {
	return strings.HasPrefix(table, "audit_") || table == "tree" || table == "checkpoint" || table == "stream"
}

const (
	sqliteSizes   = `SELECT m.tbl_name, SUM(s.pgsize) FROM dbstat s JOIN sqlite_master m ON m.name = s.name GROUP BY m.tbl_name`
	postgresSizes = `SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace`
)

func (s *store) measure(ctx context.Context) (z sizes, err error) {
	if err := s.Audit.Sequence(ctx); err != nil {
		return z, err
	}
	query := sqliteSizes
	if s.url != "" {
		query = postgresSizes
		if err := settle(ctx, s.url); err != nil {
			return z, err
		}
	}
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		z = sizes{}
		err := tx.Each(ctx, func(row db.Row) error {
			var table string
			var octets int64
			if err := row.Scan(&table, &octets); err != nil {
				return err
			}
			if ofRecord(table) {
				z.record += octets
			} else {
				z.registry += octets
			}
			return nil
		}, query)
		if err == nil {
			_, err = tx.Get(ctx, []any{&z.rows}, `SELECT COUNT(*) FROM cert`)
		}
		return err
	})
	return z, err
}

// report prints what was added since the beginning.
func (s *store) report(ctx context.Context, at string, rounds int) error {
	z, err := s.measure(ctx)
	if err != nil {
		return err
	}
	n := rounds * s.o.Devices
	l := StorageLine{Bench: "storage", Case: string(s.class) + ", " + kind(s.o.Database), At: at, N: n, Registry: z.registry - s.before.registry,
		Record: z.record - s.before.record, Rows: z.rows}
	l.RegistryEach, l.RecordEach = float64(l.Registry)/float64(n), float64(l.Record)/float64(n)
	return s.print(l)
}
