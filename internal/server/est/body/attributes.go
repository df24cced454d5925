// Package body holds what the answers of Enrolment over Secure Transport contain, whether they are sent over HTTPS (RFC 7030) or CoAP (RFC 9148): the
// attributes that a request should have, the protection of a key that is made here, what binds a request to its connection, and what a connection
// shows about the roots that a device trusts.
//
// It deliberately knows neither HTTP nor CoAP, and decides nothing about enrolment: that is core/enrol's.
package body

import (
	"encoding/asn1"
	"fmt"

	"mooring/internal/core/ca"
	"mooring/wire/der"
	"mooring/wire/est"
)

// Attributes returns the CSR attributes of a profile: what a request must look like to be accepted. The older list and the template of
// RFC 9908, section 3.4, say the same; a client takes the one that it knows.
func Attributes(p *ca.Profile) ([]byte, error) {
	attrs := est.CSRAttrs{Template: &est.Template{}}
	if p.Linking {
		// RFC 7030, section 3.5: a server that requires the binding MUST list the attribute.
		attrs.Items = append(attrs.Items, est.WantOID(est.OIDChallengePassword))
		attrs.Template.Attributes = append(attrs.Template.Attributes, est.WantAttribute(est.OIDChallengePassword))
	}
	items, spec, err := wantKey(p.Keys[0])
	if err != nil {
		return nil, err
	}
	attrs.Items = append(attrs.Items, items...)
	attrs.Template.Key = spec
	for _, part := range p.SubjectParts() {
		rdn, err := wantName(part)
		if err != nil {
			return nil, err
		}
		attrs.Template.Subject = append(attrs.Template.Subject, rdn)
	}
	return est.BuildCSRAttrs(attrs)
}

// wantName is one RDN of the subject: fixed where every device has the same value, else blank for the device to fill in with its own.
func wantName(part ca.SubjectPart) (est.RDN, error) {
	oid, err := parse(part.Attribute)
	if err != nil {
		return nil, err
	}
	if part.Fixed == "" {
		return est.Blank(oid), nil
	}
	return est.FixedText(oid, part.Fixed)
}

// wantKey demands the profile's preferred key, and the signature algorithm that goes with it.
func wantKey(kind der.KeyKind) ([]est.Item, *est.KeySpec, error) {
	ec := func(curve, signature asn1.ObjectIdentifier) ([]est.Item, *est.KeySpec, error) {
		item, err := est.WantECKey(curve)
		if err != nil {
			return nil, nil, err
		}
		spec, err := est.ECKey(curve)
		return []est.Item{item, est.WantOID(signature)}, spec, err
	}
	switch kind {
	case der.ECP256:
		return ec(asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2})
	case der.ECP384:
		return ec(asn1.ObjectIdentifier{1, 3, 132, 0, 34}, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3})
	case der.ECP521:
		return ec(asn1.ObjectIdentifier{1, 3, 132, 0, 35}, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4})
	case der.KeyEd25519:
		ed := asn1.ObjectIdentifier{1, 3, 101, 112}
		return []est.Item{est.WantOID(ed)}, &est.KeySpec{Algorithm: ed}, nil
	case der.KeyMLDSA44, der.KeyMLDSA65: // key and signature have one number (RFC 9881, section 2)
		set := asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 17}
		if kind == der.KeyMLDSA65 {
			set[len(set)-1]++
		}
		return []est.Item{est.WantOID(set)}, &est.KeySpec{Algorithm: set}, nil
	}
	var bits int
	if _, err := fmt.Sscanf(string(kind), "rsa-%d", &bits); err != nil {
		return nil, nil, fmt.Errorf("a key of kind %q cannot be asked for", kind)
	}
	item, err := est.WantRSAKey(bits)
	return []est.Item{item, est.WantOID(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11})}, est.RSAKey(bits), err
}

// parse converts an object identifier from the form of wire/der to that of wire/est.
func parse(oid der.OID) (asn1.ObjectIdentifier, error) {
	var out asn1.ObjectIdentifier
	_, err := asn1.Unmarshal(oid.Append(nil), &out)
	return out, err
}
