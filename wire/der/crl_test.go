package der_test

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"testing"

	"mooring/wire/der"
)

func (ca *issuer) crlSpec(t testing.TB) der.CRLSpec {
	t.Helper()
	algorithm, err := der.AlgorithmFor(ca.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der.CRLSpec{Algorithm: algorithm, Issuer: ca.name, AKI: ca.ski[:], Number: []byte{0x7f, 1}, ThisUpdate: 1_700_000_000, NextUpdate: 1_700_003_600}
}

func TestCRLReadByStandardLibrary(t *testing.T) {
	type entry struct {
		serial []byte
		at     int64
		reason int
	}
	serial := bytes.Repeat([]byte{0x41}, 16)
	for _, c := range []struct {
		name    string
		entries []entry
		change  func(*der.CRLSpec)
	}{
		{name: "empty"},
		{name: "entries", entries: []entry{{serial, 1_700_000_000, 1}, {[]byte{5}, 0, 0}, {[]byte{0, 0x80}, 3_000_000_000, 10}}},
		{name: "shard", entries: []entry{{serial, 1, 6}}, change: func(s *der.CRLSpec) {
			s.Point = &der.IssuingPoint{URL: "http://crl.example/1/7.crl", OnlyUser: true}
		}},
		{name: "delta", entries: []entry{{serial, 1, 8}}, change: func(s *der.CRLSpec) { s.DeltaBase = []byte{0x7f, 0} }},
		{name: "with a delta list", change: func(s *der.CRLSpec) { s.Freshest = "http://crl.example/1/7.delta.crl" }},
		{name: "20-octet number after 2050", change: func(s *der.CRLSpec) {
			s.Number, s.NextUpdate = bytes.Repeat([]byte{0x7f}, 20), 3_000_000_000
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, ca := range newIssuers(t) {
				spec := ca.crlSpec(t)
				if c.change != nil {
					c.change(&spec)
				}
				var entries []byte
				var err error
				for _, e := range c.entries {
					if entries, err = der.AppendCRLEntry(entries, e.serial, e.at, e.reason); err != nil {
						t.Fatal(err)
					}
				}
				tbs, err := der.AppendCRLTBS(nil, spec, entries)
				if err != nil {
					t.Fatal(err)
				}
				list, err := x509.ParseRevocationList(sign(t, tbs, ca.key))
				if err != nil {
					t.Fatal(err)
				}
				if err := list.CheckSignatureFrom(ca.cert); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(list.Number.Bytes(), spec.Number) || !bytes.Equal(list.AuthorityKeyId, spec.AKI) ||
					list.ThisUpdate.Unix() != spec.ThisUpdate || list.NextUpdate.Unix() != spec.NextUpdate {
					t.Errorf("read %+v", list)
				}
				if len(list.RevokedCertificateEntries) != len(c.entries) {
					t.Fatalf("%d entries, want %d", len(list.RevokedCertificateEntries), len(c.entries))
				}
				for i, got := range list.RevokedCertificateEntries {
					want := c.entries[i]
					if !bytes.Equal(got.SerialNumber.Bytes(), bytes.TrimLeft(want.serial, "\x00")) || got.RevocationTime.Unix() != want.at || got.ReasonCode != want.reason {
						t.Errorf("entry %d: %+v, want %+v", i, got, want)
					}
				}
				critical := map[string]bool{}
				for _, e := range list.Extensions {
					critical[e.Id.String()] = e.Critical
				}
				if critical["2.5.29.28"] != (spec.Point != nil) || critical["2.5.29.27"] != (spec.DeltaBase != nil) {
					t.Errorf("critical extensions: %v", critical)
				}
			}
		})
	}
}

// A list without entries has no revokedCertificates at all (RFC 5280, section 5.1.2.6), and one for a shard has the
// issuing distribution point that its certificates name.
func TestCRLBytes(t *testing.T) {
	ca := newIssuers(t)[1]
	spec := ca.crlSpec(t)
	tbs, err := der.AppendCRLTBS(nil, spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(tbs, []byte("\x17\x0d231114231320Z\xa0")) {
		t.Errorf("something between nextUpdate and the extensions of an empty list: %x", tbs)
	}
	spec.Point = &der.IssuingPoint{URL: "u", OnlyCA: true}
	if tbs, err = der.AppendCRLTBS(nil, spec, nil); err != nil {
		t.Fatal(err)
	}
	// SEQUENCE { IDP, TRUE, OCTET STRING { SEQUENCE { [0] { [0] { [6] "u" } }, [2] TRUE } } }
	if want := unhex(t, "3016 0603551d1c 0101ff 040c 300a a005 a003 860175 8201ff"); !bytes.Contains(tbs, want) {
		t.Errorf("list %x lacks %x", tbs, want)
	}
	spec.Freshest = "v"
	if tbs, err = der.AppendCRLTBS(nil, spec, nil); err != nil {
		t.Fatal(err)
	}
	// SEQUENCE { freshestCRL, OCTET STRING { SEQUENCE { SEQUENCE { [0] { [0] { [6] "v" } } } } } }
	if want := unhex(t, "3012 0603551d2e 040b 3009 3007 a005 a003 860176"); !bytes.Contains(tbs, want) {
		t.Errorf("list %x lacks %x", tbs, want)
	}
}

// A list written in pieces is the list that is made at once.
func TestCRLInPieces(t *testing.T) {
	ca := newIssuers(t)[1]
	serial := bytes.Repeat([]byte{0x41}, 16)
	for _, count := range []int{0, 1, 1000, 5000} {
		spec, size := ca.crlSpec(t), 0
		var entries []byte
		for n := range count {
			binary.BigEndian.PutUint32(serial[1:], uint32(n))
			at, reason := int64(1_700_000_000), n%2
			if n%3 == 0 {
				at = 3_000_000_000
			}
			size += der.CRLEntrySize(len(serial), at, reason)
			var err error
			if entries, err = der.AppendCRLEntry(entries, serial, at, reason); err != nil {
				t.Fatal(err)
			}
		}
		if size != len(entries) {
			t.Fatalf("%d entries have %d octets, foretold were %d", count, len(entries), size)
		}
		tbs, err := der.AppendCRLTBS(nil, spec, entries)
		if err != nil {
			t.Fatal(err)
		}
		whole := sign(t, tbs, ca.key)
		head, err := der.AppendCRLHead(nil, spec, size)
		if err != nil {
			t.Fatal(err)
		}
		list, err := x509.ParseRevocationList(whole)
		if err != nil {
			t.Fatal(err)
		}
		pieces := der.AppendCRLTail(append(head, entries...), spec)
		before, after := der.Enclose(len(pieces), spec.Algorithm, list.Signature)
		if !bytes.Equal(append(append(before, pieces...), after...), whole) {
			t.Errorf("%d entries: the pieces make another list", count)
		}
	}
}

func TestCRLEntrySizes(t *testing.T) {
	serial := bytes.Repeat([]byte{0x41}, 16)
	for _, c := range []struct {
		at     int64
		reason int
		want   int
	}{{1_700_000_000, 1, 49}, {1_700_000_000, 0, 35}, {3_000_000_000, 1, 51}} {
		entry, err := der.AppendCRLEntry(nil, serial, c.at, c.reason)
		if err != nil || len(entry) != c.want {
			t.Errorf("entry at %d for %d has %d octets, %v; want %d", c.at, c.reason, len(entry), err, c.want)
		}
	}
	for _, reason := range []int{-1, 7, 11} {
		_, err := der.AppendCRLEntry(nil, serial, 0, reason)
		wantError(t, err, "no revocation reason")
	}
	_, err := der.AppendCRLEntry(nil, []byte{0}, 0, 0)
	wantError(t, err, "zero")
	_, err = der.AppendCRLEntry(nil, serial, der.NoExpiry+1, 0)
	wantError(t, err, "years")
}

func TestCRLRefuses(t *testing.T) {
	ca := newIssuers(t)[1]
	for _, c := range []struct {
		words  string
		change func(*der.CRLSpec)
	}{
		{"signature algorithm", func(s *der.CRLSpec) { s.Algorithm = 0 }},
		{"issuer", func(s *der.CRLSpec) { s.Issuer = nil }},
		{"authority key", func(s *der.CRLSpec) { s.AKI = nil }},
		{"next update", func(s *der.CRLSpec) { s.NextUpdate = s.ThisUpdate }},
		{"number", func(s *der.CRLSpec) { s.Number = bytes.Repeat([]byte{1}, 21) }},
		{"delta", func(s *der.CRLSpec) { s.DeltaBase = []byte{0x80} }},
		{"names a delta", func(s *der.CRLSpec) { s.DeltaBase, s.Freshest = []byte{1}, "u" }},
		{"at once", func(s *der.CRLSpec) { s.Point = &der.IssuingPoint{OnlyUser: true, OnlyCA: true} }},
	} {
		spec := ca.crlSpec(t)
		c.change(&spec)
		_, err := der.AppendCRLTBS(nil, spec, nil)
		wantError(t, err, c.words)
	}
}

// A long list needs lengths of three and four octets.
func TestLongCRL(t *testing.T) {
	t.Run("10^4 entries", func(t *testing.T) { longCRL(t, 10_000) })
	t.Run("10^6 entries", func(t *testing.T) { longCRL(t, 1_000_000) })
}

func longCRL(t *testing.T, count int) {
	ca := newIssuers(t)[1]
	entries := make([]byte, 0, count*49)
	for n := range count {
		serial := bytes.Repeat([]byte{0x41}, 16)
		binary.BigEndian.PutUint32(serial[1:], uint32(n))
		var err error
		if entries, err = der.AppendCRLEntry(entries, serial, 1_700_000_000+int64(n), 1); err != nil {
			t.Fatal(err)
		}
	}
	tbs, err := der.AppendCRLTBS(nil, ca.crlSpec(t), entries)
	if err != nil {
		t.Fatal(err)
	}
	list, err := x509.ParseRevocationList(sign(t, tbs, ca.key))
	if err != nil || len(list.RevokedCertificateEntries) != count {
		t.Fatalf("read %v", err)
	}
	if err := list.CheckSignatureFrom(ca.cert); err != nil {
		t.Fatal(err)
	}
}
