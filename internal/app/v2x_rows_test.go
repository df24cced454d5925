package app_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/base/conf"
	"mooring/internal/base/db"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/butterfly"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

// fakeEA answers every question of the authorization authority with a code, in the name of the enrolment authority.
type fakeEA struct {
	t      *testing.T
	p      *v2xPlatform
	mu     sync.Mutex
	code   its.AuthorizationValidationResponseCode    // guarded by mu
	change func(*its.AuthorizationValidationResponse) // guarded by mu; nil: says the code alone
	by     *spdu.Signer                               // guarded by mu; nil: the enrolment authority
}

func (f *fakeEA) say(code its.AuthorizationValidationResponseCode) { f.answer(code, nil, nil) }

func (f *fakeEA) answer(code its.AuthorizationValidationResponseCode, change func(*its.AuthorizationValidationResponse), by *spdu.Signer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.code, f.change, f.by = code, change, by
}

// startFakeEA starts a platform whose trust list says that the enrolment authority is asked at a fake one, and a vehicle's credential.
func startFakeEA(t *testing.T) (*v2xPlatform, *fakeEA, *agent.Credential) {
	t.Helper()
	p := startV2X(t, nil)
	ec := p.car(t, "car-1").ec
	fake := &fakeEA{t: t, p: p}
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	must(t, p.V2X.Trust.Move(t.Context(), access.System("test"), p.made.EA, p.Config.V2XEAURL()+"/enrolment", server.URL+"/validation"))
	p.fetch(t)
	return p, fake, ec
}

// ServeHTTP implements http.Handler.
func (f *fakeEA) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		f.t.Error(err)
	}
	by, err := f.p.V2X.Trust.Credential(context.WithoutCancel(f.t.Context()), trust.EA)
	if err != nil {
		f.t.Error(err)
		return
	}
	o, err := scr.Open(body, by.Holder)
	if err != nil {
		f.t.Error(err)
		return
	}
	f.mu.Lock()
	said, signer := &its.AuthorizationValidationResponse{RequestHash: o.Hash, ResponseCode: f.code}, by.Signer
	if f.change != nil {
		f.change(said)
	}
	if f.by != nil {
		signer = *f.by
	}
	f.mu.Unlock()
	signed, err := scr.Sign(its.EtsiTs102941DataContent{Choice: its.ValidationResponse, AuthorizationValidationResponse: said}, f.p.at(), signer)
	if err != nil {
		f.t.Error(err)
		return
	}
	answer, err := scr.Answer(zeroes{}, o.Session, signed)
	if err != nil {
		f.t.Error(err)
		return
	}
	w.Header().Set("Content-Type", scr.ResponseType)
	_, _ = w.Write(answer)
}

// zeroes is a source of no randomness, which one answer can do without.
type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// AUT-19 to AUT-31 and AUT-33 to AUT-46 at the front door: whatever an enrolment authority finds, the station is told, and nothing is issued or counted.
func TestV2XEachCode(t *testing.T) {
	t.Parallel()
	p, fake, ec := startFakeEA(t)
	for i, row := range []struct {
		name string
		said its.AuthorizationValidationResponseCode
		want its.AuthorizationResponseCode
	}{
		{"AUT-19", its.ValidationCantParse, its.EaAaCantParse}, {"AUT-20", its.ValidationBadContentType, its.EaAaBadContentType},
		{"AUT-21", its.ValidationImNotTheRecipient, its.EaAaImNotTheRecipient}, {"AUT-22", its.ValidationUnknownEncryptionAlgorithm, its.EaAaUnknownEncryptionAlgorithm},
		{"AUT-23", its.ValidationDecryptionFailed, its.EaAaDecryptionFailed}, {"AUT-24", its.ValidationInvalidAa, its.InvalidAa},
		{"AUT-25", its.ValidationInvalidAaSignature, its.InvalidAaSignature}, {"AUT-26", its.ValidationWrongEa, its.WrongEa}, {"AUT-27", its.ValidationUnknownIts, its.UnknownIts},
		{"AUT-28", its.ValidationInvalidSignature, its.InvalidSignature}, {"AUT-29", its.ValidationInvalidEncryptionKey, its.InvalidEncryptionKey},
		{"AUT-30", its.ValidationDeniedPermissions, its.DeniedPermissions}, {"AUT-31", its.ValidationDeniedTooManyCerts, its.DeniedTooManyCerts},
		{"AUT-46", its.ValidationDeniedRequest, its.DeniedPermissions},
	} {
		t.Run(row.name, func(t *testing.T) {
			fake.say(row.said)
			r := p.atRequest(t, ec)
			request, session := sealTo(t, r.message(t), nil, p.aa)
			before, from := p.holdings(t), networkOf(i+1)
			status, body := from.post(t, p.Addresses().V2XAA+"/authorization", request)
			p.expectTicket(t, r, request, session, status, body, row.want)
			from.refused(t, p.Tickets().Audit, "v2x.ticket", row.want.String())
			p.unchanged(t, before)
		})
	}
	if ea, aa := p.counted(t); ea != 0 || aa != 0 {
		t.Errorf("%d tickets were counted and %d issued, all were refused", ea, aa)
	}
}

