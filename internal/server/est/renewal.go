package est

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/enrol"
	"mooring/internal/server/gate"
	"mooring/wire/est"
)

// renewal tells a device, by the certificate that it presents, when to renew. It is no part of EST: a client that does not know of it renews by
// itself.
func (s *server) renewal(w http.ResponseWriter, r *http.Request) {
	web.Annotate(r, slog.String("operation", "renewal"))
	if r.Method != http.MethodGet {
		web.MethodNotAllowed(w, http.MethodGet)
		return
	}
	peer, ok := gate.PeerFrom(r)
	if !ok {
		web.Text(w, r, errs.New(errs.Internal, "the request did not come through the TLS gate"))
		return
	}
	id, err := s.Enrol.Authenticate(r.Context(), peer.Chain())
	if id != nil {
		web.Annotate(r, slog.String("device", id.Device.ID.String()))
	}
	if err == nil && id.Own == nil {
		err = errs.New(errs.Denied, "the client certificate was issued elsewhere: only certificates of this platform are renewed here")
	}
	if err != nil {
		if errors.Is(err, enrol.ErrUnauthenticated) {
			w.Header().Set("WWW-Authenticate", `Basic realm="est", charset="UTF-8", error_description="`+quotable(errs.Public(err))+`"`)
			web.Write(w, http.StatusUnauthorized, "", nil)
			return
		}
		s.refuse(w, r, err)
		return
	}
	s.Enrol.Devices.Seen(id.Device.ID, s.Enrol.Now().Unix())
	h, err := s.Campaigns.Hint(r.Context(), &id.Device, id.Own.Serial[:], r.Header.Get(est.HeaderProblem))
	if err != nil {
		web.Text(w, r, err)
		return
	}
	advice := est.Advice{KeyType: string(h.Key), NewKey: h.NewKey, Reason: h.Campaign, AskAgain: int64(h.Ask / time.Second)}
	if h.RenewAt > 0 {
		advice.RenewAt = time.Unix(h.RenewAt, 0).UTC()
	}
	body, err := json.Marshal(advice)
	if err != nil {
		web.Text(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	web.Write(w, http.StatusOK, "application/json", append(body, '\n'))
}
