package app_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/app/v2xsim"
	"mooring/internal/base/conf"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/wire/coer"
	"mooring/wire/der"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

// v2xPlatform is a platform with its authorities, both of which run in one process with stores of their own.
type v2xPlatform struct {
	*app.Platform
	made  app.V2XMade
	clock *apptest.Clock
	log   *apptest.Log
	root  *its.Certificate
	ea    *its.Certificate
	aa    *its.Certificate
}

func startV2X(t *testing.T, change func(*conf.Config)) *v2xPlatform {
	t.Helper()
	c, err := app.LoopbackV2X("V2X Test")
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("MOORING_TEST_DB") != "" {
		c.Database.URL, c.V2X.AADatabase = dbtest.URL(t), dbtest.URL(t)
	}
	c.V2X.EATimeout = time.Minute // on a machine that is busy with other tests, too
	if change != nil {
		change(c)
	}
	log := &apptest.Log{}
	p := &v2xPlatform{clock: &apptest.Clock{}, log: log}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the platform's log:\n%s", log)
		}
	})
	made, err := app.Init(t.Context(), app.InitOptions{Dir: filepath.Join(t.TempDir(), "data"), Config: c, Now: p.clock.Now, Log: log.Logger()})
	if err != nil {
		t.Fatal(err)
	}
	o := app.Options{Config: c, Keys: made.Keys, Now: p.clock.Now, Log: log.Logger()}
	if p.made, err = app.MakeV2X(t.Context(), o, "Test"); err != nil {
		t.Fatal(err)
	}
	if p.Platform, err = app.Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ready, stopped := make(chan struct{}), make(chan error, 1)
	built := p.Platform
	go func() { stopped <- built.Run(running, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-stopped:
		stop()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.verify(t)
		stop()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	if p.root, err = its.ParseCertificate(p.made.Certificate); err != nil {
		t.Fatal(err)
	}
	if p.ea, p.aa, err = p.client(t).Authorities(); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestV2XMovedUnderAnotherName: an authority that runs elsewhere under another name does not go on with its record, which nobody could verify then.
func TestV2XMovedUnderAnotherName(t *testing.T) {
	c, err := app.LoopbackV2X("V2X Test")
	must(t, err)
	made, err := app.Init(t.Context(), app.InitOptions{Dir: filepath.Join(t.TempDir(), "data"), Config: c})
	must(t, err)
	_, err = app.MakeV2X(t.Context(), app.Options{Config: c, Keys: made.Keys}, "Test")
	must(t, err)
	name := c.Name
	c.Name = "Somebody Else"
	if a, err := app.OpenTicketAuthority(t.Context(), app.Options{Config: c}); !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "somebody-else") {
		t.Errorf("OpenTicketAuthority = %v, %v; want it refused for the name", a, err)
	}
	c.Name = name
	a, err := app.OpenTicketAuthority(t.Context(), app.Options{Config: c})
	must(t, err)
	must(t, a.Close())
}

// verify recomputes the records of both stores.
func (p *v2xPlatform) verify(t *testing.T) {
	t.Helper()
	for name, of := range map[string]*audit.Log{"platform": p.Audit, "authorization authority": p.Tickets().Audit} {
		o := audit.VerifyOptions{Checkers: p.Checkers()}
		if of != p.Audit {
			o.Checkers = p.Tickets().Checkers()
		}
		report, err := of.Verify(context.WithoutCancel(t.Context()), o)
		if err != nil || len(report.Findings) > 0 {
			t.Errorf("the record of the %s: %v, %v", name, err, report.Findings)
		}
	}
}

func (p *v2xPlatform) client(t *testing.T) *agent.Client {
	t.Helper()
	c, err := agent.New(agent.Config{Root: p.made.Certificate, DC: p.Addresses().V2XDC, Now: p.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func newECKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// vehicle registers a vehicle.
func (p *v2xPlatform) vehicle(t *testing.T, name string) (*ecdsa.PrivateKey, device.Device) {
	t.Helper()
	k := newECKey(t)
	text, err := v2xsim.CanonicalKey(k)
	if err != nil {
		t.Fatal(err)
	}
	d, err := p.Devices.Add(t.Context(), apptest.Operator(), device.Spec{Name: name, Profile: "device", Tags: map[string]string{"v2x": "vehicle", "v2x-key": text}})
	if err != nil {
		t.Fatal(err)
	}
	return k, d
}

func (p *v2xPlatform) at() its.Time64 { return its.TimeAt(p.clock.Now(), its.LeapSeconds) }

// postV2X sends a request by hand and returns the status, and the body if that is 200.
func postV2X(t *testing.T, url string, request []byte) (int, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(request))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", scr.RequestType)
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	if a.StatusCode == http.StatusOK && a.Header.Get("Content-Type") != scr.ResponseType {
		t.Errorf("ENR-20: the answer is of the type %q", a.Header.Get("Content-Type"))
	}
	if a.StatusCode != http.StatusOK && len(body) > 0 && a.StatusCode == http.StatusBadRequest {
		t.Errorf("an answer without message has a body: %q", body)
	}
	return a.StatusCode, body
}

// refusals is how many refusals of an action with a code the record has. Of one source it tells ten reasons a minute apart; more are recorded together.
func refusals(t *testing.T, log *audit.Log, action, code string) (n int) {
	t.Helper()
	if err := log.Sequence(t.Context()); err != nil {
		t.Fatal(err)
	}
	entries, err := log.List(t.Context(), access.System("test"), audit.Query{Newest: true, Limit: 500})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Action == action && (e.Refused == code || strings.HasPrefix(e.Refused, "refused like many others")) {
			n++
		}
	}
	return n
}

// ecRequest is a request for a credential that is put together by hand, so that each part can be wrong.
type ecRequest struct {
	id        []byte
	canonical *ecdsa.PrivateKey
	by        *its.Certificate // nil: self
	key       *ecdsa.PrivateKey
	pop       *ecdsa.PrivateKey
	inner     its.InnerEcRequest
	at, popAt its.Time64
	kind      its.ManagementChoice
	outer     func(*its.HeaderInfo)
	raw       []byte // instead of the inner request
	flat      bool   // the outer signature is missing
}

func (p *v2xPlatform) ecRequest(t *testing.T, name string, canonical *ecdsa.PrivateKey) *ecRequest {
	t.Helper()
	k := newECKey(t)
	public, err := scr.VerificationKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return &ecRequest{id: []byte(name), canonical: canonical, key: k, pop: k, at: p.at(), popAt: p.at(), kind: its.EnrolmentRequest, inner: its.InnerEcRequest{
		CertificateFormat: its.FormatTs103097, PublicKeys: its.PublicKeys{VerificationKey: public},
		RequestedSubjectAttributes: its.CertificateSubjectAttributes{AppPermissions: []its.PsidSsp{its.Bitmap(its.PsidSCR, 1, 0xc0)}}}}
}

func (r *ecRequest) message(t *testing.T) *its.Ieee1609Dot2Data {
	t.Helper()
	r.inner.ItsId = r.id
	b, err := coer.Marshal(&r.inner)
	if err != nil {
		t.Fatal(err)
	}
	if r.raw != nil {
		b = r.raw
	}
	pop, err := spdu.Sign(spdu.Payload(b), scr.Header(r.popAt), scr.Signer(r.pop, nil))
	if err != nil {
		t.Fatal(err)
	}
	c := its.EtsiTs102941DataContent{Choice: r.kind, Data: pop}
	if r.kind != its.EnrolmentRequest {
		c = its.EtsiTs102941DataContent{Choice: its.EnrolmentResponse, EnrolmentResponse: &its.InnerEcResponse{ResponseCode: its.EnrolmentCantParse}}
	}
	octets, err := scr.Encode(c)
	if err != nil {
		t.Fatal(err)
	}
	if r.flat {
		return its.Unsecured(octets)
	}
	h := scr.Header(r.at)
	if r.outer != nil {
		r.outer(&h)
	}
	d, err := spdu.Sign(spdu.Payload(octets), h, scr.Signer(r.canonical, r.by))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// sealTo encrypts to certificates, with what change makes of it.
func sealTo(t *testing.T, d *its.Ieee1609Dot2Data, change func(*its.EncryptedData), to ...*its.Certificate) ([]byte, *spdu.Session) {
	t.Helper()
	var list []spdu.Recipient
	for _, c := range to {
		r, err := spdu.ToCertificate(c)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, r)
	}
	sealed, session, err := spdu.Seal(rand.Reader, d, list...)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(sealed.Content.EncryptedData)
	}
	b, err := coer.Marshal(sealed)
	if err != nil {
		t.Fatal(err)
	}
	return b, session
}

// ecRow is a request for an enrolment credential, and what comes of it.
type ecRow struct {
	name   string
	change func(*ecRequest)
	seal   func(*its.EncryptedData)
	to     []*its.Certificate // nil: the enrolment authority
	want   its.EnrolmentResponseCode
	status int // 0: 200, with a message
}

// enrol sends the request of a row and looks at what comes of it: the code, and for a refusal that it is in the record and that nothing was issued or kept.
func (p *v2xPlatform) enrol(t *testing.T, from network, r *ecRequest, row ecRow) {
	t.Helper()
	if row.change != nil {
		row.change(r)
	}
	to := row.to
	if to == nil {
		to = []*its.Certificate{p.ea}
	}
	url := p.Addresses().V2XEA + "/enrolment"
	request, session := sealTo(t, r.message(t), row.seal, to...)
	before := p.holdings(t)
	status, body := from.post(t, url, request)
	if row.want != its.EnrolmentOk {
		from.refused(t, p.Audit, "v2x.enrol", row.want.String())
		p.unchanged(t, before)
	}
	if row.status != 0 {
		if status != row.status {
			t.Errorf("status %d, want %d", status, row.status)
		}
		return
	}
	by, c, err := scr.OpenAnswer(body, session, its.EnrolmentResponse)
	if err != nil || status != 200 || by.Verify(p.ea, nil) != nil {
		t.Fatalf("status %d, the answer: %v", status, err)
	}
	a := c.EnrolmentResponse
	if a.ResponseCode != row.want || a.RequestHash != scr.Hash(request) || (a.Certificate != nil) != (row.want == its.EnrolmentOk) {
		t.Errorf("got %v for %x, want %v for %x", a.ResponseCode, a.RequestHash, row.want, scr.Hash(request))
	}
	underItsKey(t, request, body)
	if row.want != its.EnrolmentOk {
		return
	}
	if again, other := from.post(t, url, request); again != 200 || !bytes.Equal(body, other) {
		t.Error("ENR-18: the same request has another answer")
	}
	before.credentials, before.keys, before.enrolments = before.credentials+1, before.keys+1, before.enrolments+1
	p.unchanged(t, before) // ENR-18: one credential
}

// underItsKey looks at how an answer is encrypted. ENR-17: with another nonce than the request, and nobody opens it with another key.
func underItsKey(t *testing.T, request, answer []byte) {
	t.Helper()
	q, err := its.ParseData(request, its.MaxRequest)
	must(t, err)
	a, err := its.ParseData(answer, its.MaxRequest)
	must(t, err)
	if e := a.Content.EncryptedData; e.Ciphertext.Nonce == q.Content.EncryptedData.Ciphertext.Nonce || len(e.Recipients) != 1 || e.Recipients[0].Choice != its.RecipientPsk {
		t.Errorf("ENR-17: request and answer have one nonce, or the answer is for %+v", e.Recipients)
	}
	other, err := spdu.Resume([16]byte{1})
	must(t, err)
	if _, err := other.Open(a); err == nil {
		t.Error("ENR-17: the answer opens under another key")
	}
}

// ENR: requests for enrolment credentials at the front door, a row per case.
func TestV2XEnrolment(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	canonical, _ := p.vehicle(t, "car-1")
	stopped := map[device.Move]*ecdsa.PrivateKey{}
	for _, move := range []device.Move{device.Suspend, device.Lose, device.Retire} {
		k, d := p.vehicle(t, "car-"+string(move))
		stopped[move] = k
		if _, err := p.Devices.Move(t.Context(), apptest.Operator(), d.ID, move, "test"); err != nil {
			t.Fatal(err)
		}
	}
	enrolled := func() (*agent.Credential, its.HashedId8) {
		ec, err := p.client(t).Enrol(t.Context(), "car-1", canonical)
		if err != nil {
			t.Fatalf("ENR-1: %v", err)
		}
		return ec, credentialID(t, ec)
	}
	old, oldID := enrolled()
	if err := old.Certificate.CheckRole(its.EtsiEC, 0); err != nil {
		t.Errorf("ENR-1: %v", err)
	}
	revoked, revokedID := enrolled()
	_, err := p.V2X.EA.RevokeCredential(t.Context(), operatorOf(access.RoleV2XEnrolment), revokedID)
	must(t, err)
	p.clock.Move(24 * time.Hour) // its credential begins tomorrow
	early, earlyID := enrolled()
	p.clock.Move(-24 * time.Hour)
	again := func(ec *agent.Credential, id its.HashedId8) func(*ecRequest) {
		return func(r *ecRequest) { r.id, r.canonical, r.by = id[:], ec.Key, ec.Certificate }
	}
	like := func(move device.Move) func(*ecRequest) {
		return func(r *ecRequest) { r.id, r.canonical = []byte("car-"+string(move)), stopped[move] }
	}
	window := its.Time64(p.Config.V2X.Window.Microseconds())
	for i, row := range []ecRow{
		{name: "ENR-1 canonical key", want: its.EnrolmentOk},
		{name: "ENR-2 cantparse", change: func(r *ecRequest) { r.raw = []byte{0xff} }, want: its.EnrolmentCantParse},
		{name: "ENR-3 badcontenttype", change: func(r *ecRequest) { r.kind = its.EnrolmentResponse }, want: its.EnrolmentBadContentType},
		{name: "ENR-3 not signed", change: func(r *ecRequest) { r.flat = true }, want: its.EnrolmentBadContentType},
		{name: "ENR-4 imnottherecipient", to: []*its.Certificate{p.aa}, want: its.EnrolmentImNotTheRecipient, status: 400},
		{name: "ENR-4 two recipients", to: []*its.Certificate{p.aa, p.ea}, want: its.EnrolmentImNotTheRecipient},
		{name: "ENR-4 two other recipients", to: []*its.Certificate{p.aa, p.aa}, want: its.EnrolmentImNotTheRecipient, status: 400},
		{name: "ENR-5 unknownencryptionalgorithm", seal: func(e *its.EncryptedData) { e.Ciphertext.Choice = its.SM4CCM }, want: its.EnrolmentUnknownEncryptionAlgorithm},
		{name: "ENR-5 a key wrapped in another way", seal: func(e *its.EncryptedData) { e.Recipients[0].EncKey.Choice = its.ECIESBrainpoolP256r1 }, want: its.EnrolmentUnknownEncryptionAlgorithm, status: 400},
		{name: "ENR-6 ECIES tag", seal: func(e *its.EncryptedData) { e.Recipients[0].EncKey.T[0] ^= 1 }, want: its.EnrolmentDecryptionFailed, status: 400},
		{name: "ENR-6 CCM tag", seal: func(e *its.EncryptedData) { e.Ciphertext.CcmCiphertext[3] ^= 1 }, want: its.EnrolmentDecryptionFailed},
		{name: "ENR-7 unknownits", change: func(r *ecRequest) { r.id = []byte("nobody") }, want: its.EnrolmentUnknownIts},
		{name: "ENR-8 wrong canonical key", change: func(r *ecRequest) { r.canonical = newECKey(t) }, want: its.EnrolmentInvalidSignature},
		{name: "ENR-9 wrong POP key", change: func(r *ecRequest) { r.pop = newECKey(t) }, want: its.EnrolmentInvalidSignature},
		{name: "ENR-10 invalidencryptionkey", change: func(r *ecRequest) {
			r.inner.PublicKeys.EncryptionKey = coer.Some(its.PublicEncryptionKey{PublicKey: its.BasePublicEncryptionKey{Point: its.CurvePoint{Form: its.CompressedY0, X: bytes.Repeat([]byte{0xff}, 32)}}})
		}, want: its.EnrolmentInvalidEncryptionKey},
		{name: "ENR-11 baditsstatus suspended", change: like(device.Suspend), want: its.EnrolmentBadItsStatus},
		{name: "ENR-11 baditsstatus lost", change: like(device.Lose), want: its.EnrolmentBadItsStatus},
		{name: "ENR-11 baditsstatus retired", change: like(device.Retire), want: its.EnrolmentBadItsStatus},
		{name: "ENR-11 baditsstatus not yet active", change: again(early, earlyID), want: its.EnrolmentBadItsStatus},
		{name: "ENR-12 incompleterequest", change: func(r *ecRequest) { r.inner.CertificateFormat = 2 }, want: its.EnrolmentIncompleteRequest},
		{name: "ENR-12 no permissions", change: func(r *ecRequest) { r.inner.RequestedSubjectAttributes.AppPermissions = []its.PsidSsp{} }, want: its.EnrolmentIncompleteRequest},
		{name: "ENR-13 above the profile", change: func(r *ecRequest) {
			r.inner.RequestedSubjectAttributes.AppPermissions = []its.PsidSsp{its.Bitmap(its.PsidSCR, 1, 0xe0)}
		}, want: its.EnrolmentDeniedPermissions},
		{name: "ENR-13 to issue", change: func(r *ecRequest) {
			r.inner.RequestedSubjectAttributes.CertIssuePermissions = []its.PsidGroupPermissions{its.Group(its.SubjectPermissions{Choice: its.SubjectsAll})}
		}, want: its.EnrolmentDeniedPermissions},
		{name: "ENR-14 off the curve", change: func(r *ecRequest) {
			r.inner.PublicKeys.VerificationKey.Point.X = bytes.Repeat([]byte{0xff}, 32)
		}, want: its.EnrolmentInvalidKeys},
		{name: "ENR-14 reused key", change: func(r *ecRequest) {
			r.pop = old.Key
			r.inner.PublicKeys.VerificationKey = old.Certificate.ToBeSigned.VerifyKeyIndicator.VerificationKey
		}, want: its.EnrolmentInvalidKeys},
		{name: "ENR-15 stale", change: func(r *ecRequest) { r.at -= 2 * window }, want: its.EnrolmentDeniedRequest},
		{name: "ENR-15 future", change: func(r *ecRequest) { r.popAt += 2 * window }, want: its.EnrolmentDeniedRequest},
		{name: "ENR-16 by current EC", change: again(old, oldID), want: its.EnrolmentOk},
		{name: "ENR-16 signer is not itsId", change: func(r *ecRequest) { r.id, r.canonical, r.by = oldID[:], newECKey(t), p.ea }, want: its.EnrolmentInvalidSignature},
		{name: "ENR-16 unknown EC", change: func(r *ecRequest) { r.id, r.canonical, r.by = []byte("12345678"), old.Key, old.Certificate }, want: its.EnrolmentUnknownIts},
		{name: "ENR-16 by a revoked EC", change: again(revoked, revokedID), want: its.EnrolmentBadItsStatus},
		{name: "ENR-19 extra field", change: func(r *ecRequest) {
			r.outer = func(h *its.HeaderInfo) { h.ExpiryTime = coer.Some(h.GenerationTime.Value + 1) }
		}, want: its.EnrolmentBadContentType},
	} {
		t.Run(row.name, func(t *testing.T) { p.enrol(t, networkOf(i+1), p.ecRequest(t, "car-1", canonical), row) })
	}
	t.Run("ENR-11 baditsstatus of a credential that has ended", func(t *testing.T) {
		p.clock.Move(p.Config.V2X.CredentialLife + time.Hour)
		must(t, p.V2X.Trust.Publish(t.Context()))
		p.enrol(t, networkOf(100), p.ecRequest(t, "car-1", canonical), ecRow{change: again(old, oldID), want: its.EnrolmentBadItsStatus})
	})
}

// ENR-20: what is no request by its method or type gets no further, and what has no key to be answered with has no answer. TLS is not needed.
func TestV2XEnrolmentOverHTTP(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	url := p.Addresses().V2XEA + "/enrolment"
	if !strings.HasPrefix(url, "http://") {
		t.Errorf("the address is %s", url)
	}
	from := network{client: http.DefaultClient}
	before := p.holdings(t)
	for _, row := range []struct {
		name, method, path, kind string
		body                     []byte
		status                   int
	}{
		{"another type", http.MethodPost, "", "application/octet-stream", []byte{1}, http.StatusUnsupportedMediaType},
		{"the type of answers", http.MethodPost, "", scr.ResponseType, []byte{1}, http.StatusUnsupportedMediaType},
		{"the type with more behind it", http.MethodPost, "", scr.RequestType + "; charset=utf-8", []byte{1}, http.StatusUnsupportedMediaType},
		{"no type", http.MethodPost, "", "", []byte{1}, http.StatusUnsupportedMediaType},
		{"GET", http.MethodGet, "", scr.RequestType, nil, http.StatusMethodNotAllowed},
		{"PUT", http.MethodPut, "", scr.RequestType, []byte{1}, http.StatusMethodNotAllowed},
		{"another path", http.MethodPost, "/else", scr.RequestType, []byte{1}, http.StatusNotFound},
		{"nothing", http.MethodPost, "", scr.RequestType, nil, http.StatusBadRequest},
		{"garbage", http.MethodPost, "", scr.RequestType, []byte{1, 2, 3}, http.StatusBadRequest},
		{"too much", http.MethodPost, "", scr.RequestType, make([]byte, its.MaxRequest+1), http.StatusRequestEntityTooLarge},
	} {
		a, body := from.send(t, row.method, url+row.path, row.kind, row.body)
		if a.StatusCode != row.status || row.status == http.StatusBadRequest && len(body) > 0 {
			t.Errorf("ENR-20 %s: status %d and %q, want %d", row.name, a.StatusCode, body, row.status)
		}
	}
	p.unchanged(t, before)
}

// ENR-1, the bridge: a device that enrolled by X.509 has its V2X credential by that key, and after its suspension no ticket.
func TestV2XBridge(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	d, err := p.Devices.Add(t.Context(), apptest.Operator(), device.Spec{Name: "gateway-1", Profile: "device", Tags: map[string]string{"v2x": "roadside"}})
	if err != nil {
		t.Fatal(err)
	}
	client := p.client(t)
	key := newECKey(t)
	var refused *agent.Refused
	if _, err := client.Enrol(t.Context(), "gateway-1", key); !asRefused(err, &refused) || refused.Code != "invalidsignature" {
		t.Fatalf("without a certificate: %v", err)
	}
	enrolX509(t, p.Platform, d, key)
	ec, err := client.Enrol(t.Context(), "gateway-1", key)
	if err != nil {
		t.Fatalf("by the certificate: %v", err)
	}
	if ec, err = client.Renew(t.Context(), ec); err != nil {
		t.Fatalf("ENR-16: %v", err)
	}
	for _, row := range []struct {
		name  string
		order agent.Order
	}{
		{"AUT-1 with POP", agent.Order{}}, {"AUT-2 without POP", agent.Order{WithoutProof: true}}, {"AUT-4 without privacy", agent.Order{Open: true}},
		{"AUT-5 with encryption key", agent.Order{Encryption: true}},
	} {
		ticket, err := client.Ticket(t.Context(), ec, row.order)
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		if ticket.Certificate.ToBeSigned.EncryptionKey.Present != row.order.Encryption || ticket.Certificate.ToBeSigned.Id.Choice != its.IdNone {
			t.Errorf("%s: the ticket is %+v", row.name, ticket.Certificate.ToBeSigned)
		}
	}
	if _, err := p.Devices.Move(t.Context(), apptest.Operator(), d.ID, device.Suspend, "test"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Ticket(t.Context(), ec, agent.Order{}); !asRefused(err, &refused) || refused.Code != "deniedpermissions" {
		t.Errorf("AUT-51: after its suspension: %v", err)
	}
	if _, err := client.Renew(t.Context(), ec); !asRefused(err, &refused) || refused.Code != "baditsstatus" {
		t.Errorf("ENR-16: by a credential of a suspended station: %v", err)
	}
}

func asRefused(err error, r **agent.Refused) bool {
	got, ok := err.(*agent.Refused)
	*r = got
	return ok
}

// AUT-47: fifty at once never get more than a hundred together, and a week with a hundred is full.
func TestV2XConcurrentTickets(t *testing.T) {
	t.Parallel()
	p := startV2X(t, func(c *conf.Config) { c.V2X.Tickets = 10 })
	canonical, _ := p.vehicle(t, "car-1")
	client := p.client(t)
	ec, err := client.Enrol(t.Context(), "car-1", canonical)
	if err != nil {
		t.Fatal(err)
	}
	week := its.Duration{Choice: its.Hours, Value: 168}
	start := its.Time32(p.at() / 1e6)
	var mu sync.Mutex
	got := map[string]int{}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			_, err := client.Ticket(t.Context(), ec, agent.Order{Start: start, Life: week})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				got["ok"]++
			} else {
				got[err.Error()]++
			}
		})
	}
	all.Wait()
	if len(got) != 2 || got["ok"] != 10 || got["the authority refuses: deniedtoomanycerts"] != 40 {
		t.Errorf("fifty at once, ten allowed: %v", got)
	}
	if _, err := client.Ticket(t.Context(), ec, agent.Order{Start: start + 168*3600, Life: week}); err != nil {
		t.Errorf("the week after: %v", err)
	}
	if _, err := client.Ticket(t.Context(), ec, agent.Order{Start: start + 168*3600 - 1, Life: its.Duration{Choice: its.Hours, Value: 1}}); err == nil || !strings.Contains(err.Error(), "deniedtoomanycerts") {
		t.Errorf("one second before that week begins: %v", err)
	}
}

