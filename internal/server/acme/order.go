package acme

import (
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	core "mooring/internal/core/acme"
	"mooring/wire/acme"
)

// How long clients wait before they look again.
const (
	retryValidation = 2 * time.Second
	retryOrder      = 5 * time.Second
	retryRenewal    = 6 * time.Hour
)

func (s *server) orderURL(id core.ID) string { return s.Base + pathOrder + id.String() }

func (s *server) authzURL(id core.ID, n int) string {
	return s.Base + pathAuthz + id.String() + "/" + strconv.Itoa(n)
}

// newOrder answers RFC 8555, section 7.4.
func (s *server) newOrder(c *call) (*answer, error) {
	var n acme.NewOrder
	if err := c.object(&n); err != nil {
		return nil, err
	}
	if n.NotBefore != "" || n.NotAfter != "" {
		return nil, refuse(errs.Invalid, core.Malformed, "how long a certificate is valid follows from the profile: leave notBefore and notAfter out")
	}
	o, err := s.ACME.NewOrder(c.Context(), c.account, core.Wanted{Identifiers: n.Identifiers, Profile: n.Profile, Replaces: n.Replaces, Source: web.Address(c.Request)})
	if err != nil {
		return nil, err
	}
	a := s.orderAnswer(&o)
	a.status = http.StatusCreated
	return a, nil
}

// orderAnswer shows an order, with its address: some clients look for it in every answer about one.
func (s *server) orderAnswer(o *core.Order) *answer {
	status := o.Status(s.ACME.Now().Unix())
	url := s.orderURL(o.ID)
	body := acme.Order{Status: status, Expires: stamp(o.Expires), Profile: o.Profile, Replaces: o.Replaces, Error: o.Problem, Finalize: url + "/finalize"}
	for n, name := range o.Names() {
		body.Identifiers = append(body.Identifiers, identifier(name))
		body.Authorizations = append(body.Authorizations, s.authzURL(o.ID, n))
	}
	a := &answer{location: url}
	switch status {
	case acme.StatusValid:
		body.Certificate = url + "/certificate"
	case acme.StatusProcessing:
		a.retry = retryOrder
	}
	a.body = body
	return a
}

func identifier(name string) acme.Identifier {
	kind, value, _ := strings.Cut(name, ":")
	return acme.Identifier{Type: kind, Value: value}
}

func stamp(at int64) string { return time.Unix(at, 0).UTC().Format(time.RFC3339) }

func (s *server) order(c *call) (*answer, error) {
	id, _, err := c.place()
	if err == nil {
		err = c.asGet()
	}
	if err != nil {
		return nil, err
	}
	o, err := s.ACME.Order(c.Context(), c.account, id)
	if err != nil {
		return nil, err
	}
	return s.orderAnswer(&o), nil
}

func (s *server) finalize(c *call) (*answer, error) {
	id, _, err := c.place()
	if err != nil {
		return nil, err
	}
	var f acme.Finalize
	if err := c.object(&f); err != nil {
		return nil, err
	}
	csr, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(f.CSR, "="))
	if err != nil {
		return nil, refuse(errs.Invalid, core.BadCSR, "the certification request is not base64url of DER")
	}
	defer s.ACME.Enrol.Expect()()
	o, err := s.ACME.Finalize(c.Context(), c.account, id, csr)
	if err != nil {
		return nil, err
	}
	return s.orderAnswer(&o), nil
}

// certificate answers section 7.4.2: the default chain, or one of the others, which links lead to.
func (s *server) certificate(c *call) (*answer, error) {
	id, _, err := c.place()
	if err == nil {
		err = c.asGet()
	}
	if err != nil {
		return nil, err
	}
	chain, err := s.ACME.Certificate(c.Context(), c.account, id)
	if err != nil {
		return nil, err
	}
	all := append([][][]byte{chain.Certificates}, chain.Others...)
	which := 0
	if text := c.PathValue("chain"); text != "" {
		if which, err = strconv.Atoi(text); err != nil || which < 1 || which >= len(all) || strconv.Itoa(which) != text {
			return nil, refuse(errs.NotFound, core.Malformed, "there is no such chain")
		}
	}
	a := &answer{}
	url := s.orderURL(id) + "/certificate"
	for n := range all {
		if n == which {
			continue
		}
		link := url
		if n > 0 {
			link += "/" + strconv.Itoa(n)
		}
		a.links = append(a.links, "<"+link+`>;rel="alternate"`)
	}
	a.chain = encode(all[which])
	return a, nil
}

// encode is a chain as application/pem-certificate-chain.
func encode(chain [][]byte) (text []byte) {
	for _, raw := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})...)
	}
	return text
}

