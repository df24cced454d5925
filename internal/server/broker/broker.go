// Package broker answers MQTT brokers of others that ask by HTTP whether somebody may connect, publish or subscribe. The answers are those of our own
// fronts: who it is comes from the registry, and what he may do from the policy.
//
// Each dialect has its own addresses, since the same word means different things in them (access 1 is to read in one and to subscribe in another):
//
//	POST /hooks/v1/emqx/authn, authz                                  EMQX 5.8 and later, by the templates of doc/external-brokers.md
//	POST /hooks/v1/goauth/user, superuser, acl                        mosquitto-go-auth: JSON and forms; answers by status, JSON or text
//	POST /hooks/v1/rmqtt/auth, acl                                    RMQTT: JSON and forms
//	POST /hooks/v1/vernemq/auth_on_register, _publish, _subscribe     VerneMQ's webhooks, each also with _m5 at the end
//
// A broker shows itself by the client certificate of a thing that is registered for it, or by a bearer secret, of which the configuration holds the
// SHA-256. An answer says allow or deny and nothing else. Whatever goes wrong is a deny in the dialect's own words: an unknown caller, a request that cannot
// be read, an address that does not exist, our database away, a panic. This matters because most brokers take another status for "ask somebody else", and
// some let everybody in when nobody else is there. Nobody is ever a superuser.
//
// Brokers verify certificates themselves and tell us the name in them. What they tell as a user name is a name from a certificate only if their listener is
// set up so; Options.Certified says that it is, and without it those dialects are denied everything. EMQX and newer VerneMQ can send the certificate,
// which is then looked up itself.
//
// The package deliberately keeps nothing: brokers may remember an answer for Options.Cache, and who caches more is Authority.
package broker

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/message/policy"
	"mooring/internal/server/gate"
	"mooring/wire/mqtt"
)

// Prefix is where the addresses begin.
const Prefix = "/hooks/v1/"

// The bounds of a request.
const (
	maxBody    = 64 << 10 // octets; a payload that a broker sends along does not belong here
	answerTime = 3 * time.Second
	maxCache   = time.Minute // that a broker remembers an answer, at most
)

// Dialect is the protocol that a broker speaks.
type Dialect string

// The dialects.
const (
	EMQX    Dialect = "emqx"
	GoAuth  Dialect = "goauth"
	RMQTT   Dialect = "rmqtt"
	VerneMQ Dialect = "vernemq"
)

// Mode is how mosquitto-go-auth wants to be answered.
type Mode string

// The modes. "" is ModeStatus.
const (
	ModeStatus Mode = "status"
	ModeJSON   Mode = "json"
	ModeText   Mode = "text"
)

// Options are what is configured for one broker.
type Options struct {
	Name    string // in metrics and the log
	Dialect Dialect
	// Secret is the SHA-256 of the bearer secret; the zero value is none. Secrets are random, of 128 bits at least, so that no slow hash is needed.
	Secret [sha256.Size]byte
	// Thing is the name of the registered thing whose client certificate the broker presents; "" = none.
	Thing string
	// Certified says that the broker takes user names from the common names of certificates that it demands. EMQX needs it not.
	Certified bool
	Mode      Mode
	// List has what a thing may do told at once when it connects (EMQX, RMQTT from 0.8), if that can be told exactly.
	List bool
	// Cache is for how long the broker may remember what is allowed, a minute at most; 0 = not at all.
	Cache time.Duration
	// Recheck ends a connection after this time (EMQX, RMQTT), so that the thing connects and is looked at again; 0 = when its certificate ends.
	Recheck time.Duration
}

// Authority knows things and what they may do. Errors have kinds: NotFound and Denied are a no, everything else is an outage, which is a no too.
// Its methods are safe for concurrent use and are called for each question.
type Authority interface {
	// ByName returns the thing of a name if it may be connected now, and when the last of its certificates ends, Unix seconds.
	ByName(ctx context.Context, thing string) (s policy.Subject, notAfter int64, err error)
	// ByCertificate returns whose certificate this is, in DER, if it is valid, was issued here and is not revoked, and the thing may be connected now.
	ByCertificate(ctx context.Context, certificate []byte) (s policy.Subject, notAfter int64, err error)
	// Rights returns what s may do under the policy that is in force.
	Rights(s policy.Subject) (*policy.Rights, error)
}

// Deps is what the server stands on.
type Deps struct {
	Authority Authority
	// Caller returns the name of the thing whose certificates these are, as the caller's connection has proven them, if it may be connected now.
	Caller  func(ctx context.Context, chain [][]byte) (thing string, err error)
	Brokers []Options
	Now     func() time.Time
}

// Server answers.
type Server struct {
	Deps
	brokers []*caller
	unknown atomic.Uint64
	mux     *http.ServeMux
}

// caller is one broker and what it has asked.
type caller struct {
	Options
	allowed, denied, failed atomic.Uint64
}

