// Package app builds the platform out of its parts and runs it. It is the only place that knows everything.
//
//	p, err := app.Build(ctx, options)   // opens, migrates, loads, binds: every mistake of configuration shows here
//	err = p.Run(ctx)                    // serves until ctx ends, then drains and closes
//
// One Platform is one tenant: its own database and keys; a process can hold several. Build starts nothing. Run starts everything in one
// errgroup and returns when all of it has stopped. The package deliberately contains no rule of its own: rules live in core.
package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sync/errgroup"

	"mooring/internal/base/conf"
	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/access"
	"mooring/internal/core/acme"
	"mooring/internal/core/approve"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/campaign"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/core/export"
	"mooring/internal/core/job"
	"mooring/internal/core/key"
	"mooring/internal/core/maker"
	"mooring/internal/core/masa"
	"mooring/internal/core/message"
	"mooring/internal/core/registrar"
	"mooring/internal/core/revoke"
	"mooring/internal/core/v2x/ea"
	"mooring/internal/core/v2x/ra"
	"mooring/internal/core/v2x/trust"
	kick "mooring/internal/provider/broker"
	masaclient "mooring/internal/provider/masa"
	"mooring/internal/provider/nats"
	"mooring/internal/provider/pkcs11"
	"mooring/internal/provider/sink"
	acmeserver "mooring/internal/server/acme"
	"mooring/internal/server/api"
	"mooring/internal/server/brski"
	"mooring/internal/server/cmp"
	"mooring/internal/server/est"
	"mooring/internal/server/gate"
	masaserver "mooring/internal/server/masa"
	"mooring/internal/server/scep"
	"mooring/internal/server/status"
	"mooring/wire/voucher"
)

// Options say what to build.
type Options struct {
	Config *conf.Config
	// Prompt asks a person for the secret that unlocks the keys, where the configuration says "prompt"; nil where nobody can be asked.
	Prompt func() ([]byte, error)
	// Keys is the key store, or one of which it is a copy, where it was unlocked already; nil to unlock it as the configuration says.
	Keys *key.Store
	Log  *slog.Logger
	Now  func() time.Time // nil: the machine's clock
}

// Platform is everything, built and bound, not yet running.
type Platform struct {
	Config   *conf.Config
	DB       *db.DB
	Audit    *audit.Log
	AuditKey string // the text with which auditors verify checkpoints
	Access   *access.Decider
	Approve  *approve.Service
	Jobs     *job.Service
	Keys     *key.Store
	Custody  *key.Meter // the keys of CAs, wherever they are
	Devices  *device.Registry
	Makers   *maker.Service // manufacturers of devices
	MASA     *masa.Service  // their vouchers
	// Registrar brings in devices by vouchers.
	Registrar *registrar.Service
	Importer  *device.Importer
	Profiles  *ca.Profiles
	CA        *ca.Authority
	Revoke    *revoke.Service
	Bulk      *revoke.Bulk
	Bundle    *enrol.Bundle
	Export    *export.Service
	Enrol     *enrol.Service
	// Campaigns have many devices renew.
	Campaigns *campaign.Service
	ACME      *acme.Service
	// Message carries messages, where there is a fabric for them.
	Message *message.Service
	// V2X has the certificates of vehicles.
	V2X V2X

	log      *slog.Logger
	now      func() time.Time
	token    pkcs11.Custody // nil: none is configured
	fabric   *nats.Fabric   // nil: no messages are carried
	changes  changes        // of which messaging is to be told
	talkers  []talking      // fixed once Build returns
	coaps    *constrained   // likewise; nil: no messages over CoAP
	brokers  brokers        // of others
	sinks    []*sink.Runner // where messages go on to
	newest   int64          // Unix second of the newest entry of the record when it was opened
	identity serverIdentity
	// authorities answer clients of SCEP; none when it is not served.
	authorities authorities
	surfaces    []surface // fixed once Build returns
	// tickets is the authorization authority of V2X; nil when it does not run in this process.
	tickets *TicketAuthority
	beside  []surface // listeners that others than the platform serve, in its process
}

