package app_test

import (
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
	"mooring/wire/trustlist"
)

// follow has an authority of the platform followed by another one.
func (p *v2xPlatform) follow(t *testing.T, role trust.Role) *trust.Authority {
	t.Helper()
	of := p.V2X.Trust
	if role == trust.AA {
		of = p.Tickets().Trust
	}
	request, err := of.Rekey(t.Context(), apptest.Operator(), role)
	must(t, err)
	a, err := p.V2X.Trust.Issue(t.Context(), apptest.Operator(), request, trust.Grant{})
	must(t, err)
	root := p.V2X.Trust.State().RootOf(a.Certificate)
	_, err = of.Install(t.Context(), apptest.Operator(), a.Octets, root.Octets)
	must(t, err)
	must(t, p.Tickets().Fetch(t.Context()))
	return a
}

// issuer is who issued a certificate.
func issuer(x *its.Certificate) its.HashedId8 { return x.Issuer.Digest }

// TestV2XRekeying has authorities followed by others while vehicles go on: who has the lists of before is answered by whom it knows, who has the new ones by the new.
func TestV2XRekeying(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	ctx := t.Context()
	key, _ := p.vehicle(t, "car-1")
	before := p.client(t)
	ec, err := before.Enrol(ctx, "car-1", key)
	must(t, err)
	p.clock.Move(time.Hour)
	ea, aa := p.follow(t, trust.EA), p.follow(t, trust.AA)
	p.clock.Move(10 * time.Minute)
	must(t, p.Tickets().Fetch(ctx))
	old, err := before.Ticket(ctx, ec, agent.Order{})
	must(t, err)
	if issuer(old.Certificate) != p.made.AA {
		t.Errorf("with the lists of before, the ticket is issued by %v, want %v", issuer(old.Certificate), p.made.AA)
	}
	must(t, before.Update(ctx))
	now, err := before.Ticket(ctx, ec, agent.Order{})
	must(t, err)
	if issuer(now.Certificate) != aa.ID {
		t.Errorf("the ticket is issued by %v, want %v", issuer(now.Certificate), aa.ID)
	}
	next, err := before.Renew(ctx, ec)
	must(t, err)
	if issuer(next.Certificate) != ea.ID {
		t.Errorf("the credential is issued by %v, want %v", issuer(next.Certificate), ea.ID)
	}
	_, err = before.Ticket(ctx, next, agent.Order{})
	must(t, err)
	must(t, before.Check(its.TimeAt(p.clock.Now(), its.LeapSeconds), old.Certificate, p.aa))
	// Who is revoked is no longer answered, whatever lists the vehicle has.
	stale := p.client(t)
	must(t, p.V2X.Trust.Revoke(ctx, apptest.Operator(), aa.ID))
	must(t, p.Tickets().Fetch(ctx))
	if _, err := stale.Ticket(ctx, next, agent.Order{}); err == nil {
		t.Error("a revoked authority still gives out tickets")
	}
	must(t, stale.Update(ctx))
	again, err := stale.Ticket(ctx, next, agent.Order{})
	must(t, err)
	if issuer(again.Certificate) != p.made.AA {
		t.Errorf("after the revocation, the ticket is issued by %v", issuer(again.Certificate))
	}
}

