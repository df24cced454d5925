package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"filippo.io/mldsa"

	"mooring/internal/base/errs"
	"mooring/wire/der"
)

// sample makes certificates of a profile under a fixed example CA, for linting.
type sample struct {
	profile  *Profile
	template *template
	signer   crypto.Signer
	urls     URLs
	order    Order
	variable der.Variable
}

const sampleTime = 1767225600 // 2026-01-01; the lints of today apply to it

func newSample(p *Profile) (*sample, error) {
	signer, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), stretch("sample ca", 32))
	if err != nil {
		return nil, err
	}
	raw, err := sampleCA(signer)
	if err != nil {
		return nil, err
	}
	issuer, err := newIssuer("sample", nil, "sample", raw, sampleTime)
	if err != nil {
		return nil, err
	}
	urls := URLs{CRL: "http://pki.example/crl", OCSP: "http://pki.example/ocsp", CAIssuers: "http://pki.example/ca"}
	t, err := newTemplate(issuer, p, signer, urls)
	if err != nil {
		return nil, err
	}
	return &sample{profile: p, template: t, signer: signer, urls: urls, order: p.sampleOrder()}, nil
}

func sampleCA(signer *ecdsa.PrivateKey) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, err
	}
	ski, err := der.SubjectKeyID(spki)
	if err != nil {
		return nil, err
	}
	name, err := der.BuildName([]der.Attribute{{Type: der.OIDOrganization, Value: "Example"}, {Type: der.OIDCommonName, Value: "Sample CA"}})
	if err != nil {
		return nil, err
	}
	t, err := der.NewTemplate(der.TemplateSpec{Algorithm: der.ECDSAWithSHA256, Issuer: name, Extensions: []der.Extension{
		der.NewBasicConstraints(true, 0), der.NewKeyUsage(der.KeyCertSign | der.CRLSign | der.DigitalSignature)}})
	if err != nil {
		return nil, err
	}
	tbs, err := t.AppendTBS(nil, der.Variable{Serial: []byte{1}, NotBefore: sampleTime - 86400, NotAfter: der.NoExpiry, Subject: name, SPKI: spki, SKI: ski[:]})
	if err != nil {
		return nil, err
	}
	return seal(signer, der.ECDSAWithSHA256, tbs)
}

// stretch makes n fixed octets of a label.
func stretch(label string, n int) []byte {
	var out []byte
	for block := byte(0); len(out) < n; block++ {
		sum := sha256.Sum256(append([]byte(label), block))
		out = append(out, sum[:]...)
	}
	return out[:n]
}

// samplePublicKey is a fixed key of the kind. The RSA modulus is only a number of the right size: nobody signs with it.
func samplePublicKey(kind der.KeyKind) (crypto.PublicKey, error) {
	raw := func(curve elliptic.Curve, n int) (crypto.PublicKey, error) {
		secret := stretch(string(kind), n)
		secret[0] = 0 // below every group order
		k, err := ecdsa.ParseRawPrivateKey(curve, secret)
		if err != nil {
			return nil, err
		}
		return k.Public(), nil
	}
	switch kind {
	case der.ECP256:
		return raw(elliptic.P256(), 32)
	case der.ECP384:
		return raw(elliptic.P384(), 48)
	case der.ECP521:
		return raw(elliptic.P521(), 66)
	case der.KeyEd25519:
		return ed25519.NewKeyFromSeed(stretch(string(kind), 32)).Public(), nil
	case der.KeyMLDSA44:
		return mldsaPublicKey(mldsa.MLDSA44(), kind)
	case der.KeyMLDSA65:
		return mldsaPublicKey(mldsa.MLDSA65(), kind)
	}
	var bits int
	if _, err := fmt.Sscanf(string(kind), "rsa-%d", &bits); err != nil {
		return nil, fmt.Errorf("unknown kind of key %q", kind)
	}
	modulus := stretch(string(kind), bits/8)
	modulus[0] |= 0x80
	modulus[len(modulus)-1] |= 1
	return &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 65537}, nil
}

func mldsaPublicKey(set mldsa.Parameters, kind der.KeyKind) (crypto.PublicKey, error) {
	k, err := mldsa.NewPrivateKey(set, stretch(string(kind), mldsa.PrivateKeySize))
	if err != nil {
		return nil, err
	}
	return k.PublicKey(), nil
}