// surface is one bound listener and what answers on it.
type surface struct {
	name     string
	gate     *gate.Gate
	handler  http.Handler // nil where sessions is set
	counters *web.Counters
	sessions func(context.Context, *gate.Session) // of a DTLS listener
	streams  func(context.Context, *gate.Stream)  // beside handler, where something else than HTTP is spoken
}

// Addresses says where a platform can be reached.
type Addresses struct {
	EST    string `json:"est"`              // base URL of the EST listener
	API    string `json:"api"`              // base URL of the management API
	Status string `json:"status"`           // base URL of revocation lists and status answers
	SCEP   string `json:"scep,omitempty"`   // base URL of the SCEP listener, "" when there is none
	CoAPS  string `json:"coaps,omitempty"`  // base URL of EST over CoAP, "" when there is none
	CMP    string `json:"cmp,omitempty"`    // base URL of the CMP listener, "" when there is none
	Socket string `json:"socket"`           // path of the Unix socket
	ACME   string `json:"acme,omitempty"`   // base URL of the ACME listener, "" when there is none
	MASA   string `json:"masa,omitempty"`   // base URL of the service for vouchers, "" when there is none
	Hooks  string `json:"hooks,omitempty"`  // base URL of where brokers of others ask, "" when they may not
	V2XEA  string `json:"v2x_ea,omitempty"` // base URL of the enrolment authority of V2X, "" when there is none
	// V2XValidation is the base URL of the same authority for authorization authorities, "" when there is none.
	V2XValidation string `json:"v2x_validation,omitempty"`
	V2XDC         string `json:"v2x_dc,omitempty"` // base URL of the distribution centre of V2X, "" when there is none
	// V2XCPOC is the base URL of the lists of the trust list manager of V2X, "" when there are none.
	V2XCPOC string `json:"v2x_cpoc,omitempty"`
	V2XAA   string `json:"v2x_aa,omitempty"`   // base URL of the authorization authority of V2X, "" when it does not run in this process
	MQTT    string `json:"mqtt,omitempty"`     // where MQTT is spoken over TLS, as mqtts://HOST:PORT, "" when it is not
	MQTTWeb string `json:"mqtt_web,omitempty"` // the same at the second address, over WebSockets too, as wss://HOST:PORT
}

// Build opens the database, unlocks the keys, loads profiles and CAs, and binds the listeners. On failure it leaves nothing open.
func Build(ctx context.Context, o Options) (*Platform, error) { return build(ctx, o, toServe) }

// Open is Build without listeners, for commands that work on a stopped installation. It opens a damaged record too, so that it can be verified.
func Open(ctx context.Context, o Options) (*Platform, error) { return build(ctx, o, toWork) }

// purpose is what a platform is built for.
type purpose int

const (
	toServe purpose = iota
	toWork
	toPopulate // an empty database
)

