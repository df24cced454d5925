package app_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/v2x/aa"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
	"mooring/wire/trustlist"
)

// atRequest is a request for a ticket that is put together by hand, so that each part can be wrong.
type atRequest struct {
	ec         *agent.Credential
	ecTo       *its.Certificate // whom the signature with the credential is encrypted to; nil: nobody
	ecBy       *ecdsa.PrivateKey
	ecSigns    *its.SharedAtRequest // instead of the request's
	key        *ecdsa.PrivateKey
	pop        *ecdsa.PrivateKey // nil: without
	inner      its.InnerAtRequest
	at, ecAt   its.Time64
	kind       its.ManagementChoice
	wrongTag   bool
	untaggedEC bool                      // the encryption key is not part of the tag
	tagged     func(*its.InnerAtRequest) // changes it when the tag was computed
	changeEC   func(*its.EcSignature)
}

func (p *v2xPlatform) atRequest(t *testing.T, ec *agent.Credential) *atRequest {
	t.Helper()
	k := newECKey(t)
	public, err := scr.VerificationKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	r := &atRequest{ec: ec, ecTo: p.ea, ecBy: ec.Key, key: k, pop: k, at: p.at(), ecAt: p.at(), kind: its.AuthorizationRequest}
	r.inner.PublicKeys.VerificationKey = public
	rand.Read(r.inner.HmacKey[:])
	s := &r.inner.SharedAtRequest
	s.EaId, s.CertificateFormat = p.made.EA, its.FormatTs103097
	s.RequestedSubjectAttributes.AppPermissions = agent.Applications()
	return r
}

