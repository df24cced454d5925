package v2x

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/its/chain"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

// centre gives out documents by their paths, and notes what was asked.
type centre struct {
	documents map[string][]byte
	asked     []string
}

// RoundTrip implements http.RoundTripper.
func (c *centre) RoundTrip(q *http.Request) (*http.Response, error) {
	a := &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{}, Body: http.NoBody, Request: q}
	b := c.documents[q.URL.Path]
	sum := sha256.Sum256(b)
	tag := `"` + hex.EncodeToString(sum[:4]) + `"`
	switch {
	case b == nil:
	case q.Header.Get("If-None-Match") == tag:
		a.StatusCode = http.StatusNotModified
	default:
		a.StatusCode, a.Body = http.StatusOK, io.NopCloser(bytes.NewReader(b))
		a.Header.Set("ETag", tag)
		a.Header.Set("Content-Type", octetType)
		if strings.Contains(q.URL.Path, "/getctl/") {
			a.Header.Set("Content-Type", scr.CTLType)
		}
		if strings.Contains(q.URL.Path, "/getcrl/") {
			a.Header.Set("Content-Type", scr.CRLType)
		}
	}
	c.asked = append(c.asked, fmt.Sprint(q.URL.Path, " ", a.StatusCode))
	return a, nil
}

// since are the requests since the last call.
func (c *centre) since() string {
	s := strings.Join(c.asked, ", ")
	c.asked = nil
	return s
}

// says signs a message about lists; attached: with the certificate of the signer.
func (a authority) says(t *testing.T, psid its.Psid, at its.Time64, attached bool, c its.EtsiTs102941DataContent) []byte {
	t.Helper()
	b, err := scr.Encode(c)
	fatal(t, err)
	h := scr.Header(at)
	h.Psid = psid
	s := scr.Signer(a.key, a.cert)
	s.Attach = attached
	d, err := spdu.Sign(spdu.Payload(b), h, s)
	fatal(t, err)
	octets, err := coer.Marshal(d)
	fatal(t, err)
	return octets
}