func build(ctx context.Context, o Options, why purpose) (p *Platform, err error) {
	p = &Platform{Config: o.Config, log: o.Log, now: o.Now}
	if p.now == nil {
		p.now = time.Now
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
			p = nil
		}
	}()
	steps := []func(context.Context) error{
		func(context.Context) error { return p.unlock(o) },
		p.openToken,
		p.openDatabase,
	}
	if why == toServe {
		steps = append(steps, p.openFabric)
	}
	steps = append(steps, p.buildCore)
	p.identity.prepare(p.Config)
	// The checks come before anything is written: an entry made with other keys than the database's would be damage.
	switch why {
	case toServe:
		steps = append(steps, p.checkAnchors, p.checkRecord, p.loadCA, p.loadRevoked, p.checkClock, p.loadOutside, p.bind)
	case toWork:
		steps = append(steps, p.loadCA)
	case toPopulate:
		steps = append(steps, p.checkEmpty, p.loadCA)
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (p *Platform) unlock(o Options) (err error) {
	if o.Keys != nil {
		p.Keys, err = o.Keys.Reopen(p.Config.KeyDir())
		return err
	}
	secret, err := key.ReadUnlock(p.Config.UnlockSource(), o.Prompt)
	if err != nil {
		return err
	}
	p.Keys, err = key.Open(p.Config.KeyDir(), secret, key.Options{})
	return err
}

func (p *Platform) openDatabase(ctx context.Context) error {
	url, err := p.Config.DatabaseURL()
	if err != nil {
		return err
	}
	if p.DB, err = db.Open(ctx, db.Options{URL: url, Now: p.now, Log: p.log, Node: node()}); err != nil {
		return err
	}
	return p.DB.Migrate(ctx, Schemas()...)
}

// Schemas returns every slice's migrations in their order.
func Schemas() []db.Schema {
	return []db.Schema{audit.Schema(), key.Schema(), approve.Schema(), job.Schema(), device.Schema(), ca.Schema(), revoke.Schema(), enrol.Schema(), campaign.Schema(), acme.Schema(), maker.Schema(), masa.Schema(), message.Schema(), kick.Schema(), sink.Schema(), trust.Schema(), ea.Schema(), ra.Schema()}
}

// buildCore makes the slices, each from the ones before it.
func (p *Platform) buildCore(ctx context.Context) error {
	origin := p.Config.AuditOrigin()
	seed, err := p.Keys.Secret(ctx, "audit-checkpoints", 32)
	if err != nil {
		return err
	}
	signer, vkey, err := audit.NoteKey(origin, seed)
	if err != nil {
		return fmt.Errorf("making the key of the audit log: %w", err)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return fmt.Errorf("making the key of the audit log: %w", err)
	}
	batches, err := p.Keys.Secret(ctx, "audit-batches", 32)
	if err != nil {
		return err
	}
	names, err := p.Keys.Secret(ctx, "deployment", 32)
	if err != nil {
		return err
	}
	if p.Profiles, err = loadProfiles(p.Config.ProfileDir()); err != nil {
		return err
	}
	if err := checkResponders(p.Config, p.Profiles); err != nil {
		return err
	}
	weak, err := loadWeakKeys(p.Config)
	if err != nil {
		return err
	}
	status := p.Config.StatusURL()

	p.AuditKey = vkey
	p.Audit = audit.New(p.DB, audit.Options{Origin: origin, Signer: signer, Verifier: verifier, BatchKey: batches, Now: p.now, Log: p.log,
		Retention: audit.Retention{Keep: p.Config.Retention.Audit, Hold: p.Config.Retention.Hold, Every: p.Config.Retention.Every, Checkers: p.Checkers}})
	p.Access = access.NewDecider(p.Audit)
	p.Custody = key.NewMeter(key.MeterDeps{DB: p.DB, Audit: p.Audit, Access: p.Access, Custody: p.custodies(), Now: p.now, Log: p.log})
	p.Approve = approve.New(approve.Deps{DB: p.DB, Audit: p.Audit, Access: p.Access, Now: p.now})
	p.Jobs = job.New(job.Deps{DB: p.DB, Audit: p.Audit, Access: p.Access, Approve: p.Approve, Now: p.now, Log: p.log, Role: p.roleNow})
	p.Devices = device.New(device.Deps{DB: p.DB, Audit: p.Audit, Access: p.Access, Key: names, Now: p.now, Log: p.log, ProfileGrants: p.grants, ProfileSpeaks: p.speaks, Changed: p.deviceChanged, Renewal: p.renewal, Own: p.ownNames(), Itself: p.isItself})
	p.Makers = maker.New(maker.Deps{DB: p.DB, Audit: p.Audit, Access: p.Access, Now: p.now, Changed: p.identity.registrar.changed, Vouching: p.mayVouch})
	p.CA = ca.New(ca.Deps{DB: p.DB, Audit: p.Audit, Access: p.Access, Keys: p.Custody, StatusKeys: p.Custody.ForStatus(), Profiles: p.Profiles, Weak: weak, Now: p.now, Log: p.log,
		Retention: ca.RetentionOptions{Hold: p.Config.Retention.Hold, Every: p.Config.Retention.Every, Slack: p.Config.CRL.Validity},
		URLs:      ca.URLs{CRL: status + "/crl/", OCSP: status + "/ocsp", CAIssuers: status + "/ca/"}})
	p.Revoke = revoke.New(revoke.Deps{DB: p.DB, Audit: p.Audit, Access: p.Access, CA: p.CA, Devices: p.Devices, Keys: p.Custody.ForStatus(), Now: p.now, Log: p.log,
		Validity: p.Config.CRL.Validity, Refresh: p.Config.CRL.Refresh, DeltaLists: p.Config.CRL.Delta, OCSP: p.ocspOptions()})
	p.MASA = masa.New(masa.Deps{DB: p.DB, Audit: p.Audit, Access: p.Access, Devices: p.Devices, Makers: p.Makers, CA: p.CA, Revoke: p.Revoke, Signer: p.voucherSigner, Rand: rand.Reader,
		Offline: p.Config.MASA.Offline, Now: p.now, Log: p.log})
	p.Bulk = revoke.NewBulk(p.Revoke, p.Jobs, p.Config.Approve.RevokeAbove)
	p.Campaigns = campaign.New(campaign.Deps{DB: p.DB, Audit: p.Audit, Access: p.Access, Approve: p.Approve, Devices: p.Devices, CA: p.CA, Revoke: p.Revoke, Now: p.now, Log: p.log,
		AskAbove: p.Config.Approve.CampaignAbove})
	p.Enrol = enrol.New(enrol.Deps{Campaigns: p.Campaigns, DB: p.DB, Audit: p.Audit, Access: p.Access, Devices: p.Devices, Makers: p.Makers, CA: p.CA, Revoke: p.Revoke, Approve: p.Approve, Now: p.now, Log: p.log,
		Retry: p.Config.Enrol.RetryAfter, MaxPending: p.Config.Enrol.MaxPending, Default: defaultProfile, Own: selfProfile})
	p.Bundle = enrol.NewBundle(p.Enrol, p.Jobs)
	p.buildRegistrar(masaclient.New(p.now))
	if err := p.buildACME(ctx); err != nil {
		return err
	}
	p.buildMessages()
	p.buildV2X()
	p.Importer = device.NewImporter(p.Devices, p.Jobs)
	p.Export = export.New(export.Deps{DB: p.DB, Audit: p.Audit, Access: p.Access, Devices: p.Devices, CA: p.CA, Revoke: p.Revoke, Now: p.now})
	for _, w := range append(p.Bulk.Workers(), p.Bundle.Worker(), p.Importer.Worker()) {
		p.Jobs.Register(w)
	}
	return nil
}

// defaultProfile is what a stranger is told about who names no profile.
const defaultProfile = "device"

func loadProfiles(dir string) (*ca.Profiles, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, errs.Wrap(errs.NotFound, err, "the directory of the profiles, %s, cannot be read: set profiles.dir, or run mooring init", dir)
	}
	return ca.LoadProfiles(os.DirFS(dir))
}

