package trust

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"

	"mooring/internal/base/db"
	"mooring/wire/its"
)

const (
	authorityColumns = `id, role, name, own, secret, cert, url, peer, created, revoked`
	insertAuthority  = `INSERT INTO v2x_authority (cell, ` + authorityColumns + `) VALUES (0, $1, $2, $3, $4, $5, $6, $7, $8, $9, 0)`
	selectAuthority  = `SELECT ` + authorityColumns + ` FROM v2x_authority WHERE cell = 0 ORDER BY created, id`
	holdAuthority    = `UPDATE v2x_authority SET role = role WHERE cell = 0 AND id = $1`
	ownAuthority     = `UPDATE v2x_authority SET own = $2, secret = $3 WHERE cell = 0 AND id = $1`
	revokeAuthority  = `UPDATE v2x_authority SET revoked = $2 WHERE cell = 0 AND id = $1`
	moveAuthority    = `UPDATE v2x_authority SET url = $2, peer = $3 WHERE cell = 0 AND id = $1`

	insertPending = `INSERT INTO v2x_pending (cell, spki, role, name, own, secret, created) VALUES (0, $1, $2, $3, $4, $5, $6)`
	selectPending = `SELECT role, name, own, secret, created FROM v2x_pending WHERE cell = 0 AND spki = $1`
	deletePending = `DELETE FROM v2x_pending WHERE cell = 0 AND spki = $1`

	insertLink   = `INSERT INTO v2x_link (cell, new, old, role, created, octets) VALUES (0, $1, $2, $3, $4, $5)`
	selectLinks  = `SELECT new, old, role, created, octets FROM v2x_link WHERE cell = 0 ORDER BY created, new`
	insertListed = `INSERT INTO v2x_listed (cell, id, cert, successor, url, created) VALUES (0, $1, $2, $3, $4, $5)`
	selectListed = `SELECT id, cert, successor, url, created FROM v2x_listed WHERE cell = 0 ORDER BY created, id`
	followListed = `UPDATE v2x_listed SET successor = $2 WHERE cell = 0 AND id = $1`
	deleteListed = `DELETE FROM v2x_listed WHERE cell = 0 AND id = $1`

	insertList = `INSERT INTO v2x_list (cell, root, kind, number, created, ends, octets) VALUES (0, $1, $2, $3, $4, $5, $6)`
	selectList = `SELECT number, ends, octets FROM v2x_list WHERE cell = 0 AND root = $1 AND kind = $2 ORDER BY number DESC LIMIT 1`
	selectStep = `SELECT ends, octets FROM v2x_list WHERE cell = 0 AND root = $1 AND kind = 2 AND number = $2`
	pruneLists = `DELETE FROM v2x_list WHERE cell = 0 AND root = $1 AND kind = $2 AND number < $3`
)

// Kinds of lists, as they are stored.
const (
	fullList       = 1
	deltaList      = 2
	revocationList = 3
)

// keptLists is how many lists of a kind stay: the sequence number of one that is asked for has one octet.
const keptLists = 255

func everyAuthority(ctx context.Context, tx *db.Tx) (all []*Authority, err error) {
	err = tx.Each(ctx, func(row db.Row) error {
		a := &Authority{}
		var id []byte
		var role int16
		if err := row.Scan(&id, &role, &a.Name, &a.own, &a.secret, &a.Octets, &a.URL, &a.Peer, &a.Created, &a.Revoked); err != nil {
			return fmt.Errorf("reading table v2x_authority: %w", err)
		}
		a.Role = Role(role)
		cert, err := its.ParseCertificate(a.Octets)
		if err != nil {
			return fmt.Errorf("reading table v2x_authority: the certificate of %s: %w", a.Name, err)
		}
		a.Certificate = cert
		if a.ID, err = cert.HashedId8(); err != nil || string(a.ID[:]) != string(id) {
			return fmt.Errorf("table v2x_authority: the row of %s is damaged", a.Name)
		}
		all = append(all, a)
		return nil
	}, selectAuthority)
	return all, err
}

// row is what is stored of an authority that is new.
func (a *Authority) row() []any {
	return []any{a.ID[:], int16(a.Role), a.Name, a.own, a.secret, a.Octets, a.URL, a.Peer, a.Created}
}

// lockAuthority returns an authority, nil if there is none, and keeps it as it is until the transaction ends.
func lockAuthority(ctx context.Context, tx *db.Tx, id its.HashedId8) (*Authority, error) {
	if n, err := tx.Exec(ctx, holdAuthority, id[:]); err != nil || n == 0 {
		return nil, err
	}
	all, err := everyAuthority(ctx, tx)
	for _, a := range all {
		if a.ID == id {
			return a, err
		}
	}
	return nil, err
}

// newest returns the list of a kind with the highest number; nil and -1 if there is none.
func newest(ctx context.Context, tx *db.Tx, root its.HashedId8, kind int16) (octets []byte, number int64, err error) {
	var ends int64
	found, err := tx.Get(ctx, []any{&number, &ends, &octets}, selectList, root[:], kind)
	if err == nil && !found {
		number = -1
	}
	return octets, number, err
}

// Newest stands for the newest delta list in place of its sequence number.
const Newest = -1

// Delta returns the delta list of a root or manager with a sequence number, the newest if several had it, and when it ends, in UTC seconds.
func (s *Service) Delta(ctx context.Context, of its.HashedId8, sequence int) (octets []byte, ends int64, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		var number int64
		found, err := tx.Get(ctx, []any{&number, &ends, &octets}, selectList, of[:], int16(deltaList))
		if err != nil || !found || sequence == Newest {
			return err
		}
		back := uint8(number) - uint8(sequence) // to the newest number with that last octet
		at := number - int64(back)
		octets, ends = nil, 0
		if number > math.MaxUint8 && back > math.MaxInt8 { // the numbers went round: who asks means one that is still to come
			return nil
		}
		_, err = tx.Get(ctx, []any{&ends, &octets}, selectStep, of[:], at)
		return err
	})
	return octets, ends, err
}

func randomOctets(n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := rand.Read(b)
	return b, err
}

func kindName(kind int16) string {
	switch kind {
	case fullList:
		return "ctl"
	case deltaList:
		return "delta ctl"
	case revocationList:
		return "crl"
	}
	return "list of no kind"
}

func hexDigest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
