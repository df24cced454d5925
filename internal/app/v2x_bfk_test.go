package app_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/device"
	"mooring/internal/core/v2x/ra"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/butterfly"
	"mooring/wire/cocoon"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
)

// butterflyRequest is a request that is put together by hand, so that each part can be wrong.
type butterflyRequest struct {
	inner its.EeRaCertRequest
	at    its.Time64
	kind  its.ManagementChoice
}

func (p *v2xPlatform) butterflyRequest(t *testing.T) *butterflyRequest {
	t.Helper()
	key, err := butterfly.RandomScalar(rand.Reader)
	must(t, err)
	r := &butterflyRequest{at: p.at(), kind: its.ButterflyAuthorizationRequest, inner: its.EeRaCertRequest{GenerationTime: its.Time32(p.at() / 1e6), AdditionalParams: &its.AdditionalParams{Choice: its.ButterflyUnified}}}
	rand.Read(r.inner.AdditionalParams.Expansion.Aes128[:])
	r.inner.TbsCert = its.ToBeSignedCertificate{Id: its.CertificateId{Choice: its.IdNone}, AppPermissions: agent.Applications(),
		ValidityPeriod:     its.ValidityPeriod{Start: its.Time32(p.at() / 1e6), Duration: its.Duration{Choice: its.Hours, Value: 168}},
		VerifyKeyIndicator: its.VerificationKeyIndicator{VerificationKey: its.PublicVerificationKey{Point: its.Compressed(key.Public().Bytes())}}}
	return r
}

// sealed signs the request with a credential and encrypts it.
func (r *butterflyRequest) sealed(t *testing.T, by *agent.Credential, to *its.Certificate) []byte {
	t.Helper()
	c := its.EtsiTs102941DataContent{Choice: r.kind, ButterflyAuthorizationRequest: &r.inner}
	if r.kind != its.ButterflyAuthorizationRequest {
		c = its.EtsiTs102941DataContent{Choice: its.EnrolmentResponse, EnrolmentResponse: &its.InnerEcResponse{ResponseCode: its.EnrolmentCantParse}}
	}
	d, err := scr.Sign(c, r.at, scr.Signer(by.Key, by.Certificate))
	must(t, err)
	b, _, err := scr.Seal(rand.Reader, d, to)
	must(t, err)
	return b
}