func (p *Platform) grants(profile string) (exists bool, role access.Role) {
	found, err := p.Profiles.Get(profile)
	if err != nil {
		return false, access.RoleNone
	}
	return true, found.Grants
}

// speaks reports whether certificates of a profile let their holders speak for the platform, or for manufacturers whose devices are vouched for here. Who
// keeps a list of devices must not be able to make such of them.
func (p *Platform) speaks(profile string) bool {
	found, err := p.Profiles.Get(profile)
	if err != nil {
		return false
	}
	return found.Speaks() || found.Principal == "service" || profile == p.Config.MASA.Profile ||
		slices.ContainsFunc(p.Profiles.All(), func(served *ca.Profile) bool { return served.SCEP != nil && served.SCEP.RA == profile })
}

// renewal is when certificates of a profile are to be renewed.
func (p *Platform) renewal(profile string) (before, spread int64, ok bool) {
	found, err := p.Profiles.Get(profile)
	if err != nil {
		return 0, 0, false
	}
	return found.RenewBefore, found.RenewSpread, true
}

// checkRecord reads the newest entry, which takes the keys with which it was written.
func (p *Platform) checkRecord(ctx context.Context) error {
	newest, err := p.Audit.List(ctx, access.System("server"), audit.Query{Newest: true, Limit: 1})
	if errs.Is(err, errs.Unavailable) {
		return p.unreadable(ctx, err)
	}
	if err != nil {
		return fmt.Errorf("reading the newest entry of the record: %w", err)
	}
	if len(newest) > 0 {
		p.newest = newest[0].At
	}
	return nil
}