// AUT-18, AUT-49, AUT-50: what an enrolment authority says besides the code. The ticket has what was confirmed, to the bit; what no ticket may have is not issued, whoever confirms it; and what is not its word is
// none at all.
func TestV2XConfirmed(t *testing.T) {
	t.Parallel()
	p, fake, ec := startFakeEA(t)
	now := its.Time32(p.at()/1e6) + 7
	germany := its.GeographicRegion{Choice: its.RegionIdentified, Identified: []its.IdentifiedRegion{{Country: 276}}}
	all := its.CertificateSubjectAttributes{ValidityPeriod: coer.Some(its.ValidityPeriod{Start: now, Duration: its.Duration{Choice: its.Minutes, Value: 61}}), Region: coer.Some(germany),
		AssuranceLevel: coer.Some[its.SubjectAssurance](0xc2), AppPermissions: []its.PsidSsp{its.Bitmap(its.PsidDENM, 1, 0, 0, 4)}}
	confirm := func(change func(*its.CertificateSubjectAttributes)) func(*its.AuthorizationValidationResponse) {
		return func(a *its.AuthorizationValidationResponse) {
			c := all
			if change != nil {
				change(&c)
			}
			a.ConfirmedSubjectAttributes = coer.Some(c)
		}
	}
	above := p.aa.ToBeSigned.ValidityPeriod
	for i, row := range []struct {
		name   string
		change func(*its.AuthorizationValidationResponse)
		by     *spdu.Signer
		want   its.AuthorizationResponseCode
	}{
		{name: "AUT-50 all that there is", change: confirm(nil)},
		{name: "AUT-50 nothing but permissions and time", change: confirm(func(c *its.CertificateSubjectAttributes) {
			c.Region.Present, c.AssuranceLevel.Present = false, false
		})},
		{name: "AUT-49 to issue", change: confirm(func(c *its.CertificateSubjectAttributes) { c.CertIssuePermissions = toIssue() }), want: its.ItsAaDeniedPermissions},
		{name: "no permissions", change: confirm(func(c *its.CertificateSubjectAttributes) { c.AppPermissions = nil; c.CertIssuePermissions = toIssue() }), want: its.ItsAaDeniedPermissions},
		{name: "no time", change: confirm(func(c *its.CertificateSubjectAttributes) { c.ValidityPeriod.Present = false }), want: its.ItsAaDeniedPermissions},
		{name: "a name", change: confirm(func(c *its.CertificateSubjectAttributes) { c.Id = coer.Some(its.Name("car-1")) }), want: its.ItsAaDeniedPermissions},
		{name: "what an authority may", change: confirm(func(c *its.CertificateSubjectAttributes) {
			c.AppPermissions = []its.PsidSsp{its.Bitmap(its.PsidSCR, 1, 0xc0)}
		}), want: its.ItsAaDeniedPermissions},
		{name: "what the authority may not issue", change: confirm(func(c *its.CertificateSubjectAttributes) { c.AppPermissions = []its.PsidSsp{its.Bitmap(137, 1)} }), want: its.ItsAaDeniedPermissions},
		{name: "before the authority", change: confirm(func(c *its.CertificateSubjectAttributes) { c.ValidityPeriod.Value.Start = above.Start - 1 }), want: its.ItsAaDeniedPermissions},
		{name: "beyond the authority", change: confirm(func(c *its.CertificateSubjectAttributes) { c.ValidityPeriod.Value.Start = above.End() - 1 }), want: its.ItsAaDeniedPermissions},
		{name: "AUT-18 signed by somebody else", change: confirm(nil), by: ref(scr.Signer(newECKey(t), p.ea)), want: its.AaEaCantReachEa},
		{name: "AUT-18 signed by a station", change: confirm(nil), by: ref(scr.Signer(ec.Key, ec.Certificate)), want: its.AaEaCantReachEa},
		{name: "AUT-18 signed by the holder of a key", change: confirm(nil), by: ref(scr.Signer(ec.Key, nil)), want: its.AaEaCantReachEa},
		{name: "AUT-18 to another question", change: func(a *its.AuthorizationValidationResponse) { confirm(nil)(a); a.RequestHash[0] ^= 1 }, want: its.AaEaCantReachEa},
	} {
		t.Run(row.name, func(t *testing.T) {
			fake.answer(its.ValidationOk, row.change, row.by)
			r := p.atRequest(t, ec)
			request, session := sealTo(t, r.message(t), nil, p.aa)
			before, from := p.holdings(t), networkOf(i+1)
			status, body := from.post(t, p.Addresses().V2XAA+"/authorization", request)
			_, c, err := scr.OpenAnswer(body, session, its.AuthorizationResponse)
			if err != nil || status != http.StatusOK || c.AuthorizationResponse.ResponseCode != row.want || (c.AuthorizationResponse.Certificate != nil) != (row.want == its.AuthorizationOk) {
				t.Fatalf("status %d, %+v, %v; want %v", status, c, err, row.want)
			}
			if row.want != its.AuthorizationOk {
				from.refused(t, p.Tickets().Audit, "v2x.ticket", row.want.String())
				p.unchanged(t, before)
				return
			}
			said := its.AuthorizationValidationResponse{}
			row.change(&said)
			want, got := said.ConfirmedSubjectAttributes.Value, &c.AuthorizationResponse.Certificate.ToBeSigned
			is := its.CertificateSubjectAttributes{ValidityPeriod: coer.Some(got.ValidityPeriod), Region: got.Region, AssuranceLevel: got.AssuranceLevel, AppPermissions: got.AppPermissions,
				CertIssuePermissions: got.CertIssuePermissions}
			if a, b := marshalled(t, &is), marshalled(t, &want); !bytes.Equal(a, b) {
				t.Errorf("the ticket says %x, confirmed was %x", a, b)
			}
		})
	}
}

