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
func Validation(s *ea.Service) http.Handler { return requests(ValidationPath, s.Validate) }

// Authorization serves stations that want tickets.
func Authorization(s *aa.Service) http.Handler { return requests(AuthorizationPath, s.Authorize) }

// requests serves one kind of requests at one path.
func requests(path string, answer func(context.Context, access.Actor, []byte) ([]byte, error)) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			web.MethodNotAllowed(w, http.MethodPost)
			return
		}
		if r.Header.Get("Content-Type") != scr.RequestType {
			web.Write(w, http.StatusUnsupportedMediaType, "text/plain; charset=utf-8", []byte("requests are "+scr.RequestType+"\n"))
			return
		}
		body, err := web.ReadBody(w, r, its.MaxRequest)
		if err == nil {
			body, err = answer(r.Context(), access.Stranger(web.Address(r), "v2x"), body)
		}
		var fault scr.Fault
		switch {
		case err == nil:
			web.Write(w, http.StatusOK, scr.ResponseType, body)
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
