package message

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/message/policy"
)

// Recorder is what the slice needs of the audit record.
type Recorder interface {
	Append(ctx context.Context, tx *db.Tx, entries ...audit.Entry) error
	Refuse(ctx context.Context, actor access.Actor, e audit.Entry) error
}

// Deps are what a Service stands on.
type Deps struct {
	DB     *db.DB
	Audit  Recorder
	Access *access.Decider
	Fabric Fabric // nil where no messages are carried: then the policy can be read and set, and the record checked
	Now    func() time.Time
	Log    *slog.Logger // nil = silent
	// Node names this process among those of the installation. A process that is started anew may have the name of the one before.
	Node string
	// Standard is the text of the policy that holds until one is set.
	Standard string

	// Identify returns who proved to be at the other end with a chain, leaf first: a thing that the registry knows, that may speak, and whose
	// certificate is good. It is asked again for nobody's connection, so whatever changes later comes by Cut and Changed. With an error, Identity.ID says
	// which thing it is that may not speak, where that is proven.
	Identify func(ctx context.Context, chain [][]byte) (Identity, error)
	// Author returns what the registry says now of a thing that published something, or left a will, under a certificate. The error has kind Denied when it
	// may not speak any more, or not under that certificate; a zero cert means none in particular.
	Author func(ctx context.Context, id device.ID, cert [16]byte) (policy.Subject, error)
	// Children returns the things for which a gateway speaks: the active ones that have the tag gateway=NAME with its name. Optional.
	Children func(ctx context.Context, gateway string) (map[string]device.ID, error)
	// Named returns what the registry says of the thing called name, for Test. Optional.
	Named func(ctx context.Context, name string) (policy.Subject, error)
	// Ruled is called on the node that set another policy, once it holds. It must not wait. Optional.
	Ruled func(before, after *policy.Set)
	// Sinks are the receivers to whom what devices publish is passed on; nil = there are none.
	Sinks Sinks
}

// The bounds of one node.
const (
	maxLoose    = 4096             // messages of QoS 0 on their way to the fabric; what comes beyond is dropped
	maxTaps     = 64               // operators who look on
	maxTapsEach = 8                // … of which one may be so many
	maxFlaps    = 5                // take-overs of one session in flapWindow
	maxFlapping = 1 << 16          // sessions whose take-overs are counted
	flapWindow  = time.Minute      //
	handTime    = 10 * time.Second // for what is left to do when the service stops
	groupTime   = 5 * time.Second  // … of which other nodes may take so long to hear that this one has no members of groups any more
	workers     = 32
)

// Service is the messaging of one node. It is safe for concurrent use.
type Service struct {
	Deps
	log  *slog.Logger
	node string // Deps.Node, and a mark of this run

	policy  atomic.Pointer[ruling]
	live    live
	index   index
	groups  groups
	telling telling
	streams [streams]stream
	up      upward
	cuts    cuts
	keys    keyLocks
	flaps   flaps
	hands   hands
	lazy    lazy
	ends    deadlines
	wills   deadlines
	retains retains
	recent  recent
	authors authors
	purses  purses
	looking looking
	notes   chan audit.Entry
	denials chan denial
	loose   atomic.Int64
	serial  atomic.Uint64
	changes atomic.Uint64 // how often something else was to be learnt of the registry
	started chan struct{} // closed when the streams are followed
	stopped atomic.Bool
	metrics counters
}

// New returns the service over d. It starts nothing; Load comes before the first connection, and Run carries the messages.
func New(d Deps) *Service {
	s := &Service{Deps: d, log: d.Log, node: d.Node + "/" + strconv.FormatInt(d.Now().UnixNano(), 36), notes: make(chan audit.Entry, 1024), denials: make(chan denial, denialsKept), started: make(chan struct{})}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.live.init()
	s.retains.init()
	s.hands.init()
	return s
}

func (s *Service) unix() int64  { return s.Now().Unix() }
func (s *Service) milli() int64 { return s.Now().UnixMilli() }

// Identify returns who proved to be at the other end with this chain, leaf first. What it returns is given to Connect as it is: it says as of which cut it
// is good. That somebody is refused is recorded.
func (s *Service) Identify(ctx context.Context, v Visit, chain [][]byte) (Identity, error) {
	asOf, changes := s.cuts.last(), s.changes.Load()
	id, err := s.Deps.Identify(ctx, chain)
	if err != nil {
		s.refuseVisit(ctx, v, id.ID, err)
		return Identity{}, err
	}
	id.asOf, id.changes = asOf, changes
	return id, nil
}

