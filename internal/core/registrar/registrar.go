// Package registrar brings devices to the platform that do not know it yet: the registrar of BRSKI (RFC 8995). A device shows by its IDevID whose
// product it is and asks for a voucher; the registrar asks whoever speaks for the manufacturer, the MASA, and hands the voucher on, by which the device
// finds out that it is at its owner's and which CA to believe. Then the device enrols, which is the affair of package enrol.
//
// A voucher is asked for when all of this is so: the certificate of the connection is the IDevID of a registered manufacturer; the product stands on an
// ownership list as a device that may enrol; the manufacturer has a MASA; the request is signed by that very certificate and says that the device
// is connected with us, by the certificate that it was shown. Everything that is asked of the MASA comes from the certificate, nothing but the nonce from
// the request.
//
// The request to the MASA (RFC 8995, section 5.5) is signed with the key of the TLS connection, and its certificate is the one that the device was shown.
// The standard demands only that the key in proximity-registrar-cert is somewhere in the request's chain (section 5.5.5), but there are services that want
// the same certificate, and devices that look for id-kp-cmcRA in what they are shown, and with one certificate everybody is content. The request
// carries the whole chain, so that the root is pinned: the domain keeps its name in the manufacturers' logs when the CA below it or the certificate
// is replaced, and readers that cannot end a path at another than a root can read it. A tighter pin would gain nothing while there is a nonce, since the
// voucher is for this one connection, whose certificate the device named.
//
// What comes back is checked before it is handed on, and so is the log of the manufacturer: a device that somebody else has a voucher for is refused, unless
// its owner says that he knows (HistoryTag).
//
// Nothing is kept in tables. Requests that wait, and vouchers for devices that ask again, are in memory, bounded, for minutes; a device that comes
// back after a restart is shown another certificate and begins anew. The package does not offer vouchers without a nonce, and no constrained BRSKI.
package registrar

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/core/maker"
	"mooring/wire/voucher"
)

// HistoryTag is the tag of a device, and HistoryAccepted its value, by which the owner says that the device may have had other owners: then the
// manufacturer's log is not asked for.
const (
	HistoryTag      = "brski-history"
	HistoryAccepted = "accepted"
)

// surface is how the record calls this way in.
const surface = "brski"

// The bounds of what is kept in memory, and of the time that things take.
const (
	maxAsked   = 4096             // requests that wait or were answered
	maxQueue   = 1024             // that wait to be sent
	maxAsking  = 64               // that are with the MASAs of manufacturers
	maxEach    = 16               // that are with the MASA of one manufacturer, which may be slow or dead
	patience   = 2 * time.Second  // how long a device is kept waiting before it is told to come again
	askTime    = 60 * time.Second // for the MASA's voucher and log together
	answerLife = 15 * time.Minute // how long an answer is kept for a device that asks again
	failedLife = 20 * time.Second // how long a refusal or failure stands before the MASA is asked again
	laterLife  = time.Hour        // how long a request is kept that a MASA put off
	maxLater   = time.Hour        // for how long a MASA can put one off
	minLater   = 2 * time.Second
)

// ErrProximity is in the chain of the error for a device that was shown another certificate than ours: somebody stands between (RFC 8995, section
// 5.2). The connection is to be closed.
var ErrProximity = errors.New("the device was shown another certificate")

// Signer is a certificate that the device may have been shown in the handshake, with its key.
type Signer struct {
	Key         crypto.Signer
	Certificate *x509.Certificate
	Above       []*x509.Certificate // from its issuer to the root
}

// Peer is who is at the other end of the connection.
type Peer struct {
	Chain  [][]byte // its certificates in DER, leaf first, of which it has shown to have the leaf's key
	Source netip.Addr
}

// Request is a device's request for a voucher.
type Request struct {
	Peer
	// Shown are the certificates of ours that the device may have been shown in the handshake.
	Shown []Signer
	Body  []byte // the pledge voucher-request, CMS
}

// Answer is a voucher, or how long to wait before the device sends the same request again.
type Answer struct {
	Device  string // its id in hex, "" when it is not known
	Voucher []byte // CMS, as it came from the MASA
	Retry   time.Duration
}

// Ask is what is asked of a MASA.
type Ask struct {
	// URL is the address below which its operations are; "" for this platform's own.
	URL string
	// Given says that an administrator gave the address: it may be in any network. Others come from certificates.
	Given bool
	// Trusted are the certificates that the service is checked by.
	Trusted []*x509.Certificate
	// By is the registrar, who signed Request and shows the certificate as a TLS client.
	By Signer
	// Request is the registrar voucher-request, CMS.
	Request []byte
}

