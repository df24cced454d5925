// Package acme serves the Automatic Certificate Management Environment: RFC 8555, with addresses as identifiers (RFC 8738), tls-alpn-01
// (RFC 8737), renewal information (RFC 9773) and profiles (draft-ietf-acme-profiles), over a TLS listener of package gate.
//
// It parses messages, checks their signatures, nonces and addresses, and renders; every decision is core/acme's. A message counts only when its
// "url" is, octet by octet, the address that was handed out for what it asks. Each answer to a POST has a fresh nonce, refusals included.
// What belongs to another account is answered as what does not exist.
//
// It deliberately offers no pre-authorisation (newAuthz), keeps no contacts, and redirects nowhere.
package acme

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	core "mooring/internal/core/acme"
	"mooring/internal/core/ca"
	"mooring/wire/acme"
)

// Deps is what the server stands on.
type Deps struct {
	ACME *core.Service
	CA   *ca.Authority
	// Base is where clients reach this server, such as "https://pki.example.com:8444".
	Base string
	// Terms is the address of the terms of service, "" for none, and Explanation of a page about renewals.
	Terms, Explanation string
}

// Paths of the resources below Base.
const (
	pathDirectory  = "/acme/directory"
	pathNonce      = "/acme/new-nonce"
	pathNewAccount = "/acme/new-account"
	pathNewOrder   = "/acme/new-order"
	pathRevoke     = "/acme/revoke-cert"
	pathKeyChange  = "/acme/key-change"
	pathRenewal    = "/acme/renewal-info"
	pathAccount    = "/acme/account/"
	pathOrder      = "/acme/order/"
	pathAuthz      = "/acme/authz/"
	pathChallenge  = "/acme/challenge/"
	pathActivate   = "/acme/attest/tpm"
	pathBirth      = "/acme/birth"
)

type server struct {
	Deps
	text func() []byte // of the directory, which stays as it is: profiles are read once
}

// signer says how a message must name the key that signed it.
type signer int

const (
	byAccount signer = iota // kid
	byKey                   // jwk
	byEither
)

// New returns the handler for everything below /acme/.
func New(d Deps) http.Handler {
	s := &server{Deps: d}
	s.text = sync.OnceValue(s.directoryText)
	mux := http.NewServeMux()
	mux.HandleFunc(pathDirectory, s.get(s.directory))
	mux.HandleFunc(pathRenewal+"/{id}", s.get(s.renewal))
	mux.HandleFunc(pathNonce, s.nonce)
	mux.HandleFunc(pathBirth, s.birth)
	for _, r := range []struct {
		path   string
		signer signer
		do     func(*call) (*answer, error)
	}{
		{pathNewAccount, byKey, s.newAccount},
		{pathNewOrder, byAccount, s.newOrder},
		{pathRevoke, byEither, s.revoke},
		{pathKeyChange, byAccount, s.keyChange},
		{pathAccount + "{account}", byAccount, s.account},
		{pathAccount + "{account}/orders", byAccount, s.orders},
		{pathOrder + "{order}", byAccount, s.order},
		{pathOrder + "{order}/finalize", byAccount, s.finalize},
		{pathOrder + "{order}/certificate", byAccount, s.certificate},
		{pathOrder + "{order}/certificate/{chain}", byAccount, s.certificate},
		{pathAuthz + "{order}/{n}", byAccount, s.authz},
		{pathChallenge + "{order}/{n}/{type}", byAccount, s.challenge},
		{pathActivate, byAccount, s.activate},
	} {
		mux.HandleFunc(r.path, s.post(r.path, r.signer, r.do))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.Refuse(w, r, refuse(errs.NotFound, core.Malformed, "there is nothing here; the directory is at %s", pathDirectory))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "//") || strings.Contains(r.URL.Path, "/.") { // the mux would redirect
			s.Refuse(w, r, refuse(errs.NotFound, core.Malformed, "there is nothing here; the directory is at %s", pathDirectory))
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func refuse(k errs.Kind, t core.Type, format string, args ...any) error {
	return errs.Wrap(k, t, format, args...)
}

func (s *server) get(do func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			s.notAllowed(w, r, http.MethodGet, http.MethodHead)
			return
		}
		if err := do(w, r); err != nil {
			s.Refuse(w, r, err)
		}
	}
}

func (s *server) notAllowed(w http.ResponseWriter, r *http.Request, allow ...string) {
	w.Header().Set("Allow", strings.Join(allow, ", "))
	s.problem(w, r, http.StatusMethodNotAllowed, refuse(errs.Invalid, core.Malformed, "this address answers only %s", strings.Join(allow, ", ")))
}

