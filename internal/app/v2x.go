package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sync/errgroup"

	"mooring/internal/base/conf"
	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/base/port"
	"mooring/internal/base/web"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/key"
	"mooring/internal/core/v2x/aa"
	"mooring/internal/core/v2x/ea"
	"mooring/internal/core/v2x/ra"
	"mooring/internal/core/v2x/trust"
	v2xclient "mooring/internal/provider/v2x"
	"mooring/internal/server/gate"
	v2xserver "mooring/internal/server/v2x"
	"mooring/wire/its"
)

// V2X is what the platform has for vehicles: the root and its lists, and the enrolment authority. The authorization authority is apart, see TicketAuthority.
type V2X struct {
	Trust *trust.Service
	EA    *ea.Service
	RA    *ra.Service // gets stations many tickets at once, if v2x.butterfly says so
}

func (p *Platform) buildV2X() {
	c := p.Config
	p.V2X.Trust = trust.New(trust.Deps{DB: p.DB, Audit: p.Audit, Access: p.Access, Keys: p.Custody, StatusKeys: p.Custody.ForStatus(), Secrets: p.Keys, Now: p.now,
		Leap: c.V2X.LeapSeconds, DC: c.V2XDCURL(), CPOC: c.V2XCPOCURL(), Compact: c.V2X.Butterfly.Compact, CTL: c.V2X.CTLLife, CRL: c.V2X.CRLLife})
	p.V2X.EA = ea.New(ea.Deps{DB: p.DB, Audit: p.Audit, Trust: p.V2X.Trust, Devices: p.Devices, CA: p.CA, Revoke: p.Revoke, Random: rand.Reader, Now: p.now,
		Policy: ea.Policy{Credential: c.V2X.CredentialLife, Ticket: c.V2X.TicketLife, Preload: c.V2X.Preload, Tickets: c.V2X.Tickets, Window: c.V2X.Window}})
	p.buildButterfly()
}

// v2x says whether this process serves anything of it that needs the root's store.
func servesV2X(c *conf.Config) bool {
	return c.Listen.V2XEA != "" || c.Listen.V2XValidation != "" || c.Listen.V2XDC != "" || c.Listen.V2XCPOC != ""
}

// openV2X checks that what is to be served is there, and opens the authorization authority if it is to run in this process.
func (p *Platform) openV2X(ctx context.Context) error {
	if err := p.readTokenKey(); err != nil {
		return err
	}
	if servesV2X(p.Config) {
		for _, role := range servedRoles(p.Config) {
			if _, err := p.V2X.Trust.Credential(ctx, role); err != nil {
				return err
			}
		}
		if err := p.V2X.Trust.Publish(ctx); err != nil {
			return err
		}
	}
	if p.Config.Listen.V2XAA == "" {
		return nil
	}
	var err error
	p.tickets, err = OpenTicketAuthority(ctx, Options{Config: p.Config, Log: p.log, Now: p.now})
	return err
}

// bindV2X opens the listeners.
func (p *Platform) bindV2X(ctx context.Context) error {
	if err := p.openV2X(ctx); err != nil {
		return err
	}
	c := p.Config
	peers := c.Limits
	peers.RequestRate, peers.RequestBurst = min(peers.RequestRate*100, 1<<20), min(peers.RequestBurst*100, 1<<20)
	for _, l := range []struct {
		name, address string
		limits        conf.Limits
		handler       http.Handler
		quiet         bool
	}{
		{"v2x-ea", c.Listen.V2XEA, c.Limits, p.enrolmentHandler(), false},
		{"v2x-validation", c.Listen.V2XValidation, peers, v2xserver.Validation(p.V2X.EA), false},
		{"v2x-dc", c.Listen.V2XDC, c.Limits, v2xserver.Distribution(p.V2X.Trust), true},
		{"v2x-cpoc", c.Listen.V2XCPOC, c.Limits, v2xserver.CPOC(p.V2X.Trust, environment(c)), true},
	} {
		if l.address == "" {
			continue
		}
		s, err := plainSurface(ctx, l.address, l.limits, l.handler, web.Observer{Surface: l.name, Log: p.log, Now: p.now, Quiet: l.quiet})
		if err != nil {
			return err
		}
		p.surfaces = append(p.surfaces, s)
	}
	if p.tickets == nil {
		return nil
	}
	if err := p.tickets.bind(ctx); err != nil {
		return err
	}
	p.beside = append(p.beside, *p.tickets.surface)
	return nil
}

