package trustlist

import (
	"crypto/elliptic"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

func (a authority) asRoot(before *authority) its.CtlEntry {
	e := &its.RootCaEntry{SelfsignedRootCa: *a.cert}
	if before != nil {
		e.SuccessorTo = before.cert
	}
	return its.CtlEntry{Choice: its.CtlRca, Rca: e}
}

func (a authority) asManager() its.CtlEntry {
	return its.CtlEntry{Choice: its.CtlTlm, Tlm: &its.TlmEntry{SelfSignedTLMCertificate: *a.cert, AccessPoint: "http://cpoc/L0"}}
}

func ectl(l its.CtlFormat) its.EtsiTs102941DataContent {
	c := ctl(l)
	c.Choice = its.CertificateTrustListTlm
	return c
}

// Lists of a manager that are believed, and those that are not; which one is newer, and what deltas make of them.
func TestManagersLists(t *testing.T) {
	t.Parallel()
	manager, other := make1(t, its.EtsiTLM, nil), make1(t, its.EtsiTLM, nil)
	first, second := make1(t, its.EtsiRCA, nil), make1(t, its.EtsiRCA, nil)
	ea := make1(t, its.EtsiEA, &first)
	forged := second
	copied := *second.cert
	copied.ToBeSigned.Id = its.Name("forged")
	forged.cert = &copied
	full := its.CtlFormat{IsFullCtl: true, CtlSequence: 7, CtlCommands: adds(first.asRoot(nil), second.asRoot(&first), forged.asRoot(nil), manager.asManager(),
		its.CtlEntry{Choice: its.CtlDc, Dc: &its.DcEntry{Url: "http://one/", Cert: []its.HashedId8{first.id(t)}}},
		its.CtlEntry{Choice: its.CtlDc, Dc: &its.DcEntry{Url: "http://both", Cert: []its.HashedId8{first.id(t), second.id(t)}}})}
	over, last, foreign := full, full, full
	over.NextUpdate, last.CtlSequence, foreign.CtlCommands = its.Time32(now/1e6), 255, adds(first.asRoot(nil), ea.asEA())
	for _, row := range []struct {
		name   string
		octets []byte
		want   error
	}{
		{"CTL-1 full list", manager.list(t, its.PsidCTL, ectl(full), now), nil},
		{"CTL-1 another application", manager.list(t, its.PsidCRL, ectl(full), now), ErrForm},
		{"CTL-3 number 255", manager.list(t, its.PsidCTL, ectl(last), now), ErrForm},
		{"CTL-7 over", manager.list(t, its.PsidCTL, ectl(over), now), ErrOver},
		{"CTL-7 another manager", other.list(t, its.PsidCTL, ectl(full), now), ErrSigner},
		{"CTL-7 a root", first.list(t, its.PsidCTL, ectl(full), now), ErrSigner},
		{"CTL-7 a list of a root", manager.list(t, its.PsidCTL, ctl(its.CtlFormat{IsFullCtl: true, CtlCommands: adds(dc(first.id(t)))}), now), ErrForm},
	} {
		if _, err := ReadECTL(row.octets, manager.cert, now); !errors.Is(err, row.want) {
			t.Errorf("%s: got %v, want %v", row.name, err, row.want)
		}
	}
	if _, err := ReadECTL(manager.list(t, its.PsidCTL, ectl(full), now), first.cert, now); !errors.Is(err, ErrSigner) {
		t.Errorf("CTL-7: a root passes for a manager: %v", err)
	}
	if b, err := scr.Encode(ectl(foreign)); err == nil {
		t.Errorf("CTL-5: a list of a manager with an authority is written as %x", b)
	}
	b := encoded(t, ctl(its.CtlFormat{IsFullCtl: true, CtlCommands: adds(ea.asEA())}), func(b []byte) { b[tagAt] = 0x85 })
	if _, err := ReadECTL(manager.listOf(t, its.PsidCTL, b, now), manager.cert, now); !errors.Is(err, ErrForm) {
		t.Errorf("CTL-5: a list of a manager with an authority is read: %v", err)
	}
	list, err := ReadECTL(manager.list(t, its.PsidCTL, ectl(full), now), manager.cert, now)
	if err != nil {
		t.Fatal(err)
	}
	// CTL-9: roots, the manager with a path in its address, and centres with and without a slash at the end, in the order of the list of the EU.
	roots := list.Roots()
	if len(roots) != 2 || roots[0].ID != first.id(t) || roots[1].ID != second.id(t) || roots[0].Successor != nil || roots[1].Successor == nil {
		t.Fatalf("the roots are %+v", roots)
	}
	if len(roots[0].Centres) != 2 || roots[0].Centres[0] != "http://one/" || len(roots[1].Centres) != 1 {
		t.Errorf("their centres are %q and %q", roots[0].Centres, roots[1].Centres)
	}
	if a, b := Join("http://one/", "getctl", "A"), Join("http://one", "getctl", "A"); a != b || a != "http://one/getctl/A" {
		t.Errorf("CTL-9: %q and %q", a, b)
	}
}

// CTL-9: the lists of real trust list managers in the directory that MOORING_V2X_SAMPLES names are signed by whom they say, and have roots with centres. They are not ours to hand on.
func TestCTL9RealLists(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("MOORING_V2X_SAMPLES")
	if dir == "" {
		t.Skip("MOORING_V2X_SAMPLES names no directory")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.oer"))
	if err != nil {
		t.Fatal(err)
	}
	lists := 0
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		d, err := its.ParseData(b, its.MaxTrustList)
		if err != nil || d.Content.Choice != its.ContentSigned || len(d.Content.SignedData.Signer.Certificate) != 1 {
			continue
		}
		s := d.Content.SignedData
		manager := &s.Signer.Certificate[0]
		if manager.CheckRole(its.EtsiTLM, 0) != nil || manager.Verify(nil) != nil {
			continue
		}
		lists++
		l, err := ReadECTL(b, manager, s.TbsData.HeaderInfo.GenerationTime.Value)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		for _, r := range l.Roots() {
			if len(r.Centres) == 0 || r.Certificate.CheckRole(its.EtsiRCA, 0) != nil {
				t.Errorf("%s: the root %s has the centres %q, %v", file, r.ID, r.Centres, r.Certificate.CheckRole(its.EtsiRCA, 0))
			}
			t.Logf("%s: %s %q at %q", filepath.Base(file), r.ID, r.Certificate.ToBeSigned.Id.Name, r.Centres)
		}
		if len(l.Roots()) == 0 {
			t.Errorf("%s has no roots", file)
		}
	}
	if lists == 0 {
		t.Errorf("%s has no list of a manager", dir)
	}
}

// CTL-2, CTL-3: numbers of a manager do not go round, and a delta leads from one list to the next.
func TestManagersNumbers(t *testing.T) {
	t.Parallel()
	manager, first, second := make1(t, its.EtsiTLM, nil), make1(t, its.EtsiRCA, nil), make1(t, its.EtsiRCA, nil)
	read := func(l its.CtlFormat) *CTL {
		t.Helper()
		c, err := ReadECTL(manager.list(t, its.PsidCTL, ectl(l), now), manager.cert, now)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	early, late := read(its.CtlFormat{IsFullCtl: true, CtlSequence: 1, CtlCommands: adds(first.asRoot(nil))}), read(its.CtlFormat{IsFullCtl: true, CtlSequence: 250, CtlCommands: adds(first.asRoot(nil))})
	if !late.Newer(early) || early.Newer(late) {
		t.Error("250 does not come after 1")
	}
	step := read(its.CtlFormat{CtlSequence: 251, CtlCommands: append([]its.CtlCommand{{Choice: its.CtlDeletes, Delete: its.CtlDelete{Cert: first.id(t)}}}, adds(second.asRoot(&first))...)})
	after, err := late.Apply(step)
	if err != nil {
		t.Fatal(err)
	}
	if r := after.Roots(); len(r) != 1 || r[0].ID != second.id(t) || !after.Newer(late) {
		t.Errorf("after the delta: %+v", r)
	}
	if _, err := early.Apply(step); !errors.Is(err, ErrPredecessor) {
		t.Errorf("CTL-8: %v", err)
	}
	late.CtlFormat.CtlSequence = 255
	if _, err := late.Apply(read(its.CtlFormat{CtlSequence: 0, CtlCommands: []its.CtlCommand{}})); !errors.Is(err, ErrPredecessor) {
		t.Errorf("CTL-3: a number went round: %v", err)
	}
}

// link is a link certificate as change has it.
func (a authority) link(t testing.TB, next authority, role its.EtsiRole, change func(*its.ToBeSignedLinkCertificate)) []byte {
	t.Helper()
	digest, err := next.cert.Digest()
	if err != nil {
		t.Fatal(err)
	}
	body := &its.ToBeSignedLinkCertificate{ExpiryTime: a.cert.ToBeSigned.ValidityPeriod.End(), CertificateHash: its.HashedData{Choice: next.cert.Issuer.Hash(), Hash: digest}}
	if change != nil {
		change(body)
	}
	c := its.EtsiTs102941DataContent{Choice: its.LinkCertificateTlm, LinkCertificate: body}
	if role == its.EtsiRCA {
		c.Choice = its.SingleSignedLinkCertificateRca
	}
	return a.says(t, c)
}

// says signs with the digest of the certificate as signer.
func (a authority) says(t testing.TB, c its.EtsiTs102941DataContent) []byte {
	t.Helper()
	b, err := scr.Encode(c)
	if err != nil {
		t.Fatal(err)
	}
	h := scr.Header(now)
	h.Psid = its.PsidCTL
	d, err := spdu.Sign(spdu.Payload(b), h, a.signer(false))
	if err != nil {
		t.Fatal(err)
	}
	octets, err := coer.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return octets
}

func (a authority) wrap(t testing.TB, single []byte) []byte {
	t.Helper()
	d, err := its.ParseData(single, its.MaxRequest)
	if err != nil {
		t.Fatal(err)
	}
	return a.says(t, its.EtsiTs102941DataContent{Choice: its.DoubleSignedLinkCertificateRca, Data: d})
}

// CTL-10, CTL-11: which link certificates lead from the old to the new.
func TestLinks(t *testing.T) {
	t.Parallel()
	tlm, tlm2, other := make1(t, its.EtsiTLM, nil), make1(t, its.EtsiTLM, nil), make1(t, its.EtsiTLM, nil)
	root, root2, stranger := make1(t, its.EtsiRCA, nil), make1(t, its.EtsiRCA, nil), make1(t, its.EtsiRCA, nil)
	ea := make1(t, its.EtsiEA, &root)
	tlm384, root384 := makeOn(t, elliptic.P384(), its.EtsiTLM, nil, nil), makeOn(t, elliptic.P384(), its.EtsiRCA, nil, nil)
	shorter := func(l *its.ToBeSignedLinkCertificate) {
		l.CertificateHash = its.HashedData{Choice: its.SHA256, Hash: make([]byte, 32)}
	}
	ended := func(l *its.ToBeSignedLinkCertificate) { l.ExpiryTime = its.Time32(now / 1e6) }
	long := func(l *its.ToBeSignedLinkCertificate) { l.ExpiryTime++ }
	wrong := func(l *its.ToBeSignedLinkCertificate) { l.CertificateHash.Hash[0] ^= 1 }
	longer := func(l *its.ToBeSignedLinkCertificate) {
		l.CertificateHash = its.HashedData{Choice: its.SHA384, Hash: make([]byte, 48)}
	}
	flipped := tlm.link(t, tlm2, its.EtsiTLM, nil)
	flipped[len(flipped)-1] ^= 1
	for _, row := range []struct {
		name     string
		octets   []byte
		old, new authority
		want     error
	}{
		{"CTL-10 manager", tlm.link(t, tlm2, its.EtsiTLM, nil), tlm, tlm2, nil},
		{"CTL-10 sha384: from a key of 256 bits to one of 384", tlm.link(t, tlm384, its.EtsiTLM, nil), tlm, tlm384, nil},
		{"CTL-10 sha384: from a key of 384 bits to one of 256", tlm384.link(t, tlm, its.EtsiTLM, nil), tlm384, tlm, nil},
		{"CTL-10 sha384: by the digest of a shorter algorithm", tlm.link(t, tlm384, its.EtsiTLM, shorter), tlm, tlm384, ErrLink},
		{"CTL-10 sha384: another successor", tlm.link(t, tlm384, its.EtsiTLM, nil), tlm, tlm2, ErrLink},
		{"CTL-11 sha384", root384.wrap(t, root.link(t, root384, its.EtsiRCA, nil)), root, root384, nil},
		{"CTL-11 sha384: back", root.wrap(t, root384.link(t, root, its.EtsiRCA, nil)), root384, root, nil},
		{"CTL-10 backwards", tlm.link(t, tlm2, its.EtsiTLM, nil), tlm2, tlm, ErrLink},
		{"CTL-10 another successor", tlm.link(t, tlm2, its.EtsiTLM, nil), tlm, other, ErrLink},
		{"CTL-10 another manager", other.link(t, tlm2, its.EtsiTLM, nil), tlm, tlm2, ErrSigner},
		{"CTL-10 over", tlm.link(t, tlm2, its.EtsiTLM, ended), tlm, tlm2, ErrOver},
		{"CTL-10 beyond the old one's end", tlm.link(t, tlm2, its.EtsiTLM, long), tlm, tlm2, ErrOver},
		{"CTL-10 wrong digest", tlm.link(t, tlm2, its.EtsiTLM, wrong), tlm, tlm2, ErrLink},
		{"CTL-10 digest of another algorithm", tlm.link(t, tlm2, its.EtsiTLM, longer), tlm, tlm2, ErrLink},
		{"CTL-10 changed", flipped, tlm, tlm2, ErrSigner},
		{"CTL-10 a root for a manager", root.link(t, tlm2, its.EtsiTLM, nil), root, tlm2, ErrLink},
		{"CTL-11 root", root2.wrap(t, root.link(t, root2, its.EtsiRCA, nil)), root, root2, nil},
		{"CTL-11 wrong order of signers", root.wrap(t, root2.link(t, root2, its.EtsiRCA, nil)), root, root2, ErrSigner},
		{"CTL-11 both by the old one", root.wrap(t, root.link(t, root2, its.EtsiRCA, nil)), root, root2, ErrSigner},
		{"CTL-11 both by the new one", root2.wrap(t, root2.link(t, root2, its.EtsiRCA, nil)), root, root2, ErrSigner},
		{"CTL-11 the second by a stranger", stranger.wrap(t, root.link(t, root2, its.EtsiRCA, nil)), root, root2, ErrSigner},
		{"CTL-11 wrong digest", root2.wrap(t, root.link(t, root2, its.EtsiRCA, wrong)), root, root2, ErrLink},
		{"CTL-11 over", root2.wrap(t, root.link(t, root2, its.EtsiRCA, ended)), root, root2, ErrOver},
		{"CTL-11 for an authority", ea.wrap(t, root.link(t, ea, its.EtsiRCA, nil)), root, ea, ErrLink},
		{"CTL-11 single", root.link(t, root2, its.EtsiRCA, nil), root, root2, ErrForm},
		{"CTL-11 a trust list", root.list(t, its.PsidCTL, ctl(its.CtlFormat{IsFullCtl: true, CtlCommands: adds(dc(root.id(t)))}), now), root, root2, ErrForm},
	} {
		t.Run(row.name, func(t *testing.T) {
			l, err := ReadLink(row.octets)
			if err == nil {
				err = l.Check(row.old.cert, row.new.cert, now)
			}
			if !errors.Is(err, row.want) {
				t.Errorf("got %v, want %v", err, row.want)
			}
		})
	}
	l, err := ReadLink(root2.wrap(t, root.link(t, root2, its.EtsiRCA, nil)))
	if err != nil || l.Old != root.id(t) || l.New != root2.id(t) {
		t.Errorf("the link says %+v, %v", l, err)
	}
	if err := l.Check(root.cert, root2.cert, its.Time64(root.cert.ToBeSigned.ValidityPeriod.End())*1e6); !errors.Is(err, ErrOver) {
		t.Errorf("after the old one's end: %v", err)
	}
}

// FuzzReadLink reads link certificates that anybody may have written.
func FuzzReadLink(f *testing.F) {
	root, root2 := make1(f, its.EtsiRCA, nil), make1(f, its.EtsiRCA, nil)
	f.Add(root2.wrap(f, root.link(f, root2, its.EtsiRCA, nil)))
	f.Add(root.link(f, root2, its.EtsiTLM, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ReadLink(b)
		if err == nil && l.ToBeSignedLinkCertificate == nil {
			t.Fatal("a link that is none")
		}
		if err == nil {
			_ = l.Check(root.cert, root2.cert, now)
		}
	})
}

// FuzzReadECTL reads lists of a manager that anybody may have written.
func FuzzReadECTL(f *testing.F) {
	manager, root := make1(f, its.EtsiTLM, nil), make1(f, its.EtsiRCA, nil)
	f.Add(manager.list(f, its.PsidCTL, ectl(its.CtlFormat{IsFullCtl: true, CtlCommands: adds(root.asRoot(nil), manager.asManager())}), now))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := ReadECTL(b, manager.cert, now); err == nil {
			l.Roots()
		}
	})
}
