package app

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/message/policy"
	kick "mooring/internal/provider/broker"
	"mooring/internal/provider/nats/callout"
	"mooring/internal/server/broker"
	"mooring/internal/server/gate"
)

// brokerFile is a file of messaging.brokers: a broker of somebody else that asks, is told whom to let go of, or both.
type brokerFile struct {
	// What it asks, at listen.hooks.
	Dialect   string `yaml:"dialect"`       // emqx, goauth, rmqtt or vernemq; "" = it does not ask
	Secret    string `yaml:"secret_sha256"` // of the bearer secret, hex
	Thing     string `yaml:"thing"`         // whose client certificate it shows instead
	Certified bool   `yaml:"certified"`
	Mode      string `yaml:"mode"`
	List      bool   `yaml:"list"`
	Cache     string `yaml:"cache"`
	Recheck   string `yaml:"recheck"`
	// How it is told.
	Kick *kickFile `yaml:"kick"`
	// How a NATS asks, which is told by the same connection.
	Callout *calloutFile `yaml:"callout"`
}

type calloutFile struct {
	URLs           []string `yaml:"urls"`
	User           string   `yaml:"user"` // one of auth_users
	PasswordFile   string   `yaml:"password_file"`
	System         string   `yaml:"system_user"` // of the system account
	SystemPassword string   `yaml:"system_password_file"`
	IssuerFile     string   `yaml:"issuer_file"` // the seed of the account key ("SA…")
	XKeyFile       string   `yaml:"xkey_file"`   // the seed of the curve key ("SX…")
	Account        string   `yaml:"account"`     // where devices are put
	PeerFiles      `yaml:",inline"`
}

type kickFile struct {
	Driver    string `yaml:"driver"` // emqx, rmqtt, vernemq or mosquitto
	URL       string `yaml:"url"`
	User      string `yaml:"user"`
	KeyFile   string `yaml:"key_file"`
	Address   string `yaml:"address"`   // of mosquitto, host:port
	ClientID  string `yaml:"client_id"` // of mosquitto
	PeerFiles `yaml:",inline"`
}

// PeerFiles are what a connection to somebody else's server is protected by.
type PeerFiles struct {
	CA     string `yaml:"ca"`      // PEM; "" = this machine's
	Cert   string `yaml:"cert"`    // PEM; "" = none is shown
	TLSKey string `yaml:"tls_key"` // PEM
}

// brokers are those of the configuration.
type brokers struct {
	asked  []broker.Options
	nats   []*callout.Responder
	outbox *kick.Outbox   // nil: nobody is told
	hooks  *broker.Server // nil: nobody asks
	chores chores
}

const (
	// kickTime bounds a call to a broker's API.
	kickTime = 10 * time.Second
	// kickAgain is when mosquitto, which knows from a file who is revoked, is told once more.
	kickAgain = 2 * time.Minute
)

// loadBrokers reads the files of messaging.brokers.
func (p *Platform) loadBrokers() error {
	if p.fabric == nil {
		return nil
	}
	dir := p.Config.Messaging.Brokers
	files, err := outsideFiles[brokerFile](p.Config, dir)
	if err != nil {
		return err
	}
	var told []kick.Broker
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f := files[name]
		wrong := func(err error) error { return wrongFile(p.Config, dir, name, err) }
		if err := f.complete(); err != nil {
			return wrong(err)
		}
		if f.Dialect != "" {
			o, err := f.options(name)
			if err != nil {
				return wrong(err)
			}
			p.brokers.asked = append(p.brokers.asked, o)
		}
		if f.Kick != nil {
			one, err := p.driver(f.Kick)
			if err != nil {
				return wrong(err)
			}
			one.Name = name
			told = append(told, one)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f := files[name].Callout
		if f == nil {
			continue
		}
		r, err := p.callout(f)
		if err != nil {
			return wrongFile(p.Config, dir, name, fmt.Errorf("callout: %w", err))
		}
		p.brokers.nats = append(p.brokers.nats, r)
		told = append(told, kick.Broker{Name: name, Driver: r})
	}
	if len(told) > 0 {
		p.brokers.chores.more = make(chan struct{}, 1)
		p.brokers.outbox = kick.New(kick.Options{DB: p.DB, Brokers: told, Now: p.now, Log: p.log})
	}
	return nil
}