// AUT-48: what a ticket's time may be. A week and a second cannot be said, since seconds end with 18 hours: the next that can is a minute more.
func TestV2XPolicy(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	canonical, _ := p.vehicle(t, "car-1")
	client := p.client(t)
	ec, err := client.Enrol(t.Context(), "car-1", canonical)
	if err != nil {
		t.Fatal(err)
	}
	now := its.Time32(p.at() / 1e6)
	far := now + its.Time32(p.Config.V2X.Preload/time.Second)
	for _, row := range []struct {
		name  string
		start its.Time32
		life  its.Duration
		want  string
	}{
		{"a week", now, its.Duration{Choice: its.Hours, Value: 168}, ""},
		{"a minute more than a week", now, its.Duration{Choice: its.Minutes, Value: 168*60 + 1}, "deniedpermissions"},
		{"three months ahead", far, its.Duration{Choice: its.Hours, Value: 168}, ""},
		{"further", far + 60, its.Duration{Choice: its.Hours, Value: 168}, "deniedpermissions"},
		{"from yesterday", now - 86400, its.Duration{Choice: its.Hours, Value: 168}, "deniedpermissions"},
	} {
		ticket, err := client.Ticket(t.Context(), ec, agent.Order{Start: row.start, Life: row.life})
		var refused *agent.Refused
		switch {
		case row.want == "" && err != nil:
			t.Errorf("AUT-48 %s: %v", row.name, err)
		case row.want == "":
			if v := ticket.Certificate.ToBeSigned.ValidityPeriod; v.Start != row.start || v.Duration != row.life {
				t.Errorf("AUT-50 %s: the ticket is valid from %d for %v", row.name, v.Start, v.Duration)
			}
		case !asRefused(err, &refused) || refused.Code != row.want:
			t.Errorf("AUT-48 %s: got %v, want %s", row.name, err, row.want)
		}
	}
	// A second more than three months ahead is that only as long as this second lasts, which on a busy machine a request may not take.
	for range 50 {
		second := its.Time32(p.at() / 1e6)
		_, err := client.Ticket(t.Context(), ec, agent.Order{Start: second + its.Time32(p.Config.V2X.Preload/time.Second) + 1, Life: its.Duration{Choice: its.Hours, Value: 1}})
		if its.Time32(p.at()/1e6) != second {
			continue
		}
		var refused *agent.Refused
		if !asRefused(err, &refused) || refused.Code != "deniedpermissions" {
			t.Errorf("AUT-48 a second more than three months ahead: %v", err)
		}
		return
	}
	t.Error("no request was answered within its second")
}

// enrolX509 gets a device its X.509 certificate, with a token.
func enrolX509(t *testing.T, p *app.Platform, d device.Device, key *ecdsa.PrivateKey) {
	t.Helper()
	token, _, err := p.Devices.Token(t.Context(), apptest.Operator(), d.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Enrol.Submit(t.Context(), enrol.Request{Protocol: "est", Op: enrol.Enrol, Basic: true, User: d.Name, Secret: token, CSR: apptest.CSR(t, key, der.RequestSpec{})}); err != nil {
		t.Fatal(err)
	}
}