// What is asked for is refused for each reason, and then nothing is stored or counted, and the record has it.
func TestV2XButterflyRefusals(t *testing.T) {
	t.Parallel()
	p := startButterfly(t, 2, nil)
	c, stopped := p.car(t, "car-1"), p.car(t, "car-stopped")
	_, err := p.Devices.Move(t.Context(), apptest.Operator(), stopped.device, device.Suspend, "test")
	must(t, err)
	used := p.butterflyRequest(t)
	url := p.Addresses().V2XEA + "/butterfly"
	if got, _ := postV2X(t, url, used.sealed(t, c.ec, p.ea)); got != http.StatusOK {
		t.Fatalf("a request gets %d", got)
	}
	stranger := &agent.Credential{Key: newECKey(t), Certificate: p.aa}
	for _, row := range []struct {
		name   string
		code   string
		status int
		change func(r *butterflyRequest)
		by     *agent.Credential
		to     *its.Certificate
	}{
		{"content type", "badcontenttype", 400, func(r *butterflyRequest) { r.kind = its.EnrolmentResponse }, nil, nil},
		{"recipient", "imnottherecipient", 400, nil, nil, p.aa},
		{"unknown credential", "unknownits", 403, nil, stranger, nil},
		{"signature", "invalidsignature", 403, nil, &agent.Credential{Key: newECKey(t), Certificate: c.ec.Certificate}, nil},
		{"BFK-14 suspended", "baditsstatus", 403, nil, stopped.ec, nil},
		{"stale", "deniedrequest", 403, func(r *butterflyRequest) { r.at -= 400e6 }, nil, nil},
		{"stale inside", "deniedrequest", 403, func(r *butterflyRequest) { r.inner.GenerationTime -= 400 }, nil, nil},
		{"no expansion", "incompleterequest", 403, func(r *butterflyRequest) { r.inner.AdditionalParams = nil }, nil, nil},
		{"one certificate", "deniedpermissions", 403, func(r *butterflyRequest) {
			r.inner.AdditionalParams = &its.AdditionalParams{Choice: its.ButterflyNone, EncryptionKey: p.ea.ToBeSigned.EncryptionKey.Value}
		}, nil, nil},
		{"compact unified, which the authority does not do", "deniedpermissions", 403, func(r *butterflyRequest) { r.inner.AdditionalParams.Choice = its.ButterflyCompactUnified }, nil, nil},
		{"implicit", "deniedpermissions", 403, func(r *butterflyRequest) { r.inner.Type = its.Implicit }, nil, nil},
		{"BFK-11 encryption key", "deniedpermissions", 403, func(r *butterflyRequest) { r.inner.TbsCert.EncryptionKey = p.ea.ToBeSigned.EncryptionKey }, nil, nil},
		{"BFK-11 caterpillar again", "invalidkeys", 403, func(r *butterflyRequest) { r.inner.TbsCert.VerifyKeyIndicator = used.inner.TbsCert.VerifyKeyIndicator }, nil, nil},
		{"off the curve", "invalidkeys", 403, func(r *butterflyRequest) {
			r.inner.TbsCert.VerifyKeyIndicator.VerificationKey.Point.X = bytes.Repeat([]byte{0xff}, 32)
		}, nil, nil},
		{"another curve", "invalidkeys", 403, func(r *butterflyRequest) {
			r.inner.TbsCert.VerifyKeyIndicator.VerificationKey.Choice = its.ECDSABrainpoolP256r1
		}, nil, nil},
		{"name", "deniedpermissions", 403, func(r *butterflyRequest) { r.inner.TbsCert.Id = its.Name("car") }, nil, nil},
		{"issuing", "deniedpermissions", 403, func(r *butterflyRequest) { r.inner.TbsCert.CertIssuePermissions = toIssue() }, nil, nil},
		{"region", "deniedpermissions", 403, func(r *butterflyRequest) {
			r.inner.TbsCert.Region = coer.Some(its.GeographicRegion{Choice: its.RegionIdentified, Identified: []its.IdentifiedRegion{{Country: 276}}})
		}, nil, nil},
		{"application", "deniedpermissions", 403, func(r *butterflyRequest) {
			r.inner.TbsCert.AppPermissions = []its.PsidSsp{its.Bitmap(its.PsidSCR, 1, 0xc0)}
		}, nil, nil},
		{"the permissions of an ambulance", "deniedpermissions", 403, func(r *butterflyRequest) {
			r.inner.TbsCert.AppPermissions = []its.PsidSsp{its.Bitmap(its.PsidCAM, 1, 0, 0), its.Bitmap(its.PsidDENM, 1, 0, 0, 1)}
		}, nil, nil},
		{"longer than a ticket", "deniedpermissions", 403, func(r *butterflyRequest) { r.inner.TbsCert.ValidityPeriod.Duration.Value = 169 }, nil, nil},
		{"over", "deniedpermissions", 403, func(r *butterflyRequest) { r.inner.TbsCert.ValidityPeriod.Start -= 169 * 3600 }, nil, nil},
		{"beyond the preload", "deniedpermissions", 403, func(r *butterflyRequest) { r.inner.TbsCert.ValidityPeriod.Start += 93 * 86400 }, nil, nil},
	} {
		r, by, to := p.butterflyRequest(t), c.ec, p.ea
		if row.change != nil {
			row.change(r)
		}
		if row.by != nil {
			by = row.by
		}
		if row.to != nil {
			to = row.to
		}
		before := refusals(t, p.Audit, "v2x.butterfly", row.code)
		got, body := postV2X(t, url, r.sealed(t, by, to))
		if got != row.status || row.status == http.StatusForbidden && string(body) != "the request is refused\n" {
			t.Errorf("%s: status %d, %q, want %d", row.name, got, body, row.status)
		}
		if n := refusals(t, p.Audit, "v2x.butterfly", row.code); n == 0 || n < before {
			t.Errorf("%s: the record has no refusal for %s", row.name, row.code)
		}
	}
	if n := rowsOf(t, p.DB, `SELECT COUNT(*) FROM v2x_order`); n != 1 {
		t.Errorf("%d requests are stored, want 1", n)
	}
	if n := rowsOf(t, p.DB, `SELECT SUM(tickets) FROM v2x_interval`); n != 6 {
		t.Errorf("%d tickets are counted, want 6", n)
	}
}

// carrier is a transport that keeps what it carried, and can break off answers.
type carrier struct {
	mu     sync.Mutex
	bodies map[string][]byte // of answers, by path
	status []int
	cut    int // the next answer ends after so many octets
}

