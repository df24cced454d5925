package cmp

import (
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"mooring/wire/der"
)

// Types of InfoTypeAndValue (RFC 9810, section 5.3.19; RFC 9483, section 4.3).
const (
	infoPrefix         = "\x2b\x06\x01\x05\x05\x07\x04"
	OIDCurrentCRL      = der.OID(infoPrefix + "\x06")
	OIDUnsupportedOIDs = der.OID(infoPrefix + "\x07")
	OIDImplicitConfirm = der.OID(infoPrefix + "\x0d")
	OIDConfirmWaitTime = der.OID(infoPrefix + "\x0e")
	OIDOrigMessage     = der.OID(infoPrefix + "\x0f")
	OIDCACerts         = der.OID(infoPrefix + "\x11")
	OIDRootUpdate      = der.OID(infoPrefix + "\x12")
	OIDCertReqTemplate = der.OID(infoPrefix + "\x13")
	OIDRootCACert      = der.OID(infoPrefix + "\x14")
	OIDCertProfile     = der.OID(infoPrefix + "\x15")
	OIDCRLStatusList   = der.OID(infoPrefix + "\x16")
	OIDCRLs            = der.OID(infoPrefix + "\x17")
)

// Extended key usages of those who act for a CA (RFC 6402, section 2.10; RFC 9810, section 4.5).
const (
	OIDKeyGeneration = der.OID("\x2b\x06\x01\x05\x05\x07\x03\x20") // id-kp-cmKGA
)

// Null is the value NULL, which an implicitConfirm has.
const Null = "\x05\x00"

// ConfirmBy is the InfoTypeAndValue that says until when a certConf is waited for.
func ConfirmBy(t time.Time) Info {
	var b cryptobyte.Builder
	b.AddASN1GeneralizedTime(t.UTC().Truncate(time.Second))
	return Info{Type: OIDConfirmWaitTime, Value: b.BytesOrPanic()}
}

// NewProfiles is the value of an id-it-certProfile.
func NewProfiles(names ...string) Info {
	var b cryptobyte.Builder
	addText(&b, names)
	return Info{Type: OIDCertProfile, Value: b.BytesOrPanic()}
}

// ParseProfiles reads the value of an id-it-certProfile: names, one for each request or one for all.
func ParseProfiles(value []byte) ([]string, error) {
	s := cryptobyte.String(value)
	list, err := readText(&s)
	if err != nil || !s.Empty() {
		return nil, malformed("certProfile")
	}
	return list, nil
}

// NewCertificates is an InfoTypeAndValue of type id-it-caCerts with certificates, or id-it-crls with lists; without any it has no value.
func NewCertificates(t der.OID, list [][]byte) Info {
	if len(list) == 0 {
		return Info{Type: t}
	}
	var b cryptobyte.Builder
	addAll(&b, list)
	return Info{Type: t, Value: b.BytesOrPanic()}
}

// ParseCertificates reads the value of an id-it-caCerts or id-it-crls: each certificate or list in DER.
func ParseCertificates(value []byte) ([][]byte, error) {
	s := cryptobyte.String(value)
	list, err := sequenceOf(&s, "certificates", maxCerts)
	if err != nil || !s.Empty() {
		return nil, malformed("certificates")
	}
	return list, nil
}

// RootUpdate is a RootCaKeyUpdateContent (RFC 9483, section 4.3.2): a new root, and the certificates that lead from the one to the other; nil =
// none.
type RootUpdate struct{ NewWithNew, NewWithOld, OldWithNew []byte }

// Info returns the InfoTypeAndValue that carries the update.
func (u *RootUpdate) Info() Info {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(u.NewWithNew)
		for i, cert := range [][]byte{u.NewWithOld, u.OldWithNew} {
			if cert != nil {
				b.AddASN1(context(uint8(i)), func(b *cryptobyte.Builder) { b.AddBytes(cert) })
			}
		}
	})
	return Info{Type: OIDRootUpdate, Value: b.BytesOrPanic()}
}

// ParseRootUpdate reads the value of an id-it-rootCaKeyUpdate.
func ParseRootUpdate(value []byte) (*RootUpdate, error) {
	s := cryptobyte.String(value)
	var in, cert, field cryptobyte.String
	if !s.ReadASN1(&in, asn1.SEQUENCE) || !s.Empty() || !in.ReadASN1Element(&cert, asn1.SEQUENCE) {
		return nil, malformed("rootCaKeyUpdate")
	}
	u := &RootUpdate{NewWithNew: cert}
	for i, to := range []*[]byte{&u.NewWithOld, &u.OldWithNew} {
		var there bool
		if !in.ReadOptionalASN1(&field, &there, context(uint8(i))) {
			return nil, malformed("rootCaKeyUpdate")
		}
		if !there {
			continue
		}
		if !field.ReadASN1Element(&cert, asn1.SEQUENCE) || !field.Empty() {
			return nil, malformed("rootCaKeyUpdate")
		}
		*to = cert
	}
	if !in.Empty() {
		return nil, malformed("rootCaKeyUpdate")
	}
	return u, nil
}