// directory answers section 7.1.1. It holds a nonce, too, which saves those clients a request that take one wherever it is (section 6.5).
func (s *server) directory(w http.ResponseWriter, _ *http.Request) error {
	s.fresh(w)
	web.Write(w, http.StatusOK, typeJSON, s.text())
	return nil
}

func (s *server) directoryText() []byte {
	d := acme.Directory{NewNonce: s.Base + pathNonce, NewAccount: s.Base + pathNewAccount, NewOrder: s.Base + pathNewOrder, RevokeCert: s.Base + pathRevoke,
		KeyChange: s.Base + pathKeyChange, RenewalInfo: s.Base + pathRenewal, ActivateTPM: s.Base + pathActivate, BindBirth: s.Base + pathBirth,
		Meta: acme.Meta{TermsOfService: s.Terms, ExternalAccountRequired: !s.ACME.Open, Profiles: map[string]string{}}}
	for _, p := range s.CA.Profiles() {
		if p.Accepts(ca.EvidenceAccount) || p.Accepts(ca.EvidenceDomain) || p.Accepts(ca.EvidenceAttested) {
			d.Meta.Profiles[p.Name] = p.Description
		}
	}
	text, err := json.Marshal(d)
	if err != nil {
		panic("acme: " + err.Error()) // strings always marshal
	}
	return append(text, '\n')
}

// nonce answers RFC 8555, section 7.2.
func (s *server) nonce(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodHead:
		s.fresh(w)
		w.WriteHeader(http.StatusOK)
	case http.MethodGet:
		s.fresh(w)
		w.WriteHeader(http.StatusNoContent)
	default:
		s.notAllowed(w, r, http.MethodHead, http.MethodGet)
	}
}

// fresh gives the answer a nonce and the way to the directory (section 6.5 and 7.1).
func (s *server) fresh(w http.ResponseWriter) {
	w.Header().Set("Replay-Nonce", s.ACME.Nonces.New())
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Link", `<`+s.Base+pathDirectory+`>;rel="index"`)
}

const typeJSON = "application/json"

func write(w http.ResponseWriter, status int, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	web.Write(w, status, typeJSON, append(text, '\n'))
	return nil
}

// call is a POST whose message was verified.
type call struct {
	*http.Request
	message *acme.Message
	account *core.Account // by kid; nil by jwk
}

// answer is what a POST led to.
type answer struct {
	status   int // 0 = 200
	body     any
	chain    []byte // in place of body
	location string
	links    []string
	retry    time.Duration
}

// post verifies a message (section 6.2) and answers it.
func (s *server) post(operation string, by signer, do func(*call) (*answer, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			s.notAllowed(w, r, http.MethodPost)
			return
		}
		s.fresh(w)
		c, err := s.verify(w, r, by)
		var a *answer
		if err == nil {
			if c.account != nil {
				web.Annotate(r, slog.String("account", c.account.ID.String()))
			}
			a, err = do(c)
		}
		if err != nil {
			var account *core.Account
			if c != nil {
				account = c.account
			}
			switch {
			case errors.Is(err, core.BadNonce): // which is no refusal, but how a client gets a nonce; after one of another node that is another kind
				w.Header().Set("Replay-Nonce", s.ACME.Nonces.NewFor(err))
			case !core.IsRecorded(err):
				s.ACME.Refuse(r.Context(), account, web.Address(r), operation, err)
			}
			s.Refuse(w, r, err)
			return
		}
		s.render(w, r, a)
	}
}

func (s *server) render(w http.ResponseWriter, r *http.Request, a *answer) {
	h := w.Header()
	if a.location != "" {
		h.Set("Location", a.location)
	}
	for _, link := range a.links {
		h.Add("Link", link)
	}
	if a.retry > 0 {
		h.Set("Retry-After", web.RetryAfter(a.retry))
	}
	if a.status == 0 {
		a.status = http.StatusOK
	}
	switch {
	case a.chain != nil:
		web.Write(w, a.status, acme.TypeChain, a.chain)
	case a.body != nil:
		if err := write(w, a.status, a.body); err != nil {
			s.Refuse(w, r, err)
		}
	default:
		web.Write(w, a.status, "", nil)
	}
}