func (c *carrier) RoundTrip(r *http.Request) (*http.Response, error) {
	a, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bodies == nil {
		c.bodies = map[string][]byte{}
	}
	c.bodies[r.URL.Path], c.status = b, append(c.status, a.StatusCode)
	a.Body = io.NopCloser(bytes.NewReader(b))
	if c.cut > 0 && strings.HasSuffix(r.URL.Path, "download") {
		a.Body = io.NopCloser(io.MultiReader(bytes.NewReader(b[:c.cut]), broken{}))
		c.cut = 0
	}
	return a, nil
}

// broken is the rest of an answer whose connection broke.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the connection broke") }

// BFK: what becomes of a request, a row per case.
func TestV2XButterflyCases(t *testing.T) {
	t.Parallel()
	p := startButterfly(t, 1, nil)
	c, other := p.car(t, "car-1"), p.car(t, "car-2")
	road := &carrier{}
	var err error
	c.client, err = agent.New(agent.Config{Root: p.made.Certificate, DC: p.Addresses().V2XDC, Now: p.clock.Now, Transport: road})
	must(t, err)
	must(t, c.client.Update(t.Context()))
	b := c.order(t, butterfly.Original)
	c.fetch(t, b, b.First)
	archive := bytes.Clone(road.bodies["/butterfly/download"])
	for _, row := range []struct {
		id   string
		test func(t *testing.T)
	}{
		{"BFK-6 the hash in the name", func(t *testing.T) {
			if b.ID != cocoon.RequestHash(b.Request) || rowsOf(t, p.DB, `SELECT COUNT(*) FROM v2x_order`) != 1 {
				t.Errorf("the request is called %s", b.ID)
			}
		}},
		{"BFK-7 another station's", func(t *testing.T) {
			for range 2 {
				if _, err := other.client.FetchButterfly(t.Context(), other.ec, b, b.First); status(err) != http.StatusForbidden {
					t.Errorf("another station gets %v", err)
				}
			}
			if refusals(t, p.Audit, "v2x.download", "no archive of the station") == 0 {
				t.Error("the record has no refusal")
			}
		}},
		{"BFK-8 layout", func(t *testing.T) { checkArchive(t, archive, b) }},
		{"BFK-8 the same octets", func(t *testing.T) {
			c.fetch(t, b, b.First)
			if !bytes.Equal(archive, road.bodies["/butterfly/download"]) {
				t.Error("the archive has other octets the second time")
			}
		}},
		{"BFK-9 resumed", func(t *testing.T) {
			road.mu.Lock()
			road.cut, road.status = 700, nil
			road.mu.Unlock()
			if got := c.fetch(t, b, b.First); len(got.Tickets) != 3 || fmt.Sprint(road.status) != "[200 206]" || !bytes.Equal(archive[700:], road.bodies["/butterfly/download"]) {
				t.Errorf("after the connection broke: %d tickets, %v", len(got.Tickets), road.status)
			}
		}},
		{"BFK-9 ranges by hand", func(t *testing.T) { p.ranges(t, c, b, archive) }},
		{"BFK-10 signed by another certificate", func(t *testing.T) { p.foreignSigner(t, c, b, archive) }},
		{"a request that is sent again", func(t *testing.T) {
			first := bytes.Clone(road.bodies["/butterfly"])
			must(t, c.client.OrderButterfly(t.Context(), b))
			if !bytes.Equal(first, road.bodies["/butterfly"]) || rowsOf(t, p.DB, `SELECT COUNT(*) FROM v2x_order`) != 1 {
				t.Error("the same request has another answer, or is stored twice")
			}
		}},
		{"the next request ends the one before", func(t *testing.T) {
			next := c.order(t, butterfly.Unified)
			c.fetch(t, next, next.First)
			if n := rowsOf(t, p.DB, `SELECT COUNT(*) FROM v2x_order WHERE ended = 0`); n != 1 {
				t.Errorf("%d requests of the station go on", n)
			}
			c.fetch(t, b, b.First+1) // what was made stays
		}},
		{"BFK-14 the next period", func(t *testing.T) {
			at := rowsOf(t, p.DB, `SELECT MAX(next) FROM v2x_order WHERE ended = 0`)
			p.clock.Move(7 * 24 * time.Hour)
			defer p.clock.Move(-7 * 24 * time.Hour)
			must(t, p.V2X.RA.Plan(t.Context()))
			if n := rowsOf(t, p.DB, `SELECT MAX(next) FROM v2x_order WHERE ended = 0`); n != at+1 {
				t.Errorf("a week later period %d comes next, want %d", n, at+1)
			}
		}},
		{"BFK-14 suspended", func(t *testing.T) {
			_, err := p.Devices.Move(t.Context(), apptest.Operator(), c.device, device.Suspend, "test")
			must(t, err)
			at := rowsOf(t, p.DB, `SELECT MAX(next) FROM v2x_order`)
			p.clock.Move(14 * 24 * time.Hour)
			must(t, p.V2X.RA.Plan(t.Context()))
			must(t, p.V2X.RA.Mix(t.Context()))
			p.clock.Move(-14 * 24 * time.Hour)
			if n := rowsOf(t, p.DB, `SELECT MAX(next) FROM v2x_order`); n != at {
				t.Errorf("for a suspended station period %d was planned", n-1)
			}
			if _, err := c.client.FetchButterfly(t.Context(), c.ec, b, b.First); status(err) != http.StatusForbidden {
				t.Errorf("BFK-7: a suspended station gets %v", err)
			}
		}},
	} {
		t.Run(row.id, row.test)
	}
}

