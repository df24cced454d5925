package acme

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/wire/acme"
	"mooring/wire/der"
)

// OrderState says where an order stands in its row.
type OrderState int64

// The states. An open order is pending or ready, which its authorizations tell.
const (
	Open     OrderState = 1
	Awaiting OrderState = 2 // a person must approve
	Issued   OrderState = 3
	Failed   OrderState = 4
)

// Authz is an authorization: the right of the order's account to one name.
type Authz struct {
	Name     string        `json:"n"` // "dns:…", "ip:…", without the star of a wildcard
	Wildcard bool          `json:"w,omitempty"`
	Token    string        `json:"t,omitempty"`
	Status   string        `json:"s"`           // pending, valid, invalid or deactivated
	Method   string        `json:"m,omitempty"` // the challenge that decided, or byAccount
	At       int64         `json:"a,omitempty"` // when it did, UTC seconds
	SPKI     []byte        `json:"k,omitempty"` // SHA-256 of the key that was attested
	Hardware string        `json:"h,omitempty"` // of an attested hardware module, see Shown
	Problem  *acme.Problem `json:"e,omitempty"`
}

// Order asks for one certificate.
type Order struct {
	ID       ID
	Account  ID
	Device   device.ID
	Evidence ca.Evidence
	Profile  string
	State    OrderState
	Authz    []Authz
	Problem  *acme.Problem
	Serial   []byte
	Replaces string
	Created  int64 // UTC seconds
	Expires  int64 // UTC seconds

	authz string // as the row has it
	csr   []byte
	cert  []byte
}

// leaf is the certificate of an order that was made here a moment ago, until it is fetched: most are, and at once.
type leaf struct {
	order  Order
	der    []byte
	issuer ca.IssuerID
}

// Status returns the order's state in ACME at a time (RFC 8555, section 7.1.6).
func (o *Order) Status(now int64) string {
	switch {
	case o.State == Issued:
		return acme.StatusValid
	case o.State == Failed:
		return acme.StatusInvalid
	case o.State == Awaiting:
		return acme.StatusProcessing
	case o.Expires <= now:
		return acme.StatusInvalid
	}
	status := acme.StatusReady
	for _, a := range o.Authz {
		switch a.Status {
		case acme.StatusPending:
			status = acme.StatusPending
		case acme.StatusValid:
		default:
			return acme.StatusInvalid
		}
	}
	return status
}

// Names are the ordered names, a wildcard with its star.
func (o *Order) Names() []string {
	names := make([]string, len(o.Authz))
	for i, a := range o.Authz {
		names[i] = a.full()
	}
	return names
}

func (a *Authz) full() string {
	if a.Wildcard {
		kind, value, _ := strings.Cut(a.Name, ":")
		return kind + ":*." + value
	}
	return a.Name
}

// Methods are the challenges that are offered for the name: a wildcard is shown in the DNS alone (section 8.4 and RFC 8738, section 7).
func (a *Authz) Methods() []string {
	switch {
	case isHardware(a.Name):
		return []string{acme.DeviceAttest01}
	case a.Wildcard:
		return []string{acme.DNS01}
	case strings.HasPrefix(a.Name, "ip:"):
		return []string{acme.HTTP01, acme.TLSALPN01}
	}
	return []string{acme.HTTP01, acme.DNS01, acme.TLSALPN01}
}

const orderColumns = `SELECT id, account, device, evidence, profile, state, authz, csr, problem, serial, cert, replaces, created, expires FROM acme_order`

func scanOrder(r db.Row) (o Order, err error) {
	var id, account, dev []byte
	var evidence, problem string
	var state int64
	if err := r.Scan(&id, &account, &dev, &evidence, &o.Profile, &state, &o.authz, &o.csr, &problem, &o.Serial, &o.cert, &o.Replaces, &o.Created, &o.Expires); err != nil {
		return o, err
	}
	copy(o.ID[:], id)
	copy(o.Account[:], account)
	copy(o.Device[:], dev)
	o.Evidence, o.State = ca.Evidence(evidence), OrderState(state)
	err = json.Unmarshal([]byte(o.authz), &o.Authz)
	if err == nil && problem != "" {
		err = json.Unmarshal([]byte(problem), &o.Problem)
	}
	if err != nil {
		return o, fmt.Errorf("reading the order %s: %w", o.ID, err)
	}
	return o, nil
}

