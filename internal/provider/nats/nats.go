// Package nats is the fabric of messages on NATS JetStream: streams of what devices publish and of what is said to them, retained messages, sessions, their
// owners and cuts. The server is embedded in the process by default and listens nowhere; where one machine is not enough, Options.URLs names a cluster, and
// the same code uses that.
//
//	stream NAME_UP      NAME.up.<shard>.<key>     what devices publish; full = Limited, never is an old message lost for a new one
//	stream NAME_DOWN    NAME.down.<shard>.<key>   what is addressed to one thing; the oldest of one thing go when there are too many
//	stream NAME_CAST    NAME.cast.<shard>.<key>   what is addressed to many
//	stream NAME_CUT     NAME.cut                  what is announced to all nodes
//	bucket NAME_RET     $KV.NAME_RET.<topic>      retained messages, a level of the topic each level of the subject
//	bucket NAME_SESS    $KV.NAME_SESS.<key>       sessions
//	bucket NAME_OWN     $KV.NAME_OWN.<key>        who owns a session
//
// With the embedded server, what devices publish within a moment is one entry of its stream, NAME.up.row, which no other program reads (row.go, place.go). Else each
// message is one. Its topic and what else is known of it travel in two headers (encode.go), its payload untouched, so that other programs can read the streams. A
// topic is no subject: NATS refuses blanks there and takes * and > for wildcards; where a topic or a key must be one, it is escaped (escape.go).
// The buckets are plain streams with one message a subject, in the form that NATS calls key-value; a revision is the place of a message in its stream, so
// that an epoch grows with each ownership.
//
// What durability means. Process: an acknowledged message survives the end of the process by any means, but the last second before the machine loses power
// may be gone. Disk: each message is on the disk before it is acknowledged. Quorum: a majority of the nodes has it. Which of the first two holds for a
// cluster outside is that cluster's configuration. A message that was on its way when a connection broke may be stored twice, one after the other,
// unless it has a dedupe text.
//
// The package deliberately has no consumer per device: a session's queue is read message by message (Next), and each node follows a stream once. It never
// uses persist_mode async, which acknowledges what is not stored.
package nats

import (
	"context"
	"errors"
	"log/slog"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
)

// Durability is when a message counts as stored.
type Durability string

// The durabilities.
const (
	Process Durability = "process" // survives the end of the process
	Disk    Durability = "disk"    // survives the loss of power
	Quorum  Durability = "quorum"  // a majority of the cluster has it
)

// Options say where the fabric lies. Dir or URLs is needed, everything else has a default.
type Options struct {
	Dir  string   // of the embedded server; nobody else may use it
	URLs []string // of a NATS cluster, instead

	Credentials string // file with a JWT and its key
	CA          string // file with the certificates that the servers' lead to
	Cert, Key   string // files of a client certificate

	Name       string        // begins the names of streams and subjects, so that tenants can share an account; default "mooring"
	Account    string        // of the embedded server; default Name
	Durability Durability    // default Process
	Replicas   int           // of each stream in a cluster; default 3 with Quorum, else 1
	MaxAge     time.Duration // of messages in Up, Down and Cast; default 7 days
	MaxBytes   int64         // of Up; Down may have half of that, Cast, retained messages and sessions a quarter each; default 4 GiB
	PerThing   int64         // messages in Down that are kept for one thing; default 1000

	Now func() time.Time
	Log *slog.Logger // nil = nothing is logged
}

// The bounds of what is on its way to the streams: above them Append waits.
const (
	maxPending      = 8192
	maxPendingBytes = 32 << 20
)

// Times. They are fields of no configuration: what they bound is the same everywhere.
const (
	openWait    = 30 * time.Second // for a server to start, a cluster to be reached
	callWait    = 10 * time.Second // for an answer
	callTry     = 2 * time.Second  // after which it is asked for again
	giveUp      = 10 * time.Second // after which a message that is not acknowledged is refused
	sendAgain   = 3 * time.Second  // after which it is sent again
	sweepEvery  = 250 * time.Millisecond
	standEvery  = 5 * time.Second
	forgetEvery = time.Minute
	goneFor     = time.Minute // how long the marker of something removed lies in a bucket
)

// Fabric is a message.Fabric. Run must run while it is used.
type Fabric struct {
	o       Options
	name    layout
	server  *embedded // nil outside
	owners  *owners   // of an embedded server
	present *present  // nil outside
	nc      *natsgo.Conn
	js      jetstream.JetStream
	out     *publisher
	rows    bool // what devices publish is stored in rows; not changed after Open, like rowsEnd
	rowsEnd span // the last row that was there at Open, behind which entries have one message
	noted   span // how far remember has noted the places; of Run, and of Open and Close
	spans   spans
	read    rowsRead
	stand   atomic.Pointer[message.Standing]
	denied  atomic.Pointer[string] // the newest refusal by the server, for a better error than a timeout

	free     func(dir string) (int64, error)
	diskFull atomic.Bool // only messages are refused then: sessions, owners and cuts need little and keep things going

	nearlyFull, noRoom seldom // lines of the log

	closing   sync.Once
	closed    chan struct{}
	closeDone error
}