// plainSurface binds a listener of plain HTTP, whose requests o sees.
func plainSurface(ctx context.Context, address string, limits conf.Limits, h http.Handler, o web.Observer) (surface, error) {
	o.Refuse, o.Counters = web.Text, &web.Counters{}
	g, err := gate.Listen(ctx, gate.Options{Name: o.Surface, Address: address, Limits: limits, Refuse: o.Refuse, Now: o.Now, Log: o.Log})
	if err != nil {
		return surface{}, err
	}
	return surface{name: o.Surface, gate: g, handler: o.Wrap(h), counters: o.Counters}, nil
}

// v2xRuns are what keeps V2X going beside the listeners.
func (p *Platform) v2xRuns() (runs []func(context.Context) error) {
	if servesV2X(p.Config) {
		runs = append(runs, func(ctx context.Context) error { return p.V2X.Trust.Run(ctx, p.log) }, func(ctx context.Context) error { return p.V2X.EA.Run(ctx, p.log) }, p.V2X.EA.Commit)
		runs = append(runs, p.butterflyRuns()...)
	}
	return runs
}

// Tickets returns the authorization authority of this process; nil when there is none.
func (p *Platform) Tickets() *TicketAuthority { return p.tickets }

// TicketAuthority is an authorization authority with a database, record and keys of its own. It runs in the process of the platform, or alone on another
// machine.
type TicketAuthority struct {
	Config *conf.Config
	DB     *db.DB
	Audit  *audit.Log
	Keys   *key.Store
	Trust  *trust.Service
	AA     *aa.Service

	log     *slog.Logger
	now     func() time.Time
	client  *v2xclient.Client
	surface *surface
}

// OpenTicketAuthority opens the authority in v2x.aa_dir. The platform's keys and database are not touched.
func OpenTicketAuthority(ctx context.Context, o Options) (t *TicketAuthority, err error) {
	t = &TicketAuthority{Config: o.Config, log: o.Log, now: o.Now, client: v2xclient.New()}
	if t.now == nil {
		t.now = time.Now
	}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
			t = nil
		}
	}()
	dir := o.Config.Path(o.Config.V2X.AADir)
	if _, err := os.Stat(dir); err != nil {
		return t, errs.Wrap(errs.NotFound, err, "there is no authorization authority in %s: mooring v2x init makes one", dir)
	}
	secret, err := key.ReadUnlock("file:"+filepath.Join(dir, "unlock"), nil)
	if err != nil {
		return t, err
	}
	if t.Keys, err = key.Open(filepath.Join(dir, "keys"), secret, key.Options{}); err != nil {
		return t, err
	}
	if err := t.open(ctx); err != nil {
		return t, err
	}
	return t, t.Trust.Load(ctx)
}

// open opens the database and makes the slices.
func (t *TicketAuthority) open(ctx context.Context) (err error) {
	c := t.Config
	if t.DB, err = db.Open(ctx, db.Options{URL: c.V2XAADatabase(), Now: t.now, Log: t.log, Node: node()}); err != nil {
		return err
	}
	if err := t.DB.Migrate(ctx, audit.Schema(), trust.Schema(), aa.Schema()); err != nil {
		return err
	}
	seed, err := t.Keys.Secret(ctx, "audit-checkpoints", 32)
	if err != nil {
		return err
	}
	batches, err := t.Keys.Secret(ctx, "audit-batches", 32)
	if err != nil {
		return err
	}
	origin := c.AuditOrigin() + "-aa"
	if err := sameOrigin(filepath.Join(c.Path(c.V2X.AADir), "origin"), origin); err != nil {
		return err
	}
	signer, vkey, err := audit.NoteKey(origin, seed)
	if err != nil {
		return err
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return err
	}
	t.Audit = audit.New(t.DB, audit.Options{Origin: origin, Signer: signer, Verifier: verifier, BatchKey: batches, Now: t.now, Log: t.log})
	t.Trust = trust.New(trust.Deps{DB: t.DB, Audit: t.Audit, Access: access.NewDecider(t.Audit), Keys: t.Keys, StatusKeys: t.Keys, Secrets: t.Keys, Now: t.now, Leap: c.V2X.LeapSeconds})
	t.AA = aa.New(aa.Deps{DB: t.DB, Audit: t.Audit, Trust: t.Trust, Enrolment: t.client, Window: c.V2X.Window, Timeout: c.V2X.EATimeout, Proof: c.V2X.Proof, Random: rand.Reader, Now: t.now})
	return nil
}