func marshalled(t *testing.T, v coer.Value) []byte {
	t.Helper()
	b, err := coer.Marshal(v)
	must(t, err)
	return b
}

// AUT-18: an enrolment authority that takes longer than it may.
func TestV2XSlowEA(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // so that it is noticed when the other side hangs up
		select {
		case asked <- struct{}{}:
		default:
		}
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	p := startV2X(t, func(c *conf.Config) { c.V2X.EATimeout = 300 * time.Millisecond })
	ec := p.car(t, "car-1").ec
	must(t, p.V2X.Trust.Move(t.Context(), access.System("test"), p.made.EA, p.Config.V2XEAURL()+"/enrolment", server.URL+"/validation"))
	p.fetch(t)
	r := p.atRequest(t, ec)
	request, session := sealTo(t, r.message(t), nil, p.aa)
	before, from := p.holdings(t), networkOf(1)
	status, body := from.post(t, p.Addresses().V2XAA+"/authorization", request)
	p.expectTicket(t, r, request, session, status, body, its.AaEaCantReachEa)
	from.refused(t, p.Tickets().Audit, "v2x.ticket", its.AaEaCantReachEa.String())
	p.unchanged(t, before)
	select {
	case <-asked:
	default:
		t.Error("the enrolment authority was not asked")
	}
}