// checkArchive looks at an archive with other eyes than the agent's.
func checkArchive(t *testing.T, archive []byte, b *agent.Butterfly) {
	t.Helper()
	r, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	must(t, err)
	i := fmt.Sprintf("%x", b.First)
	want := []string{i + ".info", i + "_0", i + "_1", i + "_2"}
	for n, f := range r.File {
		if len(r.File) != len(want) || f.Name != want[n] || f.Method != zip.Store {
			t.Errorf("file %d of %d is %s by method %d, want %s", n, len(r.File), f.Name, f.Method, want[n])
		}
	}
	in, err := r.File[0].Open()
	must(t, err)
	info, err := io.ReadAll(in)
	must(t, err)
	d, err := its.ParseData(info, its.MaxRequest)
	must(t, err)
	_, octets, err := scr.Signed(d)
	must(t, err)
	said, err := scr.Content(octets, its.ButterflyAuthorizationResponse)
	must(t, err)
	if got := said.ButterflyAuthorizationResponse; got.CurrentI != b.First || got.RequestHash != b.ID || got.AcpcTreeId.Present {
		t.Errorf("the info is %+v", got)
	}
}

// ranges asks for parts of an archive.
func (p *v2xPlatform) ranges(t *testing.T, c car, b *agent.Butterfly, archive []byte) {
	t.Helper()
	name := cocoon.ArchiveName(b.ID, b.First)
	d, err := scr.Sign(its.EtsiTs102941DataContent{Choice: its.ButterflyAtDownloadRequest, ButterflyAtDownloadRequest: &its.EeRaDownloadRequest{
		GenerationTime: its.Time32(p.at() / 1e6), Filename: name}}, p.at(), scr.Signer(c.ec.Key, c.ec.Certificate))
	must(t, err)
	message, _, err := scr.Seal(rand.Reader, d, p.ea)
	must(t, err)
	for _, row := range []struct {
		method, header, query string
		status                int
		want                  []byte
	}{
		{http.MethodGet, "", "", 200, archive}, {http.MethodGet, "bytes=0-9", "", 206, archive[:10]}, {http.MethodGet, "bytes=100-", "?filename=" + name, 206, archive[100:]},
		{http.MethodGet, "bytes=-5", "", 206, archive[len(archive)-5:]}, {http.MethodGet, fmt.Sprintf("bytes=%d-", len(archive)), "", 416, nil},
		{http.MethodGet, "", "?filename=other.zip", 400, nil}, {http.MethodHead, "", "", 200, nil}, {http.MethodPost, "bytes=0-9", "", 200, archive}, {http.MethodPut, "", "", 405, nil},
	} {
		var body io.Reader
		if row.method == http.MethodPost {
			body = bytes.NewReader(message)
		}
		r, err := http.NewRequestWithContext(t.Context(), row.method, p.Addresses().V2XEA+"/butterfly/download"+row.query, body)
		must(t, err)
		r.Header.Set("Content-Type", scr.RequestType)
		r.Header.Set("Ieee-1609.2.1-Authorization", base64.StdEncoding.EncodeToString(message))
		if row.header != "" {
			r.Header.Set("Range", row.header)
		}
		a, err := http.DefaultClient.Do(r)
		must(t, err)
		got, err := io.ReadAll(a.Body)
		must(t, err)
		must(t, a.Body.Close())
		if a.StatusCode != row.status || row.want != nil && (!bytes.Equal(got, row.want) || a.Header.Get("Content-Type") != "application/zip" || a.Header.Get("Content-Disposition") != `attachment; filename="`+name+`"`) {
			t.Errorf("%s %q %s: %d with %d octets of %q", row.method, row.header, row.query, a.StatusCode, len(got), a.Header.Get("Content-Type"))
		}
	}
}

