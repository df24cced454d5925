package ceremony

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"math/big"
	"strconv"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/ceremony/minutes"
	"mooring/wire/der"
)

func made(raw []byte) Made { return Made{DER: raw, Digest: sha256.Sum256(raw)} }

// reasons are those for which a CA can be revoked for good (RFC 5280, section 5.3.1).
func reasons() []string {
	return []string{"unspecified", "keyCompromise", "cACompromise", "affiliationChanged", "superseded", "cessationOfOperation"}
}

// reasonNumber returns the CRLReason of a name.
func reasonNumber(name string) (int, error) {
	for n, known := range reasons() {
		if known == name {
			return n, nil
		}
	}
	return 0, errs.New(errs.Invalid, "%q is no reason to revoke a CA: use one of %v", name, reasons())
}

// Certificates returns the entries about certificates that the root signed for others: CAs, other roots, and its own OCSP responders.
func (r *Root) Certificates() []*minutes.Entry {
	var all []*minutes.Entry
	for i := range r.record.Entries {
		if e := &r.record.Entries[i]; e.Act == minutes.Sign || e.Act == minutes.Cross || e.Act == minutes.Answer {
			all = append(all, e)
		}
	}
	return all
}

// Revocation returns the entry that revoked a certificate, or nil.
func (r *Root) Revocation(serial string) *minutes.Entry { return r.revoked()[serial] }

// revoked are the entries that revoked something, by serial number.
func (r *Root) revoked() map[string]*minutes.Entry {
	all := map[string]*minutes.Entry{}
	for i := range r.record.Entries {
		if e := &r.record.Entries[i]; e.Act == minutes.Revoke {
			all[e.Fact("serial")] = e
		}
	}
	return all
}

// Revoke revokes a certificate that the root signed, by its serial number in hex. The next list says so.
func (r *Root) Revoke(ctx context.Context, serial, reason string) error {
	if _, err := reasonNumber(reason); err != nil {
		return err
	}
	number, ok := new(big.Int).SetString(serial, 16)
	if !ok {
		return errs.New(errs.Invalid, "%q is no serial number: give it in hexadecimal digits", serial)
	}
	serial = hex.EncodeToString(number.Bytes())
	var subject string
	for _, e := range r.Certificates() {
		if e.Fact("serial") == serial {
			subject = e.Fact("subject")
		}
	}
	switch {
	case subject == "":
		return errs.New(errs.NotFound, "this root signed no certificate with the serial number %s: mooring ca root show lists what it signed", serial)
	case r.Revocation(serial) != nil:
		return errs.New(errs.Conflict, "the certificate %s was revoked at %s already", serial, stamp(r.Revocation(serial).At))
	}
	return r.append(ctx, minutes.Revoke, minutes.Facts("serial", serial, "subject", subject, "reason", reason))
}

// List is a signed revocation list.
type List struct {
	Made
	Number, ThisUpdate, NextUpdate int64
	Revoked                        int
}

// SignCRL signs the list of everything that was revoked, good for validity seconds. Its number is greater than that of every list before, also
// when the directory was restored from a backup in between: it is the present second, or one more than the last.
func (r *Root) SignCRL(ctx context.Context, validity int64) (List, error) {
	now := r.deps.Now().Unix()
	l := List{ThisUpdate: now, NextUpdate: now + validity}
	switch end := r.cert.NotAfter.Unix(); {
	case validity < 3600:
		return l, errs.New(errs.Invalid, "a list must be good for an hour or longer; a year is usual, so that the next ceremony is not urgent")
	case now >= end:
		return l, errs.New(errs.Invalid, "the root has ended: nobody looks at its lists any more")
	case l.NextUpdate > end:
		l.NextUpdate = end
	}
	l.Number = max(now, r.state.CRL+1)
	r.state.CRL = l.Number
	if err := r.storeState(); err != nil {
		return l, err
	}
	entries, n, err := r.listed()
	if err != nil {
		return l, err
	}
	l.Revoked = n
	if err := r.seal(ctx, &l, entries); err != nil {
		return l, err
	}
	return l, r.append(ctx, minutes.List, minutes.Facts("number", strconv.FormatInt(l.Number, 10), "this_update", stamp(l.ThisUpdate), "next_update", stamp(l.NextUpdate),
		"revoked", strconv.Itoa(n), "sha256", hex.EncodeToString(l.Digest[:])))
}

// listed encodes the entries of a list. A CA's stays for ever: there are few of them.
func (r *Root) listed() (entries []byte, n int, err error) {
	for i := range r.record.Entries {
		e := &r.record.Entries[i]
		if e.Act != minutes.Revoke {
			continue
		}
		serial, err := hex.DecodeString(e.Fact("serial"))
		if err != nil {
			return nil, 0, errs.New(errs.Unavailable, "the record names a serial number that cannot be read: %s", e.Fact("serial"))
		}
		reason, err := reasonNumber(e.Fact("reason"))
		if err != nil {
			return nil, 0, err
		}
		if entries, err = der.AppendCRLEntry(entries, serial, e.At, reason); err != nil {
			return nil, 0, err
		}
		n++
	}
	return entries, n, nil
}

func (r *Root) seal(ctx context.Context, l *List, entries []byte) error {
	signer, err := r.signer(ctx)
	if err != nil {
		return err
	}
	algorithm, err := der.AlgorithmFor(signer.Public())
	if err != nil {
		return err
	}
	number := big.NewInt(l.Number).Bytes()
	if number[0] >= 0x80 {
		number = append([]byte{0}, number...)
	}
	tbs, err := der.AppendCRLTBS(nil, der.CRLSpec{Algorithm: algorithm, Issuer: r.cert.RawSubject, AKI: r.cert.SubjectKeyId, Number: number,
		ThisUpdate: l.ThisUpdate, NextUpdate: l.NextUpdate}, entries)
	if err != nil {
		return err
	}
	signature, algorithm, err := r.sign(ctx, tbs)
	if err != nil {
		return err
	}
	l.Made = made(der.Wrap(nil, tbs, algorithm, signature))
	return nil
}

// LastCRL returns when the newest list that was signed ends; the zero time when there is none.
func (r *Root) LastCRL() time.Time {
	for i := len(r.record.Entries) - 1; i >= 0; i-- {
		if e := &r.record.Entries[i]; e.Act == minutes.List {
			at, err := time.Parse(time.RFC3339, e.Fact("next_update"))
			if err != nil {
				return time.Time{}
			}
			return at
		}
	}
	return time.Time{}
}