// complete says what a file lacks altogether.
func (f *brokerFile) complete() error {
	if f.Dialect == "" && f.Kick == nil && f.Callout == nil {
		return fmt.Errorf("it neither asks nor is told: give dialect, kick, or both; for NATS, callout")
	}
	return nil
}

// checkBroker says what is wrong with a file, without connecting to anything.
func (p *Platform) checkBroker(name string, f *brokerFile) error {
	if err := f.complete(); err != nil {
		return err
	}
	if f.Dialect != "" {
		o, err := f.options(name)
		if err != nil {
			return err
		}
		if _, err := broker.New(broker.Deps{Brokers: []broker.Options{o}}); err != nil {
			return err
		}
	}
	if f.Kick != nil {
		if _, err := p.driver(f.Kick); err != nil {
			return err
		}
	}
	if f.Callout != nil {
		if _, err := p.calloutOptions(f.Callout); err != nil {
			return fmt.Errorf("callout: %w", err)
		}
	}
	return nil
}

// callout connects to a NATS of somebody else as the one who decides there.
func (p *Platform) callout(f *calloutFile) (*callout.Responder, error) {
	o, err := p.calloutOptions(f)
	if err != nil {
		return nil, err
	}
	return callout.Open(o)
}

func (p *Platform) calloutOptions(f *calloutFile) (callout.Options, error) {
	o := callout.Options{URLs: f.URLs, CA: p.file(f.CA), Cert: p.file(f.Cert), Key: p.file(f.TLSKey), Account: f.Account, Decide: p.decideNATS, Now: p.now, Log: p.log}
	if len(f.URLs) == 0 || f.Account == "" {
		return o, errs.New(errs.Invalid, "it needs urls and account")
	}
	o.Callout.User, o.System.User = f.User, f.System
	for _, s := range []struct {
		key, file string
		to        *string
	}{{"password_file", f.PasswordFile, &o.Callout.Password}, {"system_password_file", f.SystemPassword, &o.System.Password}, {"issuer_file", f.IssuerFile, &o.Issuer}, {"xkey_file", f.XKeyFile, &o.XKey}} {
		if s.file == "" {
			continue
		}
		var err error
		if *s.to, err = p.secretFile(s.file); err != nil {
			return o, errs.New(errs.Invalid, "%s: %v", s.key, err)
		}
	}
	return o, nil
}

func (f *brokerFile) options(name string) (o broker.Options, err error) {
	o = broker.Options{Name: name, Dialect: broker.Dialect(f.Dialect), Thing: f.Thing, Certified: f.Certified, Mode: broker.Mode(f.Mode), List: f.List}
	if f.Secret != "" {
		digest, err := hex.DecodeString(f.Secret)
		if err != nil || len(digest) != sha256.Size {
			return o, fmt.Errorf("secret_sha256 is not the SHA-256 of the secret in 64 hexadecimal digits")
		}
		o.Secret = [sha256.Size]byte(digest)
	}
	for _, d := range []struct {
		key, text string
		to        *time.Duration
	}{{"cache", f.Cache, &o.Cache}, {"recheck", f.Recheck, &o.Recheck}} {
		if d.text == "" {
			continue
		}
		if *d.to, err = conf.ParseDuration(d.text); err != nil {
			return o, fmt.Errorf("%s: %w", d.key, err)
		}
	}
	return o, nil
}

