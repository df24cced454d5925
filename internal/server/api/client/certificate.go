package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"mooring/internal/server/api/v1"
)

// Certificates selects certificates. Fields that are set must all fit.
type Certificates struct {
	Device        string // name or id
	Profile       string
	Issuer        string // name or id of the CA
	Revoked       *bool
	ExpiresBefore time.Time
	Cursor        string
	Limit         int // certificates a page; 0 = 100, at most 1,000
}

func (f Certificates) query() url.Values {
	q := query{}
	q.text("device", f.Device)
	q.text("profile", f.Profile)
	q.text("issuer", f.Issuer)
	if f.Revoked != nil {
		q.text("revoked", strconv.FormatBool(*f.Revoked))
	}
	q.time("expires_before", f.ExpiresBefore)
	q.text("cursor", f.Cursor)
	q.number("limit", int64(f.Limit))
	return url.Values(q)
}

// Certificates returns one page of certificates, without their PEM. While Next is set there are more.
func (c *Client) Certificates(ctx context.Context, f Certificates) (v1.CertificatePage, error) {
	return get[v1.CertificatePage](ctx, c, "/v1/certificates", f.query())
}

// AllCertificates returns every certificate that passes f, page by page. An error is the last thing that comes.
func (c *Client) AllCertificates(ctx context.Context, f Certificates) iter.Seq2[v1.Certificate, error] {
	return pages(f.Cursor, func(cursor string) ([]v1.Certificate, string, error) {
		f.Cursor = cursor
		p, err := c.Certificates(ctx, f)
		return p.Certificates, p.Next, err
	})
}

// Certificate returns the certificate with this serial number, with its PEM.
func (c *Client) Certificate(ctx context.Context, serial string) (v1.Certificate, error) {
	return get[v1.Certificate](ctx, c, "/v1/certificates/"+segment(serial), nil)
}

// Revoke revokes the certificate with this serial number. reason is a name of RFC 5280, section 5.3.1, or "" for unspecified; certificateHold can be
// lifted with Release. To revoke twice is no error.
func (c *Client) Revoke(ctx context.Context, serial, reason string) (v1.RevokeResult, error) {
	return call[v1.RevokeResult](ctx, c, http.MethodPost, "/v1/certificates/"+segment(serial)+"/revoke", v1.Reason{Reason: reason})
}

// Release lifts the hold of the certificate with this serial number.
func (c *Client) Release(ctx context.Context, serial string) (v1.RevokeResult, error) {
	return call[v1.RevokeResult](ctx, c, http.MethodPost, "/v1/certificates/"+segment(serial)+"/release", nil)
}

// CAs returns all CAs, without their chains.
func (c *Client) CAs(ctx context.Context) ([]v1.CA, error) {
	list, err := get[v1.CAList](ctx, c, "/v1/cas", nil)
	return list.CAs, err
}

// CA returns the CA with this name or id, with its chain.
func (c *Client) CA(ctx context.Context, nameOrID string) (v1.CA, error) {
	return get[v1.CA](ctx, c, "/v1/cas/"+segment(nameOrID), nil)
}

// CreateCA makes a CA.
func (c *Client) CreateCA(ctx context.Context, n v1.NewCA) (v1.CA, error) {
	return call[v1.CA](ctx, c, http.MethodPost, "/v1/cas", n)
}

// Profiles returns all profiles, without their sources.
func (c *Client) Profiles(ctx context.Context) ([]v1.Profile, error) {
	list, err := get[v1.ProfileList](ctx, c, "/v1/profiles", nil)
	return list.Profiles, err
}

// Profile returns the profile with this name, with its source.
func (c *Client) Profile(ctx context.Context, name string) (v1.Profile, error) {
	return get[v1.Profile](ctx, c, "/v1/profiles/"+segment(name), nil)
}
