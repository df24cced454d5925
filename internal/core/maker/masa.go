package maker

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
)

// Who gives out the vouchers for a manufacturer's devices, where it is not the address of a service (MASA, RFC 8995).
const (
	NoMASA     = ""
	OwnMASA    = "own"    // this platform does
	IDevIDMASA = "idevid" // the service that the device's certificate names (RFC 8995, section 2.3.2)
)

const (
	maxMASA     = 1024 // octets of an address
	insertMASA  = `INSERT INTO maker_masa (cell, maker, print, der) VALUES (0, $1, $2, $3)`
	deleteMASA  = `DELETE FROM maker_masa WHERE cell = 0 AND maker = $1`
	selectMASA  = `SELECT cell, maker, print, der FROM maker_masa ORDER BY cell, maker, print`
	selectTold  = `SELECT m.masa, a.der FROM maker m LEFT JOIN maker_masa a ON a.cell = m.cell AND a.maker = m.name WHERE m.cell = 0 AND m.name = $1 AND m.state = 1 ORDER BY a.print`
	selectWants = `SELECT 1 FROM maker WHERE masa <> '' AND state = 1 LIMIT 1`
)

// MASA is who gives out vouchers, and how he is known.
type MASA struct {
	// Where is NoMASA, OwnMASA, IDevIDMASA, or the address below which the operations are, without a slash at its end.
	Where string
	// Trusted are the certificates that a service and its vouchers are checked by, in the order of their digests. CAs count with what they issued,
	// others for themselves.
	Trusted []*x509.Certificate
}

// checkMASA returns the form in which where is kept, and the certificates.
func (s *Service) checkMASA(where string, raw [][]byte) (m MASA, err error) {
	if m.Where, err = tidyMASA(where); err != nil {
		return m, err
	}
	if m.Where != NoMASA && s.Vouching != nil {
		if err := s.Vouching(); err != nil {
			return m, err
		}
	}
	asked := m.Where != NoMASA && m.Where != OwnMASA
	switch {
	case asked && len(raw) == 0:
		return m, errs.New(errs.Invalid, "masa_certificates: give the certificates that the manufacturer's service and its vouchers are to be checked by")
	case !asked && len(raw) > 0:
		return m, errs.New(errs.Invalid, "masa_certificates: these are for a manufacturer's own service, whose address masa names, or says to take from the device's certificate (idevid)")
	case len(raw) > maxAnchors:
		return m, errs.New(errs.Invalid, "masa_certificates: %d, but there may be at most %d", len(raw), maxAnchors)
	}
	for _, der := range raw {
		c, err := x509.ParseCertificate(der)
		switch {
		case len(der) > maxAnchor:
			return m, errs.New(errs.Invalid, "masa_certificates: one has %d octets, at most %d are allowed", len(der), maxAnchor)
		case err != nil:
			return m, errs.Wrap(errs.Invalid, err, "masa_certificates: not an X.509 certificate in DER")
		case slices.ContainsFunc(m.Trusted, c.Equal):
			return m, errs.New(errs.Invalid, "masa_certificates: %s is given twice", c.Subject)
		}
		m.Trusted = append(m.Trusted, c)
	}
	sortByDigest(m.Trusted)
	return m, nil
}

// tidyMASA checks the address of a service, and completes one that is a host alone (RFC 8995, section 5).
func tidyMASA(where string) (string, error) {
	if where == NoMASA || where == OwnMASA || where == IDevIDMASA {
		return where, nil
	}
	u, err := url.Parse(where)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || len(where) > maxMASA {
		return "", errs.New(errs.Invalid, "masa: %.200q: use own, idevid, or an address such as https://masa.example.com, without a user, a query or a fragment", where)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/.well-known/brski"
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// same reports whether both say the same.
func (m MASA) same(other MASA) bool {
	return m.Where == other.Where && slices.EqualFunc(m.Trusted, other.Trusted, (*x509.Certificate).Equal)
}

// ChangeMASA says anew who gives out the vouchers for a registered manufacturer's devices: as Spec does. It needs maker.manage.
func (s *Service) ChangeMASA(ctx context.Context, actor access.Actor, name, where string, trusted [][]byte) (Maker, error) {
	if err := s.Access.Require(ctx, actor, access.MakerManage, "manufacturer"); err != nil {
		return Maker{}, err
	}
	masa, err := s.checkMASA(where, trusted)
	if err != nil {
		return Maker{}, err
	}
	var m Maker
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		all, err := everyMaker(ctx, tx)
		if err != nil {
			return err
		}
		if m, err = find(all, name); err != nil {
			return err
		}
		m.MASA = masa
		return s.write(ctx, tx, actor, "maker.change", &m)
	})
	return m, err
}

// MASAOf says who gives out vouchers for the devices of the manufacturer with this name; NoMASA also where there is none of this name.
func (s *Service) MASAOf(ctx context.Context, name string) (m MASA, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		m = MASA{}
		return tx.Each(ctx, func(r db.Row) error {
			var der []byte
			if err := r.Scan(&m.Where, &der); err != nil {
				return fmt.Errorf("reading the manufacturer %s: %w", name, err)
			}
			if der == nil {
				return nil
			}
			c, err := x509.ParseCertificate(der)
			m.Trusted = append(m.Trusted, c)
			return err
		}, selectTold, name)
	})
	return m, err
}

// Vouched reports whether there is a manufacturer for whose devices somebody gives out vouchers.
func (s *Service) Vouched(ctx context.Context) (yes bool, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		yes, err = tx.Get(ctx, []any{new(int64)}, selectWants)
		return err
	})
	return yes, err
}

// readMASA adds what is kept of the services to all.
func readMASA(ctx context.Context, tx *db.Tx, all []Maker) error {
	return tx.Each(ctx, func(r db.Row) error {
		var cell int64
		var print, der []byte
		var name string
		if err := r.Scan(&cell, &name, &print, &der); err != nil {
			return fmt.Errorf("reading table maker_masa: %w", err)
		}
		at := slices.IndexFunc(all, func(m Maker) bool { return m.Name == name })
		c, err := x509.ParseCertificate(der)
		if err != nil || at < 0 || cell != 0 || sha256.Sum256(der) != [32]byte(fit(print)) {
			return fmt.Errorf("table maker_masa: a certificate of the manufacturer %s cannot be read, or its row is damaged", name)
		}
		all[at].MASA.Trusted = append(all[at].MASA.Trusted, c)
		return nil
	}, selectMASA)
}

// writeMASA puts the certificates of m's service in place of what there was.
func writeMASA(ctx context.Context, tx *db.Tx, m *Maker) error {
	if _, err := tx.Exec(ctx, deleteMASA, m.Name); err != nil {
		return err
	}
	for _, c := range m.MASA.Trusted {
		print := sha256.Sum256(c.Raw)
		if _, err := tx.Exec(ctx, insertMASA, m.Name, print[:], c.Raw); err != nil {
			return err
		}
	}
	return nil
}
