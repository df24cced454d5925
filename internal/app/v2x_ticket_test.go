package app_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
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
	untaggedEC bool // the encryption key is not part of the tag
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
	rows := []struct {
		name   string
		change func(*atRequest)
		seal   func(*its.EncryptedData)
		to     []*its.Certificate
		want   its.AuthorizationResponseCode
		status int
	}{
		{name: "AUT-1 ok with POP", change: func(*atRequest) {}},
		{name: "AUT-2 ok without POP", change: func(r *atRequest) { r.pop = nil }},
		{name: "AUT-3 ok with privacy", change: func(r *atRequest) { r.ecTo = p.ea }},
		{name: "AUT-4 ok without privacy", change: func(r *atRequest) { r.ecTo = nil }},
		{name: "AUT-6 its-aa-cantparse", change: func(*atRequest) {}, want: its.ItsAaCantParse, status: 400, to: nil, seal: func(e *its.EncryptedData) { e.Recipients = nil }},
		{name: "AUT-7 its-aa-badcontenttype", change: func(r *atRequest) { r.kind = its.EnrolmentResponse }, want: its.ItsAaBadContentType},
		{name: "AUT-8 its-aa-imnottherecipient", change: func(*atRequest) {}, to: []*its.Certificate{p.ea}, want: its.ItsAaImNotTheRecipient, status: 400},
		{name: "AUT-9 its-aa-unknownencryptionalgorithm", change: func(*atRequest) {}, seal: func(e *its.EncryptedData) { e.Ciphertext.Choice = its.SM4CCM }, want: its.ItsAaUnknownEncryptionAlgorithm, status: 400},
		{name: "AUT-10 CCM tag", change: func(*atRequest) {}, seal: func(e *its.EncryptedData) { e.Ciphertext.CcmCiphertext[0] ^= 1 }, want: its.ItsAaDecryptionFailed},
		{name: "AUT-10 ECIES tag", change: func(*atRequest) {}, seal: func(e *its.EncryptedData) { e.Recipients[0].EncKey.C[0] ^= 1 }, want: its.ItsAaDecryptionFailed, status: 400},
		{name: "AUT-11 wrong tag", change: func(r *atRequest) { r.wrongTag = true }, want: its.ItsAaKeysDontMatch},
		{name: "AUT-11 tag over one of two keys", change: func(r *atRequest) {
			r.untaggedEC, r.inner.PublicKeys.EncryptionKey = true, p.aa.ToBeSigned.EncryptionKey
		}, want: its.ItsAaKeysDontMatch},
		{name: "AUT-12 no appPermissions", change: func(r *atRequest) {
			r.inner.SharedAtRequest.RequestedSubjectAttributes.AppPermissions = []its.PsidSsp{}
		}, want: its.ItsAaIncompleteRequest},
		{name: "AUT-12 wrong format", change: func(r *atRequest) { r.inner.SharedAtRequest.CertificateFormat = 2 }, want: its.ItsAaIncompleteRequest},
		{name: "AUT-13 its-aa-invalidencryptionkey", change: func(r *atRequest) {
			r.inner.PublicKeys.EncryptionKey = coer.Some(its.PublicEncryptionKey{PublicKey: its.BasePublicEncryptionKey{Point: off}})
		}, want: its.ItsAaInvalidEncryptionKey},
		{name: "AUT-14 old", change: func(r *atRequest) { r.at -= 2 * window }, want: its.ItsAaOutOfSyncRequest},
		{name: "AUT-14 future", change: func(r *atRequest) { r.at += 2 * window }, want: its.ItsAaOutOfSyncRequest},
		{name: "AUT-15 its-aa-unknownea", change: func(r *atRequest) { r.inner.SharedAtRequest.EaId = its.HashedId8{1} }, want: its.ItsAaUnknownEa},
		{name: "AUT-17 AA policy", change: func(r *atRequest) {
			r.inner.SharedAtRequest.RequestedSubjectAttributes.AppPermissions = []its.PsidSsp{its.Bitmap(137, 1)}
		}, want: its.ItsAaDeniedPermissions},
		{name: "AUT-17 bad POP", change: func(r *atRequest) { r.pop = newECKey(t) }, want: its.ItsAaDeniedPermissions},
		{name: "AUT-23 inner decryption", change: func(r *atRequest) {
			r.changeEC = func(e *its.EcSignature) { e.Data.Content.EncryptedData.Ciphertext.CcmCiphertext[0] ^= 1 }
		}, want: its.EaAaDecryptionFailed},
		{name: "AUT-20 what is signed is no digest", change: func(r *atRequest) {
			r.changeEC = func(e *its.EcSignature) { e.Choice, e.Data = its.EcSignaturePlain, its.Unsecured([]byte{1}) }
		}, want: its.EaAaBadContentType},
		{name: "AUT-22 inner cipher", change: func(r *atRequest) {
			r.changeEC = func(e *its.EcSignature) { e.Data.Content.EncryptedData.Ciphertext.Choice = its.SM4CCM }
		}, want: its.EaAaUnknownEncryptionAlgorithm},
		{name: "AUT-26 wrongea", change: func(r *atRequest) { r.ecTo = p.aa }, want: its.WrongEa},
		{name: "AUT-27 unknownits", change: func(r *atRequest) {
			r.ec = &agent.Credential{Certificate: p.aa, Key: r.ec.Key}
		}, want: its.UnknownIts},
		{name: "AUT-28 wrong key", change: func(r *atRequest) { r.ecBy = newECKey(t) }, want: its.InvalidSignature},
		{name: "AUT-28 another request", change: func(r *atRequest) { s := r.inner.SharedAtRequest; s.KeyTag[0]++; r.ecSigns = &s }, want: its.InvalidSignature},
		{name: "AUT-30 region", change: func(r *atRequest) {
			r.inner.SharedAtRequest.RequestedSubjectAttributes.Region = coer.Some(its.GeographicRegion{Choice: its.RegionIdentified, Identified: []its.IdentifiedRegion{{Country: 65535}}})
		}, want: its.DeniedPermissions},
		{name: "AUT-30 twice", change: func(r *atRequest) {
			r.inner.SharedAtRequest.RequestedSubjectAttributes.AppPermissions = append(agent.Applications(), agent.Applications()...)
		}, want: its.DeniedPermissions},
		{name: "AUT-46 stale EC signature", change: func(r *atRequest) { r.ecAt -= 2 * window }, want: its.DeniedPermissions},
		{name: "AUT-49 to issue", change: func(r *atRequest) {
			r.inner.SharedAtRequest.RequestedSubjectAttributes.CertIssuePermissions = toIssue()
		}, want: its.ItsAaDeniedPermissions},
		{name: "AUT-51 suspended", change: func(r *atRequest) { r.ec, r.ecBy = ecStopped, ecStopped.Key }, want: its.DeniedPermissions},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			r := p.atRequest(t, ec)
			row.change(r)
			to := row.to
			if to == nil {
				to = []*its.Certificate{p.aa}
			}
			request, session := sealTo(t, r.message(t), row.seal, to...)
			if row.name == "AUT-6 its-aa-cantparse" {
				request = request[1:]
			}
			status, body := postV2X(t, p.Addresses().V2XAA+"/authorization", request)
			if row.status != 0 {
				if status != row.status {
					t.Errorf("status %d, want %d", status, row.status)
				}
				return
			}
			p.expectTicket(t, r, request, session, status, body, row.want)
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
	if len(x.ToBeSigned.AppPermissions) != len(r.inner.SharedAtRequest.RequestedSubjectAttributes.AppPermissions) || x.ToBeSigned.CertIssuePermissions != nil {
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

// AUT-24, AUT-25, AUT-33 to AUT-39: the enrolment authority's own endpoint, asked by who is none, or wrongly.
func TestV2XValidation(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	canonical, _ := p.vehicle(t, "car-1")
	ec, err := p.client(t).Enrol(t.Context(), "car-1", canonical)
	if err != nil {
		t.Fatal(err)
	}
	url := p.Config.V2XValidationURL() + "/validation"
	asked := func(t *testing.T) *its.AuthorizationValidationRequest {
		r := p.atRequest(t, ec)
		r.message(t)
		return &its.AuthorizationValidationRequest{SharedAtRequest: r.inner.SharedAtRequest, EcSignature: r.inner.EcSignature}
	}
	for _, row := range []struct {
		name string
		by   *its.Certificate
		want its.AuthorizationValidationResponseCode
	}{
		{"AUT-24 no AA but an EC", ec.Certificate, its.ValidationInvalidAa},
		{"AUT-24 no AA but the EA", p.ea, its.ValidationInvalidAa},
		{"AUT-24 nobody", nil, its.ValidationInvalidAa},
		{"AUT-25 wrong key", p.aa, its.ValidationInvalidAaSignature},
	} {
		t.Run(row.name, func(t *testing.T) {
			d, err := scr.Sign(its.EtsiTs102941DataContent{Choice: its.ValidationRequest, AuthorizationValidationRequest: asked(t)}, p.at(), scr.Signer(ec.Key, row.by))
			if err != nil {
				t.Fatal(err)
			}
			request, session := sealTo(t, d, nil, p.ea)
			_, body := postV2X(t, url, request)
			by, c, err := scr.OpenAnswer(body, session, its.ValidationResponse)
			if err != nil || by.Verify(p.ea, nil) != nil || c.AuthorizationValidationResponse.ResponseCode != row.want {
				t.Errorf("got %v, %v; want %v", c, err, row.want)
			}
		})
	}
	for _, row := range []struct {
		name    string
		request func(t *testing.T) []byte
	}{
		{"AUT-33 cantparse", func(*testing.T) []byte { return []byte{1} }},
		{"AUT-35 imnottherecipient", func(t *testing.T) []byte { b, _ := sealTo(t, its.Unsecured(nil), nil, p.aa); return b }},
		{"AUT-37 decryptionfailed", func(t *testing.T) []byte {
			b, _ := sealTo(t, its.Unsecured(nil), func(e *its.EncryptedData) { e.Recipients[0].EncKey.T[0] ^= 1 }, p.ea)
			return b
		}},
	} {
		if status, _ := postV2X(t, url, row.request(t)); status != http.StatusBadRequest {
			t.Errorf("%s: status %d, want 400", row.name, status)
		}
	}
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
	a, _ := get("GET", "/getcrl/"+id, http.Header{})
	if a, b := get("GET", "/getcrl/"+id, http.Header{"If-None-Match": {a.Header.Get("ETag")}}); a.StatusCode != 304 || len(b) != 0 {
		t.Errorf("DST-4: unchanged: status %d", a.StatusCode)
	}
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