func noOrder() error {
	return refuse(errs.NotFound, Malformed, "there is no such order of this account")
}

// Order returns an order of the account. Another account's is NotFound, as one that does not exist. An order that waited for a person goes on here
// when that person has decided.
func (s *Service) Order(ctx context.Context, a *Account, id ID) (Order, error) {
	o, err := s.load(ctx, a, id)
	if err == nil && o.Account != a.ID {
		err = noOrder()
	}
	if err != nil {
		return Order{}, err
	}
	if o.State == Awaiting {
		return s.issue(ctx, o, o.csr)
	}
	return o, nil
}

// byAccount is the method of names that an account need not show, since the profile trusts it.
const byAccount = "account"

// Wanted is what an account orders.
type Wanted struct {
	Identifiers []acme.Identifier
	Profile     string // "" = the device's own
	Replaces    string // RFC 9773, section 5
	Source      netip.Addr
}

// NewOrder takes an order. What is wrong with its names is a Rejected.
func (s *Service) NewOrder(ctx context.Context, a *Account, w Wanted) (Order, error) {
	authz, err := parseIdentifiers(w.Identifiers)
	if err != nil {
		return Order{}, err
	}
	now := s.Now().Unix()
	o := Order{Account: a.ID, Device: a.Device, Evidence: ca.EvidenceAccount, State: Open, Authz: authz, Replaces: w.Replaces, Created: now, Expires: now + int64(orderLife/time.Second)}
	o.ID = newID(s.Now())
	dev, err := s.deviceOf(ctx, a, &o)
	if err != nil {
		return Order{}, err
	}
	if slices.ContainsFunc(authz, func(z Authz) bool { return isHardware(z.Name) }) {
		o.Evidence = ca.EvidenceAttested
	}
	d := &dev.device
	profile, err := s.profileOf(d, w.Profile, o.Evidence)
	if err != nil {
		return Order{}, err
	}
	o.Profile = profile.Name
	if err := s.permitted(d, profile, &o); err != nil {
		return Order{}, err
	}
	if o.Replaces, err = s.replaced(ctx, d, w.Replaces); err != nil {
		return Order{}, err
	}
	trusted := a.Bound() && profile.TrustAccount
	for i := range o.Authz {
		o.Authz[i].Status = acme.StatusPending
		if trusted && !isHardware(o.Authz[i].Name) {
			o.Authz[i].Status, o.Authz[i].Method, o.Authz[i].At = acme.StatusValid, byAccount, now
		}
		var token [20]byte
		rand.Read(token[:])
		o.Authz[i].Token = base64.RawURLEncoding.EncodeToString(token[:])
	}
	text, err := json.Marshal(o.Authz)
	if err != nil {
		return Order{}, err
	}
	o.authz = string(text)
	if s.orders.Load() >= maxOrders {
		return Order{}, errs.WithRetry(refuse(errs.Limited, RateLimited, "too many orders are kept here; ask again later"), time.Hour)
	}
	x := &draft{order: o, entries: o.trusted(now), known: dev, renew: a.Used < now-86400}
	if ok, err := s.draft(ctx, a, x); ok || err != nil {
		return o, err
	}
	return o, s.insertOrder(ctx, a, x)
}

// parseIdentifiers turns identifiers into authorizations. Doubled ones are one.
func parseIdentifiers(list []acme.Identifier) (authz []Authz, err error) {
	if len(list) == 0 || len(list) > maxNames {
		return nil, refuse(errs.Invalid, Malformed, "an order is for 1 to %d identifiers", maxNames)
	}
	bad := &Rejected{}
	for _, id := range list {
		a, t, detail := parseIdentifier(id)
		if t == "" && isHardware(a.Name) && slices.ContainsFunc(authz, func(b Authz) bool { return isHardware(b.Name) && b.Name != a.Name }) {
			t, detail = RejectedIdentifier, "an order is for one permanent-identifier or hardware-module at most: a certificate has one key"
		}
		if t != "" {
			bad.Names = append(bad.Names, RejectedName{Kind: id.Type, Value: id.Value, Type: t, Detail: detail})
			continue
		}
		if !slices.ContainsFunc(authz, func(b Authz) bool { return b.full() == a.full() }) {
			authz = append(authz, a)
		}
	}
	if len(bad.Names) > 0 {
		return nil, errs.Wrap(errs.Invalid, bad, "some identifiers cannot be ordered: %s", bad.Names[0].Detail)
	}
	return authz, nil
}