func fatal(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (a authority) id(t *testing.T) its.HashedId8 {
	t.Helper()
	id, err := a.cert.HashedId8()
	fatal(t, err)
	return id
}

// list is a trust list of a root, or of a manager.
func (w *world) list(t *testing.T, by authority, choice its.ManagementChoice, full bool, sequence uint8, commands ...its.CtlCommand) []byte {
	t.Helper()
	return by.says(t, its.PsidCTL, w.at(), true, its.EtsiTs102941DataContent{Choice: choice, CertificateTrustList: &its.CtlFormat{NextUpdate: its.Time32(w.at()/1e6) + 100_000,
		IsFullCtl: full, CtlSequence: sequence, CtlCommands: append([]its.CtlCommand{}, commands...)}})
}

func (w *world) crl(t *testing.T, by authority, revoked ...its.HashedId8) []byte {
	t.Helper()
	return by.says(t, its.PsidCRL, w.at(), true, its.EtsiTs102941DataContent{Choice: its.CertificateRevocationList, CertificateRevocationList: &its.ToBeSignedCrl{
		ThisUpdate: its.Time32(w.at() / 1e6), NextUpdate: its.Time32(w.at()/1e6) + 100_000, Entries: append([]its.HashedId8{}, revoked...)}})
}

func aaEntry(a authority) its.CtlCommand {
	return its.CtlCommand{Add: its.CtlEntry{Choice: its.CtlAa, Aa: &its.AaEntry{AaCertificate: *a.cert, AccessPoint: "http://aa"}}}
}

func rootEntry(a authority) its.CtlCommand {
	return its.CtlCommand{Add: its.CtlEntry{Choice: its.CtlRca, Rca: &its.RootCaEntry{SelfsignedRootCa: *a.cert}}}
}

func dcEntry(url string, roots ...its.HashedId8) its.CtlCommand {
	return its.CtlCommand{Add: its.CtlEntry{Choice: its.CtlDc, Dc: &its.DcEntry{Url: url, Cert: roots}}}
}

func gone(id its.HashedId8) its.CtlCommand {
	return its.CtlCommand{Choice: its.CtlDeletes, Delete: its.CtlDelete{Cert: id}}
}

// TestDeltas follows the list of a root by deltas: CTL-2, CTL-3, CTL-5, CTL-8.
func TestDeltas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root, id := w.root, w.root.id(t)
	dc := dcEntry("http://dc", id)
	ctl := its.CertificateTrustListRca
	path := "/getctl/" + id.String()
	c := &centre{documents: map[string][]byte{path: w.list(t, root, ctl, true, 254, aaEntry(w.aa), dc), "/getcrl/" + id.String(): w.crl(t, root)}}
	client, err := New(Config{Root: certificateOf(t, root), DC: "http://dc/", Transport: c, Now: w.clock})
	fatal(t, err)
	update := func(want string) {
		t.Helper()
		if err := client.Update(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := c.since(); got != want {
			t.Errorf("asked for %s,\nwant %s", got, want)
		}
	}
	rest := ", /getcrl/" + id.String() + " 200, /getlink/" + id.String() + " 404"
	update(path + " 200" + rest)
	update(path + "/255 404, " + path + " 304" + rest) // whether there are deltas here is not known yet
	believes := func(aa authority, want bool) {
		t.Helper()
		_, err := client.entry(its.CtlAa)
		if want != (err == nil) {
			t.Errorf("there is an authority: %v, want %v", err, want)
		}
		if err == nil {
			if e, _ := client.entry(its.CtlAa); idOfCert(t, &e.Aa.AaCertificate) != aa.id(t) {
				t.Error("another authority than expected")
			}
		}
	}
	// Two steps, round the end of the numbers.
	next := w.make(t, its.EtsiAA, &w.root)
	c.documents[path+"/255"] = w.list(t, root, ctl, false, 255, gone(w.aa.id(t)))
	c.documents[path+"/0"] = w.list(t, root, ctl, false, 0, aaEntry(next))
	update(path + "/255 200, " + path + "/0 200, " + path + "/1 404" + rest)
	believes(next, true)
	update(path + "/1 404" + rest) // here are deltas: without one there is nothing new
	// A delta that does not fit on this list: the full one is fetched.
	c.documents[path+"/1"] = w.list(t, root, ctl, false, 1, gone(w.aa.id(t)))
	c.documents[path] = w.list(t, root, ctl, true, 1, aaEntry(w.aa), dc)
	update(path + "/1 200, " + path + " 200" + rest)
	believes(w.aa, true)
	// An older list, one of somebody else, one with foreign entries: none is taken.
	c.documents[path+"/2"] = w.list(t, w.aa, ctl, false, 2)
	c.documents[path] = w.list(t, root, ctl, true, 200, aaEntry(next), dc)
	fatal(t, client.Update(t.Context()))
	believes(w.aa, true)
	foreign := w.list(t, root, ctl, true, 3, aaEntry(next), dcEntry("http://dc", w.aa.id(t)))
	c.documents[path] = foreign
	if err := client.Update(t.Context()); err == nil {
		t.Error("CTL-6: a list without the root's centre is taken")
	}
	believes(w.aa, true)
	// What is over is not believed, until there is a new one.
	w.pass(48 * time.Hour)
	believes(w.aa, false)
	if _, err := client.entry(its.CtlAa); !errors.Is(err, ErrNoLists) {
		t.Errorf("after the end: %v", err)
	}
	c.documents[path], c.documents["/getcrl/"+id.String()] = w.list(t, root, ctl, true, 9, aaEntry(next), dc), w.crl(t, root)
	fatal(t, client.Update(t.Context()))
	believes(next, true)
	c.documents["/getcrl/"+id.String()] = w.crl(t, root, next.id(t))
	fatal(t, client.Update(t.Context()))
	believes(next, false)
	// CTL-3: so many lists came while this station was off that the number of the last seems to be an older one.
	c.documents[path], c.documents["/getcrl/"+id.String()] = w.list(t, root, ctl, true, 209, aaEntry(w.aa), dc), w.crl(t, root)
	fatal(t, client.Update(t.Context()))
	believes(next, true)
	w.pass(48 * time.Hour)
	c.documents["/getcrl/"+id.String()] = w.crl(t, root)
	if err := client.Update(t.Context()); err == nil {
		t.Error("a list that is over is taken")
	}
	c.documents[path] = w.list(t, root, ctl, true, 209, aaEntry(w.aa), dc)
	fatal(t, client.Update(t.Context()))
	believes(w.aa, true)
}

// CTL-8: a place that has no more than its last delta, which does not lead on for a station that was away. Whoever followed deltas looks for the full list once a day.
func TestLastDeltaOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.root.id(t)
	dc, ctl, path := dcEntry("http://dc", id), its.CertificateTrustListRca, "/getctl/"+id.String()
	c := &centre{documents: map[string][]byte{path: w.list(t, w.root, ctl, true, 0, dc), path + "/1": w.list(t, w.root, ctl, false, 1, aaEntry(w.aa)), "/getcrl/" + id.String(): w.crl(t, w.root)}}
	client, err := New(Config{Root: certificateOf(t, w.root), DC: "http://dc/", Transport: c, Now: w.clock})
	fatal(t, err)
	rest := ", /getcrl/" + id.String() + " 200, /getlink/" + id.String() + " 404"
	next := w.make(t, its.EtsiAA, &w.root)
	for _, row := range []struct {
		name   string
		pass   time.Duration
		change func()
		asked  string
		want   authority
	}{
		{"the full list", 0, nil, path + " 200", authority{}},
		{"a delta", time.Minute, nil, path + "/1 200, " + path + "/2 404", w.aa},
		{"others, of which the last has a delta", time.Hour, func() {
			c.documents[path], c.documents[path+"/4"] = w.list(t, w.root, ctl, true, 4, aaEntry(next), dc), w.list(t, w.root, ctl, false, 4)
			delete(c.documents, path+"/1")
		}, path + "/2 404", w.aa},
		{"on the same day", 22 * time.Hour, nil, path + "/2 404", w.aa},
		{"on the next day", time.Hour, nil, path + "/2 404, " + path + " 200", next},
		{"at once again", 0, nil, path + "/5 404", next},
	} {
		w.pass(row.pass)
		if row.change != nil {
			row.change()
		}
		fatal(t, client.Update(t.Context()))
		if got := c.since(); got != row.asked+rest {
			t.Errorf("%s: asked for %s,\nwant %s", row.name, got, row.asked+rest)
		}
		e, err := client.entry(its.CtlAa)
		if row.want.cert == nil && err == nil || row.want.cert != nil && (err != nil || idOfCert(t, &e.Aa.AaCertificate) != row.want.id(t)) {
			t.Errorf("%s: the authority is %+v, %v", row.name, e, err)
		}
	}
}

