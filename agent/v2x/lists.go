package v2x

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"mooring/wire/its"
	"mooring/wire/its/chain"
	"mooring/wire/scr"
	"mooring/wire/trustlist"
)

type lists struct {
	ctl *trustlist.CTL
	crl *trustlist.CRL
}

// ErrNoLists is that Update was not called, or that the lists are over.
var ErrNoLists = errors.New("there is no trust list and revocation list of the root that is valid now: fetch them")

// Update fetches the lists of the root. Lists that are older than those that are known are not taken.
func (c *Client) Update(ctx context.Context) error {
	have := c.lists.Load()
	if have == nil {
		have = &lists{}
	}
	octets, err := c.get(ctx, "getctl", scr.CTLType)
	if err != nil {
		return err
	}
	next := *have
	ctl, err := trustlist.ReadCTL(octets, c.root, c.at())
	if err != nil {
		return fmt.Errorf("reading the trust list: %w", err)
	}
	if !ctl.IsFullCtl {
		return errors.New("reading the trust list: it is a delta where the full one was asked for")
	}
	if ctl.Newer(have.ctl) {
		next.ctl = ctl
	}
	if octets, err = c.get(ctx, "getcrl", scr.CRLType); err != nil {
		return err
	}
	crl, err := trustlist.ReadCRL(octets, c.root, c.at())
	if err != nil {
		return fmt.Errorf("reading the revocation list: %w", err)
	}
	if have.crl == nil || crl.ThisUpdate >= have.crl.ThisUpdate {
		next.crl = crl
	}
	c.lists.Store(&next)
	return nil
}

func (c *Client) get(ctx context.Context, what, kind string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.DC, "/")+"/"+what+"/"+c.id.String(), nil)
	if err != nil {
		return nil, err
	}
	return c.exchange(r, kind, its.MaxTrustList)
}

// Check judges a chain by the lists: each certificate was issued by the next, the last one by the root.
func (c *Client) Check(at its.Time64, path ...*its.Certificate) error {
	l := c.lists.Load()
	if l == nil || !l.crl.Current(c.at()) {
		return ErrNoLists
	}
	return chain.Check(append(path, c.root), chain.Options{At: at, Trusted: func(id its.HashedId8) bool { return id == c.id },
		Revocation: func(x *its.Certificate, _ its.HashedId8) chain.State {
			if x.ToBeSigned.CertIssuePermissions != nil && l.crl.Revoked(x) {
				return chain.Revoked
			}
			return chain.Good
		}})
}

// entry finds the first authority of a kind on the trust list that is believed.
func (c *Client) entry(kind its.CtlEntryChoice) (*its.CtlEntry, error) {
	l := c.lists.Load()
	if l == nil || c.at() >= its.Time64(l.ctl.NextUpdate)*1e6 {
		return nil, ErrNoLists
	}
	role := its.EtsiEA
	if kind == its.CtlAa {
		role = its.EtsiAA
	}
	for i := range l.ctl.CtlCommands {
		e := &l.ctl.CtlCommands[i].Add
		if l.ctl.CtlCommands[i].Choice != its.CtlAdds || e.Choice != kind {
			continue
		}
		cert := trustlist.Certificate(e)
		if cert.CheckRole(role, 0) == nil && c.Check(c.at(), cert) == nil {
			return e, nil
		}
	}
	return nil, fmt.Errorf("the trust list has no %s that is valid", role)
}

// Authorities returns the certificates of the enrolment authority and the authorization authority that are used.
func (c *Client) Authorities() (ea, aa *its.Certificate, err error) {
	e, err := c.entry(its.CtlEa)
	if err != nil {
		return nil, nil, err
	}
	a, err := c.entry(its.CtlAa)
	if err != nil {
		return nil, nil, err
	}
	return &e.Ea.EaCertificate, &a.Aa.AaCertificate, nil
}
