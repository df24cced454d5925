package ca

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ceremony/minutes"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

// Import is what comes back from whoever signed.
type Import struct {
	// Name is that of the CA: one that waits (see Request), or else a new one whose key is not here, such as the root of a second generation.
	Name   string
	Chain  [][]byte // certificates in DER, in any order, up to the root
	Record []byte   // the ceremony record of the root; may be nil
}

// Imported is what an import led to.
type Imported struct {
	Issuers []*Issuer // the new CAs, the named one first, then those above it that were not known yet
	Entries int       // of the ceremony record that are new
}

// maxImported bounds the certificates of one import.
const maxImported = 16

// Import takes the certificate of a CA with those above it, checks everything that verifiers will check, and puts the CA to use. CAs above it that
// are not known yet become CAs without a key here. It needs the permission ca.manage.
func (a *Authority) Import(ctx context.Context, actor access.Actor, in Import) (*Imported, error) {
	if err := a.deps.Access.Require(ctx, actor, access.CAManage, "ca "+in.Name); err != nil {
		return nil, err
	}
	if !plainName.MatchString(in.Name) {
		return nil, errs.New(errs.Invalid, "the CA's name %q: use 1 to 32 small letters, digits and hyphens, a letter first", in.Name)
	}
	if _, err := a.Issuer(in.Name); err == nil {
		return nil, errs.New(errs.Conflict, "there already is a CA %q", in.Name)
	}
	waiting, err := a.pending(ctx, in.Name)
	if err != nil && !errs.Is(err, errs.NotFound) {
		return nil, err
	}
	path, err := a.assemble(in.Chain, waiting)
	if err != nil {
		return nil, err
	}
	out := &Imported{}
	if out.Issuers, err = a.newcomers(in.Name, path, waiting); err != nil {
		return nil, err
	}
	var record *minutes.Record
	if in.Record != nil {
		if record, err = checkRecord(in.Record, out.Issuers); err != nil {
			return nil, err
		}
	}
	if out.Entries, err = a.recordImport(ctx, actor, out.Issuers, waiting, record); err != nil {
		return nil, err
	}
	for i := len(out.Issuers) - 1; i >= 0; i-- {
		a.add(out.Issuers[i])
	}
	return out, nil
}

// climb is a chain of certificates from the bottom up; known, if not nil, is the CA of ours that signed the last of them.
type climb struct {
	certs []*x509.Certificate
	known *Issuer
}

// assemble puts the certificates into the order in which they sign each other, beginning with that of the waiting CA.
func (a *Authority) assemble(raw [][]byte, waiting *Pending) (*climb, error) {
	if len(raw) == 0 || len(raw) > maxImported {
		return nil, errs.New(errs.Invalid, "give 1 to %d certificates: that of the CA and those above it", maxImported)
	}
	var certs []*x509.Certificate
	for n, r := range raw {
		cert, err := x509.ParseCertificate(r)
		if err != nil {
			return nil, errs.New(errs.Invalid, "certificate %d cannot be read: %v", n+1, err)
		}
		certs = append(certs, cert)
	}
	first, err := bottom(certs, waiting)
	if err != nil {
		return nil, err
	}
	p := &climb{certs: []*x509.Certificate{first}}
	for top := first; !bytes.Equal(top.RawIssuer, top.RawSubject); top = p.certs[len(p.certs)-1] {
		if len(p.certs) == maxDepth {
			return nil, errs.New(errs.Invalid, "the chain is longer than %d", maxDepth)
		}
		if p.known = a.above(top); p.known != nil {
			return p, nil
		}
		next := signerOf(top, certs)
		if next == nil {
			return nil, errs.New(errs.Invalid, "the chain is not whole: %s was signed by %s, whose certificate is not among those given, or the signature is wrong", top.Subject, top.Issuer)
		}
		p.certs = append(p.certs, next)
	}
	return p, nil
}