// AUT-16: the certificate of the enrolment authority has expired, while a trust list that names it is in force.
func TestV2XExpiredEA(t *testing.T) {
	t.Parallel()
	var shut atomic.Bool // the distribution centre
	centre, _ := balanced(t)
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if shut.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		centre.ServeHTTP(w, r)
	}))
	t.Cleanup(door.Close)
	p := startV2X(t, func(c *conf.Config) {
		centre.add(t, c.V2XDCURL())
		c.V2X.DCURL = door.URL
	})
	ends := p.ea.ToBeSigned.ValidityPeriod.End()
	p.clock.Move(time.Hour)
	next := p.follow(t, trust.AA) // lives an hour longer
	p.clock.Move(time.Duration(ends-its.Time32(p.at()/1e6)-24*3600) * time.Second)
	must(t, p.V2X.Trust.Publish(t.Context()))
	p.fetch(t)
	ec := p.car(t, "car-1").ec
	shut.Store(true) // no other list comes
	for _, row := range []struct {
		name string
		move time.Duration
		want its.AuthorizationResponseCode
	}{{"the day before", 0, its.AuthorizationOk}, {"when it has ended", 24*time.Hour + time.Minute, its.ItsAaInvalidEa}} {
		p.clock.Move(row.move)
		r := p.atRequest(t, ec)
		r.inner.SharedAtRequest.RequestedSubjectAttributes.ValidityPeriod = coer.Some(its.ValidityPeriod{Start: its.Time32(p.at() / 1e6), Duration: its.Duration{Choice: its.Minutes, Value: 5}})
		request, session := sealTo(t, r.message(t), nil, next.Certificate)
		status, body := postV2X(t, p.Addresses().V2XAA+"/authorization", request)
		_, c, err := scr.OpenAnswer(body, session, its.AuthorizationResponse)
		if err != nil || status != http.StatusOK || c.AuthorizationResponse.ResponseCode != row.want {
			t.Errorf("%s: status %d, %+v, %v; want %v", row.name, status, c, err, row.want)
		}
	}
}

// AUT-6, AUT-12, AUT-19 where the cause lies in the request itself.
func TestV2XUnreadable(t *testing.T) {
	t.Parallel()
	p := startV2X(t, func(c *conf.Config) { c.V2X.Proof = true })
	canonical, _ := p.vehicle(t, "car-1")
	ec, err := p.client(t).Enrol(t.Context(), "car-1", canonical)
	must(t, err)
	for _, row := range []struct {
		name    string
		message func(r *atRequest) *its.Ieee1609Dot2Data
		want    its.AuthorizationResponseCode
	}{
		{"AUT-1 with the proof that is demanded", func(r *atRequest) *its.Ieee1609Dot2Data { return r.message(t) }, its.AuthorizationOk},
		{"AUT-12 POP missing where required", func(r *atRequest) *its.Ieee1609Dot2Data { r.pop = nil; return r.message(t) }, its.ItsAaIncompleteRequest},
		{"AUT-6 what was encrypted is no message of TS 102 941", func(*atRequest) *its.Ieee1609Dot2Data { return its.Unsecured([]byte{0xff}) }, its.ItsAaCantParse},
		{"AUT-19 the signature with the credential decrypts to nothing", func(r *atRequest) *its.Ieee1609Dot2Data {
			r.changeEC = func(e *its.EcSignature) {
				sealed, session := sealTo(t, its.Unsecured(nil), nil, p.ea)
				d, err := its.ParseData(sealed, its.MaxRequest)
				must(t, err)
				c := &d.Content.EncryptedData.Ciphertext
				c.Nonce[0] ^= 1
				c.CcmCiphertext, err = butterfly.NewMessageKey(session.Secret()).Seal(c.Nonce, []byte("no message at all"))
				must(t, err)
				e.Data = d
			}
			return r.message(t)
		}, its.EaAaCantParse},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := p.atRequest(t, ec)
			request, session := sealTo(t, row.message(r), nil, p.aa)
			status, body := postV2X(t, p.Addresses().V2XAA+"/authorization", request)
			p.expectTicket(t, r, request, session, status, body, row.want)
		})
	}
}