// unreadable tells the database of another installation, whose entries bear the MACs of other keys, from a record that is damaged.
func (p *Platform) unreadable(ctx context.Context, cause error) error {
	foreign, err := p.CA.Foreign(ctx)
	if err != nil {
		return errors.Join(cause, err)
	}
	if foreign {
		return errs.Wrap(errs.Conflict, cause, "the database belongs to another installation: %s holds the key of none of its CAs. It was left alone; set database.url and keys.dir to those of one installation", p.Config.KeyDir())
	}
	return errs.Wrap(errs.Unavailable, cause, "the newest entry of the audit record cannot be read: either the key store is not the one of this database, or the record is damaged; run \"mooring audit verify --database …\" to see which")
}

// checkEmpty refuses a database that holds an installation.
func (p *Platform) checkEmpty(ctx context.Context) error {
	empty, err := p.CA.Empty(ctx)
	if err == nil && !empty {
		err = errs.New(errs.Conflict, "the database holds an installation already; it was left alone. Choose an empty one in database.url")
	}
	return err
}

func (p *Platform) loadCA(ctx context.Context) error {
	if err := p.Custody.Load(ctx); err != nil {
		return err
	}
	if err := p.CA.Load(ctx); err != nil {
		return err
	}
	return p.V2X.Trust.Load(ctx)
}

// loadRevoked comes before the first request: below a revoked CA nothing is issued and nobody believed.
func (p *Platform) loadRevoked(ctx context.Context) error { return p.Revoke.Load(ctx) }

// checkClock refuses to start with a clock that lies before what was already recorded: serial numbers, validity and the order of the record
// would all be wrong.
func (p *Platform) checkClock(context.Context) error {
	latest := p.newest
	p.CA.Each(func(i *ca.Issuer) { latest = max(latest, i.Created()) })
	if now := p.now().Unix(); now < latest-int64(clockSlack.Seconds()) {
		return errs.New(errs.Unavailable, "the clock says %s, but the record reaches to %s: set the clock, then start again",
			time.Unix(now, 0).UTC().Format(time.RFC3339), time.Unix(latest, 0).UTC().Format(time.RFC3339))
	}
	return nil
}

// clockSlack is what clocks of two nodes may differ.
const clockSlack = time.Minute

