// Package agent keeps the identity of a device: it enrols once, renews in time and for ever, and survives crashes, power
// cuts, servers that are away and operators who approve the next day. It works with any server of RFC 7030.
//
//	a, err := agent.Create(options, agent.Config{Server: "https://est.example.test", Name: "dev1"})
//	identity, err := a.Enrol(ctx, agent.First{Token: token, Fingerprint: &fingerprint})
//	...
//	a, err := agent.Open(options) // at each start
//	go a.Run(ctx)                 // renews
//	identity, err := a.Identity() // for TLS connections; ask again for each connection
//
// The folder of an agent:
//
//	config.json      what Create was given
//	masa-ca.pem      what vouchers of the device's manufacturer are believed by, if it asked for one
//	server-ca.pem    what the server is believed by, unless it is in ca.pem already
//	ca.pem           the roots of the server's authorities: what this device believes its peers by
//	current          symbolic link to the generation in use
//	gen/N/           key.pem, cert.pem, and chain.pem: the certificate followed by its intermediates
//	next/            the generation that is being made: its key, its request, last its certificate
//	state.json       when to try again, and what went wrong last
//	advice.json      what the server said last about when to renew
//	report-owed      there while a registrar is to be told how the enrolment went
//	lock             held while something is being changed
//
// Key and certificate of a generation are complete before "current" points to it, and that happens in one step. A crash
// at any point therefore leaves the old identity, or the new one. A request that was started is finished with the key it
// was started with, so that a server never sees two keys for one order.
//
// Keys stay on the device: see Keys. The agent never logs or shows keys and tokens.
package agent

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"mooring/agent/durable"
	"mooring/agent/est"
	"mooring/agent/keyfile"
	"mooring/wire/der"
)

// Errors that say in which state an agent is.
var (
	// ErrNotEnrolled says that the device has no identity and has asked for none.
	ErrNotEnrolled = errors.New("this device is not enrolled; run: mooring agent enrol")
	// ErrEnrolled says that the device has an identity already, which has not expired.
	ErrEnrolled = errors.New("this device is enrolled already; renew its certificate, or, if that was revoked, enrol with --again and a new token")
	// ErrBusy says that another process is changing the folder.
	ErrBusy = errors.New("another agent is working in this folder; try again in a minute")
)

// Keys makes and finds private keys, one for each folder it is given. keyfile.Keys keeps them in the folder; an
// implementation for a TPM would keep a handle or a sealed blob there. What a method has done when it returns nil must
// survive a loss of power. Methods are called by one goroutine at a time, signers by many.
type Keys interface {
	// Create makes a key for a folder that has none.
	Create(dir string, kind der.KeyKind) (crypto.Signer, error)
	// Load finds the key of a folder; the error is fs.ErrNotExist if there is none.
	Load(dir string) (crypto.Signer, error)
	// Reuse makes the key of one folder that of another too.
	Reuse(from, to string) error
}

