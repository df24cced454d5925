package app

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"

	"mooring/internal/base/errs"
	"mooring/internal/core/acme"
	"mooring/internal/provider/reach"
	"mooring/wire/attest"
)

// buildACME makes the slice of accounts and orders. It is there without a listener, too: rows of before are purged and verified.
func (p *Platform) buildACME(ctx context.Context) error {
	nonces, err := p.Keys.Secret(ctx, "acme-nonces", 32)
	if err != nil {
		return err
	}
	c := p.Config.ACME
	roots, err := p.attestationRoots()
	if err != nil {
		return err
	}
	p.ACME = acme.New(acme.Deps{DB: p.DB, Audit: p.Audit, Access: p.Access, Devices: p.Devices, CA: p.CA, Revoke: p.Revoke, Enrol: p.Enrol, Campaigns: p.Campaigns,
		Validator: reach.New(reach.Options{Allow: c.Allow, Resolver: c.Resolver, HTTPPort: c.HTTPPort, TLSPort: c.TLSPort}), Key: nonces, Now: p.now, Log: p.log, Open: c.Open, Roots: roots})
	return nil
}

// attestationRoots reads whose word about hardware is taken.
func (p *Platform) attestationRoots() (acme.Roots, error) {
	files := p.Config.ACME.Attest
	roots := acme.Roots{Formats: map[string]*x509.CertPool{}}
	var err error
	for _, f := range []struct{ key, file, format string }{
		{"step", files.Step, attest.Step}, {"apple", files.Apple, attest.Apple}, {"android_key", files.AndroidKey, attest.AndroidKey}, {"tpm", files.TPM, attest.TPM}} {
		if roots.Formats[f.format], err = p.rootsIn("acme.attest_"+f.key, f.file); err != nil {
			return roots, err
		}
	}
	roots.EK, err = p.rootsIn("acme.attest_ek", files.EK)
	return roots, err
}

// rootsIn returns the certificates in a PEM file, nil when there is no file.
func (p *Platform) rootsIn(key, file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(p.Config.Path(file))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", key, err)
	}
	pool, n := x509.NewCertPool(), 0
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" {
			return nil, errs.New(errs.Invalid, "%s: %s holds something else than certificates in PEM", key, file)
		}
		pool.AddCert(c)
		n++
	}
	if n == 0 {
		return nil, errs.New(errs.Invalid, "%s: %s holds no certificate in PEM", key, file)
	}
	return pool, nil
}
