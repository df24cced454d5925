// Package callout decides for NATS servers outside who may connect and say what: their auth callout. A server sends each connection's proof as a JWT that
// it has sealed for us (xkey), and takes a signed user JWT with permissions, or a refusal, for an answer; nobody between can read or make either.
//
//	device → TLS with its certificate → nats-server → $SYS.REQ.USER.AUTH → Responder → Decide → permissions, end of the certificate → nats-server
//
// A Responder also ends connections (Kick), by the servers' system account, and so serves as a driver of package broker. It has no list of those who are
// banned: Decide refuses them when they connect. What the servers need in their configuration is in doc/external-brokers.md.
//
// The package deliberately decides nothing: Decide, which app wires, asks the registry and the policy. A request without a verified certificate, or not
// sealed, is refused without asking.
package callout

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"mooring/internal/base/errs"
)

// Login is how we come to an account of the servers: user and password, or a file of credentials.
type Login struct{ User, Password, Credentials string }

// LogValue keeps the password out of logs.
func (l Login) LogValue() slog.Value { return slog.StringValue("login of " + l.User) }

// Options say where the servers are and what we answer with.
type Options struct {
	URLs          []string
	CA, Cert, Key string // files, as in package nats
	Callout       Login  // one of auth_users, in the account of auth_callout
	System        Login  // of the system account, for Kick

	Issuer  string // seed of the account key whose public half is auth_callout.issuer ("SA…")
	XKey    string // seed of the curve key whose public half is auth_callout.xkey ("SX…")
	Account string // where devices are put

	Decide func(ctx context.Context, r Request) (Permit, error)
	Now    func() time.Time
	Log    *slog.Logger
}

// LogValue keeps the seeds out of logs.
func (o Options) LogValue() slog.Value {
	return slog.StringValue("auth callout for account " + o.Account)
}

// Request is one connection that waits for a decision.
type Request struct {
	Chain   []*x509.Certificate // verified by the server: the peer's, then the CAs above it
	Client  string              // the MQTT client identifier; "" = it does not speak MQTT
	MQTT    bool
	Address string
	Server  string // the name of the server
}

// Permit is what a connection may do.
type Permit struct {
	Name      string   // of the thing: the name of the user there, by which Kick finds the connection
	Publish   []string // MQTT filters
	Subscribe []string
	NotAfter  int64 // Unix seconds: the server ends the connection then; 0 = it does not
}

// The bounds of what is done at once.
const (
	maxDeciding = 64
	maxChain    = 10
	callWait    = 5 * time.Second
	decideWait  = 5 * time.Second
)

// Responder answers the servers while Run runs.
type Responder struct {
	o       Options
	issuer  nkeys.KeyPair
	xkey    nkeys.KeyPair
	nc, sys *natsgo.Conn
	slots   chan struct{}
	mu      sync.Mutex
	counts  Counts
}

// Counts are what a Responder has done.
type Counts struct{ Allowed, Refused, Failed, Kicked int64 }

// Open connects with the servers, once with each login.
func Open(o Options) (*Responder, error) {
	r := &Responder{o: o, slots: make(chan struct{}, maxDeciding)}
	if len(o.URLs) == 0 || o.Account == "" || o.Decide == nil || o.Now == nil || o.Log == nil {
		return nil, errs.New(errs.Invalid, "the auth callout needs URLs of the servers and the name of the account for devices")
	}
	var err error
	if r.issuer, err = seed(o.Issuer, nkeys.PrefixByteAccount, "issuer", "SA"); err != nil {
		return nil, err
	}
	if r.xkey, err = seed(o.XKey, nkeys.PrefixByteCurve, "xkey", "SX"); err != nil {
		return nil, err
	}
	if r.nc, err = o.dial(o.Callout, "the auth callout"); err != nil {
		return nil, err
	}
	if r.sys, err = o.dial(o.System, "the system account"); err != nil {
		r.nc.Close()
		return nil, err
	}
	return r, nil
}

// seed reads a key; the error does not quote it.
func seed(text string, want nkeys.PrefixByte, what, begins string) (nkeys.KeyPair, error) {
	text = strings.TrimSpace(text)
	prefix, _, err := nkeys.DecodeSeed([]byte(text))
	if err != nil || prefix != want {
		return nil, errs.New(errs.Invalid, "the %s of the auth callout is not the seed of a key of that kind, which begins with %s: make one with nk or nsc", what, begins)
	}
	if want == nkeys.PrefixByteCurve {
		return nkeys.FromCurveSeed([]byte(text))
	}
	return nkeys.FromSeed([]byte(text))
}