// TestV2XRootFollows has the root followed by another one, and the authorities below it. Vehicles that know the first one alone believe the other.
func TestV2XRootFollows(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	ctx := t.Context()
	key, _ := p.vehicle(t, "car-1")
	client := p.client(t)
	ec, err := client.Enrol(ctx, "car-1", key)
	must(t, err)
	first, err := client.Ticket(ctx, ec, agent.Order{})
	must(t, err)
	p.clock.Move(time.Hour)
	root, err := p.V2X.Trust.RekeyRoot(ctx, apptest.Operator(), "")
	must(t, err)
	if root.Name != "Test RCA #2" {
		t.Errorf("the next root is called %q", root.Name)
	}
	must(t, p.Tickets().Fetch(ctx))
	if st := p.Tickets().Trust.State(); st.Root == nil || st.Root.ID != root.ID || len(st.Roots) != 2 {
		t.Fatalf("the authorization authority believes %+v", st.Root)
	}
	ea, aa := p.follow(t, trust.EA), p.follow(t, trust.AA)
	p.clock.Move(10 * time.Minute)
	must(t, p.Tickets().Fetch(ctx))
	must(t, client.Update(ctx))
	if all := client.Roots(); len(all) != 2 {
		t.Fatalf("the vehicle believes %d roots", len(all))
	}
	second, err := client.Ticket(ctx, ec, agent.Order{})
	must(t, err)
	renewed, err := client.Renew(ctx, ec)
	must(t, err)
	if issuer(second.Certificate) != aa.ID || issuer(renewed.Certificate) != ea.ID || issuer(aa.Certificate) != root.ID || issuer(ea.Certificate) != root.ID {
		t.Error("the certificates are not those of the authorities below the new root")
	}
	at := its.TimeAt(p.clock.Now(), its.LeapSeconds)
	must(t, client.Check(at, first.Certificate, p.aa))
	must(t, client.Check(at, second.Certificate, aa.Certificate))
	// A vehicle that was never there with the lists of the old root gets along as well.
	_, err = p.client(t).Ticket(ctx, renewed, agent.Order{})
	must(t, err)
	// What the new root revokes is not on the list of the old one.
	must(t, p.V2X.Trust.Revoke(ctx, apptest.Operator(), ea.ID))
	st := p.V2X.Trust.State()
	if !st.Of(root.ID).Barred.Lists(ea.ID) || st.Of(p.made.Root).Barred.Lists(ea.ID) {
		t.Error("the revocation is on the wrong list")
	}
	// A root revokes itself on its own list, and then nobody below it is believed.
	must(t, p.V2X.Trust.Revoke(ctx, apptest.Operator(), root.ID))
	if err := client.Update(ctx); err != nil && !errors.Is(err, agent.ErrPartly) {
		t.Fatal(err)
	}
	if err := client.Check(at, second.Certificate, aa.Certificate); err == nil {
		t.Error("who is below a revoked root is believed")
	}
	must(t, client.Check(at, first.Certificate, p.aa))
}

// wrapped signs a request for the certificate of an authority once more.
func wrapped(t *testing.T, request []byte, at its.Time64, by spdu.Signer) []byte {
	t.Helper()
	d, err := its.ParseData(request, its.MaxRequest)
	must(t, err)
	s, err := spdu.Sign(its.SignedDataPayload{Data: d}, scr.Header(at), by)
	must(t, err)
	octets, err := coer.Marshal(s)
	must(t, err)
	return octets
}

