package ea

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/its/chain"
	"mooring/wire/scr"
)

// validating is the question of an authorization authority under way.
type validating struct {
	from   access.Actor
	ea     *trust.Credential
	opened scr.Opened
	outer  *its.SignedData
	aa     *its.Certificate // who asks
	asked  *its.AuthorizationValidationRequest
	signed *its.SignedData // by the station
	hash   []byte          // what the station signed
	cred   *credential     // nil: not known
	period its.ValidityPeriod
	mark   []byte // of the request, by which it is counted once
}

// Validate answers the question of an authorization authority whether a station may have a ticket (TS 102 941, 6.2.3.4). The error is as that of Enrol.
func (s *Service) Validate(ctx context.Context, from access.Actor, request []byte) ([]byte, error) {
	defer s.commit.Expect()()
	v := &validating{from: from}
	var err error
	if v.ea, err = s.Trust.Recipient(ctx, trust.EA, request); err != nil {
		return nil, err
	}
	code, err := s.judgeValidation(ctx, v, request)
	if err != nil {
		return nil, err
	}
	if code == its.ValidationOk {
		if code, err = s.count(ctx, v); err != nil {
			return nil, err
		}
	}
	if code != its.ValidationOk {
		return s.refuseValidation(ctx, v, code)
	}
	return s.validationAnswer(v, code, coer.Some(v.confirmed()))
}

func (s *Service) judgeValidation(ctx context.Context, v *validating, request []byte) (its.AuthorizationValidationResponseCode, error) {
	if err := v.read(request); err != nil {
		var f scr.Fault
		if !errors.As(err, &f) {
			return 0, err
		}
		return its.AuthorizationValidationResponseCode(f), nil
	}
	for _, check := range []func(*validating) its.AuthorizationValidationResponseCode{s.authority, s.ours, s.openSignature} {
		if code := check(v); code != its.ValidationOk {
			return code, nil
		}
	}
	var err error
	if v.cred, err = s.recent(ctx, v.signed.Signer.Digest); err != nil {
		return 0, err
	}
	for _, check := range []func(*validating) its.AuthorizationValidationResponseCode{s.station, s.wanted} {
		if code := check(v); code != its.ValidationOk {
			return code, nil
		}
	}
	return its.ValidationOk, nil
}

func (v *validating) read(request []byte) (err error) {
	if v.opened, err = scr.Open(request, v.ea.Holder); err != nil {
		return err
	}
	outer, octets, err := scr.Signed(v.opened.Message)
	if err != nil {
		return err
	}
	v.outer = outer
	content, err := scr.Content(octets, its.ValidationRequest)
	if err != nil {
		return err
	}
	v.asked = content.AuthorizationValidationRequest
	return nil
}

// authority checks that who asks is an authorization authority of the trust list, and may ask.
func (s *Service) authority(v *validating) its.AuthorizationValidationResponseCode {
	if v.outer.Signer.Choice != its.SignerDigest {
		return its.ValidationInvalidAa
	}
	e, err := s.Trust.State().Find(v.outer.Signer.Digest, trust.AA, s.Trust.At())
	if err != nil {
		return its.ValidationInvalidAa
	}
	aa, err := s.peers.Of(v.outer.Signer.Digest, &e.Aa.AaCertificate)
	if err != nil {
		return its.ValidationInvalidAa
	}
	v.aa = aa.Signatory.Certificate
	if v.outer.VerifyBy(aa.Signatory) != nil {
		return its.ValidationInvalidAaSignature
	}
	return its.ValidationOk
}

func (s *Service) ours(v *validating) its.AuthorizationValidationResponseCode {
	if v.asked.SharedAtRequest.EaId != v.ea.ID {
		return its.ValidationWrongEa
	}
	return its.ValidationOk
}

// openSignature opens the signature of the station.
func (s *Service) openSignature(v *validating) its.AuthorizationValidationResponseCode {
	d := v.asked.EcSignature.Data
	if v.asked.EcSignature.Choice == its.EcSignatureEncrypted {
		inner, err := scr.OpenInside(d, v.ea.Holder)
		if errors.Is(err, scr.NotRecipient) {
			return its.ValidationWrongEa
		}
		var f scr.Fault
		if errors.As(err, &f) {
			return its.AuthorizationValidationResponseCode(f)
		}
		d = inner
	}
	var err error
	if v.signed, v.hash, err = scr.SignedDigest(d); err != nil {
		return its.ValidationBadContentType
	}
	return its.ValidationOk
}