// bottom finds the certificate that the import is about.
func bottom(certs []*x509.Certificate, waiting *Pending) (*x509.Certificate, error) {
	if waiting == nil {
		for _, c := range certs {
			lowest := true
			for _, other := range certs {
				lowest = lowest && (other == c || !bytes.Equal(other.RawIssuer, c.RawSubject))
			}
			if lowest {
				return c, nil
			}
		}
		return nil, errs.New(errs.Invalid, "the certificates sign each other in a circle")
	}
	request, err := der.ParseRequest(waiting.Request)
	if err != nil {
		return nil, fmt.Errorf("reading the request of CA %q: %w", waiting.Name, err)
	}
	for _, c := range certs {
		if !bytes.Equal(c.RawSubjectPublicKeyInfo, request.RawSPKI) {
			continue
		}
		switch {
		case !bytes.Equal(c.RawSubject, request.RawSubject):
			return nil, errs.New(errs.Invalid, "the certificate is for the key of %q, but under another name: %s instead of %s", waiting.Name, c.Subject, der.FormatName(request.Subject))
		case request.PathLimited && PathLen(c) >= 0 && PathLen(c) < request.PathLen:
			return nil, errs.New(errs.Invalid, "the certificate permits %d tiers of CAs below %q, and %d were asked for", PathLen(c), waiting.Name, request.PathLen)
		}
		return c, nil
	}
	sum := request.HashSPKI()
	return nil, errs.New(errs.Invalid, "none of the certificates is for the key of %q, whose SHA-256 is %x: is it the answer to another request?", waiting.Name, sum)
}

// signerOf returns the certificate in certs whose key signed cert, or nil.
func signerOf(cert *x509.Certificate, certs []*x509.Certificate) *x509.Certificate {
	for _, c := range certs {
		if !bytes.Equal(c.RawSubject, cert.RawIssuer) {
			continue
		}
		if pub, err := der.ParsePublicKey(c.RawSubjectPublicKeyInfo); err == nil && der.CheckCertificate(cert, pub) == nil {
			return c
		}
	}
	return nil
}

// above returns the CA that is known here and signed cert, or nil.
func (a *Authority) above(cert *x509.Certificate) *Issuer {
	for _, i := range a.all() {
		if bytes.Equal(i.cert.RawSubject, cert.RawIssuer) && i.CheckSignature(cert) == nil {
			return i
		}
	}
	return nil
}

// newcomers checks the path and makes the CAs of it, from the named one up.
func (a *Authority) newcomers(name string, p *climb, waiting *Pending) ([]*Issuer, error) {
	now := a.deps.Now().Unix()
	made := make([]*Issuer, len(p.certs))
	taken := map[string]bool{name: true}
	parent := p.known
	for n := len(p.certs) - 1; n >= 0; n-- {
		cert := p.certs[n]
		if err := a.checkImported(cert, parent, n, now); err != nil {
			return nil, err
		}
		as, at, shards := name, key.ID(""), 0
		if n > 0 {
			as = a.freeName(cert, taken)
		} else if waiting != nil {
			at, shards = waiting.Key, waiting.Shards
		}
		i, err := newIssuer(as, parent, at, cert.Raw, now)
		if err != nil {
			return nil, errs.New(errs.Invalid, "the certificate of %s is not accepted: %v", cert.Subject, err)
		}
		i.shards = shards
		made[n], parent = i, i
	}
	return made, nil
}