// sampleOrder has registry values for everything the profile may draw on, and asks for one name of each pattern that is required.
func (p *Profile) sampleOrder() Order {
	values := Values{ID: "00112233445566778899aabbccddeeff", Name: "sample-1", Group: "sample", Tags: map[string]string{},
		Names: der.AltNames{DNS: []string{"sample-1.example.com"}, IP: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
			URI: []string{"urn:example:sample-1"}, Email: []string{"sample@example.com"}, Other: []der.OtherName{der.PermanentIdentifier("sample-1", "")}}}
	add := func(tag string) { values.Tags[tag] = "sample" }
	for _, s := range p.subject {
		s.value.tags(add)
	}
	for _, kind := range p.nameKinds() {
		for _, t := range kind.rule.fixed {
			t.tags(add)
		}
	}
	request := &der.Request{}
	chosen := func(r *nameRule) []string {
		if !r.require || len(r.request) == 0 {
			return nil
		}
		return []string{strings.ReplaceAll(r.request[0], "*", "sample")}
	}
	request.Names = der.AltNames{DNS: chosen(&p.dns), URI: chosen(&p.uri), Email: chosen(&p.email)}
	if p.ip.require && len(p.ip.prefixes) > 0 {
		request.Names.IP = []netip.Addr{p.ip.prefixes[0].Addr()}
	}
	return Order{Profile: p, Registry: values, Request: request}
}

func (s *sample) certificate(kind der.KeyKind) ([]byte, error) {
	pub, err := samplePublicKey(kind)
	if err != nil {
		return nil, err
	}
	if s.order.SPKI, err = der.EncodePublicKey(pub); err != nil {
		return nil, err
	}
	if _, err := s.profile.checkKey(&s.order); err != nil {
		return nil, fmt.Errorf("%s", errs.Public(err))
	}
	if s.variable, _, err = s.template.variable(&s.order, s.order.SPKI, sampleTime); err != nil {
		return nil, fmt.Errorf("%s", errs.Public(err))
	}
	serial, err := newSerial(classOrdinary, sampleTime, 0, bytes.NewReader(stretch("serial", 10)))
	if err != nil {
		return nil, err
	}
	s.variable.Serial = serial[:]
	tbs, err := s.template.der.AppendTBS(nil, s.variable)
	if err != nil {
		return nil, err
	}
	return seal(s.signer, s.template.der.Algorithm(), tbs)
}

// compare makes a certificate of the same fields with crypto/x509 and compares what both parse to. Extensions must agree octet by octet,
// except for the order of alternative names, and the subject in its values, since the string types are chosen differently. For an ML-DSA
// key, which crypto/x509 cannot write before Go 1.27, that of the other certificate is a P-256 key, and ours is compared with the order.
func (s *sample) compare(kind der.KeyKind, raw []byte) error {
	ours, err := x509.ParseCertificate(raw)
	if err != nil {
		return err
	}
	theirs, err := s.standard(kind)
	if err != nil {
		return err
	}
	same := map[string]bool{
		"version":          ours.Version == theirs.Version,
		"serial number":    ours.SerialNumber.Cmp(theirs.SerialNumber) == 0,
		"issuer":           bytes.Equal(ours.RawIssuer, theirs.RawIssuer),
		"validity":         ours.NotBefore.Equal(theirs.NotBefore) && ours.NotAfter.Equal(theirs.NotAfter),
		"subject":          slices.EqualFunc(ours.Subject.Names, theirs.Subject.Names, sameAttribute),
		"public key":       bytes.Equal(ours.RawSubjectPublicKeyInfo, s.order.SPKI) && (isMLDSA(kind) || bytes.Equal(s.order.SPKI, theirs.RawSubjectPublicKeyInfo)),
		"signature":        ours.SignatureAlgorithm == theirs.SignatureAlgorithm && s.template.issuer.CheckSignature(ours) == nil,
		"DNS names":        slices.Equal(ours.DNSNames, theirs.DNSNames),
		"mail addresses":   slices.Equal(ours.EmailAddresses, theirs.EmailAddresses),
		"IP addresses":     slices.EqualFunc(ours.IPAddresses, theirs.IPAddresses, net.IP.Equal),
		"URIs":             slices.EqualFunc(ours.URIs, theirs.URIs, func(a, b *url.URL) bool { return a.String() == b.String() }),
		"extensions":       len(ours.Extensions) == len(theirs.Extensions),
		"critical unknown": len(ours.UnhandledCriticalExtensions) == len(theirs.UnhandledCriticalExtensions),
	}
	for _, e := range ours.Extensions {
		same["extension "+e.Id.String()] = slices.ContainsFunc(theirs.Extensions, func(f pkix.Extension) bool {
			return f.Id.Equal(e.Id) && f.Critical == e.Critical && (bytes.Equal(f.Value, e.Value) || e.Id.Equal([]int{2, 5, 29, 17}))
		})
	}
	var differing []string
	for what, ok := range same {
		if !ok {
			differing = append(differing, what)
		}
	}
	if slices.Sort(differing); len(differing) > 0 {
		return fmt.Errorf("in %s", strings.Join(differing, ", "))
	}
	return nil
}

