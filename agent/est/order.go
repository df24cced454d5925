package est

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"mooring/wire/der"
	wire "mooring/wire/est"
)

// Order is what a certificate is asked for with. The session turns it into a certification request (PKCS #10), obeying
// the wishes of the server: a template is followed and nothing else (RFC 9908), older lists as far as they can be met.
type Order struct {
	// Key is certified; it signs the request and need not leave its chip.
	Key crypto.Signer
	// Attributes are the wishes of the server, from Session.CSRAttrs; nil is none.
	Attributes *wire.CSRAttrs
	// Subject is the name to ask for. It also fills the blanks of a template, by the type of attribute.
	Subject []der.Attribute
	// RawSubject, if set, is used octet by octet, whatever the server wishes: a renewal must repeat the old name.
	RawSubject []byte
	// Names are the alternative names to ask for.
	Names der.AltNames
	// Bind ties the request to its connection even if the server does not ask for it.
	Bind bool
	// Request, if set, is a request in DER that was made earlier by Build from an order that is not Bound. It is sent as it
	// is, so that a server sees the same request again.
	Request []byte
}

const oidSubjectAltName = "2.5.29.17"

// OrderAgain is the order that renews a certificate: the same subject and the same alternative names (RFC 7030, section
// 4.2.2).
func OrderAgain(cert *x509.Certificate, key crypto.Signer, attributes *wire.CSRAttrs) (Order, error) {
	order := Order{Key: key, Attributes: attributes, RawSubject: cert.RawSubject}
	for _, e := range cert.Extensions {
		if e.Id.String() != oidSubjectAltName {
			continue
		}
		names, err := der.ParseAltNames(e.Value)
		if err != nil {
			return Order{}, fmt.Errorf("reading the names of the certificate to be renewed: %w", err)
		}
		order.Names = names
	}
	return order, nil
}

// Bound tells whether the request will be tied to its connection, and so cannot be made before it.
func (o *Order) Bound() bool {
	if o.Bind {
		return true
	}
	if o.Attributes == nil {
		return false
	}
	if t := o.Attributes.Template; t != nil {
		return slices.ContainsFunc(t.Attributes, func(i wire.Item) bool { return i.OID.Equal(wire.OIDChallengePassword) })
	}
	return o.Attributes.Wants(wire.OIDChallengePassword)
}

// body is the request as it is sent over a connection with this binding.
func (o *Order) body(binding wire.ChannelBinding) ([]byte, error) {
	if o.Request != nil {
		return wire.EncodeBase64(o.Request), nil
	}
	request, err := o.Build(binding)
	if err != nil {
		return nil, err
	}
	return wire.EncodeBase64(request), nil
}

// Build makes and signs the certification request. The binding is used only if the order is Bound; then it must not be
// empty.
func (o *Order) Build(binding wire.ChannelBinding) ([]byte, error) {
	spec, err := o.spec()
	if err != nil {
		return nil, fmt.Errorf("making the certification request: %w", err)
	}
	if o.Bound() {
		if spec.ChallengePassword = binding.Text(); spec.ChallengePassword == "" {
			return nil, errors.New("the request is to be bound to its connection, but this connection has no value to bind it to")
		}
	}
	return sign(o.Key, spec)
}

func sign(key crypto.Signer, spec der.RequestSpec) ([]byte, error) {
	algorithm, err := der.AlgorithmFor(key.Public())
	if err != nil {
		return nil, err
	}
	if spec.SPKI, err = der.EncodePublicKey(key.Public()); err != nil {
		return nil, fmt.Errorf("encoding the public key: %w", err)
	}
	info, err := der.AppendRequestInfo(nil, spec)
	if err != nil {
		return nil, err
	}
	signature, err := key.Sign(rand.Reader, algorithm.Digest(info), algorithm.Hash())
	if err != nil {
		return nil, fmt.Errorf("signing the certification request: %w", err)
	}
	return der.Wrap(nil, info, algorithm, signature), nil
}

// spec is the content of the request, without key and binding.
func (o *Order) spec() (der.RequestSpec, error) {
	spec := der.RequestSpec{Subject: o.Subject, RawSubject: o.RawSubject, Names: o.Names}
	if o.Attributes == nil {
		return spec, nil
	}
	if t := o.Attributes.Template; t != nil {
		return spec, o.follow(&spec, t)
	}
	for _, item := range o.Attributes.Items {
		// The example of RFC 8951 has a bare OID where extensions belong; what cannot be read cannot be met and is passed over
		// (RFC 7030, section 4.5.2).
		if !item.IsAttribute || !item.OID.Equal(wire.OIDExtensionRequest) || len(item.Values) != 1 {
			continue
		}
		if extensions, err := der.ParseExtensions(item.Values[0]); err == nil {
			o.addWished(&spec, extensions)
		}
	}
	return spec, nil
}
