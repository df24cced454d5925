// Package enrol is the registration authority: the one funnel through which every certificate for a device, service or person is asked
// for. A protocol's server parses and renders; it hands a Request over, and what comes back is a certificate, a "come back later" or a
// refusal. Safety is proved here once, not once per protocol.
//
// The order of a submission (submit.go): who is it (identity.go), may the device have a certificate now, does the profile accept this
// evidence, does the requester hold the key, is it the same request as before, must a person approve (pending.go), what may stand in the
// certificate (core/ca). Then: sign, record, release. The record is one transaction, shared with whoever asks at the same moment
// (record.go), whose first statement takes the device's row under the condition that its state, its rules and its token are still what the
// decision was based on. An answer leaves only after that transaction is durable; a certificate that was not recorded is never released.
//
// The package deliberately knows no protocol, no TLS and no encoding but DER.
package enrol

import (
	"context"
	"embed"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/approve"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/maker"
	"mooring/internal/core/revoke"
	"mooring/wire/der"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// Schema returns the migrations of this slice.
func Schema() db.Schema {
	files, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		panic(err) // "schema" is a valid path; fs.Sub looks at nothing else
	}
	return db.Schema{Name: "enrol", FS: files}
}

// Op is what a requester asks for.
type Op uint8

// The operations.
const (
	Enrol    Op = iota + 1 // a certificate for the key of the request
	Renew                  // another one with the same subject and names as the certificate that authenticates the request
	Generate               // a certificate and a key made here
)

// String returns the operation's name as the record holds it.
func (o Op) String() string {
	switch o {
	case Enrol:
		return "enrol"
	case Renew:
		return "renew"
	case Generate:
		return "generate"
	}
	return "unknown"
}

// Request is one enrolment request, as a protocol's server understood it. Nothing in it is believed but Proven.
type Request struct {
	Protocol string // "est", …
	Op       Op
	Profile  string // the profile that the request names, such as by an EST label; "" for the device's own
	// Chain holds the client's certificates in DER, leaf first, when the handshake has proved possession of the leaf's key; else it is empty.
	Chain [][]byte
	// Basic says that the requester presented a name and a secret, which may be empty.
	Basic        bool
	User, Secret string
	// Proven, when set, says who made the request; then Chain and Basic are not looked at. Only slices of the core set it.
	Proven *Proven
	// Vouch, when set, is who asks for a device in its place; then Chain and Basic are not looked at either.
	Vouch *Vouch
	CSR   []byte // PKCS#10 in DER
	// Template, when set, is the request instead of CSR.
	Template *Template
	// Confirm says that the receiver will confirm the certificate.
	Confirm Awaiting
	// LeavesOut says that a renewal which names no subject, or no alternative names, means those of its certificate, as is the custom in SCEP and CMP. In EST
	// leaving out is not repeating.
	LeavesOut bool
	// ChallengeIsSecret says that a challengePassword is, or stands where there was, the Secret (RFC 8894, section 2.4), and no channel binding.
	ChallengeIsSecret bool
	// Bound tells whether a challengePassword is bound to the connection that carried the request; nil where a protocol has no such thing.
	Bound  func(challenge string) bool
	Source netip.Addr
}

// LogValue keeps the secret out of logs.
func (r Request) LogValue() slog.Value {
	return slog.GroupValue(slog.String("protocol", r.Protocol), slog.String("op", r.Op.String()), slog.String("profile", r.Profile))
}

// Answer is what a submission led to. Exactly one of Certificate and Pending is set, or with an error neither.
type Answer struct {
	// Device is the pseudonymous id of the device that stands behind the request, in hex; "" when that was not proven. It is set with an error
	// too.
	Device      string
	Certificate *ca.Certificate
	Profile     *ca.Profile
	// Key is the private key in PKCS#8, when the operation was Generate. It is kept nowhere else.
	Key []byte
	// Recipient is the certificate that authenticated the request, in DER, for a server that must protect Key; nil when none did.
	Recipient []byte
	// Pending says that a person must decide, and when to ask again with the same request.
	Pending time.Duration
}

// LogValue keeps the key out of logs.
func (a Answer) LogValue() slog.Value { return slog.DurationValue(a.Pending) }

// ErrUnauthenticated marks refusals of requesters who have not shown who they are; a server can invite them to.
var ErrUnauthenticated = errors.New("not authenticated")

// Campaigns is what is asked of campaigns, which have many devices renew.
type Campaigns interface {
	// Demand returns what a campaign demands of the next certificate of d. The zero Demand is none.
	Demand(ctx context.Context, d *device.Device) (Demand, error)
	// Refused tells that a request of d, which had proved who it is, was refused.
	Refused(ctx context.Context, d *device.Device, why string)
}