func isMLDSA(kind der.KeyKind) bool { return kind == der.KeyMLDSA44 || kind == der.KeyMLDSA65 }

func sameAttribute(a, b pkix.AttributeTypeAndValue) bool {
	return a.Type.Equal(b.Type) && a.Value == b.Value
}

// standard makes the certificate with crypto/x509, from the profile and not from our encodings.
func (s *sample) standard(kind der.KeyKind) (*x509.Certificate, error) {
	p, v := s.profile, s.variable
	names, err := p.namesFor(&s.order.Registry, &s.order.Request.Names)
	if err != nil {
		return nil, err
	}
	spec := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(v.Serial), NotBefore: time.Unix(v.NotBefore, 0), NotAfter: time.Unix(v.NotAfter, 0),
		KeyUsage: x509.KeyUsage(p.KeyUsage), SubjectKeyId: v.SKI, DNSNames: names.DNS, EmailAddresses: names.Email,
	}
	for _, a := range p.subject {
		value, err := a.value.fill(&s.order.Registry)
		if err != nil {
			return nil, err
		}
		spec.Subject.ExtraNames = append(spec.Subject.ExtraNames, pkix.AttributeTypeAndValue{Type: standardOID(a.attribute), Value: value})
	}
	if len(names.Other) > 0 { // of which crypto/x509 knows nothing
		san, err := der.BuildAltNames(names)
		if err != nil {
			return nil, err
		}
		spec.ExtraExtensions = append(spec.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: len(p.subject) == 0, Value: san})
	}
	for _, ip := range names.IP {
		spec.IPAddresses = append(spec.IPAddresses, ip.AsSlice())
	}
	for _, uri := range names.URI {
		u, err := url.Parse(uri)
		if err != nil {
			return nil, err
		}
		spec.URIs = append(spec.URIs, u)
	}
	for _, usage := range p.ExtKeyUsage {
		spec.UnknownExtKeyUsage = append(spec.UnknownExtKeyUsage, standardOID(usage))
	}
	if p.NoRevAvail {
		spec.ExtraExtensions = append(spec.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 56}, Value: []byte{5, 0}})
	}
	for _, e := range p.Extensions {
		spec.ExtraExtensions = append(spec.ExtraExtensions, pkix.Extension{Id: standardOID(e.OID), Critical: e.Critical, Value: e.Value})
	}
	if p.CRL {
		spec.CRLDistributionPoints = []string{s.urls.crl(s.template.issuer.id)}
	}
	if p.OCSP {
		spec.OCSPServer = []string{s.urls.OCSP}
		spec.IssuingCertificateURL = []string{s.urls.caIssuers(s.template.issuer.id)}
	}
	if isMLDSA(kind) {
		kind = der.ECP256
	}
	pub, err := samplePublicKey(kind)
	if err != nil {
		return nil, err
	}
	raw, err := x509.CreateCertificate(rand.Reader, spec, s.template.issuer.cert, pub, s.signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(raw)
}

func standardOID(o der.OID) asn1.ObjectIdentifier {
	var id asn1.ObjectIdentifier
	for part := range strings.SplitSeq(o.String(), ".") {
		var n int
		fmt.Sscan(part, &n) // String writes numbers only
		id = append(id, n)
	}
	return id
}
