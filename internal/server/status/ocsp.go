package status

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"mooring/internal/base/web"
	"mooring/internal/core/revoke"
	"mooring/wire/ocsp"
)

const (
	typeRequest  = "application/ocsp-request"
	typeResponse = "application/ocsp-response"
)

// ocsp answers one question. path is as it was received.
func (s *server) ocsp(w http.ResponseWriter, r *http.Request, path string) {
	r.Pattern = ocspPath // for the log: the path itself is the question
	var answer *revoke.Answer
	var err error
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		answer, err = s.fromPath(r, path)
	case http.MethodPost:
		answer, err = s.fromBody(w, r, path)
	default:
		web.MethodNotAllowed(w, http.MethodGet, http.MethodHead, http.MethodPost)
		return
	}
	if err != nil {
		s.Log.LogAttrs(r.Context(), slog.LevelWarn, "an OCSP question could not be answered", slog.String("status", answer.Status.String()), slog.Any("cause", err))
	}
	if r.Method != http.MethodPost && answer.Cacheable {
		s.cacheable(w, r, answer)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	web.Write(w, http.StatusOK, typeResponse, answer.DER)
}

// malformed is the answer to what is no request.
func malformed() *revoke.Answer {
	return &revoke.Answer{DER: ocsp.ErrorResponse(ocsp.MalformedRequest), Status: ocsp.MalformedRequest}
}

// fromPath reads a question out of the path (RFC 6960, appendix A.1).
func (s *server) fromPath(r *http.Request, path string) (*revoke.Answer, error) {
	request, err := ocsp.DecodePath(strings.TrimPrefix(strings.TrimPrefix(path, ocspPath), "/"))
	if err != nil {
		return malformed(), nil
	}
	return s.Revoke.OCSP(r.Context(), request)
}

// fromBody reads a question out of the body. A missing media type is forgiven, a wrong one is not: it is no question to us.
func (s *server) fromBody(w http.ResponseWriter, r *http.Request, path string) (*revoke.Answer, error) {
	if t := r.Header.Get("Content-Type"); t != "" {
		if mediaType, _, err := mime.ParseMediaType(t); err != nil || mediaType != typeRequest {
			return malformed(), nil
		}
	}
	if path != ocspPath && path != ocspPrefix {
		return malformed(), nil
	}
	request, err := web.ReadBody(w, r, ocsp.MaxRequest)
	if err != nil {
		return malformed(), nil
	}
	return s.Revoke.OCSP(r.Context(), request)
}

// cacheable answers with the headers of RFC 5019, section 6.2.
func (s *server) cacheable(w http.ResponseWriter, r *http.Request, a *revoke.Answer) {
	w.Header().Set("Content-Type", typeResponse)
	prepareAnswer(a).set(w.Header(), s.Now().Unix())
	http.ServeContent(w, r, "", time.Unix(a.ThisUpdate, 0), bytes.NewReader(a.DER))
}

// prepared are the headers of a cacheable answer that do not change with time, ready to be put into a header map. It is shared. The cache may hold
// many of them, which the garbage collector has to look at: the texts are parts of one.
type prepared struct {
	etag, expires, modified [1]string
	refresh                 int64
}

// prepareAnswer returns the headers of a, made the first time.
func prepareAnswer(a *revoke.Answer) *prepared {
	if p, ok := a.Memo.Load().(*prepared); ok {
		return p
	}
	sum := sha256.Sum256(a.DER)
	text := make([]byte, 0, 96)
	text = append(hex.AppendEncode(append(text, '"'), sum[:16]), '"')
	tag := len(text)
	text = time.Unix(a.NextUpdate, 0).UTC().AppendFormat(text, http.TimeFormat)
	expires := len(text)
	all := string(time.Unix(a.ThisUpdate, 0).UTC().AppendFormat(text, http.TimeFormat))
	p := &prepared{[1]string{all[:tag]}, [1]string{all[tag:expires]}, [1]string{all[expires:]}, a.Refresh}
	a.Memo.Store(p)
	return p
}

// set puts the headers into h. Caches ask again when a newer answer is to be had, halfway to the end.
func (p *prepared) set(h http.Header, now int64) {
	h["Etag"] = p.etag[:]
	h["Expires"] = p.expires[:]
	h["Last-Modified"] = p.modified[:]
	h["Cache-Control"] = []string{"max-age=" + strconv.FormatInt(max(0, p.refresh-now), 10) + ", public, no-transform, must-revalidate"}
}