func (o *Options) dial(l Login, what string) (*natsgo.Conn, error) {
	options := []natsgo.Option{natsgo.Name("mooring " + what), natsgo.MaxReconnects(-1), natsgo.ReconnectWait(250 * time.Millisecond), natsgo.Timeout(callWait),
		natsgo.ErrorHandler(func(_ *natsgo.Conn, _ *natsgo.Subscription, err error) {
			o.Log.Warn("nats says that something is wrong", "connection", what, "err", err)
		})}
	if l.User != "" {
		options = append(options, natsgo.UserInfo(l.User, l.Password))
	}
	if l.Credentials != "" {
		options = append(options, natsgo.UserCredentials(l.Credentials))
	}
	if o.CA != "" {
		options = append(options, natsgo.RootCAs(o.CA))
	}
	if o.Cert != "" || o.Key != "" {
		options = append(options, natsgo.ClientCert(o.Cert, o.Key))
	}
	nc, err := natsgo.Connect(strings.Join(o.URLs, ","), options...)
	if errors.Is(err, natsgo.ErrNoServers) || errors.Is(err, natsgo.ErrTimeout) { // they may come later; whoever is wrong about them learns it from the log
		o.Log.Warn("the NATS servers cannot be reached; that is tried on", "connection", what, "servers", strings.Join(o.URLs, ", "))
		nc, err = natsgo.Connect(strings.Join(o.URLs, ","), append(options, natsgo.RetryOnFailedConnect(true))...)
	}
	switch {
	case errors.Is(err, natsgo.ErrAuthorization):
		return nil, errs.Wrap(errs.Denied, err, "the NATS servers refuse the login for %s: it must be a user of their configuration, and that of the auth callout one of auth_users", what)
	case err != nil:
		return nil, errs.Wrap(errs.Unavailable, err, "the NATS servers at %s cannot be reached for %s", strings.Join(o.URLs, ", "), what)
	}
	return nc, nil
}

// subject and header of the callout (nats-server, auth_callout.go).
const (
	requestSubject = "$SYS.REQ.USER.AUTH"
	headerXKey     = "Nats-Server-Xkey"
)

// Run answers until ctx ends. Several nodes may run; each request comes to one of them.
func (r *Responder) Run(ctx context.Context) error {
	var busy sync.WaitGroup
	sub, err := r.nc.QueueSubscribe(requestSubject, "mooring", func(msg *natsgo.Msg) {
		select {
		case r.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		busy.Go(func() {
			defer func() { <-r.slots }()
			r.answer(ctx, msg)
		})
	})
	if err != nil {
		return errs.Wrap(errs.Unavailable, err, "listening for requests of the NATS servers")
	}
	<-ctx.Done()
	err = sub.Unsubscribe()
	busy.Wait()
	if errors.Is(err, natsgo.ErrConnectionClosed) {
		return nil
	}
	return err
}

// Close ends the connections with the servers, which then refuse everybody new.
func (r *Responder) Close() {
	r.nc.Close()
	r.sys.Close()
}

// Counts returns what was done so far.
func (r *Responder) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts
}

func (r *Responder) count(f func(*Counts)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.counts)
}

// answer decides one request. What cannot be answered is left: the server refuses after its own time.
func (r *Responder) answer(ctx context.Context, msg *natsgo.Msg) {
	ctx, cancel := context.WithTimeout(ctx, decideWait)
	defer cancel()
	claims, err := r.unseal(msg)
	if err != nil {
		r.count(func(c *Counts) { c.Failed++ })
		r.o.Log.Warn("an auth callout cannot be read", "err", err)
		return
	}
	user, err := r.decide(ctx, claims)
	if err == nil {
		err = r.reply(msg, claims, user, "")
	} else {
		r.o.Log.Info("a connection to nats was refused", "server", claims.Server.Name, "address", claims.ClientInformation.Host, "err", err)
		err = r.reply(msg, claims, "", "refused") // why is not the peer's business
	}
	if err != nil {
		r.count(func(c *Counts) { c.Failed++ })
		r.o.Log.Warn("an auth callout was not answered", "err", err)
	}
}

var errSeal = errors.New("the request is not sealed: auth_callout needs xkey")

// unseal opens a request and takes it apart.
func (r *Responder) unseal(msg *natsgo.Msg) (*jwt.AuthorizationRequestClaims, error) {
	from := msg.Header.Get(headerXKey)
	if !nkeys.IsValidPublicCurveKey(from) {
		return nil, errSeal
	}
	text, err := r.xkey.Open(msg.Data, from)
	if err != nil {
		return nil, err
	}
	claims, err := jwt.DecodeAuthorizationRequestClaims(string(text))
	if err != nil {
		return nil, err
	}
	switch {
	case claims.Server.XKey != from || claims.Server.ID != claims.Issuer:
		return nil, errors.New("the request is not of the server that sealed it")
	case !nkeys.IsValidPublicUserKey(claims.UserNkey):
		return nil, errors.New("the request has no user key")
	case claims.Expires != 0 && claims.Expires < r.o.Now().Unix():
		return nil, errors.New("the request is too old")
	}
	return claims, nil
}

