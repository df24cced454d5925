package client

import (
	"context"
	"net/http"

	"mooring/internal/server/api/v1"
)

// CARequests returns the CAs that wait for their certificates.
func (c *Client) CARequests(ctx context.Context) ([]v1.CARequest, error) {
	list, err := get[v1.CARequestList](ctx, c, "/v1/ca-requests", nil)
	return list.Requests, err
}

// RequestCA makes the key of a CA and a request for its certificate.
func (c *Client) RequestCA(ctx context.Context, n v1.NewCARequest) (v1.CARequest, error) {
	return call[v1.CARequest](ctx, c, http.MethodPost, "/v1/ca-requests", n)
}

// WithdrawCA gives a request up and returns those that still wait.
func (c *Client) WithdrawCA(ctx context.Context, name string) ([]v1.CARequest, error) {
	list, err := call[v1.CARequestList](ctx, c, http.MethodPost, "/v1/ca-requests/"+segment(name)+"/withdraw", nil)
	return list.Requests, err
}

// ImportCA takes in the certificate of a CA with those above it.
func (c *Client) ImportCA(ctx context.Context, in v1.CAImport) (v1.CAImported, error) {
	return call[v1.CAImported](ctx, c, http.MethodPost, "/v1/cas/import", in)
}

// ImportCeremony takes in the ceremony record of a root that is known.
func (c *Client) ImportCeremony(ctx context.Context, record string) (v1.RecordImported, error) {
	return call[v1.RecordImported](ctx, c, http.MethodPost, "/v1/cas/import-record", v1.RecordText{Record: record})
}

// Crosses returns the cross certificates that are valid now.
func (c *Client) Crosses(ctx context.Context) ([]v1.Cross, error) {
	list, err := get[v1.CrossList](ctx, c, "/v1/ca-crosses", nil)
	return list.Crosses, err
}

// CrossCAs has two roots vouch for each other.
func (c *Client) CrossCAs(ctx context.Context, n v1.NewCross) ([]v1.Cross, error) {
	list, err := call[v1.CrossList](ctx, c, http.MethodPost, "/v1/ca-crosses", n)
	return list.Crosses, err
}

// ImportCross takes in a cross certificate that was signed elsewhere.
func (c *Client) ImportCross(ctx context.Context, certificate string) (v1.Cross, error) {
	return call[v1.Cross](ctx, c, http.MethodPost, "/v1/ca-crosses/import", v1.CertificateText{Certificate: certificate})
}

// ImportCRL takes in a revocation list, PEM, of a CA whose key is elsewhere.
func (c *Client) ImportCRL(ctx context.Context, list string) (v1.ListImported, error) {
	return call[v1.ListImported](ctx, c, http.MethodPost, "/v1/cas/import-crl", v1.ListText{CRL: list})
}

// RequestResponder makes the key of an OCSP responder for a CA whose key is elsewhere, and a request for its certificate.
func (c *Client) RequestResponder(ctx context.Context, n v1.NewResponder) (v1.CARequest, error) {
	return call[v1.CARequest](ctx, c, http.MethodPost, "/v1/ca-responders", n)
}

// ImportResponder takes in the certificate, PEM, of an OCSP responder that was signed elsewhere.
func (c *Client) ImportResponder(ctx context.Context, certificate string) (v1.Responder, error) {
	return call[v1.Responder](ctx, c, http.MethodPost, "/v1/ca-responders/import", v1.CertificateText{Certificate: certificate})
}

// Responders returns the OCSP responders of CAs whose keys are elsewhere.
func (c *Client) Responders(ctx context.Context) ([]v1.Responder, error) {
	list, err := get[v1.ResponderList](ctx, c, "/v1/ca-responders", nil)
	return list.Responders, err
}
