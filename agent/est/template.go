package est

import (
	"bytes"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"mooring/wire/der"
	wire "mooring/wire/est"
)

// Tags of what a name is made of.
const (
	tagSequence = 0x30
	tagSet      = 0x31
)

// defaultRSA is the kind of RSA key made for a server that wants RSA and names no length.
const defaultRSA der.KeyKind = "rsa-3072"

// KeyWanted returns the kind of key that the server demands, "" if it does not care, or an error if the kind is none that
// devices here can make. Where an older list names several kinds, the first one that can be made is it.
func KeyWanted(a *wire.CSRAttrs) (der.KeyKind, error) {
	if a == nil {
		return "", nil
	}
	if t := a.Template; t != nil {
		if t.Key == nil {
			return "", nil
		}
		return keyKind(t.Key.Algorithm, t.Key.Parameters, t.Key.RSABits)
	}
	var refused error
	for _, item := range a.Items {
		kind, err := itemKey(item)
		if kind != "" {
			return kind, nil
		}
		refused = errors.Join(refused, err)
	}
	return "", refused
}

// itemKey is the kind of key that an entry of the older list demands; "" if it is about something else.
func itemKey(item wire.Item) (der.KeyKind, error) {
	var value []byte
	if len(item.Values) > 0 {
		value = item.Values[0]
	}
	var bits int
	switch {
	case item.OID.Equal(wire.OIDRSAEncryption):
		if value != nil {
			if rest, err := asn1.Unmarshal(value, &bits); err != nil || len(rest) > 0 {
				return "", errors.New("the server demands an RSA key of a length that cannot be read")
			}
		}
	case item.OID.Equal(wire.OIDECPublicKey), item.OID.String() == oidEd25519:
	default:
		return "", nil
	}
	return keyKind(item.OID, value, bits)
}

// Dotted forms of what a key may be.
const (
	oidEd25519 = "1.3.101.112"
	oidP256    = "1.2.840.10045.3.1.7"
	oidP384    = "1.3.132.0.34"
	oidP521    = "1.3.132.0.35"
)

func keyKind(algorithm asn1.ObjectIdentifier, parameters []byte, rsaBits int) (der.KeyKind, error) {
	switch {
	case algorithm.String() == oidEd25519:
		return der.KeyEd25519, nil
	case algorithm.Equal(wire.OIDRSAEncryption) && rsaBits == 0:
		return defaultRSA, nil
	case algorithm.Equal(wire.OIDRSAEncryption):
		return der.KeyKind(fmt.Sprintf("rsa-%d", rsaBits)), nil
	case !algorithm.Equal(wire.OIDECPublicKey):
		return "", fmt.Errorf("the server demands a key of the unknown algorithm %v", algorithm)
	case parameters == nil:
		return der.ECP256, nil
	}
	var curve asn1.ObjectIdentifier
	if rest, err := asn1.Unmarshal(parameters, &curve); err != nil || len(rest) > 0 {
		return "", errors.New("the server demands an EC key on a curve that cannot be read")
	}
	switch curve.String() {
	case oidP256:
		return der.ECP256, nil
	case oidP384:
		return der.ECP384, nil
	case oidP521:
		return der.ECP521, nil
	}
	return "", fmt.Errorf("the server demands an EC key on the unknown curve %v", curve)
}

// follow puts what a template demands into the request. A renewal repeats the names of its certificate whatever the
// template says, because it must (RFC 7030, section 4.2.2).
func (o *Order) follow(spec *der.RequestSpec, t *wire.Template) error {
	renewal := o.RawSubject != nil
	if len(t.Subject) > 0 && !renewal {
		raw, err := fillSubject(t.Subject, o.Subject)
		if err != nil {
			return err
		}
		spec.RawSubject = raw
	}
	for _, e := range t.Extensions {
		if err := o.followExtension(spec, e, renewal); err != nil {
			return err
		}
	}
	for _, item := range t.Attributes {
		switch oid, err := der.ParseOID(item.OID.String()); {
		case err != nil:
			return err
		case oid == der.OIDChallengePassword: // by Build
		case len(item.Values) == 0:
			return fmt.Errorf("the server demands the request attribute %v, which this device does not know how to fill in", item.OID)
		default:
			spec.Attributes = append(spec.Attributes, der.RequestAttribute{Type: oid, Values: item.Values})
		}
	}
	return nil
}

