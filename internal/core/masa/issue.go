package masa

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/maker"
	"mooring/wire/der"
	"mooring/wire/voucher"
)

// stale is how old a registrar's request may be, and how far its clock may be ahead.
const stale = 24 * time.Hour

// asking is a request on its way.
type asking struct {
	actor     access.Actor
	request   *voucher.SignedRequest
	registrar Registrar // the zero one is this platform's own

	prior   *voucher.SignedRequest // nil: the device has signed nothing
	idevid  *x509.Certificate      // nil with prior
	product device.Product
	device  device.Device
	earlier []Issued // vouchers for the device
	log     bool     // it is the log that is asked for: who had a voucher may read it after the device went to somebody else
}

// Issue gives out a voucher for a registrar's request (RFC 8995, section 5.5), or the one that it gave out for the same request before. peer is the chain of
// certificates, leaf first, by which the registrar made the connection, with possession of the leaf's key proven; it must be the same registrar's. A
// request by this platform's own registrar is known by an actor of kind system, and has no peer.
//
// The error is NotFound for devices that have no vouchers here, Denied for what must not be signed, Invalid for requests that make no sense. Refusals are
// recorded.
func (s *Service) Issue(ctx context.Context, actor access.Actor, peer []*x509.Certificate, request *voucher.SignedRequest) ([]byte, error) {
	a := &asking{actor: actor, request: request}
	issued, err := s.issue(ctx, a, peer)
	if err != nil {
		s.recordRefusal(ctx, a, err)
		return nil, err
	}
	return issued.Voucher, nil
}

func (s *Service) issue(ctx context.Context, a *asking, peer []*x509.Certificate) (Issued, error) {
	signer, err := s.Signer()
	if err != nil {
		return Issued{}, err
	}
	if err := s.understand(ctx, a, peer); err != nil {
		return Issued{}, err
	}
	if !a.device.State.Active() {
		return Issued{}, errs.New(errs.Denied, "the device is %s: no voucher is issued for it; ask its manufacturer", a.device.State)
	}
	var made *Issued
	for range 3 {
		if before, ok := a.repeated(s.Now()); ok {
			return before, nil
		}
		if err := s.due(a); err != nil {
			return Issued{}, err
		}
		if err := s.distinct(a); err != nil {
			return Issued{}, err
		}
		if made == nil { // a signature is not repeated
			if made, err = s.make(a, &signer); err != nil {
				return Issued{}, err
			}
		}
		kept, err := s.record(ctx, a, *made)
		if !errs.Is(err, errs.Conflict) {
			return kept, err
		}
		if a.earlier, err = s.vouchers(ctx, a.product); err != nil {
			return Issued{}, err
		}
	}
	return Issued{}, errRaced
}

