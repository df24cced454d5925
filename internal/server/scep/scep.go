// Package scep serves the Simple Certificate Enrolment Protocol (RFC 8894), for printers, routers and managed devices that have nothing better.
//
// It parses and renders; every decision is core/enrol's. /scep/PROFILE serves a profile, /scep and /cgi-bin/pkiclient.exe the default one; a profile
// is served only when it says so (scep: in its file). Messages protect themselves, so the listener is plain HTTP.
//
// The challenge password is the device's one-time token; whose it is says the common name of the request, or the token's own prefix "NAME:" for
// clients that can set no common name. A renewal needs no challenge: it is signed with the certificate that is renewed. The answers come from a
// registration authority with an RSA key of its own, so that the issuing CA may have any key.
//
// The server deliberately knows neither single DES nor MD5, triple DES and SHA-1 only where the profile says so, and encrypts to RSA keys alone, as the protocol demands: other keys of clients are
// refused before anything is issued.
package scep

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/ca"
	"mooring/internal/core/enrol"
	"mooring/internal/core/revoke"
	"mooring/wire/cms"
	"mooring/wire/der"
	"mooring/wire/scep"
)

// Key signs answers and decrypts requests.
type Key interface {
	crypto.Signer
	crypto.Decrypter
}

// Identity is who answers: a registration authority with an RSA key, and the certificates above its own, without the root.
type Identity struct {
	Key         Key
	Certificate *x509.Certificate
	Above       [][]byte
}

// Deps is what the server stands on.
type Deps struct {
	Enrol  *enrol.Service
	CA     *ca.Authority
	Revoke *revoke.Service
	// Identity returns the registration authority whose certificate has the profile ra; Unavailable while there is none.
	Identity func(ra string) (Identity, error)
	Now      func() time.Time
}

type server struct {
	Deps
	waiting *waiting
}

// New returns the handler.
func New(d Deps) http.Handler {
	s := &server{Deps: d, waiting: newWaiting(d.Now)}
	mux := http.NewServeMux()
	for _, path := range []string{"/scep", "/scep/{profile}", "/scep/{profile}/pkiclient.exe", "/cgi-bin/pkiclient.exe"} {
		mux.HandleFunc(path, s.route)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		web.Text(w, r, errs.New(errs.NotFound, "there is nothing here; SCEP is served at /scep/PROFILE"))
	})
	return mux
}

// call is one request under way.
type call struct {
	*server
	label   string // as the URL names the profile
	profile *ca.Profile
	ra      Identity
	source  netip.Addr
}

func (s *server) route(w http.ResponseWriter, r *http.Request) {
	c := &call{server: s, label: r.PathValue("profile"), source: web.Address(r)}
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		web.MethodNotAllowed(w, http.MethodGet, http.MethodPost)
		return
	}
	if err := c.prepare(); err != nil {
		web.Text(w, r, err)
		return
	}
	operation := r.URL.Query().Get("operation")
	var mediaType string
	var body []byte
	var err error
	switch operation {
	case "GetCACaps":
		mediaType, body = scep.TypeText, []byte(c.capabilities())
	case "GetCACert":
		mediaType = scep.TypeCAChain
		body, err = c.caCert()
	case "GetNextCACert":
		mediaType = scep.TypeNextCAChain
		body, err = c.nextCACert()
	case "PKIOperation":
		mediaType = scep.TypeMessage
		body, err = c.operate(w, r)
	default:
		err = errs.New(errs.Invalid, "operation: use GetCACaps, GetCACert, GetNextCACert or PKIOperation")
		operation = "unknown"
	}
	web.Annotate(r, slog.String("operation", operation), slog.String("profile", c.profile.Name))
	if err != nil {
		web.Annotate(r, slog.String("reason", enrol.Reason(err)))
		web.Text(w, r, err)
		return
	}
	web.Write(w, http.StatusOK, mediaType, body)
}