// CTL-14: which requests for the certificate of an authority get one.
func TestV2XAuthorityRequests(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	ctx, who := t.Context(), apptest.Operator()
	grant := trust.Grant{Role: trust.AA, URL: "http://aa.test"}
	request, err := p.V2X.Trust.Apply(ctx, who, trust.AA, "Another AA")
	must(t, err)
	rekey, err := p.V2X.Trust.Rekey(ctx, who, trust.EA)
	must(t, err)
	k := newECKey(t)
	at := p.V2X.Trust.At()
	flipped := append([]byte(nil), request...)
	flipped[len(flipped)-1] ^= 1
	rekeyFlipped := append([]byte(nil), rekey...)
	rekeyFlipped[len(rekeyFlipped)-1] ^= 1
	digest := trust.RequestDigest(request)
	old, err := p.V2X.Trust.Credential(ctx, trust.EA)
	must(t, err)
	wrong := scr.Signer(k, old.Certificate)
	for _, row := range []struct {
		name    string
		request []byte
		grant   trust.Grant
		want    errs.Kind
	}{
		{"changed", flipped, grant, errs.Invalid},
		{"no request", []byte{3}, grant, errs.Invalid},
		{"without a role", request, trust.Grant{URL: "http://aa.test"}, errs.Invalid},
		{"without an address", request, trust.Grant{Role: trust.AA}, errs.Invalid},
		{"for a root", request, trust.Grant{Role: trust.Root, URL: "http://x.test"}, errs.Invalid},
		{"another digest", request, trust.Grant{Role: trust.AA, URL: "http://aa.test", Digest: strings.Repeat("0", 64)}, errs.Invalid},
		{"rekey, changed", rekeyFlipped, trust.Grant{}, errs.Invalid},
		{"rekey for another role", rekey, grant, errs.Invalid},
		{"rekey signed by a stranger", wrapped(t, request, at, scr.Signer(k, p.root)), grant, errs.Invalid},
		{"rekey signed with another key", wrapped(t, request, at, wrong), grant, errs.Invalid},
		{"rekey signed by nobody", wrapped(t, request, at, scr.Signer(k, nil)), grant, errs.Invalid},
		{"rekey for another name", wrapped(t, request, at, old.Signer), trust.Grant{}, errs.Invalid},
		{"rekey made before the certificate", wrapped(t, request, its.Time64(old.Certificate.ToBeSigned.ValidityPeriod.Start-10)*1e6, old.Signer), trust.Grant{}, errs.Denied},
		{"rekey twice wrapped", wrapped(t, rekey, at, old.Signer), trust.Grant{}, errs.Invalid},
	} {
		before := len(p.authorities(t))
		if _, err := p.V2X.Trust.Issue(ctx, who, row.request, row.grant); !errs.Is(err, row.want) {
			t.Errorf("CTL-14 %s: got %v, want the kind %v", row.name, err, row.want)
		}
		if now := len(p.authorities(t)); now != before {
			t.Errorf("CTL-14 %s: there are %d authorities, were %d", row.name, now, before)
		}
	}
	grant.Digest = strings.ToUpper(digest)
	_, err = p.V2X.Trust.Issue(ctx, who, request, grant)
	must(t, err)
	if _, err := p.V2X.Trust.Issue(ctx, who, request, grant); !errs.Is(err, errs.Conflict) {
		t.Errorf("CTL-14 the same request once more: %v", err)
	}
	next, err := p.V2X.Trust.Issue(ctx, who, rekey, trust.Grant{})
	must(t, err)
	if next.URL == "" || next.Peer == "" || next.Role != trust.EA {
		t.Errorf("the certificate that follows is of %v at %q and %q", next.Role, next.URL, next.Peer)
	}
	must(t, p.V2X.Trust.Revoke(ctx, who, p.made.EA))
	stale := wrapped(t, mustApply(t, p, trust.EA, old.Name), at, old.Signer)
	if _, err := p.V2X.Trust.Issue(ctx, who, stale, trust.Grant{}); !errs.Is(err, errs.Denied) {
		t.Errorf("CTL-14 a request that a revoked certificate signs: %v", err)
	}
	p.clock.Move(5 * 366 * 24 * time.Hour)
	if _, err := p.Tickets().Trust.Rekey(ctx, who, trust.AA); !errs.Is(err, errs.Denied) {
		t.Errorf("CTL-14 an authority whose certificate has ended asks for the next: %v", err)
	}
	p.clock.Move(-5 * 366 * 24 * time.Hour)
}

func mustApply(t *testing.T, p *v2xPlatform, role trust.Role, name string) []byte {
	t.Helper()
	request, err := p.V2X.Trust.Apply(t.Context(), apptest.Operator(), role, name)
	must(t, err)
	return request
}

func (p *v2xPlatform) authorities(t *testing.T) []*trust.Authority {
	t.Helper()
	all, err := p.V2X.Trust.List(t.Context(), apptest.Operator())
	must(t, err)
	return all
}

