package revoke

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/wire/der"
)

// kept are the encoded entries of a list, in the order of their changes. Keeping them makes the cost of a revocation independent of how many
// there were before. The octets are those of the last list and never change; what is longer is a copy.
type kept struct {
	loaded  bool
	entries []byte
	covers  int64 // all changes up to this one
	floor   floor
}

// addition is what a number of changes does to the entries of a list.
type addition struct {
	limit   int64 // no entry may be later than the list
	again   bool  // the entries of rows that were written before may be there already
	entries []byte
	lifted  [][]byte // serials whose entries must go before entries are appended
}

// add encodes one row: serial, at, reason, turn. Only a row that was written more than once can have an entry already.
func (a *addition) add(row db.Row) (err error) {
	var serial []byte
	var at, turn int64
	var reason Reason
	if err := row.Scan(&serial, &at, (*uint8)(&reason), &turn); err != nil {
		return err
	}
	serial = ca.ShownSerial(serial)
	if turn > 1 && a.again {
		a.lifted = append(a.lifted, serial)
	}
	if reason == released {
		return nil
	}
	// Another node's clock may be ahead; an entry later than its list would be wrong.
	a.entries, err = der.AppendCRLEntry(a.entries, serial, min(at, a.limit), int(reason))
	return err
}

// with returns k with the addition, up to covers.
func (k kept) with(a *addition, covers int64) kept {
	k.covers = covers
	if len(a.lifted) > 0 {
		k.entries = slices.Clone(k.entries)
		for _, serial := range a.lifted {
			k.entries = lift(k.entries, serial)
		}
	}
	k.entries = append(k.entries[:len(k.entries):len(k.entries)], a.entries...)
	return k
}

// lift takes the entry of a serial out. A serial of ours contains 80 random bits, so that its encoding stands nowhere else.
func lift(entries, serial []byte) []byte {
	at := bytes.Index(entries, der.AppendElement(nil, 0x02, serial))
	if at < 2 {
		return entries
	}
	// An entry is a SEQUENCE of less than 128 octets: its length is the octet before the serial number.
	return slices.Delete(entries, at-2, at+int(entries[at-1]))
}

const (
	// selectAll leaves out what is below the floor.
	selectAll = `SELECT serial, at, reason, turn FROM revoked WHERE issuer = $1 AND crl_shard = $2 AND change <= $3 AND reason <> 8
 AND (not_after >= $4 OR change > $5) ORDER BY change`

	// selectNew is what changed after $3.
	selectNew = `SELECT serial, at, reason, turn FROM revoked WHERE issuer = $1 AND crl_shard = $2 AND change > $3 AND change <= $4 ORDER BY change`

	selectChanges = `SELECT changes FROM crl_scope WHERE cell = 0 AND issuer = $1 AND shard = $2`
)

// fillTx reads all entries of a list up to covers.
func (sc *scope) fillTx(ctx context.Context, tx *db.Tx, f floor, covers, limit int64) (kept, error) {
	a := addition{limit: limit}
	err := tx.Each(ctx, a.add, selectAll, sc.key.issuer[:], sc.key.shard, covers, f.update, f.covers)
	return kept{loaded: true, entries: a.entries, covers: covers, floor: f}, err
}

// newTx reads what changed since k, up to covers.
func (sc *scope) newTx(ctx context.Context, tx *db.Tx, k *kept, covers, limit int64) (*addition, error) {
	a := &addition{limit: limit, again: true}
	if covers <= k.covers {
		return a, nil
	}
	return a, tx.Each(ctx, a.add, selectNew, sc.key.issuer[:], sc.key.shard, k.covers, covers)
}

// draft is what a list is made of: a number that no other list will have, and what is new.
type draft struct {
	list
	addition *addition
}

// floorAfter is the floor of the list that follows l: a regular one leaves out what has expired before the last regular one and was on it.
func floorAfter(l *list, regular bool) floor {
	switch {
	case l == nil:
		return floor{}
	case regular:
		return floor{l.regularUpdate, l.regularCovers}
	}
	return l.floor
}