// station checks who signed, and that it was this request. Whether the device may have anything is decided where the ticket is counted.
func (s *Service) station(v *validating) its.AuthorizationValidationResponseCode {
	if v.cred == nil || v.signed.Signer.Choice != its.SignerDigest {
		return its.ValidationUnknownIts
	}
	shared, err := scr.Shared(&v.asked.SharedAtRequest)
	if err != nil || !bytes.Equal(shared, v.hash) || v.signed.VerifyBy(v.cred.signatory) != nil {
		return its.ValidationInvalidSignature
	}
	if !v.cred.cert.ToBeSigned.ValidityPeriod.Contains(s.Trust.At()) || !s.fresh(v.outer) || !s.fresh(v.signed) {
		return its.ValidationDeniedRequest
	}
	return its.ValidationOk
}

// permissionsMost is how many applications a ticket may have; those that there are, are fewer.
const permissionsMost = 64

// Permissions are what tickets of stations may be for.
func Permissions() []its.PsidGroupPermissions {
	bitmap := func(p its.Psid, value, mask []byte) its.PsidSspRange {
		return its.PsidSspRange{Psid: p, SspRange: coer.Some(its.SspRange{Choice: its.SspRangeBitmap, SspValue: value, SspBitmask: mask})}
	}
	return []its.PsidGroupPermissions{its.Group(its.SubjectPermissions{Explicit: []its.PsidSspRange{
		bitmap(its.PsidCAM, []byte{1, 0xff, 0xfc}, []byte{0xff, 0, 3}), bitmap(its.PsidDENM, []byte{1, 0xff, 0xff, 0xff}, []byte{0xff, 0, 0, 0})}})}
}

// wanted checks what the ticket is to say, and decides on its time.
func (s *Service) wanted(v *validating) its.AuthorizationValidationResponseCode {
	r := &v.asked.SharedAtRequest
	a := &r.RequestedSubjectAttributes
	if r.CertificateFormat != its.FormatTs103097 || a.CertIssuePermissions != nil || len(a.AppPermissions) == 0 || a.Id.Present && a.Id.Value.Choice != its.IdNone ||
		a.AssuranceLevel.Present || a.Region.Present {
		return its.ValidationDeniedPermissions
	}
	for i, p := range a.AppPermissions {
		twice := slices.ContainsFunc(a.AppPermissions[:i], func(before its.PsidSsp) bool { return before.Psid == p.Psid })
		if i >= permissionsMost || twice || !chain.MayIssue(s.permissions, p) {
			return its.ValidationDeniedPermissions
		}
	}
	want, wants := a.ValidityPeriod.Get()
	if !wants {
		v.period = s.usual(v.aa)
		return its.ValidationOk
	}
	v.period = want
	now := its.Time32(s.Trust.At() / 1e6)
	switch limit := uint64(s.Policy.Ticket.Microseconds()); {
	case want.Duration.Microseconds() > limit, want.Duration.Choice < its.Seconds, want.Duration.Value == 0, want.End() <= now,
		want.Start > now+its.Time32(s.Policy.Preload/time.Second), want.Start < v.aa.ToBeSigned.ValidityPeriod.Start: // it may have begun: all tickets of a week can begin with it, whoever asks when
		return its.ValidationDeniedPermissions
	}
	return its.ValidationOk
}

// sameStart is for how long tickets that are asked for without a time begin at the same moment.
const sameStart = time.Hour

// usual is the time of a ticket that is asked for without one. It begins with the hour, as the record has it: the second of the request, which stands beside the
// station in this store, would stand in the ticket as well, and everybody who meets the ticket could tell whose it is.
func (s *Service) usual(aa *its.Certificate) its.ValidityPeriod {
	unit := int64(max(1, min(sameStart, s.Policy.Ticket/24)/time.Second))
	begin := its.Time32(its.TimeAt(time.Unix(s.Now().Unix()/unit*unit, 0), s.Trust.Leap) / 1e6)
	return its.ValidityPeriod{Start: max(begin, aa.ToBeSigned.ValidityPeriod.Start), Duration: hours(s.Policy.Ticket)}
}

// confirmed is what the ticket is to say.
func (v *validating) confirmed() its.CertificateSubjectAttributes {
	return its.CertificateSubjectAttributes{ValidityPeriod: coer.Some(v.period), AppPermissions: v.asked.SharedAtRequest.RequestedSubjectAttributes.AppPermissions}
}

