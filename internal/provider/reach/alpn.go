package reach

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/netip"
	"slices"

	core "mooring/internal/core/acme"
	"mooring/wire/acme"
)

const alpnProtocol = "acme-tls/1"

// alpn validates tls-alpn-01 (RFC 8737, section 3; RFC 8738, section 6).
func (v *Validator) alpn(ctx context.Context, c core.Challenge) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	name := host(c.Name)
	server := name
	ip, ipErr := netip.ParseAddr(name)
	if ipErr == nil {
		server = acme.ReverseName(ip)
	}
	conn, err := v.dial(ctx, name, v.o.TLSPort)
	if err != nil {
		return err
	}
	defer conn.Close()
	session := tls.Client(conn, &tls.Config{ServerName: server, NextProtos: []string{alpnProtocol}, MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}) // the certificate is its own witness (section 3)
	if err := session.HandshakeContext(ctx); err != nil {
		return failed(core.TLS, "the TLS handshake with %q for %s failed", name, alpnProtocol)
	}
	state := session.ConnectionState()
	if state.NegotiatedProtocol != alpnProtocol {
		return failed(core.Unauthorized, "%q does not speak %s", name, alpnProtocol)
	}
	return checkWitness(state.PeerCertificates[0], name, ip, c.KeyAuthorization)
}

// checkWitness looks for exactly one alternative name and the digest in a critical extension.
func checkWitness(leaf *x509.Certificate, name string, ip netip.Addr, keyAuthorization string) error {
	names := len(leaf.DNSNames) + len(leaf.IPAddresses) + len(leaf.URIs) + len(leaf.EmailAddresses)
	switch {
	case names != 1 || !oneAltName(leaf):
		return failed(core.Unauthorized, "the certificate that %q shows does not have exactly one alternative name", name)
	case ip.IsValid() && (len(leaf.IPAddresses) != 1 || !leaf.IPAddresses[0].Equal(ip.AsSlice())):
		return failed(core.Unauthorized, "the certificate that %q shows is for another address", name)
	case !ip.IsValid() && (len(leaf.DNSNames) != 1 || leaf.DNSNames[0] != name):
		return failed(core.Unauthorized, "the certificate that %q shows is for another name", name)
	}
	identifier := asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31} // id-pe-acmeIdentifier
	at := slices.IndexFunc(leaf.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(identifier) })
	if at < 0 || !leaf.Extensions[at].Critical {
		return failed(core.Unauthorized, "the certificate that %q shows has no critical acmeIdentifier", name)
	}
	sum := sha256.Sum256([]byte(keyAuthorization))
	if !bytes.Equal(leaf.Extensions[at].Value, append([]byte{asn1.TagOctetString, sha256.Size}, sum[:]...)) {
		return failed(core.Unauthorized, "the certificate that %q shows is for another challenge", name)
	}
	return nil
}

// oneAltName reports whether the extension has one name of any kind: the parser keeps only some kinds.
func oneAltName(leaf *x509.Certificate) bool {
	at := slices.IndexFunc(leaf.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) })
	if at < 0 {
		return false
	}
	var all []asn1.RawValue
	rest, err := asn1.Unmarshal(leaf.Extensions[at].Value, &all)
	return err == nil && len(rest) == 0 && len(all) == 1
}