// prepare reads in one state of the database what the next list is made of. Its number is the one after that of the published list, and at
// least the present second. Another node may prepare a list of the same number: only one of them is stored, and only that one is ever seen.
func (s *Service) prepare(ctx context.Context, sc *scope, regular bool) (*draft, error) {
	var d *draft
	var k kept
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		d, k = &draft{}, sc.kept
		was, err := readListTx(ctx, tx, sc.key)
		if err != nil {
			return err
		}
		if _, err := tx.Get(ctx, []any{&d.covers}, selectChanges, sc.key.issuer[:], sc.key.shard); err != nil {
			return err
		}
		d.number = s.Now().Unix()
		if was != nil {
			d.number = max(d.number, was.number+1)
		}
		d.floor = floorAfter(was, regular)
		s.follows(sc, &d.list, was, s.Now().Unix(), regular)
		s.schedule(sc, &d.list)
		if !k.loaded || k.floor != d.floor || k.covers > d.covers {
			d.addition = &addition{}
			k, err = sc.fillTx(ctx, tx, d.floor, d.covers, d.thisUpdate)
			return err
		}
		d.addition, err = sc.newTx(ctx, tx, &k, d.covers, d.thisUpdate)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading what is revoked: %w", err)
	}
	sc.kept = k
	return d, nil
}

// follows sets the times of l, which comes after was.
func (s *Service) follows(sc *scope, l, was *list, now int64, regular bool) {
	l.thisUpdate = now
	if was != nil {
		l.thisUpdate = max(now, was.thisUpdate) // a clock that was put back must not make lists older
		l.regularNumber, l.regularUpdate, l.regularCovers = was.regularNumber, was.regularUpdate, was.regularCovers
	}
	l.nextUpdate = l.thisUpdate + int64(s.Validity/time.Second)
	if regular {
		l.regularNumber, l.regularUpdate, l.regularCovers = l.number, l.thisUpdate, l.covers
	}
	l.delta = s.DeltaLists && s.deltaAddress(sc) != ""
}

// spec is what the list says besides its entries.
func (s *Service) spec(sc *scope, l *list) der.CRLSpec {
	cert := sc.issuer.Certificate()
	spec := der.CRLSpec{Algorithm: sc.issuer.Algorithm(), Issuer: cert.RawSubject, AKI: cert.SubjectKeyId, Number: integer(l.number),
		ThisUpdate: l.thisUpdate, NextUpdate: l.nextUpdate}
	// A complete list has no issuingDistributionPoint (RFC 5280, section 5.2.5): with one, verifiers would not use it for certificates that name
	// another place or none. A shard's list repeats the address that its certificates name, or one could be passed off as another. Those are
	// end devices: a CA with shards has no CAs below it.
	if sc.point != "" {
		spec.Point = &der.IssuingPoint{URL: sc.point, OnlyUser: true}
	}
	if l.delta && !sc.streamed() {
		spec.Freshest = s.deltaAddress(sc)
	}
	return spec
}

// outer is the most that the outer header of a list takes.
const outer = 6

// assemble puts a list together, in one buffer, with the signature that sign makes of the TBSCertList. The entries that it returns lie in it.
func assemble(spec der.CRLSpec, old, fresh []byte, sign func(tbs []byte) ([]byte, error)) (whole, entries, signature []byte, err error) {
	n := len(old) + len(fresh)
	buf, err := der.AppendCRLHead(make([]byte, outer, outer+n+4096), spec, n)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("encoding a CRL: %w", err)
	}
	from := len(buf)
	buf = append(append(buf, old...), fresh...)
	buf = der.AppendCRLTail(buf, spec)
	if signature, err = sign(buf[outer:]); err != nil {
		return nil, nil, nil, err
	}
	before, after := der.Enclose(len(buf)-outer, spec.Algorithm, signature)
	buf = append(buf, after...)
	copy(buf[outer-len(before):], before)
	return buf[outer-len(before):], buf[from : from+n : from+n], signature, nil
}

// sign completes the draft.
func (s *Service) sign(ctx context.Context, sc *scope, d *draft) (*list, error) {
	k := sc.kept
	if len(d.addition.lifted) > 0 {
		k = k.with(&addition{lifted: d.addition.lifted}, k.covers)
	}
	l := d.list
	var err error
	l.der, k.entries, l.signature, err = assemble(s.spec(sc, &l), k.entries, d.addition.entries, func(tbs []byte) ([]byte, error) {
		return s.signWith(ctx, sc.issuer, tbs)
	})
	if err != nil {
		return nil, err
	}
	k.covers = l.covers
	sc.kept = k
	l.size, l.digest = int64(len(l.der)), sha256.Sum256(l.der)
	return &l, nil
}

