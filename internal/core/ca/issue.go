package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/wire/der"
)

// Order asks for one certificate. The caller has decided that it may be issued.
type Order struct {
	Profile    *Profile
	Device     [16]byte
	Cell       uint8 // where the certificate is kept: the device's cell
	Registry   Values
	Request    *der.Request // possession of the key proven by the caller; may be nil when SPKI is set
	SPKI       []byte       // the public key, DER, when it is not the request's: a key that the platform made
	PrevSerial []byte       // of the certificate that this one follows in its slot
	Validity   int64        // seconds, when it is to live shorter than the profile says; 0 = as the profile says
}

// template holds what all certificates of one CA and one profile version share. It is immutable.
type template struct {
	issuer  *Issuer
	profile *Profile
	signer  crypto.Signer
	der     *der.Template
}

type templateKey struct {
	issuer  IssuerID
	profile string
	version string
}

// Certificate is a certificate of ours with what its row says. DER is complete; nothing in it may be changed.
type Certificate struct {
	Serial              [16]byte
	Cell                uint8
	Day                 int64 // of issue, since 1970
	Issuer              IssuerID
	Profile, Version    string
	Slot                string
	Device              [16]byte
	NotBefore, NotAfter int64 // Unix seconds, inclusive
	SPKIHash            [32]byte
	PrevSerial          []byte // empty for the first in its slot
	DER                 []byte
}

// Prepared is a certificate that passed every check and lacks only its signature. It comes from Prepare alone.
type Prepared struct {
	authority *Authority
	template  *template
	cert      Certificate
	tbs       []byte
	named     Named
}

// Named is what a certificate calls its holder: what the registry and the profile gave, and what the request chose within it.
type Named struct {
	Subject []der.Attribute
	Names   der.AltNames
}

// Named returns what the certificate will call its holder. Nothing in it may be changed.
func (p *Prepared) Named() Named { return p.named }

// maxCertificate bounds a certificate; TLS stacks and our own columns are made for less. One for an ML-DSA-65 key by an ML-DSA-65 CA has
// some 6 kB. maxSignature is what is kept free for the signature and what is around it: ML-DSA-65 takes 3,309 octets of it.
const (
	maxCertificate = 16 << 10
	maxSignature   = 4 << 10
)

// Prepare decides what the certificate will say. Errors of kind Invalid and Denied say what is wrong with the request and may be shown to
// the sender; Unavailable means that the CA, not the request, is the obstacle.
func (a *Authority) Prepare(ctx context.Context, o Order) (*Prepared, error) {
	t, err := a.template(ctx, o.Profile)
	if err != nil {
		return nil, err
	}
	spki, hash, err := a.checkKey(&o)
	if err != nil {
		return nil, err
	}
	now := a.deps.Now().Unix()
	if o.Profile.Record == Full {
		if err := a.ready(ctx, now/86400); err != nil {
			return nil, err
		}
	}
	v, named, err := t.variable(&o, spki, now)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial(o.Profile.class(v.NotAfter-v.NotBefore), now, o.Cell, a.deps.Rand)
	if err != nil {
		return nil, err
	}
	v.Serial = serial[:]
	if points := t.points(serial[:], a.deps.URLs); points != nil {
		v.Extra = append(v.Extra, *points)
	}
	tbs, err := t.der.AppendTBS(make([]byte, 0, 1024), v)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the certificate cannot be written: %v", err)
	}
	if len(tbs) > maxCertificate-maxSignature {
		return nil, errs.New(errs.Invalid, "the certificate would be larger than %d octets", maxCertificate)
	}
	return &Prepared{authority: a, template: t, tbs: tbs, named: named, cert: Certificate{
		Serial: serial, Cell: o.Cell, Day: now / 86400, Issuer: t.issuer.id, Profile: o.Profile.Name, Version: o.Profile.Version,
		Slot: o.Profile.Slot, Device: o.Device, NotBefore: v.NotBefore, NotAfter: v.NotAfter, SPKIHash: hash,
		PrevSerial: slices.Clone(o.PrevSerial)}}, nil
}