func (r *atRequest) message(t *testing.T) *its.Ieee1609Dot2Data {
	t.Helper()
	s := &r.inner.SharedAtRequest
	keys := r.inner.PublicKeys
	if r.untaggedEC {
		keys.EncryptionKey.Present = false
	}
	var err error
	if s.KeyTag, err = scr.KeyTag(r.inner.HmacKey, &keys); err != nil {
		t.Fatal(err)
	}
	if r.wrongTag {
		s.KeyTag[0] ^= 1
	}
	if r.tagged != nil {
		r.tagged(&r.inner)
	}
	signs := s
	if r.ecSigns != nil {
		signs = r.ecSigns
	}
	if r.inner.EcSignature, err = scr.SignShared(rand.Reader, signs, r.ecAt, scr.Signer(r.ecBy, r.ec.Certificate), r.ecTo); err != nil {
		t.Fatal(err)
	}
	if r.changeEC != nil {
		r.changeEC(&r.inner.EcSignature)
	}
	c := its.EtsiTs102941DataContent{Choice: r.kind, AuthorizationRequest: &r.inner}
	if r.kind != its.AuthorizationRequest {
		c = its.EtsiTs102941DataContent{Choice: its.EnrolmentResponse, EnrolmentResponse: &its.InnerEcResponse{ResponseCode: its.EnrolmentCantParse}}
	}
	if r.pop == nil {
		b, err := scr.Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		return its.Unsecured(b)
	}
	d, err := scr.Sign(c, r.at, scr.Signer(r.pop, nil))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func toIssue() []its.PsidGroupPermissions {
	return []its.PsidGroupPermissions{its.Group(its.SubjectPermissions{Choice: its.SubjectsAll})}
}

// AUT: requests for tickets at the front door, a row per case.
func TestV2XAuthorization(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	canonical, _ := p.vehicle(t, "car-1")
	ec, err := p.client(t).Enrol(t.Context(), "car-1", canonical)
	if err != nil {
		t.Fatal(err)
	}
	stopped, d := p.vehicle(t, "car-stopped")
	ecStopped, err := p.client(t).Enrol(t.Context(), "car-stopped", stopped)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Devices.Move(t.Context(), apptest.Operator(), d.ID, device.Suspend, "test"); err != nil {
		t.Fatal(err)
	}
	off := its.CurvePoint{Form: its.CompressedY0, X: bytes.Repeat([]byte{0xff}, 32)}
	window := its.Time64(p.Config.V2X.Window.Microseconds())
	attributes := func(r *atRequest) *its.CertificateSubjectAttributes {
		return &r.inner.SharedAtRequest.RequestedSubjectAttributes
	}
	rows := []struct {
		name   string
		change func(*atRequest)
		seal   func(*its.EncryptedData)
		cut    bool // the request lacks its first octet
		to     []*its.Certificate
		want   its.AuthorizationResponseCode
		status int // 0: 200, with a message
	}{
		{name: "AUT-1 ok with POP"},
		{name: "AUT-2 ok without POP", change: func(r *atRequest) { r.pop = nil }},
		{name: "AUT-3 ok with privacy", change: func(r *atRequest) { r.ecTo = p.ea }},
		{name: "AUT-4 ok without privacy", change: func(r *atRequest) { r.ecTo = nil }},
		{name: "AUT-5 ok with encryption key", change: func(r *atRequest) { r.inner.PublicKeys.EncryptionKey = p.aa.ToBeSigned.EncryptionKey }},
		{name: "AUT-6 its-aa-cantparse", cut: true, want: its.ItsAaCantParse, status: 400},
		{name: "AUT-7 its-aa-badcontenttype", change: func(r *atRequest) { r.kind = its.EnrolmentResponse }, want: its.ItsAaBadContentType},
		{name: "AUT-8 its-aa-imnottherecipient", to: []*its.Certificate{p.ea}, want: its.ItsAaImNotTheRecipient, status: 400},
		{name: "AUT-8 two recipients", to: []*its.Certificate{p.ea, p.aa}, want: its.ItsAaImNotTheRecipient},
		{name: "AUT-9 its-aa-unknownencryptionalgorithm", seal: func(e *its.EncryptedData) { e.Ciphertext.Choice = its.SM4CCM }, want: its.ItsAaUnknownEncryptionAlgorithm},
		{name: "AUT-10 CCM tag", seal: func(e *its.EncryptedData) { e.Ciphertext.CcmCiphertext[0] ^= 1 }, want: its.ItsAaDecryptionFailed},
		{name: "AUT-10 ECIES tag", seal: func(e *its.EncryptedData) { e.Recipients[0].EncKey.C[0] ^= 1 }, want: its.ItsAaDecryptionFailed, status: 400},
		{name: "AUT-11 wrong tag", change: func(r *atRequest) { r.wrongTag = true }, want: its.ItsAaKeysDontMatch},
		{name: "AUT-11 wrong hmacKey", change: func(r *atRequest) { r.tagged = func(q *its.InnerAtRequest) { q.HmacKey[0] ^= 1 } }, want: its.ItsAaKeysDontMatch},
		{name: "AUT-11 swapped key", change: func(r *atRequest) {
			r.pop = newECKey(t)
			k, err := scr.VerificationKey(&r.pop.PublicKey)
			must(t, err)
			r.tagged = func(q *its.InnerAtRequest) { q.PublicKeys.VerificationKey = k }
		}, want: its.ItsAaKeysDontMatch},
		{name: "AUT-11 tag over one of two keys", change: func(r *atRequest) {
			r.untaggedEC, r.inner.PublicKeys.EncryptionKey = true, p.aa.ToBeSigned.EncryptionKey
		}, want: its.ItsAaKeysDontMatch},
		{name: "AUT-12 no appPermissions", change: func(r *atRequest) { attributes(r).AppPermissions = []its.PsidSsp{} }, want: its.ItsAaIncompleteRequest},
		{name: "AUT-12 wrong format", change: func(r *atRequest) { r.inner.SharedAtRequest.CertificateFormat = 2 }, want: its.ItsAaIncompleteRequest},
		{name: "AUT-13 its-aa-invalidencryptionkey", change: func(r *atRequest) {
			r.inner.PublicKeys.EncryptionKey = coer.Some(its.PublicEncryptionKey{PublicKey: its.BasePublicEncryptionKey{Point: off}})
		}, want: its.ItsAaInvalidEncryptionKey},
		{name: "AUT-14 old", change: func(r *atRequest) { r.at -= 2 * window }, want: its.ItsAaOutOfSyncRequest},
		{name: "AUT-14 future", change: func(r *atRequest) { r.at += 2 * window }, want: its.ItsAaOutOfSyncRequest},
		{name: "AUT-15 its-aa-unknownea", change: func(r *atRequest) { r.inner.SharedAtRequest.EaId = its.HashedId8{1} }, want: its.ItsAaUnknownEa},
		{name: "AUT-15 an AA instead of an EA", change: func(r *atRequest) { r.inner.SharedAtRequest.EaId = p.made.AA }, want: its.ItsAaUnknownEa},
		{name: "AUT-17 AA policy", change: func(r *atRequest) { attributes(r).AppPermissions = []its.PsidSsp{its.Bitmap(137, 1)} }, want: its.ItsAaDeniedPermissions},
		{name: "AUT-17 bad POP", change: func(r *atRequest) { r.pop = newECKey(t) }, want: its.ItsAaDeniedPermissions},
		{name: "AUT-17 key off the curve", change: func(r *atRequest) { r.inner.PublicKeys.VerificationKey.Point = off }, want: its.ItsAaDeniedPermissions},
		{name: "AUT-20 what is signed is no digest", change: func(r *atRequest) {
			r.changeEC = func(e *its.EcSignature) { e.Choice, e.Data = its.EcSignaturePlain, its.Unsecured([]byte{1}) }
		}, want: its.EaAaBadContentType},
		{name: "AUT-22 inner cipher", change: func(r *atRequest) {
			r.changeEC = func(e *its.EcSignature) { e.Data.Content.EncryptedData.Ciphertext.Choice = its.SM4CCM }
		}, want: its.EaAaUnknownEncryptionAlgorithm},
		{name: "AUT-23 inner decryption", change: func(r *atRequest) {
			r.changeEC = func(e *its.EcSignature) { e.Data.Content.EncryptedData.Ciphertext.CcmCiphertext[0] ^= 1 }
		}, want: its.EaAaDecryptionFailed},
		{name: "AUT-26 wrongea", change: func(r *atRequest) { r.ecTo = p.aa }, want: its.WrongEa},
		{name: "AUT-27 unknownits", change: func(r *atRequest) { r.ec = &agent.Credential{Certificate: p.aa, Key: r.ec.Key} }, want: its.UnknownIts},
		{name: "AUT-28 wrong key", change: func(r *atRequest) { r.ecBy = newECKey(t) }, want: its.InvalidSignature},
		{name: "AUT-28 another request", change: func(r *atRequest) { s := r.inner.SharedAtRequest; s.KeyTag[0]++; r.ecSigns = &s }, want: its.InvalidSignature},
		{name: "AUT-29 invalidencryptionkey", change: func(r *atRequest) {
			r.changeEC = func(e *its.EcSignature) { e.Data.Content.EncryptedData.Recipients[0].EncKey.V = off }
		}, want: its.InvalidEncryptionKey},
		{name: "AUT-30 region", change: func(r *atRequest) {
			attributes(r).Region = coer.Some(its.GeographicRegion{Choice: its.RegionIdentified, Identified: []its.IdentifiedRegion{{Country: 65535}}})
		}, want: its.DeniedPermissions},
		{name: "AUT-30 SSP bit", change: func(r *atRequest) { attributes(r).AppPermissions = []its.PsidSsp{its.Bitmap(its.PsidCAM, 1, 1, 0)} }, want: its.DeniedPermissions},
		{name: "AUT-30 validity", change: func(r *atRequest) {
			attributes(r).ValidityPeriod = coer.Some(its.ValidityPeriod{Start: its.Time32(p.at() / 1e6), Duration: its.Duration{Choice: its.Hours, Value: 169}})
		}, want: its.DeniedPermissions},
		{name: "AUT-30 twice", change: func(r *atRequest) {
			attributes(r).AppPermissions = append(agent.Applications(), agent.Applications()...)
		}, want: its.DeniedPermissions},
		{name: "AUT-46 stale EC signature", change: func(r *atRequest) { r.ecAt -= 2 * window }, want: its.DeniedPermissions},
		{name: "AUT-49 to issue", change: func(r *atRequest) { attributes(r).CertIssuePermissions = toIssue() }, want: its.ItsAaDeniedPermissions},
		{name: "AUT-51 suspended", change: func(r *atRequest) { r.ec, r.ecBy = ecStopped, ecStopped.Key }, want: its.DeniedPermissions},
	}
	for i, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			r := p.atRequest(t, ec)
			if row.change != nil {
				row.change(r)
			}
			to := row.to
			if to == nil {
				to = []*its.Certificate{p.aa}
			}
			request, session := sealTo(t, r.message(t), row.seal, to...)
			if row.cut {
				request = request[1:]
			}
			before, from := p.holdings(t), networkOf(i+1)
			status, body := from.post(t, p.Addresses().V2XAA+"/authorization", request)
			if row.want != its.AuthorizationOk {
				from.refused(t, p.Tickets().Audit, "v2x.ticket", row.want.String())
				p.unchanged(t, before)
			}
			if row.status != 0 {
				if status != row.status {
					t.Errorf("status %d, want %d", status, row.status)
				}
				return
			}
			underItsKey(t, request, body)
			p.expectTicket(t, r, request, session, status, body, row.want)
			if row.want == its.AuthorizationOk {
				before.counted, before.validations, before.tickets, before.answers = before.counted+1, before.validations+1, before.tickets+1, before.answers+1
				p.unchanged(t, before) // AUT-52: one ticket
			}
		})
	}
}