// parseIdentifier returns what is wrong as the kind of problem and a text.
func parseIdentifier(id acme.Identifier) (a Authz, t Type, detail string) {
	switch id.Type {
	case acme.KindDNS:
		value, wildcard := strings.CutPrefix(strings.ToLower(id.Value), "*.")
		names, err := der.AltNames{DNS: []string{value}}.Normalise()
		if err != nil || len(names.DNS) != 1 || strings.Contains(value, "*") {
			return a, Malformed, fmt.Sprintf("%q is not a DNS name of letters, digits and hyphens, with at most a wildcard in front", id.Value)
		}
		return Authz{Name: "dns:" + names.DNS[0], Wildcard: wildcard}, "", ""
	case acme.KindIP:
		ip, err := netip.ParseAddr(id.Value)
		if err != nil || ip.Zone() != "" || ip.Is4In6() || ip.String() != id.Value {
			return a, Malformed, fmt.Sprintf("%q is not an address in its canonical form (RFC 5952)", id.Value)
		}
		return Authz{Name: "ip:" + ip.String()}, "", ""
	case acme.KindPermanent, acme.KindHardware:
		if !printable(id.Value) {
			return a, Malformed, fmt.Sprintf("%.80q is not a name of 1 to %d printable characters", id.Value, maxHardwareName)
		}
		return Authz{Name: id.Type + ":" + id.Value}, "", ""
	}
	return a, UnsupportedIdentifier, fmt.Sprintf("identifiers of the type %q are not supported; use dns, ip, permanent-identifier or hardware-module", id.Type)
}

// deviceOf returns the device that the order is for: that of a bound account, else the one that is called like one of the names.
func (s *Service) deviceOf(ctx context.Context, a *Account, o *Order) (k known, err error) {
	if !a.Bound() {
		k.device, err = s.called(ctx, o)
		return k, err
	}
	if a.known != nil && s.stands(a.known) {
		k = *a.known
	} else {
		k.mark, k.at = s.Devices.Mark(a.Device), s.Now()
		k.device, err = s.Devices.Load(ctx, a.Device)
	}
	if errs.Is(err, errs.NotFound) {
		err = refuse(errs.Denied, Unauthorized, "the device of this account is no longer known; ask its operator")
	}
	if err == nil && !k.device.State.Active() {
		err = refuse(errs.Denied, Unauthorized, "%s", errs.Public(device.StateRefusal(k.device.State)))
	}
	return k, err
}

// called returns the device that is called like one of the order's names, and notes that the order is for it.
func (s *Service) called(ctx context.Context, o *Order) (device.Device, error) {
	o.Evidence = ca.EvidenceDomain
	for _, z := range o.Authz {
		_, name, _ := strings.Cut(z.full(), ":")
		id, _ := s.Devices.IDOf(name)
		d, err := s.Devices.Load(ctx, id)
		switch {
		case errs.Is(err, errs.NotFound):
			continue
		case err != nil:
			return d, err
		case d.State.Active():
			o.Device = d.ID
			return d, nil
		}
	}
	return device.Device{}, s.rejectAll(o, "is not the name of a device that may order: have one registered under this name, or use an account that is bound to a device")
}

func (s *Service) rejectAll(o *Order, why string) error {
	bad := &Rejected{}
	for _, z := range o.Authz {
		kind, value, _ := strings.Cut(z.full(), ":")
		bad.Names = append(bad.Names, RejectedName{Kind: kind, Value: value, Type: RejectedIdentifier, Detail: fmt.Sprintf("%q %s", value, why)})
	}
	return errs.Wrap(errs.Denied, bad, "the order is refused: %s", bad.Names[0].Detail)
}