const (
	lockStation     = `INSERT INTO v2x_station (cell, device, turn) VALUES (0, $1, 1)` + nextTurn
	selectIntervals = `SELECT start, ends, tickets FROM v2x_interval WHERE cell = 0 AND device = $1 AND ends > $2 AND start < $3`

	// For many stations at once; the rows stand between the parts.
	lockStations      = `INSERT INTO v2x_station (cell, device, turn) VALUES `
	nextTurn          = ` ON CONFLICT (cell, device) DO UPDATE SET turn = v2x_station.turn + 1`
	lookValidations   = `SELECT digest, start, ends FROM v2x_validation WHERE cell = 0 AND digest IN `
	lookIntervals     = `SELECT device, start, ends, tickets FROM v2x_interval WHERE cell = 0 AND ends > $1 AND start < $2 AND device IN `
	countTickets      = `INSERT INTO v2x_interval (cell, device, start, ends, tickets) VALUES `
	oneMore           = ` ON CONFLICT (cell, device, start, ends) DO UPDATE SET tickets = v2x_interval.tickets + 1`
	insertValidations = `INSERT INTO v2x_validation (cell, digest, start, ends, at) VALUES `
)

// interval is when so many tickets are valid.
type interval struct{ start, ends, tickets int64 }

// count counts the ticket, in the transaction that looks whether there may be one more. One that was counted before is not counted again, if the same authority asks:
// another one gives out a ticket of its own.
func (s *Service) count(ctx context.Context, v *validating) (its.AuthorizationValidationResponseCode, error) {
	sealed, err := coer.Marshal(&v.asked.EcSignature)
	if err != nil {
		return 0, err
	}
	v.mark = digest(v.outer.Signer.Digest[:], v.asked.SharedAtRequest.Octets, sealed)
	err = s.commit.Do(ctx, v)
	var refused codeError
	if errors.As(err, &refused) {
		return its.AuthorizationValidationResponseCode(refused), nil
	}
	return its.ValidationOk, err
}

// codeError is a code that is not ok.
type codeError its.AuthorizationValidationResponseCode

func (c codeError) Error() string { return its.AuthorizationValidationResponseCode(c).String() }

// apply counts a batch, in which each station is once. Stations are locked first, so that nobody else counts their tickets until this is over.
func (s *Service) apply(ctx context.Context, tx *db.Tx, batch []*validating) (refused []error, err error) {
	seen, err := s.look(ctx, tx, batch)
	if err != nil {
		return nil, err
	}
	refused = make([]error, len(batch))
	var counted []*validating
	var entries []audit.Entry
	for i, v := range batch {
		if was, again := seen.before[string(v.mark)]; again {
			v.again(was)
			continue
		}
		if code := s.may(v, seen); code != its.ValidationOk {
			refused[i] = codeError(code)
			continue
		}
		counted = append(counted, v)
		entries = append(entries, audit.Entry{Action: "v2x.validate", At: s.hour(), Actor: "system:v2x", Device: v.cred.device.String()})
	}
	if len(counted) == 0 {
		return refused, nil
	}
	s.write(tx, counted)
	s.Audit.Defer(tx, entries...)
	return refused, nil
}

// seen is what the database knows of a batch.
type seen struct {
	before  map[string]interval      // by the marks of requests that were counted before
	there   map[device.ID][]interval // tickets that are valid at a time with the one that is asked for
	devices map[device.ID]device.Device
	revoked map[its.HashedId8]bool // credentials
}

// look locks the stations of a batch and reads what is known of it.
func (s *Service) look(ctx context.Context, tx *db.Tx, batch []*validating) (*seen, error) {
	n := &seen{before: map[string]interval{}, there: make(map[device.ID][]interval, len(batch)), revoked: map[its.HashedId8]bool{}}
	var locks, looks []*db.Stmt
	ids := make([]device.ID, len(batch))
	err := db.Chunks(len(batch), func(from, to int) error {
		var stations, marks, devices, credentials []any
		first, last := batch[from].period.Start, batch[from].period.End()
		for i, v := range batch[from:to] {
			ids[from+i] = v.cred.device
			stations = append(stations, v.cred.device[:], int64(1))
			marks, devices, credentials = append(marks, v.mark), append(devices, v.cred.device[:]), append(credentials, v.cred.id[:])
			first, last = min(first, v.period.Start), max(last, v.period.End())
		}
		locks = append(locks, &db.Stmt{SQL: lockStations + db.Values("0, ", 2, to-from) + nextTurn, Args: stations})
		looks = append(looks, &db.Stmt{SQL: lookValidations + db.List(1, to-from), Args: marks, Each: n.countedBefore},
			&db.Stmt{SQL: lookIntervals + db.List(3, to-from), Args: append([]any{int64(first), int64(last)}, devices...), Each: n.overlapping},
			&db.Stmt{SQL: lookRevoked + db.List(1, to-from), Args: credentials, Each: readRevoked(n.revoked)})
		return nil
	})
	if err = errors.Join(err, tx.Send(ctx, append(locks, looks...)...)); err != nil {
		return nil, err
	}
	n.devices, err = s.Devices.LoadManyTx(ctx, tx, ids)
	return n, err
}

