// Package v2x serves the authorities of cooperative transport over plain HTTP (TS 102 941, 6.2.0 and annex D); the messages protect themselves. Each has a
// handler, for a listener of its own:
//
//	Enrolment      POST /enrolment       requests for enrolment credentials
//	Validation     POST /validation      questions of authorization authorities
//	Authorization  POST /authorization   requests for tickets
//	Distribution   GET  /getctl/ID, /getctl/ID/SEQUENCE, /getcrl/ID; and, of our own, /getlink/ID: by what the root ID vouches for the one that follows it
//	CPOC           GET  the list of the trust list manager and its certificates (annex E)
//
// A request that cannot be answered by a message, since its key could not be had, gets 400 and an empty body. It parses nothing: decisions are those of
// core/v2x.
package v2x

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/access"
	"mooring/internal/core/v2x/aa"
	"mooring/internal/core/v2x/ea"
	"mooring/wire/its"
	"mooring/wire/scr"
)

// Paths of the requests, behind the address of the listener.
const (
	EnrolmentPath     = "/enrolment"
	ValidationPath    = "/validation"
	AuthorizationPath = "/authorization"
)

// Enrolment serves stations that want enrolment credentials.
func Enrolment(s *ea.Service) http.Handler { return requests(EnrolmentPath, s.Enrol) }

// Validation serves authorization authorities.
func Validation(s *ea.Service) http.Handler {
	return messages(ValidationPath, exchange{scr.RequestType, scr.ResponseType, s.Validate}, exchange{scr.ManyRequestType, scr.ManyResponseType, s.ValidateMany})
}

// Authorization serves stations that want tickets.
func Authorization(s *aa.Service) http.Handler { return requests(AuthorizationPath, s.Authorize) }

// exchange is a kind of requests, and what answers them.
type exchange struct {
	request, answer string // content types
	do              func(context.Context, access.Actor, []byte) ([]byte, error)
}

// requests serves the requests of TS 102 941 at one path.
func requests(path string, answer func(context.Context, access.Actor, []byte) ([]byte, error)) http.Handler {
	return messages(path, exchange{scr.RequestType, scr.ResponseType, answer})
}

// messages serves requests at one path, of which the first kind is the usual one.
func messages(path string, kinds ...exchange) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			web.MethodNotAllowed(w, http.MethodPost)
			return
		}
		k := slices.IndexFunc(kinds, func(e exchange) bool { return r.Header.Get("Content-Type") == e.request })
		if k < 0 {
			web.Write(w, http.StatusUnsupportedMediaType, "text/plain; charset=utf-8", []byte("requests are "+kinds[0].request+"\n"))
			return
		}
		body, err := web.ReadBody(w, r, its.MaxRequest)
		if err == nil {
			body, err = kinds[k].do(r.Context(), access.Stranger(web.Address(r), "v2x"), body)
		}
		var fault scr.Fault
		switch {
		case err == nil:
			web.Write(w, http.StatusOK, kinds[k].answer, body)
		case errors.As(err, &fault):
			web.Annotate(r, slog.String("reason", fault.Error()))
			w.WriteHeader(http.StatusBadRequest)
		default:
			web.Text(w, r, err)
		}
	})
	mux.HandleFunc("/", nothing)
	return mux
}

func nothing(w http.ResponseWriter, r *http.Request) {
	web.Text(w, r, errs.New(errs.NotFound, "there is nothing here"))
}