// prepare finds the profile and who answers for it.
func (c *call) prepare() (err error) {
	if c.profile, err = c.Enrol.Profile(c.label); err != nil {
		return err
	}
	if c.profile.SCEP == nil {
		return errs.New(errs.NotFound, "the profile %s is not served by SCEP: it has no scep", c.profile.Name)
	}
	c.ra, err = c.Identity(c.profile.SCEP.RA)
	return err
}

// capabilities answers RFC 8894, section 3.5.2. Older clients take a missing SCEPStandard to mean that the rest must be listed, and strongSwan 5.9 looks for SHA-384
// when it is to sign with SHA-256.
func (c *call) capabilities() string {
	list := []string{"AES", "POSTPKIOperation", "Renewal", "SHA-256", "SHA-384", "SHA-512", "SCEPStandard"}
	if c.next() != nil {
		list = append(list, "GetNextCACert")
	}
	return strings.Join(list, "\n") + "\n"
}

// caCert answers RFC 8894, section 4.2.1.2: the registration authority's certificate, and what leads from the issued ones to the root.
func (c *call) caCert() ([]byte, error) {
	anchors, err := c.Enrol.Anchors(c.profile.Name)
	if err != nil {
		return nil, err
	}
	return cms.CertsOnly(distinct(append(append([][]byte{c.ra.Certificate.Raw}, c.ra.Above...), anchors...)))
}

// distinct drops repetitions, which a set must not have.
func distinct(certs [][]byte) (list [][]byte) {
	seen := map[string]bool{}
	for _, cert := range certs {
		if !seen[string(cert)] {
			seen[string(cert)] = true
			list = append(list, cert)
		}
	}
	return list
}

// next returns the CA whose turn comes after the present one's, or nil.
func (c *call) next() *ca.Issuer {
	now := c.Now().Unix()
	current := c.profile.IssuerAt(now)
	for _, turn := range c.profile.Turns {
		if turn.From > now && turn.Issuer != current {
			if i, err := c.CA.Issuer(turn.Issuer); err == nil {
				return i
			}
		}
	}
	return nil
}

// nextCACert answers RFC 8894, section 4.7: the next CA with what is above it, signed by whom the client knows.
func (c *call) nextCACert() ([]byte, error) {
	next := c.next()
	if next == nil {
		return nil, errs.New(errs.NotFound, "no other CA is due for the profile %s", c.profile.Name)
	}
	chain, err := cms.CertsOnly(next.Chain())
	if err != nil {
		return nil, err
	}
	return cms.Sign(cms.SignInput{ContentType: cms.OIDData, Content: chain, Signer: c.ra.Key, Certificate: c.ra.Certificate, SigningTime: c.Now(), Rand: rand.Reader})
}

