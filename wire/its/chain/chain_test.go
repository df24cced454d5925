package chain

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"mooring/wire/butterfly"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/spdu"
)

const (
	begin = its.Time32(700000000)
	now   = its.Time64(begin)*1e6 + 3600e6
)

func hours(n uint16) its.Duration { return its.Duration{Choice: its.Hours, Value: n} }

func bitmapRange(p its.Psid, value, mask []byte) its.PsidSspRange {
	return its.PsidSspRange{Psid: p, SspRange: coer.Some(its.SspRange{Choice: its.SspRangeBitmap, SspValue: value, SspBitmask: mask})}
}

func group(low int64, ee its.EndEntityType, ranges ...its.PsidSspRange) its.PsidGroupPermissions {
	return its.PsidGroupPermissions{SubjectPermissions: its.SubjectPermissions{Explicit: ranges}, MinChainLength: low, EeType: ee}
}

// toIssue is the permissions of the roots of the European trust list: what their authorities have, and what those issue. DENM is there twice.
func toIssue(low int64) []its.PsidGroupPermissions {
	both := its.EndEntityApp | its.EndEntityEnrol
	below := group(low, both, bitmapRange(36, []byte{1, 0xff, 0xfc}, []byte{0xff, 0, 3}), bitmapRange(37, []byte{1, 0xff, 0xff, 0xff}, []byte{0xff, 0, 0, 0}),
		bitmapRange(37, []byte{2, 0xff, 0xff, 0xff, 0xff}, []byte{0xff, 0, 0, 0, 0}), bitmapRange(623, []byte{1, 0xc0}, []byte{0xff, 0x3f}), its.PsidSspRange{Psid: 637})
	if low == 1 {
		return []its.PsidGroupPermissions{below}
	}
	return []its.PsidGroupPermissions{group(1, its.EndEntityApp, bitmapRange(623, []byte{1, 0x3e}, []byte{0xff, 0xc1})), below}
}

// node is a certificate and its key.
type node struct {
	key    *ecdsa.PrivateKey
	cert   *its.Certificate
	issuer *node
}

// newNode makes a certificate that is not signed yet.
func newNode(t testing.TB, issuer *node, name string, app []its.PsidSsp, issue []its.PsidGroupPermissions) *node {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	id := its.CertificateId{Choice: its.IdNone}
	if name != "" {
		id = its.Name(name)
	}
	point := its.CurvePoint{Form: its.CompressedY0 + its.PointForm(b[64]&1), X: b[1:33]}
	return &node{key, &its.Certificate{ToBeSigned: its.ToBeSignedCertificate{Id: id, ValidityPeriod: its.ValidityPeriod{Start: begin, Duration: hours(24)}, AppPermissions: app,
		CertIssuePermissions: issue, VerifyKeyIndicator: its.VerificationKeyIndicator{VerificationKey: its.PublicVerificationKey{Point: point}}}}, issuer}
}

func (n *node) sign(t testing.TB) {
	t.Helper()
	var of *its.Certificate
	signer := n.key
	n.cert.Issuer = its.IssuerIdentifier{Choice: its.IssuerSelf}
	if n.issuer != nil {
		of, signer = n.issuer.cert, n.issuer.key
		id, err := of.HashedId8()
		if err != nil {
			t.Fatal(err)
		}
		n.cert.Issuer = its.IssuerIdentifier{Digest: id}
	}
	digest, err := n.cert.Input(of)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := spdu.ECDSA(signer)(digest)
	if err != nil {
		t.Fatal(err)
	}
	n.cert.Signature = coer.Some(sig)
}

// world is a root, an authority and a ticket, and who is trusted. Cases change them before they are signed.
type world struct {
	root, aa, at *node
	o            Options
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{}
	w.root = newNode(t, nil, "root", []its.PsidSsp{its.Bitmap(its.PsidCRL, 1), its.Bitmap(its.PsidCTL, 1, 0x38)}, toIssue(2))
	w.aa = newNode(t, w.root, "AA", []its.PsidSsp{its.Bitmap(its.PsidSCR, 1, 0x32)}, toIssue(1))
	w.at = newNode(t, w.aa, "", []its.PsidSsp{its.Bitmap(36, 1, 0xff, 0xfc)}, nil)
	return w
}

// check signs all, and judges the ticket.
func (w *world) check(t testing.TB) error {
	t.Helper()
	for _, n := range []*node{w.root, w.aa, w.at} {
		n.sign(t)
	}
	if w.o.At == 0 {
		w.o.At = now
	}
	if w.o.Trusted == nil {
		root, err := w.root.cert.HashedId8()
		if err != nil {
			t.Fatal(err)
		}
		w.o.Trusted = func(id its.HashedId8) bool { return id == root }
	}
	path, err := Find(w.at.cert, []*its.Certificate{w.root.cert, w.aa.cert})
	if err != nil {
		return err
	}
	return Check(path, w.o)
}