// verify reads the message and shows who signed it. With an error the call is nil, or says which account it was when that was proven.
func (s *server) verify(w http.ResponseWriter, r *http.Request, by signer) (*call, error) {
	if mediaType, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); strings.TrimSpace(strings.ToLower(mediaType)) != acme.TypeRequest {
		return nil, errs.Wrap(errs.Invalid, errMediaType, "the media type of requests is %s", acme.TypeRequest)
	}
	body, err := web.ReadBody(w, r, acme.MaxRequest)
	if err != nil {
		return nil, err
	}
	m, err := acme.Parse(body)
	switch {
	case errors.Is(err, acme.ErrAlgorithm):
		return nil, refuse(errs.Invalid, core.BadSignatureAlgorithm, "%v", err)
	case errors.Is(err, acme.ErrKey):
		return nil, refuse(errs.Invalid, core.BadPublicKey, "%v", err)
	case err != nil:
		return nil, refuse(errs.Invalid, core.Malformed, "the message cannot be read: %v", err)
	case m.URL != s.Base+r.URL.EscapedPath():
		return nil, refuse(errs.Denied, core.Unauthorized, "the message is for another address than it came to")
	case by == byAccount && m.KID == "", by == byKey && m.Key == nil:
		return nil, refuse(errs.Invalid, core.Malformed, "this request names its key by %s", map[signer]string{byAccount: "kid, the account's address", byKey: "jwk"}[by])
	}
	c := &call{Request: r, message: m}
	if err := s.signed(c); err != nil {
		return nil, err
	}
	if err := s.ACME.Nonces.Use(r.Context(), m.Nonce, c.account != nil); err != nil {
		return nil, err
	}
	return c, nil
}

// signed shows who signed the message. A signature that is not of the account's key may be of the one that it got elsewhere a moment ago.
func (s *server) signed(c *call) error {
	if c.message.KID == "" {
		return unsigned(c.message.Verify(c.message.Key))
	}
	a, err := s.accountOf(c.Request, c.message)
	if err != nil {
		return err
	}
	wrong := c.message.Verify(a.Key)
	if wrong != nil {
		if now, err := s.ACME.AccountNow(c.Context(), a.ID); err == nil && now.Key.Thumbprint != a.Key.Thumbprint {
			a, wrong = now, c.message.Verify(now.Key)
		}
	}
	if wrong == nil && a.State != core.Valid {
		return errs.Wrap(errs.Denied, errEnded{}, "the account is %s", a.State)
	}
	c.account = &a
	return unsigned(wrong)
}

func unsigned(err error) error {
	if err == nil {
		return nil
	}
	return refuse(errs.Invalid, core.Malformed, "%v", err)
}

// errMediaType is the cause of a 415, errEnded of a 401.
var errMediaType = errors.New("unsupported media type")

type errEnded struct{}

func (errEnded) Error() string { return "ended" }

// Unwrap returns the kind of problem.
func (errEnded) Unwrap() error { return core.Unauthorized }

// accountOf returns the account that the message names. What is done to the account itself is done to it as it stands now.
func (s *server) accountOf(r *http.Request, m *acme.Message) (core.Account, error) {
	none := refuse(errs.Invalid, core.AccountDoesNotExist, "the message names no account of this server")
	text, ok := strings.CutPrefix(m.KID, s.Base+pathAccount)
	if !ok {
		return core.Account{}, none
	}
	id, err := core.ParseID(text)
	if err != nil {
		return core.Account{}, none
	}
	var a core.Account
	order, orderErr := core.ParseID(r.PathValue("order")) // none, or none that there could be: read nothing more
	if orderErr == nil || r.URL.Path == pathNewOrder {
		a, err = s.ACME.Account(r.Context(), id, order)
	} else {
		a, err = s.ACME.AccountNow(r.Context(), id)
	}
	if errors.Is(err, core.AccountDoesNotExist) {
		err = none
	}
	return a, err
}

// object decodes the payload, which must be a JSON object.
func (c *call) object(into any) error {
	if len(c.message.Payload) == 0 || c.message.Payload[0] != '{' {
		return refuse(errs.Invalid, core.Malformed, "the payload is not a JSON object")
	}
	if err := json.Unmarshal(c.message.Payload, into); err != nil {
		return refuse(errs.Invalid, core.Malformed, "the payload does not have the form that this request has")
	}
	return nil
}

// asGet refuses what is no POST-as-GET (section 6.3).
func (c *call) asGet() error {
	if len(c.message.Payload) != 0 {
		return refuse(errs.Invalid, core.Malformed, "this is only read: the payload must be empty")
	}
	return nil
}

// place returns the ids in the address.
func (c *call) place() (core.ID, int, error) {
	id, err := core.ParseID(c.PathValue("order"))
	if err != nil {
		return id, 0, refuse(errs.NotFound, core.Malformed, "there is no such thing here")
	}
	n := 0
	if text := c.PathValue("n"); text != "" {
		if n, err = strconv.Atoi(text); err != nil || strconv.Itoa(n) != text {
			return id, 0, refuse(errs.NotFound, core.Malformed, "there is no such thing here")
		}
	}
	return id, n, nil
}
