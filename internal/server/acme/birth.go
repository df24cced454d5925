package acme

import (
	"encoding/base64"
	"net/http"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	core "mooring/internal/core/acme"
	"mooring/internal/server/gate"
	"mooring/wire/acme"
)

// birth hands an external account binding to a device that connected with the certificate of its manufacturer (doc/acme.md). ACME has nothing for it, and
// the request is no JWS, so that whatever speaks HTTPS can make it.
func (s *server) birth(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		s.notAllowed(w, r, http.MethodPost)
		return
	}
	b, err := s.bindBirth(r)
	if err != nil {
		if !core.IsRecorded(err) {
			s.ACME.Refuse(r.Context(), nil, web.Address(r), pathBirth, err)
		}
		s.Refuse(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	body := acme.BirthBinding{KID: b.KID, Key: base64.RawURLEncoding.EncodeToString(b.Key), Expires: b.Expires.Format(time.RFC3339)}
	if err := write(w, http.StatusCreated, body); err != nil {
		s.Refuse(w, r, err)
	}
}

func (s *server) bindBirth(r *http.Request) (core.BirthBinding, error) {
	peer, ok := gate.PeerFrom(r)
	if !ok || len(peer.Chain()) == 0 {
		return core.BirthBinding{}, refuse(errs.Denied, core.Unauthorized, "connect with the certificate of the device's manufacturer, by TLS client authentication")
	}
	return s.ACME.BindBirth(r.Context(), peer.Chain(), web.Address(r))
}
