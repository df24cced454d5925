package message

import (
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strconv"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/message/policy"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// Schema returns the migrations of this slice.
func Schema() db.Schema {
	files, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		panic(err) // "schema" is a valid path; fs.Sub looks at nothing else
	}
	return db.Schema{Name: "message", FS: files}
}

// maxPolicy is how long the text of a policy may be.
const maxPolicy = 1 << 20

// PolicyVersion is a policy that was set.
type PolicyVersion struct {
	Version int64 // 0 = the one that a new installation has
	Text    string
	At      int64 // UTC seconds
	By      string
}

// ruling is the policy that holds now.
type ruling struct {
	set     *policy.Set
	version int64
}

const (
	insertPolicy = `INSERT INTO message_policy (cell, version, text, who, at) VALUES (0, $1, $2, $3, $4)`
	newestPolicy = `SELECT version, text, who, at FROM message_policy WHERE cell = 0 ORDER BY version DESC LIMIT 1`
	lastPolicy   = `SELECT version FROM message_policy WHERE cell = 0 ORDER BY version DESC LIMIT 1`
	allPolicies  = `SELECT cell, version, text, who, at FROM message_policy ORDER BY cell, version`
)

// Load reads the policy. It comes before the first connection.
func (s *Service) Load(ctx context.Context) error {
	p, err := s.newest(ctx)
	if err != nil {
		return err
	}
	set, err := policy.Parse(p.file(), []byte(p.Text))
	if err != nil {
		return fmt.Errorf("reading the policy of messages: %w", err)
	}
	s.policy.Store(&ruling{set, p.Version})
	return nil
}

func (p *PolicyVersion) file() string {
	if p.Version == 0 {
		return "policy"
	}
	return "policy." + strconv.FormatInt(p.Version, 10)
}

func (s *Service) newest(ctx context.Context) (p PolicyVersion, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		p = PolicyVersion{Text: s.Standard}
		_, err := tx.Get(ctx, []any{&p.Version, &p.Text, &p.By, &p.At}, newestPolicy)
		return err
	})
	return p, err
}

// Policy returns the policy that was set last. It needs message.read.
func (s *Service) Policy(ctx context.Context, actor access.Actor) (PolicyVersion, error) {
	if err := s.Access.Require(ctx, actor, access.MessageRead, "policy"); err != nil {
		return PolicyVersion{}, err
	}
	return s.newest(ctx)
}

// SetPolicy puts another policy in the place of the version that the caller has seen, 0 = the one of a new installation. It holds on this node when it
// returns, for live connections too, and on the others within seconds. It needs message.policy. The error is Invalid, with all mistakes of the text, or
// Conflict when another version was set meanwhile.
func (s *Service) SetPolicy(ctx context.Context, actor access.Actor, text string, seen int64) (PolicyVersion, error) {
	return s.SetPolicyFrom(ctx, actor, "", text, seen)
}

// SetPolicyFrom is SetPolicy for a text that whoever gives it knows as a file: mistakes are told under that name.
func (s *Service) SetPolicyFrom(ctx context.Context, actor access.Actor, file, text string, seen int64) (PolicyVersion, error) {
	if err := s.Access.Require(ctx, actor, access.MessagePolicy, "policy"); err != nil {
		return PolicyVersion{}, err
	}
	p := PolicyVersion{Version: seen + 1, Text: text, At: s.unix(), By: actor.String()}
	if len(text) > maxPolicy {
		return PolicyVersion{}, errs.New(errs.Invalid, "a policy has at most %d octets, and this one %d", maxPolicy, len(text))
	}
	if _, err := policy.Parse(cmp.Or(file, p.file()), []byte(text)); err != nil {
		return PolicyVersion{}, err
	}
	set, err := policy.Parse(p.file(), []byte(text)) // as the other nodes have it
	if err != nil {
		return PolicyVersion{}, err
	}
	if len(set.Groups()) == 0 {
		return PolicyVersion{}, errs.New(errs.Invalid, "%s: a policy without groups lets nobody connect: end connections by suspending devices, or write a group", cmp.Or(file, p.file()))
	}
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		var last int64
		if _, err := tx.Get(ctx, []any{&last}, lastPolicy); err != nil {
			return err
		}
		if last != seen {
			return errs.New(errs.Conflict, "the policy is version %d by now, and not %d: look at what changed, then set yours again", last, seen)
		}
		if _, err := tx.Exec(ctx, insertPolicy, p.Version, p.Text, p.By, p.At); err != nil {
			return err
		}
		return s.Audit.Append(ctx, tx, p.entry())
	})
	if db.IsConflict(err) {
		err = errs.Wrap(errs.Conflict, err, "the policy was set by somebody else at the same time: look at it, then set yours again")
	}
	if err != nil {
		return PolicyVersion{}, err
	}
	if s.Fabric == nil { // messages are not carried here
		return p, nil
	}
	before := s.policy.Load().set
	s.rule(ctx, &ruling{set, p.Version})
	if s.Ruled != nil {
		s.Ruled(before, set)
	}
	a := announcement{Node: s.node, Policy: p.Version}
	if err := s.Fabric.Announce(ctx, a.bytes()); err != nil {
		s.metrics.AnnounceFailed.Add(1) // the others look at the database anyway
	}
	return p, nil
}

