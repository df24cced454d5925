package trustlist

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"testing"

	"mooring/wire/butterfly"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

const now its.Time64 = 700_000_000e6

// authority is a certificate with its key.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *its.Certificate
}

func make1(t testing.TB, role its.EtsiRole, by *authority) authority {
	t.Helper()
	return makeOn(t, elliptic.P256(), role, by, nil)
}

// makeOn is make1 with a key of another curve, and what change makes of the certificate.
func makeOn(t testing.TB, curve elliptic.Curve, role its.EtsiRole, by *authority, change func(*its.ToBeSignedCertificate)) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	public := its.PublicVerificationKey{Choice: algorithm(key)}
	n := public.Choice.Size()
	public.Point = its.CurvePoint{Form: its.CompressedY0 + its.PointForm(point[2*n]&1), X: point[1 : n+1]}
	all := its.Group(its.SubjectPermissions{Choice: its.SubjectsAll})
	all.ChainLengthRange = -1
	x := &its.Certificate{Issuer: its.IssuerIdentifier{Choice: its.IssuerSelf, Self: public.Choice.Hash()}, ToBeSigned: its.ToBeSignedCertificate{Id: its.Name("x"),
		ValidityPeriod: its.ValidityPeriod{Start: its.Time32(now/1e6) - 1000, Duration: its.Duration{Choice: its.Years, Value: 1}}, CertIssuePermissions: []its.PsidGroupPermissions{all},
		VerifyKeyIndicator: its.VerificationKeyIndicator{VerificationKey: public}}}
	switch role {
	case its.EtsiRCA:
		x.ToBeSigned.AppPermissions = []its.PsidSsp{its.Bitmap(its.PsidCRL, 1), its.Bitmap(its.PsidCTL, 1, 0x38)}
	case its.EtsiTLM:
		x.ToBeSigned.CertIssuePermissions, x.ToBeSigned.AppPermissions = nil, []its.PsidSsp{its.Bitmap(its.PsidCTL, 1, 0xc8)}
	case its.EtsiEA:
		x.ToBeSigned.AppPermissions = []its.PsidSsp{its.Bitmap(its.PsidSCR, 1, 0x0e)}
	default:
		x.ToBeSigned.AppPermissions = []its.PsidSsp{its.Bitmap(its.PsidSCR, 1, 0x32)}
	}
	if change != nil {
		change(&x.ToBeSigned)
	}
	signer, issuer := key, (*its.Certificate)(nil)
	if by != nil {
		private, err := butterfly.RandomScalar(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		x.ToBeSigned.EncryptionKey = coer.Some(scr.EncryptionKey(private))
		id, err := by.cert.HashedId8()
		if err != nil {
			t.Fatal(err)
		}
		x.Issuer = its.IssuerIdentifier{Digest: id}
		signer, issuer = by.key, by.cert
	}
	digest, err := x.Input(issuer)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := spdu.ECDSA(signer)(digest)
	if err != nil {
		t.Fatal(err)
	}
	x.Signature = coer.Some(sig)
	return authority{key, x}
}

func algorithm(key *ecdsa.PrivateKey) its.SignatureAlgorithm {
	if key.Curve == elliptic.P384() {
		return its.ECDSANistP384
	}
	return its.ECDSANistP256
}

func (a authority) signer(attach bool) spdu.Signer {
	return spdu.Signer{Algorithm: algorithm(a.key), Certificate: a.cert, Attach: attach, Sign: spdu.ECDSA(a.key)}
}

// list signs a list, with what change makes of it.
func (a authority) list(t testing.TB, psid its.Psid, c its.EtsiTs102941DataContent, made its.Time64) []byte {
	t.Helper()
	b, err := scr.Encode(c)
	if err != nil {
		t.Fatal(err)
	}
	return a.listOf(t, psid, b, made)
}

// listOf signs octets that are to be a list.
func (a authority) listOf(t testing.TB, psid its.Psid, b []byte, made its.Time64) []byte {
	t.Helper()
	h := scr.Header(made)
	h.Psid = psid
	d, err := spdu.Sign(spdu.Payload(b), h, a.signer(true))
	if err != nil {
		t.Fatal(err)
	}
	octets, err := coer.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return octets
}