func certificateOf(t *testing.T, a authority) []byte {
	t.Helper()
	b, err := coer.Marshal(a.cert)
	fatal(t, err)
	return b
}

func idOfCert(t *testing.T, x *its.Certificate) its.HashedId8 {
	t.Helper()
	id, err := x.HashedId8()
	fatal(t, err)
	return id
}

// TestManagersWord follows a trust list manager whose list has two roots: only what it says is believed, and it is followed by others by word of the one before.
func TestManagersWord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tlm := func() authority {
		return certify(t, its.ToBeSignedCertificate{Id: its.Name("tlm"), ValidityPeriod: its.ValidityPeriod{Start: its.Time32(w.at()/1e6) - 1000, Duration: its.Duration{Choice: its.Years, Value: 1}},
			AppPermissions: []its.PsidSsp{its.Bitmap(its.PsidCTL, 1, 0xc8)}}, nil)
	}
	manager, other := tlm(), tlm()
	far := w.make(t, its.EtsiRCA, nil)
	farAA := w.make(t, its.EtsiAA, &far)
	home, abroad := w.root.id(t), far.id(t)
	ectl := its.CertificateTrustListTlm
	c := &centre{documents: map[string][]byte{
		"/L0/gettlmcertificate":                  certificateOf(t, manager),
		"/L0/getectl/" + manager.id(t).String():  w.list(t, manager, ectl, true, 3, rootEntry(w.root), rootEntry(far), dcEntry("http://dc", home), dcEntry("http://far", abroad)),
		"/getctl/" + home.String():               w.list(t, w.root, its.CertificateTrustListRca, true, 0, aaEntry(w.aa), dcEntry("http://dc", home)),
		"/getcrl/" + home.String():               w.crl(t, w.root),
		"/getctl/" + abroad.String():             w.list(t, far, its.CertificateTrustListRca, true, 0, aaEntry(farAA), dcEntry("http://far", abroad)),
		"/getcrl/" + abroad.String():             w.crl(t, far),
		"/L0/gettlmcertificate/" + home.String(): certificateOf(t, w.root),
	}}
	client, err := New(Config{Manager: certificateOf(t, manager), CPOC: "http://cpoc/L0/", Transport: c, Now: w.clock})
	fatal(t, err)
	fatal(t, client.Update(t.Context()))
	mine, theirs := w.ticket(t, w.aa, nil), w.ticket(t, farAA, nil)
	fatal(t, client.Check(w.at(), mine.Certificate, w.aa.cert))
	fatal(t, client.Check(w.at(), theirs.Certificate, farAA.cert))
	stranger := w.make(t, its.EtsiRCA, nil)
	strange := w.make(t, its.EtsiAA, &stranger)
	if err := client.Check(w.at(), w.ticket(t, strange, nil).Certificate, strange.cert); err == nil {
		t.Error("who is below a root that is not listed is believed")
	}
	if e, err := client.entry(its.CtlAa); err != nil || idOfCert(t, &e.Aa.AaCertificate) != w.aa.id(t) {
		t.Errorf("the authority that is asked is not the one of the first root: %v", err)
	}
	// The lists of the other root cannot be had: the station goes on, and says so.
	delete(c.documents, "/getcrl/"+abroad.String())
	if err := client.Update(t.Context()); !errors.Is(err, ErrPartly) {
		t.Errorf("got %v", err)
	}
	fatal(t, client.Check(w.at(), mine.Certificate, w.aa.cert))
	c.documents["/getcrl/"+abroad.String()] = w.crl(t, far)
	// A delta takes the other root off the list.
	c.documents["/L0/getdeltaectl/"+manager.id(t).String()+"/4"] = w.list(t, manager, ectl, false, 4, gone(abroad))
	fatal(t, client.Update(t.Context()))
	if err := client.Check(w.at(), theirs.Certificate, farAA.cert); err == nil {
		t.Error("who is below a root that left the list is believed")
	}
	// Another manager is not believed until the one that is vouches for it.
	c.documents["/L0/gettlmcertificate"] = certificateOf(t, other)
	c.documents["/L0/gettlmcertificate/"+manager.id(t).String()] = certificateOf(t, manager)
	c.documents["/L0/getectl/"+other.id(t).String()] = w.list(t, other, ectl, true, 0, rootEntry(w.root), rootEntry(far), dcEntry("http://dc", home), dcEntry("http://far", abroad))
	if err := client.Update(t.Context()); err == nil {
		t.Error("a manager for whom nobody vouches is taken")
	}
	digest, err := other.cert.Digest()
	fatal(t, err)
	link := its.EtsiTs102941DataContent{Choice: its.LinkCertificateTlm, LinkCertificate: &its.ToBeSignedLinkCertificate{ExpiryTime: manager.cert.ToBeSigned.ValidityPeriod.End(), CertificateHash: its.HashedData{Hash: digest}}}
	at := "/L0/gettlmlinkcertificate/" + other.id(t).String()
	c.documents[at] = other.says(t, its.PsidCTL, w.at(), false, link)
	if err := client.Update(t.Context()); err == nil {
		t.Error("a manager that vouches for itself is taken")
	}
	c.documents[at] = manager.says(t, its.PsidCTL, w.at(), false, link)
	fatal(t, client.Update(t.Context()))
	fatal(t, client.Check(w.at(), theirs.Certificate, farAA.cert))
	if _, err := New(Config{Manager: certificateOf(t, w.root), CPOC: "http://cpoc", Transport: c, Now: w.clock}); err == nil {
		t.Error("a root passes for a manager")
	}
	lost, err := New(Config{Manager: certificateOf(t, manager), CPOC: "http://cpoc/L0", Root: certificateOf(t, stranger), Transport: c, Now: w.clock})
	fatal(t, err)
	if err := lost.Update(t.Context()); err == nil {
		t.Error("a station whose root is not listed goes on")
	}
	if err := lost.Check(w.at(), mine.Certificate, w.aa.cert); !errors.Is(err, ErrNoLists) && !errors.Is(err, chain.ErrUntrusted) {
		t.Errorf("got %v", err)
	}
}