// authz shows an authorization, or gives it up (sections 7.5 and 7.5.2).
func (s *server) authz(c *call) (*answer, error) {
	id, n, err := c.place()
	if err != nil {
		return nil, err
	}
	if len(c.message.Payload) == 0 {
		o, z, err := s.ACME.Authz(c.Context(), c.account, id, n)
		if err != nil {
			return nil, err
		}
		return s.authzAnswer(&o, z, n), nil
	}
	var wish struct {
		Status string `json:"status"`
	}
	if err := c.object(&wish); err != nil {
		return nil, err
	}
	if wish.Status != acme.StatusDeactivated {
		return nil, refuse(errs.Invalid, core.Malformed, "an authorization's status can be changed to deactivated only")
	}
	o, z, err := s.ACME.Give(c.Context(), c.account, id, n)
	if err != nil {
		return nil, err
	}
	return s.authzAnswer(&o, z, n), nil
}

func (s *server) authzAnswer(o *core.Order, z *core.Authz, n int) *answer {
	body := acme.Authorization{Identifier: identifier(z.Name), Status: s.authzStatus(o, z), Expires: stamp(o.Expires), Wildcard: z.Wildcard}
	a := &answer{}
	underway, trouble := s.ACME.Underway(o.ID, n)
	for _, method := range z.Methods() {
		if decided := z.Status == acme.StatusValid || z.Status == acme.StatusInvalid; decided && method != z.Method {
			continue // section 7.1.4: only what was tried
		}
		body.Challenges = append(body.Challenges, s.shown(o, z, n, method, underway, trouble))
	}
	if body.Challenges == nil {
		body.Challenges = []acme.Challenge{}
	}
	if underway != "" {
		a.retry = retryValidation
	}
	a.body = body
	return a
}

func (s *server) authzStatus(o *core.Order, z *core.Authz) string {
	if o.Expires <= s.ACME.Now().Unix() && (z.Status == acme.StatusPending || z.Status == acme.StatusValid) {
		return acme.StatusExpired
	}
	return z.Status
}

// shown is a challenge as it stands.
func (s *server) shown(o *core.Order, z *core.Authz, n int, method, underway string, trouble *acme.Problem) acme.Challenge {
	c := acme.Challenge{Type: method, URL: s.Base + pathChallenge + o.ID.String() + "/" + strconv.Itoa(n) + "/" + method, Status: acme.StatusPending, Token: z.Token}
	switch {
	case z.Method == method && z.Status != acme.StatusPending:
		c.Status, c.Error = z.Status, z.Problem
		if z.Status == acme.StatusDeactivated {
			c.Status = acme.StatusInvalid
		}
		if z.Status == acme.StatusValid {
			c.Validated = stamp(z.At)
		}
	case underway == method && z.Status == acme.StatusPending:
		c.Status, c.Error = acme.StatusProcessing, trouble
	}
	return c
}

// challenge shows a challenge, or has it validated (section 7.5.1).
func (s *server) challenge(c *call) (*answer, error) {
	id, n, err := c.place()
	if err != nil {
		return nil, err
	}
	method := c.PathValue("type")
	var o core.Order
	var z *core.Authz
	if len(c.message.Payload) == 0 {
		o, z, err = s.ACME.Authz(c.Context(), c.account, id, n)
		if err == nil && !slices.Contains(z.Methods(), method) {
			err = refuse(errs.NotFound, core.Malformed, "there is no such challenge")
		}
	} else {
		if err := c.object(&struct{}{}); err != nil {
			return nil, err
		}
		o, z, err = s.ACME.Validate(c.Context(), c.account, id, n, method, c.message.Payload)
	}
	if err != nil {
		return nil, err
	}
	underway, trouble := s.ACME.Underway(id, n)
	a := &answer{body: s.shown(&o, z, n, method, underway, trouble), links: []string{"<" + s.authzURL(id, n) + `>;rel="up"`}}
	if underway != "" {
		a.retry = retryValidation
	}
	return a, nil
}

// revoke answers section 7.6.
func (s *server) revoke(c *call) (*answer, error) {
	var r acme.Revoke
	if err := c.object(&r); err != nil {
		return nil, err
	}
	der, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(r.Certificate, "="))
	if err != nil {
		return nil, refuse(errs.Invalid, core.Malformed, "the certificate is not base64url of DER")
	}
	reason := 0
	if r.Reason != nil {
		reason = *r.Reason
	}
	if err := s.ACME.RevokeCert(c.Context(), core.Revoker{Account: c.account, Key: c.message.Key, Source: web.Address(c.Request)}, der, reason); err != nil {
		return nil, err
	}
	return &answer{}, nil
}

// renewal answers RFC 9773, section 4.
func (s *server) renewal(w http.ResponseWriter, r *http.Request) error {
	id, err := acme.ParseCertID(r.PathValue("id"))
	if err != nil {
		return refuse(errs.Invalid, core.Malformed, "the certificate's identifier cannot be read: %v", err)
	}
	start, end, err := s.ACME.Renewal(r.Context(), id)
	if err != nil {
		return err
	}
	w.Header().Set("Retry-After", web.RetryAfter(retryRenewal))
	return write(w, http.StatusOK, acme.RenewalInfo{SuggestedWindow: acme.Window{Start: start, End: end}, ExplanationURL: s.Explanation})
}
