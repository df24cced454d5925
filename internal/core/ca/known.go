package ca

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
)

// Known returns what is known about the certificate with the serial number: the certificate when it is kept, and else, with DER nil, what the
// entry about its issue says: because it was recorded in brief, or because its time here is over. It is for components that have decided who
// may see it. NotFound: nothing is known.
func (a *Authority) Known(ctx context.Context, serial []byte) (*Certificate, error) {
	if KeptAs(serial) == Full {
		if c, err := a.Get(ctx, serial); !errs.Is(err, errs.NotFound) {
			return c, err
		}
	}
	if KeptAs(serial) == Ephemeral {
		return nil, errs.New(errs.NotFound, "the certificate with the serial number %x was for one transaction: of such the record keeps the digest and nothing else", serial)
	}
	if _, _, err := Locate(serial); err != nil {
		return nil, err
	}
	e, err := a.recordOf(ctx, serial)
	if err != nil {
		return nil, err
	}
	return fromEntry(e, [16]byte(serial))
}

// recordOf returns the entry about the issue of a certificate.
func (a *Authority) recordOf(ctx context.Context, serial []byte) (*audit.Entry, error) {
	q := audit.Query{Action: "cert.issue", Serial: hex.EncodeToString(serial), Near: IssuedAt(serial), Limit: 1}
	for try := 0; ; try++ {
		found, err := a.deps.Audit.List(ctx, access.System("ca"), q)
		if err != nil {
			return nil, fmt.Errorf("looking for a certificate in the record: %w", err)
		}
		if len(found) > 0 {
			return &found[0].Entry, nil
		}
		// What was recorded a moment ago has no place yet, and a search does not see it.
		if age := a.deps.Now().Unix() - IssuedAt(serial); try > 0 || age > int64(time.Minute/time.Second) {
			return nil, errs.New(errs.NotFound, "there is no certificate with the serial number %x", serial)
		}
		if err := a.deps.Audit.Sequence(ctx); err != nil {
			return nil, fmt.Errorf("giving the newest entries their place: %w", err)
		}
	}
}

// fromEntry reads what Entry wrote.
func fromEntry(e *audit.Entry, serial [16]byte) (*Certificate, error) {
	c := &Certificate{Serial: serial, Profile: e.Detail["profile"], Version: e.Detail["version"], Slot: e.Detail["slot"]}
	var err error
	octets := func(into []byte, text string) {
		if n, e := hex.Decode(into, []byte(text[:min(len(text), 2*len(into))])); e != nil || n != len(into) {
			err = fmt.Errorf("%q is not %d octets in hex", text, len(into))
		}
	}
	second := func(text string) int64 {
		n, e := strconv.ParseInt(text, 10, 64)
		if e != nil {
			err = fmt.Errorf("%q is no time", text)
		}
		return n
	}
	c.Cell, c.Day, _ = Locate(serial[:]) // it is one of ours, says the caller
	octets(c.Device[:], e.Device)
	octets(c.Issuer[:], e.Detail["issuer"])
	octets(c.SPKIHash[:], e.Detail["spki"])
	c.NotBefore, c.NotAfter = second(e.Detail["not_before"]), second(e.Detail["not_after"])
	if prev := e.Detail["prev"]; prev != "" {
		c.PrevSerial = make([]byte, len(prev)/2)
		octets(c.PrevSerial, prev)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the entry about certificate %x: %w", serial, err)
	}
	return c, nil
}

// IssuerOf returns the CA that leaf names as its issuer, by name and key identifier, or nil. Whether that CA signed it, SignedBy tells.
func (a *Authority) IssuerOf(leaf *x509.Certificate) *Issuer {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.byKey[issuerKey{string(leaf.RawIssuer), string(leaf.AuthorityKeyId)}]
}

// issuerKey is how certificates name the CA above them.
type issuerKey struct{ subject, keyID string }
