// Package ca is the certification authority: the hierarchy of CAs, the profiles that say what certificates look like, and the making of
// certificates (RFC 5280).
//
// One certificate is made in three steps, in this order, and the types make other orders impossible:
//
//	prepared, err := authority.Prepare(ctx, order)   // names, key, times against the profile; nothing is signed
//	certificate, err := prepared.Sign(ctx)           // exactly one signature
//	tx.Send(ctx, authority.InsertStmts(tx, certs)…)  // recorded, with its audit entry, by the caller's transaction
//
// The caller (package enrol, and nobody else) has decided that the certificate may be issued, has verified possession of the key, and
// releases nothing before the commit. A certificate contains what its profile says and what the registry knows; from the request come only
// the public key and those names that the profile lets it choose. There is one template for each pair of CA and profile version, linted when
// the profile is loaded: by rules of our own, by zlint's RFC lints, and by comparison with what crypto/x509 makes of the same fields.
// Each certificate is then checked only for what differs, and one in 64 is verified and parsed whole.
//
// Serial numbers tell where a row lies (see Locate), so that a certificate is found without an index over all of them.
//
// The package deliberately does not decide who may have a certificate, knows no protocol, and does not revoke.
package ca

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

// URLs are where certificates point to, by plain http: an https address would need a certificate to check a certificate. An empty one
// is not written; a profile that wants it then cannot be used.
type URLs struct {
	CRL       string // the issuer's id and ".crl", or id, "/", shard and ".crl", are appended: "http://pki.example/crl/"
	OCSP      string // used as it is
	CAIssuers string // the issuer's id and ".cer" are appended
}

func (u URLs) crl(id IssuerID) string { return suffixed(u.CRL, id, ".crl") }
func (u URLs) shard(id IssuerID, n int64) string {
	return suffixed(u.CRL, id, "/"+strconv.FormatInt(n, 10)+".crl")
}
func (u URLs) caIssuers(id IssuerID) string { return suffixed(u.CAIssuers, id, ".cer") }

func suffixed(base string, id IssuerID, extension string) string {
	if base == "" {
		return ""
	}
	return strings.TrimSuffix(base, "/") + "/" + id.String() + extension
}

// CRLAddress returns the address of the CRL for the certificates of one shard (see Issuer.Shard) of the CA with this id, as they name it, ""
// when they name none. A list of a shard repeats it octet by octet (RFC 5280, section 5.2.5). Whatever the shard, it is the address of the
// complete list when the CA has no shards or the shard is Complete.
func (a *Authority) CRLAddress(id IssuerID, shard int64) string {
	if i := a.issuer(id); i != nil && i.shards > 0 && shard != Complete {
		return a.deps.URLs.shard(id, shard)
	}
	return a.deps.URLs.crl(id)
}

// Complete stands for all shards of a CA in place of one.
const Complete = -1

// Deps are what an Authority stands on.
type Deps struct {
	DB     *db.DB
	Audit  *audit.Log
	Access *access.Decider
	Keys   key.Custody
	// StatusKeys are the same keys for signing what tells of the status of certificates; nil: Keys.
	StatusKeys key.Custody
	Profiles   *Profiles
	URLs       URLs
	Now        func() time.Time
	Rand       io.Reader     // of serial numbers; nil for crypto/rand
	Weak       der.Blocklist // keys that nobody gets a certificate for
	Retention  RetentionOptions
	Log        *slog.Logger // of Run; nil: silent
}

// Authority makes certificates. It is safe for concurrent use. Call Load before anything else.
type Authority struct {
	deps          Deps
	templates     sync.Map // templateKey to *template
	issued        atomic.Uint64
	verified      verified
	months        *db.Monthly
	barred        atomic.Pointer[map[IssuerID]bool] // replaced under mu, never changed
	crossBars     atomic.Pointer[map[string]bool]   // of cross certificates, by their DER; as barred
	responderBars atomic.Pointer[map[string]bool]   // of imported OCSP responders, likewise

	mu         sync.RWMutex // guards the maps; what they hold never changes
	byID       map[IssuerID]*Issuer
	byName     map[string]*Issuer
	byKey      map[issuerKey]*Issuer
	caSPKIs    map[[32]byte]bool // keys that no leaf may have
	crossed    []*Cross          // replaced, never changed
	responders []*Responder      // likewise
}

