package audit

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"mooring/internal/core/access"
)

// RecordRefusal records that actor was refused perm on object. It makes Log an access.Refusals.
func (l *Log) RecordRefusal(ctx context.Context, actor access.Actor, perm access.Permission, object, reason string) error {
	return l.Refuse(ctx, actor, Entry{Action: "access.refuse", Object: object, Refused: reason, Detail: map[string]string{"permission": string(perm)}})
}

// Refuse records that something, described by e, was refused to actor; e.Refused says why.
//
// Neither a stranger nor whoever has one device's key, or a registrar's, must be able to fill the record. The first of their refusals is recorded at once;
// further ones with the same action, reason and source (access.Stranger names it by network, not by address) are counted, and each minute
// Run records one entry with their number. Of one source at most ten reasons are told apart in a minute, since a reason can quote what was
// asked for. More than 1,000 different refusals of strangers in a minute share one count for each action, and so do more than 65,536 of
// devices, so that strangers cannot hide what devices do. Everybody else's refusals are recorded one by one. The end of ctx does not
// stop it: who is refused must not keep it out of the record by hanging up.
func (l *Log) Refuse(ctx context.Context, actor access.Actor, e Entry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refuseTime)
	defer cancel()
	e.Actor = actor.String()
	if e.At == 0 {
		e.At = l.now().Unix()
	}
	t, most := &l.refusals, tallyKeys
	switch actor.Kind {
	case access.KindStranger, "":
	case access.KindDevice, access.KindRegistrar:
		t, most = &l.deviceRefusals, tallyDeviceKeys
	default:
		return l.Record(ctx, e)
	}
	key, first := t.count(refusalKey{e.Action, e.Refused, e.Actor, e.Device}, e.At, most)
	if !first {
		return nil
	}
	if key.reason != e.Refused { // it stands for many, so it describes none of them
		e = key.entry(e.At)
	}
	if err := l.Record(ctx, e); err != nil {
		t.add(key, 1, e.At) // counted instead, so that it is not lost
		return err
	}
	return nil
}

// refusalKey is what makes refusals count as the same.
type refusalKey struct{ action, reason, source, device string }

func (k refusalKey) entry(at int64) Entry {
	return Entry{At: at, Action: k.action, Actor: k.source, Device: k.device, Refused: k.reason}
}

const (
	tallyKeys       = 1000
	tallyDeviceKeys = 1 << 16
	tallyReasons    = 10
	tallySpan       = 60 // seconds
	refuseTime      = 5 * time.Second
	otherReason     = "refused like many others at this time"
)

// tally counts refusals. The zero value is ready. It holds at most as many keys as count is told and one more for each action, of which the
// code has few.
type tally struct {
	mu      sync.Mutex
	seen    map[refusalKey]*tallied // guarded by mu
	sources map[string]int          // guarded by mu: keys in seen of each source
}

type tallied struct {
	since int64 // of the first since the last flush
	more  int64 // refusals since then that no entry tells of
}

// count counts one refusal. It returns the key it was counted under and whether it is the first, which is to be recorded and not counted.
func (t *tally) count(k refusalKey, at int64, most int) (refusalKey, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counted(k) {
		return k, false
	}
	if t.sources[k.source] >= tallyReasons {
		k.reason = otherReason
		if t.counted(k) {
			return k, false
		}
	}
	if len(t.seen) >= most {
		kind, _, _ := strings.Cut(k.source, ":")
		k = refusalKey{k.action, otherReason, kind, ""}
		if t.counted(k) {
			return k, false
		}
	}
	t.put(k, &tallied{since: at})
	return k, true
}

// counted adds one to what is counted under k and reports whether k is there. It needs mu.
func (t *tally) counted(k refusalKey) bool {
	c := t.seen[k]
	if c != nil {
		c.more++
	}
	return c != nil
}

// put needs mu. k must not be there.
func (t *tally) put(k refusalKey, c *tallied) {
	if t.seen == nil {
		t.seen, t.sources = map[refusalKey]*tallied{}, map[string]int{}
	}
	t.seen[k] = c
	t.sources[k.source]++
}

// add counts n refusals under k.
func (t *tally) add(k refusalKey, n, at int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seen[k] == nil {
		t.put(k, &tallied{since: at})
	}
	t.seen[k].more += n
}

// take empties the tally of what is older than before and returns the entries that tell of it, with their keys and counts.
func (t *tally) take(now, before int64) (entries []Entry, keys map[refusalKey]int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys = map[refusalKey]int64{}
	for k, c := range t.seen {
		if c.since > before {
			continue
		}
		delete(t.seen, k)
		if t.sources[k.source]--; t.sources[k.source] == 0 {
			delete(t.sources, k.source)
		}
		if c.more == 0 {
			continue
		}
		keys[k] = c.more
		e := k.entry(now)
		e.Detail = map[string]string{"count": strconv.FormatInt(c.more, 10), "since": strconv.FormatInt(c.since, 10)}
		entries = append(entries, e)
	}
	return entries, keys
}

// flushRefusals records the counts of every past minute until ctx ends, and then the rest.
func (l *Log) flushRefusals(ctx context.Context) error {
	tick := time.NewTicker(tallySpan * time.Second / 12)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			now := l.now().Unix()
			if err := l.flush(ctx, now, now-tallySpan); err != nil && ctx.Err() == nil {
				l.log.LogAttrs(ctx, slog.LevelWarn, "counted refusals cannot be recorded at present", slog.Any("cause", err))
			}
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			now := l.now().Unix()
			if err := l.flush(last, now, now); err != nil {
				l.log.LogAttrs(last, slog.LevelWarn, "counted refusals were lost at the end", slog.Any("cause", err))
			}
			return nil
		}
	}
}

// flush records what was counted and began not after before. What cannot be recorded stays counted.
func (l *Log) flush(ctx context.Context, now, before int64) error {
	return errors.Join(l.flushTally(ctx, &l.refusals, now, before), l.flushTally(ctx, &l.deviceRefusals, now, before))
}

func (l *Log) flushTally(ctx context.Context, t *tally, now, before int64) error {
	entries, keys := t.take(now, before)
	var failed error
	for len(entries) > 0 {
		n := min(len(entries), blockEntries)
		if err := l.Record(ctx, entries[:n]...); err != nil {
			failed = errors.Join(failed, err)
			for _, e := range entries[:n] {
				k := refusalKey{e.Action, e.Refused, e.Actor, e.Device}
				t.add(k, keys[k], now)
			}
		}
		entries = entries[n:]
	}
	return failed
}
