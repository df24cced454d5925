package est

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"mooring/agent/coap"
	"mooring/wire/cms"
	wirecoap "mooring/wire/coap"
	wire "mooring/wire/est"
)

// schemeCoAP is that of servers that speak EST over CoAP (RFC 9148) instead of HTTPS.
const schemeCoAP = "coaps"

// overCoAP carries the exchanges of a session over CoAP: it takes what net/http would send and gives what net/http would have received, with the names, codes
// and formats translated (RFC 9148, section 4). So everything above it is the same for both.
type overCoAP struct {
	*coap.Conn
	path string // of the operations, without their names
}

// errNoToken says what RFC 9148, section 3, asks for.
var errNoToken = errors.New("EST over CoAP takes a certificate of the device, such as one from its maker, and no token; enrol with --birth-cert and --birth-key, or by https:// first")

// dialCoAP opens an association and completes its handshake.
func (c *Client) dialCoAP(ctx context.Context, config *tls.Config, credential Credential) (*overCoAP, error) {
	if credential.Certificate == nil || credential.Secret != "" {
		return nil, errNoToken
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := coap.Dial(ctx, coap.Config{Address: c.address, ServerName: config.ServerName, Certificate: credential.Certificate, MaxBody: wire.MaxBody,
		Verify: func(chain []*x509.Certificate) error { return c.verify(chain, c.config.Roots, nil) }})
	if err != nil {
		return nil, unanswered(fmt.Errorf("%w%s", err, handshakeHint(err)))
	}
	return &overCoAP{conn, c.base.Path}, nil
}

// ConnectionState returns of the association what the rest of the package looks at.
func (o *overCoAP) ConnectionState() tls.ConnectionState {
	return tls.ConnectionState{Version: tls.VersionTLS12, PeerCertificates: o.Peer()}
}

// binding returns what ties a request to the association.
func (o *overCoAP) binding() wire.ChannelBinding {
	exporter, err := o.Export(wire.ExporterLabel, wire.ExporterLength)
	if err != nil {
		return wire.ChannelBinding{}
	}
	return wire.ChannelBinding{Exporter: exporter}
}

// short returns the CoAP name of an operation, and the format of its answer.
func short(op wire.Operation) (name string, accept wirecoap.Format) {
	switch op {
	case wire.CACerts:
		return "crts", wirecoap.PKCS7CertsOnly
	case wire.CSRAttributes:
		return "att", wirecoap.CSRAttrs
	case wire.SimpleEnroll:
		return "sen", wirecoap.PKCS7CertsOnly
	case wire.SimpleReenroll:
		return "sren", wirecoap.PKCS7CertsOnly
	case wire.ServerKeygen:
		return "skg", wirecoap.MultipartCore
	}
	return "", 0
}

// RoundTrip makes one exchange.
func (o *overCoAP) RoundTrip(request *http.Request) (*http.Response, error) {
	op, below := strings.CutPrefix(request.URL.Path, o.path)
	name, accept := short(wire.Operation(op))
	if !below || name == "" { // what EST over CoAP does not have
		return respond(request, http.StatusNotFound, "text/plain", nil), nil
	}
	r := coap.Request{Code: wirecoap.GET, Path: o.path + name, Accept: accept}
	if request.Method == http.MethodPost {
		text, err := io.ReadAll(request.Body)
		if err != nil {
			return nil, fmt.Errorf("reading the request: %w", err)
		}
		r.Code, r.Format = wirecoap.POST, wirecoap.PKCS10
		if r.Body, err = wire.DecodeBase64(text); err != nil {
			return nil, fmt.Errorf("reading the request: %w", err)
		}
	}
	answer, err := o.Do(request.Context(), r)
	if err != nil {
		return nil, err
	}
	return translate(request, answer)
}

// translate makes an HTTP response of an answer.
func translate(request *http.Request, a *coap.Answer) (*http.Response, error) {
	status := a.Code.Class()*100 + int(a.Code&31)
	switch {
	case a.Code == wirecoap.Content || a.Code == wirecoap.Changed:
	case a.Code == wirecoap.ServiceUnavailable && request.Method == http.MethodPost && a.MaxAge > 0:
		// RFC 9148, section 4.7: not decided yet; the very same request again.
		status = http.StatusAccepted
		fallthrough
	default:
		out := respond(request, status, wire.TypeReason, a.Body)
		if a.MaxAge > 0 {
			out.Header.Set("Retry-After", strconv.Itoa(int(a.MaxAge/time.Second)))
		}
		return out, nil
	}
	switch a.Format {
	case wirecoap.PKCS7CertsOnly:
		return respond(request, http.StatusOK, wire.TypeCertsOnly, wire.EncodeBase64(a.Body)), nil
	case wirecoap.CSRAttrs:
		return respond(request, http.StatusOK, wire.TypeCSRAttrs, wire.EncodeBase64(a.Body)), nil
	case wirecoap.MultipartCore:
		return translateKeygen(request, a.Body)
	}
	return nil, fmt.Errorf("the server answered in the content format %d, which was not asked for", a.Format)
}

// translateKeygen makes the HTTP answer of a key generation; the parts may come in any order (RFC 9148, section 4.8).
func translateKeygen(request *http.Request, body []byte) (*http.Response, error) {
	parts, err := wirecoap.ParseMultipart(body)
	if err != nil {
		return nil, fmt.Errorf("reading the generated key: %w", err)
	}
	var k wire.Keygen
	for _, p := range parts {
		switch p.Format {
		case wirecoap.PKCS8:
			k.KeyType, k.Key = wire.TypePlainKey, p.Body
		case wirecoap.PKCS7Enveloped:
			k.KeyType, k.Key = wire.TypeSealedKey, p.Body
		case wirecoap.PKCS7CertsOnly:
			k.Certificates = p.Body
		case wirecoap.PKIXCert:
			if k.Certificates, err = cms.CertsOnly([][]byte{p.Body}); err != nil {
				return nil, fmt.Errorf("reading the certificate of a generated key: %w", err)
			}
		}
	}
	text, contentType, err := wire.BuildKeygen(k, "coap-"+rand.Text())
	if err != nil {
		return nil, fmt.Errorf("reading the generated key: %w", err)
	}
	return respond(request, http.StatusOK, contentType, text), nil
}

func respond(request *http.Request, status int, contentType string, body []byte) *http.Response {
	return &http.Response{StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"Content-Type": {contentType}},
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: request}
}