// understand finds who asks for which device, and what they have signed.
func (s *Service) understand(ctx context.Context, a *asking, peer []*x509.Certificate) error {
	for _, step := range []func() error{
		func() error { return s.identify(ctx, a, peer) },
		func() error { return isRegistrar(a.request.Chain[0]) },
		func() error { return s.findProduct(ctx, a) },
		func() error { return a.consistent() },
		func() error { return s.findDevice(ctx, a) },
		func() (err error) { a.earlier, err = s.vouchers(ctx, a.product); return err },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// identify finds the registrar (RFC 8995, section 5.5.3). What stands between its certificate and the registered one may be in the request or in the connection.
func (s *Service) identify(ctx context.Context, a *asking, peer []*x509.Certificate) error {
	leaf := a.request.Chain[0]
	others := slices.Concat(a.request.Chain[1:], a.request.Others)
	if a.actor.Kind == access.KindSystem {
		if s.CA.IssuerOf(leaf) == nil {
			return errs.New(errs.Denied, "this platform's own registrar signs with a certificate of this platform")
		}
		return s.notRevoked(ctx, leaf)
	}
	if len(peer) == 0 {
		return errs.New(errs.Denied, "no client certificate was presented: a registrar asks with the certificate by which it is registered here")
	}
	others = append(others, peer...)
	subjects := [][]byte{leaf.RawSubject, leaf.RawIssuer}
	for _, c := range others {
		subjects = append(subjects, c.RawIssuer)
	}
	slices.SortFunc(subjects, bytes.Compare)
	known, err := s.bySubject(ctx, slices.CompactFunc(subjects, bytes.Equal))
	if err != nil {
		return err
	}
	known = slices.DeleteFunc(known, func(r Registrar) bool { return !r.leads(leaf, others, s.Now()) })
	switch {
	case len(known) == 0:
		return errs.New(errs.Denied, "no registrar is registered here whose certificate has signed the request: the manufacturer adds it by mooring masa registrar add")
	case len(known) > 1:
		return errs.New(errs.Denied, "the certificate that has signed the request stands for two registrars, %s and %s", known[0].Name, known[1].Name)
	case !known[0].leads(peer[0], others, s.Now()):
		return errs.New(errs.Denied, "the request is signed by the registrar %s, and the connection was made by somebody else", known[0].Name)
	}
	if top := a.pinned(); !known[0].leads(top, others, s.Now()) && !slices.ContainsFunc(a.request.Chain, func(c *x509.Certificate) bool { return slices.ContainsFunc(known[0].Anchors, c.Equal) }) {
		// The certificates that a request carries are not signed with it.
		return errs.New(errs.Denied, "the topmost certificate of the request neither leads to what is registered for the registrar %s nor stands above it", known[0].Name)
	}
	a.registrar = known[0]
	a.actor = access.Registrar(known[0].Name, a.actor.Via)
	if err := s.notRevoked(ctx, leaf); err != nil {
		return err
	}
	return s.notRevoked(ctx, peer[0])
}

// leads reports whether a path of certificates leads from one of the registrar's to the leaf (RFC 5280, section 6), or is the leaf.
func (r *Registrar) leads(leaf *x509.Certificate, others []*x509.Certificate, now time.Time) bool {
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: der.Intermediates(others), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, a := range r.Anchors {
		o.Roots.AddCert(a)
	}
	_, err := leaf.Verify(o)
	return err == nil
}

// notRevoked looks up a certificate that a CA of this platform issued; of others it knows nothing.
func (s *Service) notRevoked(ctx context.Context, c *x509.Certificate) error {
	issuer := s.CA.IssuerOf(c)
	if issuer == nil {
		return nil
	}
	if _, err := s.CA.SignedBy(ctx, issuer.ID(), c); err != nil {
		return errs.Wrap(errs.Denied, err, "the registrar's certificate names a CA of this platform, which did not sign it or is revoked")
	}
	if now := s.Now(); now.Before(c.NotBefore) || now.After(c.NotAfter) {
		return errs.New(errs.Denied, "the registrar's certificate is not valid now")
	}
	_, revoked, err := s.Revoke.Status(ctx, c.SerialNumber.Bytes())
	if err == nil && revoked {
		err = errs.New(errs.Denied, "the registrar's certificate is revoked or on hold")
	}
	return err
}

// isRegistrar wants a certificate that says so (RFC 8995, section 5.5.4).
func isRegistrar(c *x509.Certificate) error {
	for _, usage := range c.UnknownExtKeyUsage {
		if usage.String() == der.OIDCMCRA.String() {
			if c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
				return errs.New(errs.Denied, "the certificate that has signed the request is not for signatures")
			}
			return nil
		}
	}
	return errs.New(errs.Denied, "the certificate that has signed the request lacks the extended key usage cmcRA, so that it is no registrar's (RFC 8995, section 5.5.4)")
}

// unknownDevice is the refusal for a device that has no vouchers here, whatever the reason.
func unknownDevice() error {
	return errs.New(errs.NotFound, "no vouchers are issued here for this device, at least not for this registrar")
}

// findProduct finds which product the request is about: by the certificate of the device, when that has signed, or else by what the registrar says.
func (s *Service) findProduct(ctx context.Context, a *asking) (err error) {
	q := &a.request.Request
	if q.PriorSigned == nil {
		return s.findNamed(ctx, a)
	}
	if a.prior, err = voucher.ParseRequest(q.PriorSigned); err != nil {
		return errs.Wrap(errs.Invalid, err, "the device's request within the registrar's cannot be read: %v", err)
	}
	a.idevid = a.prior.Chain[0]
	shown, ok, err := s.Makers.Recognize(ctx, slices.Concat(a.prior.Chain, a.prior.Others))
	if err != nil {
		return err
	}
	if !ok {
		return unknownDevice()
	}
	a.product = shown.Product
	masa, err := s.Makers.MASAOf(ctx, shown.Product.Maker)
	if err == nil && masa.Where != maker.OwnMASA {
		err = unknownDevice()
	}
	return err
}

// findNamed finds the product by its serial number and by who issued its certificate.
func (s *Service) findNamed(ctx context.Context, a *asking) error {
	q := &a.request.Request
	all, err := s.Makers.List(ctx, access.System("masa"))
	if err != nil {
		return err
	}
	candidates := slices.DeleteFunc(all, func(m maker.Maker) bool { return m.MASA.Where != maker.OwnMASA })
	// A CA that is not registered itself, but one above it, is found by nothing; the voucher says its identifier, so that no other device takes it.
	named := func(m maker.Maker) bool { return issuedBy(m.Anchors, q.IDevIDIssuer) }
	if slices.ContainsFunc(candidates, named) {
		candidates = slices.DeleteFunc(candidates, func(m maker.Maker) bool { return !named(m) })
	}
	// A voucher names a device by its serial number and the issuer of its certificate alone: it would be good for the device of another manufacturer, with
	// the same serial number, even if that is not registered.
	if len(candidates) > 1 {
		return errs.New(errs.Invalid, "several manufacturers have their vouchers from here: idevid-issuer must say by which CA the device's certificate was issued, and that CA be registered for one of them alone; or the device signs as well (prior-signed-voucher-request)")
	}
	for _, m := range candidates {
		a.product = device.Product{Maker: m.Name, Serial: q.SerialNumber}
		if _, err := s.Devices.ByProduct(ctx, a.product); !errs.Is(err, errs.NotFound) {
			return err
		}
	}
	a.product = device.Product{}
	return unknownDevice()
}

// issuedBy reports whether issuer names one of the CAs, as an authority key identifier names it.
func issuedBy(cas []*x509.Certificate, issuer []byte) bool {
	return slices.ContainsFunc(cas, func(c *x509.Certificate) bool {
		return voucher.IsIDevIDIssuer(issuer, &x509.Certificate{AuthorityKeyId: c.SubjectKeyId})
	})
}

// consistent compares what the device has signed with what the registrar has signed (RFC 8995, sections 5.5.5 and 5.5.6).
func (a *asking) consistent() error {
	q := &a.request.Request
	if q.ProximityRegistrarCert != nil {
		return errs.New(errs.Invalid, "a registrar's request has no proximity-registrar-cert; that is the device's to say")
	}
	if a.prior == nil {
		return nil
	}
	p := &a.prior.Request
	switch {
	case p.PriorSigned != nil:
		return errs.New(errs.Invalid, "the device's request has another one within")
	case q.SerialNumber != a.product.Serial:
		return errs.New(errs.Denied, "the serial-number is not that in the device's certificate")
	case p.SerialNumber != a.product.Serial:
		return errs.New(errs.Denied, "the device's request has another serial-number than its certificate")
	case q.IDevIDIssuer != nil && !voucher.IsIDevIDIssuer(q.IDevIDIssuer, a.idevid):
		return errs.New(errs.Denied, "the idevid-issuer is not the authority key identifier of the device's certificate")
	case q.Nonce != nil && !bytes.Equal(q.Nonce, p.Nonce):
		return errs.New(errs.Denied, "the nonce is not that of the device's request")
	case p.ProximityRegistrarCert == nil:
		return errs.New(errs.Denied, "the device's request does not say with which registrar it is connected (proximity-registrar-cert)")
	case !a.connected(p.ProximityRegistrarCert):
		return errs.New(errs.Denied, "the device is connected with another registrar: the key of its proximity-registrar-cert is none of those in the registrar's chain")
	}
	return nil
}

// connected reports whether the key of a certificate is one of the registrar's chain (RFC 8995, section 5.5.5).
func (a *asking) connected(raw []byte) bool {
	c, err := x509.ParseCertificate(raw)
	return err == nil && slices.ContainsFunc(a.request.Chain, func(of *x509.Certificate) bool {
		return bytes.Equal(of.RawSubjectPublicKeyInfo, c.RawSubjectPublicKeyInfo)
	})
}

// findDevice wants the product in the registry, and among what the registrar may ask for.
func (s *Service) findDevice(ctx context.Context, a *asking) (err error) {
	a.device, err = s.Devices.ByProduct(ctx, a.product)
	if errs.Is(err, errs.NotFound) || err == nil && !a.log && !a.mine() {
		return unknownDevice()
	}
	return err
}

// mine reports whether the device is one of those for which the registrar may ask.
func (a *asking) mine() bool { return a.registrar.Group == "" || a.device.Group == a.registrar.Group }

func (s *Service) vouchers(ctx context.Context, p device.Product) (all []Issued, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		all, err = vouchersOf(ctx, tx, p)
		return err
	})
	return all, err
}