// Conn is one live connection with its session, for the front that made it.
type Conn struct {
	s       *Service
	key     string
	client  string
	ruling  *ruling  // by which it was admitted
	id      Identity // as it was when it connected; who says what the registry says now
	front   string
	address string
	since   int64 // Unix seconds
	link    Link
	window  int
	purse   *purse // once it is registered

	who      atomic.Pointer[Identity]
	rights   atomic.Pointer[policy.Rights]
	children atomic.Pointer[map[string]device.ID] // of a gateway
	gone     atomic.Bool                          // nothing more is taken from it
	settled  chan struct{}                        // closed when all is done that its end makes necessary

	// in is held from the look at gone and the policy until a message is on its way to the fabric. Whoever sets gone, or takes a right away, locks it
	// once afterwards: what was not stored before is not stored then.
	in       sync.Mutex
	deniedAt int64    // guarded by in: when a refusal was recorded last, Unix seconds
	decided  decision // guarded by in

	flow  sync.Mutex
	onWay int           // guarded by flow: messages on their way to the fabric
	idle  chan struct{} // guarded by flow: closed when there are none

	applying sync.Mutex // held while the connection gets other rights, so that older ones never come last; comes before all others
	writing  sync.Mutex // held while the record is written; comes before mu

	mu        sync.Mutex // guards what follows
	ended     bool
	reason    Reason
	endedAt   int64
	begun     bool // what is stored of the session is this connection's
	taken     bool // it is known what is stored of the session: it can be written
	epoch     uint64
	foreign   uint64 // the newest ownership by another node that was seen
	expiry    uint32
	will      *Will
	willAt    int64
	subs      map[string]*sub     // by filter as it was asked for
	lost      []Subscription      // what the policy or the registry does not allow by now, the oldest first: granted again once they do
	shared    []*sub              // of these, those that are shared
	heard     int                 // of these, how many match what devices publish
	pos       [streams]uint64     // up to where the queue was taken from each stream
	missed    [streams]uint64     // the newest that came while it was behind
	looseFrom [streams]uint64     // what was published with QoS 0 up to there was published while it was away
	behind    bool                // the queue is to be read from the fabric
	trim      bool                // and bounded before
	reading   bool                // somebody does
	late      int                 // times in a row that it was not shown what this node heard; of who reads
	resuming  bool                // its subscriptions do not hear what comes yet: what is read before that, and comes after, would be missed
	again     []flightRecord      // on their way on an earlier connection, to be repeated
	replays   []replay            // retained messages to come
	pending   []item              // these wait for room in the window
	waits     int                 // octets of their payloads
	flights   []flight            // in the order in which they were sent
	lastID    [streams]uint16     // see idRange
	arrivals  map[uint16]*arrival // QoS 2, by the identifier that the peer gave
	born      uint64              // the epoch in which the session began, so that what it publishes is not taken for a repetition of what one before it did
	turns     turns
	keeping

	ending int // its place in Service.ends, guarded there
}

// isService reports whether the policy takes c for a service: by its group, since listeners with a fixed one know nothing of who connects.
func (c *Conn) isService() bool { return c.rights.Load().Limits.Principal == policy.Service }

// barrier returns when every message that was decided upon before is on its way to the fabric, or refused.
func (c *Conn) barrier() {
	c.in.Lock()
	defer c.in.Unlock()
	c.decided = decision{} // else it would keep a policy that is no more
}

func (c *Conn) mayReceive(topic string) bool { return c.rights.Load().Receive(topic).OK() }

func (c *Conn) hearsUp() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heard > 0
}

// hands are goroutines that do what would block those who ask for it. What waits is bounded by the connections: each has few things to do at a time.
type hands struct {
	mu     sync.Mutex
	more   *sync.Cond
	queue  []func(context.Context) // guarded by mu
	closed bool                    // guarded by mu: nothing is waited for any more
	busy   int                     // guarded by mu
}

func (h *hands) init() { h.more = sync.NewCond(&h.mu) }

func (h *hands) do(fn func(context.Context)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.queue = append(h.queue, fn)
	h.more.Signal()
}

// after does fn when d is over. It is for what failed and is tried again.
func (h *hands) after(d time.Duration, fn func(context.Context)) {
	time.AfterFunc(d, func() { h.do(fn) })
}

// work does what comes until close, and then what is left.
func (h *hands) work(ctx context.Context) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		for len(h.queue) == 0 {
			if h.closed && h.busy == 0 {
				h.more.Broadcast()
				return
			}
			h.more.Wait()
		}
		fn := h.queue[0]
		h.queue[0] = nil
		h.queue = h.queue[1:]
		h.busy++
		h.mu.Unlock()
		fn(ctx)
		h.mu.Lock()
		h.busy--
	}
}

func (h *hands) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.more.Broadcast()
}

// lazy are the connections whose record is to be written within a second.
type lazy struct {
	mu   sync.Mutex
	list []*Conn // guarded by mu
}

func (l *lazy) add(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, c)
}

func (l *lazy) take() []*Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.list
	l.list = nil
	return list
}

var (
	errStarting  = errs.New(errs.Unavailable, "messages are not carried yet: try again in a moment")
	errUnreached = errs.New(errs.Unavailable, "messages cannot be stored at present: try again later")
	errStopping  = errs.New(errs.Unavailable, "this node stops: connect to another one")
	errGone      = errs.New(errs.Unavailable, "the connection has ended")
)
