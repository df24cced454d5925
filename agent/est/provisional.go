package est

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/http"
	"slices"

	wire "mooring/wire/est"
)

// errProvisional guards what is for servers that are believed.
var errProvisional = errors.New("the server is not believed yet, so that nothing of EST may be asked or told")

// Provisional opens a session with a server that is not believed yet (RFC 8995, section 5.1). The handshake proves that it has the key of the certificate
// that it shows, and that is all. Until Believe, Post alone can be used; the secret of the credential is kept back. config.Roots is not used.
func Provisional(ctx context.Context, config Config, credential Credential) (*Session, error) {
	client, err := newClient(config)
	if err != nil {
		return nil, err
	}
	if client.base.Scheme == schemeCoAP {
		return nil, errors.New("a server that is not believed yet can be spoken to over https:// only")
	}
	s := &Session{client: client, credential: credential, config: client.tlsConfig(credential), provisional: true}
	s.config.InsecureSkipVerify, s.config.VerifyConnection = true, nil // Believe looks at the chain
	if err := s.connect(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Peer is the chain of certificates that the server has shown, its own first.
func (s *Session) Peer() []*x509.Certificate { return s.conn.ConnectionState().PeerCertificates }

// Believe ends the provisional state of the session: the chain that the server has shown must lead to one of roots (RFC 8995, section 5.6.2), and
// its certificate must be for the name by which it was called, or, with Config.CMCRA, for a registration authority. After an error the session stays
// provisional.
func (s *Session) Believe(roots []*x509.Certificate) error {
	if err := s.client.verify(s.Peer(), roots, nil); err != nil {
		return fmt.Errorf("the certificate of %s does not lead to what it must: %w", s.client.address, err)
	}
	config := s.client.config
	config.Roots = roots
	client := *s.client
	client.config = config
	s.client, s.provisional = &client, false
	s.config = client.tlsConfig(s.credential)
	return nil
}

// verify tells whether a server that shows the chain peer is the one that was called, by roots alone. Others are intermediate certificates that are
// known besides.
func (c *Client) verify(peer, roots, others []*x509.Certificate) error {
	if len(peer) == 0 {
		return errors.New("it shows no certificate")
	}
	options := x509.VerifyOptions{Roots: pool(roots), Intermediates: pool(slices.Concat(peer[1:], others)), DNSName: c.base.Hostname(), CurrentTime: c.now()}
	_, err := peer[0].Verify(options)
	if err == nil || !c.config.CMCRA || !isCMCRA(peer[0]) {
		return err
	}
	options.DNSName, options.KeyUsages = "", []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	_, err = peer[0].Verify(options)
	return err
}

// isCMCRA tells whether a certificate is that of a registration authority (id-kp-cmcRA, RFC 6402, section 2.10).
func isCMCRA(cert *x509.Certificate) bool {
	return slices.ContainsFunc(cert.UnknownExtKeyUsage, asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 28}.Equal)
}

// Post sends a message of another protocol that the server has at its origin, such as BRSKI, over the connection of this session. The name of the
// operation stands in errors, which are those of EST. No secret goes along.
func (s *Session) Post(ctx context.Context, op wire.Operation, path string, header http.Header, body []byte) (contentType string, content []byte, err error) {
	a, err := s.sendPost(ctx, op, path, header, body)
	if errors.Is(err, errClosed) {
		if err := s.reconnect(ctx); err != nil {
			return "", nil, err
		}
		a, err = s.sendPost(ctx, op, path, header, body)
	}
	if err != nil {
		return "", nil, err
	}
	return a.contentType, a.body, nil
}

func (s *Session) sendPost(ctx context.Context, op wire.Operation, path string, header http.Header, body []byte) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	url := *s.client.base
	url.Path = path
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("making the %s request: %w", op, err)
	}
	request.Header = header.Clone()
	return s.exchange(op, request)
}

// samePeer refuses another server in the place of the one that a provisional session began with: what was asked for names its certificate.
func (s *Session) samePeer(before *x509.Certificate) error {
	if now := s.Peer(); s.provisional && (len(now) == 0 || !now[0].Equal(before)) {
		return fmt.Errorf("%s closed the connection and shows another certificate on the next one; try again", s.client.address)
	}
	return nil
}