// encoded is a list whose octets are changed, where those that result could not be written.
func encoded(t testing.TB, c its.EtsiTs102941DataContent, change func(b []byte)) []byte {
	t.Helper()
	b, err := scr.Encode(c)
	if err != nil {
		t.Fatal(err)
	}
	change(b)
	return b
}

// The octets of a list that tell whose it is and whether it is a full one: version, tag, preamble, version, nextUpdate, isFullCtl.
const tagAt, fullAt = 1, 9

func (a authority) id(t testing.TB) its.HashedId8 {
	t.Helper()
	id, err := a.cert.HashedId8()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func ctl(l its.CtlFormat) its.EtsiTs102941DataContent {
	if l.NextUpdate == 0 {
		l.NextUpdate = its.Time32(now/1e6) + 1000
	}
	return its.EtsiTs102941DataContent{Choice: its.CertificateTrustListRca, CertificateTrustList: &l}
}

func adds(entries ...its.CtlEntry) (list []its.CtlCommand) {
	for _, e := range entries {
		list = append(list, its.CtlCommand{Add: e})
	}
	return list
}

func dc(ids ...its.HashedId8) its.CtlEntry {
	return its.CtlEntry{Choice: its.CtlDc, Dc: &its.DcEntry{Url: "http://dc", Cert: ids}}
}

func (a authority) asEA() its.CtlEntry {
	return its.CtlEntry{Choice: its.CtlEa, Ea: &its.EaEntry{EaCertificate: *a.cert, AaAccessPoint: "http://ea/v"}}
}

func (a authority) asAA() its.CtlEntry {
	return its.CtlEntry{Choice: its.CtlAa, Aa: &its.AaEntry{AaCertificate: *a.cert, AccessPoint: "http://aa"}}
}

// Lists that are believed, and those that are not.
func TestLists(t *testing.T) {
	t.Parallel()
	root, other := make1(t, its.EtsiRCA, nil), make1(t, its.EtsiRCA, nil)
	ea := make1(t, its.EtsiEA, &root)
	less := makeOn(t, elliptic.P256(), its.EtsiRCA, nil, func(x *its.ToBeSignedCertificate) {
		x.AppPermissions = []its.PsidSsp{its.Bitmap(its.PsidCRL, 1), its.Bitmap(its.PsidCTL, 1, 0x18)} // no enrolment authorities
	})
	full := its.CtlFormat{IsFullCtl: true, CtlSequence: 3, CtlCommands: adds(ea.asEA(), dc(root.id(t)))}
	over := full
	over.NextUpdate = its.Time32(now / 1e6)
	without := full
	without.CtlCommands = adds(ea.asEA(), dc(other.id(t)))
	foreign := full
	foreign.CtlCommands = adds(dc(root.id(t)), its.CtlEntry{Choice: its.CtlRca, Rca: &its.RootCaEntry{SelfsignedRootCa: *other.cert}})
	tlm := ctl(full)
	tlm.Choice = its.CertificateTrustListTlm
	crl := func(this, next its.Time64, ids ...its.HashedId8) its.EtsiTs102941DataContent {
		return its.EtsiTs102941DataContent{Choice: its.CertificateRevocationList, CertificateRevocationList: &its.ToBeSignedCrl{ThisUpdate: its.Time32(this / 1e6), NextUpdate: its.Time32(next / 1e6), Entries: append([]its.HashedId8{}, ids...)}}
	}
	for _, row := range []struct {
		name   string
		octets func() []byte
		read   func([]byte) error
		want   error
	}{
		{"CTL-1 full list", func() []byte { return root.list(t, its.PsidCTL, ctl(full), now) }, nil, nil},
		{"CTL-1 another application", func() []byte { return root.list(t, its.PsidSCR, ctl(full), now) }, nil, ErrForm},
		{"CTL-6 without the root's centre", func() []byte { return root.list(t, its.PsidCTL, ctl(without), now) }, nil, ErrForeign},
		{"CTL-7 over", func() []byte { return root.list(t, its.PsidCTL, ctl(over), now) }, nil, ErrOver},
		{"CTL-7 another root", func() []byte { return other.list(t, its.PsidCTL, ctl(full), now) }, nil, ErrSigner},
		{"CTL-7 signed by an authority", func() []byte { return ea.list(t, its.PsidCTL, ctl(full), now) }, nil, ErrSigner},
		{"CTL-7 wrong SSP", func() []byte { return less.list(t, its.PsidCTL, ctl(full), now) }, func(b []byte) error { _, err := ReadCTL(b, less.cert, now); return err }, ErrSigner},
		{"CTL-7 made before the root was valid", func() []byte { return root.list(t, its.PsidCTL, ctl(full), now-2000e6) }, nil, ErrSigner},
		{"CTL-7 changed", func() []byte { b := root.list(t, its.PsidCTL, ctl(full), now); b[len(b)-1] ^= 1; return b }, nil, ErrSigner},
		{"CTL-13 empty", func() []byte { return root.list(t, its.PsidCRL, crl(now, now+5e6), now) }, crlOf(root), nil},
		{"CTL-13 over", func() []byte { return root.list(t, its.PsidCRL, crl(now-5e6, now), now) }, crlOf(root), ErrOver},
		{"CTL-13 ends before it begins", func() []byte { return root.list(t, its.PsidCRL, crl(now+9e6, now+5e6), now) }, crlOf(root), ErrOver},
		{"CTL-13 another root", func() []byte { return other.list(t, its.PsidCRL, crl(now, now+5e6), now) }, crlOf(root), ErrSigner},
		{"CTL-13 a trust list", func() []byte { return root.list(t, its.PsidCRL, ctl(full), now) }, crlOf(root), ErrForm},
	} {
		t.Run(row.name, func(t *testing.T) {
			read := row.read
			if read == nil {
				read = func(b []byte) error { _, err := ReadCTL(b, root.cert, now); return err }
			}
			if err := read(row.octets()); !errors.Is(err, row.want) {
				t.Errorf("got %v, want %v", err, row.want)
			}
		})
	}
	// CTL-5: who cannot write such a list can still receive one.
	for name, c := range map[string]its.EtsiTs102941DataContent{"a root among authorities": ctl(foreign), "the list of a manager": tlm} {
		if b, err := scr.Encode(c); err == nil {
			t.Errorf("CTL-5 %s: it is written as %x", name, b)
		}
	}
	roots := ectl(its.CtlFormat{IsFullCtl: true, CtlCommands: adds(root.asRoot(nil), dc(root.id(t)))})
	for name, b := range map[string][]byte{
		"CTL-5 roots in the list of a root":              encoded(t, roots, func(b []byte) { b[tagAt] = 0x86 }),
		"CTL-5 an authority in the list of a manager":    encoded(t, ctl(full), func(b []byte) { b[tagAt] = 0x85 }),
		"CTL-4 a full list that deletes, which was none": encoded(t, ctl(its.CtlFormat{CtlCommands: []its.CtlCommand{{Choice: its.CtlDeletes, Delete: its.CtlDelete{Cert: ea.id(t)}}}}), func(b []byte) { b[fullAt] = 0xff }),
	} {
		if _, err := ReadCTL(root.listOf(t, its.PsidCTL, b, now), root.cert, now); !errors.Is(err, ErrForm) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := ReadCTL(root.listOf(t, its.PsidCTL, encoded(t, ctl(full), func([]byte) {}), now), root.cert, now); err != nil {
		t.Errorf("octets that were not changed: %v", err)
	}
	l, err := ReadCRL(root.list(t, its.PsidCRL, crl(now, now+5e6, ea.id(t)), now), root.cert, now)
	if err != nil {
		t.Fatal(err)
	}
	high := forms(ea.cert)[1]
	if !l.Revoked(ea.cert) || !l.Revoked(high) || l.Revoked(root.cert) || !l.Lists(ea.id(t)) {
		t.Error("CRY-9: not both variants of a revoked certificate are found, or one that is not revoked")
	}
	highID, err := high.HashedId8()
	if err != nil {
		t.Fatal(err)
	}
	swapped := &CRL{revoked: map[its.HashedId8]bool{highID: true}}
	if !swapped.Revoked(ea.cert) || !swapped.Revoked(high) || swapped.Revoked(root.cert) {
		t.Error("CRY-9: not both variants are found where the list names the one with the higher s")
	}
}

func crlOf(root authority) func([]byte) error {
	return func(b []byte) error { _, err := ReadCRL(b, root.cert, now); return err }
}

// CTL-2, CTL-3, CTL-4, CTL-8: deltas lead from one full list to the next, round the end of the numbers, and nowhere else.
func TestDelta(t *testing.T) {
	t.Parallel()
	root := make1(t, its.EtsiRCA, nil)
	ea, aa, aa2 := make1(t, its.EtsiEA, &root), make1(t, its.EtsiAA, &root), make1(t, its.EtsiAA, &root)
	read := func(l its.CtlFormat, at its.Time64) *CTL {
		t.Helper()
		c, err := ReadCTL(root.list(t, its.PsidCTL, ctl(l), at), root.cert, now)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	before := read(its.CtlFormat{IsFullCtl: true, CtlSequence: 255, CtlCommands: adds(ea.asEA(), aa.asAA(), dc(root.id(t)))}, now)
	delta := its.CtlFormat{CtlSequence: 0, CtlCommands: append([]its.CtlCommand{
		{Choice: its.CtlDeletes, Delete: its.CtlDelete{Cert: aa.id(t)}}, {Choice: its.CtlDeletes, Delete: its.CtlDelete{Choice: its.CtlDeleteDc, Dc: "http://dc"}}},
		adds(aa2.asAA(), dc(root.id(t)))...)}
	after, err := before.Apply(read(delta, now))
	if err != nil {
		t.Fatal(err)
	}
	if after.Find(aa.id(t)) != nil || after.Find(aa2.id(t)) == nil || after.Find(ea.id(t)) == nil || len(after.CtlCommands) != 3 || after.CtlSequence != 0 {
		t.Errorf("after the delta: %+v", after.CtlFormat)
	}
	if !after.Newer(before) || before.Newer(after) || after.Newer(after) || !before.Newer(nil) {
		t.Error("CTL-3, CTL-7: 0 does not come after 255, or an older list is newer")
	}
	if later := read(its.CtlFormat{IsFullCtl: true, CtlSequence: 255, CtlCommands: adds(dc(root.id(t)))}, now+1); !later.Newer(before) || before.Newer(later) {
		t.Error("of two lists with one number the later one is not newer")
	}
	if _, err := before.Apply(read(delta, now-1)); !errors.Is(err, ErrPredecessor) {
		t.Errorf("CTL-8, CTL-3: a delta of this number from 256 lists ago: %v", err)
	}
	for name, d := range map[string]its.CtlFormat{
		"CTL-8 another number":       {CtlSequence: 1},
		"CTL-4 deletes what is gone": {CtlSequence: 0, CtlCommands: []its.CtlCommand{{Choice: its.CtlDeletes, Delete: its.CtlDelete{Cert: aa2.id(t)}}}},
	} {
		if d.CtlCommands == nil {
			d.CtlCommands = []its.CtlCommand{}
		}
		if _, err := before.Apply(read(d, now)); !errors.Is(err, ErrPredecessor) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	bad := its.CtlFormat{IsFullCtl: true, CtlCommands: []its.CtlCommand{{Choice: its.CtlDeletes, Delete: its.CtlDelete{Cert: aa.id(t)}}}}
	if b, err := scr.Encode(ctl(bad)); err == nil {
		if _, err := its.ParseManagement(b); err == nil {
			t.Error("CTL-4: a full list that deletes can be read")
		}
	}
}

// FuzzRead reads lists that anybody may have written.
func FuzzRead(f *testing.F) {
	root := make1(f, its.EtsiRCA, nil)
	f.Add(root.list(f, its.PsidCTL, ctl(its.CtlFormat{IsFullCtl: true, CtlCommands: adds(dc(root.id(f)))}), now))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := ReadCTL(b, root.cert, now); err == nil && l.CtlFormat == nil {
			t.Error("a list that is none")
		}
		if l, err := ReadCRL(b, root.cert, now); err == nil && l.ToBeSignedCrl == nil {
			t.Error("a list that is none")
		}
	})
}