// operate answers RFC 8894, section 4.3. What cannot be read as a message at all, and what the platform cannot do now, is an HTTP error; all else is an answer
// in the protocol.
func (c *call) operate(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	req := enrol.Request{Protocol: "scep", Op: enrol.Enrol, Profile: c.label, Source: c.source}
	raw, err := message(w, r)
	if err != nil {
		c.Enrol.Refuse(r.Context(), req, err)
		return nil, err
	}
	defer c.Enrol.Expect()() // not before: everybody's batch would wait for one whose body does not come
	parse := scep.Parse
	if c.profile.SCEP.SHA1 {
		parse = scep.ParseSHA1
	}
	m, err := parse(raw)
	if m == nil {
		err = errs.New(errs.Invalid, "the message is not a SCEP message: %v", err)
		c.Enrol.Refuse(r.Context(), req, err)
		return nil, err
	}
	if err != nil {
		return c.fail(r.Context(), m, req, scep.BadMessageCheck, errs.New(errs.Invalid, "%v", err))
	}
	public, ok := m.Signer.PublicKey.(*rsa.PublicKey)
	if !ok {
		return c.fail(r.Context(), m, req, scep.BadAlg, errs.New(errs.Invalid, "SCEP can answer RSA keys only; use EST, ACME or CMP with other keys"))
	}
	// Whatever can be refused without a look inside is refused first: anybody can sign the content that somebody else encrypted, and must not
	// learn from the answer whether what it decrypts to is well-formed.
	switch m.Type {
	case scep.PKCSReq, scep.RenewalReq, scep.CertPoll, scep.GetCert, scep.GetCRL:
	default:
		return c.fail(r.Context(), m, req, scep.BadRequest, errs.New(errs.Invalid, "a client cannot send a %s", m.Type))
	}
	if cipher := m.Cipher(); cipher != cms.AES128CBC && cipher != cms.AES256CBC && (cipher != cms.TripleDESCBC || !c.profile.SCEP.TripleDES) {
		return c.fail(r.Context(), m, req, scep.BadAlg, errs.New(errs.Invalid, "the message is not encrypted by AES"))
	}
	content, err := m.Open(scep.OpenKey{Certificate: c.ra.Certificate, Key: c.ra.Key, TripleDES: c.profile.SCEP.TripleDES, Rand: rand.Reader})
	if err != nil {
		return c.unreadable(r.Context(), m, req)
	}
	switch m.Type {
	case scep.PKCSReq, scep.RenewalReq:
		return c.request(r, m, req, public, content)
	case scep.CertPoll:
		return c.poll(r, m, req, content)
	case scep.GetCert:
		return c.getCert(r.Context(), m, req, content)
	}
	return c.getCRL(r.Context(), m, req, content)
}

// message returns the octets of a message: the body of a POST, or base64 in the query of a GET.
func message(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.Method == http.MethodPost {
		return web.ReadBody(w, r, scep.MaxRequest)
	}
	// Clients that do not escape "+" send what a form reads as a blank.
	text := strings.Map(func(c rune) rune {
		switch c {
		case ' ':
			return '+'
		case '\r', '\n', '\t':
			return -1
		}
		return c
	}, query(r, "message"))
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		raw, err = base64.RawStdEncoding.DecodeString(text)
	}
	switch {
	case err != nil:
		return nil, errs.New(errs.Invalid, "message: it is not base64")
	case len(raw) > scep.MaxRequest:
		return nil, web.TooLarge(scep.MaxRequest)
	}
	return raw, nil
}

// query returns a value of the query, whose base64 may hold a semicolon-free but unescaped text.
func query(r *http.Request, name string) string {
	values, _ := url.ParseQuery(r.URL.RawQuery) // what can be read is enough
	return values.Get(name)
}

// unreadable answers everything that depends on what was encrypted, in one and the same way, so that nobody can decrypt by asking.
func (c *call) unreadable(ctx context.Context, m *scep.Message, req enrol.Request) ([]byte, error) {
	return c.fail(ctx, m, req, scep.BadMessageCheck, errs.New(errs.Invalid, "the content of the message cannot be opened, or is not what its type says: fetch the certificates by GetCACert again, and encrypt for the one with an RSA key"))
}

// request answers PKCSReq and RenewalReq.
func (c *call) request(r *http.Request, m *scep.Message, req enrol.Request, public *rsa.PublicKey, content []byte) ([]byte, error) {
	// A request that was changed in its encryption may still look like one, but its signature is not good any more.
	csr, err := der.ParseRequest(content)
	if err != nil || der.CheckKey(csr.PublicKey) != nil || csr.CheckSignature() != nil {
		return c.unreadable(r.Context(), m, req)
	}
	req.CSR = content
	// A renewal is told by who signed, before any challenge is looked at: a certificate, not a key that vouches for itself.
	if !selfIssued(m.Signer) {
		req.Chain = append([][]byte{m.Signer.Raw}, m.Certificates...)
		if m.Type == scep.RenewalReq {
			req.Op, req.LeavesOut = enrol.Renew, true
		}
		req.ChallengeIsSecret = true // one that is sent along means nothing here
		return c.submit(r, m, req)
	}
	if m.Type == scep.RenewalReq {
		return c.fail(r.Context(), m, req, scep.BadRequest, errs.New(errs.Denied, "a renewal is signed with the key of the certificate that is renewed"))
	}
	if !public.Equal(csr.PublicKey) {
		return c.fail(r.Context(), m, req, scep.BadRequest, errs.New(errs.Denied, "the message is signed with another key than that of its request"))
	}
	req.Basic, req.ChallengeIsSecret = true, true
	req.User, req.Secret = credentials(csr)
	return c.submit(r, m, req)
}

