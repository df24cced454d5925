package enrol

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/wire/der"
)

// submission is a request on its way through the steps. Each step fills in what the later ones need.
type submission struct {
	req      *Request
	csr      *der.Request
	identity *Identity
	profile  *ca.Profile
	id       [32]byte // what makes two requests the same
	key      []byte   // PKCS#8 of a key made here
	spki     []byte   // of that key
	approved bool
	issued   bool // a certificate was made and recorded
}

// attempts bounds how often a decision is taken anew because the device was changed between decision and record.
const attempts = 3

// Submit decides about r and, when it may, issues. The refusal is recorded. Errors: Invalid (the request is wrong), Denied (with
// ErrUnauthenticated in its chain when the requester has not shown who it is), NotFound (no such profile), Conflict (the device's present
// state forbids it), Limited, Unavailable.
func (s *Service) Submit(ctx context.Context, r Request) (Answer, error) {
	for n := 1; ; n++ {
		sub := &submission{req: &r}
		answer, err := s.submit(ctx, sub)
		if overtaken(err) && n < attempts {
			r.Proven = r.Proven.anew()
			continue // the device was changed meanwhile: decide again
		}
		if sub.identity != nil && (!sub.issued || sub.profile.Record == ca.Ephemeral) { // a certificate in its slot says by itself when the device was here
			s.Devices.Seen(sub.identity.Device.ID, s.Now().Unix())
		}
		if err != nil {
			s.recordRefusal(ctx, sub, err)
			s.tellCampaigns(ctx, sub, err)
			answer = Answer{}
		}
		if sub.identity != nil {
			answer.Device = sub.identity.Device.ID.String()
		}
		return answer, err
	}
}

// overtaken reports whether the decision came too late: the device's row was another one by then. A token that was used meanwhile counts,
// since the very request that used it, sent twice, gets the same certificate twice.
func overtaken(err error) bool {
	return errs.Is(err, errs.Conflict) || isRecorded(err) && errors.Is(err, device.ErrTokenUsed)
}

func (s *Service) submit(ctx context.Context, sub *submission) (Answer, error) {
	return s.decide(ctx, sub, s.parse, s.authenticate, s.chooseProfile, s.checkDevice, s.checkRescue, s.checkEvidence, s.checkPossession, s.checkBinding, s.checkRenewal, s.checkCampaign, s.checkProven, s.checkNames)
}