// New returns a server. A broker that cannot show itself, or whose dialect is unknown, is refused.
func New(d Deps) (*Server, error) {
	s := &Server{Deps: d, mux: http.NewServeMux()}
	for _, o := range d.Brokers {
		if _, ok := dialects()[o.Dialect]; !ok {
			return nil, errs.New(errs.Invalid, "the broker %q speaks the unknown dialect %q: there are emqx, goauth, rmqtt and vernemq", o.Name, o.Dialect)
		}
		if o.Secret == [sha256.Size]byte{} && o.Thing == "" {
			return nil, errs.New(errs.Invalid, "the broker %q has neither a secret nor a certificate to show itself by: give it one", o.Name)
		}
		if o.Cache < 0 || o.Cache > maxCache {
			return nil, errs.New(errs.Invalid, "the broker %q would remember answers for %v: a minute is the most, since that is how long a revoked device might go on", o.Name, o.Cache)
		}
		s.brokers = append(s.brokers, &caller{Options: o})
	}
	for name, d := range dialects() {
		for operation, answer := range d.operations {
			s.mux.HandleFunc("POST "+Prefix+string(name)+"/"+operation, func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, name, answer) })
		}
	}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		Refuse(w, r, errs.New(errs.NotFound, "there is no question of this name and method"))
	})
	return s, nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// dialect is how one dialect is spoken: its questions, and how it says no.
type dialect struct {
	operations map[string]func(*question) verdict
	refuse     func(w http.ResponseWriter, mode Mode)
	// kicksClient says that such brokers end connections by the client identifier: who came in under another one than the thing's name could not be cut off.
	kicksClient bool
}

func dialects() map[Dialect]dialect {
	return map[Dialect]dialect{EMQX: emqx(), GoAuth: goauth(), RMQTT: rmqtt(), VerneMQ: vernemq()}
}

// question is one request under way.
type question struct {
	*Server
	*caller
	w    http.ResponseWriter
	r    *http.Request
	ctx  context.Context
	body []byte
}

// verdict is what is answered: err nil means allow, and write says it.
type verdict struct {
	err   error
	write func(w http.ResponseWriter)
}

// no is the verdict for err.
func no(err error) verdict { return verdict{err: err} }

// yes is the verdict that write says.
func yes(write func(w http.ResponseWriter)) verdict { return verdict{write: write} }

// serve answers a question of a dialect.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, name Dialect, answer func(*question) verdict) {
	ctx, cancel := context.WithTimeout(r.Context(), answerTime) // before the broker loses patience and asks somebody else
	defer cancel()
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	c, err := s.caller(ctx, r, name)
	if err != nil {
		s.unknown.Add(1)
		web.Note(r, err)
		dialects()[name].refuse(w, s.mode(name))
		return
	}
	v := s.decide(&question{Server: s, caller: c, w: w, r: r, ctx: ctx}, answer)
	c.count(v.err)
	web.Annotate(r, slog.String("broker", c.Name), slog.Bool("allow", v.err == nil))
	if v.err != nil {
		web.Note(r, v.err)
		dialects()[name].refuse(w, c.Mode)
		return
	}
	v.write(w)
}

// decide reads the body and has the question answered. A panic is a no.
func (s *Server) decide(q *question, answer func(*question) verdict) (v verdict) {
	defer func() {
		if p := recover(); p != nil {
			v = no(errs.New(errs.Internal, "a panic: %v", p))
		}
	}()
	var err error
	if q.body, err = web.ReadBody(q.w, q.r, maxBody); err != nil {
		return no(err)
	}
	return answer(q)
}

func (c *caller) count(err error) {
	switch {
	case err == nil:
		c.allowed.Add(1)
	case errs.KindOf(err) == errs.Internal || errs.KindOf(err) == errs.Unavailable:
		c.failed.Add(1)
	default:
		c.denied.Add(1)
	}
}

// caller returns the broker that asks. All secrets are compared, so that the time tells nothing.
func (s *Server) caller(ctx context.Context, r *http.Request, name Dialect) (*caller, error) {
	var found *caller
	if secret := secretOf(r, name); secret != "" {
		sum := sha256.Sum256([]byte(secret))
		for _, c := range s.brokers {
			if same := subtle.ConstantTimeCompare(sum[:], c.Secret[:]) == 1; same && c.Dialect == name {
				found = c
			}
		}
		if found == nil {
			return nil, errs.New(errs.Denied, "the secret is that of no broker of this dialect")
		}
		return found, nil
	}
	peer, ok := gate.PeerFrom(r)
	if !ok || len(peer.Chain()) == 0 {
		return nil, errs.New(errs.Denied, "the caller shows neither a secret nor a certificate")
	}
	thing, err := s.Caller(ctx, peer.Chain())
	if err != nil {
		return nil, err
	}
	for _, c := range s.brokers {
		if c.Thing == thing && thing != "" && c.Dialect == name {
			return c, nil
		}
	}
	return nil, errs.New(errs.Denied, "the caller's certificate is that of no broker of this dialect")
}

// secretOf returns the secret that comes as a bearer token, or as a password where a broker can only have it in its address. mosquitto-go-auth can send
// neither, so that it stands in the query there; the log has no queries.
func secretOf(r *http.Request, name Dialect) string {
	if secret, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return secret
	}
	if _, secret, ok := r.BasicAuth(); ok {
		return secret
	}
	if name == GoAuth {
		return r.URL.Query().Get("key")
	}
	return ""
}