func (o *Order) followExtension(spec *der.RequestSpec, e wire.Extension, renewal bool) error {
	oid, err := der.ParseOID(e.ID.String())
	if err != nil {
		return err
	}
	switch {
	case oid == der.OIDSubjectAltName && renewal:
		return nil
	case oid == der.OIDSubjectAltName && e.Value == nil:
		if o.Names.Count() == 0 {
			return errors.New("the server demands an alternative name; give this device one, such as dns:device.example.test")
		}
		return nil // spec.Names has them
	case oid == der.OIDSubjectAltName:
		spec.Names = der.AltNames{}
	case oid == der.OIDSubjectKeyID && e.Value == nil:
		return o.addKeyID(spec)
	case e.Value == nil:
		return fmt.Errorf("the server demands the extension %v, which this device does not know how to fill in", e.ID)
	}
	spec.Extensions = append(spec.Extensions, der.Extension{OID: oid, Critical: e.Critical, Value: e.Value})
	return nil
}

func (o *Order) addKeyID(spec *der.RequestSpec) error {
	spki, err := der.EncodePublicKey(o.Key.Public())
	if err != nil {
		return err
	}
	id, err := der.SubjectKeyID(spki)
	if err != nil {
		return err
	}
	spec.Extensions = append(spec.Extensions, der.NewSubjectKeyID(id[:]))
	return nil
}

// addWished puts the extensions of an older list into the request. Alternative names that the device asks for itself go
// before those of the list.
func (o *Order) addWished(spec *der.RequestSpec, extensions []der.Extension) {
	for _, e := range extensions {
		if e.OID == der.OIDSubjectAltName && spec.Names.Count() > 0 {
			continue
		}
		spec.Extensions = append(spec.Extensions, e)
	}
}

// fillSubject encodes the subject of a template, taking the values of its blanks from the device's own.
func fillSubject(template []wire.RDN, own []der.Attribute) ([]byte, error) {
	var content []byte
	for _, rdn := range template {
		var parts [][]byte
		for _, attribute := range rdn {
			part, err := fillAttribute(attribute, own)
			if err != nil {
				return nil, err
			}
			parts = append(parts, part)
		}
		slices.SortFunc(parts, bytes.Compare) // as DER orders a SET OF
		content = der.AppendElement(content, tagSet, bytes.Join(parts, nil))
	}
	return der.AppendElement(nil, tagSequence, content), nil
}

// fillAttribute encodes an AttributeTypeAndValue.
func fillAttribute(attribute wire.NameAttr, own []der.Attribute) ([]byte, error) {
	oid, err := der.ParseOID(attribute.Type.String())
	if err != nil {
		return nil, err
	}
	if attribute.Value != nil {
		return der.AppendElement(nil, tagSequence, append(oid.Append(nil), attribute.Value...)), nil
	}
	i := slices.IndexFunc(own, func(a der.Attribute) bool { return a.Type == oid })
	if i < 0 {
		return nil, fmt.Errorf("the server demands the subject attribute %s; add it to the subject of this device", der.FormatName([]der.Attribute{{Type: oid, Value: "..."}}))
	}
	name, err := der.BuildName(own[i : i+1])
	if err != nil {
		return nil, err
	}
	// One attribute gives SEQUENCE { SET { AttributeTypeAndValue } }.
	var sets, parts []asn1.RawValue
	if _, err := asn1.Unmarshal(name, &sets); err != nil {
		return nil, err
	}
	if _, err := asn1.UnmarshalWithParams(sets[0].FullBytes, &parts, "set"); err != nil {
		return nil, err
	}
	return parts[0].FullBytes, nil
}
