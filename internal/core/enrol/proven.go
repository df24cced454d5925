package enrol

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
)

// Proven is who made a request, and what was shown, when a slice of the core has seen to that over several messages: an ACME account that is
// bound to a device, names that were validated, a key that hardware attested. The funnel believes it and checks all the rest: the device's
// state, whether the profile accepts this evidence, possession of the key, and that the request asks for no name that was not shown.
type Proven struct {
	Device device.ID
	// Known is the device, when it is known to be as it was looked up; nil: it is looked up.
	Known *device.Device
	// Evidence is ca.EvidenceAccount, ca.EvidenceDomain or ca.EvidenceAttested.
	Evidence ca.Evidence
	// Names are the names that may stand in the certificate, in the registry's form ("dns:…", "ip:…"), besides those
	// that ACME gives to hardware ("permanent-identifier:…", "hardware-module:…"). Of the device's registered names the
	// certificate has those that are among them. With EvidenceDomain it has no other DNS name, address or mail address at all.
	Names []string
	// Attested are the device's names that its hardware attested. They stand in the certificate when the profile says so.
	Attested []der.OtherName
	// Possession says that the requester has shown that it holds the private key of a Template without a proof of its own.
	Possession bool
	// SPKI is the SHA-256 of the only key that may be certified, because that one was attested; empty = any.
	SPKI []byte
	// Once names the transaction: the same request with the same Once gets the same certificate, with another Once another one. Empty: the
	// request alone counts.
	Once []byte
	// Detail is what else the record says about the issue.
	Detail map[string]string
	// Take may be nil. It returns a statement of the transaction that records c, which must change one row, and the statement that undoes it.
	// When it changes none, somebody else was faster: nothing is recorded, and the request is decided again. So one order leads to one
	// certificate, on however many nodes it is finished.
	Take func(c *ca.Certificate) (take, back *db.Stmt)
	// Then may be nil. It returns what is written along with the certificate: statements, and entries that stand before the certificate's own.
	Then func() ([]*db.Stmt, []audit.Entry)
	// Kept may be nil. It is called when c is recorded, also when the requester has left meanwhile. When it cannot be found out whether c is recorded,
	// it is not called.
	Kept func(c *ca.Certificate)
}

// errTaken is the refusal of whoever came second.
var errTaken = errs.New(errs.Conflict, "this was finished by another request meanwhile; ask again")

// byProven takes the word of another slice. That the device is there, it looks itself.
func (s *Service) byProven(ctx context.Context, p *Proven) (*Identity, error) {
	if !slices.Contains([]ca.Evidence{ca.EvidenceAccount, ca.EvidenceDomain, ca.EvidenceAttested}, p.Evidence) {
		return nil, fmt.Errorf("a request claims to be proven by %q", p.Evidence)
	}
	if p.Known != nil {
		return &Identity{Device: *p.Known, Evidence: p.Evidence, proven: true}, nil
	}
	d, err := s.Devices.Load(ctx, p.Device)
	if errs.Is(err, errs.NotFound) {
		return nil, unauthenticated("the device is unknown; ask its operator")
	}
	if err != nil {
		return nil, fmt.Errorf("looking for the device: %w", err)
	}
	return &Identity{Device: d, Evidence: p.Evidence, proven: true}, nil
}

// anew returns p for another decision, for which the device is looked up.
func (p *Proven) anew() *Proven {
	if p == nil || p.Known == nil {
		return p
	}
	again := *p
	again.Known = nil
	return &again
}

// present returns the serial of the slot's certificate, which stays good beside the one that follows it: there is no other proof that the answer
// arrived than that the new one is used. One that is revoked does not.
func (id *Identity) present(slot string) []byte {
	if s, ok := id.Device.Slot(slot); ok && s.Revoked == 0 {
		return s.Serial
	}
	return nil
}

// known returns what the registry says about the device, for the profile's templates; of its names, those that were shown.
func (sub *submission) known() (ca.Values, error) {
	v, err := values(&sub.identity.Device)
	if p := sub.req.Proven; err == nil && p != nil {
		v.Names = p.shown(v.Names)
		v.Names.Other = p.Attested
	}
	return v, err
}

// shown returns those of n that stand in p.Names.
func (p *Proven) shown(n der.AltNames) (out der.AltNames) {
	for _, s := range n.DNS {
		if slices.Contains(p.Names, "dns:"+s) {
			out.DNS = append(out.DNS, s)
		}
	}
	for _, ip := range n.IP {
		if slices.Contains(p.Names, "ip:"+ip.Unmap().String()) {
			out.IP = append(out.IP, ip)
		}
	}
	for _, s := range n.URI {
		if slices.Contains(p.Names, "uri:"+s) {
			out.URI = append(out.URI, s)
		}
	}
	for _, s := range n.Email {
		if slices.Contains(p.Names, "email:"+s) {
			out.Email = append(out.Email, s)
		}
	}
	return out
}