// AUT-33 to AUT-37 at the enrolment authority's own endpoint: what is signed by the authorization authority and cannot be read.
func TestV2XValidationUnreadable(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	by, err := p.Tickets().Trust.Credential(t.Context(), trust.AA)
	must(t, err)
	url := p.Config.V2XValidationURL() + "/validation"
	signed := func(c its.EtsiTs102941DataContent) *its.Ieee1609Dot2Data {
		d, err := scr.Sign(c, p.at(), by.Signer)
		must(t, err)
		return d
	}
	other := signed(its.EtsiTs102941DataContent{Choice: its.EnrolmentResponse, EnrolmentResponse: &its.InnerEcResponse{ResponseCode: its.EnrolmentCantParse}})
	for i, row := range []struct {
		name    string
		message *its.Ieee1609Dot2Data
		seal    func(*its.EncryptedData)
		to      []*its.Certificate
		want    its.AuthorizationValidationResponseCode
		status  int
	}{
		{name: "AUT-33 cantparse", message: func() *its.Ieee1609Dot2Data {
			d := signed(its.EtsiTs102941DataContent{Choice: its.EnrolmentResponse, EnrolmentResponse: &its.InnerEcResponse{ResponseCode: its.EnrolmentCantParse}})
			d.Content.SignedData.TbsData.Payload.Data = its.Unsecured([]byte{0xff})
			return d
		}(), want: its.ValidationCantParse},
		{name: "AUT-34 badcontenttype: another content", message: other, want: its.ValidationBadContentType},
		{name: "AUT-34 badcontenttype: not signed", message: its.Unsecured([]byte{1}), want: its.ValidationBadContentType},
		{name: "AUT-35 imnottherecipient: two", message: other, to: []*its.Certificate{p.aa, p.ea}, want: its.ValidationImNotTheRecipient},
		{name: "AUT-35 imnottherecipient: another", message: other, to: []*its.Certificate{p.aa}, want: its.ValidationImNotTheRecipient, status: http.StatusBadRequest},
		{name: "AUT-36 unknownencryptionalgorithm", message: other, seal: func(e *its.EncryptedData) { e.Ciphertext.Choice = its.SM4CCM }, want: its.ValidationUnknownEncryptionAlgorithm},
		{name: "AUT-37 decryptionfailed: the message", message: other, seal: func(e *its.EncryptedData) { e.Ciphertext.CcmCiphertext[0] ^= 1 }, want: its.ValidationDecryptionFailed},
		{name: "AUT-37 decryptionfailed: its key", message: other, seal: func(e *its.EncryptedData) { e.Recipients[0].EncKey.T[0] ^= 1 }, want: its.ValidationDecryptionFailed, status: http.StatusBadRequest},
	} {
		t.Run(row.name, func(t *testing.T) {
			to := row.to
			if to == nil {
				to = []*its.Certificate{p.ea}
			}
			request, session := sealTo(t, row.message, row.seal, to...)
			before, from := p.holdings(t), networkOf(i+1)
			status, body := from.post(t, url, request)
			from.refused(t, p.Audit, "v2x.validate", row.want.String())
			p.unchanged(t, before)
			if row.status != 0 {
				if status != row.status || len(body) != 0 {
					t.Errorf("status %d with %d octets, want %d and none", status, len(body), row.status)
				}
				return
			}
			by, c, err := scr.OpenAnswer(body, session, its.ValidationResponse)
			if err != nil || by.Verify(p.ea, nil) != nil || c.AuthorizationValidationResponse.ResponseCode != row.want || c.AuthorizationValidationResponse.RequestHash != scr.Hash(request) {
				t.Errorf("got %+v, %v; want %v", c, err, row.want)
			}
		})
	}
}

// listen records what goes to the enrolment authority.
type listen struct {
	mu    sync.Mutex
	heard [][]byte // guarded by mu
	to    http.Handler
}

// ServeHTTP implements http.Handler.
func (l *listen) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err == nil {
		l.mu.Lock()
		l.heard = append(l.heard, b)
		l.mu.Unlock()
	}
	r.Body = io.NopCloser(bytes.NewReader(b))
	l.to.ServeHTTP(w, r)
}