// Demand is what a campaign demands of a device's next certificate.
type Demand struct {
	Campaign string      // its name; "" = there is none
	Key      der.KeyKind // the kind of key; "" = any
	NewKey   bool        // the key must be a new one
	Since    int64       // UTC seconds
}

// Deps is what the service stands on.
type Deps struct {
	DB      *db.DB
	Audit   *audit.Log
	Access  *access.Decider
	Devices *device.Registry
	Makers  *maker.Service // whose IDevIDs show which product a device is
	CA      *ca.Authority
	Revoke  *revoke.Service
	// Campaigns may be nil.
	Campaigns Campaigns
	Approve   *approve.Service // for rescues that take two people
	Now       func() time.Time
	Log       *slog.Logger
	// Retry is how long a requester waits before it asks again whether a person has approved.
	Retry time.Duration
	// MaxPending bounds how many requests may wait for approval.
	MaxPending int
	// Default is the profile whose rules a stranger is told when a request names none.
	Default string
	// Own is the profile of the platform's own certificate, which a device must be able to verify.
	Own string
}

// Service is the registration authority. It is safe for concurrent use.
type Service struct {
	Deps
	group *db.Group[*item]
	pace  pace
	shown presented
	held  unheld // who was found not to be on hold

	counts counts
}

// counts are certificates issued since the start of this process, by what is kept of them.
type counts struct{ full, brief, ephemeral, rescued atomic.Int64 }

func (c *counts) add(r ca.Record) {
	switch r {
	case ca.Full:
		c.full.Add(1)
	case ca.Brief:
		c.brief.Add(1)
	case ca.Ephemeral:
		c.ephemeral.Add(1)
	}
}

// Issued are certificates issued since the start of this process.
type Issued struct {
	Records map[ca.Record]int64 // by what is kept of them
	Rescued int64               // of these, to devices whose certificate had expired
}

// Issued returns the counts.
func (s *Service) Issued() Issued {
	return Issued{Rescued: s.counts.rescued.Load(), Records: map[ca.Record]int64{ca.Full: s.counts.full.Load(), ca.Brief: s.counts.brief.Load(), ca.Ephemeral: s.counts.ephemeral.Load()}}
}

// linger is how long certificates wait at most for others that are under way: most of what a commit costs is the same, whoever shares it. With 64 clients on
// two cores it takes 10 ms and more until all that came together are here.
const linger = 20 * time.Millisecond

// New returns the service. Nothing is issued until Run runs.
func New(d Deps) *Service {
	s := &Service{Deps: d}
	s.group = db.NewGroup(d.DB, db.Plan[*item]{Key: (*item).key, Apply: s.apply, Linger: linger})
	return s
}

// Run records what is issued until ctx ends, then finishes what was admitted.
func (s *Service) Run(ctx context.Context) error { return s.group.Run(ctx) }

// Expect announces a request that is being read, so that a small batch may wait for it. The server calls done at the request's end.
func (s *Service) Expect() (done func()) { return s.group.Expect() }

// Metrics returns how many commits recorded how many issues.
func (s *Service) Metrics() (batches, items int64) { return s.group.Metrics() }

// mostAnnounced bounds how many CAs a client that names no profile is told about: with ML-DSA they make 400 kB.
const mostAnnounced = 50

// Anchors returns what a client needs to verify the certificates of the profile called label, or of every issuer when label is "": issuing
// certificates first, roots last, in DER (RFC 7030, section 4.1.3). When there are too many issuers for that, label "" is for those of the
// default profile and of the platform itself. An unknown profile is NotFound.
func (s *Service) Anchors(label string) ([][]byte, error) {
	if label == "" {
		var names []string
		if s.CA.Count() > mostAnnounced {
			names = s.issuersOf(s.Default, s.Own)
		}
		return s.CA.Anchors(names...), nil
	}
	p, err := s.profile(label)
	if err != nil {
		return nil, err
	}
	return s.CA.Anchors(p.Issuers()...), nil
}

// issuersOf returns the names of the CAs of profiles that exist.
func (s *Service) issuersOf(profiles ...string) (names []string) {
	for _, name := range profiles {
		if p, err := s.profile(name); err == nil {
			names = append(names, p.Issuers()...)
		}
	}
	return names
}

// Profile returns the profile whose rules a request under label must follow; "" means the default one. An unknown profile is NotFound.
func (s *Service) Profile(label string) (*ca.Profile, error) {
	if label == "" {
		label = s.Default
	}
	return s.profile(label)
}

func (s *Service) profile(name string) (*ca.Profile, error) {
	p, err := s.CA.Profile(name)
	if err != nil {
		return nil, errs.New(errs.NotFound, "there is no profile %q", name)
	}
	return p, nil
}