// mode is in which mode an unknown caller of a dialect is refused: that of all brokers of the dialect, if there is one.
func (s *Server) mode(name Dialect) Mode {
	for _, c := range s.brokers {
		if c.Dialect == name {
			return c.Mode
		}
	}
	return ModeStatus
}

// claim is what a broker says of a client.
type claim struct {
	name        string // from the certificate; "" = not told
	certificate []byte // DER; nil = not told
	client      string
}

// known is who that is.
type known struct {
	subject  policy.Subject
	notAfter int64
	rights   *policy.Rights
}

// know looks the client up and returns what it may do.
func (q *question) know(c claim) (k known, err error) {
	switch {
	case c.certificate != nil:
		k.subject, k.notAfter, err = q.Authority.ByCertificate(q.ctx, c.certificate)
	case c.name == "" || c.name == "undefined": // so EMQX writes what it does not know
		err = errs.New(errs.Denied, "the broker tells no name from a certificate")
	default:
		k.subject, k.notAfter, err = q.Authority.ByName(q.ctx, c.name)
	}
	if err != nil {
		return known{}, err
	}
	if c.name != "" && c.name != k.subject.Thing {
		return known{}, errs.New(errs.Denied, "the certificate is another thing's than the broker says")
	}
	if k.notAfter <= q.Now().Unix() {
		return known{}, errs.New(errs.Denied, "the certificate has ended")
	}
	if k.rights, err = q.Authority.Rights(k.subject); err != nil {
		return known{}, err
	}
	id, ok := k.rights.ClientID(c.client)
	if !ok {
		return known{}, errs.New(errs.Denied, "the client identifier is not the thing's")
	}
	if c.client != k.subject.Thing && dialects()[q.Dialect].kicksClient {
		return known{}, errs.New(errs.Denied, "the client identifier is not the thing's name, by which this broker is told to end its connection")
	}
	k.rights = k.rights.ForClient(id)
	return k, nil
}

// publish asks about a message of unknown size.
func (k *known) publish(topic string, qos int, retain bool) error {
	if qos < 0 || qos > 2 {
		return errs.New(errs.Invalid, "there is no QoS %d", qos)
	}
	return k.rights.Publish(topic, byte(qos), retain, 0).Err()
}

// subscribe asks about a filter as a client says it. A filter that ends in /# means the topic above that too; a policy which does not list that one expects
// to be asked about each delivery, which only brokers do that have asksDelivery.
func (k *known) subscribe(filter string, qos int, asksDelivery bool) error {
	if qos < 0 || qos > 2 {
		return errs.New(errs.Invalid, "there is no QoS %d", qos)
	}
	_, inner, shared, err := mqtt.Shared(filter)
	if err != nil {
		return errs.Wrap(errs.Invalid, err, "that is no filter")
	}
	v := k.rights.Subscribe(inner, byte(qos), shared)
	switch {
	case v.OK() && v.Partial && !asksDelivery && inner != "/#": // above that is the empty topic, which nobody can publish to
		return errs.New(errs.Denied, "the filter means the topic above its # too, which the policy does not list; this broker does not ask about deliveries, so allow that topic as well")
	case v.OK() && int(v.QoS) < qos:
		return errs.New(errs.Denied, "the quality of service is too high for this filter") // these brokers take a yes or a no
	}
	return v.Err()
}

// username is the claim of the dialects that tell names as user names.
func (q *question) username(name, client string) claim {
	if !q.Certified {
		return claim{client: client} // anybody may have said it
	}
	return claim{name: name, client: client}
}

// ends returns when a connection ends that begins now, Unix seconds.
func (q *question) ends(k known) int64 {
	if q.Recheck <= 0 {
		return k.notAfter
	}
	return min(k.notAfter, q.Now().Add(q.Recheck).Unix())
}

// Refuse says no in the words of the dialect whose address was asked. It is a web.Refuser, for the listener: a broker that is told that it asks too
// often must not take that for leave to let somebody in.
func Refuse(w http.ResponseWriter, r *http.Request, err error) {
	web.Note(r, err)
	rest, _ := strings.CutPrefix(r.URL.Path, Prefix)
	name, _, _ := strings.Cut(rest, "/")
	if d, ok := dialects()[Dialect(name)]; ok {
		w.Header().Set("Cache-Control", "no-store")
		d.refuse(w, ModeStatus)
		return
	}
	web.Text(w, r, err)
}

// Metric is what one broker has asked since the start.
type Metric struct {
	Broker  string
	Allowed uint64
	Denied  uint64
	Failed  uint64 // denied because something of ours did not work
}

// Metrics returns them, and how many questions came from unknown callers.
func (s *Server) Metrics() (brokers []Metric, unknown uint64) {
	for _, c := range s.brokers {
		brokers = append(brokers, Metric{c.Name, c.allowed.Load(), c.denied.Load(), c.failed.Load()})
	}
	return brokers, s.unknown.Load()
}