// New returns an Authority without any CA. It starts nothing and reads nothing.
func New(d Deps) *Authority {
	if d.Rand == nil {
		d.Rand = rand.Reader
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	return &Authority{deps: d, months: newMonths(d.DB), byID: map[IssuerID]*Issuer{}, byName: map[string]*Issuer{}, byKey: map[issuerKey]*Issuer{}, caSPKIs: map[[32]byte]bool{}}
}

// Load reads the CAs and records profile versions that were not there before. It may be called again, to learn of CAs that another node
// made. It verifies no signatures and fetches no keys: each CA's are when it is used for the first time.
func (a *Authority) Load(ctx context.Context) error {
	var rows []issuerRow
	err := a.deps.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		rows = nil
		return readIssuers(ctx, tx, func(r issuerRow) error { rows = append(rows, r); return nil })
	})
	if err != nil {
		return fmt.Errorf("reading the CAs: %w", err)
	}
	if err := a.adopt(rows); err != nil {
		return err
	}
	if err := a.loadCrosses(ctx); err != nil {
		return err
	}
	if err := a.loadResponders(ctx); err != nil {
		return err
	}
	return a.recordProfiles(ctx)
}

// Empty reports whether the database holds no CA yet. It does not need Load.
func (a *Authority) Empty(ctx context.Context) (bool, error) {
	empty := true
	err := a.deps.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		empty = true
		return readIssuers(ctx, tx, func(issuerRow) error { empty = false; return nil })
	})
	if err != nil {
		return false, fmt.Errorf("reading the CAs: %w", err)
	}
	return empty, nil
}

// Foreign reports whether the database holds CAs and the custody the key of none of them: the two belong to different installations. It
// does not need Load.
func (a *Authority) Foreign(ctx context.Context) (bool, error) {
	var keys []key.ID
	err := a.deps.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		keys = nil
		return readIssuers(ctx, tx, func(r issuerRow) error {
			if r.key != "" { // an offline CA's is nowhere here
				keys = append(keys, key.ID(r.key))
			}
			return nil
		})
	})
	if err != nil {
		return false, fmt.Errorf("reading the CAs: %w", err)
	}
	for _, id := range keys {
		if _, err := a.deps.Keys.Signer(ctx, id); err == nil {
			return false, nil
		}
	}
	return len(keys) > 0, ctx.Err()
}

// adopt adds the CAs of rows. Parents are older than their children, so that one pass in the order of creation nearly always does.
func (a *Authority) adopt(rows []issuerRow) error {
	for len(rows) > 0 {
		var waiting []issuerRow
		for _, r := range rows {
			if _, err := a.Issuer(r.name); err == nil {
				continue
			}
			var parent *Issuer
			if len(r.parent) > 0 {
				if parent = a.issuer(IssuerID(r.parent)); parent == nil {
					waiting = append(waiting, r)
					continue
				}
			}
			i, err := readIssuer(r.name, parent, key.ID(r.key), r.der, r.created)
			if err != nil {
				return err
			}
			if i.shards = r.shards; !shardCount(i.shards) {
				return fmt.Errorf("the row of CA %q is damaged: it cannot have %d CRL shards", r.name, r.shards)
			}
			a.add(i)
		}
		if len(waiting) == len(rows) {
			return fmt.Errorf("the parent of CA %q is not in the database", waiting[0].name)
		}
		rows = waiting
	}
	return nil
}

func (a *Authority) add(i *Issuer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.byID[i.id], a.byName[i.name] = i, i
	a.byKey[issuerKey{string(i.cert.RawSubject), string(i.cert.SubjectKeyId)}] = i
	a.caSPKIs[sha256.Sum256(i.cert.RawSubjectPublicKeyInfo)] = true
}

// issuer returns the CA with the id, or nil.
func (a *Authority) issuer(id IssuerID) *Issuer {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.byID[id]
}