// template finds or makes the template of a profile. The key is fetched with it, so that a lost key is noticed before anything is built.
func (a *Authority) template(ctx context.Context, p *Profile) (*template, error) {
	name := p.IssuerAt(a.deps.Now().Unix())
	a.mu.RLock()
	i := a.byName[name]
	a.mu.RUnlock()
	if i == nil {
		return nil, errs.New(errs.Unavailable, "the profile %s needs a CA %q, which an administrator must make first", p.Name, name)
	}
	if err := a.bars(i); err != nil {
		return nil, err
	}
	k := templateKey{i.id, p.Name, p.Version}
	if t, ok := a.templates.Load(k); ok {
		return t.(*template), nil
	}
	signer, err := a.signer(ctx, i)
	if err != nil {
		return nil, err
	}
	t, err := newTemplate(i, p, signer, a.deps.URLs)
	if err != nil {
		return nil, err
	}
	stored, _ := a.templates.LoadOrStore(k, t)
	return stored.(*template), nil
}

func newTemplate(i *Issuer, p *Profile, signer crypto.Signer, urls URLs) (*template, error) {
	if err := i.check(); err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "the certificate of CA %q in the database is not valid: restore it from a backup", i.name)
	}
	if !i.holds(signer) {
		return nil, errs.New(errs.Unavailable, "the key of CA %q is not the one in its certificate: restore the right key store", i.name)
	}
	if (p.CRL && urls.CRL == "") || (p.OCSP && urls.OCSP == "") {
		return nil, errs.New(errs.Unavailable, "the profile %s puts the address of the CRL or OCSP responder into certificates: configure these addresses, or set crl and ocsp to false", p.Name)
	}
	t, err := der.NewTemplate(der.TemplateSpec{Algorithm: i.algorithm, Issuer: i.cert.RawSubject, Extensions: p.constant(i, urls)})
	if err != nil {
		return nil, fmt.Errorf("building the template of profile %q: %w", p.Name, err)
	}
	return &template{issuer: i, profile: p, signer: signer, der: t}, nil
}

// constant are the extensions that do not change from certificate to certificate.
func (p *Profile) constant(i *Issuer, urls URLs) []der.Extension {
	extensions := []der.Extension{der.NewAuthorityKeyID(i.cert.SubjectKeyId), der.NewKeyUsage(p.KeyUsage)}
	if len(p.ExtKeyUsage) > 0 {
		extensions = append(extensions, der.NewExtKeyUsage(p.ExtKeyUsage...))
	}
	if p.CRL && i.shards == 0 {
		extensions = append(extensions, der.NewCRLPoints(urls.crl(i.id)))
	}
	if p.OCSP {
		var issuers []string
		if url := urls.caIssuers(i.id); url != "" {
			issuers = []string{url}
		}
		extensions = append(extensions, der.NewAuthorityInfo([]string{urls.OCSP}, issuers))
	}
	if p.NoRevAvail {
		extensions = append(extensions, der.NewNoRevAvail())
	}
	return append(extensions, p.Extensions...)
}

// points is the extension that names the CRL of a certificate's shard, nil when the CA has no shards or the profile wants no CRL. It is not part
// of the template, so that a CA needs one template a profile and not 256.
func (t *template) points(serial []byte, urls URLs) *der.Extension {
	if !t.profile.CRL || t.issuer.shards == 0 {
		return nil
	}
	e := der.NewCRLPoints(urls.shard(t.issuer.id, t.issuer.Shard(serial)))
	return &e
}

// checkKey returns the SubjectPublicKeyInfo to certify and its SHA-256.
func (a *Authority) checkKey(o *Order) (spki []byte, hash [32]byte, err error) {
	pub, err := o.Profile.checkKey(o)
	if err != nil {
		return nil, hash, err
	}
	if err := a.notListed(pub); err != nil {
		return nil, hash, errs.New(errs.Invalid, "%v", err)
	}
	if spki = o.SPKI; spki == nil {
		spki = o.Request.RawSPKI
	}
	hash = der.HashSPKI(spki)
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.caSPKIs[hash] {
		return nil, hash, errs.New(errs.Denied, "the public key is that of a CA: make a key of your own")
	}
	return spki, hash, nil
}

// CheckKey is der.CheckKey, and refuses keys besides whose private halves everybody can find, as far as Deps.Weak knows them. Its errors wrap der.ErrKey.
func (a *Authority) CheckKey(pub crypto.PublicKey) error {
	if err := der.CheckKey(pub); err != nil {
		return err
	}
	return a.notListed(pub)
}