// expectTicket opens an answer and compares it with what is wanted. That a ticket comes once is shown by sending the same octets again.
func (p *v2xPlatform) expectTicket(t *testing.T, r *atRequest, request []byte, session *spdu.Session, status int, body []byte, want its.AuthorizationResponseCode) {
	t.Helper()
	by, c, err := scr.OpenAnswer(body, session, its.AuthorizationResponse)
	if err != nil || status != 200 || by.Verify(p.aa, nil) != nil {
		t.Fatalf("status %d, the answer: %v", status, err)
	}
	a := c.AuthorizationResponse
	if a.ResponseCode != want || a.RequestHash != scr.Hash(request) || (a.Certificate != nil) != (want == its.AuthorizationOk) {
		t.Fatalf("got %v, want %v", a.ResponseCode, want)
	}
	if want != its.AuthorizationOk {
		return
	}
	x := a.Certificate
	if err := x.CheckRole(its.EtsiAT, 0); err != nil {
		t.Errorf("AUT-50: %v", err)
	}
	if err := p.client(t).Check(p.at(), x, p.aa); err != nil {
		t.Errorf("AUT-50: %v", err)
	}
	if len(x.ToBeSigned.AppPermissions) != len(r.inner.SharedAtRequest.RequestedSubjectAttributes.AppPermissions) || x.ToBeSigned.CertIssuePermissions != nil ||
		x.ToBeSigned.EncryptionKey.Present != r.inner.PublicKeys.EncryptionKey.Present {
		t.Errorf("AUT-50: the ticket says %+v", x.ToBeSigned)
	}
	if again, other := postV2X(t, p.Addresses().V2XAA+"/authorization", request); again != 200 || !bytes.Equal(body, other) {
		t.Error("AUT-52: the same request has another answer")
	}
}

// AUT-32 to AUT-46: what the enrolment authority finds, and what the station is told of it.
func TestV2XHandedOn(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		said its.AuthorizationValidationResponseCode
		want its.AuthorizationResponseCode
	}{
		{"AUT-32", its.ValidationOk, 0}, {"AUT-33", its.ValidationCantParse, 14}, {"AUT-34", its.ValidationBadContentType, 15}, {"AUT-35", its.ValidationImNotTheRecipient, 16},
		{"AUT-36", its.ValidationUnknownEncryptionAlgorithm, 17}, {"AUT-37", its.ValidationDecryptionFailed, 18}, {"AUT-38", its.ValidationInvalidAa, 19},
		{"AUT-39", its.ValidationInvalidAaSignature, 20}, {"AUT-40", its.ValidationWrongEa, 21}, {"AUT-41", its.ValidationUnknownIts, 22},
		{"AUT-42", its.ValidationInvalidSignature, 23}, {"AUT-43", its.ValidationInvalidEncryptionKey, 24}, {"AUT-44", its.ValidationDeniedPermissions, 25},
		{"AUT-45", its.ValidationDeniedTooManyCerts, 26}, {"AUT-46", its.ValidationDeniedRequest, 25},
	} {
		if got := aa.Handed(row.said); got != row.want {
			t.Errorf("%s: %v is handed on as %d, want %d", row.name, row.said, got, row.want)
		}
	}
}