func identified(all ...its.IdentifiedRegion) coer.Optional[its.GeographicRegion] {
	return coer.Some(its.GeographicRegion{Choice: its.RegionIdentified, Identified: all})
}

func country(n uint16) its.IdentifiedRegion { return its.IdentifiedRegion{Country: n} }

func rectangle(n, w, s, e int32) coer.Optional[its.GeographicRegion] {
	return coer.Some(its.GeographicRegion{Choice: its.RegionRectangular, Rectangular: []its.RectangularRegion{{
		NorthWest: its.TwoDLocation{Latitude: its.Latitude(n), Longitude: its.Longitude(w)}, SouthEast: its.TwoDLocation{Latitude: its.Latitude(s), Longitude: its.Longitude(e)}}}})
}

func circle(lat, lon int32, radius uint16) coer.Optional[its.GeographicRegion] {
	return coer.Some(its.GeographicRegion{Circular: its.CircularRegion{Center: its.TwoDLocation{Latitude: its.Latitude(lat), Longitude: its.Longitude(lon)}, Radius: radius}})
}

func app(w *world) *[]its.PsidSsp { return &w.at.cert.ToBeSigned.AppPermissions }

func onlyIssue(w *world, g ...its.PsidGroupPermissions) {
	w.aa.cert.ToBeSigned.CertIssuePermissions = g
	w.root.cert.ToBeSigned.CertIssuePermissions = []its.PsidGroupPermissions{{SubjectPermissions: its.SubjectPermissions{Choice: its.SubjectsAll}, MinChainLength: 1,
		ChainLengthRange: -1, EeType: its.EndEntityApp | its.EndEntityEnrol}}
}

func opaque(p its.Psid, b string) its.PsidSsp {
	return its.PsidSsp{Psid: p, Ssp: coer.Some(its.ServiceSpecificPermissions{Value: []byte(b)})}
}

func opaqueRange(p its.Psid, of ...string) its.PsidSspRange {
	r := its.SspRange{Opaque: [][]byte{}}
	for _, o := range of {
		r.Opaque = append(r.Opaque, []byte(o))
	}
	return its.PsidSspRange{Psid: p, SspRange: coer.Some(r)}
}