// AUT-53, AUT-54: at the enrolment authority there is no key of a ticket, no key of its tag and no ticket, in messages, record, log or files; at the authorization
// authority no credential, no digest of one and no name, and after the answer neither the key of the tag nor the station's encrypted signature.
func TestV2XCaptures(t *testing.T) {
	t.Parallel()
	if os.Getenv("MOORING_TEST_DB") != "" {
		t.Skip("it searches the files of SQLite")
	}
	behind, _ := balanced(t)
	l := &listen{to: behind}
	tap := httptest.NewServer(l)
	t.Cleanup(tap.Close)
	p := startV2X(t, func(c *conf.Config) {
		behind.add(t, c.V2XValidationURL())
		c.V2X.ValidationURL = tap.URL
	})
	canonical, d := p.vehicle(t, "car-with-a-name")
	ec, err := p.client(t).Enrol(t.Context(), "car-with-a-name", canonical)
	must(t, err)
	r := p.atRequest(t, ec)
	request, session := sealTo(t, r.message(t), nil, p.aa)
	status, body := postV2X(t, p.Addresses().V2XAA+"/authorization", request)
	_, c, err := scr.OpenAnswer(body, session, its.AuthorizationResponse)
	if err != nil || status != 200 || c.AuthorizationResponse.Certificate == nil {
		t.Fatalf("status %d, %v", status, err)
	}
	ticket := c.AuthorizationResponse.Certificate
	sealed, err := coer.Marshal(&r.inner.EcSignature)
	must(t, err)
	id, err := ec.Certificate.HashedId8()
	must(t, err)
	ticketID, err := ticket.HashedId8()
	must(t, err)
	by, err := p.V2X.Trust.Credential(t.Context(), trust.EA)
	must(t, err)
	l.mu.Lock()
	heard := l.heard
	l.mu.Unlock()
	if len(heard) != 1 {
		t.Fatalf("%d questions were asked", len(heard))
	}
	o, err := scr.Open(heard[0], by.Holder)
	must(t, err)
	question, err := coer.Marshal(o.Message)
	must(t, err)
	atEA := filesBelow(t, p.Config.Path("."), p.made.Dir)
	atAA := filesBelow(t, p.made.Dir, "")
	key := ticket.ToBeSigned.VerifyKeyIndicator.VerificationKey.Point.X
	for _, row := range []struct {
		name  string
		what  []byte
		where map[string][]byte
	}{
		{"AUT-53 the key of a ticket", key, atEA}, {"AUT-53 the key of a ticket", key, map[string][]byte{"question": question}},
		{"AUT-53 the key of its tag", r.inner.HmacKey[:], atEA}, {"AUT-53 the key of its tag", r.inner.HmacKey[:], map[string][]byte{"question": question}},
		{"AUT-53 a ticket", ticketID[:], atEA}, {"AUT-53 a ticket", ticket.Octets, atEA}, {"AUT-53 the tag", r.inner.SharedAtRequest.KeyTag[:], atEA},
		{"AUT-54 a credential", id[:], atAA}, {"AUT-54 the key of a credential", ec.Certificate.ToBeSigned.VerifyKeyIndicator.VerificationKey.Point.X, atAA},
		{"AUT-54 the name of a station", []byte("car-with-a-name"), atAA}, {"AUT-54 the number of a station", d.ID[:], atAA},
		{"AUT-54 the key of the tag, after the answer", r.inner.HmacKey[:], atAA}, {"AUT-54 the station's encrypted signature, after the answer", sealed[3:40], atAA},
		{"AUT-54 the tag", r.inner.SharedAtRequest.KeyTag[:], atAA},
	} {
		for file, octets := range row.where {
			if bytes.Contains(octets, row.what) || bytes.Contains(bytes.ToLower(octets), []byte(hex.EncodeToString(row.what))) {
				t.Errorf("%s is in %s", row.name, file)
			}
		}
		if log := strings.ToLower(p.log.String()); strings.Contains(log, hex.EncodeToString(row.what)) || strings.Contains(log, "car-with-a-name") {
			t.Errorf("%s is in the log", row.name)
		}
	}
	for _, control := range []struct {
		name  string
		what  []byte
		where map[string][]byte
	}{{"the credential", id[:], atEA}, {"the ticket", ticketID[:], atAA}} { // so that the search is one that finds
		found := false
		for _, octets := range control.where {
			found = found || bytes.Contains(octets, control.what)
		}
		if !found {
			t.Errorf("%s is not found where it has to be", control.name)
		}
	}
}

