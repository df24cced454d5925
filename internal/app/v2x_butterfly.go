package app

import (
	"context"
	"crypto/rand"
	"net/http"
	"os"

	"mooring/internal/base/errs"
	"mooring/internal/core/v2x/ra"
	v2xclient "mooring/internal/provider/v2x"
	v2xserver "mooring/internal/server/v2x"
)

// buildButterfly makes what gets stations many tickets with one request. It is there in any case, so that what it kept is verified and taken away; it serves and
// works only if v2x.butterfly says so.
func (p *Platform) buildButterfly() {
	b := &p.Config.V2X.Butterfly
	p.V2X.RA = ra.New(ra.Deps{DB: p.DB, Audit: p.Audit, Trust: p.V2X.Trust, EA: p.V2X.EA, Issuing: v2xclient.New(), URL: p.Config.V2XIssueURL(), Random: rand.Reader, Now: p.now, Log: p.log,
		Policy: ra.Policy{Period: b.Period, Overlap: b.Overlap, Tickets: b.Tickets, Ahead: b.Ahead, Stations: b.Stations, Wait: b.Wait, Strict: b.Strict}})
}

// readTokenKey reads the key of the OAuth server whose tokens stations may show.
func (p *Platform) readTokenKey() error {
	b := &p.Config.V2X.Butterfly
	if !b.On || b.TokenKey == "" {
		return nil
	}
	if b.TokenIssuer == "" || b.TokenAudience == "" {
		return errs.New(errs.Invalid, "v2x.butterfly_token_key needs v2x.butterfly_token_issuer and v2x.butterfly_token_audience beside it: tokens say by whom and for whom they are (RFC 9068, section 4)")
	}
	text, err := os.ReadFile(p.Config.Path(b.TokenKey))
	if err != nil {
		return errs.Wrap(errs.Invalid, err, "v2x.butterfly_token_key cannot be read")
	}
	key, err := ra.ParseTokenKey(text)
	if err != nil {
		return errs.Wrap(errs.Invalid, err, "v2x.butterfly_token_key has no public key of P-256")
	}
	p.V2X.RA.Tokens = &ra.Tokens{Key: key, Issuer: b.TokenIssuer, Audience: b.TokenAudience}
	return nil
}

// enrolmentHandler serves stations at the enrolment authority.
func (p *Platform) enrolmentHandler() http.Handler {
	h := v2xserver.Enrolment(p.V2X.EA)
	if p.Config.V2X.Butterfly.On {
		h = v2xserver.Butterfly(p.V2X.RA, h)
	}
	return h
}

// butterflyRuns are what keeps it going, where there is an enrolment authority.
func (p *Platform) butterflyRuns() []func(context.Context) error {
	if !p.Config.V2X.Butterfly.On || p.Config.Listen.V2XEA == "" {
		return nil
	}
	return []func(context.Context) error{p.V2X.RA.Run}
}

// handler serves stations at the authorization authority, and enrolment authorities that want tickets of butterfly keys.
func (t *TicketAuthority) handler() http.Handler {
	h := v2xserver.Authorization(t.AA)
	if t.Config.V2X.Butterfly.On {
		h = v2xserver.Issuing(t.AA, h)
	}
	return h
}