// checkImported applies to a certificate with so many tiers of CAs below it what RFC 5280, section 6.1, has verifiers check.
func (a *Authority) checkImported(cert *x509.Certificate, parent *Issuer, below int, now int64) error {
	a.mu.RLock()
	known := a.byID[IDOf(cert)]
	a.mu.RUnlock()
	invalid := func(format string, args ...any) error {
		return errs.New(errs.Invalid, "the certificate of %s "+format, append([]any{cert.Subject}, args...)...)
	}
	switch {
	case known != nil:
		return errs.New(errs.Conflict, "%s is the CA %q, which is known already", cert.Subject, known.name)
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return invalid("is not that of a CA: it has no basicConstraints with CA:TRUE")
	case cert.KeyUsage&x509.KeyUsageCertSign == 0 || cert.KeyUsage&x509.KeyUsageCRLSign == 0:
		return invalid("does not permit signing of certificates and lists: keyUsage must have keyCertSign and cRLSign")
	case len(cert.SubjectKeyId) == 0:
		return invalid("has no subject key identifier, without which no list can be made")
	case PathLen(cert) >= 0 && PathLen(cert) < below:
		return invalid("permits %d tiers of CAs below it, and there are %d", PathLen(cert), below)
	case len(cert.UnhandledCriticalExtensions) > 0:
		return invalid("has critical extensions that are not understood here: %v", cert.UnhandledCriticalExtensions)
	case hasExtension(cert, der.OIDNameConstraints):
		return invalid("limits names (nameConstraints). Certificates are issued here without regard to such limits, so verifiers would refuse some: ask for one without")
	case now < cert.NotBefore.Unix():
		return invalid("is not valid before %s: check the clocks", cert.NotBefore.UTC().Format("2006-01-02 15:04:05Z"))
	case now > cert.NotAfter.Unix():
		return invalid("ended at %s", cert.NotAfter.UTC().Format("2006-01-02 15:04:05Z"))
	}
	if pub, err := der.ParsePublicKey(cert.RawSubjectPublicKeyInfo); err != nil || der.CheckKey(pub) != nil {
		return invalid("has a key that is too weak or not understood here")
	}
	if parent == nil {
		return minutes.CheckRoot(cert)
	}
	above := parent.cert
	for tiers, up := below+1, parent; up != nil; tiers, up = tiers+1, up.parent {
		if most := PathLen(up.cert); most >= 0 && most < tiers {
			return errs.New(errs.Invalid, "%s permits %d tiers of CAs below it, and there would be %d: the path length is exceeded", up.cert.Subject, most, tiers)
		}
	}
	switch {
	case len(cert.AuthorityKeyId) > 0 && !bytes.Equal(cert.AuthorityKeyId, above.SubjectKeyId):
		return invalid("names another key of its issuer than %s has", above.Subject)
	case cert.NotAfter.After(above.NotAfter) || cert.NotBefore.Before(above.NotBefore):
		return invalid("is valid before or after %s is, which signed it: its chain would break", above.Subject)
	}
	return nil
}

func hasExtension(cert *x509.Certificate, id der.OID) bool {
	for _, e := range cert.Extensions {
		if e.Id.String() == id.String() {
			return true
		}
	}
	return false
}

var notPlain = regexp.MustCompile(`[^a-z0-9]+`)

// freeName makes a name for a CA whose certificate came with another's, from its common name.
func (a *Authority) freeName(cert *x509.Certificate, taken map[string]bool) string {
	base := strings.Trim(notPlain.ReplaceAllString(strings.ToLower(cert.Subject.CommonName), "-"), "-")
	if base = strings.TrimRight(base[:min(len(base), 24)], "-"); !plainName.MatchString(base) {
		base = "ca"
	}
	for n := 1; ; n++ {
		name := base
		if n > 1 {
			name = fmt.Sprintf("%s-%d", base, n)
		}
		if _, err := a.Issuer(name); err != nil && !taken[name] {
			taken[name] = true
			return name
		}
	}
}

// recordImport stores everything at once.
func (a *Authority) recordImport(ctx context.Context, actor access.Actor, made []*Issuer, waiting *Pending, record *minutes.Record) (entries int, err error) {
	err = a.deps.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if waiting != nil {
			if err := takePending(ctx, tx, waiting); err != nil {
				return err
			}
		}
		for n := len(made) - 1; n >= 0; n-- {
			if err := a.insertIssuer(ctx, tx, audit.Entry{Action: "ca.import", Actor: actor.String()}, made[n]); err != nil {
				return err
			}
		}
		entries = 0
		if record == nil {
			return nil
		}
		entries, err = a.recordMinutes(ctx, tx, actor, record)
		return err
	})
	if db.IsConflict(err) {
		return 0, errs.New(errs.Conflict, "there already is a CA %q, or one of those above it, made a moment ago", made[0].name)
	}
	if err != nil {
		return 0, fmt.Errorf("recording the import of CA %q: %w", made[0].name, err)
	}
	return entries, nil
}

