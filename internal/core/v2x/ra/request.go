package ra

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/v2x/ea"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/butterfly"
	"mooring/wire/cocoon"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
)

// asking is a message of a station under way.
type asking struct {
	from    access.Actor
	ea      *trust.Credential
	opened  scr.Opened
	member  *ea.Member
	request *its.EeRaCertRequest
	wanted  *its.EeRaDownloadRequest
}

// content takes out of what was opened either message, by whichever signature.
type content struct {
	request *its.EeRaCertRequest
	wanted  *its.EeRaDownloadRequest
	signed  *its.SignedData                   // with an enrolment credential
	x509    *its.SignedX509CertificateRequest // or with an X.509 certificate
}

// unpack reads what was encrypted: a message of TS 102 941 that is signed with an enrolment credential, or one that is signed with an X.509 certificate, which
// stands in a message of TS 102 941 (as its module has it) or for itself (as its text has it). The error is a scr.Fault.
func unpack(d *its.Ieee1609Dot2Data) (c content, err error) {
	switch d.Content.Choice {
	case its.ContentSigned:
		var octets []byte
		if c.signed, octets, err = scr.Signed(d); err != nil {
			return c, err
		}
		m, err := its.ParseManagement(octets)
		if err != nil {
			return c, scr.CantParse
		}
		c.request, c.wanted = m.Content.ButterflyAuthorizationRequest, m.Content.ButterflyAtDownloadRequest
	case its.UnsecuredData:
		inner, err := scr.Content(d.Content.Opaque, its.X509SignedButterflyAuthorizationRequest)
		if err != nil {
			return c, err
		}
		if inner.Data.Content.Choice != its.ContentX509CertificateRequest {
			return c, scr.BadContentType
		}
		return unpackX509(inner.Data.Content.Opaque)
	case its.ContentX509CertificateRequest:
		return unpackX509(d.Content.Opaque)
	}
	if c.request == nil && c.wanted == nil {
		return c, scr.BadContentType
	}
	return c, nil
}

func unpackX509(octets []byte) (c content, err error) {
	c.x509 = new(its.SignedX509CertificateRequest)
	if coer.Unmarshal(octets, c.x509) != nil {
		return c, scr.CantParse
	}
	p := &c.x509.TbsRequest
	if p.Choice != its.ScmsEeRa || p.EeRa.EeRaCertRequest == nil && p.EeRa.EeRaDownloadRequest == nil {
		return c, scr.BadContentType
	}
	c.request, c.wanted = p.EeRa.EeRaCertRequest, p.EeRa.EeRaDownloadRequest
	return c, nil
}

// open opens a message and finds out whose it is. The code has the name of one for enrolments: for this there are none (TS 102 941, 6.2.3.5).
func (s *Service) open(ctx context.Context, a *asking, octets []byte) (its.EnrolmentResponseCode, error) {
	var err error
	if a.ea, err = s.Trust.Recipient(ctx, trust.EA, octets); err != nil {
		return 0, err
	}
	var c content
	if a.opened, err = scr.Open(octets, a.ea.Holder); err == nil {
		c, err = unpack(a.opened.Message)
	}
	if err != nil {
		var f scr.Fault
		if !errors.As(err, &f) {
			return 0, err
		}
		return its.EnrolmentResponseCode(f), nil
	}
	a.request, a.wanted = c.request, c.wanted
	var code its.EnrolmentResponseCode
	if c.x509 != nil {
		a.member, code, err = s.EA.SignedByX509(ctx, c.x509)
	} else {
		a.member, code, err = s.EA.SignedBy(ctx, c.signed)
	}
	return code, err
}

// fresh says whether the time inside of a message is within the window.
func (s *Service) fresh(t its.Time32) bool {
	at, window := int64(s.seconds()), int64(s.EA.Policy.Window/time.Second)
	return int64(t)+window >= at && int64(t) <= at+window
}

// refuse records a refusal. Who asked is told nothing but that; what could not be opened is unanswerable.
func (s *Service) refuse(ctx context.Context, a *asking, action, reason string, code its.EnrolmentResponseCode) error {
	entry := audit.Entry{Action: action, Refused: reason}
	if a.member != nil {
		entry.Device = a.member.Device.String()
	}
	if err := s.Audit.Refuse(ctx, a.from, entry); err != nil {
		return err
	}
	if code >= its.EnrolmentCantParse && code <= its.EnrolmentDecryptionFailed {
		return &ea.Unanswerable{Fault: scr.Fault(code)}
	}
	return errRefused
}