// foreignSigner has the message with a ticket signed by another certificate: the enrolment authority's, which is believed, too.
func (p *v2xPlatform) foreignSigner(t *testing.T, c car, b *agent.Butterfly, archive []byte) {
	t.Helper()
	by, err := p.V2X.Trust.Credential(t.Context(), trust.EA)
	must(t, err)
	a, err := cocoon.ParseArchive(archive)
	must(t, err)
	d := new(its.Ieee1609Dot2Data)
	must(t, coer.Unmarshal(a.Files[1].Octets, d))
	s := d.Content.SignedData
	s.Signer.Certificate = []its.Certificate{*by.Certificate}
	input, err := s.Input(by.Certificate)
	must(t, err)
	s.Signature, err = by.Signer.Sign(input)
	must(t, err)
	a.Files[1].Octets, err = coer.Marshal(d)
	must(t, err)
	forged, err := a.Bytes()
	must(t, err)
	if batch, err := c.client.OpenButterfly(b, forged); err == nil || !strings.Contains(err.Error(), "another certificate than the one that issued") {
		t.Errorf("the station takes %v, %v", batch, err)
	}
	s.Signature.S[0] ^= 1
	a.Files[1].Octets, err = coer.Marshal(d)
	must(t, err)
	forged, err = a.Bytes()
	must(t, err)
	if batch, err := c.client.OpenButterfly(b, forged); !errors.Is(err, its.ErrSignature) {
		t.Errorf("with a wrong signature the station takes %v, %v", batch, err)
	}
	if other, err := c.client.PrepareButterfly(c.ec, agent.ButterflyOrder{}); err != nil {
		t.Error(err)
	} else if batch, err := c.client.OpenButterfly(other, archive); err == nil {
		t.Errorf("the archive of another request is taken: %v", batch)
	}
}

// BFK-4: as TS 102 941 has it, keys are those that the enrolment authority computes.
func TestV2XButterflyStrict(t *testing.T) {
	t.Parallel()
	p := startButterfly(t, 1, func(c *conf.Config) { c.V2X.Butterfly.Strict = true })
	c := p.car(t, "car-1")
	c.plain = true
	b := c.order(t, butterfly.Unified)
	public := b.Keys.Public()
	for j, ticket := range c.fetch(t, b, b.First).Tickets {
		if signing, _ := public.Cocoon(uint32(b.First), uint32(j)); !bytes.Equal(signing.Bytes()[1:], ticket.Certificate.ToBeSigned.VerifyKeyIndicator.VerificationKey.Point.X) {
			t.Errorf("ticket %d has another key than the cocoon key", j)
		}
	}
	b.Plain = false
	if batch, err := c.client.FetchButterfly(t.Context(), c.ec, b, b.First); !errors.Is(err, agent.ErrPlain) {
		t.Errorf("who did not ask for such tickets takes them: %v, %v", batch, err)
	}
	if !strings.Contains(p.log.String(), "v2x.butterfly_strict is set") {
		t.Error("nobody is warned")
	}
}

// As TS 102 941 has it, each ticket is asked for by itself: one that is not given keeps no other.
func TestV2XButterflyStrictFailure(t *testing.T) {
	t.Parallel()
	p := startButterfly(t, 3, func(c *conf.Config) { c.V2X.Butterfly.Strict, c.V2X.Butterfly.Wait = true, 84*time.Hour })
	deps := p.V2X.RA.Deps
	deps.Issuing, deps.Policy.Wait = &capture{Issuing: p.V2X.RA.Issuing, lose: 1}, 24*time.Hour
	mixer := ra.New(deps) // the one of the platform waits longer, and so does nothing
	for _, name := range []string{"car-1", "car-2"} {
		p.car(t, name).order(t, butterfly.Unified)
	}
	p.clock.Move(24*time.Hour + time.Minute)
	if err := mixer.Mix(t.Context()); err == nil {
		t.Error("a lost answer is no error")
	}
	// The first of all is lost, which may be one that was made up.
	if n := rowsOf(t, p.DB, `SELECT COUNT(*) FROM v2x_waiting WHERE LENGTH(answer) = 0`); n > 1 {
		t.Errorf("%d tickets of 12 are not there, want 1 at most", n)
	}
	must(t, mixer.Mix(t.Context()))
	if n := rowsOf(t, p.DB, `SELECT COUNT(*) FROM v2x_archive`); n != 4 {
		t.Errorf("there are %d archives, want 4", n)
	}
}

