package nats

import (
	"context"
	"errors"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"mooring/internal/base/errs"
)

// connect reaches the server. The connection then comes back by itself for ever; what was on its way is the publisher's to send again, so nothing is
// buffered below it, where nobody knows in which order it would leave.
func (f *Fabric) connect() error {
	options := []natsgo.Option{natsgo.Name("mooring " + f.o.Name), natsgo.MaxReconnects(-1), natsgo.ReconnectWait(250 * time.Millisecond),
		natsgo.ReconnectBufSize(-1), natsgo.Timeout(callTry), natsgo.SkipSubjectValidation(), // layout.go makes no other ones
		natsgo.ErrorHandler(f.refused), natsgo.DisconnectErrHandler(f.lost), natsgo.ReconnectHandler(f.back)}
	if f.server != nil {
		options = append(options, natsgo.InProcessServer(f.server.Server))
	} else {
		options = append(options, natsgo.PingInterval(5*time.Second), natsgo.MaxPingsOutstanding(2))
	}
	if f.o.Credentials != "" {
		options = append(options, natsgo.UserCredentials(f.o.Credentials))
	}
	if f.o.CA != "" {
		options = append(options, natsgo.RootCAs(f.o.CA))
	}
	if f.o.Cert != "" || f.o.Key != "" {
		options = append(options, natsgo.ClientCert(f.o.Cert, f.o.Key))
	}
	nc, err := natsgo.Connect(strings.Join(f.o.URLs, ","), options...)
	if err != nil {
		return f.unreached(err)
	}
	f.nc = nc
	f.js, err = jetstream.New(nc)
	return err
}

func (f *Fabric) unreached(err error) error {
	urls := strings.Join(f.o.URLs, ", ")
	switch {
	case errors.Is(err, natsgo.ErrAuthorization), errors.Is(err, natsgo.ErrAuthExpired), errors.Is(err, natsgo.ErrAuthRevoked), errors.Is(err, natsgo.ErrAccountAuthExpired):
		return errs.Wrap(errs.Denied, err, "the NATS servers at %s refuse the credentials: give a credentials file or a client certificate that they know", urls)
	case errors.Is(err, natsgo.ErrNoServers), errors.Is(err, natsgo.ErrTimeout):
		return errs.Wrap(errs.Unavailable, err, "none of the NATS servers at %s can be reached: look whether they run and whether the URLs are right", urls)
	}
	return errs.Wrap(errs.Unavailable, err, "connecting with the NATS servers at %s did not succeed: look at the URLs, the credentials file, the CA file and the client certificate", urls)
}

// refused is told what the server says outside of answers; a lack of permission it says only here.
func (f *Fabric) refused(_ *natsgo.Conn, _ *natsgo.Subscription, err error) {
	if errors.Is(err, natsgo.ErrPermissionViolation) {
		text := err.Error()
		f.denied.Store(&text)
	}
	f.o.Log.Warn("nats says that something is wrong", "err", err)
}

func (f *Fabric) lost(_ *natsgo.Conn, err error) {
	if f.ended() {
		return
	}
	f.o.Log.Warn("connection with nats lost", "err", err)
	f.reached(false)
}

func (f *Fabric) back(nc *natsgo.Conn) {
	f.o.Log.Info("connection with nats is back", "server", nc.ConnectedServerName())
	f.reached(true)
	f.out.resume()
}

func (f *Fabric) ended() bool {
	select {
	case <-f.closed:
		return true
	default:
		return false
	}
}

// passing reports whether err may go away by itself.
func passing(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.ErrorCode == codeUnavailable || api.ErrorCode == codeNotAssigned || api.ErrorCode == codeNotLeader || api.ErrorCode == codeTooMany
	}
	return errors.Is(err, natsgo.ErrNoResponders) || errors.Is(err, natsgo.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, natsgo.ErrDisconnected) || errors.Is(err, natsgo.ErrReconnectBufExceeded) || errors.Is(err, jetstream.ErrNoStreamResponse)
}