func (a *Authority) notListed(pub crypto.PublicKey) error {
	if a.deps.Weak.Has(pub) {
		return fmt.Errorf("%w: it is on a list of weak keys, such as those of Debian's generator (CVE-2008-0166), whose private keys everybody can find; make a new one with a generator that is up to date", der.ErrKey)
	}
	return nil
}

func (p *Profile) checkKey(o *Order) (pub crypto.PublicKey, err error) {
	switch {
	case o.SPKI != nil:
		if pub, err = der.ParsePublicKey(o.SPKI); err != nil {
			return nil, errs.New(errs.Invalid, "%v", err)
		}
	case o.Request != nil:
		pub = o.Request.PublicKey
	default:
		return nil, errs.New(errs.Invalid, "there is no public key to certify")
	}
	if err := der.CheckKey(pub); err != nil {
		return nil, errs.New(errs.Invalid, "%v", err)
	}
	if kind := der.KindOf(pub); !slices.Contains(p.Keys, kind) {
		return nil, errs.New(errs.Denied, "the profile %s does not accept keys of kind %s: use one of %v", p.Name, kind, p.Keys)
	}
	return pub, nil
}

// variable fills in all that differs, except the serial number.
func (t *template) variable(o *Order, spki []byte, now int64) (v der.Variable, n Named, err error) {
	p := t.profile
	var asked *der.AltNames
	if o.Request != nil {
		if err := p.checkAsked(o.Request); err != nil {
			return v, n, err
		}
		asked = &o.Request.Names
	}
	if n.Subject, v.Subject, err = p.subjectFor(&o.Registry, o.Request); err != nil {
		return v, n, err
	}
	if n.Names, err = p.namesFor(&o.Registry, asked); err != nil {
		return v, n, err
	}
	if v.SAN, err = der.BuildAltNames(n.Names); err != nil {
		return v, n, errs.New(errs.Invalid, "a name of the device cannot be written: %v", err)
	}
	ski, err := der.SubjectKeyID(spki)
	if err != nil {
		return v, n, errs.New(errs.Invalid, "%v", err)
	}
	v.SPKI, v.SKI = spki, ski[:]
	v.NotBefore = max(now-p.Backdate, t.issuer.cert.NotBefore.Unix())
	v.NotAfter = v.NotBefore + p.Validity - 1
	if o.Validity > 0 && o.Validity < p.Validity {
		v.NotAfter = v.NotBefore + o.Validity - 1
	}
	if p.Forever {
		v.NotAfter = der.NoExpiry
	}
	return v, n, t.issuer.covers(v.NotBefore, v.NotAfter)
}

// Sign makes the one signature and returns the certificate, which must be recorded before it is released. A key that cannot sign is an
// error of kind Unavailable, and Sign may then be tried again. It belongs to one goroutine.
func (p *Prepared) Sign(ctx context.Context) (*Certificate, error) {
	if err := ctx.Err(); err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "the request was given up before the certificate was signed")
	}
	t, c := p.template, &p.cert
	if c.DER != nil {
		return nil, errors.New("signing a certificate a second time")
	}
	var err error
	if c.DER, err = seal(t.signer, t.issuer.algorithm, p.tbs); err != nil {
		return nil, err
	}
	if p.authority.issued.Add(1)%sampleEvery == 1 {
		if err := t.verify(c); err != nil {
			return nil, fmt.Errorf("checking a certificate of profile %q: %w", t.profile.Name, err)
		}
	}
	return c, nil
}

// Issued returns how many certificates were signed since the start, for metrics.
func (a *Authority) Issued() uint64 { return a.issued.Load() }

// sampleEvery: the full check costs three times a P-256 signature, and what it could find (a broken key, a broken encoder) breaks more than
// one certificate. The first after the start is always checked.
const sampleEvery = 64