func filesBelow(t *testing.T, dir, without string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path == without:
			return filepath.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		files[path], err = os.ReadFile(path)
		return err
	}))
	return files
}

// PRV-5: what both authorities keep of requests, so that one that is sent again gets its answer, is gone after the window; what they keep of tickets, after those
// have ended.
func TestV2XForgets(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	canonical, _ := p.vehicle(t, "car-1")
	client := p.client(t)
	ec, err := client.Enrol(t.Context(), "car-1", canonical)
	must(t, err)
	for range 3 {
		_, err := client.Ticket(t.Context(), ec, agent.Order{Life: its.Duration{Choice: its.Hours, Value: 24}})
		must(t, err)
	}
	rows := func(of *db.DB, table string) (n int) {
		must(t, of.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Get(ctx, []any{&n}, `SELECT COUNT(*) FROM `+table)
			return err
		}))
		return n
	}
	prune := func() {
		must(t, p.V2X.EA.Prune(t.Context()))
		must(t, p.Tickets().AA.Prune(t.Context()))
	}
	window := p.Config.V2X.Window
	for _, step := range []struct {
		name string
		move time.Duration
		want map[string]int
	}{
		{"at once", 0, map[string]int{"v2x_enrolment": 1, "v2x_validation": 3, "v2x_answer": 3, "v2x_ticket": 3, "v2x_interval": 1}},
		{"within the window", window, map[string]int{"v2x_enrolment": 1, "v2x_validation": 3, "v2x_answer": 3, "v2x_ticket": 3, "v2x_interval": 1}},
		{"after the window", 3 * window, map[string]int{"v2x_enrolment": 0, "v2x_validation": 0, "v2x_answer": 0, "v2x_ticket": 3, "v2x_interval": 1}},
		{"after the tickets", 24 * time.Hour, map[string]int{"v2x_enrolment": 0, "v2x_validation": 0, "v2x_answer": 0, "v2x_ticket": 0, "v2x_untold": 0, "v2x_interval": 0}},
	} {
		p.clock.Move(step.move)
		prune()
		for table, want := range step.want {
			of := p.DB
			if table == "v2x_answer" || table == "v2x_ticket" || table == "v2x_untold" {
				of = p.Tickets().DB
			}
			got := rows(of, table)
			if table == "v2x_interval" && want > 0 { // tickets of different seconds
				got = min(got, want)
			}
			if got != want {
				t.Errorf("PRV-5 %s: %s has %d rows, want %d", step.name, table, got, want)
			}
		}
	}
}