// credentials returns whose token the challenge password is.
func credentials(csr *der.Request) (name, secret string) {
	if before, after, ok := strings.Cut(csr.ChallengePassword, ":"); ok {
		return before, after
	}
	for _, a := range csr.Subject {
		if a.Type == der.OIDCommonName {
			name = a.Value
		}
	}
	return name, csr.ChallengePassword
}

// selfIssued tells the certificate that a client makes for its own key until it has a better one (RFC 8894, section 2.3).
func selfIssued(cert *x509.Certificate) bool {
	return string(cert.RawIssuer) == string(cert.RawSubject)
}

// submit asks for the certificate and renders what comes of it.
func (c *call) submit(r *http.Request, m *scep.Message, req enrol.Request) ([]byte, error) {
	key := c.waiting.key(m)
	if c.waiting.taken(key, req.CSR) {
		return c.fail(r.Context(), m, req, scep.BadRequest, errs.New(errs.Conflict, "this transactionID belongs to another request that still waits: begin a new transaction"))
	}
	answer, err := c.Enrol.Submit(r.Context(), req)
	if answer.Device != "" {
		web.Annotate(r, slog.String("device", answer.Device))
	}
	switch {
	case err != nil && later(err):
		return nil, err
	case err != nil:
		c.waiting.forget(key)
		web.Annotate(r, slog.String("refused", errs.KindOf(err).String()), slog.String("reason", enrol.Reason(err)))
		return c.answer(m, scep.Input{Status: scep.Failure, FailInfo: reason(err), FailText: errs.Public(err)})
	case answer.Pending > 0:
		c.waiting.remember(key, req)
		return c.answer(m, scep.Input{Status: scep.Pending})
	}
	c.waiting.forget(key)
	return c.certificates(m, answer.Certificate.DER)
}

// later reports errors that the same request may not meet again.
func later(err error) bool {
	switch errs.KindOf(err) {
	case errs.Unavailable, errs.Limited, errs.Internal:
		return true
	}
	return false
}

// reason translates an error of the funnel (RFC 8894, section 3.2.1.4).
func reason(err error) scep.FailInfo {
	if errors.Is(err, der.ErrKey) {
		return scep.BadAlg
	}
	return scep.BadRequest
}

// poll answers CertPoll: the request that waits is submitted again.
func (c *call) poll(r *http.Request, m *scep.Message, req enrol.Request, content []byte) ([]byte, error) {
	if _, err := scep.ParseIssuerAndSubject(content); err != nil {
		return c.unreadable(r.Context(), m, req)
	}
	again, ok := c.waiting.find(c.waiting.key(m))
	if !ok || again.Profile != c.label {
		return c.fail(r.Context(), m, req, scep.BadCertID, errs.New(errs.NotFound, "no request of this transaction waits here: send it again"))
	}
	again.Source = c.source
	return c.submit(r, m, again)
}

// getCert answers RFC 8894, section 3.3.4, to a device about certificates of its own.
func (c *call) getCert(ctx context.Context, m *scep.Message, req enrol.Request, content []byte) ([]byte, error) {
	asked, err := scep.ParseIssuerAndSerial(content)
	if err != nil {
		return c.unreadable(ctx, m, req)
	}
	id, err := c.Enrol.Authenticate(ctx, [][]byte{m.Signer.Raw})
	if err != nil {
		return c.refused(ctx, m, req, err)
	}
	cert, err := c.CA.Get(ctx, asked.Serial.Bytes())
	if err != nil && !errs.Is(err, errs.NotFound) {
		return nil, err
	}
	if err != nil || cert.Device != id.Device.ID {
		return c.fail(ctx, m, req, scep.BadCertID, errs.New(errs.NotFound, "there is no such certificate of this device"))
	}
	return c.certificates(m, cert.DER)
}