// profileOf returns the profile that the order names, which the device may have and which accepts the evidence.
func (s *Service) profileOf(d *device.Device, name string, e ca.Evidence) (*ca.Profile, error) {
	if name == "" {
		name = d.Profile
	}
	p, err := s.CA.Profile(name)
	switch {
	case err != nil || !p.For(d.Profile):
		return nil, refuse(errs.Invalid, InvalidProfile, "there is no profile %q for this device", name)
	case !p.Accepts(e):
		return nil, refuse(errs.Denied, InvalidProfile, "the profile %s does not accept authentication by %s: its evidence must list that", p.Name, e)
	}
	return p, nil
}

// permitted refuses names that the profile would not give the device.
func (s *Service) permitted(d *device.Device, p *ca.Profile, o *Order) error {
	names := o.Names()
	if err := owned(d, names); err != nil {
		return err
	}
	names = slices.DeleteFunc(names, isHardware)
	if s.Enrol.NamesOf(d, p, names) == nil {
		return nil
	}
	bad := &Rejected{}
	for _, name := range names {
		kind, value, _ := strings.Cut(name, ":")
		if err := s.Enrol.NamesOf(d, p, []string{name}); err != nil {
			bad.Names = append(bad.Names, RejectedName{Kind: kind, Value: value, Type: RejectedIdentifier, Detail: errs.Public(err)})
		}
	}
	if len(bad.Names) == 0 { // each may be had, but not all
		return refuse(errs.Denied, RejectedIdentifier, "%s", errs.Public(s.Enrol.NamesOf(d, p, names)))
	}
	return errs.Wrap(errs.Denied, bad, "some identifiers are refused: %s", bad.Names[0].Detail)
}

// replaced checks which certificate the order says to replace. One that is not known is passed over: clients name those of other authorities,
// too, and one that was replaced before is accepted, since some clients cannot go on otherwise.
func (s *Service) replaced(ctx context.Context, d *device.Device, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	id, err := acme.ParseCertID(text)
	if err != nil {
		return "", refuse(errs.Invalid, Malformed, "replaces: %v", err)
	}
	c, err := s.certificate(ctx, id)
	switch {
	case errs.Is(err, errs.NotFound):
		return "", nil
	case err != nil:
		return "", err
	case c.Device != d.ID:
		return "", refuse(errs.Denied, Unauthorized, "replaces: this certificate is another account's")
	}
	return text, nil
}

// insertOrder makes the row, if the account has not too many. Its drafts count too.
func (s *Service) insertOrder(ctx context.Context, a *Account, x *draft) error {
	o, now := &x.order, x.order.Created
	w := &write{row: o.ID,
		ask: &db.Stmt{SQL: `INSERT INTO acme_order (id, account, device, evidence, profile, state, authz, csr, problem, serial, cert, replaces, created, expires)
 SELECT $1, $2, $3, $4, $5, 1, $6, $7, '', $7, $7, $8, $9, $10
 WHERE (SELECT count(*) FROM (SELECT 1 AS one FROM acme_order WHERE account = $2 AND expires > $11 AND state IN (1, 2) LIMIT $12) AS o) < $12`,
			Args: []any{o.ID[:], o.Account[:], o.Device[:], string(o.Evidence), o.Profile, o.authz, []byte{}, o.Replaces, o.Created, o.Expires, now, maxAccountNew - s.drafts.of(o.Account)}},
		again: func(context.Context, *db.Tx) error { return tooManyOrders() },
		kept: func() {
			s.orders.Add(1)
			s.orderShelf.set(o.ID, *o)
		}}
	w.last, w.entries = x.then, func() []audit.Entry { return x.entries }
	if x.renew || a.fresh {
		defer s.accounts.drop(a.ID)
	}
	return s.commit(ctx, w)
}

func tooManyOrders() error {
	return errs.WithRetry(refuse(errs.Limited, RateLimited, "this account has %d orders that are not finished; finish some", maxAccountNew), time.Hour)
}

// trusted returns what the record says about the names of a new order that need not be shown.
func (o *Order) trusted(now int64) []audit.Entry {
	var marks []string
	for n := range o.Authz {
		if o.Authz[n].Method == byAccount {
			marks = append(marks, o.mark(n))
		}
	}
	if len(marks) == 0 {
		return nil
	}
	return []audit.Entry{{At: now, Action: "acme.validate", Actor: access.Device(o.Device.String(), protocol).String(), Object: o.ID.String(), Device: o.Device.String(),
		Detail: map[string]string{"method": byAccount, "mark": strings.Join(marks, " ")}}}
}

