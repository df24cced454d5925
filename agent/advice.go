package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"time"

	"mooring/agent/est"
	"mooring/wire/der"
	wire "mooring/wire/est"
)

const adviceFile = "advice.json"

// Bounds of what a server may say about when to ask again.
const (
	askLeast     = time.Minute
	askMost      = 24 * time.Hour
	askElsewhere = 24 * time.Hour // servers that give no advice
	askLater     = time.Hour      // after a question that was not answered
)

// advice is what the server said last about the renewal.
type advice struct {
	Serial string    `json:"serial"` // of the certificate that it is about
	AskAt  time.Time `json:"ask_at"` // when to ask again
	wire.Advice
}

// advice returns what the server said about the certificate in use; the zero value if it said nothing about that one.
func (a *Agent) advice(identity *Identity) advice {
	var known advice
	err := a.folder.readJSON(adviceFile, &known)
	if err != nil || known.Serial != serialOf(identity) {
		return advice{} // what cannot be read is asked anew
	}
	return known
}

func serialOf(identity *Identity) string {
	return fmt.Sprintf("%x", identity.Certificate().SerialNumber)
}

// renewAt is when the certificate in use is to be renewed: as the server said, but in time before its end, or as the agent itself thinks.
func (a *Agent) renewAt(identity *Identity) time.Time {
	cert := identity.Certificate()
	own := RenewAt(cert, a.config.Name)
	said := a.advice(identity).RenewAt
	if said.IsZero() {
		return own
	}
	life := cert.NotAfter.Unix() - cert.NotBefore.Unix()
	if latest := time.Unix(cert.NotAfter.Unix()-life/20, 0).UTC(); said.After(latest) {
		return latest
	}
	return said
}

// askAt is when the server is to be asked again: at once about a certificate that it said nothing about.
func (a *Agent) askAt() time.Time {
	identity, err := a.Identity()
	if err != nil || a.waiting() || a.options.Now().After(identity.Certificate().NotAfter) {
		return a.options.Now().Add(askMost) // there is nothing to ask with
	}
	at := a.advice(identity).AskAt
	if at.After(a.options.Now().Add(askMost)) { // written when the clock of this device was wrong
		return time.Time{}
	}
	return at
}

// Ask asks the server when the certificate is to be renewed and with which kind of key, tells it what went wrong last, and by the way shows that
// the certificate is in use. Run does so every few hours. A server that gives no advice is asked again a day later; that is no error.
func (a *Agent) Ask(ctx context.Context) error {
	unlock, err := a.folder.lock()
	if err != nil {
		return err
	}
	defer unlock()
	identity, err := a.Identity()
	if err != nil {
		return err
	}
	known := a.advice(identity)
	said, err := a.ask(ctx, identity)
	now := a.options.Now()
	var refused *est.RefusedError
	switch {
	case err == nil:
		known.Advice = said
		known.AskAt = now.Add(min(max(time.Duration(said.AskAgain)*time.Second, askLeast), askMost))
	case errors.As(err, &refused) && !refused.Temporary():
		known.AskAt, err = now.Add(askElsewhere), nil
	case ctx.Err() != nil:
		return err
	default: // what it said before still holds
		known.AskAt = now.Add(askLater/2 + a.random(askLater/2))
	}
	known.Serial = serialOf(identity)
	return errors.Join(err, a.folder.writeJSON(adviceFile, known))
}

func (a *Agent) ask(ctx context.Context, identity *Identity) (wire.Advice, error) {
	if a.byCMP() || a.bySCEP() { // which have no such question
		return wire.Advice{}, &est.RefusedError{Status: http.StatusNotFound, Reason: "CMP and SCEP servers give no advice"}
	}
	if a.byACME() {
		return a.askByACME(ctx, identity)
	}
	roots, err := a.folder.trusted()
	if err != nil {
		return wire.Advice{}, err
	}
	client, err := a.client(roots)
	if err != nil {
		return wire.Advice{}, err
	}
	session, err := client.Connect(ctx, est.Credential{Certificate: identity.TLS()})
	if err != nil {
		return wire.Advice{}, err
	}
	defer session.Close()
	s, err := a.state()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return wire.Advice{}, err
	}
	return session.Advice(ctx, s.LastError)
}

// consult asks when it is time, and returns how long to wait before anything else when that could not be done.
func (a *Agent) consult(ctx context.Context) time.Duration {
	switch err := a.Ask(ctx); {
	case err == nil || ctx.Err() != nil:
	case errors.Is(err, ErrBusy):
		return busySleep
	default:
		a.options.Log.LogAttrs(ctx, slog.LevelInfo, "server did not say when to renew", slog.String("error", err.Error()))
		if a.askAt().Before(a.options.Now()) { // the answer could not be written: do not hammer the server
			return busySleep
		}
	}
	return 0
}

// RenewNow is Renew for a person who does not want to wait until it is due. It asks the server first with which kind of key, as Run does now and
// then, so that a renewal by hand follows a campaign too, and afterwards once more, which shows the server that the new certificate is
// in use. A server that gives no answer keeps nobody from renewing.
func (a *Agent) RenewNow(ctx context.Context) (*Identity, error) {
	if !a.waiting() && !a.expired() {
		a.consult(ctx)
	}
	identity, err := a.Renew(ctx)
	if err == nil {
		a.consult(ctx)
	}
	return identity, err
}

// adviseKey is the kind of key that the server wants for the next certificate, and whether it must be a new key.
func (a *Agent) adviseKey(old *Identity) (kind der.KeyKind, fresh bool) {
	if old == nil {
		return "", false
	}
	said := a.advice(old)
	return der.KeyKind(said.KeyType), said.NewKey
}