// DST-6: what others ask for in the headers of their messages.
func TestAskedForLists(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.root.id(t)
	path := "/getctl/" + id.String()
	dc := dcEntry("http://dc", id)
	c := &centre{documents: map[string][]byte{path: w.list(t, w.root, its.CertificateTrustListRca, true, 6, aaEntry(w.aa), dc), "/getcrl/" + id.String(): w.crl(t, w.root)}}
	client, err := New(Config{Root: certificateOf(t, w.root), DC: "http://dc", Transport: c, Now: w.clock})
	fatal(t, err)
	fatal(t, client.Update(t.Context()))
	ask := func(id uint8, v coer.Value) its.HeaderInfo {
		t.Helper()
		content, err := coer.Marshal(v)
		fatal(t, err)
		ext, err := coer.Marshal(&its.Extension{Id: id, Content: content})
		fatal(t, err)
		sent := its.HeaderInfo{Psid: its.PsidCAM, ContributedExtensions: []its.ContributedExtensionBlock{{ContributorId: its.ContributorETSI, Extns: [][]byte{ext}}}}
		b, err := coer.Marshal(&sent)
		fatal(t, err)
		var got its.HeaderInfo // as it comes in
		fatal(t, coer.Unmarshal(b, &got))
		return got
	}
	full, crl := c.documents[path], c.documents["/getcrl/"+id.String()]
	delta := w.list(t, w.root, its.CertificateTrustListRca, false, 7, gone(w.aa.id(t)))
	other := its.HashedId8{1}
	now := its.Time32(w.at() / 1e6)
	type row struct {
		name string
		h    its.HeaderInfo
		want []byte
	}
	check := func(rows []row) {
		t.Helper()
		for _, r := range rows {
			got := client.Asked(&r.h)
			if (r.want == nil) != (len(got) == 0) || r.want != nil && !slices.EqualFunc(got, [][]byte{r.want}, bytes.Equal) {
				t.Errorf("%s: got %d lists", r.name, len(got))
			}
		}
	}
	check([]row{
		{"a revocation list", ask(its.ExtensionCrlRequest, &its.EtsiTs102941CrlRequest{IssuerId: id}), crl},
		{"a newer revocation list", ask(its.ExtensionCrlRequest, &its.EtsiTs102941CrlRequest{IssuerId: id, LastKnownUpdate: coer.Some(now - 1)}), crl},
		{"a revocation list that is known", ask(its.ExtensionCrlRequest, &its.EtsiTs102941CrlRequest{IssuerId: id, LastKnownUpdate: coer.Some(now)}), nil},
		{"a revocation list of another root", ask(its.ExtensionCrlRequest, &its.EtsiTs102941CrlRequest{IssuerId: other}), nil},
		{"a full list", ask(its.ExtensionFullCtlRequest, &its.EtsiTs102941FullCtlRequest{IssuerId: id}), full},
		{"a full list that is known", ask(its.ExtensionFullCtlRequest, &its.EtsiTs102941FullCtlRequest{IssuerId: id, LastKnownCtlSequence: coer.Some(uint8(6))}), nil},
		{"a segment", ask(its.ExtensionFullCtlRequest, &its.EtsiTs102941FullCtlRequest{IssuerId: id, SegmentNumber: coer.Some(uint8(1))}), nil},
		{"a delta that there is none of", ask(its.ExtensionDeltaCtlRequest, &its.EtsiTs102941CtlRequest{IssuerId: id, LastKnownCtlSequence: coer.Some(uint8(5))}), nil},
		{"something else", ask(9, &its.EtsiTs102941CrlRequest{IssuerId: id}), nil},
	})
	c.documents[path+"/7"] = delta
	fatal(t, client.Update(t.Context()))
	check([]row{
		{"a delta", ask(its.ExtensionDeltaCtlRequest, &its.EtsiTs102941CtlRequest{IssuerId: id, LastKnownCtlSequence: coer.Some(uint8(6))}), delta},
		{"a delta from elsewhere on", ask(its.ExtensionDeltaCtlRequest, &its.EtsiTs102941CtlRequest{IssuerId: id, LastKnownCtlSequence: coer.Some(uint8(5))}), nil},
		{"a delta from nowhere on", ask(its.ExtensionDeltaCtlRequest, &its.EtsiTs102941CtlRequest{IssuerId: id}), nil},
		{"a full list that was put together here", ask(its.ExtensionFullCtlRequest, &its.EtsiTs102941FullCtlRequest{IssuerId: id}), nil},
	})
}