// capture stands between the enrolment authority and the authorization authority.
type capture struct {
	ra.Issuing
	requests [][]byte
	lose     int // answers
}

func (c *capture) Issue(ctx context.Context, url string, request []byte) ([]byte, error) {
	c.requests = append(c.requests, request)
	answer, err := c.Issuing.Issue(ctx, url, request)
	if c.lose > 0 {
		c.lose--
		return nil, errors.New("the answer was lost")
	}
	return answer, err
}

// list is what was asked for with a request.
func (p *v2xPlatform) list(t *testing.T, request []byte) []its.RaAcaCertRequest {
	t.Helper()
	by, err := p.Tickets().Trust.Credential(t.Context(), trust.AA)
	must(t, err)
	o, err := scr.Open(request, by.Holder)
	must(t, err)
	_, octets, err := scr.Signed(o.Message)
	must(t, err)
	list, err := cocoon.ParseRequests(octets)
	must(t, err)
	return list
}

// BFK-12, BFK-13: what leaves for the authorization authority, and what becomes of it when answers are lost.
func TestV2XButterflyMixing(t *testing.T) {
	t.Parallel()
	p := startButterfly(t, 3, func(c *conf.Config) { c.V2X.Butterfly.Tickets, c.V2X.Butterfly.Wait = 8, 84*time.Hour })
	way := &capture{Issuing: p.V2X.RA.Issuing}
	deps := p.V2X.RA.Deps
	deps.Issuing, deps.Policy.Wait = way, 24*time.Hour
	mixer := ra.New(deps) // the one of the platform waits longer, and so does nothing
	one, two := p.car(t, "car-1"), p.car(t, "car-2")
	of := map[string]int{}
	mine := func(who int, b *agent.Butterfly) {
		public := b.Keys.Public()
		for n := range uint32(2) {
			for j := range uint32(8) {
				signing, _ := public.Cocoon(uint32(b.First)+n, j)
				of[string(signing.Bytes()[1:])] = who
			}
		}
	}
	first := one.order(t, butterfly.Unified)
	mine(1, first)
	must(t, mixer.Mix(t.Context()))
	if len(way.requests) != 0 {
		t.Fatal("the tickets of one station leave before others are there")
	}
	second := two.order(t, butterfly.Unified)
	mine(2, second)
	p.clock.Move(23 * time.Hour)
	must(t, mixer.Mix(t.Context()))
	if len(way.requests) != 0 {
		t.Fatal("the tickets of two stations leave before the third is there, within the time")
	}
	// The time is over. The first answer is lost.
	p.clock.Move(time.Hour + time.Minute)
	way.lose = 1
	if err := mixer.Mix(t.Context()); err == nil {
		t.Error("a lost answer is no error")
	}
	issued := rowsOf(t, p.Tickets().DB, `SELECT COUNT(*) FROM v2x_ticket`)
	must(t, mixer.Mix(t.Context()))
	if len(way.requests) < 2 {
		t.Fatalf("%d requests left", len(way.requests))
	}
	var order []int
	counts := map[int]int{}
	for _, q := range p.list(t, way.requests[0]) {
		who := of[string(q.TbsCert.VerifyKeyIndicator.VerificationKey.Point.X)]
		order, counts[who] = append(order, who), counts[who]+1
	}
	if counts[1] != 16 || counts[2] != 16 || counts[0] != 16 {
		t.Errorf("BFK-12: of the stations are %d and %d, and %d of none, want 16 each", counts[1], counts[2], counts[0])
	}
	changes := 0
	for i := range order[1:] {
		if order[i] != order[i+1] {
			changes++
		}
	}
	if changes < 10 { // of 47; with three stations each 31 are to be expected
		t.Errorf("BFK-12: the order is %v", order)
	}
	for who, row := range []struct {
		car
		b *agent.Butterfly
	}{{one, first}, {two, second}} {
		for n := range uint16(2) {
			if got := row.fetch(t, row.b, row.b.First+n); len(got.Tickets) != 8 {
				t.Errorf("BFK-13: station %d has %d tickets of period %d", who, len(got.Tickets), got.I)
			}
		}
	}
	// 32 of the stations, once, and the made-up ones of each attempt.
	if n := rowsOf(t, p.Tickets().DB, `SELECT COUNT(*) FROM v2x_ticket`); issued != 48 || n != 48+16 {
		t.Errorf("BFK-13: %d tickets were issued first, %d in the end, want 48 and 64", issued, n)
	}
}