// getCRL answers RFC 8894, section 3.3.5: the list of the CA that tells about the certificate.
func (c *call) getCRL(ctx context.Context, m *scep.Message, req enrol.Request, content []byte) ([]byte, error) {
	asked, err := scep.ParseIssuerAndSerial(content)
	if err != nil {
		return c.unreadable(ctx, m, req)
	}
	if _, err := c.Enrol.Authenticate(ctx, [][]byte{m.Signer.Raw}); err != nil {
		return c.refused(ctx, m, req, err)
	}
	serial := asked.Serial.Bytes()
	cert, err := c.CA.Get(ctx, serial)
	if errs.Is(err, errs.NotFound) {
		return c.fail(ctx, m, req, scep.BadCertID, errs.New(errs.NotFound, "no certificate of this serial number was issued here"))
	}
	if err != nil {
		return nil, err
	}
	issuer, err := c.CA.IssuerByID(cert.Issuer)
	if err != nil {
		return nil, err
	}
	list, err := c.Revoke.CRL(ctx, issuer.ID(), issuer.Shard(serial))
	if err != nil {
		return nil, err
	}
	if list.DER == nil || list.Size > cms.MaxSize/2 {
		return c.fail(ctx, m, req, scep.BadRequest, errs.New(errs.Limited, "the list has %d octets, too many for a message: fetch it from %s", list.Size, c.CA.CRLAddress(issuer.ID(), issuer.Shard(serial))))
	}
	body, err := cms.CRLsOnly([][]byte{list.DER})
	if err != nil {
		return nil, fmt.Errorf("encoding a revocation list: %w", err)
	}
	return c.answer(m, scep.Input{Status: scep.Success, Content: body})
}

// certificates is the answer with a certificate.
func (c *call) certificates(m *scep.Message, cert []byte) ([]byte, error) {
	body, err := cms.CertsOnly([][]byte{cert})
	if err != nil {
		return nil, fmt.Errorf("encoding the certificate: %w", err)
	}
	return c.answer(m, scep.Input{Status: scep.Success, Content: body})
}

// refused answers who could not be authenticated.
func (c *call) refused(ctx context.Context, m *scep.Message, req enrol.Request, err error) ([]byte, error) {
	if later(err) {
		return nil, err
	}
	return c.fail(ctx, m, req, scep.BadRequest, err)
}

// fail records a refusal that the funnel did not see, and answers it.
func (c *call) fail(ctx context.Context, m *scep.Message, req enrol.Request, why scep.FailInfo, err error) ([]byte, error) {
	c.Enrol.Refuse(ctx, req, err)
	return c.answer(m, scep.Input{Status: scep.Failure, FailInfo: why, FailText: errs.Public(err)})
}

// answer builds a CertRep. It is encrypted as the request was.
func (c *call) answer(m *scep.Message, in scep.Input) ([]byte, error) {
	in.Type, in.Transaction, in.RecipientNonce = scep.CertRep, m.Transaction, m.SenderNonce
	in.SenderNonce = make([]byte, scep.NonceSize)
	rand.Read(in.SenderNonce)
	in.Signer, in.Certificate, in.Rand = c.ra.Key, c.ra.Certificate, rand.Reader
	if in.Content != nil {
		in.Recipient = m.Signer
		switch cipher := m.Cipher(); cipher {
		case cms.AES128CBC, cms.AES256CBC, cms.TripleDESCBC: // the latter came through Open
			in.Cipher = cipher
		}
	}
	body, err := scep.Build(in)
	if err != nil {
		return nil, fmt.Errorf("building an answer: %w", err)
	}
	return body, nil
}