// TestRootsFollowed has a root lead to the next: whoever begins again after the end of the first still believes the second, by what was noted.
func TestRootsFollowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	second := certify(t, its.ToBeSignedCertificate{Id: its.Name("second"), ValidityPeriod: its.ValidityPeriod{Start: its.Time32(w.at()/1e6) - 500, Duration: its.Duration{Choice: its.Years, Value: 3}},
		AppPermissions: w.root.cert.ToBeSigned.AppPermissions, CertIssuePermissions: w.root.cert.ToBeSigned.CertIssuePermissions}, nil)
	aa := w.make(t, its.EtsiAA, &second)
	first, next := w.root.id(t), second.id(t)
	digest, err := second.cert.Digest()
	fatal(t, err)
	single := w.root.says(t, its.PsidCTL, w.at(), false, its.EtsiTs102941DataContent{Choice: its.SingleSignedLinkCertificateRca,
		LinkCertificate: &its.ToBeSignedLinkCertificate{ExpiryTime: w.root.cert.ToBeSigned.ValidityPeriod.End(), CertificateHash: its.HashedData{Hash: digest}}})
	d, err := its.ParseData(single, its.MaxRequest)
	fatal(t, err)
	c := &centre{documents: map[string][]byte{
		"/getctl/" + first.String():  w.list(t, w.root, its.CertificateTrustListRca, true, 0, aaEntry(w.aa), dcEntry("http://dc", first)),
		"/getcrl/" + first.String():  w.crl(t, w.root),
		"/getlink/" + first.String(): second.says(t, its.PsidCTL, w.at(), false, its.EtsiTs102941DataContent{Choice: its.DoubleSignedLinkCertificateRca, Data: d}),
		"/getctl/" + next.String():   w.list(t, second, its.CertificateTrustListRca, true, 0, aaEntry(aa), dcEntry("http://dc", next)),
		"/getcrl/" + next.String():   w.crl(t, second),
	}}
	dir := t.TempDir()
	s, err := MakeStation(dir, Settings{Root: certificateOf(t, w.root), DC: "http://dc", ID: "car"}, StationOptions{Now: w.clock, Transport: c})
	fatal(t, err)
	fatal(t, s.update(t.Context()))
	if all := s.Roots(); len(all) != 2 || idOfCert(t, all[0]) != next {
		t.Fatalf("the station believes %d roots", len(all))
	}
	s.Close()
	w.pass(370 * 24 * time.Hour) // the first root is over
	second2 := w.list(t, second, its.CertificateTrustListRca, true, 1, dcEntry("http://dc", next))
	c.documents["/getctl/"+next.String()], c.documents["/getcrl/"+next.String()] = second2, w.crl(t, second)
	delete(c.documents, "/getctl/"+first.String())
	if s, err = OpenStation(dir, StationOptions{Now: w.clock, Transport: c}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fatal(t, s.update(t.Context()))
	if all := s.Roots(); len(all) != 1 || idOfCert(t, all[0]) != next {
		t.Errorf("after the end of the first root the station believes %d roots", len(all))
	}
	// Without the note the word of the first one is over.
	fresh, err := New(Config{Root: certificateOf(t, w.root), DC: "http://dc", Transport: c, Now: w.clock})
	fatal(t, err)
	if err := fresh.Update(t.Context()); err == nil {
		t.Error("a root that is over leads on")
	}
}