// Orders returns the account's orders that are not finished, newest last, at most 1,000.
func (s *Service) Orders(ctx context.Context, a *Account) (ids []ID, err error) {
	if err := s.storeDraftsOf(ctx, a.ID); err != nil {
		return nil, err
	}
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		ids = ids[:0]
		return tx.Each(ctx, func(r db.Row) error {
			var raw []byte
			err := r.Scan(&raw)
			var id ID
			copy(id[:], raw)
			ids = append(ids, id)
			return err
		}, `SELECT id FROM acme_order WHERE account = $1 AND expires > $2 AND state IN (1, 2) ORDER BY expires, id LIMIT 1000`, a.ID[:], s.Now().Unix())
	})
	return ids, err
}

// OrdersOf returns orders for people, those of an account that are still kept, oldest first. It needs device.read.
func (s *Service) OrdersOf(ctx context.Context, actor access.Actor, account ID, limit int) (page []Order, err error) {
	if err := s.Access.Require(ctx, actor, access.DeviceRead, "acme orders"); err != nil {
		return nil, err
	}
	if err := s.storeDraftsOf(ctx, account); err != nil {
		return nil, err
	}
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		page = page[:0]
		return tx.Each(ctx, func(r db.Row) error {
			o, err := scanOrder(r)
			page = append(page, o)
			return err
		}, orderColumns+` WHERE account = $1 ORDER BY expires, id LIMIT $2`, account[:], int64(min(max(limit, 1), 1000)))
	})
	return page, err
}

// Finalize has the certificate of an order made (section 7.4). A request that is not what was ordered is BadCSR and leaves the order ready. The
// same request again gets the same certificate.
func (s *Service) Finalize(ctx context.Context, a *Account, id ID, csr []byte) (Order, error) {
	o, err := s.Order(ctx, a, id)
	if err != nil {
		return Order{}, err
	}
	if o.State == Issued && o.fits(ctx, s, csr) {
		return o, nil
	}
	if status := o.Status(s.Now().Unix()); status != acme.StatusReady {
		return Order{}, refuse(errs.Denied, OrderNotReady, "the order is %s, not ready", status)
	}
	if err := o.check(csr, a.Key); err != nil {
		return Order{}, err
	}
	return s.issue(ctx, o, csr)
}

// fits reports whether csr is for the key of the certificate that the order led to: then the client has lost the answer.
func (o *Order) fits(ctx context.Context, s *Service, csr []byte) bool {
	r, err := der.ParseRequest(csr)
	if err != nil {
		return false
	}
	c, err := s.CA.Known(ctx, o.Serial)
	return err == nil && c.SPKIHash == r.HashSPKI()
}

// check compares a request with the order: the same names, no others, and a key that is not the account's (section 11.1).
func (o *Order) check(csr []byte, account *acme.Key) error {
	r, err := der.ParseRequest(csr)
	if err != nil {
		return refuse(errs.Invalid, BadCSR, "the certification request is not acceptable: %v", err)
	}
	if key, err := acme.NewKey(r.PublicKey); err == nil && key.Thumbprint == account.Thumbprint {
		return refuse(errs.Invalid, BadCSR, "the request is for the account's own key: make another one")
	}
	if hash := r.HashSPKI(); o.Evidence == ca.EvidenceAttested && !bytes.Equal(o.spki(), hash[:]) {
		return refuse(errs.Denied, BadAttestationStatement, "the request is for another key than the one that was attested")
	}
	attested, err := o.attested()
	if err != nil {
		return err
	}
	other := slices.ContainsFunc(r.Names.Other, func(n der.OtherName) bool { return !slices.ContainsFunc(attested, n.Same) })
	if len(r.Names.URI)+len(r.Names.Email) > 0 || other {
		return refuse(errs.Invalid, BadCSR, "the request asks for names that the order is not for: leave them out")
	}
	asked := map[string]bool{}
	for _, n := range r.Names.DNS {
		asked["dns:"+strings.ToLower(n)] = true
	}
	for _, ip := range r.Names.IP {
		asked["ip:"+ip.Unmap().String()] = true
	}
	for _, attribute := range r.Subject {
		if attribute.Type != der.OIDCommonName || len(attested) > 0 { // where the profile decides about the subject
			continue
		}
		value := strings.ToLower(attribute.Value)
		if ip, err := netip.ParseAddr(value); err == nil {
			asked["ip:"+ip.Unmap().String()] = true
		} else {
			asked["dns:"+value] = true
		}
	}
	for _, name := range slices.DeleteFunc(o.Names(), isHardware) {
		if !asked[name] {
			return refuse(errs.Invalid, BadCSR, "the request lacks the ordered name %q", name)
		}
		delete(asked, name)
	}
	for name := range asked {
		return refuse(errs.Invalid, BadCSR, "the request asks for %q, which was not ordered", name)
	}
	return nil
}

