package reach

import (
	"context"
	"crypto/subtle"

	core "mooring/internal/core/acme"
	"mooring/wire/acme"
)

// maxRecords bounds the TXT records that are looked at; other clients may validate the same name.
const maxRecords = 100

// dns validates dns-01 (RFC 8555, section 8.4). Chains of CNAMEs are followed by the name server.
func (v *Validator) dns(ctx context.Context, c core.Challenge) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	name := "_acme-challenge." + host(c.Name)
	records, err := v.resolver.LookupTXT(ctx, name+".")
	if err != nil {
		return lookupFailed(name, "the type TXT", err)
	}
	want := acme.DNSRecord(c.KeyAuthorization)
	for i, r := range records {
		if i < maxRecords && subtle.ConstantTimeCompare([]byte(r), []byte(want)) == 1 {
			return nil
		}
	}
	return failed(core.Unauthorized, "none of the %d TXT records of %q is that of the challenge", len(records), name)
}