// bind opens the listeners.
func (p *Platform) bind(ctx context.Context) error {
	c := p.Config
	tickets, err := p.Keys.Secret(ctx, "session-tickets", 32)
	if err != nil {
		return err
	}
	secure := &gate.TLS{Certificate: &p.identity.held, Settings: c.TLS, TicketSecret: tickets}
	devices := est.New(est.Deps{Enrol: p.Enrol, Campaigns: p.Campaigns, Identity: p.identity.signer, Anchor: p.identity.anchorEST})
	vouchers := brski.New(brski.Deps{Registrar: p.Registrar, Shown: p.registrars})
	onEST := *secure
	onEST.Certificate = &p.identity.registrar.est
	if c.Listen.SCEP != "" {
		if err := p.openAuthorities(ctx); err != nil {
			return err
		}
	}
	if err := p.openMASA(ctx); err != nil {
		return err
	}
	messages := cmp.New(cmp.Deps{Enrol: p.Enrol, CA: p.CA, Revoke: p.Revoke, Secret: p.Devices.TokenSecret, Identity: p.identity.signer, Now: p.now})
	public := status.New(status.Deps{Revoke: p.Revoke, CA: p.CA, Now: p.now, Log: p.log})
	manage := api.New(api.Deps{DB: p.DB, Audit: p.Audit, Access: p.Access, Devices: p.Devices, Makers: p.Makers, MASA: p.MASA, Profiles: p.Profiles, CA: p.CA, Custody: p.Custody, Revoke: p.Revoke, Enrol: p.Enrol, ACME: p.ACME,
		Approve: p.Approve, Campaigns: p.Campaigns, Jobs: p.Jobs, Bulk: p.Bulk, Bundle: p.Bundle, Importer: p.Importer, Export: p.Export, Undo: p.Config.Jobs.Undo, Message: p.served(), V2X: p.manageV2X(), Samples: p.messageSamples,
		Now: p.now, Log: p.log, Version: Version(), Checkers: p.Checkers, Surfaces: p.listeners})
	body := int64(c.Limits.BodySize)
	for _, s := range []struct {
		name, address string
		tls           *gate.TLS
		refuse        web.Refuser
		handler       http.Handler
	}{
		{"est", c.Listen.EST, &onEST, web.Text, web.LimitBodies(besides(voucher.WellKnown, vouchers, devices), body)},
		{"status", c.Listen.Status, nil, web.Text, web.LimitBodies(public, body)},
		{"scep", c.Listen.SCEP, nil, web.Text, scep.New(scep.Deps{Enrol: p.Enrol, CA: p.CA, Revoke: p.Revoke, Identity: p.authorities.identity, Now: p.now})},
		{"cmp", c.Listen.CMP, nil, web.Text, web.LimitBodies(messages, body)},
		{"acme", c.Listen.ACME, secure, acmeserver.Refuse, web.LimitBodies(acmeserver.New(acmeserver.Deps{ACME: p.ACME, CA: p.CA, Base: c.ACMEURL(), Terms: c.ACME.Terms}), body)},
		{"masa", c.Listen.MASA, secure, web.Text, masaserver.New(p.MASA)},
		{"api", c.Listen.API, secure, web.Problem, manage}, // it bounds each body itself: imports are large
		{"socket", c.SocketPath(), nil, web.Problem, manage},
	} {
		if s.address == "" {
			continue // it is not served
		}
		listen := gate.Listen
		if s.name == "socket" {
			listen = gate.ListenSocket
		}
		g, err := listen(ctx, gate.Options{Name: s.name, Address: s.address, TLS: s.tls, Limits: c.Limits, Refuse: s.refuse, Now: p.now, Log: p.log})
		if err != nil {
			return err
		}
		counters := &web.Counters{}
		watched := web.Observer{Surface: s.name, Log: p.log, Now: p.now, Refuse: s.refuse, Counters: counters}.Wrap(s.handler)
		if s.name == "status" {
			watched = status.Fast(status.FastDeps{Revoke: p.Revoke, Now: p.now, Counters: counters}, watched)
		}
		p.surfaces = append(p.surfaces, surface{name: s.name, gate: g, handler: watched, counters: counters})
	}
	if err := p.bindMessages(ctx, secure); err != nil {
		return err
	}
	if err := p.bindHooks(ctx, secure); err != nil {
		return err
	}
	if err := p.bindV2X(ctx); err != nil {
		return err
	}
	return p.bindCoAPS(ctx, messages)
}

// listeners is what the API tells about the process's listeners.
func (p *Platform) listeners() []api.Surface {
	var list []api.Surface
	for _, s := range append(slices.Clone(p.surfaces), p.beside...) {
		list = append(list, api.Surface{Name: s.name, Gate: s.gate, Counters: s.counters})
	}
	return list
}

// Addresses returns where the platform listens.
func (p *Platform) Addresses() Addresses {
	var a Addresses
	for _, s := range p.surfaces {
		at := s.gate.Addr().String()
		switch s.name {
		case "est":
			a.EST = "https://" + at
		case "api":
			a.API = "https://" + at
		case "acme":
			a.ACME = "https://" + at
		case "masa":
			a.MASA = "https://" + at
		case "status":
			a.Status = "http://" + at
		case "scep":
			a.SCEP = "http://" + at
		case "cmp":
			a.CMP = "http://" + at
		case "coaps":
			a.CoAPS = "coaps://" + at
		case "v2x-ea":
			a.V2XEA = "http://" + at
		case "v2x-validation":
			a.V2XValidation = "http://" + at
		case "v2x-dc":
			a.V2XDC = "http://" + at
		case "v2x-cpoc":
			a.V2XCPOC = "http://" + at
		case "hooks":
			a.Hooks = "https://" + at
		case "mqtt":
			a.MQTT = "mqtts://" + at
		case "mqtt_web":
			a.MQTTWeb = "wss://" + at
		case "socket":
			a.Socket = at
		}
	}
	if p.tickets != nil {
		a.V2XAA = p.tickets.Address()
	}
	return a
}