// TestV2XRoles has each operator do what is theirs, and nothing else.
func TestV2XRoles(t *testing.T) {
	t.Parallel()
	p := startV2X(t, withCPOC(t))
	ctx := t.Context()
	deeds := []struct {
		may access.Permission
		do  func(access.Actor) error
	}{
		{access.V2XRead, func(a access.Actor) error { _, err := p.V2X.Trust.List(ctx, a); return err }},
		{access.V2XRoot, func(a access.Actor) error {
			_, err := p.V2X.Trust.Issue(ctx, a, []byte("none"), trust.Grant{Role: trust.AA})
			return err
		}},
		{access.V2XRoot, func(a access.Actor) error { _, err := p.V2X.Trust.CreateRoot(ctx, a, "x"); return err }},
		{access.V2XRoot, func(a access.Actor) error { return p.V2X.Trust.Revoke(ctx, a, its.HashedId8{1}) }},
		{access.V2XRoot, func(a access.Actor) error { return p.V2X.Trust.Move(ctx, a, its.HashedId8{1}, "http://x", "") }},
		{access.V2XEnrolment, func(a access.Actor) error { _, err := p.V2X.Trust.Rekey(ctx, a, trust.EA); return err }},
		{access.V2XEnrolment, func(a access.Actor) error { _, err := p.V2X.Trust.Apply(ctx, a, trust.EA, "EA"); return err }},
		{access.V2XTickets, func(a access.Actor) error { _, err := p.Tickets().Trust.Rekey(ctx, a, trust.AA); return err }},
		{access.V2XManager, func(a access.Actor) error { _, err := p.V2X.Trust.RekeyManager(ctx, a, ""); return err }},
		{access.V2XManager, func(a access.Actor) error { return p.V2X.Trust.Expel(ctx, a, its.HashedId8{1}) }},
		{access.V2XManager, func(a access.Actor) error {
			_, err := p.V2X.Trust.Admit(ctx, a, trust.Admission{Certificate: []byte{1}})
			return err
		}},
	}
	_, err := p.V2X.Trust.CreateManager(ctx, apptest.Operator(), "TLM")
	must(t, err)
	for _, role := range access.Roles() {
		actor := access.Actor{Kind: access.KindOperator, ID: strings.Repeat("d", 32), Role: role}
		for i, d := range deeds {
			if err := d.do(actor); errs.Is(err, errs.Denied) == actor.May(d.may) {
				t.Errorf("the role %s and deed %d, which needs %s: %v", role, i, d.may, err)
			}
		}
	}
	for role, want := range map[access.Role]access.Permission{access.RoleV2XRoot: access.V2XRoot, access.RoleV2XEnrolment: access.V2XEnrolment, access.RoleV2XTickets: access.V2XTickets, access.RoleV2XTrustLists: access.V2XManager} {
		if have := access.Permissions(role); len(have) != 2 || have[0] != access.V2XRead || have[1] != want {
			t.Errorf("the role %s may do %v", role, have)
		}
	}
}

// withCPOC adds the lists of a trust list manager.
func withCPOC(t *testing.T) func(*conf.Config) {
	return func(c *conf.Config) {
		c.Listen.V2XCPOC = freeAddress(t)
		c.V2X.CPOCURL = "http://" + c.Listen.V2XCPOC + "/L0"
	}
}

// document fetches something from a base address.
func document(t *testing.T, method, url string, header http.Header) (*http.Response, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	must(t, err)
	r.Header = header
	if header == nil {
		r.Header = http.Header{}
	}
	a, err := http.DefaultClient.Do(r)
	must(t, err)
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	must(t, err)
	return a, b
}