// AUT-24, AUT-25, AUT-32 and AUT-38 to AUT-46 at the enrolment authority's own endpoint: what it says to who asks, and what the station is told of that. AUT-33 to AUT-37 are in
// TestV2XValidationUnreadable.
func TestV2XValidation(t *testing.T) {
	t.Parallel()
	p := startV2X(t, func(c *conf.Config) { c.V2X.Tickets = 2 })
	ctx := t.Context()
	by, err := p.Tickets().Trust.Credential(ctx, trust.AA)
	must(t, err)
	one, full, stopped := p.car(t, "car-1"), p.car(t, "car-full"), p.car(t, "car-stopped")
	for range 2 {
		r := p.atRequest(t, full.ec)
		r.message(t)
		if got := p.ask(t, r, by.Signer).ResponseCode; got != its.ValidationOk {
			t.Fatalf("while there may be more: %v", got)
		}
	}
	_, err = p.Devices.Move(ctx, apptest.Operator(), stopped.device, device.Suspend, "test")
	must(t, err)
	of := func(c car) func(*atRequest) { return func(r *atRequest) { r.ec, r.ecBy = c.ec, c.ec.Key } }
	attributes := func(r *atRequest) *its.CertificateSubjectAttributes {
		return &r.inner.SharedAtRequest.RequestedSubjectAttributes
	}
	off := its.CurvePoint{Form: its.CompressedY0, X: bytes.Repeat([]byte{0xff}, 32)}
	window := its.Time64(p.Config.V2X.Window.Microseconds())
	unlisted := p.madeAA(t, 0x32)
	for i, row := range []struct {
		name   string
		change func(*atRequest)
		by     *spdu.Signer // nil: the authorization authority
		late   bool         // the question is from long ago
		want   its.AuthorizationValidationResponseCode
		handed its.AuthorizationResponseCode // by the authorization authority
	}{
		{name: "AUT-32 ok", want: its.ValidationOk, handed: 0},
		{name: "AUT-24, AUT-38 no AA but an EC", by: ref(scr.Signer(one.ec.Key, one.ec.Certificate)), want: its.ValidationInvalidAa, handed: 19},
		{name: "AUT-24, AUT-38 no AA but the EA", by: ref(scr.Signer(one.ec.Key, p.ea)), want: its.ValidationInvalidAa, handed: 19},
		{name: "AUT-24, AUT-38 nobody", by: ref(scr.Signer(one.ec.Key, nil)), want: its.ValidationInvalidAa, handed: 19},
		{name: "AUT-24, AUT-38 an AA that is on no list", by: &unlisted.Signer, want: its.ValidationInvalidAa, handed: 19},
		{name: "AUT-25, AUT-39 wrong key", by: ref(scr.Signer(one.ec.Key, p.aa)), want: its.ValidationInvalidAaSignature, handed: 20},
		{name: "AUT-26, AUT-40 eaId", change: func(r *atRequest) { r.inner.SharedAtRequest.EaId[0] ^= 1 }, want: its.ValidationWrongEa, handed: 21},
		{name: "AUT-26, AUT-40 inner recipient", change: func(r *atRequest) { r.ecTo = p.aa }, want: its.ValidationWrongEa, handed: 21},
		{name: "AUT-27, AUT-41 unknown EC", change: func(r *atRequest) { r.ec = &agent.Credential{Certificate: p.aa, Key: r.ec.Key} }, want: its.ValidationUnknownIts, handed: 22},
		{name: "AUT-28, AUT-42 wrong key", change: func(r *atRequest) { r.ecBy = newECKey(t) }, want: its.ValidationInvalidSignature, handed: 23},
		{name: "AUT-28, AUT-42 another request", change: func(r *atRequest) { s := r.inner.SharedAtRequest; s.KeyTag[0]++; r.ecSigns = &s }, want: its.ValidationInvalidSignature, handed: 23},
		{name: "AUT-29, AUT-43 off the curve", change: func(r *atRequest) {
			r.changeEC = func(e *its.EcSignature) { e.Data.Content.EncryptedData.Recipients[0].EncKey.V = off }
		}, want: its.ValidationInvalidEncryptionKey, handed: 24},
		{name: "AUT-29, AUT-43 x only", change: func(r *atRequest) {
			r.changeEC = func(e *its.EcSignature) { e.Data.Content.EncryptedData.Recipients[0].EncKey.V.Form = its.XOnly }
		}, want: its.ValidationInvalidEncryptionKey, handed: 24},
		{name: "AUT-30, AUT-44 SSP bit", change: func(r *atRequest) { attributes(r).AppPermissions = []its.PsidSsp{its.Bitmap(its.PsidDENM, 1, 0, 0, 1)} }, want: its.ValidationDeniedPermissions, handed: 25},
		{name: "AUT-30, AUT-44 PSID", change: func(r *atRequest) { attributes(r).AppPermissions = []its.PsidSsp{its.Bitmap(137, 1)} }, want: its.ValidationDeniedPermissions, handed: 25},
		{name: "AUT-30, AUT-44 region", change: func(r *atRequest) {
			attributes(r).Region = coer.Some(its.GeographicRegion{Choice: its.RegionIdentified, Identified: []its.IdentifiedRegion{{Country: 276}}})
		}, want: its.ValidationDeniedPermissions, handed: 25},
		{name: "AUT-30, AUT-44 validity", change: func(r *atRequest) {
			attributes(r).ValidityPeriod = coer.Some(its.ValidityPeriod{Start: its.Time32(p.at() / 1e6), Duration: its.Duration{Choice: its.Hours, Value: 169}})
		}, want: its.ValidationDeniedPermissions, handed: 25},
		{name: "AUT-30, AUT-44 assurance", change: func(r *atRequest) { attributes(r).AssuranceLevel = coer.Some[its.SubjectAssurance](0x40) }, want: its.ValidationDeniedPermissions, handed: 25},
		{name: "AUT-49 to issue", change: func(r *atRequest) { attributes(r).CertIssuePermissions = toIssue() }, want: its.ValidationDeniedPermissions, handed: 25},
		{name: "AUT-31, AUT-45 too many", change: of(full), want: its.ValidationDeniedTooManyCerts, handed: 26},
		{name: "AUT-46 suspended", change: of(stopped), want: its.ValidationDeniedRequest, handed: 25},
		{name: "AUT-46 stale EC signature", change: func(r *atRequest) { r.ecAt -= 2 * window }, want: its.ValidationDeniedRequest, handed: 25},
		{name: "AUT-46 stale question", late: true, want: its.ValidationDeniedRequest, handed: 25},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := p.atRequest(t, one.ec)
			if row.change != nil {
				row.change(r)
			}
			r.message(t)
			signer, at := by.Signer, p.at()
			if row.by != nil {
				signer = *row.by
			}
			if row.late {
				at -= 2 * window
			}
			before, from := p.holdings(t), networkOf(i+1)
			got := p.asked(t, from, r, signer, at)
			if got.ResponseCode != row.want || aa.Handed(got.ResponseCode) != row.handed || got.ConfirmedSubjectAttributes.Present != (row.want == its.ValidationOk) {
				t.Errorf("got %v, handed on as %d; want %v and %d", got.ResponseCode, aa.Handed(got.ResponseCode), row.want, row.handed)
			}
			if row.want == its.ValidationOk {
				before.counted, before.validations = before.counted+1, before.validations+1
			} else {
				from.refused(t, p.Audit, "v2x.validate", row.want.String())
			}
			p.unchanged(t, before)
		})
	}
	t.Run("AUT-24, AUT-38 revoked", func(t *testing.T) {
		must(t, p.V2X.Trust.Revoke(ctx, apptest.Operator(), p.made.AA))
		r := p.atRequest(t, one.ec)
		r.message(t)
		before, from := p.holdings(t), networkOf(100)
		if got := p.asked(t, from, r, by.Signer, p.at()).ResponseCode; got != its.ValidationInvalidAa {
			t.Errorf("got %v", got)
		}
		from.refused(t, p.Audit, "v2x.validate", its.ValidationInvalidAa.String())
		p.unchanged(t, before)
	})
}

