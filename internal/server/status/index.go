package status

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"

	"mooring/internal/base/web"
	"mooring/internal/core/ca"
)

//go:embed page.html
var pageText string

const style = `body{font:1rem/1.5 system-ui,sans-serif;margin:0;color:#1a1a1a;background:#fff}main{max-width:46rem;margin:0 auto;padding:1rem}` +
	`section{border-top:1px solid #bbb}dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1rem}dt{color:#555}dd{margin:0;overflow-wrap:anywhere}` +
	`@media(prefers-color-scheme:dark){body{color:#eee;background:#111}dt{color:#aaa}a{color:#8bf}}@media(max-width:30rem){dl{grid-template-columns:1fr}}`

// page is the page for people: its template, and the policy that permits the one style sheet and nothing else.
type page struct {
	template *template.Template
	policy   string
}

func newPage() page {
	sum := sha256.Sum256([]byte(style))
	return page{template.Must(template.New("page").Parse(pageText)),
		"default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}
}

// maxListed bounds how many CAs the page shows.
const maxListed = 200

// listed is one CA on the page.
type listed struct {
	ID, Name, Subject, NotAfter, Fingerprint, NextUpdate string
	Root, Offline                                        bool
	VouchedBy                                            []string // names of the roots that vouch for it
	Shards                                               int
	Number                                               int64 // of the list; 0 = none at present
}

// index serves the page.
func (s *server) index(w http.ResponseWriter, r *http.Request) error {
	data := struct {
		Style   template.CSS
		Issuers []listed
		More    int
	}{Style: style}
	var issuers []*ca.Issuer
	s.CA.Each(func(i *ca.Issuer) { issuers = append(issuers, i) })
	if len(issuers) > maxListed {
		data.More = len(issuers) - maxListed
		issuers = issuers[:maxListed]
	}
	for _, i := range issuers {
		data.Issuers = append(data.Issuers, s.describe(r, i))
	}
	var body bytes.Buffer
	if err := s.page.template.Execute(&body, data); err != nil {
		return fmt.Errorf("writing the page: %w", err)
	}
	h := w.Header()
	h.Set("Content-Security-Policy", s.page.policy)
	h.Set("Cache-Control", "no-cache")
	h.Set("Referrer-Policy", "no-referrer")
	web.Write(w, http.StatusOK, "text/html; charset=utf-8", body.Bytes())
	return nil
}

func (s *server) describe(r *http.Request, i *ca.Issuer) listed {
	cert := i.Certificate()
	l := listed{ID: i.ID().String(), Name: i.Name(), Subject: cert.Subject.String(), NotAfter: day(cert.NotAfter), Fingerprint: fingerprint(cert.Raw), Root: i.Parent() == nil, Shards: i.Shards()}
	if i.Forever() {
		l.NotAfter = "no end"
	}
	l.Offline = i.Offline()
	for _, c := range s.CA.Crosses() {
		if c.Subject == i {
			l.VouchedBy = append(l.VouchedBy, c.Issuer.Name())
		}
	}
	if list, err := s.Revoke.CRL(r.Context(), i.ID(), ca.Complete); err == nil {
		l.Number, l.NextUpdate = list.Number, time.Unix(list.NextUpdate, 0).UTC().Format("2006-01-02 15:04 UTC")
	}
	return l
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02") }

// fingerprint is in the form that OpenSSL and browsers show.
func fingerprint(raw []byte) string {
	sum := sha256.Sum256(raw)
	return strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":")
}