// repeated returns the voucher that was given out for the same request, while it is good.
func (a *asking) repeated(now time.Time) (Issued, bool) {
	sum := sha256.Sum256(a.request.Raw)
	for _, v := range a.earlier {
		if v.request == sum && v.Registrar == a.registrar.Name && (v.Expires == 0 || now.Unix() < v.Expires) {
			return v, true
		}
	}
	return Issued{}, false
}

// due wants a request whose time is now, and a device that is nobody else's.
func (s *Service) due(a *asking) error {
	q, now := &a.request.Request, s.Now()
	if !q.CreatedOn.IsZero() && now.Sub(q.CreatedOn).Abs() > stale {
		return errs.New(errs.Denied, "the request was made at %s, which is not today: compare the clocks, and make another one", q.CreatedOn.Format(time.RFC3339))
	}
	for _, v := range a.earlier {
		if v.Registrar != a.registrar.Name && now.Unix() < v.Expires {
			return errs.New(errs.Denied, "another registrar has a voucher for the device that ends only at %s", time.Unix(v.Expires, 0).UTC().Format(time.RFC3339))
		}
	}
	if len(a.earlier) >= MaxVouchers {
		return errs.New(errs.Limited, "there are %d vouchers for this device, which is the most there may be", len(a.earlier))
	}
	if n := a.had(); n >= maxForOne && !a.own() {
		return errs.New(errs.Limited, "this registrar has %d vouchers for the device, which is the most it may have", n)
	}
	if q.Nonce != nil {
		return nil
	}
	switch {
	case q.ExpiresOn.IsZero():
		return errs.New(errs.Invalid, "without a nonce a request must say when the voucher is to end (expires-on)")
	case !q.ExpiresOn.After(now):
		return errs.New(errs.Invalid, "the voucher is to end at %s, which is over", q.ExpiresOn.Format(time.RFC3339))
	case !a.own() && !a.registrar.Offline:
		return errs.New(errs.Denied, "the registrar %s has no vouchers without a nonce: the manufacturer can allow them by mooring masa registrar add --offline", a.registrar.Name)
	}
	return nil
}