// TestCHN has a row for each case of the list; a row without a reason is a chain that is believed.
func TestCHN(t *testing.T) {
	t.Parallel()
	all := its.PsidGroupPermissions{SubjectPermissions: its.SubjectPermissions{Choice: its.SubjectsAll}, MinChainLength: 1, EeType: its.EndEntityApp}
	rangeAll := its.PsidSspRange{Psid: 99, SspRange: coer.Some(its.SspRange{Choice: its.SspRangeAll})}
	tbs := func(n *node) *its.ToBeSignedCertificate { return &n.cert.ToBeSigned }
	for _, row := range []struct {
		id     string
		change func(*world)
		reason error
	}{
		{"CHN-1 a valid chain", func(*world) {}, nil},
		{"CHN-1 another root", func(w *world) { w.o.Trusted = func(its.HashedId8) bool { return false } }, ErrUntrusted},
		{"CHN-2 an application twice", func(w *world) { *app(w) = append(*app(w), (*app(w))[0]) }, ErrMalformed},
		{"CHN-2 twice in what may be issued", func(w *world) { *app(w) = []its.PsidSsp{its.Bitmap(37, 2, 1, 1, 1, 1)} }, nil},
		{"CHN-3 a bitmap inside", func(w *world) { *app(w) = []its.PsidSsp{its.Bitmap(36, 1, 0, 0xfc)} }, nil},
		{"CHN-3 a bitmap outside", func(w *world) { *app(w) = []its.PsidSsp{its.Bitmap(36, 1, 0, 0xfd)} }, ErrPermission},
		{"CHN-3 another version", func(w *world) { *app(w) = []its.PsidSsp{its.Bitmap(36, 2, 0, 0xfc)} }, ErrPermission},
		{"CHN-3 a shorter bitmap", func(w *world) { *app(w) = []its.PsidSsp{its.Bitmap(36, 1, 0)} }, ErrPermission},
		{"CHN-3 a longer bitmap", func(w *world) { *app(w) = []its.PsidSsp{its.Bitmap(36, 1, 0, 0xfc, 0)} }, ErrPermission},
		{"CHN-3 another application", func(w *world) { *app(w) = []its.PsidSsp{its.Bitmap(38, 1, 0, 0)} }, ErrPermission},
		{"CHN-4 equal", func(w *world) {
			*app(w) = []its.PsidSsp{opaque(99, "x")}
			onlyIssue(w, group(1, its.EndEntityApp, opaqueRange(99, "y", "x")))
		}, nil},
		{"CHN-4 not equal", func(w *world) {
			*app(w) = []its.PsidSsp{opaque(99, "z")}
			onlyIssue(w, group(1, its.EndEntityApp, opaqueRange(99, "y", "x")))
		}, ErrPermission},
		{"CHN-4 a bitmap among opaque ones", func(w *world) {
			*app(w) = []its.PsidSsp{its.Bitmap(99, 'x')}
			onlyIssue(w, group(1, its.EndEntityApp, opaqueRange(99, "x")))
		}, ErrPermission},
		{"CHN-4 omitted, range all", func(w *world) {
			*app(w) = []its.PsidSsp{{Psid: 99}}
			onlyIssue(w, group(1, its.EndEntityApp, rangeAll))
		}, nil},
		{"CHN-4 omitted, range omitted", func(w *world) {
			*app(w) = []its.PsidSsp{{Psid: 99}}
			onlyIssue(w, group(1, its.EndEntityApp, its.PsidSspRange{Psid: 99}))
		}, nil},
		{"CHN-4 omitted, empty string", func(w *world) {
			*app(w) = []its.PsidSsp{{Psid: 99}}
			onlyIssue(w, group(1, its.EndEntityApp, opaqueRange(99, "")))
		}, nil},
		{"CHN-4 omitted, another string", func(w *world) {
			*app(w) = []its.PsidSsp{{Psid: 99}}
			onlyIssue(w, group(1, its.EndEntityApp, opaqueRange(99, "x")))
		}, ErrPermission},
		{"CHN-5 all", func(w *world) { *app(w) = []its.PsidSsp{opaque(99, "x")}; onlyIssue(w, all) }, nil},
		{"CHN-5 all, omitted SSP", func(w *world) { *app(w) = []its.PsidSsp{{Psid: 99}}; onlyIssue(w, all) }, nil},
		{"CHN-5 all twice", func(w *world) { onlyIssue(w, all, all) }, ErrMalformed},
		{"CHN-5 what is named counts", func(w *world) {
			*app(w) = []its.PsidSsp{opaque(99, "z")}
			onlyIssue(w, all, group(1, its.EndEntityApp, opaqueRange(99, "x")))
		}, ErrPermission},
		{"CHN-5 what is named permits", func(w *world) {
			*app(w) = []its.PsidSsp{opaque(99, "x")}
			onlyIssue(w, all, group(1, its.EndEntityApp, opaqueRange(99, "x")))
		}, nil},
		{"CHN-5 all below what is named", func(w *world) {
			onlyIssue(w, all)
			r := &tbs(w.root).CertIssuePermissions
			*r = append(*r, group(2, its.EndEntityApp, opaqueRange(99, "x")))
		}, ErrPermission},
		{"CHN-6 length 0", func(w *world) { tbs(w.aa).CertIssuePermissions[0].MinChainLength = 0 }, ErrMalformed},
		{"CHN-6 a range", func(w *world) { g := &tbs(w.root).CertIssuePermissions[1]; g.MinChainLength, g.ChainLengthRange = 1, 1 }, nil},
		{"CHN-6 no upper limit", func(w *world) {
			g := &tbs(w.root).CertIssuePermissions[1]
			g.MinChainLength, g.ChainLengthRange = 1, -1
		}, nil},
		{"CHN-6 no upper limit below a limit", func(w *world) { tbs(w.aa).CertIssuePermissions[0].ChainLengthRange = -1 }, ErrPermission},
		{"CHN-7 too long", func(w *world) { tbs(w.root).CertIssuePermissions[1].MinChainLength = 1 }, ErrPermission},
		{"CHN-7 too short", func(w *world) { tbs(w.aa).CertIssuePermissions[0].MinChainLength = 2 }, ErrPermission},
		{"CHN-7 more than any number", func(w *world) { tbs(w.aa).CertIssuePermissions[0].ChainLengthRange = math.MaxInt64 - 1 }, ErrPermission},
		{"CHN-7 more than any number below that", func(w *world) {
			tbs(w.root).CertIssuePermissions[1].ChainLengthRange = math.MaxInt64 - 2
			tbs(w.aa).CertIssuePermissions[0].ChainLengthRange = math.MaxInt64 - 1
		}, ErrPermission},
		{"CHN-7 from any number on", func(w *world) {
			g := &tbs(w.aa).CertIssuePermissions[0]
			g.MinChainLength, g.ChainLengthRange = math.MaxInt64, math.MaxInt64
		}, ErrPermission},
		{"CHN-7 a number below a great one", func(w *world) {
			g := &tbs(w.root).CertIssuePermissions[1]
			g.MinChainLength, g.ChainLengthRange = 1, math.MaxInt64
		}, nil},
		{"CHN-8 enrolment alone", func(w *world) { onlyIssue(w, group(1, its.EndEntityEnrol, its.PsidSspRange{Psid: 36})) }, ErrPermission},
		{"CHN-8 both below one", func(w *world) { tbs(w.root).CertIssuePermissions[1].EeType = its.EndEntityApp }, ErrPermission},
		{"CHN-9 a member of the Union", func(w *world) {
			tbs(w.aa).Region = identified(country(65535))
			tbs(w.at).Region = identified(country(276))
		}, nil},
		{"CHN-9 the Union within its members", func(w *world) {
			var list []its.IdentifiedRegion
			for _, m := range members {
				list = append(list, country(m))
			}
			tbs(w.aa).Region, tbs(w.at).Region = identified(list...), identified(country(65535))
		}, nil},
		{"CHN-9 outside the Union", func(w *world) {
			tbs(w.aa).Region = identified(country(65535))
			tbs(w.at).Region = identified(country(756))
		}, ErrRegion},
		{"CHN-9 inherited over two levels", func(w *world) {
			tbs(w.root).Region = identified(country(65535))
			tbs(w.at).Region = identified(country(756))
		}, ErrRegion},
		{"CHN-9 a part of a country", func(w *world) {
			tbs(w.aa).Region = identified(country(276))
			tbs(w.at).Region = identified(its.IdentifiedRegion{Choice: its.CountryAndRegions, Country: 276, Regions: []uint8{9}})
		}, nil},
		{"CHN-9 a country within a part", func(w *world) {
			tbs(w.at).Region = identified(country(276))
			tbs(w.aa).Region = identified(its.IdentifiedRegion{Choice: its.CountryAndRegions, Country: 276, Regions: []uint8{9}})
		}, ErrRegion},
		{"CHN-9 parts of parts", func(w *world) {
			part := func(n ...uint16) its.IdentifiedRegion {
				return its.IdentifiedRegion{Choice: its.CountryAndSubregions, Country: 276, Subregions: []its.RegionAndSubregions{{Region: 9, Subregions: n}}}
			}
			tbs(w.aa).Region, tbs(w.at).Region = identified(part(1, 2)), identified(part(2))
		}, nil},
		{"CHN-9 a rectangle inside", func(w *world) {
			tbs(w.aa).Region = rectangle(500, -100, 100, 900)
			tbs(w.at).Region = rectangle(400, 0, 100, 900)
		}, nil},
		{"CHN-9 a rectangle outside", func(w *world) {
			tbs(w.aa).Region = rectangle(500, -100, 100, 900)
			tbs(w.at).Region = rectangle(400, 0, 99, 900)
		}, ErrRegion},
		{"CHN-9 a circle inside", func(w *world) {
			tbs(w.aa).Region = circle(480000000, 110000000, 5000)
			tbs(w.at).Region = circle(480100000, 110000000, 3800)
		}, nil},
		{"CHN-9 a circle outside", func(w *world) {
			tbs(w.aa).Region = circle(480000000, 110000000, 5000)
			tbs(w.at).Region = circle(480100000, 110000000, 4000)
		}, ErrRegion},
		{"CHN-9 a polygon within itself", func(w *world) {
			p := coer.Some(its.GeographicRegion{Choice: its.RegionPolygonal, Polygonal: []its.TwoDLocation{{Latitude: 1}, {Longitude: 1}, {Latitude: 2}}})
			tbs(w.aa).Region, tbs(w.at).Region = p, p
		}, nil},
		{"CHN-9 another kind", func(w *world) {
			tbs(w.aa).Region = identified(country(65535))
			tbs(w.at).Region = circle(480000000, 110000000, 1)
		}, ErrRegion},
		{"CHN-10 a rectangle upside down", func(w *world) { tbs(w.at).Region = rectangle(100, 0, 400, 900) }, ErrMalformed},
		{"CHN-10 a rectangle without a side", func(w *world) { tbs(w.at).Region = rectangle(400, 900, 100, 900) }, ErrMalformed},
		{"CHN-10 nobody knows where", func(w *world) { tbs(w.at).Region = circle(900000001, 1800000001, 9) }, ErrMalformed},
		{"CHN-11 the first moment", func(w *world) { w.o.At = its.Time64(begin) * 1e6 }, nil},
		{"CHN-11 before the first", func(w *world) { w.o.At = its.Time64(begin)*1e6 - 1 }, ErrTime},
		{"CHN-11 the last moment", func(w *world) { w.o.At = (its.Time64(begin)+24*3600)*1e6 - 1 }, nil},
		{"CHN-11 the end", func(w *world) { w.o.At = (its.Time64(begin) + 24*3600) * 1e6 }, ErrTime},
		{"CHN-11 begins a second early", func(w *world) { tbs(w.at).ValidityPeriod = its.ValidityPeriod{Start: begin - 1, Duration: hours(2)} }, ErrPeriod},
		{"CHN-11 ends with its issuer", func(w *world) {
			tbs(w.at).ValidityPeriod = its.ValidityPeriod{Start: begin + 23*3600, Duration: its.Duration{Choice: its.Seconds, Value: 3600}}
			w.o.At = its.Time64(begin+23*3600) * 1e6
		}, nil},
		{"CHN-11 ends a second late", func(w *world) {
			tbs(w.at).ValidityPeriod = its.ValidityPeriod{Start: begin + 23*3600, Duration: its.Duration{Choice: its.Seconds, Value: 3601}}
			w.o.At = its.Time64(begin+23*3600) * 1e6
		}, ErrPeriod},
		{"CHN-13 the authority is revoked", func(w *world) {
			w.o.Revocation = func(x *its.Certificate, _ its.HashedId8) State {
				if x.ToBeSigned.Id.Name == "AA" {
					return Revoked
				}
				return Good
			}
		}, ErrRevoked},
		{"CHN-13 nobody knows", func(w *world) { w.o.Revocation = func(*its.Certificate, its.HashedId8) State { return Unknown } }, ErrUnknown},
		{"CHN-13 nobody knows, and that is good enough", func(w *world) {
			w.o.Revocation, w.o.UnknownGood = func(*its.Certificate, its.HashedId8) State { return Unknown }, true
		}, nil},
		{"CHN-15 more than eight entries", func(w *world) {
			*app(w) = nil
			for p := range its.Psid(12) {
				*app(w) = append(*app(w), its.PsidSsp{Psid: 1000 + p})
			}
			onlyIssue(w, all)
		}, nil},
		{"CHN-15 more than eight groups", func(w *world) {
			*app(w) = []its.PsidSsp{{Psid: 1011}}
			var groups []its.PsidGroupPermissions
			for p := range its.Psid(12) {
				groups = append(groups, group(1, its.EndEntityApp, its.PsidSspRange{Psid: 1000 + p}))
			}
			onlyIssue(w, groups...)
		}, nil},
		{"CHN-15 more than eight ranges", func(w *world) {
			*app(w) = []its.PsidSsp{{Psid: 1011}}
			var ranges []its.PsidSspRange
			for p := range its.Psid(12) {
				ranges = append(ranges, its.PsidSspRange{Psid: 1000 + p})
			}
			onlyIssue(w, group(1, its.EndEntityApp, ranges...))
		}, nil},
		{"CHN-15 more than eight countries", func(w *world) {
			tbs(w.aa).Region = identified(country(65535))
			var list []its.IdentifiedRegion
			for _, m := range members[:12] {
				list = append(list, country(m))
			}
			tbs(w.at).Region = identified(list...)
		}, nil},
		{"CHN-15 more than eight rectangles", func(w *world) {
			var list []its.RectangularRegion
			for i := range int32(12) {
				list = append(list, rectangle(100*i+50, 0, 100*i, 50).Value.Rectangular...)
			}
			many := coer.Some(its.GeographicRegion{Choice: its.RegionRectangular, Rectangular: list})
			tbs(w.aa).Region, tbs(w.at).Region = many, rectangle(1140, 10, 1110, 40)
		}, nil},
		{"CRT-11 linkageData, as IEEE 1609.2 has it", func(w *world) {
			tbs(w.at).Id = its.CertificateId{LinkageData: its.LinkageData{ICert: 7, LinkageValue: its.LinkageValue{1}}}
		}, nil},
		{"CRT-11 binaryId, as IEEE 1609.2 has it", func(w *world) { tbs(w.at).Id = its.CertificateId{Choice: its.IdBinary, BinaryId: []byte{1}} }, nil},
	} {
		t.Run(row.id, func(t *testing.T) {
			w := newWorld(t)
			row.change(w)
			if err := w.check(t); !errors.Is(err, row.reason) {
				t.Errorf("%v, want %v", err, row.reason)
			}
		})
	}
}

