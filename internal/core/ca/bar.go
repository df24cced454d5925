package ca

import (
	"maps"

	"mooring/internal/base/errs"
	"mooring/wire/der"
)

// Bar says whether the certificate of a CA is revoked or on hold. Below a barred CA nothing is issued, nobody is believed, and it is not
// announced. Who revokes it tells the authority: package revoke, which also tells it at a start.
func (a *Authority) Bar(id IssuerID, barred bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := map[IssuerID]bool{}
	if was := a.barred.Load(); was != nil {
		next = maps.Clone(*was)
	}
	delete(next, id)
	if barred {
		next[id] = true
	}
	a.barred.Store(&next)
}

// Barred returns the CA at or above i whose certificate is revoked or on hold, or nil.
func (a *Authority) Barred(i *Issuer) *Issuer {
	barred := a.barred.Load()
	if barred == nil || len(*barred) == 0 { // nearly always
		return nil
	}
	for ; i != nil; i = i.parent {
		if (*barred)[i.id] {
			return i
		}
	}
	return nil
}

// bars returns an error of kind Unavailable when nothing may be issued by i.
func (a *Authority) bars(i *Issuer) error {
	if b := a.Barred(i); b != nil {
		return errs.New(errs.Unavailable, "the certificate of CA %q is revoked or on hold, so that nothing is issued below it: an administrator must set up another CA", b.name)
	}
	return nil
}

// CertificateOf returns the CA below another one of ours whose own certificate has the serial number, and that certificate in the form of
// all others; nil when there is none. A certificate that was made elsewhere may have a serial number that leads nowhere here.
func (a *Authority) CertificateOf(serial []byte) (*Issuer, *Certificate) {
	cell, day, err := Locate(serial)
	if err != nil {
		return nil, nil
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	for _, i := range a.byID {
		if i.parent == nil || string(i.cert.SerialNumber.Bytes()) != string(serial) {
			continue
		}
		return i, &Certificate{Serial: [16]byte(serial), Cell: cell, Day: day, Issuer: i.parent.id, NotBefore: i.cert.NotBefore.Unix(),
			NotAfter: i.cert.NotAfter.Unix(), SPKIHash: der.HashSPKI(i.cert.RawSubjectPublicKeyInfo), DER: i.cert.Raw}
	}
	return nil, nil
}