// distinct refuses to pin a certificate by whose name the log would take one domain for another: a subject key identifier is what whoever made the certificate
// wrote there, and could be that of the domain to which the device belongs (RFC 8995, section 5.8.2).
func (s *Service) distinct(a *asking) error {
	pinned := a.pinned()
	domain, same := voucher.DomainID(pinned), true
	s.CA.Each(func(i *ca.Issuer) {
		c := i.Certificate()
		same = same && (!bytes.Equal(voucher.DomainID(c), domain) || bytes.Equal(c.RawSubjectPublicKeyInfo, pinned.RawSubjectPublicKeyInfo))
	})
	for _, v := range a.earlier {
		if !same || v.Registrar == a.registrar.Name || !bytes.Equal(v.Domain, domain) {
			continue
		}
		before, err := voucher.ParseVoucher(v.Voucher)
		if err != nil {
			return fmt.Errorf("reading voucher %d for %s %s: %w", v.Number, v.Product.Maker, v.Product.Serial, err)
		}
		c, err := x509.ParseCertificate(before.PinnedDomainCert)
		same = err == nil && bytes.Equal(c.RawSubjectPublicKeyInfo, pinned.RawSubjectPublicKeyInfo)
	}
	if !same {
		return errs.New(errs.Denied, "the topmost certificate of the request has the subject key identifier of another domain's, so that the log could not tell the two apart")
	}
	return nil
}

// pinned is the certificate that the voucher pins.
func (a *asking) pinned() *x509.Certificate { return a.request.Chain[len(a.request.Chain)-1] }

// had counts the vouchers that the registrar has for the device.
func (a *asking) had() (n int) {
	for _, v := range a.earlier {
		if v.Registrar == a.registrar.Name {
			n++
		}
	}
	return n
}