// CHN-7: who may issue tickets alone can make no authority, whatever that one says about the length of its chains.
func TestCHN7AuthorityTooMany(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name      string
		low, over int64
	}{{"one more", 1, 0}, {"any number", 1, -1}, {"so many that one more goes round", 1, math.MaxInt64 - 1}, {"so many that the sum goes round", 2, math.MaxInt64}} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			issue := toIssue(1)
			issue[0].MinChainLength, issue[0].ChainLengthRange = row.low, row.over
			sub := newNode(t, w.aa, "an authority too many", nil, issue)
			w.at.issuer = sub
			for _, n := range []*node{w.root, w.aa, sub, w.at} {
				n.sign(t)
			}
			b, err := coer.Marshal(sub.cert)
			if err != nil {
				t.Fatal(err)
			}
			read, err := its.ParseCertificate(b)
			if err != nil {
				t.Fatal(err)
			}
			path := []*its.Certificate{w.at.cert, read, w.aa.cert, w.root.cert}
			if err := Check(path, Options{At: now, Trusted: func(its.HashedId8) bool { return true }}); !errors.Is(err, ErrPermission) {
				t.Errorf("%v, want %v", err, ErrPermission)
			}
		})
	}
}

// CHN-16: signatures and digests that do not belong together. A fault names the certificate.
func TestCHN16WrongIssuers(t *testing.T) {
	t.Parallel()
	w, other := newWorld(t), newWorld(t)
	if err := errors.Join(w.check(t), other.check(t)); err != nil {
		t.Fatal(err)
	}
	byOther := *w.at.cert
	byOther.Signature = other.at.cert.Signature
	err := Check([]*its.Certificate{&byOther, w.aa.cert, w.root.cert}, w.o)
	fault := (*Fault)(nil)
	if !errors.As(err, &fault) || fault.Index != 0 || !errors.Is(err, its.ErrSignature) {
		t.Errorf("signed by another authority: %v", err)
	}
	if err := Check([]*its.Certificate{w.at.cert, other.aa.cert, w.root.cert}, w.o); !errors.Is(err, its.ErrIssuer) {
		t.Errorf("another authority: %v", err)
	}
	if _, err := Find(w.at.cert, []*its.Certificate{w.root.cert, other.aa.cert}); !errors.Is(err, ErrIncomplete) {
		t.Errorf("the authority is not known: %v", err)
	}
	if err := Check(nil, w.o); !errors.Is(err, ErrTooLong) {
		t.Errorf("no chain: %v", err)
	}
	if err := Check([]*its.Certificate{w.at.cert}, w.o); !errors.Is(err, ErrUntrusted) {
		t.Errorf("a ticket alone: %v", err)
	}
}