// TestV2XManager has a trust list manager with several roots, one of them of another installation, and vehicles that know nobody but the manager.
func TestV2XManager(t *testing.T) {
	t.Parallel()
	p, foreign := startV2X(t, withCPOC(t)), startV2X(t, nil)
	ctx, who := t.Context(), apptest.Operator()
	if a, _ := document(t, http.MethodGet, p.Addresses().V2XCPOC+"/gettlmcertificate", nil); a.StatusCode != http.StatusNotFound {
		t.Errorf("without a manager: status %d", a.StatusCode)
	}
	tlm, err := p.V2X.Trust.CreateManager(ctx, who, "EU-TLM_L0")
	must(t, err)
	own, err := p.V2X.Trust.Admit(ctx, who, trust.Admission{Certificate: p.made.Certificate, URL: p.Addresses().V2XDC})
	must(t, err)
	_, err = p.V2X.Trust.Admit(ctx, who, trust.Admission{Certificate: foreign.made.Certificate, URL: foreign.Addresses().V2XDC + "/"})
	must(t, err)
	if _, err := p.V2X.Trust.Admit(ctx, who, trust.Admission{Certificate: p.made.Certificate, URL: p.Addresses().V2XDC}); !errs.Is(err, errs.Conflict) {
		t.Errorf("the same root once more: %v", err)
	}
	for name, adm := range map[string]trust.Admission{
		"an authority":        {Certificate: certificateOctets(t, p.ea), URL: "http://x.test"},
		"no certificate":      {Certificate: []byte{1, 2}, URL: "http://x.test"},
		"without a centre":    {Certificate: foreign.made.Certificate},
		"a manager":           {Certificate: tlm.Octets, URL: "http://x.test"},
		"ftp":                 {Certificate: foreign.made.Certificate, URL: "ftp://x.test"},
		"changed certificate": {Certificate: changed(foreign.made.Certificate), URL: "http://x.test"},
	} {
		if _, err := p.V2X.Trust.Admit(ctx, who, adm); !errs.Is(err, errs.Invalid) {
			t.Errorf("admitting %s: %v", name, err)
		}
	}
	config := agent.Config{Manager: tlm.Octets, CPOC: p.Addresses().V2XCPOC + "/L0", Now: p.clock.Now}
	client, err := agent.New(config)
	must(t, err)
	if _, _, err := client.Authorities(); !errors.Is(err, agent.ErrNoLists) {
		t.Errorf("before the lists: %v", err)
	}
	must(t, client.Update(ctx))
	key, _ := p.vehicle(t, "car-1")
	ec, err := client.Enrol(ctx, "car-1", key)
	must(t, err)
	mine, err := client.Ticket(ctx, ec, agent.Order{})
	must(t, err)
	theirs := foreign.ticket(t)
	at := its.TimeAt(p.clock.Now(), its.LeapSeconds)
	must(t, client.Check(at, mine.Certificate, p.aa))
	must(t, client.Check(at, theirs.Certificate, foreign.aa))
	abroad, err := agent.New(agent.Config{Manager: tlm.Octets, CPOC: p.Addresses().V2XCPOC, Root: foreign.made.Certificate, Now: p.clock.Now})
	must(t, err)
	must(t, abroad.Update(ctx))
	if ea, aa, err := abroad.Authorities(); err != nil || idOf(t, ea) != foreign.made.EA || idOf(t, aa) != foreign.made.AA {
		t.Errorf("who belongs to the other root asks %v, %v: %v", ea, aa, err)
	}
	// The root is followed by another one, then the manager; both by word of the one before.
	p.clock.Move(time.Hour)
	root, err := p.V2X.Trust.RekeyRoot(ctx, who, "")
	must(t, err)
	listed, err := p.V2X.Trust.Admit(ctx, who, trust.Admission{Certificate: root.Octets, URL: p.Addresses().V2XDC})
	must(t, err)
	if string(listed.Successor) != string(p.made.Certificate) {
		t.Error("CTL-12: the list does not say whom the root follows")
	}
	must(t, p.Tickets().Fetch(ctx))
	p.follow(t, trust.EA)
	aa := p.follow(t, trust.AA)
	next, err := p.V2X.Trust.RekeyManager(ctx, who, "EU-TLM_L0b")
	must(t, err)
	last, err := p.V2X.Trust.RekeyManager(ctx, who, "EU-TLM_L0c")
	must(t, err)
	p.clock.Move(10 * time.Minute)
	must(t, p.Tickets().Fetch(ctx))
	must(t, client.Update(ctx))
	if all := client.Roots(); len(all) != 3 || idOf(t, all[0]) != root.ID {
		t.Errorf("the vehicle believes %d roots", len(all))
	}
	now, err := client.Ticket(ctx, ec, agent.Order{})
	must(t, err)
	if issuer(now.Certificate) != aa.ID {
		t.Errorf("CTL-12: the ticket is issued by %v, want %v", issuer(now.Certificate), aa.ID)
	}
	// A root that leaves is not believed any more.
	must(t, p.V2X.Trust.Expel(ctx, who, foreign.made.Root))
	if err := p.V2X.Trust.Expel(ctx, who, foreign.made.Root); !errs.Is(err, errs.NotFound) {
		t.Errorf("expelled twice: %v", err)
	}
	must(t, client.Update(ctx))
	if err := client.Check(at, theirs.Certificate, foreign.aa); err == nil {
		t.Error("who is below a root that was taken off the list is believed")
	}
	must(t, client.Check(at, mine.Certificate, p.aa))
	p.cpoc(t, tlm, next, last, own)
}