// sameOrigin refuses to go on with a record that was begun under another name, as one is that moved to a machine with another configuration: its checkpoints
// could not be verified. The file says the name.
func sameOrigin(file, origin string) error {
	begun, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return os.WriteFile(file, []byte(origin+"\n"), 0o600)
	}
	if err != nil {
		return fmt.Errorf("reading under which name the record of the authorization authority was begun: %w", err)
	}
	if was := strings.TrimSpace(string(begun)); was != origin {
		return errs.New(errs.Invalid, "the record of the authorization authority was begun as %q and would go on as %q: give mooring.yaml the name that the platform has (name, or audit.origin)", was, origin)
	}
	return nil
}

func (t *TicketAuthority) bind(ctx context.Context) error {
	if _, err := t.Trust.Credential(ctx, trust.AA); err != nil {
		return err
	}
	s, err := plainSurface(ctx, t.Config.Listen.V2XAA, t.Config.Limits, t.handler(), web.Observer{Surface: "v2x-aa", Log: t.log, Now: t.now})
	if err != nil {
		return err
	}
	t.surface = &s
	return nil
}

// Checkers returns what a verification of the authority's own record compares with it.
func (t *TicketAuthority) Checkers() []audit.Checker { return []audit.Checker{t.Trust.Checker()} }

// Bind opens the listener, for an authority that runs alone.
func (t *TicketAuthority) Bind(ctx context.Context) error { return t.bind(ctx) }

// Address is where it listens, as a base URL.
func (t *TicketAuthority) Address() string { return "http://" + t.surface.gate.Addr().String() }

// Run serves until ctx ends, and closes the authority.
func (t *TicketAuthority) Run(ctx context.Context, ready func()) (err error) {
	defer func() { err = errors.Join(err, t.Close()) }()
	core, stop := context.WithCancel(context.WithoutCancel(ctx)) // what records outlasts the listener
	defer stop()
	parts, coreCtx := errgroup.WithContext(core)
	for _, run := range []func(context.Context) error{t.DB.Run, t.Audit.Run, t.AA.Commit, func(ctx context.Context) error { return t.AA.Run(ctx, t.log) }} {
		parts.Go(func() error { return run(coreCtx) })
	}
	serving, serveCtx := errgroup.WithContext(ctx)
	serving.Go(func() error {
		select {
		case <-coreCtx.Done():
			return context.Cause(coreCtx)
		case <-serveCtx.Done():
			return nil
		}
	})
	serving.Go(func() error { return t.follow(serveCtx) })
	serving.Go(func() error { return t.surface.serve(serveCtx) })
	if ready != nil {
		ready()
	}
	err = serving.Wait()
	stop()
	return errors.Join(err, parts.Wait())
}

// How often the lists are fetched, and how soon again when that failed.
const (
	followEvery = 30 * time.Second
	followAgain = 2 * time.Second
)

