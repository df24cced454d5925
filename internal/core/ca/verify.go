package ca

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"mooring/internal/base/db"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
)

// Checker compares the tables of this package with the replayed audit record: every certificate, CA and profile version must be a row with
// exactly one entry, and agree with it in all that the entry says; the DER is hashed anew. Signatures are
// not verified: that would multiply the time, and the digest stands in an entry that only this platform can have written. It keeps 56 octets for each certificate (16 of
// serial number, 16 of digest, the rest position, end and profile), 560 MB for ten millions, and reads the rows cell by cell. A Checker serves one verification.
//
// A certificate may be gone when the record says so (purge.go): an entry about its month, its end so long before that entry as its profile
// was kept, and as many gone, with the same sum, as the entries about that month say.
func (a *Authority) Checker() audit.Checker {
	c := &checker{purges: map[string]*purges{}, profileNumbers: map[string]uint16{}, issuers: map[string]map[string]string{}, profiles: map[string]string{}, elsewhere: newElsewhere(), briefs: briefs{now: a.deps.Now}}
	return audit.Checker{Name: "ca", Entry: c.entry, Finish: c.finish, Save: c.save, Load: c.load}
}

type checker struct {
	cells    [256][]issue                 // by cell
	issuers  map[string]map[string]string // name to detail
	profiles map[string]string            // "name version" to sha256
	purges   map[string]*purges           // by month, or objectLong
	// profileNumbers number the names of profiles, in the order of their first certificates.
	profileNumbers map[string]uint16
	profileNames   []string
	elsewhere
	briefs
	found []error
}

// issue is what is remembered of a "cert.issue" entry.
type issue struct {
	serial [16]byte
	digest [16]byte
	index  int64
	end    int64 // notAfter
	// profile is the number of the profile.
	profile uint16
}

// purges is what the record says about certificates that left, of one month or of those kept long, and what is found gone.
type purges struct {
	said, found gone
	whole       bool // the month leaves as a whole, so that all of it may still be there
	first       int64
	until       map[string]int64 // by profile: whose end lies before may be gone
}

func (c *checker) entry(index int64, e audit.Entry) error {
	if e.Refused != "" {
		return nil
	}
	if err := c.elsewhere.entry(&e); err != nil {
		return err
	}
	switch e.Action {
	case "cert.issue":
		return c.issue(index, &e)
	case ActionEphemeral:
		_, err := Digests(&e)
		return err
	case ActionPurge:
		return c.purged(index, &e)
	case "ca.create", "ca.import":
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
	switch {
	case err != nil:
		return fmt.Errorf("the serial number %s is not one of ours", e.Serial)
	case KeptAs(serial) == Ephemeral:
		return fmt.Errorf("the serial number %s is of a class that is recorded by its digest", e.Serial)
	case KeptAs(serial) == Brief: // the newest of a device stands in its slot, too, which package device compares
		return c.briefs.issued(index, e, [16]byte(serial))
	}
	end, err := strconv.ParseInt(e.Detail["not_after"], 10, 64)
	if err != nil {
		return fmt.Errorf("its end %q is no time", e.Detail["not_after"])
	}
	number, known := c.profileNumbers[e.Detail["profile"]]
	if !known {
		number = uint16(len(c.profileNumbers))
		c.profileNumbers[e.Detail["profile"]] = number
		c.profileNames = append(c.profileNames, e.Detail["profile"])
	}
	c.cells[cell] = append(c.cells[cell], issue{[16]byte(serial), entryDigest(e), index, end, number})
	return nil
}

// purged takes note of certificates that left.
func (c *checker) purged(index int64, e *audit.Entry) error {
	n, err := strconv.ParseInt(e.Detail["n"], 10, 64)
	sum, err2 := hex.DecodeString(e.Detail["sum"])
	if err != nil || err2 != nil || n < 1 || len(sum) != 16 {
		return errors.New("its count or its sum cannot be read")
	}
	p := c.purges[e.Object]
	if p == nil {
		p = &purges{first: index, until: map[string]int64{}}
		c.purges[e.Object] = p
	}
	p.said.n += n
	for i := range sum {
		p.said.sum[i] ^= sum[i]
	}
	p.whole = p.whole || e.Detail["month"] == "whole"
	for _, part := range strings.Fields(e.Detail["keep"]) {
		name, text, _ := strings.Cut(part, "=")
		keep, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("its retention %q cannot be read", part)
		}
		p.until[name] = max(p.until[name], e.At-keep)
	}
	return nil
}

