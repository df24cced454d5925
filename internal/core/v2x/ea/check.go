package ea

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/wire/its"
)

// detailRow is the detail of v2x.enrol that holds the digest of the credential's row.
const detailRow = "row"

type mark [sha256.Size]byte

// credentialMark is the digest of a row of v2x_credential.
func credentialMark(id, dev, cert []byte, issued, expires int64) mark {
	return markOf(id, dev, cert, issued, expires)
}

// markOf is the digest of the columns of a row: octets and numbers.
func markOf(columns ...any) mark {
	h := sha256.New()
	for _, c := range columns {
		switch c := c.(type) {
		case []byte:
			h.Write([]byte(strconv.Quote(string(c))))
		default:
			h.Write([]byte(strconv.Quote(fmt.Sprint(c))))
		}
	}
	return mark(h.Sum(nil))
}

// late is how long after its end the row of a key is missed: clocks of nodes differ, and whichever is ahead takes it away.
const late = 3600

// checker compares the credentials with the replayed record, and what belongs to them with the credentials. How many tickets a station has when is in no
// record, nor is which requests were answered.
type checker struct {
	known   map[its.HashedId8]mark
	now     int64
	keys    map[mark]int64 // until when a key had a credential
	devices map[device.ID]bool
	other   map[device.ID]bool // stations that had tickets counted by an X.509 certificate, without an enrolment credential
	found   []error
}

// findingsMost bounds what one verification names.
const findingsMost = 100

func (c *checker) find(format string, args ...any) {
	if len(c.found) < findingsMost {
		c.found = append(c.found, fmt.Errorf(format, args...))
	}
}

// Checker compares what this slice keeps with the replayed record. It serves one verification.
func (s *Service) Checker() audit.Checker {
	c := &checker{known: map[its.HashedId8]mark{}, keys: map[mark]int64{}, devices: map[device.ID]bool{}, other: map[device.ID]bool{}, now: s.Now().Unix()}
	return audit.Checker{Name: "v2x enrolment", Entry: c.entry, Finish: c.finish, Save: c.save, Load: c.load}
}

func (c *checker) entry(_ int64, e audit.Entry) error {
	if e.Refused == "" && e.Action == "v2x.butterfly" {
		id, err := hex.DecodeString(e.Device)
		if err != nil || len(id) != len(device.ID{}) {
			return errors.New("the entry does not say which station asks")
		}
		c.other[device.ID(id)] = true
	}
	if e.Refused != "" || e.Action != "v2x.enrol" {
		return nil
	}
	id, err := hex.DecodeString(e.Object)
	row, err2 := hex.DecodeString(e.Detail[detailRow])
	if err := errors.Join(err, err2); err != nil || len(id) != len(its.HashedId8{}) || len(row) != len(mark{}) {
		return errors.New("the entry does not say what the row of the credential is")
	}
	if _, twice := c.known[its.HashedId8(id)]; twice {
		return errors.New("the credential was recorded already")
	}
	c.known[its.HashedId8(id)] = mark(row)
	return nil
}

func (c *checker) finish(ctx context.Context, tx *db.Tx) error {
	for _, step := range []func(context.Context, *db.Tx) error{c.compareCredentials, c.compareKeys, c.compareStations} {
		if err := step(ctx, tx); err != nil {
			return err
		}
	}
	return errors.Join(c.found...)
}

func (c *checker) compareCredentials(ctx context.Context, tx *db.Tx) error {
	met := map[its.HashedId8]bool{}
	err := tx.Each(ctx, func(r db.Row) error {
		var cell, issued, expires int64
		var id, dev, cert []byte
		if err := r.Scan(&cell, &id, &dev, &cert, &issued, &expires); err != nil {
			return fmt.Errorf("reading table v2x_credential: %w", err)
		}
		if len(id) != len(its.HashedId8{}) || len(dev) != len(device.ID{}) || cell != 0 || c.known[its.HashedId8(id)] != credentialMark(id, dev, cert, issued, expires) {
			c.find("table v2x_credential: the row of %x is not what the record says", id)
			return nil
		}
		met[its.HashedId8(id)], c.devices[device.ID(dev)] = true, true
		x, err := its.ParseCertificate(cert)
		if err != nil {
			c.find("table v2x_credential: the certificate of %x: %w", id, err)
			return nil
		}
		key, err := keyDigest(&x.ToBeSigned.VerifyKeyIndicator.VerificationKey)
		if err != nil {
			return err
		}
		c.keys[mark(key)] = max(c.keys[mark(key)], expires) // one that is over frees the key for another
		return nil
	}, `SELECT cell, id, device, cert, issued, expires FROM v2x_credential ORDER BY cell, id`)
	for _, id := range sorted(c.known) {
		if !met[id] {
			c.find("table v2x_credential: the row of %s is missing", id)
		}
	}
	return err
}

func (c *checker) compareKeys(ctx context.Context, tx *db.Tx) error {
	met := map[mark]bool{}
	err := tx.Each(ctx, func(r db.Row) error {
		var cell, expires int64
		var key []byte
		if err := r.Scan(&cell, &key, &expires); err != nil {
			return fmt.Errorf("reading table v2x_credential_key: %w", err)
		}
		if len(key) != len(mark{}) || cell != 0 || c.keys[mark(key)] != expires {
			c.find("table v2x_credential_key: the row of %x follows from no credential", key)
			return nil
		}
		met[mark(key)] = true
		return nil
	}, `SELECT cell, key, expires FROM v2x_credential_key ORDER BY cell, key`)
	for key, expires := range c.keys {
		if !met[key] && expires > c.now+late {
			c.find("table v2x_credential_key: the row of %x is missing, so that the key could have another credential", key[:])
		}
	}
	return err
}

// compareStations looks whether whoever has tickets was ever enrolled.
func (c *checker) compareStations(ctx context.Context, tx *db.Tx) error {
	for _, table := range []string{"v2x_station", "v2x_interval"} {
		err := tx.Each(ctx, func(r db.Row) error {
			var cell int64
			var dev []byte
			if err := r.Scan(&cell, &dev); err != nil {
				return fmt.Errorf("reading table %s: %w", table, err)
			}
			if len(dev) != len(device.ID{}) || cell != 0 || !c.devices[device.ID(dev)] && !c.other[device.ID(dev)] {
				c.find("table %s: a row is of a station without credential (%x)", table, dev)
			}
			return nil
		}, `SELECT DISTINCT cell, device FROM `+table+` ORDER BY cell, device`)
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) save(_ context.Context, _ *db.Tx, w *audit.StateWriter) error {
	w.Uint(uint64(len(c.known)))
	for _, id := range sorted(c.known) {
		row := c.known[id]
		w.Fixed(id[:])
		w.Fixed(row[:])
	}
	others := slices.SortedFunc(maps.Keys(c.other), func(a, b device.ID) int { return cmp.Compare(string(a[:]), string(b[:])) })
	w.Uint(uint64(len(others)))
	for _, id := range others {
		w.Fixed(id[:])
	}
	return nil
}

func (c *checker) load(r *audit.StateReader) error {
	for range r.Len() {
		var id its.HashedId8
		var row mark
		r.Fixed(id[:])
		r.Fixed(row[:])
		if r.Err() != nil {
			break
		}
		c.known[id] = row
	}
	for range r.Len() {
		var id device.ID
		if r.Fixed(id[:]); r.Err() != nil {
			break
		}
		c.other[id] = true
	}
	return r.Err()
}
