package ca

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// briefs compares the rows of cert_brief with the replayed record: each certificate that has not ended must have one that says what its entry says.
// What has ended is left out on both sides, since those rows leave and no entry tells of it. It keeps some 80 octets for each
// certificate that was valid when the verification began.
type briefs struct {
	now   func() time.Time
	since int64 // when the first entry came, UTC seconds
	known map[[16]byte]briefIssue
}

// briefIssue is what is remembered of an entry.
type briefIssue struct {
	digest [16]byte
	index  int64
	end    int64
	marked bool // it says that there is a row
}

func (b *briefs) issued(index int64, e *audit.Entry, serial [16]byte) error {
	end, err := strconv.ParseInt(e.Detail["not_after"], 10, 64)
	if err != nil {
		return fmt.Errorf("its end %q is no time", e.Detail["not_after"])
	}
	if b.known == nil {
		b.known, b.since = map[[16]byte]briefIssue{}, b.now().Unix()
	}
	if end < b.since {
		return nil
	}
	b.known[serial] = briefIssue{index: index, end: end, marked: e.Detail[briefDetail] != "",
		digest: briefDigest(e.Serial, e.Device, e.Detail["slot"], e.Detail["issuer"], e.Detail["profile"], e.Detail["not_after"], e.Detail["spki"])}
	return nil
}

// briefDigest condenses what the row and the entry both say, parted by lengths.
func briefDigest(texts ...string) [16]byte {
	h := sha256.New()
	for _, text := range texts {
		fmt.Fprintf(h, "%d:%s", len(text), text)
	}
	return [16]byte(h.Sum(nil))
}

func (c *Certificate) briefDigest() [16]byte {
	return briefDigest(hex.EncodeToString(c.Serial[:]), hex.EncodeToString(c.Device[:]), c.Slot, c.Issuer.String(), c.Profile, strconv.FormatInt(c.NotAfter, 10), hex.EncodeToString(c.SPKIHash[:]))
}

// finish reads the rows and complains to find, which takes the index of the entry that is concerned, or -1.
func (b *briefs) finish(ctx context.Context, tx *db.Tx, find func(index int64, format string, args ...any)) error {
	now := b.now().Unix()
	err := tx.Each(ctx, func(row db.Row) error {
		c, err := scanBrief(row)
		if err != nil {
			find(-1, "cert_brief: %w", err)
			return nil
		}
		want, known := b.known[c.Serial]
		delete(b.known, c.Serial)
		switch {
		case max(c.NotAfter, want.end) < now:
		case !known:
			find(-1, "cert_brief: certificate %x is in the database, but no entry says that it was issued", c.Serial)
		case c.briefDigest() != want.digest || c.Serial[5] != c.Cell:
			find(want.index, "cert_brief: certificate %x in the database differs from what was issued", c.Serial)
		}
		return nil
	}, `SELECT `+briefColumns+` FROM cert_brief ORDER BY cell, device, serial`)
	if err != nil {
		return err
	}
	for _, serial := range slices.SortedFunc(maps.Keys(b.known), func(x, y [16]byte) int { return bytes.Compare(x[:], y[:]) }) {
		if want := b.known[serial]; want.marked && want.end >= now {
			find(want.index, "cert_brief: certificate %x was issued and is valid, but is not in the database", serial)
		}
	}
	return nil
}