// follow fetches the lists of the root.
func (t *TicketAuthority) follow(ctx context.Context) error {
	for {
		wait := followEvery
		if err := t.Fetch(ctx); err != nil && ctx.Err() == nil {
			t.log.LogAttrs(ctx, slog.LevelWarn, "fetching the V2X lists", slog.Any("error", err))
			wait = followAgain
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// Close frees what was opened. It may be called more than once.
func (t *TicketAuthority) Close() error {
	var all []error
	if t.surface != nil {
		all = append(all, ignoreClosed(t.surface.gate.Close()))
		t.surface = nil
	}
	if t.DB != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		all = append(all, t.DB.Close(ctx))
		t.DB = nil
	}
	return errors.Join(all...)
}

// V2XMade is what InitV2X made.
type V2XMade struct {
	Root its.HashedId8
	EA   its.HashedId8
	AA   its.HashedId8 // none where Elsewhere
	Dir  string        // of the authorization authority
	// Elsewhere says that the authorization authority is not here: whoever runs it asks for its certificate there.
	Elsewhere bool
	// Certificate is the root's, which vehicles are to believe.
	Certificate []byte
}

// InitV2X makes a root, an enrolment authority and, in v2x.aa_dir, an authorization authority, and the first lists. The platform is one that Open opened. Where its roots are
// revoked or have ended it begins anew, in the same stores, whose records go on.
func (p *Platform) InitV2X(ctx context.Context, name string) (made V2XMade, err error) {
	c, who := p.Config, access.System("v2x init")
	for _, l := range []struct{ key, url string }{{"listen.v2x_ea", c.V2XEAURL()}, {"listen.v2x_validation", c.V2XValidationURL()}, {"listen.v2x_aa or v2x.aa_url", c.V2XAAURL()}, {"listen.v2x_dc", c.V2XDCURL()}} {
		if l.url == "" {
			return made, errs.New(errs.Invalid, "the trust list says where the authorities are: set %s in %s first", l.key, conf.FileName)
		}
	}
	made.Dir = c.Path(c.V2X.AADir)
	anew := p.V2X.Trust.State().Begun() && len(p.V2X.Trust.State().Roots) == 0
	if !anew {
		if _, err := emptyDir(made.Dir); errs.Is(err, errs.Conflict) && len(p.V2X.Trust.State().Roots) > 0 {
			return made, errs.New(errs.Conflict, "the authorities were made already, and %s is that of the tickets; nothing was changed. Start them with mooring serve", made.Dir)
		} else if err != nil {
			return made, err
		}
	}
	root, err := p.V2X.Trust.CreateRoot(ctx, who, name+" RCA")
	if err != nil {
		return made, err
	}
	made.Root, made.Certificate = root.ID, root.Octets
	if made.EA, err = p.found(ctx, p.V2X.Trust, trust.Grant{Role: trust.EA, URL: c.V2XEAURL() + v2xserver.EnrolmentPath, Peer: c.V2XValidationURL() + v2xserver.ValidationPath}, name+" EA"); err != nil {
		return made, err
	}
	if !anew {
		if err := makeTickets(made.Dir); err != nil {
			return made, err
		}
	} else if _, err := os.Stat(made.Dir); errors.Is(err, fs.ErrNotExist) {
		made.Elsewhere = true
		return made, nil
	}
	made.AA, err = p.initTickets(ctx, name+" AA")
	return made, err
}

// found has an authority ask for its certificate, the root issue it, and the authority install it.
func (p *Platform) found(ctx context.Context, of *trust.Service, g trust.Grant, name string) (its.HashedId8, error) {
	who := access.System("v2x init")
	request, err := of.Apply(ctx, who, g.Role, name)
	if err != nil {
		return its.HashedId8{}, err
	}
	a, err := p.V2X.Trust.Issue(ctx, who, request, g)
	if err != nil {
		return its.HashedId8{}, err
	}
	_, err = of.Install(ctx, who, a.Octets, p.V2X.Trust.State().Root.Octets)
	return a.ID, err
}

// makeTickets makes the directory of an authorization authority.
func makeTickets(dir string) error {
	unlock := filepath.Join(dir, "unlock")
	if err := makeUnlockFile(unlock); err != nil {
		return err
	}
	secret, err := key.ReadUnlock("file:"+unlock, nil)
	if err != nil {
		return err
	}
	_, err = key.Create(filepath.Join(dir, "keys"), secret, key.Options{})
	return err
}

// initTickets gives the authorization authority its certificate and the lists.
func (p *Platform) initTickets(ctx context.Context, name string) (id its.HashedId8, err error) {
	t, err := OpenTicketAuthority(ctx, Options{Config: p.Config, Log: p.log, Now: p.now})
	if err != nil {
		return id, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	if id, err = p.found(ctx, t.Trust, trust.Grant{Role: trust.AA, URL: p.Config.V2XAAURL() + v2xserver.AuthorizationPath}, name); err != nil {
		return id, err
	}
	st := p.V2X.Trust.State()
	return id, t.Trust.Accept(ctx, st.Full, st.CRL)
}

// MakeV2X opens a stopped installation and makes its authorities.
func MakeV2X(ctx context.Context, o Options, name string) (made V2XMade, err error) {
	p, err := Open(ctx, o)
	if err != nil {
		return made, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	return p.InitV2X(ctx, name)
}

// LoopbackV2X is Loopback with the authorities of V2X.
func LoopbackV2X(organisation string) (*conf.Config, error) {
	c, err := Loopback(organisation)
	if err != nil {
		return nil, err
	}
	free, err := port.Free(4)
	if err != nil {
		return nil, err
	}
	c.Names = []string{"127.0.0.1", "localhost"}
	c.Listen.V2XEA, c.Listen.V2XValidation, c.Listen.V2XAA, c.Listen.V2XDC = free[0].String(), free[1].String(), free[2].String(), free[3].String()
	return c, nil
}
