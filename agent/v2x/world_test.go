package v2x

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mooring/wire/butterfly"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

// world is a root with authorities whose keys the test has, lists of them, and a clock.
type world struct {
	mu   sync.Mutex
	now  time.Time
	root authority
	aa   authority
	far  authority // of the same root, not on the trust list

	revoked []its.HashedId8
}

// authority is a certificate with its key.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *its.Certificate
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{now: time.Unix(1_800_000_000, 0)}
	w.root = w.make(t, its.EtsiRCA, nil)
	w.aa, w.far = w.make(t, its.EtsiAA, &w.root), w.make(t, its.EtsiAA, &w.root)
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) at() its.Time64 { return its.TimeAt(w.clock(), its.LeapSeconds) }

func (w *world) make(t testing.TB, role its.EtsiRole, by *authority) authority {
	t.Helper()
	all := its.Group(its.SubjectPermissions{Choice: its.SubjectsAll})
	all.ChainLengthRange = -1
	x := its.ToBeSignedCertificate{Id: its.Name(role.String()), ValidityPeriod: its.ValidityPeriod{Start: its.Time32(w.at()/1e6) - 1000, Duration: its.Duration{Choice: its.Years, Value: 1}},
		CertIssuePermissions: []its.PsidGroupPermissions{all}}
	if role == its.EtsiRCA {
		x.AppPermissions = []its.PsidSsp{its.Bitmap(its.PsidCRL, 1), its.Bitmap(its.PsidCTL, 1, 0x38)}
	} else {
		private, err := butterfly.RandomScalar(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		x.AppPermissions, x.EncryptionKey = []its.PsidSsp{its.Bitmap(its.PsidSCR, 1, 0x32)}, coer.Some(scr.EncryptionKey(private))
	}
	return certify(t, x, by)
}

// certify signs a certificate for a new key, by itself if by is nil.
func certify(t testing.TB, tbs its.ToBeSignedCertificate, by *authority) authority {
	t.Helper()
	key, public, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	tbs.VerifyKeyIndicator = its.VerificationKeyIndicator{VerificationKey: public}
	x := &its.Certificate{Issuer: its.IssuerIdentifier{Choice: its.IssuerSelf}, ToBeSigned: tbs}
	if by == nil {
		digest, err := x.Input(nil)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := scr.Signature(key)(digest)
		if err != nil {
			t.Fatal(err)
		}
		x.Signature = coer.Some(sig)
	} else {
		s := scr.Signer(by.key, by.cert)
		if err := s.Certify(x); err != nil {
			t.Fatal(err)
		}
	}
	b, err := coer.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	if x, err = its.ParseCertificate(b); err != nil {
		t.Fatal(err)
	}
	return authority{key, x}
}

// ticket issues a ticket that is valid for an hour.
func (w *world) ticket(t testing.TB, by authority, change func(*its.ToBeSignedCertificate)) *Ticket {
	t.Helper()
	x := its.ToBeSignedCertificate{Id: its.CertificateId{Choice: its.IdNone}, ValidityPeriod: its.ValidityPeriod{Start: its.Time32(w.at() / 1e6), Duration: its.Duration{Choice: its.Hours, Value: 1}},
		AppPermissions: Applications()}
	if change != nil {
		change(&x)
	}
	a := certify(t, x, &by)
	return &Ticket{Certificate: a.cert, Key: a.key}
}

// RoundTrip is the distribution centre.
func (w *world) RoundTrip(q *http.Request) (*http.Response, error) {
	id, err := w.root.cert.HashedId8()
	if err != nil {
		return nil, err
	}
	next := its.Time32(w.at()/1e6) + 100_000
	c := its.EtsiTs102941DataContent{Choice: its.CertificateTrustListRca, CertificateTrustList: &its.CtlFormat{NextUpdate: next, IsFullCtl: true, CtlCommands: []its.CtlCommand{
		{Add: its.CtlEntry{Choice: its.CtlAa, Aa: &its.AaEntry{AaCertificate: *w.aa.cert, AccessPoint: "http://aa"}}},
		{Add: its.CtlEntry{Choice: its.CtlDc, Dc: &its.DcEntry{Url: "http://dc", Cert: []its.HashedId8{id}}}}}}}
	psid, kind := its.PsidCTL, scr.CTLType
	if strings.Contains(q.URL.Path, "getcrl") {
		psid, kind = its.PsidCRL, scr.CRLType
		c = its.EtsiTs102941DataContent{Choice: its.CertificateRevocationList, CertificateRevocationList: &its.ToBeSignedCrl{ThisUpdate: its.Time32(w.at() / 1e6), NextUpdate: next, Entries: w.revoked}}
	}
	b, err := scr.Encode(c)
	if err != nil {
		return nil, err
	}
	h := scr.Header(w.at())
	h.Psid = psid
	s := scr.Signer(w.root.key, w.root.cert)
	s.Attach = true
	d, err := spdu.Sign(spdu.Payload(b), h, s)
	if err != nil {
		return nil, err
	}
	octets, err := coer.Marshal(d)
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {kind}}, Body: io.NopCloser(bytes.NewReader(octets)), Request: q}, err
}

// stockOf is tickets one after the other.
type stockOf []*Ticket

// Choose implements Stock.
func (s *stockOf) Choose() (*Ticket, error) {
	if len(*s) == 0 {
		return nil, ErrNoTicket
	}
	t := (*s)[0]
	*s = append((*s)[1:], t)
	return t, nil
}

// speaker is a station with these tickets.
func (w *world) speaker(t testing.TB, o TalkOptions, tickets ...*Ticket) *Talk {
	t.Helper()
	octets, err := coer.Marshal(w.root.cert)
	if err != nil {
		t.Fatal(err)
	}
	if o.Client, err = New(Config{Root: octets, DC: "http://dc", Now: w.clock, Transport: w}); err != nil {
		t.Fatal(err)
	}
	if err := o.Client.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	stock := stockOf(slices.Clone(tickets))
	o.Changer = NewChanger(&stock, Habit{}, w.clock, 0)
	return NewTalk(o)
}