// issue asks the registration authority, with this slice's word on who asks.
func (s *Service) issue(ctx context.Context, o Order, csr []byte) (Order, error) {
	attested, err := o.attested()
	if err != nil {
		return Order{}, err
	}
	p := &enrol.Proven{Device: o.Device, Evidence: o.Evidence, Names: o.Names(), Attested: attested, SPKI: o.spki(), Once: o.ID[:], Take: o.take,
		Kept: func(c *ca.Certificate) { s.finished(&o, c, nil) }}
	x, isDraft := s.drafts.take(ctx, &o)
	if isDraft {
		p.Take, p.Then, p.Kept = x.finish, x.follow, func(c *ca.Certificate) { s.finished(&o, c, &x) }
		if x.known.device.ID == o.Device && s.stands(&x.known) {
			p.Known = &x.known.device
		}
	}
	answer, err := s.Enrol.Submit(ctx, enrol.Request{Protocol: protocol, Op: enrol.Enrol, Profile: o.Profile, CSR: csr, Proven: p})
	if isDraft {
		if storeErr := s.untake(ctx, o.ID, answer.Pending > 0 || errs.Is(err, errs.Unavailable)); err == nil {
			err = storeErr
		}
	}
	if err != nil {
		s.orderShelf.drop(o.ID)
		s.leaves.drop(o.ID)
	}
	switch {
	case errs.Is(err, errs.Conflict): // another request was faster, or the order is no longer what it was
		now, err2 := s.load(ctx, nil, o.ID)
		if err2 == nil && now.State == Issued && now.fits(ctx, s, csr) {
			return now, nil
		}
		return Order{}, errors.Join(refuse(errs.Denied, OrderNotReady, "the order was finished or changed by another request"), err2)
	case err != nil && o.State == Awaiting && (errs.Is(err, errs.Denied) || errs.Is(err, errs.Invalid)):
		return s.fail(ctx, o, err)
	case err != nil:
		return Order{}, s.whyNot(ctx, &o, err)
	case answer.Pending > 0:
		return s.await(ctx, o, csr)
	}
	s.drafts.gone(o.ID) // as a rule it is gone, unless nobody could say at first that the certificate was recorded
	return o.issued(answer.Certificate), nil
}

// untake ends the take of a draft after a decision. With store the order is to be in the database now: since a person must decide, or since it is
// not known what became of the certificate, which is then decided there, too.
func (s *Service) untake(ctx context.Context, id ID, store bool) error {
	defer s.drafts.leave(id)
	if !store {
		return nil
	}
	return s.storeDraft(context.WithoutCancel(ctx), id)
}

// finished is told of each certificate that was recorded for an order, which was a draft or not, though nobody may wait for the answer any more.
func (s *Service) finished(o *Order, c *ca.Certificate, x *draft) {
	now := o.issued(c)
	s.leaves.set(o.ID, leaf{now, c.DER, c.Issuer})
	if x == nil {
		s.orderShelf.swap(o.ID, now, o.same)
		return
	}
	s.orders.Add(1)
	s.orderShelf.set(o.ID, now)
	s.drafts.gone(o.ID)
	if x.renew {
		s.accounts.drop(o.Account)
	}
}