// Authority is a MASA (RFC 8995, section 5.6). It is safe for concurrent use. What it refuses is of kind Denied, NotFound or Conflict, with its words in
// quotation marks; Unavailable is what may work later. It keeps to the end of ctx.
type Authority interface {
	// Voucher returns the voucher, or after which time the same request is to be sent again.
	Voucher(ctx context.Context, a *Ask) (message []byte, retry time.Duration, err error)
	// Log returns which vouchers there are for the device of the request.
	Log(ctx context.Context, a *Ask) (voucher.AuditLog, error)
}

// Recorder is what the slice needs of the audit record.
type Recorder interface {
	Append(ctx context.Context, tx *db.Tx, entries ...audit.Entry) error
	Refuse(ctx context.Context, actor access.Actor, e audit.Entry) error
}

// Deps are what a Service stands on.
type Deps struct {
	DB      *db.DB
	Audit   Recorder
	Devices *device.Registry
	Makers  *maker.Service
	Enrol   *enrol.Service
	CA      *ca.Authority
	// Own is the platform's own MASA, Remote those of manufacturers.
	Own, Remote Authority
	Now         func() time.Time
	Log         *slog.Logger
}

// Service is the registrar. It is safe for concurrent use.
type Service struct {
	Deps
	work chan struct{} // holds something when there may be more to ask

	mu     sync.Mutex
	asked  map[askKey]*asked // guarded by mu, like what follows; at most maxAsked
	queue  []*asked          // those that wait to be sent, at most maxQueue
	asking map[string]int    // how many are with the MASA of a manufacturer
	remote int               // how many are with the MASAs of manufacturers

	vouchers, reports pace
}

// New returns the registrar over d. Vouchers are had while Run runs.
func New(d Deps) *Service {
	return &Service{Deps: d, work: make(chan struct{}, 1), asked: map[askKey]*asked{}, asking: map[string]int{}, vouchers: pace{burst: 10}, reports: pace{burst: 20}}
}

// Run asks MASAs until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var asking sync.WaitGroup
	defer asking.Wait()
	for {
		for a, done := s.next(); a != nil; a, done = s.next() {
			asking.Go(func() {
				defer done()
				s.ask(ctx, a)
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.work:
		}
	}
}

// next takes the first request that may be sent now, or nil, and returns what to call when it was. The MASA of one manufacturer that does not answer
// keeps back nobody else's devices, and none keeps back those whose vouchers are made here.
func (s *Service) next() (*asked, func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := slices.IndexFunc(s.queue, func(a *asked) bool { return s.asking[a.maker] < maxEach && (a.own || s.remote < maxAsking) })
	if at < 0 {
		return nil, nil
	}
	a := s.queue[at]
	s.queue = slices.Delete(s.queue, at, at+1)
	by, remote := a.maker, 1
	if a.own {
		remote = 0
	}
	s.asking[by]++
	s.remote += remote
	return a, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.asking[by]--; s.asking[by] == 0 {
			delete(s.asking, by)
		}
		s.remote -= remote
		s.wake()
	}
}

// wake has Run look for what it may send.
func (s *Service) wake() {
	select {
	case s.work <- struct{}{}:
	default: // it will
	}
}

// Voucher answers a device that asks for a voucher. The error is NotFound for who is not ours, Denied for what an administrator could change and for
// requests that are signed wrongly, Conflict where the device or its voucher is not acceptable, Invalid for what is no request, with ErrProximity
// in its chain where somebody stands between, Limited and Unavailable for later.
func (s *Service) Voucher(ctx context.Context, r *Request) (Answer, error) {
	p, err := s.pledge(ctx, &r.Peer)
	if err == nil {
		err = p.mayEnrol()
	}
	if err == nil {
		err = s.findMASA(ctx, p)
	}
	if err == nil {
		err = p.read(r)
	}
	if err == nil {
		err = s.identify(ctx, p, &r.Peer)
	}
	answer := Answer{Device: p.id()}
	if err == nil {
		answer.Voucher, answer.Retry, err = s.await(ctx, p)
	}
	if err != nil {
		s.refuse(ctx, p, &r.Peer, "voucher", err)
	}
	return answer, err
}

// refuse records what was refused, and to whom.
func (s *Service) refuse(ctx context.Context, p *pledge, peer *Peer, op string, refusal error) {
	if k := errs.KindOf(refusal); k == errs.Internal || k == errs.Unavailable {
		return
	}
	e := audit.Entry{At: s.Now().Unix(), Action: "registrar.refuse", Device: p.id(), Refused: enrol.Reason(refusal), Detail: map[string]string{"op": op}}
	actor := access.Stranger(peer.Source, surface)
	switch {
	case p.id() != "":
		actor = access.Device(p.id(), surface)
	case p.product.Serial != "":
		actor = access.Device(p.product.Maker+"/"+p.product.Serial, surface)
	}
	if err := s.Audit.Refuse(ctx, actor, e); err != nil {
		s.Log.WarnContext(ctx, "a refusal could not be recorded", "cause", err)
	}
}