// Run serves until ctx ends or a part fails. ready, if not nil, is called once when requests are answered. Run closes the platform.
func (p *Platform) Run(ctx context.Context, ready func()) (err error) {
	defer func() { err = errors.Join(err, p.Close()) }()
	for _, w := range p.Config.Warnings() {
		p.log.LogAttrs(ctx, slog.LevelWarn, w)
	}
	// The parts that record must outlast the listeners, so that requests in progress still find them.
	core, stopCore := context.WithCancel(context.WithoutCancel(ctx))
	defer stopCore()
	parts, coreCtx := errgroup.WithContext(core)
	for _, run := range []func(context.Context) error{p.DB.Run, p.Audit.Run, p.Custody.Run, p.Devices.Run, p.CA.Run, p.Revoke.Run, p.Enrol.Run, p.Enrol.WatchConfirmations, p.Jobs.Run, p.Campaigns.Run, p.ACME.Run, p.Registrar.Run} {
		parts.Go(func() error { return run(coreCtx) })
	}
	serving, serveCtx := errgroup.WithContext(ctx)
	serving.Go(func() error {
		// A part that fails takes the listeners with it.
		select {
		case <-coreCtx.Done():
			return context.Cause(coreCtx)
		case <-serveCtx.Done():
			return nil
		}
	})
	for _, run := range p.v2xRuns() {
		parts.Go(func() error { return run(coreCtx) })
	}
	if p.fabric != nil {
		parts.Go(func() error { return p.fabric.Run(coreCtx) })
		parts.Go(func() error { return p.Message.Run(coreCtx) })
		parts.Go(func() error { return p.tellChanges(coreCtx) })
		for _, run := range p.outsideRuns() {
			parts.Go(func() error { return run(coreCtx) })
		}
	}
	if err := p.identity.begin(ctx, p); err != nil {
		stopCore()
		return errors.Join(err, parts.Wait())
	}
	p.authorities.begin(ctx, p)
	serving.Go(func() error { return p.identity.run(serveCtx, p) })
	serving.Go(func() error { return p.authorities.run(serveCtx, p) })
	serving.Go(func() error { return p.cutRevoked(serveCtx) })
	for _, s := range p.surfaces {
		serving.Go(func() error { return s.serve(serveCtx) })
	}
	if p.tickets != nil {
		serving.Go(func() error { return p.tickets.Run(serveCtx, nil) })
	}
	if ready != nil {
		ready()
	}
	err = serving.Wait()
	stopCore()
	return errors.Join(err, parts.Wait())
}

// ignoreClosed makes nothing of closing a listener twice.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Close frees what Build opened. It may be called more than once.
func (p *Platform) Close() error {
	var all []error
	for _, s := range p.surfaces {
		all = append(all, ignoreClosed(s.gate.Close()))
	}
	p.surfaces = nil
	if p.tickets != nil {
		all = append(all, p.tickets.Close())
	}
	for _, r := range p.brokers.nats {
		r.Close()
	}
	p.brokers.nats = nil
	if p.fabric != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		all = append(all, p.fabric.Close(ctx))
		p.fabric = nil
	}
	if p.DB != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if p.Devices != nil {
			all = append(all, p.Devices.Settle(ctx))
		}
		all = append(all, p.DB.Close(ctx))
		p.DB = nil
	}
	if p.token != nil {
		all = append(all, p.token.Close())
		p.token = nil
	}
	return errors.Join(all...)
}

// Checkers returns what the slices compare with the record in a verification.
func (p *Platform) Checkers() []audit.Checker {
	return []audit.Checker{p.Custody.Checker(), p.Approve.Checker(), p.Jobs.Checker(), p.Devices.Checker(), p.CA.Checker(), p.Revoke.Checker(), p.Enrol.Checker(), p.Campaigns.Checker(), p.ACME.Checker(), p.Makers.Checker(), p.MASA.Checker(), p.Message.Checker(),
		p.V2X.Trust.Checker(), p.V2X.EA.Checker(), p.V2X.EA.RevokedChecker(), p.V2X.RA.Checker()}
}