// Request answers a station that wants tickets by butterfly keys. The answer is signed and not encrypted. A request that is sent again gets the same answer. An access token
// may come with it, "" for none, which then has to be of the same station. The error is an ea.Unanswerable, or has a kind: Denied for whatever else is wrong.
func (s *Service) Request(ctx context.Context, from access.Actor, octets []byte, token string) ([]byte, error) {
	a := &asking{from: from}
	digest := sha256.Sum256(octets)
	id := its.HashedId8(digest[24:])
	if before, err := s.answered(ctx, id, digest); before != nil || err != nil {
		return before, err
	}
	code, err := s.open(ctx, a, octets)
	if err != nil {
		return nil, err
	}
	o := &order{id: id, digest: digest}
	if code == its.EnrolmentOk && token != "" {
		if code, err = s.vouched(ctx, a, token); err != nil {
			return nil, err
		}
	}
	if code == its.EnrolmentOk {
		code = s.judge(a, o)
	}
	if code == its.EnrolmentOk {
		if o.answer, err = s.info(a.ea, id, o.first, s.Now().Add(s.Policy.Wait)); err != nil {
			return nil, err
		}
		code, err = s.record(ctx, a, o)
	}
	if db.IsConflict(err) { // the same request, at the same time
		if before, err := s.answered(ctx, id, digest); before != nil || err != nil {
			return before, err
		}
	}
	switch {
	case err != nil:
		return nil, err
	case code != its.EnrolmentOk:
		return nil, s.refuse(ctx, a, "v2x.butterfly", code.String(), code)
	}
	s.nudge()
	return o.answer, nil
}

// vouched checks that a token is of the station that signed.
func (s *Service) vouched(ctx context.Context, a *asking, token string) (its.EnrolmentResponseCode, error) {
	who, err := s.Tokens.subject(token, s.Now())
	if err != nil {
		return its.EnrolmentDeniedRequest, nil
	}
	m, _, err := s.EA.ByName(ctx, who)
	if err != nil || m != nil && m.Device == a.member.Device {
		return its.EnrolmentOk, err
	}
	return its.EnrolmentDeniedRequest, nil
}

func (s *Service) answered(ctx context.Context, id its.HashedId8, digest [32]byte) (answer []byte, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&answer}, `SELECT answer FROM v2x_order WHERE cell = 0 AND id = $1 AND digest = $2`, id[:], digest[:])
		return err
	})
	return answer, err
}

// judge checks what is asked for. Of the validity the first batch has to begin within the preload, and it may not last longer than a ticket; when tickets begin and
// end is the same for all stations.
func (s *Service) judge(a *asking, o *order) its.EnrolmentResponseCode {
	r := a.request
	if r == nil || r.AdditionalParams == nil {
		return its.EnrolmentIncompleteRequest
	}
	if !s.fresh(r.GenerationTime) {
		return its.EnrolmentDeniedRequest
	}
	if !s.permitted(r) {
		return its.EnrolmentDeniedPermissions
	}
	var err error
	if o.caterpillar, err = caterpillar(r); err != nil {
		return its.EnrolmentInvalidKeys
	}
	o.device, o.signer, o.until, o.tickets, o.created = a.member.Device, a.member.By, a.member.Until, int64(s.Policy.Tickets), s.Now().Unix()
	o.permissions = r.TbsCert.AppPermissions
	if o.octets, err = coer.Marshal(r); err != nil {
		return its.EnrolmentCantParse
	}
	o.first = s.period(max(r.TbsCert.ValidityPeriod.Start, s.seconds()))
	o.next = o.first
	return its.EnrolmentOk
}

