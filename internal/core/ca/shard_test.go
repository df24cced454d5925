package ca_test

import (
	"crypto/x509"
	"fmt"
	"testing"

	zx509 "github.com/zmap/zcrypto/x509"
	zlinter "github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

func TestCertificatesNameTheirShard(t *testing.T) {
	f := newFixture(t)
	for name, shards := range map[string]int{"devices": 64, "birth": 0, "services": 256, "operators": 1} {
		if _, err := f.Create(t.Context(), admin, ca.Spec{Name: name, Subject: dn(t, "O=Acme, CN="+name), Algorithm: key.P256, Forever: true, Shards: shards}); err != nil {
			t.Fatal(err)
		}
	}
	f.Authority = f.reopen(t) // what was chosen is remembered
	r := request(t, newKey(t, key.P256), der.RequestSpec{})
	for _, tt := range []struct {
		profile, ca string
		cell        uint8
		want        string
	}{
		{"device", "devices", 0, "/0.crl"}, {"device", "devices", 3, "/0.crl"}, {"device", "devices", 4, "/1.crl"}, {"device", "devices", 255, "/63.crl"},
		{"server", "services", 77, "/77.crl"},
	} {
		i, err := f.Issuer(tt.ca)
		if err != nil {
			t.Fatal(err)
		}
		o := f.order(t, tt.profile, r)
		o.Cell = tt.cell
		c := issue(t, f.Authority, o)
		cert, err := x509.ParseCertificate(c.DER)
		if err != nil {
			t.Fatal(err)
		}
		want := "http://pki.test/crl/" + i.ID().String() + tt.want
		if fmt.Sprint(cert.CRLDistributionPoints) != "["+want+"]" {
			t.Errorf("%s in cell %d names %v, want %s", tt.profile, tt.cell, cert.CRLDistributionPoints, want)
		}
		if got := f.CRLAddress(i.ID(), i.Shard(c.Serial[:])); got != want {
			t.Errorf("CRLAddress: %s, want %s", got, want)
		}
		if got := f.CRLAddress(i.ID(), ca.Complete); got != "http://pki.test/crl/"+i.ID().String()+".crl" {
			t.Errorf("the address of the complete list: %s", got)
		}
		lintable, err := zx509.ParseCertificate(c.DER)
		if err != nil {
			t.Fatal(err)
		}
		registry, err := lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: lint.SourceList{lint.RFC5280}})
		if err != nil {
			t.Fatal(err)
		}
		if results := zlinter.LintCertificateEx(lintable, registry); results.ErrorsPresent || results.FatalsPresent {
			t.Errorf("zlint finds errors in a certificate with a shard: %+v", results.Results)
		}
	}
	birth, err := f.Issuer("birth")
	if err != nil {
		t.Fatal(err)
	}
	if birth.Shard([]byte{0x41, 0, 0, 0, 0, 200, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}) != 0 || f.CRLAddress(birth.ID(), 0) != f.CRLAddress(birth.ID(), ca.Complete) {
		t.Error("a CA without shards has more than one list")
	}
}

func TestShardCountsThatCannotBe(t *testing.T) {
	f := newFixture(t)
	for _, s := range []ca.Spec{{Shards: 3}, {Shards: -1}, {Shards: 512}, {Shards: 16, PathLen: 1}} {
		s.Name, s.Subject, s.Algorithm, s.Forever = "x", dn(t, "O=Acme, CN=x"), key.P256, true
		if _, err := f.Create(t.Context(), admin, s); !errs.Is(err, errs.Invalid) {
			t.Errorf("%d shards above %d tiers: %v, want Invalid", s.Shards, s.PathLen, err)
		}
	}
}
