package body

import (
	"crypto/x509"
	"encoding/asn1"
	"slices"

	"mooring/internal/core/enrol"
	"mooring/wire/der"
)

// Vouch makes an enrolment the one that a registration authority asks for in a device's place (RFC 7030, section 3.7; RFC 9148, section 5), if leaf, with
// which the client connected, has the extended key usage id-kp-cmcRA. The common name of the request is the external name of the device; without one
// core refuses the request, as it does for the authority's own name: whoever approved what had no name would give the device a certificate of the authority.
// What is not so is left as it is; who the authority is, and whether the device's profile takes its word, core finds out.
//
// The request is signed by the device, and shows possession of the key as always. A channel binding in it is that of the device's connection to the
// authority, which only that can compare.
func Vouch(r *enrol.Request, leaf *x509.Certificate) {
	if leaf == nil || r.Basic || r.Op != enrol.Enrol || !slices.ContainsFunc(leaf.UnknownExtKeyUsage, isRA) {
		return
	}
	csr, err := der.ParseRequest(r.CSR)
	if err != nil { // core says what is wrong with it
		return
	}
	var name string
	if at := slices.IndexFunc(csr.Subject, func(a der.Attribute) bool { return a.Type == der.OIDCommonName }); at >= 0 {
		name = csr.Subject[at].Value
	}
	r.Vouch = &enrol.Vouch{Chain: r.Chain, Device: name}
	r.Bound = func(string) bool { return true }
}

func isRA(usage asn1.ObjectIdentifier) bool { return usage.String() == der.OIDCMCRA.String() }
