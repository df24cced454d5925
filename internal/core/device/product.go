package device

import (
	"context"
	"crypto/x509"
	"slices"
	"strings"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
)

// Product says whose product a device is and which: what an ownership list knows of it before it was ever switched on, and what its IDevID
// (IEEE 802.1AR) says in the serialNumber of its subject. A serial number alone means nothing, since manufacturers do not ask each other. The
// zero Product is none.
type Product struct {
	Maker  string // the name of a registered manufacturer
	Serial string
}

// maxProductSerial is the length of the serialNumber in a certificate (RFC 5280, appendix A.1).
const maxProductSerial = 64

// ErrBound is the refusal of an IDevID for a product that another IDevID has claimed.
var ErrBound = errs.New(errs.Denied, "the device is bound to another certificate")

// Check returns nil when p can stand on an ownership list.
func (p Product) Check() error {
	switch {
	case p == (Product{}):
		return nil
	case p.Maker == "" || p.Serial == "":
		return errs.New(errs.Invalid, "maker: the manufacturer and the serial number belong together: give both or neither")
	}
	if err := CheckMaker(p.Maker); err != nil {
		return err
	}
	if len(p.Serial) > maxProductSerial || !printable(p.Serial) || strings.TrimSpace(p.Serial) != p.Serial {
		return errs.New(errs.Invalid, "serial: %s: must be at most %d printable characters without blanks around them", shown(p.Serial), maxProductSerial)
	}
	return nil
}

// CheckMaker returns nil when name can be that of a manufacturer.
func CheckMaker(name string) error {
	if name == "" || len(name) > maxGroup || !isWord(name) {
		return errs.New(errs.Invalid, "maker: %s: must be 1 to %d characters: %s", shown(name), maxGroup, wordRule)
	}
	return nil
}

// join returns the form in which it is stored.
func (p Product) join() string {
	if p == (Product{}) {
		return ""
	}
	return p.Maker + "\n" + p.Serial
}

func splitProduct(text string) Product {
	maker, serial, _ := strings.Cut(text, "\n")
	return Product{maker, serial}
}

// productKey is what leads to the device in the table birth. No certificate has this digest, and without the deployment key nobody makes it.
func (r *Registry) productKey(product string) [32]byte { return r.mac(domainProduct, []byte(product)) }

// ByProduct returns the device that stands on an ownership list as p, without asking for permission. The error is NotFound when there is none.
func (r *Registry) ByProduct(ctx context.Context, p Product) (Device, error) {
	if p == (Product{}) {
		return Device{}, noSuchDevice()
	}
	d, err := r.ByBirth(ctx, r.productKey(p.join()))
	if err == nil && d.Product != p {
		return Device{}, noSuchDevice()
	}
	return d, err
}

// setProduct brings the row by which the device is found as a product from what old says to what d says.
func (r *Registry) setProduct(ctx context.Context, tx *db.Tx, old, d *Device) error {
	if old.Product == d.Product {
		return nil
	}
	if was := old.Product.join(); was != "" {
		key := r.productKey(was)
		if _, err := tx.Exec(ctx, deleteBirth, int64(key[0]), key[:]); err != nil {
			return err
		}
	}
	is := d.Product.join()
	if is == "" {
		return nil
	}
	key := r.productKey(is)
	taken, err := tx.Get(ctx, []any{new([]byte)}, `SELECT device FROM birth WHERE cell = $1 AND fingerprint = $2`, int64(key[0]), key[:])
	if err != nil {
		return err
	}
	if taken {
		return errs.New(errs.Conflict, "serial: another device is registered with the serial number %s of the manufacturer %s", shown(d.Product.Serial), d.Product.Maker)
	}
	_, err = tx.Exec(ctx, insertBirth, int64(key[0]), key[:], int64(d.Cell), d.ID[:])
	return err
}

// bindMost is how often Bind looks again when the device is changed at the same time.
const bindMost = 5

// Bind makes cert, with which somebody has proved for the first time to be the product that the device is, the birth certificate of the device: from
// now on it is this one and no other, until an administrator takes it away (Change.Birth). A device that is not active is left as it is. The
// error is ErrBound when the device has another birth certificate.
func (r *Registry) Bind(ctx context.Context, id ID, cert *x509.Certificate) (d Device, err error) {
	for range bindMost {
		if d, err = r.bind(ctx, id, cert); !errs.Is(err, errs.Conflict) {
			return d, err
		}
	}
	return d, err
}

func (r *Registry) bind(ctx context.Context, id ID, cert *x509.Certificate) (d Device, err error) {
	err = r.db.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		old, err := r.loadTx(ctx, tx, id)
		if err != nil {
			return err
		}
		d = old
		d.Slots = slices.Clone(old.Slots)
		if err := d.setBirth(cert.Raw); err != nil {
			return err
		}
		if had := old.birth(); len(had) > 0 {
			if !slices.Equal(had, d.birth()) {
				return ErrBound
			}
			return nil // another connection was faster
		}
		if !old.State.Active() {
			d = old
			return nil
		}
		d.Policy, d.Updated = old.Policy+1, r.now().Unix()
		if err := r.updateRow(ctx, tx, old.Policy, &d); err != nil {
			return err
		}
		if err := r.setBirth(ctx, tx, &old, &d); err != nil {
			return err
		}
		tx.OnCommit(func() { r.inv.touch(id) })
		e := r.rowEntry("device.change", access.Device(id.String(), ""), &d)
		e.Detail["changed"] = "birth"
		e.Detail["by"] = "manufacturer"
		return r.audit.Append(ctx, tx, e)
	})
	if db.IsConflict(err) {
		err = errs.Wrap(errs.Conflict, err, "retry: the device was changed at the same time")
	}
	return d, err
}
