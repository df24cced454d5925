package acme

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	core "mooring/internal/core/acme"
	"mooring/wire/acme"
)

// statuses are those of problems that have one of their own; the others follow the kind of the error (web.Status).
var statuses = map[core.Type]int{
	core.AccountDoesNotExist: http.StatusBadRequest,
	core.BadNonce:            http.StatusBadRequest,
	core.Unauthorized:        http.StatusForbidden,
	core.OrderNotReady:       http.StatusForbidden,
	core.BadCSR:              http.StatusBadRequest,
	core.AlreadyRevoked:      http.StatusBadRequest,
	core.InvalidProfile:      http.StatusBadRequest,
}

// plain are the problems for errors that ACME has no name for.
var plain = map[errs.Kind]core.Type{
	errs.Internal:    core.ServerInternal,
	errs.Invalid:     core.Malformed,
	errs.Denied:      core.Unauthorized,
	errs.NotFound:    core.Malformed,
	errs.Conflict:    core.Malformed,
	errs.Limited:     core.RateLimited,
	errs.Unavailable: core.ServerInternal,
}

// Refuse answers with err as a problem document (RFC 8555, section 6.7). It is a web.Refuser.
func Refuse(w http.ResponseWriter, r *http.Request, err error) { (&server{}).Refuse(w, r, err) }

// Refuse answers with err.
func (s *server) Refuse(w http.ResponseWriter, r *http.Request, err error) {
	status := web.Status(err)
	var t core.Type
	if errors.As(err, &t) {
		if own := statuses[t]; own != 0 {
			status = own
		}
	}
	switch {
	case errors.Is(err, errMediaType):
		status = http.StatusUnsupportedMediaType
	case errors.As(err, new(errEnded)):
		status = http.StatusUnauthorized
	}
	s.problem(w, r, status, err)
}

func (s *server) problem(w http.ResponseWriter, r *http.Request, status int, err error) {
	web.Note(r, err)
	t := plain[errs.KindOf(err)]
	if status == http.StatusRequestEntityTooLarge {
		t = core.Malformed
	}
	errors.As(err, &t)
	p := acme.Problem{Type: acme.ErrorPrefix + string(t), Detail: errs.Public(err), Status: status}
	if t == core.BadSignatureAlgorithm {
		p.Algorithms = acme.Algorithms() // section 6.2
	}
	var rejected *core.Rejected
	if errors.As(err, &rejected) && (len(rejected.Names) > 1 || !strings.Contains(p.Detail, rejected.Names[0].Detail)) { // many clients print both
		for _, n := range rejected.Names {
			p.Subproblems = append(p.Subproblems, acme.Subproblem{Type: acme.ErrorPrefix + string(n.Type), Detail: n.Detail, Identifier: &acme.Identifier{Type: n.Kind, Value: n.Value}})
		}
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if at := new(located); errors.As(err, &at) {
		h.Set("Location", at.place) // section 7.3.5
	}
	if d, ok := errs.RetryAfter(err); ok {
		h.Set("Retry-After", web.RetryAfter(d))
	}
	text, jsonErr := json.Marshal(p)
	if jsonErr != nil {
		panic("acme: " + jsonErr.Error()) // strings and numbers always marshal
	}
	web.Write(w, status, acme.TypeProblem, append(text, '\n'))
}