// Options are the surroundings of an agent.
type Options struct {
	Dir string // its folder
	// Now is the clock. Required.
	Now func() time.Time
	// Sleep waits for a time or until ctx ends, and returns ctx.Err() then. Nil waits in real time.
	Sleep func(ctx context.Context, d time.Duration) error
	// Rand spreads retries; nil is crypto/rand.
	Rand io.Reader
	// Keys keeps the private keys; nil is keyfile.Keys.
	Keys Keys
	// Log may be nil.
	Log *slog.Logger
	// Changed is called after another identity has come into use, when the folder is free again, so that other programs can be told to
	// read it. It may be nil.
	Changed func(ctx context.Context, files Files)
	// Dial opens connections; nil is a plain TCP dialler.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Config is what an agent knows about itself and its server. It is stored by Create.
type Config struct {
	// HTTPListen is where the answers to http-01 challenges are served while an order by ACME is made, such as ":80"; "" = nowhere.
	HTTPListen string `json:"http_listen,omitempty"`

	Server string `json:"server"`          // https://host:port, or coaps://host:port for EST over CoAP
	Label  string `json:"label,omitempty"` // certification service of the server, often a profile
	Name   string `json:"name"`            // of the device; spreads renewals, and is the default for User and Subject
	// User goes with the token in HTTP Basic authentication.
	User string `json:"user,omitempty"`
	// Subject is a distinguished name as der.ParseDN reads it; "" is CN=Name.
	Subject string `json:"subject,omitempty"`
	// Nameless asks for no subject at all: the server knows what the device is called, and the device does not. Name then is its own idea of that.
	Nameless bool `json:"nameless,omitempty"`
	// CMCRA believes a server by another name too, if its certificate is that of a registration authority (id-kp-cmcRA; RFC 7030, section 3.6.1): for a
	// device that finds its registrar by other means than its name, as those of BRSKI do.
	CMCRA bool `json:"cmc_ra,omitempty"`
	// Names are alternative names to ask for, each with its kind: "dns:", "ip:", "uri:", "email:".
	Names []string `json:"names,omitempty"`
	// KeyType is the kind of key; "" is what the server wants, or ec-p256.
	KeyType der.KeyKind `json:"key_type,omitempty"`
	// KeepKey renews with the same key instead of a new one.
	KeepKey bool `json:"keep_key,omitempty"`
	// Bind ties requests to their connections even if the server does not ask for it.
	Bind bool `json:"bind,omitempty"`
}

// Agent is the agent of one folder. Several processes may have one: they take turns.
type Agent struct {
	options Options
	config  Config
	subject []der.Attribute
	names   der.AltNames
	folder  folder
	again   bool // Enrol replaces an identity that has not expired
}

// Create makes the folder of a device that has no identity yet or whose certificate has expired, or replaces its
// configuration.
func Create(o Options, c Config) (*Agent, error) { return create(o, c, false) }

// Replace is Create for a device whose identity is to be replaced though it has not expired: because it was revoked, say.
// Until Enrol has got another one, the old identity stays in use; then it is kept as the generation before.
func Replace(o Options, c Config) (*Agent, error) { return create(o, c, true) }

func create(o Options, c Config, again bool) (*Agent, error) {
	a, err := newAgent(o, c)
	if err != nil {
		return nil, err
	}
	if err := a.folder.create(); err != nil {
		return nil, fmt.Errorf("making the folder of the agent: %w", err)
	}
	unlock, err := a.folder.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := a.recover(); err != nil {
		return nil, err
	}
	a.again = again
	if !a.mayEnrol() {
		return nil, ErrEnrolled
	}
	if err := a.forgetOther(c); err != nil {
		return nil, err
	}
	return a, a.folder.writeJSON(configFile, c)
}

// forgetOther drops an unfinished enrolment if it was for another server, service or name.
func (a *Agent) forgetOther(c Config) error {
	var old Config
	switch err := a.folder.readJSON(configFile, &old); {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case old.Server == c.Server && old.Label == c.Label && old.Name == c.Name:
		return nil
	}
	if err := os.RemoveAll(a.folder.path(acmeFolder)); err != nil { // an account is one server's
		return err
	}
	if a.folder.enrolled() { // the roots are still what other programs of the device check their peers by
		return errors.Join(os.RemoveAll(a.folder.next()), a.folder.remove(stateFile, reportFile))
	}
	return errors.Join(os.RemoveAll(a.folder.next()), a.folder.remove(serverCAFile, caFile, stateFile, reportFile))
}

// mayEnrol tells whether there is no identity that an enrolment would replace unasked.
func (a *Agent) mayEnrol() bool { return a.again || !a.folder.enrolled() || a.expired() }

// expired tells whether the identity in use can be read and has expired.
func (a *Agent) expired() bool {
	identity, err := a.Identity()
	return err == nil && a.options.Now().After(identity.Certificate().NotAfter)
}

// Open returns the agent of a folder that Create made, after finishing what a crash may have interrupted.
func Open(o Options) (*Agent, error) {
	var c Config
	switch err := (folder{o.Dir}).readJSON(configFile, &c); {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%s has no agent: %w", o.Dir, ErrNotEnrolled)
	case err != nil:
		return nil, err
	}
	a, err := newAgent(o, c)
	if err != nil {
		return nil, err
	}
	switch unlock, err := a.folder.lock(); {
	case errors.Is(err, ErrBusy): // then nothing is interrupted: it is being done
		return a, nil
	case err != nil:
		return nil, err
	default:
		defer unlock()
		return a, a.recover()
	}
}

func newAgent(o Options, c Config) (*Agent, error) {
	if o.Dir == "" || o.Now == nil {
		return nil, errors.New("an agent needs a folder and a clock")
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Keys == nil {
		o.Keys = keyfile.Keys{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	a := &Agent{options: o, config: c, folder: folder{o.Dir}}
	return a, a.readNames()
}

// readNames checks the configuration and takes the names in it apart.
func (a *Agent) readNames() (err error) {
	if a.config.Name == "" {
		return errors.New("the device needs a name")
	}
	a.subject = []der.Attribute{{Type: der.OIDCommonName, Value: a.config.Name}}
	if a.config.Subject != "" {
		if a.subject, err = der.ParseDN(a.config.Subject); err != nil {
			return fmt.Errorf("reading the subject %q: %w", a.config.Subject, err)
		}
	}
	if a.names, err = parseNames(a.config.Names); err != nil {
		return err
	}
	if _, err := der.BuildName(a.subject); err != nil {
		return fmt.Errorf("subject of the device: %w", err)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Options are the surroundings of the agent, as they are after what was left out has been filled in.
func (a *Agent) Options() Options { return a.options }

// Config is the configuration of the agent.
func (a *Agent) Config() Config { return a.config }

// By returns the agent as it is with another address of its server, which may be that of another protocol; the folder and its configuration stay.
func (a *Agent) By(server string) *Agent {
	other := *a
	other.config.Server = server
	return &other
}

// client is an EST client that believes a server by roots.
func (a *Agent) client(roots []*x509.Certificate) (*est.Client, error) {
	c := a.estConfig()
	c.Roots = roots
	return est.New(c)
}

func (a *Agent) estConfig() est.Config {
	return est.Config{Server: a.config.Server, Label: a.config.Label, CMCRA: a.config.CMCRA, Now: a.options.Now, Dial: a.options.Dial}
}

// create makes what an agent's folder always has.
func (f folder) create() error {
	if err := durable.Mkdir(f.dir); err != nil {
		return err
	}
	return durable.Mkdir(f.path(genFolder))
}