// own reports whether this platform's own registrar asks.
func (a *asking) own() bool { return a.actor.Kind == access.KindSystem }

// assertion says how it is known whose the device is (RFC 8366, section 5.3; RFC 8995, section 5.5.5).
func (a *asking) assertion() voucher.Assertion {
	switch {
	case a.prior != nil:
		return voucher.Proximity
	case a.own() || a.registrar.Group != "":
		return voucher.Verified
	}
	return voucher.Logged
}

// make signs the voucher (RFC 8995, section 5.6).
func (s *Service) make(a *asking, by *Signer) (*Issued, error) {
	q, now := &a.request.Request, s.Now()
	pinned := a.pinned()
	v := voucher.Voucher{CreatedOn: now.UTC().Truncate(time.Second), Assertion: a.assertion(), SerialNumber: a.product.Serial, IDevIDIssuer: q.IDevIDIssuer, PinnedDomainCert: pinned.Raw, Nonce: q.Nonce}
	if a.idevid != nil {
		v.IDevIDIssuer = voucher.IDevIDIssuer(a.idevid)
	}
	issued := &Issued{Product: a.product, At: v.CreatedOn.Unix(), Registrar: a.registrar.Name, Domain: voucher.DomainID(pinned), Nonce: q.Nonce, Assertion: v.Assertion, request: sha256.Sum256(a.request.Raw)}
	if q.Nonce == nil {
		v.ExpiresOn = earliest(q.ExpiresOn, now.Add(s.Offline), pinned.NotAfter, a.request.Chain[0].NotAfter).UTC().Truncate(time.Second)
		issued.Expires = v.ExpiresOn.Unix()
	}
	var err error
	if issued.Voucher, err = v.Sign(by.Key, by.Certificate, by.Above, s.Rand); err != nil {
		return nil, fmt.Errorf("signing a voucher: %w", err)
	}
	return issued, nil
}

func earliest(times ...time.Time) time.Time { return slices.MinFunc(times, time.Time.Compare) }

// errRaced says that another voucher for the device came between.
var errRaced = errs.New(errs.Conflict, "another voucher for this device was issued at the same time: ask again")

// record keeps the voucher. The error is of kind Conflict when there are others than a.earlier by now.
func (s *Service) record(ctx context.Context, a *asking, v Issued) (Issued, error) {
	v.Number = int64(len(a.earlier)) + 1
	err := s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := insert(ctx, tx, &v); err != nil {
			return err
		}
		return s.Audit.Append(ctx, tx, v.entry(a))
	})
	if db.IsConflict(err) {
		return v, errs.Wrap(errs.Conflict, err, "%s", errs.Public(errRaced))
	}
	return v, err
}

func (v *Issued) entry(a *asking) audit.Entry {
	detail := map[string]string{"row": v.mark(), "number": strconv.FormatInt(v.Number, 10), "assertion": string(v.Assertion), "domain": hex.EncodeToString(v.Domain)}
	if v.Expires != 0 {
		detail["expires"] = strconv.FormatInt(v.Expires, 10)
	}
	return audit.Entry{At: v.At, Action: "masa.voucher", Actor: a.actor.String(), Device: a.device.ID.String(), Object: object(v.Product), Detail: detail}
}

// recordRefusal records why a registrar got nothing, unless it was for a failure here.
func (s *Service) recordRefusal(ctx context.Context, a *asking, refusal error) {
	if k := errs.KindOf(refusal); k == errs.Internal || k == errs.Unavailable {
		return
	}
	e := audit.Entry{Action: "masa.refuse", Refused: errs.Public(refusal)}
	if a.product != (device.Product{}) {
		e.Object = object(a.product)
	}
	actor := a.actor
	if a.device.Created != 0 {
		e.Device = a.device.ID.String()
		if a.own() { // it is the device that has our registrar ask, and must not fill the record with that
			actor = access.Device(e.Device, "brski")
		}
	}
	if err := s.Audit.Refuse(ctx, actor, e); err != nil {
		s.Deps.Log.LogAttrs(ctx, slog.LevelWarn, "a refusal could not be recorded", slog.Any("cause", err))
	}
}

// Refuse records that a server turned away what was no request.
func (s *Service) Refuse(ctx context.Context, actor access.Actor, refusal error) {
	s.recordRefusal(ctx, &asking{actor: actor}, refusal)
}