func (n *seen) countedBefore(row db.Row) error {
	var mark []byte
	var was interval
	err := row.Scan(&mark, &was.start, &was.ends)
	n.before[string(mark)] = was
	return err
}

func (n *seen) overlapping(row db.Row) error {
	var dev []byte
	var i interval
	if err := row.Scan(&dev, &i.start, &i.ends, &i.tickets); err != nil {
		return err
	}
	if len(dev) != len(device.ID{}) {
		return errs.New(errs.Internal, "table v2x_interval: a row of %x is damaged", dev)
	}
	n.there[device.ID(dev)] = append(n.there[device.ID(dev)], i)
	return nil
}

// may says whether a station may have one more ticket.
func (s *Service) may(v *validating, seen *seen) its.AuthorizationValidationResponseCode {
	d, found := seen.devices[v.cred.device]
	switch {
	case !found || !d.Tagged(TagStation):
		return its.ValidationUnknownIts
	case !d.State.Active() || seen.revoked[v.cred.id]:
		return its.ValidationDeniedRequest
	case !granted(&d, v.asked.SharedAtRequest.RequestedSubjectAttributes.AppPermissions):
		return its.ValidationDeniedPermissions
	case most(v.beside(seen.there[v.cred.device]), int64(v.period.Start))+1 > int64(s.Policy.Tickets):
		return its.ValidationDeniedTooManyCerts
	}
	return its.ValidationOk
}

// beside are those of the intervals that share time with the ticket.
func (v *validating) beside(all []interval) []interval {
	start, ends := int64(v.period.Start), int64(v.period.End())
	return slices.DeleteFunc(all, func(i interval) bool { return i.ends <= start || i.start >= ends })
}

// write counts tickets.
func (s *Service) write(tx *db.Tx, counted []*validating) {
	now := s.Now().Unix()
	_ = db.Chunks(len(counted), func(from, to int) error {
		var intervals, validations []any
		for _, v := range counted[from:to] {
			start, ends := int64(v.period.Start), int64(v.period.End())
			intervals = append(intervals, v.cred.device[:], start, ends, int64(1))
			validations = append(validations, v.mark, start, ends, now)
		}
		tx.Defer(&db.Stmt{SQL: countTickets + db.Values("0, ", 4, to-from) + oneMore, Args: intervals},
			&db.Stmt{SQL: insertValidations + db.Values("0, ", 4, to-from), Args: validations})
		return nil
	})
}

// again gives a ticket that is asked for again the time that it had, if that follows from nothing but the clock.
func (v *validating) again(was interval) {
	if !v.asked.SharedAtRequest.RequestedSubjectAttributes.ValidityPeriod.Present {
		v.period.Start = its.Time32(was.start)
	}
}

// most is how many tickets are valid at once at the most, from a moment on, of intervals that all end after it. That number is reached at that moment, or where
// one of them begins.
func most(list []interval, from int64) (n int64) {
	for _, i := range list {
		at := max(i.start, from)
		var here int64
		for _, other := range list {
			if other.start <= at && at < other.ends {
				here += other.tickets
			}
		}
		n = max(n, here)
	}
	return n
}

func (s *Service) refuseValidation(ctx context.Context, v *validating, code its.AuthorizationValidationResponseCode) ([]byte, error) {
	entry := audit.Entry{Action: "v2x.validate", Refused: code.String()}
	if v.cred != nil {
		entry.Device = v.cred.device.String()
	}
	if err := s.Audit.Refuse(ctx, v.from, entry); err != nil {
		return nil, err
	}
	if v.opened.Session == nil {
		return nil, &Unanswerable{scr.Fault(code)}
	}
	return s.validationAnswer(v, code, coer.Optional[its.CertificateSubjectAttributes]{})
}

func (s *Service) validationAnswer(v *validating, code its.AuthorizationValidationResponseCode, confirmed coer.Optional[its.CertificateSubjectAttributes]) ([]byte, error) {
	return s.answer(&v.opened, v.ea, its.EtsiTs102941DataContent{Choice: its.ValidationResponse, AuthorizationValidationResponse: &its.AuthorizationValidationResponse{
		RequestHash: v.opened.Hash, ResponseCode: code, ConfirmedSubjectAttributes: confirmed}})
}
