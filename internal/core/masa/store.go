package masa

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"strconv"

	"mooring/internal/base/db"
	"mooring/internal/core/device"
	"mooring/wire/voucher"
)

const (
	insertRegistrar = `INSERT INTO masa_registrar (cell, name, state, grp, offline, created, turn) VALUES (0, $1, $2, $3, $4, $5, $6)`
	updateRegistrar = `UPDATE masa_registrar SET state = $2, grp = $3, offline = $4, created = $5, turn = $6 WHERE cell = 0 AND name = $1 AND turn = $7`
	deleteAnchors   = `DELETE FROM masa_anchor WHERE cell = 0 AND registrar = $1`
	insertAnchor    = `INSERT INTO masa_anchor (cell, subject, print, registrar, der) VALUES (0, $1, $2, $3, $4)`

	registrarColumns = `r.cell, r.name, r.state, r.grp, r.offline, r.created, r.turn`
	selectRegistrars = `SELECT ` + registrarColumns + ` FROM masa_registrar r ORDER BY r.cell, r.name`
	selectAnchors    = `SELECT cell, subject, print, registrar, der FROM masa_anchor ORDER BY cell, registrar, print`
	selectBySubject  = `SELECT ` + registrarColumns + `, a.der FROM masa_anchor a JOIN masa_registrar r ON r.cell = a.cell AND r.name = a.registrar
 WHERE a.cell = 0 AND a.subject = $1 AND r.state = 1 ORDER BY r.name, a.print`

	voucherColumns = `cell, maker, serial, number, issued, expires, registrar, domain, nonce, assertion, request, voucher`
	insertVoucher  = `INSERT INTO masa_voucher (` + voucherColumns + `) VALUES (0, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`
	selectProduct  = `SELECT ` + voucherColumns + ` FROM masa_voucher WHERE cell = 0 AND maker = $1 AND serial = $2 ORDER BY number`
	selectVouchers = `SELECT ` + voucherColumns + ` FROM masa_voucher ORDER BY cell, maker, serial, number`
)

// scanRegistrar reads a row with registrarColumns and then more.
func scanRegistrar(row db.Row, more ...any) (r Registrar, err error) {
	var cell, offline int64
	if err := row.Scan(append([]any{&cell, &r.Name, &r.state, &r.Group, &offline, &r.Created, &r.turn}, more...)...); err != nil {
		return r, fmt.Errorf("reading table masa_registrar: %w", err)
	}
	if cell != 0 || offline != flag(offline == 1) {
		return r, fmt.Errorf("table masa_registrar: the row of the registrar %s is damaged", r.Name)
	}
	r.Offline = offline == 1
	return r, nil
}

// everyRegistrar returns all there are, those that were removed among them, by name.
func everyRegistrar(ctx context.Context, tx *db.Tx) (all []Registrar, err error) {
	err = tx.Each(ctx, func(row db.Row) error {
		r, err := scanRegistrar(row)
		all = append(all, r)
		return err
	}, selectRegistrars)
	if err != nil {
		return nil, err
	}
	return all, tx.Each(ctx, func(row db.Row) error {
		var cell int64
		var subject, print, der []byte
		var name string
		if err := row.Scan(&cell, &subject, &print, &name, &der); err != nil {
			return fmt.Errorf("reading table masa_anchor: %w", err)
		}
		at := slices.IndexFunc(all, func(r Registrar) bool { return r.Name == name })
		a, err := x509.ParseCertificate(der)
		if err != nil || at < 0 || cell != 0 || !isDigest(print, der) || !isDigest(subject, a.RawSubject) {
			return fmt.Errorf("table masa_anchor: a certificate of the registrar %s cannot be read, or its row is damaged", name)
		}
		all[at].Anchors = append(all[at].Anchors, a)
		return nil
	}, selectAnchors)
}

func isDigest(sum, of []byte) bool {
	is := sha256.Sum256(of)
	return string(sum) == string(is[:])
}

// bySubject returns the registrars with a certificate of one of these subjects, with these certificates alone.
func (s *Service) bySubject(ctx context.Context, subjects [][]byte) (found []Registrar, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		found = nil
		for _, subject := range subjects {
			sum := sha256.Sum256(subject)
			if err := tx.Each(ctx, func(row db.Row) error { return gather(&found, row) }, selectBySubject, sum[:]); err != nil {
				return err
			}
		}
		return nil
	})
	return found, err
}

func gather(found *[]Registrar, row db.Row) error {
	var der []byte
	r, err := scanRegistrar(row, &der)
	if err != nil {
		return err
	}
	a, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("reading a certificate of the registrar %s: %w", r.Name, err)
	}
	at := slices.IndexFunc(*found, func(other Registrar) bool { return other.Name == r.Name })
	if at < 0 {
		at = len(*found)
		*found = append(*found, r)
	}
	(*found)[at].Anchors = append((*found)[at].Anchors, a)
	return nil
}

// Issued is a voucher that was issued.
type Issued struct {
	Product device.Product
	Number  int64 // of the device's vouchers, from 1
	At      int64 // UTC seconds
	Expires int64 // UTC seconds; 0: it does not, since it has a nonce
	// Registrar is the name of who asked; "" = this platform's own registrar.
	Registrar string
	Domain    []byte // RFC 8995, section 5.8.2
	Nonce     []byte // empty: it has none
	Assertion voucher.Assertion
	Voucher   []byte // as it was given out

	request [32]byte
}

func scanVoucher(row db.Row) (v Issued, err error) {
	var cell int64
	var request []byte
	if err := row.Scan(&cell, &v.Product.Maker, &v.Product.Serial, &v.Number, &v.At, &v.Expires, &v.Registrar, &v.Domain, &v.Nonce, (*string)(&v.Assertion), &request, &v.Voucher); err != nil {
		return v, fmt.Errorf("reading table masa_voucher: %w", err)
	}
	if cell != 0 || len(request) != len(v.request) {
		return v, fmt.Errorf("table masa_voucher: the row of voucher %d for %s %s is damaged", v.Number, v.Product.Maker, v.Product.Serial)
	}
	copy(v.request[:], request)
	return v, nil
}

func vouchersOf(ctx context.Context, tx *db.Tx, p device.Product) (all []Issued, err error) {
	err = tx.Each(ctx, func(row db.Row) error {
		v, err := scanVoucher(row)
		all = append(all, v)
		return err
	}, selectProduct, p.Maker, p.Serial)
	return all, err
}

func insert(ctx context.Context, tx *db.Tx, v *Issued) error {
	_, err := tx.Exec(ctx, insertVoucher, v.Product.Maker, v.Product.Serial, v.Number, v.At, v.Expires, v.Registrar, v.Domain, some(v.Nonce), string(v.Assertion), v.request[:], v.Voucher)
	return err
}

// some is never NULL.
func some(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// object names a product in the record without telling which it is to whoever does not know.
func object(p device.Product) string { return "product " + digest(p.Maker, p.Serial) }

// mark is the digest of the row, as the record holds it.
func (v *Issued) mark() string {
	return digest(v.Product.Maker, v.Product.Serial, strconv.FormatInt(v.Number, 10), strconv.FormatInt(v.At, 10), strconv.FormatInt(v.Expires, 10), v.Registrar,
		string(v.Domain), string(v.Nonce), string(v.Assertion), string(v.request[:]), string(v.Voucher))
}
