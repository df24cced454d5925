package ca

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"mooring/internal/base/db"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
)

// Checker compares the tables of this package with the replayed audit record: every certificate, CA and profile version must be a row with
// exactly one entry, and agree with it in all that the entry says; the DER is hashed anew. It keeps 40 octets for each certificate (16 of
// serial number, 16 of digest, 8 of position), 400 MB for ten millions, and reads the rows cell by cell. A Checker serves one verification.
func (a *Authority) Checker() audit.Checker {
	c := &checker{issuers: map[string]map[string]string{}, profiles: map[string]string{}}
	return audit.Checker{Name: "ca", Entry: c.entry, Finish: c.finish}
}

type checker struct {
	cells    [256][]issue                 // by cell
	issuers  map[string]map[string]string // name to detail
	profiles map[string]string            // "name version" to sha256
}

// issue is what is remembered of a "cert.issue" entry.
type issue struct {
	serial [16]byte
	digest [16]byte
	index  int64
}

func (c *checker) entry(index int64, e audit.Entry) error {
	if e.Refused != "" {
		return nil
	}
	switch e.Action {
	case "cert.issue":
		return c.issue(index, &e)
	case "ca.create":
		if _, twice := c.issuers[e.Object]; twice {
			return fmt.Errorf("CA %q was created a second time", e.Object)
		}
		c.issuers[e.Object] = e.Detail
	case "profile.load":
		k := e.Object + " " + e.Detail["version"]
		if _, twice := c.profiles[k]; twice {
			return fmt.Errorf("profile version %s was recorded a second time", k)
		}
		c.profiles[k] = e.Detail["sha256"]
	}
	return nil
}

func (c *checker) issue(index int64, e *audit.Entry) error {
	serial, err := hex.DecodeString(e.Serial)
	if err != nil {
		return fmt.Errorf("the serial number %q is not hex", e.Serial)
	}
	cell, _, err := Locate(serial)
	if err != nil {
		return fmt.Errorf("the serial number %s is not one of ours", e.Serial)
	}
	c.cells[cell] = append(c.cells[cell], issue{[16]byte(serial), entryDigest(e), index})
	return nil
}

// entryDigest condenses what an entry says about a certificate. The texts are parted by their lengths, so that no two entries give one digest.
func entryDigest(e *audit.Entry) [16]byte {
	h := sha256.New()
	for _, s := range []string{e.Serial, e.Device, e.Detail["sha256"], e.Detail["issuer"], e.Detail["profile"], e.Detail["version"],
		e.Detail["slot"], e.Detail["prev"], e.Detail["not_after"], e.Detail["spki"]} {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	return [16]byte(h.Sum(nil))
}

// compareIssues is the order in which the rows of a cell are read.
func compareIssues(a, b issue) int {
	_, dayA, _ := Locate(a.serial[:]) // our own, says issue
	_, dayB, _ := Locate(b.serial[:])
	if dayA != dayB {
		return int(dayA - dayB)
	}
	return bytes.Compare(a.serial[:], b.serial[:])
}

func (c *checker) finish(ctx context.Context, tx *db.Tx) error {
	for cell := range c.cells {
		if err := c.finishCell(ctx, tx, cell); err != nil {
			return err
		}
	}
	if err := c.finishIssuers(ctx, tx); err != nil {
		return err
	}
	return c.finishProfiles(ctx, tx)
}

func (c *checker) finishCell(ctx context.Context, tx *db.Tx, cell int) error {
	want := c.cells[cell]
	c.cells[cell] = nil
	slices.SortFunc(want, compareIssues)
	for i := 1; i < len(want); i++ {
		if want[i].serial == want[i-1].serial {
			return fmt.Errorf("entry %d: certificate %x was issued a second time", max(want[i].index, want[i-1].index), want[i].serial)
		}
	}
	err := tx.Each(ctx, func(row db.Row) error {
		cert, err := scanCert(row)
		if err != nil {
			return err
		}
		if len(want) > 0 && compareIssues(want[0], issue{serial: cert.Serial}) < 0 {
			return missing(want[0])
		}
		if len(want) == 0 || want[0].serial != cert.Serial {
			return fmt.Errorf("certificate %x is in the database, but no entry says that it was issued", cert.Serial)
		}
		entry := cert.Entry(access.Actor{})
		if entryDigest(&entry) != want[0].digest {
			return fmt.Errorf("entry %d: certificate %x in the database differs from what was issued", want[0].index, cert.Serial)
		}
		want = want[1:]
		return nil
	}, `SELECT `+certColumns+` FROM cert WHERE cell = $1 ORDER BY day, serial`, int64(cell))
	if err != nil {
		return err
	}
	if len(want) > 0 {
		return missing(want[0])
	}
	return nil
}

func missing(i issue) error {
	return fmt.Errorf("entry %d: certificate %x was issued, but is not in the database", i.index, i.serial)
}

func (c *checker) finishIssuers(ctx context.Context, tx *db.Tx) error {
	err := readIssuers(ctx, tx, func(r issuerRow) error {
		want, known := c.issuers[r.name]
		if !known {
			return fmt.Errorf("CA %q is in the database, but no entry says that it was created", r.name)
		}
		if !maps.Equal(want, r.detail()) {
			return fmt.Errorf("CA %q in the database differs from what was created", r.name)
		}
		delete(c.issuers, r.name)
		return nil
	})
	if err != nil {
		return err
	}
	for name := range c.issuers {
		return fmt.Errorf("CA %q was created, but is not in the database", name)
	}
	return nil
}

func (c *checker) finishProfiles(ctx context.Context, tx *db.Tx) error {
	err := tx.Each(ctx, func(row db.Row) error {
		p := &Profile{}
		if err := row.Scan(&p.Name, &p.Version, &p.Source); err != nil {
			return err
		}
		k := p.Name + " " + p.Version
		want, known := c.profiles[k]
		if !known {
			return fmt.Errorf("profile version %s is in the database, but no entry says that it was loaded", k)
		}
		if want != p.entry().Detail["sha256"] {
			return fmt.Errorf("the text of profile version %s in the database differs from what was loaded", k)
		}
		delete(c.profiles, k)
		return nil
	}, `SELECT name, version, yaml FROM profile_version WHERE cell = 0`)
	if err != nil {
		return err
	}
	for k := range c.profiles {
		return fmt.Errorf("profile version %s was loaded, but is not in the database", k)
	}
	return nil
}
