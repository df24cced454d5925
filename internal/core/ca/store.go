package ca

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"encoding/base64"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// Schema returns the tables of this package.
func Schema() db.Schema {
	sub, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		panic(err) // the name above is wrong
	}
	return db.Schema{Name: "ca", FS: sub}
}

const certColumns = `cell, day, serial, device, slot, issuer, profile, version, prev_serial, not_before, not_after, spki, der`

// InsertStmts returns the statements that record the certificates: on PostgreSQL one for each table, on SQLite one for each certificate. Those
// that are recorded in brief get their short rows. The caller sends them in the transaction that also records the change of the device and the
// audit entries (Certificate.Entry).
func (a *Authority) InsertStmts(tx *db.Tx, certs []*Certificate) (stmts []*db.Stmt) {
	var full, brief []*Certificate
	for _, c := range certs {
		if KeptAs(c.Serial[:]) == Brief {
			brief = append(brief, c)
		} else {
			full = append(full, c)
		}
	}
	if tx.Arrays() {
		return append(insertArrays(full), briefStmts(tx, brief)...)
	}
	for _, c := range full {
		stmts = append(stmts, &db.Stmt{SQL: `INSERT INTO ` + tableOf(c.Serial[:]) + ` (` + certColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`, Args: []any{
			int64(c.Cell), c.Day, c.Serial[:], c.Device[:], c.Slot, c.Issuer[:], c.Profile, c.Version, notNil(c.PrevSerial), c.NotBefore, c.NotAfter,
			c.SPKIHash[:], c.DER}})
	}
	return append(stmts, briefStmts(tx, brief)...)
}

// The tables of certificates. Which one it is, the serial number tells.
const (
	tableOrdinary = "cert"
	tableLong     = "cert_long"
)

func tableOf(serial []byte) string {
	if serial[0] == classLong {
		return tableLong
	}
	return tableOrdinary
}

// insertArrays writes one statement for each table that there is something for.
func insertArrays(certs []*Certificate) (stmts []*db.Stmt) {
	byTable := map[string][]*Certificate{}
	for _, c := range certs {
		table := tableOf(c.Serial[:])
		byTable[table] = append(byTable[table], c)
	}
	for _, table := range slices.Sorted(maps.Keys(byTable)) {
		stmts = append(stmts, insertArray(table, byTable[table]))
	}
	return stmts
}

func insertArray(table string, certs []*Certificate) *db.Stmt {
	n := len(certs)
	cell, day := make([]int16, n), make([]int32, n)
	serial, device, issuer, prev, spki, der := make([][]byte, n), make([][]byte, n), make([][]byte, n), make([][]byte, n), make([][]byte, n), make([][]byte, n)
	slot, profile, version := make([]string, n), make([]string, n), make([]string, n)
	notBefore, notAfter := make([]int64, n), make([]int64, n)
	for i, c := range certs {
		cell[i], day[i] = int16(c.Cell), int32(c.Day)
		serial[i], device[i], issuer[i], prev[i], spki[i], der[i] = c.Serial[:], c.Device[:], c.Issuer[:], notNil(c.PrevSerial), c.SPKIHash[:], c.DER
		slot[i], profile[i], version[i] = c.Slot, c.Profile, c.Version
		notBefore[i], notAfter[i] = c.NotBefore, c.NotAfter
	}
	return &db.Stmt{SQL: `INSERT INTO ` + table + ` (` + certColumns + `) SELECT * FROM unnest($1::smallint[], $2::integer[], $3::bytea[], $4::bytea[], $5::text[],
		$6::bytea[], $7::text[], $8::text[], $9::bytea[], $10::bigint[], $11::bigint[], $12::bytea[], $13::bytea[])`,
		Args: []any{cell, day, serial, device, slot, issuer, profile, version, prev, notBefore, notAfter, spki, der}}
}

func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func scanCert(row db.Row) (*Certificate, error) {
	var c Certificate
	var cell int64
	var serial, device, issuer, spki []byte
	err := row.Scan(&cell, &c.Day, &serial, &device, &c.Slot, &issuer, &c.Profile, &c.Version, &c.PrevSerial, &c.NotBefore, &c.NotAfter, &spki, &c.DER)
	if err != nil {
		return nil, err
	}
	if len(serial) != len(c.Serial) || len(device) != len(c.Device) || len(issuer) != len(c.Issuer) || len(spki) != len(c.SPKIHash) {
		return nil, fmt.Errorf("the row of certificate %x has columns of the wrong length", serial)
	}
	c.Cell, c.Serial, c.Device, c.Issuer, c.SPKIHash = uint8(cell), [16]byte(serial), [16]byte(device), IssuerID(issuer), [32]byte(spki)
	return &c, nil
}

// Get returns the certificate with the serial number, or an error of kind NotFound. It is for components that have decided who may see it.
func (a *Authority) Get(ctx context.Context, serial []byte) (c *Certificate, err error) {
	err = a.deps.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		c, err = a.GetTx(ctx, tx, serial)
		return err
	})
	return c, err
}

// GetTx is Get inside a transaction.
func (a *Authority) GetTx(ctx context.Context, tx *db.Tx, serial []byte) (*Certificate, error) {
	cell, day, err := Locate(serial)
	if err != nil {
		return nil, err
	}
	if KeptAs(serial) != Full {
		return nil, errs.New(errs.NotFound, "the certificate with the serial number %x is not kept", serial)
	}
	var c *Certificate
	err = tx.Each(ctx, func(row db.Row) (err error) {
		c, err = scanCert(row)
		return err
	}, `SELECT `+certColumns+` FROM `+tableOf(serial)+` WHERE cell = $1 AND day = $2 AND serial = $3`, int64(cell), day, serial)
	if err != nil {
		return nil, fmt.Errorf("reading a certificate: %w", err)
	}
	if c == nil {
		return nil, errs.New(errs.NotFound, "there is no certificate with the serial number %x", serial)
	}
	return c, nil
}

// maxHistory bounds how far History goes back.
const maxHistory = 1000

// History returns the certificate with the serial number and those it followed in its slot, newest first, at most limit (1000 when 0). It
// ends where a certificate is not kept; of the first one then only what the record knows is returned, see Known.
func (a *Authority) History(ctx context.Context, serial []byte, limit int) ([]*Certificate, error) {
	if limit <= 0 || limit > maxHistory {
		limit = maxHistory
	}
	var list []*Certificate
	err := a.deps.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		list = nil
		for next := serial; len(next) > 0 && len(list) < limit; {
			c, err := a.GetTx(ctx, tx, next)
			if errs.Is(err, errs.NotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			list = append(list, c)
			next = c.PrevSerial
		}
		return nil
	})
	if err == nil && len(list) == 0 {
		first, err := a.Known(ctx, serial)
		if err != nil {
			return nil, err
		}
		list = []*Certificate{first}
	}
	return list, err
}

// CertFilter chooses certificates. Empty fields do not restrict.
type CertFilter struct {
	Cell          *uint8 // with Device: the device's cell, which makes the search 256 times shorter
	Device        *[16]byte
	Profile       string
	Issuer        *IssuerID
	ExpiresAfter  int64 // notAfter >= this second
	ExpiresBefore int64 // notAfter < this second; 0 does not restrict
	Cursor        string
	Limit         int // at most and by default 1000
}

// List returns a page of certificates in a stable order (cell, day of issue, serial number) and the cursor of the next page, "" when there is
// none. It needs the permission cert.read. There are no indexes beside the primary key: a filter that matches little reads much.
func (a *Authority) List(ctx context.Context, actor access.Actor, f CertFilter) (page []*Certificate, next string, err error) {
	if err := a.deps.Access.Require(ctx, actor, access.CertRead, "certificates"); err != nil {
		return nil, "", err
	}
	err = a.deps.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		page, next, err = a.PageTx(ctx, tx, f)
		return err
	})
	return page, next, err
}

// compare is the order of lists.
func (c *Certificate) compare(o *Certificate) int {
	return cmp.Or(cmp.Compare(c.Cell, o.Cell), cmp.Compare(c.Day, o.Day), bytes.Compare(c.Serial[:], o.Serial[:]))
}

// conditions is what a filter demands; every value is a parameter.
type conditions struct {
	texts []string
	args  []any
}

func (c *conditions) add(text string, values ...any) {
	numbers := make([]any, len(values))
	for i, v := range values {
		c.args = append(c.args, v)
		numbers[i] = len(c.args)
	}
	c.texts = append(c.texts, fmt.Sprintf(text, numbers...))
}

// all returns the text and the parameters, and after them those given.
func (c *conditions) all(more ...any) (string, []any) {
	return strings.Join(append([]string{"1 = 1"}, c.texts...), " AND "), append(c.args, more...)
}

// where writes all but the cursor.
func (f *CertFilter) where() *conditions {
	c := &conditions{}
	add := c.add
	if f.Cell != nil {
		add("cell = $%d", int64(*f.Cell))
	}
	if f.Device != nil {
		add("device = $%d", f.Device[:])
	}
	if f.Profile != "" {
		add("profile = $%d", f.Profile)
	}
	if f.Issuer != nil {
		add("issuer = $%d", f.Issuer[:])
	}
	if f.ExpiresAfter > 0 {
		add("not_after >= $%d", f.ExpiresAfter)
	}
	if f.ExpiresBefore > 0 {
		add("not_after < $%d", f.ExpiresBefore)
	}
	return c
}

// after goes on behind the certificate that the cursor names.
func (c *conditions) after(cursor string) error {
	if cursor == "" {
		return nil
	}
	serial, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		return errs.New(errs.Invalid, "the cursor is not one of a list of certificates")
	}
	cell, day, err := Locate(serial)
	if err != nil {
		return errs.New(errs.Invalid, "the cursor is not one of a list of certificates")
	}
	c.add("(cell, day, serial) > ($%d, $%d, $%d)", int64(cell), day, serial)
	return nil
}