// load reads the published list, adopts it and returns it. It returns nil when there is none, or when it cannot be told any more what was on it:
// rows have moved on, and so a newer one must be made. The caller holds sc.making.
func (s *Service) load(ctx context.Context, sc *scope) (*list, error) {
	var l *list
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		l, err = readListTx(ctx, tx, sc.key)
		return err
	})
	if err != nil || l == nil {
		return nil, err
	}
	if was := sc.current.Load(); was != nil && was.number >= l.number {
		return was, nil
	}
	if l.kind != built {
		err = s.loadPieces(ctx, sc, l)
	} else {
		var same bool
		if same, err = s.rebuild(ctx, sc, l); err == nil && !same {
			return nil, nil
		}
	}
	if err != nil {
		return nil, err
	}
	sc.adopt(l)
	return l, nil
}

// rebuild makes the octets of l out of the rows, and reports whether they are the ones that were signed.
func (s *Service) rebuild(ctx context.Context, sc *scope, l *list) (bool, error) {
	for _, anew := range []bool{false, true} {
		k, err := s.entriesOf(ctx, sc, l, anew)
		if err != nil {
			return false, fmt.Errorf("reading the entries of the CRL of %q: %w", sc.issuer.Name(), err)
		}
		whole, entries, _, err := assemble(s.spec(sc, l), k.entries, nil, func([]byte) ([]byte, error) { return l.signature, nil })
		if err != nil {
			return false, err
		}
		if sha256.Sum256(whole) == l.digest {
			k.entries, l.der = entries, whole
			sc.kept = k
			return true, nil
		}
	}
	return false, nil
}

// entriesOf returns what should be on l: by what is new since the list that is known here, or all anew.
func (s *Service) entriesOf(ctx context.Context, sc *scope, l *list, anew bool) (k kept, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		k = sc.kept
		if anew || !k.loaded || k.floor != l.floor || k.covers > l.covers {
			k, err = sc.fillTx(ctx, tx, l.floor, l.covers, l.thisUpdate)
			return err
		}
		a, err := sc.newTx(ctx, tx, &k, l.covers, l.thisUpdate)
		k = k.with(a, l.covers)
		return err
	})
	return k, err
}

// signWith signs with the key of a CA. A key that does not sign is Unavailable.
func (s *Service) signWith(ctx context.Context, i *ca.Issuer, message []byte) ([]byte, error) {
	return s.signDigest(ctx, i, i.Algorithm().Digest(message))
}

// signDigest is signWith for what Algorithm().Digest makes of a message.
func (s *Service) signDigest(ctx context.Context, i *ca.Issuer, digest []byte) ([]byte, error) {
	signer, err := s.Keys.Signer(ctx, i.Key())
	if err != nil {
		if errs.Is(err, errs.Unavailable) { // the store's own text names files, and anybody may ask for a list
			err = errs.Wrap(errs.Unavailable, err, "the CA cannot sign at present: its key is not to be had; an administrator must look at the key store")
		}
		return nil, fmt.Errorf("fetching the key of CA %q: %w", i.Name(), err)
	}
	return signDigestBy(signer, digest, i.Algorithm().Hash())
}

// signDigestBy signs with randomness, unlike certificates: a stranger can have the same answer signed twice, and then a fault in one of the
// signatures would tell the key if the nonce came from the digest.
func signDigestBy(signer crypto.Signer, digest []byte, hash crypto.Hash) ([]byte, error) {
	signature, err := signer.Sign(rand.Reader, digest, hash)
	if err != nil && errs.KindOf(err) == errs.Internal {
		return nil, errs.Wrap(errs.Unavailable, err, "the CA's key does not sign at present")
	}
	return signature, err
}

// integer is the content of a positive INTEGER.
func integer(n int64) []byte {
	var b []byte
	for ; n > 0; n >>= 8 {
		b = append([]byte{byte(n)}, b...)
	}
	if len(b) == 0 || b[0] > 0x7f {
		b = append([]byte{0}, b...)
	}
	return b
}