// checkRecord verifies a ceremony record and that it is about these CAs.
func checkRecord(text []byte, made []*Issuer) (*minutes.Record, error) {
	record, err := minutes.Parse(text)
	if err != nil {
		return nil, err
	}
	top := made[len(made)-1]
	for top.parent != nil {
		top = top.parent
	}
	if !bytes.Equal(record.Root.Raw, top.cert.Raw) {
		return nil, errs.New(errs.Invalid, "the ceremony record is of another root than the chain: %s", record.Root.Subject)
	}
	for _, i := range made {
		if i.parent == nil || i.parent.id != top.id {
			continue // signed by another CA than the root, or the root itself, which the record begins with
		}
		found := false
		for n := range record.Entries {
			found = found || bytes.Equal(record.Entries[n].Certificate(), i.cert.Raw)
		}
		if !found {
			return nil, errs.New(errs.Invalid, "the ceremony record does not tell of the certificate of %s: is it an older copy?", i.cert.Subject)
		}
	}
	return record, nil
}

// ImportRecord takes the newer entries of an offline root's ceremony record into the audit record, and returns how many there were. It needs
// the permission ca.manage.
func (a *Authority) ImportRecord(ctx context.Context, actor access.Actor, text []byte) (root *Issuer, entries int, err error) {
	if err := a.deps.Access.Require(ctx, actor, access.CAManage, "ca"); err != nil {
		return nil, 0, err
	}
	record, err := minutes.Parse(text)
	if err != nil {
		return nil, 0, err
	}
	if root = a.issuer(IDOf(record.Root)); root == nil || !bytes.Equal(root.cert.Raw, record.Root.Raw) {
		return nil, 0, errs.New(errs.NotFound, "the ceremony record is of a root that is not known here: %s. Import the root first", record.Root.Subject)
	}
	err = a.deps.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		entries, err = a.recordMinutes(ctx, tx, actor, record)
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("recording a ceremony: %w", err)
	}
	return root, entries, nil
}

// recordMinutes puts the newer entries of a ceremony record into the audit record.
func (a *Authority) recordMinutes(ctx context.Context, tx *db.Tx, actor access.Actor, record *minutes.Record) (int, error) {
	id := IDOf(record.Root)
	var known int
	var head []byte
	if _, err := tx.Get(ctx, []any{&known, &head}, `SELECT entries, head FROM ca_ceremony WHERE cell = 0 AND root = $1`, id[:]); err != nil {
		return 0, err
	}
	var last [32]byte
	copy(last[:], head)
	fresh, err := record.Since(known, last)
	if err != nil || len(fresh) == 0 {
		return 0, err
	}
	for n := range fresh {
		e := ceremonyEntry(id, known+n+1, &fresh[n])
		e.At, e.Actor = a.deps.Now().Unix(), actor.String()
		if err := a.deps.Audit.Append(ctx, tx, e); err != nil {
			return 0, err
		}
	}
	newest := record.Last().Hash
	_, err = tx.Exec(ctx, `INSERT INTO ca_ceremony (cell, root, entries, head) VALUES (0, $1, $2, $3)
 ON CONFLICT (cell, root) DO UPDATE SET entries = excluded.entries, head = excluded.head`, id[:], int64(known+len(fresh)), newest[:])
	return len(fresh), err
}

// ceremonyEntry is what the audit record keeps of an entry of a ceremony record: facts and its hash, but no names of people, which could never be
// taken out again.
func ceremonyEntry(root IssuerID, n int, e *minutes.Entry) audit.Entry {
	detail := map[string]string{"entry": fmt.Sprint(n), "act": e.Act, "ceremony_at": fmt.Sprint(e.At), "hash": hex.EncodeToString(e.Hash[:])}
	for _, name := range []string{"subject", "spki", "sha256", "request", "not_after", "path_length", "reason", "number", "next_update", "revoked"} {
		if value := e.Fact(name); value != "" {
			detail[name] = value
		}
	}
	return audit.Entry{Action: "ca.ceremony", Object: root.String(), Serial: e.Fact("serial"), Detail: detail}
}