// decide runs the steps, in order, and issues when none refuses.
func (s *Service) decide(ctx context.Context, sub *submission, steps ...func(context.Context, *submission) error) (Answer, error) {
	for _, step := range steps {
		if err := step(ctx, sub); err != nil {
			return Answer{}, err
		}
	}
	if known, err := s.repeated(ctx, sub); err != nil {
		return Answer{}, err
	} else if known != nil {
		return s.answer(sub, known), s.awaitAgain(ctx, sub, known)
	}
	if s.needsApproval(sub) {
		if wait, err := s.awaitApproval(ctx, sub); err != nil || wait > 0 {
			return Answer{Pending: wait, Profile: sub.profile}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return Answer{}, errs.Wrap(errs.Unavailable, err, "the request was given up before the certificate was made")
	}
	cert, err := s.issue(ctx, sub)
	if err != nil {
		return Answer{}, err
	}
	return s.answer(sub, cert), nil
}

// needsApproval reports whether a person must look at the request. A renewal by the same profile keeps what was approved, and an administrator's own
// word is an approval.
func (s *Service) needsApproval(sub *submission) bool {
	return sub.rescueApproval() || sub.profile.Approval && !sub.same() && sub.identity.Evidence != ByOperator
}

// same reports whether the request is for a renewal by the profile by which the old certificate was issued.
func (sub *submission) same() bool {
	return sub.req.Op == Renew && sub.identity.Own != nil && sub.identity.Own.Profile == sub.profile.Name
}

func (s *Service) answer(sub *submission, c *ca.Certificate) Answer {
	a := Answer{Certificate: c, Profile: sub.profile, Key: sub.key}
	if sub.identity != nil {
		a.Recipient = sub.identity.Leaf
	}
	return a
}

func (s *Service) parse(_ context.Context, sub *submission) error {
	read := func() (*der.Request, error) { return der.ParseRequest(sub.req.CSR) }
	if sub.req.Template != nil {
		read = sub.req.Template.request
	}
	csr, err := read()
	if err != nil {
		return errs.New(errs.Invalid, "the certification request is not acceptable: %v", err)
	}
	sub.csr = csr
	return nil
}

func (s *Service) authenticate(ctx context.Context, sub *submission) (err error) {
	if sub.identity, err = s.identify(ctx, sub.req); err != nil {
		return err
	}
	return nil
}

func (s *Service) chooseProfile(_ context.Context, sub *submission) (err error) {
	name := sub.req.Profile
	if name == "" {
		name = sub.identity.Device.Profile
	}
	if sub.profile, err = s.profile(name); err != nil {
		return err
	}
	if !sub.profile.For(sub.identity.Device.Profile) {
		return errs.New(errs.Denied, "this device is registered for another profile than %q", name)
	}
	return nil
}

// checkDevice refuses early what the record would refuse for certain (record.go): the states that may have no certificate, and used tokens.
func (s *Service) checkDevice(ctx context.Context, sub *submission) error {
	d := &sub.identity.Device
	if !d.State.Active() {
		return device.StateRefusal(d.State)
	}
	if sub.identity.token == nil || d.Token.Used == 0 {
		return nil
	}
	// A used token is good for the very request that used it: a device whose answer was lost asks again and gets the same certificate. One that
	// is not kept cannot be given again, and then it gets another one for the same key, as long as the first would live, and unless that is on hold.
	if slot, ok := s.answered(sub); ok && (sub.profile.Record == ca.Full || s.Now().Unix() < d.Token.Used+sub.profile.Validity) {
		return s.notClosed(ctx, slot.Serial)
	}
	return unauthenticated("%s", errs.Public(device.ErrTokenUsed))
}

func (s *Service) checkEvidence(_ context.Context, sub *submission) error {
	by := sub.identity.Evidence
	if sub.req.Protocol == "scep" && sub.profile.SCEP == nil {
		return errs.New(errs.Denied, "the profile %s is not served by SCEP", sub.profile.Name)
	}
	if !sub.profile.Accepts(by) {
		return errs.New(errs.Denied, "the profile %s does not accept authentication by %s: its evidence must list that", sub.profile.Name, by)
	}
	if sub.req.Op == Renew && (by == ca.EvidenceToken || sub.identity.Own == nil || sub.identity.Own.Slot != sub.profile.Slot) {
		return errs.New(errs.Denied, "a renewal is authenticated by the certificate that is being renewed; use enrolment for the first one")
	}
	return nil
}

// checkPossession proves that the requester has the private key, and that nobody reported others to have it too. For Generate the key and the
// signature of the request mean nothing (RFC 7030, section 4.4.1).
func (s *Service) checkPossession(ctx context.Context, sub *submission) error {
	if sub.req.Op == Generate {
		return s.generate(ctx, sub)
	}
	if t := sub.req.Template; t != nil && t.SPKI == nil {
		return errs.New(errs.Invalid, "the request holds no public key")
	}
	// Verifying with a hostile key may be slow, and of a weak one it proves nothing.
	if err := s.CA.CheckKey(sub.csr.PublicKey); err != nil {
		return errs.New(errs.Invalid, "the certification request is not acceptable: %v", err)
	}
	if err := sub.csr.CheckSignature(); err != nil && !sub.possessionVouched() {
		return errs.Wrap(errs.Invalid, ErrPossession, "the certification request's signature does not verify under its own key")
	}
	if s.Revoke.KeyBlocked(sub.csr.HashSPKI()) { // whoever brings it: others have it too
		return errBlocked
	}
	return nil
}

// checkBinding ties the request to the connection that carried it (RFC 7030, section 3.5).
func (s *Service) checkBinding(_ context.Context, sub *submission) error {
	csr, p := sub.csr, sub.profile
	if sub.req.ChallengeIsSecret {
		if p.Linking {
			return errs.New(errs.Denied, "the profile %s requires a channel binding, which this protocol does not have: use EST", p.Name)
		}
		return nil
	}
	switch {
	case !csr.HasChallengePassword && p.Linking:
		return errs.New(errs.Invalid, "the profile %s requires a challengePassword with the connection's channel binding", p.Name)
	case !csr.HasChallengePassword || !p.Binding:
		return nil
	case sub.req.Bound == nil || !sub.req.Bound(csr.ChallengePassword):
		return errs.New(errs.Invalid, "the challengePassword is not the channel binding of this connection; make the request anew on each connection")
	}
	return nil
}

// checkRenewal holds a renewal to the identity of the old certificate (RFC 7030, section 4.2.2).
func (s *Service) checkRenewal(_ context.Context, sub *submission) error {
	if sub.req.Op != Renew {
		return nil
	}
	if sub.req.LeavesOut {
		if err := sub.profile.FillIn(sub.identity.Own.DER, sub.csr); err != nil {
			return err
		}
	}
	if err := ca.SameIdentity(sub.identity.Own.DER, sub.csr); err != nil {
		return sub.whyNot(err)
	}
	if !sub.profile.ReuseKey && sub.identity.Own.SPKIHash == sub.csr.HashSPKI() {
		return errs.New(errs.Denied, "the profile %s requires a new key at every renewal", sub.profile.Name)
	}
	return nil
}

// whyNot returns refusal, or a better one for a renewal that can be granted in no form, since what stands in the certificate is no longer
// what the device would be given: that a renewal must repeat it and that it must not be asked for are then both true and of no help.
func (sub *submission) whyNot(refusal error) error {
	if sub.req.Op != Renew || !errs.Is(refusal, errs.Denied) {
		return refusal
	}
	known, err := values(&sub.identity.Device)
	if err != nil {
		return refusal
	}
	if renewable, err := sub.profile.Renewable(sub.identity.Own.DER, &known); err != nil || renewable {
		return refusal
	}
	return errs.Wrap(errs.Denied, refusal, "the registry or the profile changed what stands in this certificate since it was issued, and a renewal must repeat it (RFC 7030, section 4.2.2): enrol with simpleenroll instead, with the present certificate or a new token")
}

// checkNames holds the platform's own names back, before a person is asked to approve them. All others are the profile's business.
func (s *Service) checkNames(_ context.Context, sub *submission) error {
	return s.notOwn(&sub.identity.Device, ca.Named{Names: sub.csr.Names})
}

// notOwn refuses what names the platform itself by an alternative name, whoever gave it: a profile can put a name together of what the registry
// says, and a device called pki be pki.example.com. A common name is one to clients that find no DNS name; the device's
// own name is let through there, since it takes access.grant to register it.
func (s *Service) notOwn(d *device.Device, n ca.Named) error {
	names := make([]string, 0, len(n.Names.DNS)+len(n.Names.IP)+1)
	for _, name := range n.Names.DNS {
		names = append(names, "dns:"+name)
	}
	for _, ip := range n.Names.IP {
		names = append(names, "ip:"+ip.Unmap().String())
	}
	for _, a := range n.Subject {
		if a.Type == der.OIDCommonName && a.Value != d.Name {
			names = append(names, "dns:"+a.Value)
		}
	}
	return s.Devices.NotOwn(d, names)
}

// sameness returns what makes two requests of a device the same: profile, operation and request. A request with a channel binding is made
// anew on each connection, so there its key and names count instead of its octets.
func (sub *submission) sameness() []byte {
	if sub.id == [32]byte{} {
		h := sha256.New()
		h.Write([]byte(sub.profile.Name))
		h.Write([]byte{0, byte(sub.req.Op)})
		if p := sub.req.Proven; p != nil && len(p.Once) > 0 {
			fmt.Fprintf(h, "once %d:%s", len(p.Once), p.Once)
		}
		if sub.csr.HasChallengePassword {
			h.Write(sub.csr.RawSubject)
			h.Write(sub.csr.RawSPKI)
			for _, e := range sub.csr.Extensions {
				h.Write(e.Append(nil)) // in DER, where each part says its length: what is approved can be read in one way only
			}
		} else {
			h.Write(sub.csr.Raw)
		}
		h.Sum(sub.id[:0])
	}
	return sub.id[:]
}

// answered returns the slot that holds the certificate which the very same request already got, if it may be had again. A key made here is
// never given out twice.
func (s *Service) answered(sub *submission) (device.Slot, bool) {
	slot, ok := sub.identity.Device.Slot(sub.profile.Slot)
	return slot, ok && sub.req.Op != Generate && slot.Revoked == 0 && slot.NotAfter > s.Now().Unix() && bytes.Equal(slot.Request, sub.sameness())
}

// repeated returns that certificate, or nil.
func (s *Service) repeated(ctx context.Context, sub *submission) (*ca.Certificate, error) {
	slot, ok := s.answered(sub)
	if !ok || ca.KeptAs(slot.Serial) != ca.Full {
		return nil, nil
	}
	c, err := s.CA.Get(ctx, slot.Serial)
	if errs.Is(err, errs.NotFound) { // its time here is over
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for the certificate that this request got before: %w", err)
	}
	return c, nil
}

// recordTime is how long a request waits at most until its certificate is recorded, and for the last look at its key. A batch gives up long before.
const recordTime = time.Minute

// issue signs once and releases the certificate when it is recorded.
func (s *Service) issue(ctx context.Context, sub *submission) (*ca.Certificate, error) {
	d := &sub.identity.Device
	if err := s.pace.check(d.ID, s.Now()); err != nil {
		return nil, err
	}
	known, err := sub.known()
	if err != nil {
		return nil, err
	}
	order := ca.Order{Profile: sub.profile, Device: d.ID, Cell: d.Cell, Registry: known, Request: sub.csr, SPKI: sub.spki}
	if sub.identity.expired != 0 {
		order.Validity = sub.profile.Rescue.Validity
	}
	// The certificate follows the newest one in its slot, whichever of the two good ones proved the device: so the history has no gaps.
	if slot, ok := d.Slot(sub.profile.Slot); ok && sub.profile.Record != ca.Ephemeral {
		order.PrevSerial = slot.Serial
	}
	prepared, err := s.CA.Prepare(ctx, order)
	if err != nil {
		return nil, sub.whyNot(err)
	}
	if err := s.notOwn(d, prepared.Named()); err != nil {
		return nil, err
	}
	cert, err := prepared.Sign(ctx)
	if err != nil {
		return nil, err
	}
	item := s.newItem(sub, cert)
	// A requester who hangs up now ends nothing: once the certificate is recorded, something may have to be done about it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	err = s.group.Do(ctx, item)
	if errs.Is(err, errs.Limited) {
		err = recordedError{err} // whoever has no room for the certificate has none for the entry
	}
	if sub.issued = err == nil; sub.issued {
		s.pace.count(d.ID, s.Now(), paceOf(sub.profile.Record))
		s.counts.add(sub.profile.Record)
		if sub.identity.expired != 0 {
			s.counts.rescued.Add(1)
		}
		err = s.withhold(ctx, item)
	}
	return cert, err
}

// Refuse records that a protocol's server turned r away before it was understood.
func (s *Service) Refuse(ctx context.Context, r Request, refusal error) {
	s.recordRefusal(ctx, &submission{req: &r}, refusal)
}

// recordRefusal records why the request was refused. Refusals that are like others are counted rather than recorded one by one, so that
// nobody can fill the disk.
func (s *Service) recordRefusal(ctx context.Context, sub *submission, refusal error) {
	k := errs.KindOf(refusal)
	if k == errs.Internal || k == errs.Unavailable || isRecorded(refusal) {
		return
	}
	reason := Reason(refusal)
	var err error
	if sub.identity == nil || errors.Is(refusal, ErrUnauthenticated) {
		err = s.Audit.Refuse(ctx, asker(sub.req, refusal), audit.Entry{Action: "enrol.refuse", Refused: reason, Detail: map[string]string{"protocol": sub.req.Protocol, "op": sub.req.Op.String()}})
	} else {
		err = s.Audit.Refuse(ctx, sub.identity.Actor(sub.req.Protocol), s.refusalEntry(sub, reason))
	}
	if err != nil {
		s.Log.WarnContext(ctx, "a refusal could not be recorded", "cause", err)
	}
}

func (s *Service) refusalEntry(sub *submission, reason string) audit.Entry {
	id := sub.identity
	e := audit.Entry{At: s.Now().Unix(), Action: "enrol.refuse", Actor: id.Actor(sub.req.Protocol).String(), Device: id.Device.ID.String(), Refused: reason,
		Detail: map[string]string{"protocol": sub.req.Protocol, "op": sub.req.Op.String(), "evidence": string(id.Evidence)}}
	return e
}