// An enrolment certificate of IEEE 1609.2.1 needs permissions for enrolment.
func TestRequestPermissions(t *testing.T) {
	t.Parallel()
	for _, ee := range []its.EndEntityType{its.EndEntityApp, its.EndEntityEnrol} {
		w := newWorld(t)
		onlyIssue(w, group(1, ee, its.PsidSspRange{Psid: 32}))
		w.at.cert.ToBeSigned.AppPermissions = nil
		w.at.cert.ToBeSigned.CertRequestPermissions = []its.PsidGroupPermissions{group(1, its.EndEntityApp, its.PsidSspRange{Psid: 32})}
		if err := w.check(t); (err == nil) != (ee == its.EndEntityEnrol) {
			t.Errorf("below permissions for %x: %v", ee, err)
		}
	}
}

// CHN-12: times of messages; and all else that can be wrong with one.
func TestCHN12Messages(t *testing.T) {
	t.Parallel()
	type msg struct {
		header its.HeaderInfo
		attach bool
		d      *its.SignedData
	}
	for _, row := range []struct {
		name   string
		before func(w *world, m *msg)
		after  func(w *world, m *msg)
		reason string
	}{
		{"with the certificate", nil, nil, ""},
		{"with its digest", func(_ *world, m *msg) { m.attach = false }, nil, ""},
		{"of another application", func(_ *world, m *msg) { m.header.Psid = 37 }, nil, "application 37"},
		{"made before the certificate", func(_ *world, m *msg) { m.header.GenerationTime.Value = its.Time64(begin)*1e6 - 1 }, nil, "not valid"},
		{"made when it had ended", func(_ *world, m *msg) { m.header.GenerationTime.Value = (its.Time64(begin) + 24*3600) * 1e6 }, nil, "not valid"},
		{"expires later", func(_ *world, m *msg) { m.header.ExpiryTime = coer.Some(now + 1) }, nil, ""},
		{"expires when it was made", func(_ *world, m *msg) { m.header.ExpiryTime = m.header.GenerationTime }, nil, "expired"},
		{"expired", func(_ *world, m *msg) { m.header.ExpiryTime = coer.Some(now) }, nil, "expired"},
		{"made ahead, as clocks differ", func(_ *world, m *msg) { m.header.GenerationTime.Value = now + 5e6 }, nil, ""},
		{"made in the future", func(_ *world, m *msg) { m.header.GenerationTime.Value = now + 5e6 + 1 }, nil, "in the future"},
		{"made ahead, where that is too much", func(w *world, m *msg) { w.o.Ahead, m.header.GenerationTime.Value = time.Second, now+1e6+1 }, nil, "in the future"},
		{"made ahead, where nothing is permitted", func(w *world, m *msg) { w.o.Ahead, m.header.GenerationTime.Value = -1, now+1 }, nil, "in the future"},
		{"made ahead, where much is permitted", func(w *world, m *msg) { w.o.Ahead, m.header.GenerationTime.Value = math.MaxInt64, now+3600e6 }, nil, ""},
		{"changed", nil, func(_ *world, m *msg) { m.d.TbsData.Payload.Data = its.Unsecured([]byte("x")) }, "does not verify"},
		{"CHN-14 another hash", nil, func(_ *world, m *msg) { m.d.HashId = its.SHA384 }, "do not belong together"},
		{"another signer", nil, func(w *world, m *msg) { m.d.Signer.Certificate = []its.Certificate{*w.aa.cert} }, "by another one"},
		{"signed by itself", nil, func(_ *world, m *msg) { m.d.Signer.Choice = its.SignerSelf }, "by another one"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t)
			if err := w.check(t); err != nil {
				t.Fatal(err)
			}
			m := &msg{header: its.HeaderInfo{Psid: 36, GenerationTime: coer.Some(now - 1)}, attach: true}
			if row.before != nil {
				row.before(w, m)
			}
			signed, err := spdu.Sign(spdu.Payload([]byte("CAM")), m.header, spdu.Signer{Certificate: w.at.cert, Attach: m.attach, Sign: spdu.ECDSA(w.at.key)})
			if err != nil {
				t.Fatal(err)
			}
			m.d = signed.Content.SignedData
			if row.after != nil {
				row.after(w, m)
			}
			err = CheckMessage(m.d, []*its.Certificate{w.at.cert, w.aa.cert, w.root.cert}, w.o)
			if row.reason == "" && err != nil || row.reason != "" && (err == nil || !strings.Contains(err.Error(), row.reason)) {
				t.Errorf("%v, want %q", err, row.reason)
			}
		})
	}
}

