package audit

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
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
// A stranger must not be able to fill the record. The first of a stranger's refusals is recorded at once; further ones with the same
// action, reason and source (access.Stranger names it by network, not by address) are counted, and each minute Run records one entry with
// their number. More than 1,000 different ones in a minute share one count for each action.
func (l *Log) Refuse(ctx context.Context, actor access.Actor, e Entry) error {
	e.Actor = actor.String()
	if e.At == 0 {
		e.At = l.now().Unix()
	}
	if actor.Kind != access.KindStranger && actor.Kind != "" {
		return l.Record(ctx, e)
	}
	key, first := l.refusals.count(refusalKey{e.Action, e.Refused, e.Actor}, e.At)
	if !first {
		return nil
	}
	if key.reason != e.Refused { // it stands for many, so it describes none of them
		e = key.entry(e.At)
	}
	if err := l.Record(ctx, e); err != nil {
		l.refusals.add(key, 1, e.At) // counted instead, so that it is not lost
		return err
	}
	return nil
}

// refusalKey is what makes refusals of strangers count as the same.
type refusalKey struct{ action, reason, source string }

func (k refusalKey) entry(at int64) Entry {
	return Entry{At: at, Action: k.action, Actor: k.source, Refused: k.reason}
}

const (
	tallyKeys   = 1000
	tallySpan   = 60 // seconds
	otherReason = "refused like many others at this time"
)

// tally counts refusals. The zero value is ready. It holds at most tallyKeys keys and one more for each action, of which the code has few.
type tally struct {
	mu   sync.Mutex
	seen map[refusalKey]*tallied // guarded by mu
}

type tallied struct {
	since int64 // of the first since the last flush
	more  int64 // refusals since then that no entry tells of
}

// count counts one refusal. It returns the key it was counted under and whether it is the first, which is to be recorded and not counted.
func (t *tally) count(k refusalKey, at int64) (refusalKey, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.seen[k]; c != nil {
		c.more++
		return k, false
	}
	if len(t.seen) >= tallyKeys {
		k = refusalKey{k.action, otherReason, access.Actor{}.String()}
		if c := t.seen[k]; c != nil {
			c.more++
			return k, false
		}
	}
	t.put(k, &tallied{since: at})
	return k, true
}

// put needs mu.
func (t *tally) put(k refusalKey, c *tallied) {
	if t.seen == nil {
		t.seen = map[refusalKey]*tallied{}
	}
	t.seen[k] = c
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

// take empties the tally of what is older than before and returns the entries that tell of it.
func (t *tally) take(now, before int64) (entries []Entry, keys map[refusalKey]int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys = map[refusalKey]int64{}
	for k, c := range t.seen {
		if c.since > before {
			continue
		}
		delete(t.seen, k)
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
	entries, keys := l.refusals.take(now, before)
	var failed error
	for len(entries) > 0 {
		n := min(len(entries), blockEntries)
		if err := l.Record(ctx, entries[:n]...); err != nil {
			failed = errors.Join(failed, err)
			for _, e := range entries[:n] {
				k := refusalKey{e.Action, e.Refused, e.Actor}
				l.refusals.add(k, keys[k], now)
			}
		}
		entries = entries[n:]
	}
	return failed
}
