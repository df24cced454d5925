package nats

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"mooring/internal/base/errs"
)

// embedded is a NATS server in this process. It listens nowhere: only its own process can reach it.
type embedded struct {
	*server.Server
	unlock func()
}

// embed starts a server over o.Dir. Only one process may have it: two that write the same files would each destroy what the other acknowledged.
func embed(ctx context.Context, o Options) (*embedded, error) {
	unlock, err := claim(o.Dir)
	if err != nil {
		return nil, err
	}
	s, err := start(ctx, o)
	if err != nil {
		unlock()
		return nil, err
	}
	return &embedded{s, unlock}, nil
}

func claim(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, errs.Wrap(errs.Invalid, err, "the directory %s for stored messages cannot be made: make it, or let the server's user write above it", dir)
	}
	unlock, err = lock(filepath.Join(dir, "lock"))
	switch {
	case errors.Is(err, errLocked):
		return nil, errs.New(errs.Conflict, "the stored messages in %s are in use by another process: end it, or give this one another directory", dir)
	case errors.Is(err, fs.ErrPermission):
		return nil, errs.Wrap(errs.Invalid, err, "the directory %s for stored messages cannot be written: give it to the server's user", dir)
	case err != nil:
		return nil, errs.Wrap(errs.Invalid, err, "the directory %s for stored messages cannot be used", dir)
	}
	return unlock, nil
}

func start(ctx context.Context, o Options) (*server.Server, error) {
	account, system := server.NewAccount(o.Account), server.NewAccount("SYS")
	notes := &serverLog{log: o.Log}
	s, err := server.NewServer(&server.Options{
		ServerName: o.Name,
		DontListen: true,
		NoSigs:     true,
		Accounts:   []*server.Account{account, system}, SystemAccount: "SYS",
		// Nobody can reach the server who is not in this process: the user only chooses the account.
		Users: []*server.User{{Username: o.Name, Password: "-", Account: account}}, NoAuthUser: o.Name,
		JetStream: true, StoreDir: o.Dir, JetStreamMaxMemory: 16 << 20, JetStreamMaxStore: maxStore,
		SyncInterval: time.Second, SyncAlways: o.Durability == Disk,
		MaxPayload: maxPayload, DisableJetStreamBanner: true,
	})
	if err != nil {
		return nil, fmt.Errorf("starting the embedded NATS server: %w", err)
	}
	s.SetLoggerV2(notes, false, false, false)
	go s.Start()
	for !s.ReadyForConnections(100 * time.Millisecond) {
		if what := notes.fatal.Load(); what != nil || ctx.Err() != nil {
			s.Shutdown()
			return nil, errs.Wrap(errs.Unavailable, notStarted(what), "the embedded NATS server does not start over %s", o.Dir)
		}
	}
	if err := enable(s, o.Account); err != nil {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, errs.Wrap(errs.Unavailable, err, "the stored messages in %s cannot be opened", o.Dir)
	}
	return s, nil
}

func notStarted(what *string) error {
	if what == nil {
		return errors.New("it is not ready in time")
	}
	return errors.New(*what)
}

// enable opens what the account has stored.
func enable(s *server.Server, name string) error {
	account, err := s.LookupAccount(name)
	if err != nil {
		return err
	}
	return account.EnableJetStream(map[string]server.JetStreamAccountLimits{"": {MaxMemory: -1, MaxStore: -1, MaxStreams: -1, MaxConsumers: -1,
		MaxAckPending: -1, MemoryMaxStreamBytes: -1, StoreMaxStreamBytes: -1}}, nil)
}

// maxStore is no bound: each stream has its own, and what all have together must not keep one from being made larger or smaller. The disk is looked after by
// look.
const maxStore = 1 << 60

// maxPayload is a packet of the largest size that a front may allow (1 MiB), and room for headers.
const maxPayload = 1<<20 + 128<<10

func (e *embedded) stop() {
	e.Shutdown()
	e.WaitForShutdown()
	e.unlock()
}

// serverLog hands on what the embedded server thinks worth a warning. The last fatal line is kept as the reason why it did not start.
type serverLog struct {
	log   *slog.Logger
	fatal atomic.Pointer[string]
}

func (l *serverLog) Noticef(string, ...any) {}
func (l *serverLog) Debugf(string, ...any)  {}
func (l *serverLog) Tracef(string, ...any)  {}
func (l *serverLog) Warnf(format string, v ...any) {
	if strings.HasPrefix(format, "Plaintext passwords detected") { // nobody can connect but this process, by no network
		return
	}
	l.log.Warn("embedded nats server warns", "text", fmt.Sprintf(format, v...))
}
func (l *serverLog) Errorf(format string, v ...any) {
	l.log.Error("embedded nats server has an error", "text", fmt.Sprintf(format, v...))
}
func (l *serverLog) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.fatal.Store(&text)
	l.log.Error("embedded nats server ends", "text", text)
}