// BFK-12: stations are counted, however many tickets they ask for.
func TestV2XButterflyMixingMany(t *testing.T) {
	t.Parallel()
	const stations = 10
	p := startButterfly(t, 10000, func(c *conf.Config) {
		c.V2X.Tickets, c.V2X.Butterfly.Tickets, c.V2X.Butterfly.Wait = 10000, 1000, 84*time.Hour
	})
	way := &capture{Issuing: p.V2X.RA.Issuing, lose: 1}
	deps := p.V2X.RA.Deps
	deps.Issuing, deps.Policy.Stations = way, stations
	mixer := ra.New(deps) // that of the platform waits for more
	for n := range stations {
		must(t, mixer.Mix(t.Context()))
		if len(way.requests) != 0 {
			t.Fatalf("the tickets of %d stations leave", n)
		}
		p.car(t, fmt.Sprintf("car-%d", n)).order(t, butterfly.Original)
	}
	if n := rowsOf(t, p.DB, `SELECT COUNT(*) FROM v2x_waiting`); n != stations*2*1000 {
		t.Fatalf("%d tickets wait", n)
	}
	if err := mixer.Mix(t.Context()); err == nil || len(way.requests) != 1 {
		t.Errorf("of %d stations %d requests leave, and a lost answer gives %v", stations, len(way.requests), err)
	}
}

// PRV-1, for butterfly keys: whoever has all files of one authority finds stations or tickets in it, not both, and cannot compute the keys of tickets from what is there.
func TestV2XButterflyStores(t *testing.T) {
	if os.Getenv("MOORING_TEST_DB") != "" {
		t.Skip("the stores are searched as files")
	}
	t.Parallel()
	p := startButterfly(t, 2, nil)
	cars := []car{p.car(t, "car-first"), p.car(t, "car-second")}
	var stations, tickets [][]byte
	orders := []*agent.Butterfly{cars[0].order(t, butterfly.Original), cars[1].order(t, butterfly.Original)}
	for i, c := range cars {
		ec, err := c.ec.Certificate.HashedId8()
		must(t, err)
		public := orders[i].Keys.Public()
		stations = append(stations, []byte([]string{"car-first", "car-second"}[i]), c.device[:], []byte(c.device.String()), ec[:], []byte(ec.String()),
			[]byte(c.ec.Certificate.ToBeSigned.Id.Name), c.ec.Certificate.ToBeSigned.VerifyKeyIndicator.VerificationKey.Point.X,
			public.SigningKey.Bytes()[1:], public.SigningExpansion[:], orders[i].ID[:], []byte(orders[i].ID.String()))
		for n := range uint16(2) {
			for _, ticket := range c.fetch(t, orders[i], orders[i].First+n).Tickets {
				id, err := ticket.Certificate.HashedId8()
				must(t, err)
				private, err := ticket.Key.Bytes()
				must(t, err)
				key, err := coer.Normal(&ticket.Certificate.ToBeSigned.VerifyKeyIndicator.VerificationKey)
				must(t, err)
				sum := sha256.Sum256(key)
				tickets = append(tickets, id[:], []byte(id.String()), ticket.Certificate.ToBeSigned.VerifyKeyIndicator.VerificationKey.Point.X, sum[:], private)
			}
		}
	}
	must(t, p.Audit.Sequence(t.Context()))
	must(t, p.Tickets().Audit.Sequence(t.Context()))
	whole, apart := octetsBelow(t, p.Config.Dir, p.made.Dir), octetsBelow(t, p.made.Dir, "")
	for _, row := range []struct {
		what   string
		in     []byte
		traces [][]byte
		found  bool
	}{
		{"stations in the enrolment authority", whole, stations, true}, {"tickets in the enrolment authority", whole, tickets, false},
		{"stations in the authorization authority", apart, stations, false}, {"tickets in the authorization authority", apart, tickets, true},
	} {
		n := 0
		for _, trace := range row.traces {
			if bytes.Contains(row.in, trace) {
				n++
			}
		}
		if (n > 0) != row.found {
			t.Errorf("%s: %d traces of %d", row.what, n, len(row.traces))
		}
	}
}