func (p *Platform) driver(f *kickFile) (one kick.Broker, err error) {
	secure, err := p.peerTLS(f.PeerFiles)
	if err != nil {
		return one, err
	}
	if f.Driver == "mosquitto" {
		if f.Address == "" {
			return one, fmt.Errorf("kick: mosquitto needs address, such as mqtt.example.com:8883")
		}
		return kick.Broker{Driver: &kick.Mosquitto{Address: f.Address, TLS: secure, ClientID: f.ClientID}, Again: kickAgain}, nil
	}
	h := kick.HTTP{URL: f.URL, User: f.User, Client: &http.Client{Timeout: kickTime, Transport: &http.Transport{TLSClientConfig: secure},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	if f.KeyFile != "" {
		if h.Key, err = p.secretFile(f.KeyFile); err != nil {
			return one, fmt.Errorf("kick: key_file: %w", err)
		}
	}
	if f.URL == "" {
		return one, fmt.Errorf("kick: %s needs url, the address of its API", f.Driver)
	}
	switch f.Driver {
	case "emqx":
		one.Driver = &kick.EMQX{HTTP: h}
	case "rmqtt":
		one.Driver = &kick.RMQTT{HTTP: h}
	case "vernemq":
		one.Driver = &kick.VerneMQ{HTTP: h}
	default:
		return one, fmt.Errorf("kick: there is no driver %q: use emqx, mosquitto, rmqtt or vernemq", f.Driver)
	}
	return one, nil
}

// peerTLS is how a connection to somebody else's server is made.
func (p *Platform) peerTLS(f PeerFiles) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.CA != "" {
		text, err := os.ReadFile(p.Config.Path(f.CA))
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("ca: there is no certificate in %s", f.CA)
		}
	}
	if f.Cert == "" && f.TLSKey == "" {
		return c, nil
	}
	pair, err := tls.LoadX509KeyPair(p.Config.Path(f.Cert), p.Config.Path(f.TLSKey))
	if err != nil {
		return nil, fmt.Errorf("cert and tls_key: %w", err)
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}

// secretFile reads a secret of one line, from a file that nobody else may read.
func (p *Platform) secretFile(name string) (string, error) {
	path := p.Config.Path(name)
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("others may read %s: chmod 600 %s", path, path)
	}
	text, err := os.ReadFile(path)
	return strings.TrimSpace(string(text)), err
}

// bindHooks opens the listener on which brokers ask.
func (p *Platform) bindHooks(ctx context.Context, secure *gate.TLS) error {
	if p.Config.Listen.Hooks == "" {
		return nil
	}
	if len(p.brokers.asked) == 0 {
		return errs.New(errs.Invalid, "%s: listen.hooks: no broker may ask: put a file for each into messaging.brokers, see doc/external-brokers.md", p.Config.Place("listen.hooks"))
	}
	answers, err := broker.New(broker.Deps{Authority: onRecord{p}, Caller: p.caller, Brokers: p.brokers.asked, Now: p.now})
	if err != nil {
		return err
	}
	g, err := gate.Listen(ctx, gate.Options{Name: "hooks", Address: p.Config.Listen.Hooks, TLS: secure, Limits: p.Config.Limits, Refuse: broker.Refuse, Now: p.now, Log: p.log})
	if err != nil {
		return err
	}
	p.brokers.hooks = answers
	counters := &web.Counters{}
	p.surfaces = append(p.surfaces, surface{name: "hooks", gate: g, counters: counters,
		handler: web.Observer{Surface: "hooks", Log: p.log, Now: p.now, Refuse: broker.Refuse, Counters: counters}.Wrap(answers)})
	return nil
}

// caller is the name of the thing that shows a chain.
func (p *Platform) caller(ctx context.Context, chain [][]byte) (string, error) {
	id, err := p.identify(ctx, chain)
	return id.Subject.Thing, err
}

// onRecord tells brokers of others what our own fronts go by.
type onRecord struct{ p *Platform }

func (a onRecord) ByName(ctx context.Context, thing string) (s policy.Subject, notAfter int64, err error) {
	id, _ := a.p.Devices.IDOf(thing)
	d, err := a.p.Devices.Load(ctx, id)
	if err != nil {
		return s, 0, err
	}
	s, err = a.p.author(ctx, id, [16]byte{})
	if err != nil {
		return s, 0, err
	}
	for _, slot := range d.Slots {
		if slot.Revoked == 0 && len(slot.Issuer) > 0 {
			notAfter = max(notAfter, slot.NotAfter)
		}
	}
	if notAfter <= a.p.now().Unix() {
		return s, 0, errs.New(errs.Denied, "%s has no certificate that is good now", thing)
	}
	return s, notAfter, nil
}

func (a onRecord) ByCertificate(ctx context.Context, certificate []byte) (policy.Subject, int64, error) {
	id, err := a.p.identify(ctx, [][]byte{certificate})
	return id.Subject, id.NotAfter, err
}

func (a onRecord) Rights(s policy.Subject) (*policy.Rights, error) { return a.p.Message.Rights(s) }

// tellBrokers has the brokers of others let go of a device that may not talk, or let it in again, under what the registry says of it now.
func (p *Platform) tellBrokers(ctx context.Context, active bool, name string) error {
	switch {
	case p.brokers.outbox == nil:
		return nil
	case active:
		return p.brokers.outbox.Refresh(ctx, []string{name})
	}
	return p.brokers.outbox.Cut(ctx, []string{name}, time.Time{})
}