func ref[T any](v T) *T { return &v }

// madeAA is an authorization authority whose key the test has.
type madeAA struct {
	*its.Certificate
	spdu.Signer
}

// madeAA has the root issue to an authorization authority that may do what the bits say (TS 102 941, table B.6: 32).
func (p *v2xPlatform) madeAA(t *testing.T, may byte) madeAA {
	t.Helper()
	root, err := p.V2X.Trust.Credential(t.Context(), trust.Root)
	must(t, err)
	key := newECKey(t)
	x := *p.aa
	x.Octets, x.ToBeSigned.Octets = nil, nil
	x.ToBeSigned.Id, x.ToBeSigned.AppPermissions = its.Name("made here"), []its.PsidSsp{its.Bitmap(its.PsidSCR, 1, may)}
	x.ToBeSigned.VerifyKeyIndicator.VerificationKey, err = scr.VerificationKey(&key.PublicKey)
	must(t, err)
	must(t, root.Signer.Certify(&x))
	b, err := coer.Marshal(&x)
	must(t, err)
	read, err := its.ParseCertificate(b)
	must(t, err)
	return madeAA{read, scr.Signer(key, read)}
}

// AUT-24 without SSP bit 20: an authority on the trust list that is not permitted to ask is not answered; one that differs in that alone is.
func TestV2XValidationPermission(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	one := p.car(t, "car-1")
	for i, row := range []struct {
		may  byte
		want its.AuthorizationValidationResponseCode
	}{{0x32, its.ValidationOk}, {0x12, its.ValidationInvalidAa}} {
		a := p.madeAA(t, row.may)
		p.listed(t, a)
		r := p.atRequest(t, one.ec)
		r.message(t)
		if got := p.asked(t, networkOf(i+1), r, a.Signer, p.at()).ResponseCode; got != row.want {
			t.Errorf("with the permissions %x: %v, want %v", row.may, got, row.want)
		}
	}
}