// cpoc looks at what annex E of TS 102 941 demands, after the manager was followed by another one twice.
func (p *v2xPlatform) cpoc(t *testing.T, first, next, last *trust.Authority, own *trust.Listed) {
	st := p.V2X.Trust.State()
	at := p.V2X.Trust.At()
	old := st.Of(first.ID)
	delta, _, err := p.V2X.Trust.Delta(t.Context(), last.ID, trust.Newest)
	must(t, err)
	sequence := "1"
	for _, row := range []struct {
		name, path string
		want       []byte // nil: 404
	}{
		{"DST-2", "/gettlmcertificate", last.Octets},
		{"DST-2", "/L0/gettlmcertificate/", last.Octets},
		{"DST-2", "/L1/gettlmcertificate", nil},
		{"DST-2", "/gettlmcertificate/" + first.ID.String(), first.Octets},
		{"DST-2", "/L0/gettlmcertificate/" + strings.ToLower(next.ID.String()) + "/", next.Octets},
		{"DST-2", "/gettlmcertificate/" + own.ID.String(), nil},
		{"DST-2", "/gettlmcertificate/12", nil},
		{"DST-2", "/gettlmcertificate/" + first.ID.String() + "/0", nil},
		{"DST-2", "/gettlmlinkcertificate", st.LinkTo(last.ID).Octets},
		{"DST-2", "/L0/gettlmlinkcertificate/" + next.ID.String(), st.LinkTo(next.ID).Octets},
		{"DST-2", "/gettlmlinkcertificate/" + first.ID.String(), nil},
		{"DST-3", "/getectl/" + first.ID.String(), old.Full},
		{"DST-2", "/L0/getectl/" + last.ID.String() + "/", st.Of(last.ID).Full},
		{"DST-2", "/getectl", nil},
		{"DST-2", "/getectl/" + own.ID.String(), nil},
		{"DST-2", "/getdeltaectl/" + last.ID.String(), delta},
		{"DST-2", "/L0/getdeltaectl/" + last.ID.String() + "/" + sequence + "/", delta},
		{"DST-2", "/getdeltaectl/" + last.ID.String() + "/0", nil},
		{"DST-2", "/getdeltaectl/" + last.ID.String() + "/200", nil},
		{"DST-2", "/getdeltaectl/" + last.ID.String() + "/-1", nil},
		{"DST-2", "/getctl/" + own.ID.String(), nil},
		{"DST-2", "/", nil},
	} {
		a, body := document(t, http.MethodGet, p.Addresses().V2XCPOC+row.path, nil)
		if row.want == nil {
			if a.StatusCode != http.StatusNotFound {
				t.Errorf("%s: %s has status %d, want 404", row.name, row.path, a.StatusCode)
			}
			continue
		}
		if a.StatusCode != http.StatusOK || string(body) != string(row.want) || a.Header.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("%s: %s has status %d, type %q and %d octets, want %d octets", row.name, row.path, a.StatusCode, a.Header.Get("Content-Type"), len(body), len(row.want))
		}
	}
	if a, _ := document(t, http.MethodPost, p.Addresses().V2XCPOC+"/gettlmcertificate", nil); a.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST has status %d", a.StatusCode)
	}
	for id, l := range map[its.HashedId8]*trust.Publisher{first.ID: old, last.ID: st.Of(last.ID)} {
		if l.Lists == nil {
			t.Errorf("DST-3: the list of %v is not valid", id)
		}
	}
	if n := st.Of(last.ID).Lists.CtlSequence; n != 1 {
		t.Errorf("CTL-3: the list of the last manager has the number %d, want 1 after one change", n)
	}
	if st.Of(last.ID).Lists.NextUpdate <= its.Time32(at/1e6) {
		t.Error("the list is over")
	}
}

