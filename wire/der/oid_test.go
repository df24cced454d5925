package der_test

import (
	"encoding/asn1"
	"testing"

	"mooring/wire/der"
)

// The constants are written as octets; here they meet their dotted forms.
func TestOIDConstants(t *testing.T) {
	for dotted, oid := range map[string]der.OID{
		"2.5.4.3": der.OIDCommonName, "2.5.4.5": der.OIDSerialNumber, "2.5.4.6": der.OIDCountry,
		"2.5.4.7": der.OIDLocality, "2.5.4.8": der.OIDState, "2.5.4.9": der.OIDStreet,
		"2.5.4.10": der.OIDOrganization, "2.5.4.11": der.OIDOrganizationalUnit, "2.5.4.12": der.OIDTitle,
		"2.5.4.46": der.OIDDNQualifier, "0.9.2342.19200300.100.1.1": der.OIDUserID,
		"0.9.2342.19200300.100.1.25": der.OIDDomainComponent, "1.2.840.113549.1.9.1": der.OIDEmailAddress,
		"2.5.29.14": der.OIDSubjectKeyID, "2.5.29.15": der.OIDKeyUsage, "2.5.29.17": der.OIDSubjectAltName,
		"2.5.29.19": der.OIDBasicConstraints, "2.5.29.20": der.OIDCRLNumber, "2.5.29.27": der.OIDDeltaCRLIndicator, "2.5.29.46": der.OIDFreshestCRL,
		"2.5.29.28": der.OIDIssuingPoint, "2.5.29.30": der.OIDNameConstraints, "2.5.29.31": der.OIDCRLPoints,
		"2.5.29.32": der.OIDPolicies, "2.5.29.35": der.OIDAuthorityKeyID, "2.5.29.37": der.OIDExtKeyUsage,
		"2.5.29.56": der.OIDNoRevAvail, "2.5.29.37.0": der.OIDAnyExtKeyUsage,
		"1.3.6.1.5.5.7.1.1": der.OIDAuthorityInfo, "1.3.6.1.5.5.7.1.24": der.OIDTLSFeature,
		"1.3.6.1.5.5.7.1.32": der.OIDMASAURL, "1.3.6.1.5.5.7.48.1.5": der.OIDOCSPNoCheck,
		"1.3.6.1.5.5.7.3.1": der.OIDServerAuth, "1.3.6.1.5.5.7.3.2": der.OIDClientAuth,
		"1.3.6.1.5.5.7.3.3": der.OIDCodeSigning, "1.3.6.1.5.5.7.3.4": der.OIDEmailProtection,
		"1.3.6.1.5.5.7.3.8": der.OIDTimeStamping, "1.3.6.1.5.5.7.3.9": der.OIDOCSPSigning,
		"1.3.6.1.5.5.7.3.27": der.OIDCMCCA, "1.3.6.1.5.5.7.3.28": der.OIDCMCRA,
		"1.3.6.1.5.5.7.8.4": der.OIDHardwareModuleName, "1.3.6.1.5.5.7.8.3": der.OIDPermanentIdentifier,
		"1.3.6.1.4.1.311.20.2.3": der.OIDPrincipalName, "1.2.840.113549.1.9.7": der.OIDChallengePassword,
		"1.2.840.113549.1.9.14": der.OIDExtensionRequest, "1.3.6.1.4.1.311.2.1.14": der.OIDMicrosoftExtensionRequest,
	} {
		if oid.String() != dotted {
			t.Errorf("constant for %s reads %s", dotted, oid)
		}
		if parsed, err := der.ParseOID(dotted); err != nil || parsed != oid {
			t.Errorf("ParseOID(%q) = %x, %v; want %x", dotted, string(parsed), err, string(oid))
		}
	}
}

func TestParseOIDRefuses(t *testing.T) {
	for _, dotted := range []string{"", "1", "1.", ".1", "1..2", "3.1", "1.40", "0.40", "1.2.-3", "1.2.+3", "1.2.03", "1.2.x", "1.2.4294967296", "1.2.3 "} {
		if oid, err := der.ParseOID(dotted); err == nil {
			t.Errorf("ParseOID(%q) = %s, want an error", dotted, oid)
		}
	}
}

func FuzzParseOID(f *testing.F) {
	for _, dotted := range []string{"2.5.4.3", "1.3.6.1.4.1.311.2.1.14", "2.999.1", "0.0", "2.16.840.1.101.3.4.2.1"} {
		f.Add(dotted)
	}
	f.Fuzz(func(t *testing.T, dotted string) {
		oid, err := der.ParseOID(dotted)
		if err != nil {
			return
		}
		if oid.String() != dotted {
			t.Fatalf("ParseOID(%q).String() = %q", dotted, oid)
		}
		var std asn1.ObjectIdentifier
		if rest, err := asn1.Unmarshal(oid.Append(nil), &std); err != nil || len(rest) > 0 || std.String() != dotted {
			t.Fatalf("standard library reads %q as %s, %v", dotted, std, err)
		}
	})
}
