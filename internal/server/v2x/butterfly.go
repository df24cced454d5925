package v2x

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/access"
	"mooring/internal/core/v2x/aa"
	"mooring/internal/core/v2x/ra"
	"mooring/wire/its"
	"mooring/wire/scr"
)

// Paths of butterfly keys, for stations. Those for authorities are ra.IssuePath and ra.IssueManyPath.
const (
	ButterflyPath = "/butterfly"
	DownloadPath  = "/butterfly/download"
)

// AuthorizationHeader has the message in which a station asks for an archive, in Base64, where that is a GET (IEEE 1609.2.1, 6.3.5.3).
const AuthorizationHeader = "Ieee-1609.2.1-Authorization"

// ArchiveType is the content type of archives.
const ArchiveType = "application/zip"

// Butterfly serves stations that want tickets by butterfly keys, beside what next serves:
//
//	POST /butterfly            requests; the answer says when there is something to fetch
//	POST /butterfly/download   a message that asks for an archive
//	GET  /butterfly/download   the same message in a header, or an access token (RFC 6750) and the name as ?filename=; ranges are possible
func Butterfly(s *ra.Service, next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(ButterflyPath, func(w http.ResponseWriter, r *http.Request) {
		token := bearer(r)
		requests(ButterflyPath, func(ctx context.Context, from access.Actor, request []byte) ([]byte, error) {
			return s.Request(ctx, from, request, token)
		}).ServeHTTP(w, r)
	})
	mux.Handle(DownloadPath, download(s))
	mux.Handle("/", next)
	return mux
}

// Issuing serves enrolment authorities that want tickets for cocoon keys, beside what next serves.
func Issuing(s *aa.Service, next http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(ra.IssuePath, requests(ra.IssuePath, s.Butterfly))
	mux.Handle(ra.IssueManyPath, requests(ra.IssueManyPath, s.ButterflyMany))
	mux.Handle("/", next)
	return mux
}

func download(s *ra.Service) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, given := access.Stranger(web.Address(r), "v2x"), r.URL.Query().Get("filename")
		var name string
		var archive, message []byte
		var err error
		if token := bearer(r); token != "" && r.Method != http.MethodPost {
			name, archive, err = s.DownloadByToken(r.Context(), from, token, given)
			given = ""
		} else if message, err = wanted(w, r); err == nil {
			name, archive, err = s.Download(r.Context(), from, message)
		}
		if err == nil && given != "" && given != name {
			err = errs.New(errs.Invalid, "the address asks for another archive than the message")
		}
		var fault scr.Fault
		switch {
		case err == nil:
			giveArchive(w, r, name, archive)
		case errors.As(err, &fault):
			web.Annotate(r, slog.String("reason", fault.Error()))
			w.WriteHeader(http.StatusBadRequest)
		case errors.Is(err, errMethod):
			web.MethodNotAllowed(w, http.MethodGet, http.MethodHead, http.MethodPost)
		default:
			web.Text(w, r, err)
		}
	})
}

// bearer is the access token of a request, "" if there is none.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

var errMethod = errors.New("the method is neither GET nor POST")

// wanted is the message that asks for an archive.
func wanted(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	switch r.Method {
	case http.MethodPost:
		if r.Header.Get("Content-Type") != scr.RequestType {
			return nil, errs.New(errs.Invalid, "requests are %s", scr.RequestType)
		}
		return web.ReadBody(w, r, its.MaxRequest)
	case http.MethodGet, http.MethodHead:
		message, err := base64.StdEncoding.DecodeString(r.Header.Get(AuthorizationHeader))
		if err != nil || len(message) == 0 {
			return nil, errs.New(errs.Invalid, "the header %s has no message in Base64", AuthorizationHeader)
		}
		return message, nil
	}
	return nil, errMethod
}

// giveArchive writes an archive, or the part of it that is asked for. Its octets never change.
func giveArchive(w http.ResponseWriter, r *http.Request, name string, archive []byte) {
	sum := sha256.Sum256(archive)
	h := w.Header()
	h.Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
	h.Set("Content-Type", ArchiveType)
	h.Set("Content-Disposition", `attachment; filename="`+name+`"`)
	h.Set("Cache-Control", "no-store")
	if r.Method == http.MethodPost { // ranges are a matter of GET (RFC 9110, section 14.2)
		web.Write(w, http.StatusOK, ArchiveType, archive)
		return
	}
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(archive))
}