// verify parses the finished certificate and checks signature and fields.
func (t *template) verify(c *Certificate) error {
	cert, err := x509.ParseCertificate(c.DER)
	if err != nil {
		return err
	}
	if err := t.issuer.CheckSignature(cert); err != nil {
		return err
	}
	switch {
	case !bytes.Equal(cert.SerialNumber.Bytes(), c.Serial[:]):
		return fmt.Errorf("serial number %x instead of %x", cert.SerialNumber, c.Serial)
	case !bytes.Equal(cert.RawIssuer, t.issuer.cert.RawSubject):
		return fmt.Errorf("another issuer than %q", t.issuer.name)
	case cert.NotBefore.Unix() != c.NotBefore || cert.NotAfter.Unix() != c.NotAfter:
		return fmt.Errorf("validity %s to %s instead of %d to %d", cert.NotBefore, cert.NotAfter, c.NotBefore, c.NotAfter)
	case der.HashSPKI(cert.RawSubjectPublicKeyInfo) != c.SPKIHash:
		return fmt.Errorf("another public key than ordered")
	case len(cert.UnhandledCriticalExtensions) > 0:
		return fmt.Errorf("critical extensions %v that peers do not understand", cert.UnhandledCriticalExtensions)
	}
	return nil
}

// detailsOfIssue is how many details the entry of an issue has, with what enrolment and registry add. A map that grows is made twice.
const detailsOfIssue = 18

// Entry is the audit entry of the issue, which goes into the same transaction as the row.
func (c *Certificate) Entry(actor access.Actor) audit.Entry {
	sum := sha256.Sum256(c.DER)
	detail := make(map[string]string, detailsOfIssue)
	detail["sha256"], detail["issuer"], detail["spki"] = hex.EncodeToString(sum[:]), c.Issuer.String(), hex.EncodeToString(c.SPKIHash[:])
	detail["profile"], detail["version"], detail["slot"], detail["prev"] = c.Profile, c.Version, c.Slot, hex.EncodeToString(c.PrevSerial)
	detail["not_before"], detail["not_after"] = strconv.FormatInt(c.NotBefore, 10), strconv.FormatInt(c.NotAfter, 10)
	e := audit.Entry{Action: "cert.issue", Actor: actor.String(), Device: hex.EncodeToString(c.Device[:]), Serial: hex.EncodeToString(c.Serial[:]), Detail: detail}
	if c.Device == [16]byte{} { // of the platform itself: an OCSP responder's
		e.Device = ""
	}
	if KeptAs(c.Serial[:]) == Brief { // the entries of the device tell what came before
		delete(e.Detail, "prev")
		e.Detail[briefDetail] = "1"
	}
	return e
}

// digestsInEntry is how many digests one entry holds: base64 of more would be longer than a text of an entry may be.
const digestsInEntry = 90

// EphemeralEntries returns what the record keeps of certificates of one profile that are kept nowhere else: their digests, many in one entry.
// Whoever holds such a certificate can find its digest there and so prove that it was issued, and when; the entry names no device.
func EphemeralEntries(certs []*Certificate) (entries []audit.Entry) {
	for part := range slices.Chunk(certs, digestsInEntry) {
		digests := make([]byte, 0, len(part)*sha256.Size)
		for _, c := range part {
			sum := sha256.Sum256(c.DER)
			digests = append(digests, sum[:]...)
		}
		entries = append(entries, audit.Entry{Action: ActionEphemeral, Actor: access.System("enrol").String(), Object: part[0].Profile, Detail: map[string]string{
			"n": strconv.Itoa(len(part)), "version": part[0].Version, "sha256": base64.RawStdEncoding.EncodeToString(digests)}})
	}
	return entries
}

// ActionEphemeral is the action of the entries about certificates that are kept nowhere else.
const ActionEphemeral = "cert.ephemeral"

// Digests returns the digests of the certificates that an entry of EphemeralEntries tells of.
func Digests(e *audit.Entry) ([][sha256.Size]byte, error) {
	raw, err := base64.RawStdEncoding.DecodeString(e.Detail["sha256"])
	if err != nil || len(raw) == 0 || len(raw)%sha256.Size != 0 || e.Detail["n"] != strconv.Itoa(len(raw)/sha256.Size) {
		return nil, errors.New("its digests cannot be read")
	}
	var all [][sha256.Size]byte
	for part := range slices.Chunk(raw, sha256.Size) {
		all = append(all, [sha256.Size]byte(part))
	}
	return all, nil
}