// entryDigest condenses what an entry says about a certificate. The texts are parted by their lengths, so that no two entries give one digest.
func entryDigest(e *audit.Entry) [16]byte {
	h := sha256.New()
	for _, s := range []string{e.Serial, e.Device, e.Detail["sha256"], e.Detail["issuer"], e.Detail["profile"], e.Detail["version"],
		e.Detail["slot"], e.Detail["prev"], e.Detail["not_before"], e.Detail["not_after"], e.Detail["spki"]} {
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

// maxFindings bounds the complaints of one verification.
const maxFindings = 50

// find keeps a complaint; the entry concerned is named by its index, -1 for none.
func (c *checker) find(index int64, format string, args ...any) {
	if len(c.found) == maxFindings {
		return
	}
	err := fmt.Errorf(format, args...)
	if index >= 0 {
		err = fmt.Errorf("entry %d: %w", index, err)
	}
	c.found = append(c.found, err)
}

func (c *checker) finish(ctx context.Context, tx *db.Tx) error {
	for cell := range c.cells {
		if err := c.finishCell(ctx, tx, cell); err != nil {
			return fmt.Errorf("reading cell %d of the certificates: %w", cell, err)
		}
	}
	for _, object := range slices.Sorted(maps.Keys(c.purges)) {
		p := c.purges[object]
		if p.whole && p.found.n == 0 || p.found.n == p.said.n && p.found.sum == p.said.sum {
			continue
		}
		c.find(p.first, "of the certificates of %s %d are gone, but the record says that %d left after their retention, or others", object, p.found.n, p.said.n)
	}
	if err := c.briefs.finish(ctx, tx, c.find); err != nil {
		return fmt.Errorf("reading the certificates that are recorded in brief: %w", err)
	}
	if err := c.finishIssuers(ctx, tx); err != nil {
		return fmt.Errorf("reading the CAs: %w", err)
	}
	if err := c.finishProfiles(ctx, tx); err != nil {
		return fmt.Errorf("reading the profiles: %w", err)
	}
	if err := c.elsewhere.finish(ctx, tx, func(format string, args ...any) { c.find(-1, format, args...) }); err != nil {
		return fmt.Errorf("reading what other CAs signed: %w", err)
	}
	return errors.Join(c.found...)
}

// finishCell merges the entries of a cell with its rows, both in the order of day and serial number.
func (c *checker) finishCell(ctx context.Context, tx *db.Tx, cell int) error {
	all := c.cells[cell]
	c.cells[cell] = nil
	long := func(i issue) bool { return tableOf(i.serial[:]) == tableLong }
	ordinary := slices.DeleteFunc(slices.Clone(all), long)
	if err := c.finishTable(ctx, tx, cell, tableOrdinary, ordinary); err != nil {
		return err
	}
	return c.finishTable(ctx, tx, cell, tableLong, slices.DeleteFunc(all, func(i issue) bool { return !long(i) }))
}

func (c *checker) finishTable(ctx context.Context, tx *db.Tx, cell int, table string, want []issue) error {
	slices.SortFunc(want, compareIssues)
	for i := 1; i < len(want); i++ {
		if want[i].serial == want[i-1].serial {
			c.find(max(want[i].index, want[i-1].index), "certificate %x was issued a second time", want[i].serial)
		}
	}
	want = slices.CompactFunc(want, func(a, b issue) bool { return a.serial == b.serial })
	err := tx.Each(ctx, func(row db.Row) error {
		cert, err := scanCert(row)
		if err != nil {
			c.find(-1, "%w", err)
			return nil
		}
		for ; len(want) > 0 && compareIssues(want[0], issue{serial: cert.Serial}) < 0; want = want[1:] {
			c.missing(want[0])
		}
		if len(want) == 0 || want[0].serial != cert.Serial {
			c.find(-1, "certificate %x is in the database, but no entry says that it was issued", cert.Serial)
			return nil
		}
		entry := cert.Entry(access.Actor{})
		if entryDigest(&entry) != want[0].digest || !cert.placed() {
			c.find(want[0].index, "certificate %x in the database differs from what was issued", cert.Serial)
		}
		want = want[1:]
		return nil
	}, `SELECT `+certColumns+` FROM `+table+` WHERE cell = $1 ORDER BY day, serial`, int64(cell))
	for _, i := range want {
		c.missing(i)
	}
	return err
}

// missing takes note that a certificate is gone, and complains when it may not be.
func (c *checker) missing(i issue) {
	if p := c.purges[placeOf(i.serial[:])]; p != nil {
		if i.end < p.until[c.profileNames[i.profile]] {
			p.found.add(i.serial[:])
			return
		}
	}
	c.find(i.index, "certificate %x was issued, but is not in the database", i.serial)
}

// placeOf returns under which name the entries about what left count a certificate of ours.
func placeOf(serial []byte) string {
	if tableOf(serial) != tableOrdinary {
		return objectLong
	}
	_, day, _ := Locate(serial) // our own, says issue
	return monthOf(day).String()
}

// errUnknownProfile says that a kept certificate names a profile that is not among the kept ones.
var errUnknownProfile = errors.New("a certificate is of a profile that was not kept")

// placed reports whether the row lies where its serial number says.
func (c *Certificate) placed() bool {
	cell, day, err := Locate(c.Serial[:])
	return err == nil && cell == c.Cell && day == c.Day
}

func (c *checker) finishIssuers(ctx context.Context, tx *db.Tx) error {
	err := readIssuers(ctx, tx, func(r issuerRow) error {
		want, known := c.issuers[r.name]
		switch {
		case !known:
			c.find(-1, "CA %q is in the database, but no entry says that it was created", r.name)
		case !maps.Equal(want, r.detail()):
			c.find(-1, "CA %q in the database differs from what was created", r.name)
		}
		delete(c.issuers, r.name)
		return nil
	})
	for _, name := range slices.Sorted(maps.Keys(c.issuers)) {
		c.find(-1, "CA %q was created, but is not in the database", name)
	}
	return err
}

func (c *checker) finishProfiles(ctx context.Context, tx *db.Tx) error {
	err := tx.Each(ctx, func(row db.Row) error {
		p := &Profile{}
		if err := row.Scan(&p.Name, &p.Version, &p.Source); err != nil {
			return err
		}
		k := p.Name + " " + p.Version
		want, known := c.profiles[k]
		switch {
		case !known:
			c.find(-1, "profile version %s is in the database, but no entry says that it was loaded", k)
		case want != p.entry().Detail["sha256"]:
			c.find(-1, "the text of profile version %s in the database differs from what was loaded", k)
		}
		delete(c.profiles, k)
		return nil
	}, `SELECT name, version, yaml FROM profile_version WHERE cell = 0`)
	for _, k := range slices.Sorted(maps.Keys(c.profiles)) {
		c.find(-1, "profile version %s was loaded, but is not in the database", k)
	}
	return err
}