// permitted looks at everything but the keys.
func (s *Service) permitted(r *its.EeRaCertRequest) bool {
	t := &r.TbsCert
	v := t.ValidityPeriod
	now := s.seconds()
	switch {
	case r.Type != its.Explicit, t.Id.Choice != its.IdNone, t.CracaId != its.HashedId3{}, t.CrlSeries != 0, t.Region.Present, t.AssuranceLevel.Present,
		t.CertIssuePermissions != nil, t.CertRequestPermissions != nil, t.CanRequestRollover, t.EncryptionKey.Present, t.Flags.Present, t.AppExtensions != nil,
		t.CertIssueExtensions != nil, t.CertRequestExtension != nil, len(t.Additions.Unknown) > 0, len(r.Additions.Unknown) > 0,
		t.VerifyKeyIndicator.Choice != its.VerificationKey, !ea.May(t.AppPermissions):
		return false
	case v.Duration.Value == 0, v.Duration.Microseconds() > uint64(s.EA.Policy.Ticket.Microseconds()), v.End() <= now,
		int64(v.Start) > int64(now)+int64(s.EA.Policy.Preload/time.Second):
		return false
	case r.AdditionalParams.Choice == its.ButterflyCompactUnified:
		entry, err := s.issuer()
		return err == nil && entry.AaCertificate.ToBeSigned.Flags.Value&its.UsesCubk != 0
	}
	return r.AdditionalParams.Choice <= its.ButterflyUnified
}

// errKeys is that keys of a request are of no use.
var errKeys = errors.New("a key of the request is none of P-256, or an expansion is not by AES-128")

// caterpillar is what is to be expanded.
func caterpillar(r *its.EeRaCertRequest) (c butterfly.Caterpillar, err error) {
	p, k := r.AdditionalParams, &r.TbsCert.VerifyKeyIndicator.VerificationKey
	if k.Choice != its.ECDSANistP256 {
		return c, errKeys
	}
	if c.SigningKey, err = point(&k.Point); err != nil {
		return c, err
	}
	expansion := &p.Expansion
	switch p.Choice {
	case its.ButterflyOriginal:
		expansion = &p.Original.SigningExpansion
		enc := &p.Original.EncryptionKey
		if enc.SupportedSymmAlg != its.AES128CCM || enc.PublicKey.Choice != its.ECIESNistP256 || p.Original.EncryptionExpansion.Choice != 0 {
			return c, errKeys
		}
		c.EncryptionExpansion = p.Original.EncryptionExpansion.Aes128
		if c.EncryptionKey, err = point(&enc.PublicKey.Point); err != nil {
			return c, err
		}
	case its.ButterflyUnified:
		c.Variant = butterfly.Unified
	case its.ButterflyCompactUnified:
		c.Variant = butterfly.CompactUnified
	default:
		return c, errKeys
	}
	if expansion.Choice != 0 {
		return c, errKeys
	}
	c.SigningExpansion = expansion.Aes128
	return c, nil
}

func point(p *its.CurvePoint) (butterfly.Point, error) {
	b, err := p.SEC1()
	if err != nil {
		return butterfly.Point{}, errKeys
	}
	q, err := butterfly.NewPoint(b)
	if err != nil {
		return butterfly.Point{}, errKeys
	}
	return q, nil
}

// keys are the digests of the caterpillar keys, which are good for one request.
func (o *order) keys() [][]byte {
	list := [][]byte{o.caterpillar.SigningKey.Bytes()}
	if o.caterpillar.Variant == butterfly.Original && !o.caterpillar.EncryptionKey.Equal(o.caterpillar.SigningKey) {
		list = append(list, o.caterpillar.EncryptionKey.Bytes())
	}
	for i, b := range list {
		sum := sha256.Sum256(b)
		list[i] = sum[:]
	}
	if len(list) == 2 && bytes.Compare(list[0], list[1]) > 0 { // who writes both locks them in the same order
		list[0], list[1] = list[1], list[0]
	}
	return list
}

// info is the message that tells a station when there is something to fetch.
func (s *Service) info(by *trust.Credential, id its.HashedId8, i int64, next time.Time) ([]byte, error) {
	signed, err := scr.Sign(its.EtsiTs102941DataContent{Choice: its.ButterflyAuthorizationResponse, ButterflyAuthorizationResponse: &its.RaEeCertInfo{
		GenerationTime: s.seconds(), CurrentI: uint16(i), RequestHash: id, NextDlTime: its.Time32(its.TimeAt(next, s.Trust.Leap) / 1e6)}}, s.Trust.At(), by.Signer)
	if err != nil {
		return nil, err
	}
	return coer.Marshal(signed)
}

// errUsed is that a caterpillar key was used before.
var errUsed = errors.New("a caterpillar key was used before")