// octetsBelow are the octets of all files below a directory, but for those below another one.
func octetsBelow(t *testing.T, dir, without string) (all []byte) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path == without:
			return filepath.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		all = append(all, b...)
		return err
	}))
	return all
}

// Stations choose their caterpillar keys so that a cocoon key is infinity. They do not get that ticket, nobody else waits for it, and they do not count among the stations that are mixed.
func TestV2XButterflyInfinity(t *testing.T) {
	t.Parallel()
	p := startButterfly(t, 2, func(c *conf.Config) { c.V2X.Butterfly.Tickets, c.V2X.Butterfly.Ahead = 1, 1 })
	i := uint32(uint16((its.Time32(p.at()/1e6) - its.FirstPeriod) / (7 * 24 * 3600)))
	order := elliptic.P256().Params().N
	minus, err := butterfly.NewScalar(new(big.Int).Sub(order, big.NewInt(1)).Bytes())
	must(t, err)
	against := func(k [16]byte, purpose butterfly.Purpose) its.CurvePoint {
		return its.Compressed(butterfly.Expand(k, purpose, i, 0).Mul(minus).Public().Bytes())
	}
	var bad []car
	for _, row := range []struct {
		name   string
		change func(r *its.EeRaCertRequest)
	}{
		{"unified", func(r *its.EeRaCertRequest) {
			r.TbsCert.VerifyKeyIndicator.VerificationKey.Point = against(r.AdditionalParams.Expansion.Aes128, butterfly.Signing)
		}},
		{"original-signing", func(r *its.EeRaCertRequest) {
			k := r.AdditionalParams.Expansion.Aes128
			o := its.ButterflyParamsOriginal{EncryptionKey: its.PublicEncryptionKey{PublicKey: its.BasePublicEncryptionKey{Point: r.TbsCert.VerifyKeyIndicator.VerificationKey.Point}}}
			o.SigningExpansion.Aes128, o.EncryptionExpansion.Aes128 = k, k
			r.AdditionalParams = &its.AdditionalParams{Choice: its.ButterflyOriginal, Original: o}
			r.TbsCert.VerifyKeyIndicator.VerificationKey.Point = against(k, butterfly.Signing)
		}},
		{"original-encryption", func(r *its.EeRaCertRequest) {
			k := r.AdditionalParams.Expansion.Aes128
			o := its.ButterflyParamsOriginal{EncryptionKey: its.PublicEncryptionKey{PublicKey: its.BasePublicEncryptionKey{Point: against(k, butterfly.Encryption)}}}
			o.SigningExpansion.Aes128, o.EncryptionExpansion.Aes128 = k, k
			r.AdditionalParams = &its.AdditionalParams{Choice: its.ButterflyOriginal, Original: o}
		}},
	} {
		c, r := p.car(t, row.name), p.butterflyRequest(t)
		row.change(&r.inner)
		if got, body := postV2X(t, p.Addresses().V2XEA+"/butterfly", r.sealed(t, c.ec, p.ea)); got != http.StatusOK {
			t.Fatalf("%s: the request gets %d, %q", row.name, got, body)
		}
		bad = append(bad, c)
	}
	for n, v := range []butterfly.Variant{butterfly.Unified, butterfly.Original} {
		one, two := p.car(t, fmt.Sprintf("one-%d", n)), p.car(t, fmt.Sprintf("two-%d", n))
		a := one.order(t, v)
		must(t, p.V2X.RA.Mix(t.Context()))
		if got := rowsOf(t, p.Tickets().DB, `SELECT COUNT(*) FROM v2x_ticket`); got != int64(2*n) {
			t.Errorf("variant %d: with one station that can have tickets there are %d, want %d", v, got, 2*n)
		}
		b := two.order(t, v)
		must(t, p.V2X.RA.Mix(t.Context()))
		if x, y := len(one.fetch(t, a, a.First).Tickets), len(two.fetch(t, b, b.First).Tickets); x != 1 || y != 1 {
			t.Errorf("variant %d: the other stations get %d and %d tickets, want 1 each", v, x, y)
		}
	}
	for _, c := range bad {
		if !strings.Contains(p.log.String(), c.device.String()) {
			t.Errorf("the log does not name the device %s", c.device)
		}
	}
	if n := rowsOf(t, p.DB, `SELECT COUNT(*) FROM v2x_waiting`); n != int64(len(bad)) {
		t.Errorf("%d tickets wait, want %d", n, len(bad))
	}
}