var _ message.Fabric = (*Fabric)(nil)

var goodName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func (o *Options) complete() error {
	if o.Name == "" {
		o.Name = "mooring"
	}
	if o.Account == "" {
		o.Account = o.Name
	}
	if !goodName.MatchString(o.Name) || !goodName.MatchString(o.Account) {
		return errs.New(errs.Invalid, "the names %q and %q of streams and account: up to 64 letters, digits, - and _ are allowed", o.Name, o.Account)
	}
	if (o.Dir == "") == (len(o.URLs) == 0) {
		return errs.New(errs.Invalid, "either a directory for the embedded NATS server or the URLs of a cluster must be given")
	}
	if o.Durability == "" {
		o.Durability = Process
	}
	switch {
	case o.Durability != Process && o.Durability != Disk && o.Durability != Quorum:
		return errs.New(errs.Invalid, "durability is %q; it must be process, disk or quorum", o.Durability)
	case o.Durability == Quorum && o.Dir != "":
		return errs.New(errs.Invalid, "durability quorum needs a cluster of NATS servers: give their URLs; the embedded server is alone and has process and disk")
	case o.Replicas > 1 && o.Dir != "":
		return errs.New(errs.Invalid, "%d replicas need a cluster of NATS servers: give their URLs", o.Replicas)
	case o.Durability == Quorum && o.Replicas != 0 && o.Replicas < 3:
		return errs.New(errs.Invalid, "durability quorum needs 3 replicas or 5; %d were asked for", o.Replicas)
	case o.Durability == Quorum && o.Replicas == 0:
		o.Replicas = 3
	}
	o.Replicas = max(o.Replicas, 1)
	if o.MaxAge == 0 {
		o.MaxAge = 7 * 24 * time.Hour
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 4 << 30
	}
	if o.MaxBytes < minBytes {
		return errs.New(errs.Invalid, "%d octets for stored messages are too few: give at least %d", o.MaxBytes, int64(minBytes))
	}
	if o.PerThing == 0 {
		o.PerThing = 1000
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		return errors.New("nats: Options without Now")
	}
	return nil
}

// Open starts the embedded server or reaches the cluster, and makes the streams what o says. Errors say what to do.
func Open(ctx context.Context, o Options) (*Fabric, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openWait)
	defer cancel()
	f := &Fabric{o: o, name: layout(o.Name), closed: make(chan struct{}), free: space, owners: newOwners(o.Now().UnixNano())}
	if err := f.open(ctx); err != nil {
		f.shut()
		return nil, err
	}
	return f, nil
}

func (f *Fabric) open(ctx context.Context) (err error) {
	if f.o.Dir != "" {
		if f.server, err = embed(ctx, f.o); err != nil {
			return err
		}
		f.present = newPresent()
	}
	if err := f.connect(); err != nil {
		return err
	}
	if f.out, err = newPublisher(f); err != nil {
		return err
	}
	if err := f.lay(ctx); err != nil {
		return err
	}
	if err := f.count(ctx); err != nil {
		return err
	}
	f.look()
	return f.measure(ctx)
}

// Run keeps what was appended going and measures how full the streams are, until ctx ends. It does not close the fabric, which is used until the last front
// has ended.
func (f *Fabric) Run(ctx context.Context) error {
	sweep, stand, forget := time.NewTicker(sweepEvery), time.NewTicker(standEvery), time.NewTicker(forgetEvery)
	defer sweep.Stop()
	defer stand.Stop()
	defer forget.Stop()
	var listing sync.WaitGroup
	defer listing.Wait()
	if f.present != nil {
		listing.Go(func() { f.listSessions(ctx) })
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.closed:
			return nil
		case <-sweep.C:
			f.out.sweep()
			f.look()
		case <-stand.C:
			f.watch(ctx)
		case <-forget.C:
			f.remember(ctx)
			if f.present != nil {
				f.present.forget(f.o.Now())
			}
		}
	}
}

// Close waits until what was appended is stored or refused, or ctx ends, and ends the embedded server. It is called after the fronts have ended, and may be
// called again.
func (f *Fabric) Close(ctx context.Context) error {
	f.closing.Do(func() {
		f.closeDone = f.out.drain(ctx)
		f.remember(ctx)
		f.shut()
	})
	return f.closeDone
}

func (f *Fabric) shut() {
	close(f.closed)
	if f.out != nil {
		f.out.end()
	}
	if f.nc != nil {
		f.nc.Close()
	}
	if f.server != nil {
		f.server.stop()
	}
}