// record stores a request, with the tickets of its first periods counted. The requests that the station made before get no further periods: it may have lost
// their keys.
func (s *Service) record(ctx context.Context, a *asking, o *order) (code its.EnrolmentResponseCode, err error) {
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		code, o.next = its.EnrolmentOk, o.first
		ends, err := endOrders(ctx, tx, o)
		if err != nil {
			return err
		}
		refused, err := s.planTx(ctx, tx, o)
		switch {
		case err != nil:
			return err
		case refused == its.ValidationDeniedRequest:
			code = its.EnrolmentBadItsStatus
		case refused == its.ValidationDeniedPermissions:
			code = its.EnrolmentDeniedPermissions
		case refused != its.ValidationOk:
			code = its.EnrolmentDeniedRequest
		case o.next == o.first: // the credential ends before any period begins
			code = its.EnrolmentDeniedRequest
		}
		if code != its.EnrolmentOk {
			return errUsed // nothing is kept
		}
		if _, err := tx.Exec(ctx, insertOrder, o.row()...); err != nil {
			return err
		}
		for _, key := range o.keys() {
			if n, err := tx.Exec(ctx, insertCaterpillar, key, o.id[:], o.until); err != nil {
				return err
			} else if n == 0 {
				code = its.EnrolmentInvalidKeys
				return errUsed
			}
		}
		return s.Audit.Append(ctx, tx, audit.Entry{Action: "v2x.butterfly", Actor: access.Device(o.device.String(), a.from.Via).String(), Device: o.device.String(), Object: o.id.String(),
			Detail: map[string]string{detailRow: o.mark(), detailNext: strconv.FormatInt(o.next, 10), detailFirst: strconv.FormatInt(o.first, 10), detailUntil: strconv.FormatInt(o.until, 10),
				detailTickets: strconv.FormatInt(o.tickets, 10), detailCreated: strconv.FormatInt(o.created, 10), detailEnds: strings.Join(ends, " "), detailKeys: hexAll(o.keys())}})
	})
	if errors.Is(err, errUsed) {
		return code, nil
	}
	return code, err
}

func hexAll(list [][]byte) string {
	var text []string
	for _, b := range list {
		text = append(text, hex.EncodeToString(b))
	}
	return strings.Join(text, " ")
}

// Download returns the archive that a station asks for, and its name. The error is as that of Request; NotFound is that it is not ready.
func (s *Service) Download(ctx context.Context, from access.Actor, octets []byte) (name string, archive []byte, err error) {
	a := &asking{from: from}
	code, err := s.open(ctx, a, octets)
	if err != nil {
		return "", nil, err
	}
	if code == its.EnrolmentOk && (a.wanted == nil || !s.fresh(a.wanted.GenerationTime)) {
		code = its.EnrolmentDeniedRequest
	}
	if code != its.EnrolmentOk {
		return "", nil, s.refuse(ctx, a, "v2x.download", code.String(), code)
	}
	return s.give(ctx, a, a.wanted.Filename)
}

// DownloadByToken is Download for a station that shows an access token instead of a signed message.
func (s *Service) DownloadByToken(ctx context.Context, from access.Actor, token, filename string) (name string, archive []byte, err error) {
	a := &asking{from: from}
	who, err := s.Tokens.subject(token, s.Now())
	if err != nil {
		return "", nil, s.refuse(ctx, a, "v2x.download", err.Error(), its.EnrolmentDeniedRequest)
	}
	var code its.EnrolmentResponseCode
	if a.member, code, err = s.EA.ByName(ctx, who); err != nil {
		return "", nil, err
	}
	if code != its.EnrolmentOk {
		return "", nil, s.refuse(ctx, a, "v2x.download", code.String(), code)
	}
	return s.give(ctx, a, filename)
}

// give returns an archive of the station that was found.
func (s *Service) give(ctx context.Context, a *asking, filename string) (name string, archive []byte, err error) {
	id, i, err := cocoon.ParseArchiveName(filename)
	if err != nil {
		return "", nil, s.refuse(ctx, a, "v2x.download", "no such name", its.EnrolmentDeniedRequest)
	}
	archive, state, err := s.archive(ctx, a.member.Device, id, i)
	if err != nil {
		return "", nil, err
	}
	switch state {
	case archiveReady:
		return cocoon.ArchiveName(id, i), archive, nil
	case archiveComing:
		return "", nil, errComing()
	}
	return "", nil, s.refuse(ctx, a, "v2x.download", "no archive of the station", its.EnrolmentDeniedRequest)
}