func changed(octets []byte) []byte {
	b := append([]byte(nil), octets...)
	b[len(b)-1] ^= 1
	return b
}

func certificateOctets(t *testing.T, x *its.Certificate) []byte {
	t.Helper()
	b, err := coer.Marshal(x)
	must(t, err)
	return b
}

func idOf(t *testing.T, x *its.Certificate) its.HashedId8 {
	t.Helper()
	id, err := x.HashedId8()
	must(t, err)
	return id
}

// ticket gets a ticket for a new vehicle.
func (p *v2xPlatform) ticket(t *testing.T) *agent.Ticket {
	t.Helper()
	name := "car-" + hex.EncodeToString([]byte(t.Name()))[:8]
	key, _ := p.vehicle(t, name)
	client := p.client(t)
	ec, err := client.Enrol(t.Context(), name, key)
	must(t, err)
	ticket, err := client.Ticket(t.Context(), ec, agent.Order{})
	must(t, err)
	return ticket
}

// TestV2XManagersNumbersEnd makes as many lists of a manager as there are numbers: then another one has to follow, and goes on.
func TestV2XManagersNumbersEnd(t *testing.T) {
	t.Parallel()
	p := startV2X(t, withCPOC(t))
	ctx, who := t.Context(), apptest.Operator()
	tlm, err := p.V2X.Trust.CreateManager(ctx, who, "TLM")
	must(t, err)
	must(t, p.V2X.Trust.Publish(ctx))
	client, err := agent.New(agent.Config{Manager: tlm.Octets, CPOC: p.Addresses().V2XCPOC, Root: p.made.Certificate, Now: p.clock.Now})
	must(t, err)
	admit := func() error {
		_, err := p.V2X.Trust.Admit(ctx, who, trust.Admission{Certificate: p.made.Certificate, URL: p.Addresses().V2XDC})
		return err
	}
	for n := 1; n <= trustlist.LastOfManager; n++ { // the first list has the number 0
		if n%2 == 1 {
			must(t, admit())
		} else {
			must(t, p.V2X.Trust.Expel(ctx, who, p.made.Root))
		}
		if n == 1 {
			must(t, client.Update(ctx))
		}
	}
	if l := p.V2X.Trust.State().Of(tlm.ID).Lists; l.CtlSequence != trustlist.LastOfManager || len(l.Roots()) != 0 {
		t.Fatalf("the last list has the number %d and %d roots", l.CtlSequence, len(l.Roots()))
	}
	if err := admit(); !errs.Is(err, errs.Conflict) || !strings.Contains(errs.Public(err), "mooring v2x tlm rekey") {
		t.Errorf("CTL-3: one list too many: %v", err)
	}
	must(t, p.V2X.Trust.Move(ctx, who, p.made.AA, p.Addresses().V2XAA+"/authorization?", "")) // the operators of the root are not held up by that
	next, err := p.V2X.Trust.RekeyManager(ctx, who, "")
	must(t, err)
	st := p.V2X.Trust.State()
	if l := st.Of(next.ID).Lists; l == nil || l.CtlSequence != 0 || len(l.Roots()) != 1 {
		t.Errorf("CTL-3: the first list of the next manager is %+v", l)
	}
	if l := st.Of(tlm.ID).Lists; l.CtlSequence != trustlist.LastOfManager {
		t.Errorf("DST-3: the last list of the manager before has the number %d", l.CtlSequence)
	}
	must(t, client.Update(ctx)) // over many deltas, or none: what counts is where it ends
	if len(client.Roots()) != 1 {
		t.Errorf("the vehicle believes %d roots", len(client.Roots()))
	}
	if err := p.V2X.Trust.Revoke(ctx, who, next.ID); !errs.Is(err, errs.Invalid) {
		t.Errorf("a manager is revoked: %v", err)
	}
	if err := p.V2X.Trust.Move(ctx, who, next.ID, "http://x.test", ""); !errs.Is(err, errs.NotFound) {
		t.Errorf("the operators of the root move the manager: %v", err)
	}
}