// decide asks Decide and gives the user JWT.
func (r *Responder) decide(ctx context.Context, claims *jwt.AuthorizationRequestClaims) (string, error) {
	chain, err := chainOf(claims.TLS)
	if err != nil {
		r.count(func(c *Counts) { c.Refused++ })
		return "", err
	}
	permit, err := r.o.Decide(ctx, Request{Chain: chain, Client: claims.ClientInformation.MQTT, MQTT: strings.HasPrefix(claims.ClientInformation.Type, "mqtt"),
		Address: claims.ClientInformation.Host, Server: claims.Server.Name})
	if err == nil && permit.NotAfter != 0 && permit.NotAfter <= r.o.Now().Unix() {
		err = errs.New(errs.Denied, "the certificate has ended")
	}
	var user *jwt.UserClaims
	if err == nil {
		user, err = r.claims(claims.UserNkey, permit, strings.HasPrefix(claims.ClientInformation.Type, "mqtt"))
	}
	if err != nil {
		r.count(func(c *Counts) { c.Refused++ })
		return "", err
	}
	r.count(func(c *Counts) { c.Allowed++ })
	return user.Encode(r.issuer)
}

// reserved are the first tokens, without their $, of the subjects by which servers talk among each other and with JetStream, its clients and MQTT's sessions.
// Nobody whom we let in needs them, but a session of MQTT the subjects of its own, of which the server itself keeps filters away. NATS has no wildcard for
// "whatever begins with $".
var reserved = [...]string{"SYS", "JS", "JSC", "NRG", "KV", "O", "OBJ", "MQTT", "SRV", "LDS", "GNR", "G"}

// claims are the permissions of a user.
func (r *Responder) claims(nkey string, p Permit, mqtt bool) (*jwt.UserClaims, error) {
	if p.Name == "" {
		return nil, errs.New(errs.Internal, "a permit without a name")
	}
	user := jwt.NewUserClaims(nkey)
	user.Name, user.Audience, user.Expires = p.Name, r.o.Account, p.NotAfter
	for _, filter := range p.Publish {
		subjects, err := subjectsOf(filter, false)
		if err != nil {
			return nil, err
		}
		user.Permissions.Pub.Allow.Add(subjects...)
	}
	for _, filter := range p.Subscribe {
		subjects, err := subjectsOf(filter, true)
		if err != nil {
			return nil, err
		}
		user.Permissions.Sub.Allow.Add(subjects...)
	}
	// A wildcard of MQTT holds no topic that begins with $; one of NATS does, and there the servers' own subjects lie.
	for _, own := range reserved {
		user.Permissions.Pub.Deny.Add("$" + own + ".>")
		if own != "MQTT" || !mqtt {
			user.Permissions.Sub.Deny.Add("$" + own + ".>")
		}
	}
	// A list that is empty allows everything.
	if len(p.Publish) == 0 {
		user.Permissions.Pub.Deny.Add(">")
	}
	if len(p.Subscribe) == 0 {
		user.Permissions.Sub.Deny.Add(">")
	}
	return user, nil
}

// reply signs and seals the answer.
func (r *Responder) reply(msg *natsgo.Msg, claims *jwt.AuthorizationRequestClaims, user, refusal string) error {
	answer := jwt.NewAuthorizationResponseClaims(claims.UserNkey)
	answer.Audience, answer.Jwt, answer.Error = claims.Server.ID, user, refusal
	text, err := answer.Encode(r.issuer)
	if err != nil {
		return err
	}
	sealed, err := r.xkey.Seal([]byte(text), claims.Server.XKey)
	if err != nil {
		return err
	}
	return msg.Respond(sealed)
}

// chainOf reads the chain that the server has verified.
func chainOf(t *jwt.ClientTLS) ([]*x509.Certificate, error) {
	if t == nil || len(t.VerifiedChains) == 0 {
		return nil, errs.New(errs.Denied, "the connection has no client certificate that the NATS server verified: its listener needs verify")
	}
	texts := t.VerifiedChains[0]
	if len(texts) == 0 || len(texts) > maxChain {
		return nil, errs.New(errs.Denied, "a chain of %d certificates", len(texts))
	}
	var chain []*x509.Certificate
	for _, text := range texts {
		block, _ := pem.Decode([]byte(text))
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errs.New(errs.Denied, "a chain with what is no certificate")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errs.Wrap(errs.Denied, err, "a chain with a certificate that cannot be read")
		}
		chain = append(chain, c)
	}
	return chain, nil
}