func (p *PolicyVersion) entry() audit.Entry {
	return audit.Entry{At: p.At, Action: "message.policy", Actor: p.By, Object: "policy", Detail: map[string]string{"version": strconv.FormatInt(p.Version, 10), "row": p.mark()}}
}

// mark is the digest of all that is kept of a version.
func (p *PolicyVersion) mark() string {
	h := sha256.New()
	for _, text := range []string{strconv.FormatInt(p.Version, 10), p.Text, p.By, strconv.FormatInt(p.At, 10)} {
		h.Write([]byte(strconv.Quote(text)))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// followPolicy takes up a policy that another node set.
func (s *Service) followPolicy(ctx context.Context) {
	p, err := s.newest(ctx)
	if err != nil {
		if ctx.Err() == nil {
			s.log.LogAttrs(ctx, slog.LevelWarn, "the policy of messages cannot be read", slog.Any("cause", err))
		}
		return
	}
	if p.Version <= s.policy.Load().version {
		return
	}
	set, err := policy.Parse(p.file(), []byte(p.Text))
	if err != nil { // a newer program set it
		s.log.LogAttrs(ctx, slog.LevelError, "the policy of messages cannot be understood; the one before holds", slog.Int64("version", p.Version), slog.Any("cause", err))
		return
	}
	s.rule(ctx, &ruling{set, p.Version})
}

// rule has r hold, if nothing newer does, and applies it to live connections.
func (s *Service) rule(ctx context.Context, r *ruling) {
	for {
		old := s.policy.Load()
		if old.version >= r.version {
			return
		}
		if s.policy.CompareAndSwap(old, r) {
			break
		}
	}
	each(s.live.all(), func(c *Conn) { s.reapply(ctx, c) })
}

// Watcher is a Link that is told which subscriptions its session loses because the policy or the registry changed. They are over for it, since its peer was told
// so; other Links' peers cannot be told, and get them back when the policy or the registry allows them again.
type Watcher interface {
	Withdrawn(filter string)
}

// reapply has a connection go on with the rights that it has now: subscriptions, those that it had lost, what waits, and the will are looked at again. Topics are looked at with
// every message anyway, whatever alias they were set under.
func (s *Service) reapply(ctx context.Context, c *Conn) {
	c.applying.Lock()
	defer c.applying.Unlock()
	r := s.policy.Load()
	rights, err := r.compile(c.id.Group, c.who.Load().Subject)
	if err != nil {
		c.end(ReasonPolicy, Farewell{})
		return
	}
	if _, ok := rights.ClientID(c.client); !ok {
		c.end(ReasonPolicy, Farewell{})
		return
	}
	rights = rights.ForClient(c.client)
	c.rights.Store(rights)
	c.barrier() // what was allowed before is on its way now
	lost, changed := c.lookAgain(rights, r)
	for _, x := range changed {
		s.replace(ctx, c, x)
	}
	for _, filter := range lost {
		s.metrics.SubscriptionsLost.Add(1)
		c.withdraw(filter)
	}
	regained := c.regain(ctx)
	if err := c.store(ctx); err != nil && !errs.Is(err, errs.Conflict) {
		c.mu.Lock()
		c.touch()
		c.mu.Unlock()
	}
	for _, x := range regained {
		c.replay(ctx, x, true) // what is retained there may have changed meanwhile
	}
}

// withdraw takes a subscription away that is not allowed any more, and keeps it in mind.
func (c *Conn) withdraw(filter string) {
	c.unsubscribe(filter, true)
	if w, ok := c.link.(Watcher); ok {
		w.Withdrawn(filter)
	}
}

// lose notes a subscription that is not allowed now. There are no more of them than there may be subscriptions. c.mu is held.
func (c *Conn) lose(s Subscription) {
	if _, told := c.link.(Watcher); told {
		return
	}
	c.recall(s.Filter)
	c.lost = append(c.lost, s)
	if most := c.rights.Load().Limits.Subscriptions; len(c.lost) > most {
		c.lost = slices.Delete(c.lost, 0, len(c.lost)-most)
	}
}

// recall reports whether a filter was lost, and forgets it. c.mu is held.
func (c *Conn) recall(filter string) bool {
	at := slices.IndexFunc(c.lost, func(s Subscription) bool { return s.Filter == filter })
	if at < 0 {
		return false
	}
	c.lost = slices.Delete(c.lost, at, at+1)
	return true
}

// regain has those subscriptions go on that were lost and are allowed again, and returns them.
func (c *Conn) regain(ctx context.Context) (list []*sub) {
	c.mu.Lock()
	lost := slices.Clone(c.lost)
	c.mu.Unlock()
	for i := range lost {
		if _, err := c.grant(&lost[i]); err != nil {
			continue
		}
		if x, _, g := c.subscribe(ctx, &lost[i], true); g.Err == nil && x != nil {
			c.s.metrics.SubscriptionsRegained.Add(1)
			list = append(list, x)
		}
	}
	return list
}

// replace has a subscription go on as x, which is the same one with other rights. Who publishes what it matches may have changed too.
func (s *Service) replace(ctx context.Context, c *Conn, x *sub) {
	if x.heard {
		if err := s.up.wait(ctx, s); err != nil {
			return // the service stops
		}
	}
	c.mu.Lock()
	old := c.subs[x.Filter]
	if c.ended || old == nil {
		c.mu.Unlock()
		return
	}
	x.since = old.since
	if x.heard && !old.heard {
		x.since[Up] = s.streams[Up].now()
		c.pos[Up] = max(c.pos[Up], x.since[Up])
	}
	c.letGo(old)
	c.hold(x)
	c.mu.Unlock()
	s.joinFor(x, old)
}

// lookAgain drops what the rights do not allow any more. It returns the filters that are lost, and subscriptions that change.
func (c *Conn) lookAgain(rights *policy.Rights, r *ruling) (lost []string, changed []*sub) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for filter, s := range c.subs {
		v := rights.Subscribe(s.inner, s.QoS, s.shared)
		heard := r.heard(rights.Limits.Principal == policy.Service, s.inner)
		switch {
		case !v.OK():
			lost = append(lost, filter)
		case v.QoS != s.granted || v.Partial != s.partial || heard != s.heard:
			x := &sub{Subscription: s.Subscription, inner: s.inner, granted: v.QoS, owner: c, partial: v.Partial, shared: s.shared, heard: heard}
			changed = append(changed, x)
		}
	}
	slices.Sort(lost)
	c.pending = slices.DeleteFunc(c.pending, func(i item) bool {
		if rights.Receive(i.m.Topic).OK() {
			return false
		}
		c.waits -= len(i.m.Payload)
		return true
	})
	if w := c.will; w != nil && !rights.Will(w.Message.Topic, w.Message.QoS, w.Message.Retain, len(w.Message.Payload)).OK() {
		c.s.metrics.WillDenied.Add(1)
		c.will = nil
	}
	return lost, changed
}

// policyChecker compares the policies with the replayed record.
type policyChecker struct{ known map[string]string } // marks by version

// Checker compares what this slice keeps with the replayed record. It serves one verification.
func (s *Service) Checker() audit.Checker {
	c := &policyChecker{known: map[string]string{}}
	return audit.Checker{Name: "message", Entry: c.entry, Finish: c.finish, Save: c.save, Load: c.load}
}

func (c *policyChecker) entry(_ int64, e audit.Entry) error {
	if e.Refused != "" || e.Action != "message.policy" {
		return nil
	}
	version := e.Detail["version"]
	if _, twice := c.known[version]; twice || version == "" {
		return errors.New("the entry does not say which version of the policy was set, or one was set twice")
	}
	c.known[version] = e.Detail["row"]
	return nil
}

func (c *policyChecker) finish(ctx context.Context, tx *db.Tx) error {
	var found []error
	met := map[string]bool{}
	err := tx.Each(ctx, func(r db.Row) error {
		var cell int64
		var p PolicyVersion
		if err := r.Scan(&cell, &p.Version, &p.Text, &p.By, &p.At); err != nil {
			return fmt.Errorf("reading table message_policy: %w", err)
		}
		version := strconv.FormatInt(p.Version, 10)
		met[version] = true
		if cell != 0 || c.known[version] != p.mark() {
			found = append(found, fmt.Errorf("table message_policy: version %s is not what the record says", version))
		}
		return nil
	}, allPolicies)
	if err != nil {
		return err
	}
	for _, version := range slices.Sorted(maps.Keys(c.known)) {
		if !met[version] {
			found = append(found, fmt.Errorf("table message_policy: version %s is missing", version))
		}
	}
	return errors.Join(found...)
}

func (c *policyChecker) save(_ context.Context, _ *db.Tx, w *audit.StateWriter) error {
	w.Uint(uint64(len(c.known)))
	for _, version := range slices.Sorted(maps.Keys(c.known)) {
		w.Text(version)
		w.Text(c.known[version])
	}
	return nil
}

func (c *policyChecker) load(r *audit.StateReader) error {
	for range r.Len() {
		version := r.Text()
		mark := r.Text()
		if r.Err() != nil {
			break
		}
		c.known[version] = mark
	}
	return r.Err()
}
