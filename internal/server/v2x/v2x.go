// Package v2x serves the authorities of cooperative transport over plain HTTP (TS 102 941, 6.2.0 and annex D); the messages protect themselves. Each has a
// handler, for a listener of its own:
//
//	Enrolment      POST /enrolment       requests for enrolment credentials
//	Validation     POST /validation      questions of authorization authorities
//	Authorization  POST /authorization   requests for tickets
//	Distribution   GET  /getctl/ID, /getctl/ID/SEQUENCE, /getcrl/ID
//
// A request that cannot be answered by a message, since its key could not be had, gets 400 and an empty body. It parses nothing: decisions are those of
// core/v2x.
package v2x

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/access"
	"mooring/internal/core/v2x/aa"
	"mooring/internal/core/v2x/ea"
	"mooring/internal/core/v2x/trust"
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

// Distribution serves the lists of the root.
func Distribution(t *trust.Service) http.Handler {
	mux := http.NewServeMux()
	serve := func(kind string, find func(r *http.Request, st *trust.State) ([]byte, error)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				web.MethodNotAllowed(w, http.MethodGet, http.MethodHead)
				return
			}
			st := t.State()
			if st.Root == nil || !strings.EqualFold(r.PathValue("id"), st.Root.ID.String()) {
				nothing(w, r)
				return
			}
			octets, err := find(r, st)
			if err == nil && octets == nil {
				err = errs.New(errs.NotFound, "there is no such list")
			}
			if err != nil {
				web.Text(w, r, err)
				return
			}
			give(w, r, kind, octets)
		}
	}
	mux.HandleFunc("/getctl/{id}", serve(scr.CTLType, func(_ *http.Request, st *trust.State) ([]byte, error) { return st.Full, nil }))
	mux.HandleFunc("/getctl/{id}/{sequence}", serve(scr.CTLType, func(r *http.Request, _ *trust.State) ([]byte, error) {
		n, err := strconv.ParseUint(r.PathValue("sequence"), 10, 8)
		if err != nil {
			return nil, nil // a number that no list has
		}
		return t.Delta(r.Context(), uint8(n))
	}))
	mux.HandleFunc("/getcrl/{id}", serve(scr.CRLType, func(_ *http.Request, st *trust.State) ([]byte, error) { return st.CRL, nil }))
	mux.HandleFunc("/", nothing)
	return mux
}

// give writes a list, unless the client has it.
func give(w http.ResponseWriter, r *http.Request, kind string, octets []byte) {
	sum := sha256.Sum256(octets)
	tag := `"` + hex.EncodeToString(sum[:16]) + `"`
	w.Header().Set("ETag", tag)
	w.Header().Set("Cache-Control", "max-age=60")
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Content-Length", strconv.Itoa(len(octets)))
		return
	}
	web.Write(w, http.StatusOK, kind, octets)
}
