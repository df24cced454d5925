// Package status serves over plain HTTP what everybody may ask: revocation lists, the certificates of the CAs, and the Online Certificate
// Status Protocol. It stands without TLS on purpose: an https address would need a certificate to check a certificate, and everything served
// here is signed by itself (RFC 5280, section 8).
//
//	GET  /                   a page for people: CAs, fingerprints, where their lists stand
//	GET  /crl/ISSUER.crl     the complete list of a CA, DER (RFC 2585); ISSUER is its id or name
//	GET  /crl/ISSUER/N.crl   the list of one of its shards; with .delta.crl, here and above, the delta list
//	GET  /ca/ISSUER.cer      its certificate, DER
//	GET  /ca/ISSUER.pem      its chain to the root, PEM
//	GET  /ca/ISSUER.p7c      all certificates for its key, cross certificates first (CMS, RFC 5280, section 4.2.2.1)
//	POST /ocsp               OCSP (RFC 6960, appendix A)
//	GET  /ocsp/BASE64        OCSP, also with "/" and "+" as they are
//
// Lists and certificates have an ETag and answer conditional and range requests. OCSP answers have status 200, their media type and a length
// also when they say that something is wrong: OpenSSL insists. They have the cache headers of RFC 5019, section 6, unless the question had a
// nonce.
//
// The package deliberately decides nothing, authenticates nobody, and lists no certificates but those of CAs.
package status

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/ca"
	"mooring/internal/core/revoke"
)

// Deps is what the server stands on.
type Deps struct {
	Revoke *revoke.Service
	CA     *ca.Authority
	Now    func() time.Time
	Log    *slog.Logger // of OCSP questions that could not be answered; nil: silent
}

// server answers the requests.
type server struct {
	Deps
	page page
}

// The paths of OCSP. Requests in a path are base64, which may contain "//": they must not meet a router that cleans paths.
const (
	ocspPath   = "/ocsp"
	ocspPrefix = "/ocsp/"
)

// New returns the handler. It wants to be at the root of its listener.
func New(d Deps) http.Handler {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	s := &server{Deps: d, page: newPage()}
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", get(s.index))
	mux.HandleFunc("/crl/{file}", get(s.crl))
	mux.HandleFunc("/crl/{issuer}/{file}", get(s.crl))
	mux.HandleFunc("/ca/{file}", get(s.certificate))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		web.Text(w, r, errs.New(errs.NotFound, "there is nothing here; the page / lists what is"))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if path := r.URL.EscapedPath(); path == ocspPath || strings.HasPrefix(path, ocspPrefix) {
			s.ocsp(w, r, path)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// get wraps a handler of GET and HEAD that returns what went wrong.
func get(answer func(w http.ResponseWriter, r *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			web.MethodNotAllowed(w, http.MethodGet, http.MethodHead)
			return
		}
		if err := answer(w, r); err != nil {
			web.Text(w, r, err)
		}
	}
}

const (
	typeCRL  = "application/pkix-crl"              // RFC 2585, section 4.2
	typeCert = "application/pkix-cert"             // RFC 2585, section 4.1
	typePEM  = "application/pem-certificate-chain" // RFC 8555, section 9.1
	listAge  = time.Minute                         // caches ask again after that: a list changes with every revocation
	certAge  = 24 * time.Hour                      // the certificate of a CA never changes
)

// certificate serves the certificate of a CA or its chain.
func (s *server) certificate(w http.ResponseWriter, r *http.Request) error {
	name, extension, _ := strings.Cut(r.PathValue("file"), ".")
	if extension != "cer" && extension != "pem" && extension != "p7c" {
		return errs.New(errs.NotFound, "certificates are at /ca/ISSUER.cer, /ca/ISSUER.pem and /ca/ISSUER.p7c")
	}
	issuer, err := s.CA.Issuer(name)
	if err != nil {
		return err
	}
	if extension == "p7c" {
		return s.crossed(w, r, issuer)
	}
	f := file{mediaType: typeCert, body: bytes.NewReader(issuer.Certificate().Raw), modified: time.Unix(issuer.Created(), 0), age: certAge}
	if extension == "pem" {
		f.mediaType, f.body = typePEM, bytes.NewReader(issuer.PEM())
	}
	id := issuer.ID() // it names the key and the name, and an Issuer never changes
	f.tag = append(id[:], extension...)
	serve(w, r, f)
	return nil
}

// file is what serve hands out.
type file struct {
	mediaType string
	body      io.ReadSeeker
	tag       []byte
	modified  time.Time
	age       time.Duration
}

// serve answers GET, HEAD, conditional and range requests.
func serve(w http.ResponseWriter, r *http.Request, f file) {
	h := w.Header()
	h.Set("Content-Type", f.mediaType)
	h.Set("ETag", `"`+hex.EncodeToString(f.tag)+`"`)
	h.Set("Cache-Control", fmt.Sprintf("public, max-age=%d", f.age/time.Second))
	http.ServeContent(w, r, "", f.modified, f.body)
}