// listed puts an authority on the trust list of the root.
func (p *v2xPlatform) listed(t *testing.T, a madeAA) {
	t.Helper()
	root, err := p.V2X.Trust.Credential(t.Context(), trust.Root)
	must(t, err)
	st := p.V2X.Trust.State()
	l := *st.Lists.CtlFormat
	l.CtlSequence++
	l.CtlCommands = append(slices.Clone(l.CtlCommands), its.CtlCommand{Add: its.CtlEntry{Choice: its.CtlAa, Aa: &its.AaEntry{AaCertificate: *a.Certificate, AccessPoint: "http://made.test"}}})
	b, err := scr.Encode(its.EtsiTs102941DataContent{Choice: its.CertificateTrustListRca, CertificateTrustList: &l})
	must(t, err)
	h := scr.Header(p.at())
	h.Psid = its.PsidCTL
	s := root.Signer
	s.Attach = true
	d, err := spdu.Sign(spdu.Payload(b), h, s)
	must(t, err)
	octets, err := coer.Marshal(d)
	must(t, err)
	must(t, p.V2X.Trust.Accept(t.Context(), octets, st.CRL))
	id := idOf(t, a.Certificate)
	if now := p.V2X.Trust.State(); now.Lists == nil || now.Lists.Find(id) == nil {
		t.Fatal("the authority is not on the list")
	}
}

// asked asks the enrolment authority as an authorization authority, at a moment. The answer names the question and is signed.
func (p *v2xPlatform) asked(t *testing.T, from network, r *atRequest, by spdu.Signer, at its.Time64) *its.AuthorizationValidationResponse {
	t.Helper()
	d, err := scr.Sign(its.EtsiTs102941DataContent{Choice: its.ValidationRequest, AuthorizationValidationRequest: &its.AuthorizationValidationRequest{
		SharedAtRequest: r.inner.SharedAtRequest, EcSignature: r.inner.EcSignature}}, at, by)
	must(t, err)
	request, session := sealTo(t, d, nil, p.ea)
	status, body := from.post(t, p.Config.V2XValidationURL()+"/validation", request)
	if status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	signed, c, err := scr.OpenAnswer(body, session, its.ValidationResponse)
	must(t, err)
	if a := c.AuthorizationValidationResponse; signed.Verify(p.ea, nil) != nil || a.RequestHash != scr.Hash(request) {
		t.Errorf("the answer is not signed, or to another question: %+v", a)
	}
	return c.AuthorizationValidationResponse
}

// AUT-16, AUT-18, CHN-13: an enrolment authority that cannot be reached, and one that is revoked.
func TestV2XAuthoritiesGone(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	canonical, _ := p.vehicle(t, "car-1")
	client := p.client(t)
	ec, err := client.Enrol(t.Context(), "car-1", canonical)
	if err != nil {
		t.Fatal(err)
	}
	garbage := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", scr.ResponseType)
		io.WriteString(w, "garbage")
	})}
	talks, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go garbage.Serve(talks)
	t.Cleanup(func() { garbage.Close() })
	url, peer := p.Config.V2XEAURL()+"/enrolment", p.Config.V2XValidationURL()+"/validation"
	for _, row := range []struct{ name, peer, want string }{
		{"AUT-18 refused connection", "http://" + freeAddress(t), "aa-ea-cantreachea"},
		{"AUT-18 garbage", "http://" + talks.Addr().String(), "aa-ea-cantreachea"},
		{"there again", peer, ""},
	} {
		if err := p.V2X.Trust.Move(t.Context(), access.System("test"), p.made.EA, url, row.peer); err != nil {
			t.Fatal(err)
		}
		p.fetch(t)
		_, err := client.Ticket(t.Context(), ec, agent.Order{})
		var refused *agent.Refused
		if row.want == "" && err != nil || row.want != "" && (!asRefused(err, &refused) || refused.Code != row.want) {
			t.Errorf("%s: got %v, want %q", row.name, err, row.want)
		}
	}
	r := p.atRequest(t, ec)
	request, session := sealTo(t, r.message(t), nil, p.aa)
	if err := p.V2X.Trust.Revoke(t.Context(), apptest.Operator(), p.made.EA); err != nil {
		t.Fatal(err)
	}
	p.fetch(t)
	status, body := postV2X(t, p.Addresses().V2XAA+"/authorization", request)
	p.expectTicket(t, r, request, session, status, body, its.ItsAaInvalidEa)
	if err := client.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := client.Authorities(); err == nil {
		t.Error("CHN-13: the vehicle believes an enrolment authority that is revoked")
	}
	if _, err := p.V2X.Trust.State().Find(p.made.EA, trust.EA, p.at()); err == nil {
		t.Error("CHN-13: the root's own store believes it")
	}
}