// Where a message was made lies within the region of its signer, or of the authority above it that has one.
func TestMessagePlaces(t *testing.T) {
	t.Parallel()
	munich := its.TwoDLocation{Latitude: 481370000, Longitude: 115750000}
	germany := func(p its.TwoDLocation, of its.IdentifiedRegion) bool { return p == munich && of.Country == 276 }
	polygon := func(all ...its.TwoDLocation) coer.Optional[its.GeographicRegion] {
		return coer.Some(its.GeographicRegion{Choice: its.RegionPolygonal, Polygonal: all})
	}
	arrow := polygon(its.TwoDLocation{Latitude: 0, Longitude: 0}, its.TwoDLocation{Latitude: 100, Longitude: 50}, its.TwoDLocation{Latitude: 0, Longitude: 100}, its.TwoDLocation{Latitude: 50, Longitude: 50})
	everywhere := polygon(its.TwoDLocation{Latitude: -900000000, Longitude: -1799999999}, its.TwoDLocation{Latitude: 900000000, Longitude: -1799999999},
		its.TwoDLocation{Latitude: 900000000, Longitude: 1800000000}, its.TwoDLocation{Latitude: -900000000, Longitude: 1800000000})
	for _, row := range []struct {
		name     string
		region   coer.Optional[its.GeographicRegion]
		lat, lon int32
		within   func(its.TwoDLocation, its.IdentifiedRegion) bool
		reason   error
	}{
		{"anywhere", coer.Optional[its.GeographicRegion]{}, 900000001, 1800000001, nil, nil},
		{"in a circle", circle(480000000, 110000000, 5000), 480100000, 110000000, nil, nil},
		{"beside a circle", circle(480000000, 110000000, 1000), 480100000, 110000000, nil, ErrPlace},
		{"nobody knows where", circle(480000000, 110000000, 5000), 900000001, 1800000001, nil, ErrPlace},
		{"in a rectangle", rectangle(500, -100, 100, 900), 300, 0, nil, nil},
		{"in the corner of a rectangle", rectangle(500, -100, 100, 900), 100, 900, nil, nil},
		{"north of a rectangle", rectangle(500, -100, 100, 900), 501, 0, nil, ErrPlace},
		{"east of a rectangle", rectangle(500, -100, 100, 900), 300, 901, nil, ErrPlace},
		{"in the left wing of a polygon", arrow, 20, 15, nil, nil},
		{"in the right wing of a polygon", arrow, 20, 85, nil, nil},
		{"between its wings", arrow, 20, 50, nil, ErrPlace},
		{"in its point", arrow, 75, 50, nil, nil},
		{"on its side", arrow, 50, 25, nil, nil},
		{"on its corner", arrow, 0, 100, nil, nil},
		{"east of it", arrow, 20, 120, nil, ErrPlace},
		{"west of it, at the height of a corner", arrow, 50, -1, nil, ErrPlace},
		{"in the greatest polygon", everywhere, 899999999, 1799999999, nil, nil},
		{"in a country", identified(country(276)), 481370000, 115750000, germany, nil},
		{"in the Union", identified(country(65535)), 481370000, 115750000, germany, nil},
		{"in another country", identified(country(756)), 481370000, 115750000, germany, ErrPlace},
		{"in a country whose borders nobody knows", identified(country(276)), 481370000, 115750000, nil, ErrPlace},
	} {
		for _, of := range []string{"ticket", "authority"} {
			t.Run(row.name+", by the region of the "+of, func(t *testing.T) {
				w := newWorld(t)
				if w.o.Within = row.within; of == "ticket" {
					w.at.cert.ToBeSigned.Region = row.region
				} else {
					w.aa.cert.ToBeSigned.Region = row.region
				}
				if err := w.check(t); err != nil {
					t.Fatal(err)
				}
				signed, err := spdu.Sign(spdu.Payload([]byte("DENM")), its.HeaderInfo{Psid: 36, GenerationTime: coer.Some(now), GenerationLocation: coer.Some(its.ThreeDLocation{
					Latitude: its.Latitude(row.lat), Longitude: its.Longitude(row.lon)})}, spdu.Signer{Certificate: w.at.cert, Attach: true, Sign: spdu.ECDSA(w.at.key)})
				if err != nil {
					t.Fatal(err)
				}
				if err := CheckMessage(signed.Content.SignedData, []*its.Certificate{w.at.cert, w.aa.cert, w.root.cert}, w.o); !errors.Is(err, row.reason) {
					t.Errorf("%v, want %v", err, row.reason)
				}
			})
		}
	}
}