// PRV-4: neither order, nor times, nor sizes in the two records join a ticket with the vehicle that asked for it, above chance. Tickets are issued one after the other, which is when
// the order of both records would say it all.
func TestV2XRecordsDoNotJoin(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	const cars, each = 6, 8
	owner := map[string]string{} // of each ticket, the device
	clients := map[string]*agent.Credential{}
	client := p.client(t)
	for i := range cars {
		canonical, d := p.vehicle(t, fmt.Sprint("car-", i))
		ec, err := client.Enrol(t.Context(), d.Name, canonical)
		must(t, err)
		clients[d.ID.String()] = ec
	}
	for range each {
		for id, ec := range clients { // in an order that chance gives
			ticket, err := client.Ticket(t.Context(), ec, agent.Order{})
			must(t, err)
			owner[idOf(t, ticket.Certificate).String()] = id
		}
	}
	issued := func() (list []audit.Indexed) {
		must(t, p.Tickets().Audit.Sequence(t.Context()))
		all, err := p.Tickets().Audit.List(t.Context(), access.System("test"), audit.Query{Limit: 1000})
		must(t, err)
		for _, e := range all {
			if owner[e.Object] != "" {
				list = append(list, e)
			}
		}
		return list
	}
	must(t, p.Tickets().AA.Tell(t.Context()))
	if list := issued(); len(list) != 0 {
		t.Fatalf("in the hour in which they were issued the record names %d tickets", len(list))
	}
	p.clock.Move(time.Hour)
	must(t, p.Tickets().AA.Tell(t.Context()))
	must(t, p.Tickets().AA.Tell(t.Context())) // once is enough
	list := issued()
	if len(list) != cars*each {
		t.Fatalf("the record names %d tickets, want %d", len(list), cars*each)
	}
	must(t, p.Audit.Sequence(t.Context()))
	asked, err := p.Audit.List(t.Context(), access.System("test"), audit.Query{Limit: 1000, Action: "v2x.validate"})
	must(t, err)
	if len(asked) != cars*each {
		t.Fatalf("the other record has %d questions", len(asked))
	}
	best := 0
	for shift := range len(list) { // also if one record began earlier
		joined, back := 0, 0
		for i, e := range list {
			if owner[e.Object] == asked[(i+shift)%len(asked)].Device {
				joined++
			}
			if owner[e.Object] == asked[(len(asked)-1-i+shift)%len(asked)].Device {
				back++
			}
		}
		best = max(best, joined, back)
	}
	if best > len(list)/2 { // chance gives one in six, and more than twice that is not seen in all the shifts together
		t.Errorf("by their order %d of %d tickets are joined with their vehicles", best, len(list))
	}
	sizes, times := map[int]bool{}, map[int64]bool{}
	for _, e := range list {
		sizes[len(e.Bytes())], times[e.At] = true, true
	}
	if len(sizes) != 1 || len(times) > 2 { // two, where an hour ended meanwhile
		t.Errorf("entries of %d sizes and %d times", len(sizes), len(times))
	}
}

// PRV-2: with butterfly keys, too, the enrolment authority, which is the registration authority then, has nothing of a ticket in its files, and the authorization authority nothing of
// a vehicle: no name, no credential, and none of the keys that the cocoon keys come from.
func TestV2XButterflyApart(t *testing.T) {
	t.Parallel()
	if os.Getenv("MOORING_TEST_DB") != "" {
		t.Skip("it searches the files of SQLite")
	}
	p := startButterfly(t, 2, nil)
	names := []string{"car-with-a-name", "car-with-another"}
	cars := []car{p.car(t, names[0]), p.car(t, names[1])}
	orders := []*agent.Butterfly{cars[0].order(t, butterfly.Original), cars[1].order(t, butterfly.Original)}
	type secret struct {
		name   string
		octets []byte
	}
	var tickets, vehicles []secret
	for i, c := range cars {
		for _, ticket := range c.fetch(t, orders[i], orders[i].First).Tickets {
			id := idOf(t, ticket.Certificate)
			tickets = append(tickets, secret{"the digest of a ticket", id[:]}, secret{"the key of a ticket", ticket.Certificate.ToBeSigned.VerifyKeyIndicator.VerificationKey.Point.X},
				secret{"a ticket", ticket.Certificate.Octets})
		}
		ec := idOf(t, c.ec.Certificate)
		public := orders[i].Keys.Public()
		vehicles = append(vehicles, secret{"a name", []byte(names[i])}, secret{"a number", c.device[:]}, secret{"a credential", ec[:]},
			secret{"the key of a credential", c.ec.Certificate.ToBeSigned.VerifyKeyIndicator.VerificationKey.Point.X}, secret{"a caterpillar key", public.SigningKey.Bytes()[1:]})
	}
	atEA, atAA := filesBelow(t, p.Config.Path("."), p.made.Dir), filesBelow(t, p.made.Dir, "")
	has := func(files map[string][]byte, what []byte) (where string) {
		for file, octets := range files {
			if bytes.Contains(octets, what) || bytes.Contains(bytes.ToLower(octets), []byte(hex.EncodeToString(what))) {
				return file
			}
		}
		return ""
	}
	for _, s := range tickets {
		if file := has(atEA, s.octets); file != "" {
			t.Errorf("%s is in %s of the enrolment authority", s.name, file)
		}
	}
	for _, s := range vehicles {
		if file := has(atAA, s.octets); file != "" {
			t.Errorf("%s is in %s of the authorization authority", s.name, file)
		}
	}
	if has(atAA, tickets[0].octets) == "" || has(atEA, vehicles[2].octets) == "" {
		t.Error("what has to be found is not found")
	}
}