// ReqTemplate is a CertReqTemplateContent (RFC 9483, section 4.3.3): what a request is to look like. In the subject, empty values are the requester's
// to fill in.
type ReqTemplate struct {
	Template Template
	// KeySpec are controls of type OIDAlgorithmID and OIDRSAKeyLength: the kinds of key that are taken.
	KeySpec []Info
}

// KeyAlgorithm is a KeySpec for the kind of key that an AlgorithmIdentifier names.
func KeyAlgorithm(algorithm []byte) Info { return Info{Type: OIDAlgorithmID, Value: algorithm} }

// RSAKeyLength is a KeySpec for RSA keys of so many bits.
func RSAKeyLength(bits int) Info {
	var b cryptobyte.Builder
	b.AddASN1Int64(int64(bits))
	return Info{Type: OIDRSAKeyLength, Value: b.BytesOrPanic()}
}

// Info returns the InfoTypeAndValue that carries the template.
func (t *ReqTemplate) Info() (Info, error) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		t.Template.build(b, asn1.SEQUENCE)
		if len(t.KeySpec) > 0 {
			addInfo(b, t.KeySpec)
		}
	})
	value, err := b.Bytes()
	if err != nil {
		return Info{}, fmt.Errorf("building a certReqTemplate: %w", err)
	}
	return Info{Type: OIDCertReqTemplate, Value: value}, nil
}

// ParseReqTemplate reads the value of an id-it-certReqTemplate.
func ParseReqTemplate(value []byte) (*ReqTemplate, error) {
	s := cryptobyte.String(value)
	var in cryptobyte.String
	if !s.ReadASN1(&in, asn1.SEQUENCE) || !s.Empty() {
		return nil, malformed("certReqTemplate")
	}
	t := &ReqTemplate{}
	var err error
	if t.Template, err = readTemplate(&in, asn1.SEQUENCE); err != nil {
		return nil, err
	}
	if !in.Empty() {
		if t.KeySpec, err = readInfo(&in); err != nil || !in.Empty() {
			return nil, malformed("certReqTemplate")
		}
	}
	return t, nil
}

// CRLStatus asks for a list that is newer than a time (RFC 9483, section 4.3.4).
type CRLStatus struct {
	URL    string    // of the distribution point, when that is the source
	Issuer []byte    // DER Name of the list's issuer, when that is the source
	Since  time.Time // thisUpdate of the list that the sender has; zero = it has none
}

// NewCRLStatus is the id-it-crlStatusList that asks for one list.
func NewCRLStatus(c CRLStatus) Info {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			if c.Issuer != nil {
				b.AddASN1(context(1), func(b *cryptobyte.Builder) {
					b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { addGeneralName(b, c.Issuer) })
				})
			} else {
				b.AddASN1(context(0), func(b *cryptobyte.Builder) {
					b.AddASN1(context(0), func(b *cryptobyte.Builder) {
						b.AddASN1(asn1.Tag(6).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(c.URL)) })
					})
				})
			}
			if !c.Since.IsZero() {
				b.AddASN1UTCTime(c.Since.UTC().Truncate(time.Second))
			}
		})
	})
	return Info{Type: OIDCRLStatusList, Value: b.BytesOrPanic()}
}

// ParseCRLStatus reads the value of an id-it-crlStatusList.
func ParseCRLStatus(value []byte) ([]CRLStatus, error) {
	s := cryptobyte.String(value)
	var list []CRLStatus
	err := each(&s, "crlStatusList", func(s *cryptobyte.String) error {
		var in cryptobyte.String
		var c CRLStatus
		if !s.ReadASN1(&in, asn1.SEQUENCE) {
			return malformed("crlStatusList")
		}
		if err := c.readSource(&in); err != nil {
			return err
		}
		if !in.Empty() && !readTime(&in, &c.Since) || !in.Empty() {
			return malformed("crlStatusList")
		}
		list = append(list, c)
		return nil
	})
	if err == nil && (len(list) == 0 || !s.Empty()) {
		err = malformed("crlStatusList")
	}
	return list, err
}

func (c *CRLStatus) readSource(s *cryptobyte.String) (err error) {
	var choice, names, url cryptobyte.String
	what := malformed("crlStatusList")
	if s.PeekASN1Tag(context(1)) {
		if !s.ReadASN1(&choice, context(1)) || !choice.ReadASN1(&names, asn1.SEQUENCE) || !choice.Empty() {
			return what
		}
		c.Issuer, err = readGeneralName(&names)
		return err
	}
	// DistributionPointName is itself a choice: fullName [0] GeneralNames.
	if !s.ReadASN1(&choice, context(0)) || !choice.ReadASN1(&names, context(0)) || !choice.Empty() {
		return what
	}
	if !names.ReadASN1(&url, asn1.Tag(6).ContextSpecific()) {
		return fmt.Errorf("a distribution point that is no URL")
	}
	c.URL = string(url)
	return nil
}

// readTime reads a Time of RFC 5280.
func readTime(s *cryptobyte.String, to *time.Time) bool {
	if s.PeekASN1Tag(asn1.UTCTime) {
		return s.ReadASN1UTCTime(to)
	}
	return s.ReadASN1GeneralizedTime(to)
}