// An implicit ticket is believed when a message verifies with the key that follows from it.
func TestImplicitTickets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.check(t); err != nil {
		t.Fatal(err)
	}
	random := func() butterfly.Scalar {
		s, err := butterfly.RandomScalar(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	u, k := random(), random()
	p, err := butterfly.ReconstructionValue(u.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	ticket := *w.at.cert
	ticket.Type, ticket.Signature.Present = its.Implicit, false
	ticket.ToBeSigned.VerifyKeyIndicator = its.VerificationKeyIndicator{Choice: its.ReconstructionValue, ReconstructionValue: its.Compressed(p.Bytes())}
	digest, err := ticket.Input(w.aa.cert)
	if err != nil {
		t.Fatal(err)
	}
	d, err := w.aa.key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	authority, err := butterfly.NewScalar(d)
	if err != nil {
		t.Fatal(err)
	}
	r, err := butterfly.PrivateReconstruction(butterfly.Digest(digest), k, authority)
	if err != nil {
		t.Fatal(err)
	}
	private, err := butterfly.Reconstruct(butterfly.Digest(digest), u, r, p, authority.Public())
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), private.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	signed, err := spdu.Sign(spdu.Payload([]byte("CAM")), its.HeaderInfo{Psid: 36, GenerationTime: coer.Some(now)}, spdu.Signer{Certificate: &ticket, Sign: spdu.ECDSA(key)})
	if err != nil {
		t.Fatal(err)
	}
	path := []*its.Certificate{&ticket, w.aa.cert, w.root.cert}
	if err := CheckMessage(signed.Content.SignedData, path, w.o); err != nil {
		t.Error(err)
	}
	if err := CheckMessage(signed.Content.SignedData, []*its.Certificate{&ticket, w.root.cert}, w.o); !errors.Is(err, its.ErrIssuer) {
		t.Errorf("below another issuer: %v", err)
	}
	signed.Content.SignedData.Signature.S = bytes.Clone(signed.Content.SignedData.Signature.R.X)
	if err := CheckMessage(signed.Content.SignedData, path, w.o); !errors.Is(err, its.ErrSignature) {
		t.Errorf("with another signature: %v", err)
	}
}

// Certificates come out of trust lists and messages.
func TestCertificates(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.check(t); err != nil {
		t.Fatal(err)
	}
	list := &its.EtsiTs102941Data{Content: its.EtsiTs102941DataContent{Choice: its.CertificateTrustListRca, CertificateTrustList: &its.CtlFormat{IsFullCtl: true, CtlCommands: []its.CtlCommand{
		{Add: its.CtlEntry{Choice: its.CtlAa, Aa: &its.AaEntry{AaCertificate: *w.aa.cert}}},
		{Add: its.CtlEntry{Choice: its.CtlDc, Dc: &its.DcEntry{Url: "http://dc.example", Cert: []its.HashedId8{}}}}}}}}
	b, err := coer.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := spdu.Sign(spdu.Payload(b), its.HeaderInfo{Psid: its.PsidCTL}, spdu.Signer{Certificate: w.root.cert, Attach: true, Sign: spdu.ECDSA(w.root.key)})
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, x := range slices.Concat(Certificates(signed), Certificates(w.at.cert), Certificates(list), Certificates(its.Unsecured(nil))) {
		found = append(found, nameOf(x))
	}
	if len(found) != 4 || found[0] != `"root"` || found[1] != `"AA"` || found[3] != `"AA"` {
		t.Errorf("%q", found)
	}
}