// fetch has the authorization authority fetch the lists now.
func (p *v2xPlatform) fetch(t *testing.T) {
	t.Helper()
	if err := p.Tickets().Fetch(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// CTL-2, CTL-8, CTL-13, DST-1, DST-4: the distribution centre.
func TestV2XDistribution(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	get := func(method, path string, header http.Header) (*http.Response, []byte) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, p.Addresses().V2XDC+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = header
		a, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		b, err := io.ReadAll(a.Body)
		if err != nil {
			t.Fatal(err)
		}
		return a, b
	}
	id := p.made.Root.String()
	before, full := get("GET", "/getctl/"+id, http.Header{})
	if err := p.V2X.Trust.Move(t.Context(), access.System("test"), p.made.AA, "http://elsewhere", ""); err != nil {
		t.Fatal(err)
	}
	at := p.at()
	first, err := trustlist.ReadCTL(full, p.root, at)
	if err != nil {
		t.Fatal(err)
	}
	_, next := get("GET", "/getctl/"+id, http.Header{})
	second, err := trustlist.ReadCTL(next, p.root, at)
	if err != nil {
		t.Fatal(err)
	}
	_, step := get("GET", "/getctl/"+id+"/"+number(second.CtlSequence), http.Header{})
	delta, err := trustlist.ReadCTL(step, p.root, at)
	if err != nil {
		t.Fatalf("CTL-2: the delta: %v", err)
	}
	applied, err := first.Apply(delta)
	if err != nil {
		t.Fatalf("CTL-2: %v", err)
	}
	if got, want := octetsOf(t, applied.CtlFormat), octetsOf(t, second.CtlFormat); !bytes.Equal(got, want) {
		t.Errorf("CTL-2: full %d and delta %d give\n%x, not\n%x", first.CtlSequence, delta.CtlSequence, got, want)
	}
	for _, row := range []struct {
		name, method, path string
		header             http.Header
		status             int
		kind               string
	}{
		{"DST-1 lower case", "GET", "/getctl/" + strings.ToLower(id), nil, 200, scr.CTLType},
		{"DST-1 CRL", "GET", "/getcrl/" + id, nil, 200, scr.CRLType},
		{"DST-1 unknown root", "GET", "/getctl/0123456789ABCDEF", nil, 404, ""},
		{"DST-1 unknown sequence", "GET", "/getctl/" + id + "/" + number(second.CtlSequence+1), nil, 404, ""},
		{"DST-1 no sequence", "GET", "/getctl/" + id + "/256", nil, 404, ""},
		{"DST-1 another method", "POST", "/getctl/" + id, nil, 405, ""},
		{"DST-4 HEAD", "HEAD", "/getcrl/" + id, nil, 200, scr.CRLType},
		{"DST-4 changed", "GET", "/getctl/" + id, http.Header{"If-None-Match": {before.Header.Get("ETag")}}, 200, scr.CTLType},
	} {
		if row.header == nil {
			row.header = http.Header{}
		}
		a, _ := get(row.method, row.path, row.header)
		if a.StatusCode != row.status || row.kind != "" && a.Header.Get("Content-Type") != row.kind {
			t.Errorf("%s: status %d and type %q, want %d and %q", row.name, a.StatusCode, a.Header.Get("Content-Type"), row.status, row.kind)
		}
	}
	for name, octets := range map[string][]byte{"full list": next, "delta": step} {
		d, err := its.ParseData(octets, its.MaxTrustList)
		must(t, err)
		s := d.Content.SignedData
		if s.Signer.Choice != its.SignerCertificate || len(s.Signer.Certificate) != 1 || idOf(t, &s.Signer.Certificate[0]) != p.made.Root || s.TbsData.HeaderInfo.Psid != its.PsidCTL ||
			s.Signer.Certificate[0].CheckRole(its.EtsiRCA, 0) != nil {
			t.Errorf("CTL-1: the %s is signed by %+v for application %d", name, s.Signer, s.TbsData.HeaderInfo.Psid)
		}
	}
	a, _ := get("GET", "/getcrl/"+id, http.Header{})
	if a, b := get("GET", "/getcrl/"+id, http.Header{"If-None-Match": {a.Header.Get("ETag")}}); a.StatusCode != 304 || len(b) != 0 {
		t.Errorf("DST-4: unchanged: status %d", a.StatusCode)
	}
}

// DST-4: nobody keeps a list longer than it is valid.
func TestV2XListsAreKeptWhileValid(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	for _, left := range []time.Duration{24 * time.Hour, 20 * time.Second, 3 * time.Second} {
		for path, ends := range map[string]func([]byte) its.Time32{
			"/getctl/": func(b []byte) its.Time32 {
				l, err := trustlist.ReadCTL(b, p.root, 0)
				must(t, err)
				return l.NextUpdate
			},
			"/getcrl/": func(b []byte) its.Time32 {
				l, err := trustlist.ReadCRL(b, p.root, 0)
				must(t, err)
				return l.NextUpdate
			},
		} {
			url := p.Addresses().V2XDC + path + p.made.Root.String()
			must(t, p.V2X.Trust.Publish(t.Context()))
			_, b := document(t, http.MethodGet, url, nil)
			p.clock.Move(time.Duration(int64(ends(b))*1e6-int64(p.at()))*time.Microsecond - left) // if it is not renewed meanwhile, so much is left of it
			before := p.at()
			a, b := document(t, http.MethodGet, url, nil)
			text, found := strings.CutPrefix(a.Header.Get("Cache-Control"), "max-age=")
			age, err := strconv.Atoi(text)
			if err != nil || !found || age < 0 || its.Time64(age)*1e6 >= its.Time64(ends(b))*1e6-before {
				t.Errorf("DST-4: %s may be kept %q, and ends in %d µs", path, a.Header.Get("Cache-Control"), its.Time64(ends(b))*1e6-before)
			}
		}
	}
}

// CTL-3: a root makes more lists than there are numbers. The one after 255 has 0, and a vehicle goes on by deltas over that, or by the full list.
func TestV2XRootsNumbersGoRound(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	number := func() uint8 { return p.V2X.Trust.State().Of(p.made.Root).Lists.CtlSequence }
	move := func(url string) {
		t.Helper()
		before := number()
		must(t, p.V2X.Trust.Move(t.Context(), access.System("test"), p.made.AA, url, ""))
		if number() != before+1 {
			t.Fatalf("after list %d comes %d", before, number())
		}
	}
	there := p.V2X.Trust.State().Of(p.made.Root).Lists.Find(p.made.AA).Aa.AccessPoint
	canonical, _ := p.vehicle(t, "car-1")
	ec, err := p.client(t).Enrol(t.Context(), "car-1", canonical)
	must(t, err)
	move("http://nowhere.invalid/0")
	client, away := p.client(t), p.client(t)
	begun, round := number(), false
	for n := range 299 {
		round = round || number() == 255
		move("http://nowhere.invalid/" + strconv.Itoa(n+1))
		if n%40 == 0 || number() == 0 {
			must(t, client.Update(t.Context()))
		}
		if n == 199 {
			must(t, away.Update(t.Context()))
			must(t, away.Update(t.Context())) // where there are so many that the full list seems older, it takes more than one
			must(t, away.Update(t.Context()))
		}
	}
	for name, c := range map[string]*agent.Client{"who was there all the time": client, "who was away": away} {
		if _, err := c.Ticket(t.Context(), ec, agent.Order{}); err == nil {
			t.Errorf("%s has a ticket from an authority that is nowhere", name)
		}
	}
	move(there)
	if !round || number() != begun+44 { // 300 further on
		t.Errorf("the numbers went from %d to %d", begun, number())
	}
	must(t, client.Update(t.Context()))                                                                         // its next number is that of a list from long ago, too
	for name, c := range map[string]*agent.Client{"who was there all the time": client, "who was away": away} { // for whom there are not so many deltas
		must(t, c.Update(t.Context()))
		if _, err := c.Ticket(t.Context(), ec, agent.Order{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// CTL-13 where the list is made: it has authorities of its own root alone, revocation is for good, who has expired is dropped, and without anybody it is an empty list.
func TestV2XRevocationList(t *testing.T) {
	t.Parallel()
	p, other := startV2X(t, nil), startV2X(t, nil)
	ctx, who := t.Context(), apptest.Operator()
	entries := func() []its.HashedId8 {
		t.Helper()
		_, b := document(t, http.MethodGet, p.Addresses().V2XDC+"/getcrl/"+p.made.Root.String(), nil)
		l, err := trustlist.ReadCRL(b, p.root, p.at())
		must(t, err)
		return l.Entries
	}
	want := func(when string, list ...its.HashedId8) {
		t.Helper()
		if got := entries(); !slices.Equal(got, list) {
			t.Errorf("CTL-13 %s: the list has %v, want %v", when, got, list)
		}
	}
	want("at first")
	if err := p.V2X.Trust.Revoke(ctx, who, other.made.AA); !errs.Is(err, errs.NotFound) {
		t.Errorf("CTL-13: an authority of another root: %v", err)
	}
	want("after somebody else's authority")
	must(t, p.V2X.Trust.Revoke(ctx, who, p.made.AA))
	want("afterwards", p.made.AA)
	if err := p.V2X.Trust.Revoke(ctx, who, p.made.AA); !errs.Is(err, errs.NotFound) {
		t.Errorf("CTL-13: revoked twice: %v", err)
	}
	p.clock.Move(30 * 24 * time.Hour)
	must(t, p.V2X.Trust.Publish(ctx))
	want("a month later", p.made.AA)
	p.clock.Move(time.Duration(p.aa.ToBeSigned.ValidityPeriod.End()-its.Time32(p.at()/1e6)+1) * time.Second)
	must(t, p.V2X.Trust.Publish(ctx))
	want("when its certificate has ended")
}

func number(n uint8) string { return strconv.Itoa(int(n)) }

func octetsOf(t *testing.T, l *its.CtlFormat) []byte {
	t.Helper()
	b, err := coer.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// AUT-52 where the authorization authority crashed between the enrolment authority's yes and its own answer: it asks again for the same request, and that counts once.
func TestV2XValidationCountsOnce(t *testing.T) {
	t.Parallel()
	p := startV2X(t, func(c *conf.Config) { c.V2X.Tickets = 1 })
	canonical, _ := p.vehicle(t, "car-1")
	ec, err := p.client(t).Enrol(t.Context(), "car-1", canonical)
	if err != nil {
		t.Fatal(err)
	}
	by, err := p.Tickets().Trust.Credential(t.Context(), trust.AA)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(r *atRequest) its.AuthorizationValidationResponseCode {
		t.Helper()
		d, err := scr.Sign(its.EtsiTs102941DataContent{Choice: its.ValidationRequest, AuthorizationValidationRequest: &its.AuthorizationValidationRequest{
			SharedAtRequest: r.inner.SharedAtRequest, EcSignature: r.inner.EcSignature}}, p.at(), by.Signer)
		if err != nil {
			t.Fatal(err)
		}
		request, session := sealTo(t, d, nil, p.ea)
		_, body := postV2X(t, p.Config.V2XValidationURL()+"/validation", request)
		_, c, err := scr.OpenAnswer(body, session, its.ValidationResponse)
		if err != nil {
			t.Fatal(err)
		}
		return c.AuthorizationValidationResponse.ResponseCode
	}
	first, second := p.atRequest(t, ec), p.atRequest(t, ec)
	first.message(t)
	second.message(t)
	for i, row := range []struct {
		request *atRequest
		want    its.AuthorizationValidationResponseCode
	}{{first, its.ValidationOk}, {first, its.ValidationOk}, {second, its.ValidationDeniedTooManyCerts}, {first, its.ValidationOk}} {
		if got := ask(row.request); got != row.want {
			t.Errorf("question %d: got %v, want %v", i+1, got, row.want)
		}
	}
	entries, err := p.Audit.List(t.Context(), access.System("test"), audit.Query{Newest: true, Limit: 500})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if e.Action == "v2x.validate" && e.Refused == "" {
			n++
		}
	}
	if n > 1 {
		t.Errorf("the record has %d tickets, want 1", n)
	}
}