// checkProven holds the request to what was shown. Without the word of another slice it only looks for a hold, where nobody else does.
func (s *Service) checkProven(ctx context.Context, sub *submission) error {
	p := sub.req.Proven
	if p == nil {
		if by := sub.identity.Evidence; by == ca.EvidenceRA || by == ca.EvidenceBirth { // a token is a person's word, given after the hold or taken back with it
			return s.notHeld(ctx, sub)
		}
		return nil
	}
	if hash := sub.csr.HashSPKI(); len(p.SPKI) > 0 && !bytes.Equal(p.SPKI, hash[:]) {
		return errs.New(errs.Denied, "the request is for another key than the one that was attested: make it with that")
	}
	if err := p.covers(&sub.csr.Names); err != nil {
		return err
	}
	// Clients of the field repeat one of the names as the common name, which the profile gives as it likes.
	sub.csr.Subject = slices.DeleteFunc(slices.Clone(sub.csr.Subject), func(a der.Attribute) bool {
		return a.Type == der.OIDCommonName && slices.ContainsFunc([]string{"dns:", "ip:", "permanent-identifier:", "hardware-module:"}, func(kind string) bool { return slices.Contains(p.Names, kind+a.Value) })
	})
	if err := s.notHeld(ctx, sub); err != nil || p.Evidence != ca.EvidenceDomain {
		return err
	}
	known, err := sub.known()
	if err != nil {
		return err
	}
	names, err := sub.profile.NamesFor(&known, &sub.csr.Names)
	if err != nil {
		return err
	}
	names.URI = nil // they name the device to this platform, and nothing in the network
	return p.covers(&names)
}

// covers refuses names that were not shown.
func (p *Proven) covers(n *der.AltNames) error {
	shown := p.shown(*n)
	if len(shown.DNS)+len(shown.IP)+len(shown.URI)+len(shown.Email) == len(n.DNS)+len(n.IP)+len(n.URI)+len(n.Email) {
		return nil
	}
	for _, name := range listNames(*n) {
		if !slices.Contains(p.Names, name) {
			return errs.New(errs.Denied, "the certificate would be for %q, which was not validated: order it, or leave it out", name)
		}
	}
	return nil
}

// notHeld refuses a device whose present certificate is on hold: a hold is for finding out what happened.
func (s *Service) notHeld(ctx context.Context, sub *submission) error {
	slot, ok := sub.identity.Device.Slot(sub.profile.Slot)
	if !ok || slot.Revoked != 0 || len(slot.Serial) == 0 {
		return nil // one that is revoked for good bars nothing: by other proof than that certificate the device gets the next one
	}
	reason, revoked, err := s.revoked(ctx, slot.Serial)
	if err == nil && revoked && reason == revoke.CertificateHold {
		err = errs.New(errs.Denied, "the device's newest certificate is on hold; ask the device's operator")
	}
	return err
}

// settle makes the item follow p.
func (i *item) settle(p *Proven) {
	if len(p.Once) > 0 {
		i.entry.Detail["order"] = hex.EncodeToString(p.Once)
	}
	maps.Copy(i.entry.Detail, p.Detail)
	i.then, i.kept = p.Then, p.Kept
	if p.Take != nil {
		i.take, i.back = p.Take(i.cert)
	}
}

// takes are the statements of Proven.Take of a batch, and the looks whether the keys are blocked by now. They come before the claims on devices
// everywhere, so that two writers never wait for each other.
type takes struct {
	batch   []*item
	hashes  [][32]byte // of the keys
	stmts   []*db.Stmt
	blocked map[[32]byte]bool
}

func (s *Service) takesOf(tx *db.Tx, batch []*item) *takes {
	t := &takes{batch: batch, hashes: make([][32]byte, len(batch))}
	for k, i := range batch {
		t.hashes[k] = i.cert.SPKIHash
		if i.take != nil {
			t.stmts = append(t.stmts, i.take)
		}
	}
	looks, blocked := s.Revoke.BlockedStmts(tx, t.hashes)
	t.stmts, t.blocked = append(t.stmts, looks...), blocked
	return t
}

// refuse refuses the items for which it was too late, and those that are for blocked keys, once the statements were run. It reports whether there are any.
func (t *takes) refuse(refused []error) (any bool) {
	for k, i := range t.batch {
		switch {
		case i.take != nil && i.take.N != 1:
			refused[k], any = recordedError{errTaken}, true
		case t.blocked[i.cert.SPKIHash]:
			refused[k], any = recordedError{errBlocked}, true
		}
	}
	return any
}

// NamesOf returns the names that a certificate of the profile for d would have if a request asked for those in names ("dns:…", "ip:…"), all of
// them shown; the error says which one it may not have. It decides nothing: Submit looks again.
func (s *Service) NamesOf(d *device.Device, p *ca.Profile, names []string) error {
	if err := s.Devices.NotOwn(d, names); err != nil {
		return err
	}
	known, err := values(d)
	if err != nil {
		return err
	}
	shown := device.Device{Names: names}
	asked, err := values(&shown)
	if err != nil {
		return errs.New(errs.Invalid, "%v", err)
	}
	known.Names = (&Proven{Names: names}).shown(known.Names)
	_, err = p.NamesFor(&known, &asked.Names)
	return err
}