// Issuer returns the CA with this name or hex id, or an error of kind NotFound. The names and certificates of CAs are public.
func (a *Authority) Issuer(nameOrID string) (*Issuer, error) {
	a.mu.RLock()
	i := a.byName[nameOrID]
	a.mu.RUnlock()
	if i != nil {
		return i, nil
	}
	if id, err := ParseIssuerID(nameOrID); err == nil {
		if i := a.issuer(id); i != nil {
			return i, nil
		}
	}
	return nil, errs.New(errs.NotFound, "there is no CA %q", nameOrID)
}

// IssuerByID returns the CA with this id, or an error of kind NotFound.
func (a *Authority) IssuerByID(id IssuerID) (*Issuer, error) {
	if i := a.issuer(id); i != nil {
		return i, nil
	}
	return nil, errs.New(errs.NotFound, "there is no CA with the id %q", id)
}

// Issuers returns all CAs in the order of their names.
func (a *Authority) Issuers(ctx context.Context, actor access.Actor) ([]*Issuer, error) {
	if err := a.deps.Access.Require(ctx, actor, access.CARead, "ca"); err != nil {
		return nil, err
	}
	return a.all(), nil
}

func (a *Authority) all() []*Issuer {
	a.mu.RLock()
	defer a.mu.RUnlock()
	all := make([]*Issuer, 0, len(a.byName))
	for _, i := range a.byName {
		all = append(all, i)
	}
	slices.SortFunc(all, func(x, y *Issuer) int { return strings.Compare(x.name, y.name) })
	return all
}

// Each calls fn for every CA, for components of the platform that act on all of them (CRLs, TLS client pools).
func (a *Authority) Each(fn func(*Issuer)) {
	for _, i := range a.all() {
		fn(i)
	}
}

// Chain returns the DER certificates from the CA to its root, or nil when there is no such CA.
func (a *Authority) Chain(id IssuerID) [][]byte {
	if i := a.issuer(id); i != nil {
		return i.chain
	}
	return nil
}

// Profile returns a profile, or an error of kind NotFound.
func (a *Authority) Profile(name string) (*Profile, error) { return a.deps.Profiles.Get(name) }

// Profiles returns all profiles in the order of their names.
func (a *Authority) Profiles() []*Profile { return a.deps.Profiles.All() }

// recordProfiles keeps the text of every profile version that is in use, with an audit entry for each new one, so that a certificate can
// be explained long after its profile was edited.
func (a *Authority) recordProfiles(ctx context.Context) error {
	if a.deps.Profiles == nil {
		return nil
	}
	fresh, err := a.unrecorded(ctx)
	if err == nil && len(fresh) > 0 {
		err = a.deps.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
			for _, p := range fresh {
				if err := a.recordProfile(ctx, tx, p); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("recording the profiles: %w", err)
	}
	return nil
}

// unrecorded returns the profiles whose versions are not in the database, which at most starts are none.
func (a *Authority) unrecorded(ctx context.Context) (fresh []*Profile, err error) {
	known := map[string]bool{}
	err = a.deps.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		return tx.Each(ctx, func(row db.Row) error {
			var name, version string
			err := row.Scan(&name, &version)
			known[name+" "+version] = true
			return err
		}, `SELECT name, version FROM profile_version WHERE cell = 0`)
	})
	for _, p := range a.deps.Profiles.All() {
		if !known[p.Name+" "+p.Version] {
			fresh = append(fresh, p)
		}
	}
	return fresh, err
}

// recordProfile records a version, unless another node was faster.
func (a *Authority) recordProfile(ctx context.Context, tx *db.Tx, p *Profile) error {
	n, err := tx.Exec(ctx, `INSERT INTO profile_version (cell, name, version, yaml, seen) VALUES (0, $1, $2, $3, $4) ON CONFLICT DO NOTHING`,
		p.Name, p.Version, p.Source, a.deps.Now().Unix())
	if err != nil || n == 0 {
		return err
	}
	return a.deps.Audit.Append(ctx, tx, p.entry())
}

func (p *Profile) entry() audit.Entry {
	sum := sha256.Sum256([]byte(p.Source))
	return audit.Entry{Action: "profile.load", Actor: access.System("ca").String(), Object: p.Name,
		Detail: map[string]string{"version": p.Version, "sha256": hex.EncodeToString(sum[:])}}
}