// issued returns the order as its certificate leaves it.
func (o Order) issued(c *ca.Certificate) Order {
	o.State, o.Serial, o.csr = Issued, c.Serial[:], nil
	if cert := kept(c); len(cert) > 0 {
		o.cert = cert
	}
	return o
}

// kept returns what the order keeps of the certificate: all of it, unless that is kept elsewhere.
func kept(c *ca.Certificate) []byte {
	if ca.KeptAs(c.Serial[:]) != ca.Full {
		return c.DER
	}
	return []byte{}
}

// same reports whether another reading of the row found the same.
func (o *Order) same(other Order) bool { return o.authz == other.authz && o.State == other.State }

// spki is the digest of the key that was attested, if one was.
func (o *Order) spki() []byte {
	for _, a := range o.Authz {
		if len(a.SPKI) > 0 {
			return a.SPKI
		}
	}
	return nil
}

// take makes the order valid in the transaction that records its certificate, if nothing was changed about it since it was read, and its account
// may still order.
func (o *Order) take(c *ca.Certificate) (take, back *db.Stmt) {
	return &db.Stmt{SQL: `UPDATE acme_order SET state = 3, serial = $2, cert = $3, csr = $4 WHERE id = $1 AND state = $5 AND authz = $6
 AND EXISTS (SELECT 1 FROM acme_account WHERE acme_account.id = acme_order.account AND acme_account.state = 1)`,
			Args: []any{o.ID[:], c.Serial[:], kept(c), []byte{}, int64(o.State), o.authz}},
		&db.Stmt{SQL: `UPDATE acme_order SET state = $2, serial = $3, cert = $3, csr = $4 WHERE id = $1 AND state = 3`, Args: []any{o.ID[:], int64(o.State), []byte{}, octets(o.csr)}}
}

func octets(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// whyNot gives the registration authority's refusal the name that ACME has for it.
func (s *Service) whyNot(ctx context.Context, o *Order, err error) error {
	switch errs.KindOf(err) {
	case errs.Limited:
		retry, _ := errs.RetryAfter(err)
		return errs.WithRetry(refuse(errs.Limited, RateLimited, "%s", errs.Public(err)), max(retry, time.Second))
	case errs.Denied, errs.Invalid:
		t := BadCSR
		if d, loadErr := s.Devices.Load(ctx, o.Device); errors.Is(err, enrol.ErrUnauthenticated) || loadErr == nil && !d.State.Active() {
			t = Unauthorized
		}
		return recorded{refuse(errs.KindOf(err), t, "%s", errs.Public(err))}
	}
	return err
}

// recorded is a refusal that the registration authority has put into the record already.
type recorded struct{ error }

func (r recorded) Unwrap() error { return r.error }

// IsRecorded reports whether a refusal stands in the record already.
func IsRecorded(err error) bool { return errors.As(err, new(recorded)) }

// await keeps the request of an order for which a person must decide.
func (s *Service) await(ctx context.Context, o Order, csr []byte) (Order, error) {
	if o.State == Awaiting {
		return o, nil
	}
	err := s.change(ctx, &o, `state = 2, csr = $4`, octets(csr))
	o.State, o.csr = Awaiting, csr
	return o, err
}

// fail ends an order that waited for a person, who refused it.
func (s *Service) fail(ctx context.Context, o Order, why error) (Order, error) {
	o.Problem = &acme.Problem{Type: acme.ErrorPrefix + string(Unauthorized), Detail: errs.Public(why)}
	text, err := json.Marshal(o.Problem)
	if err != nil {
		return o, err
	}
	err = s.change(ctx, &o, `state = 4, problem = $4`, string(text))
	o.State = Failed
	return o, err
}

// change sets a column of an order that is still as it was read.
func (s *Service) change(ctx context.Context, o *Order, set string, value any) error {
	defer s.orderShelf.drop(o.ID)
	return s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		n, err := tx.Exec(ctx, `UPDATE acme_order SET `+set+` WHERE id = $1 AND state = $2 AND authz = $3`, o.ID[:], int64(o.State), o.authz, value)
		if err == nil && n != 1 {
			err = refuse(errs.Conflict, Malformed, "the order was changed meanwhile; ask for it again")
		}
		return err
	})
}
