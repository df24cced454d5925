package nats

import (
	"context"
	"math/rand/v2"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"mooring/internal/base/errs"
)

// ownTries bounds how often Own begins anew because another node was quicker.
const ownTries = 16

// Own makes node the owner of a session. The epoch is the place of the record in its stream, so it grows with each ownership of any session, and goes on
// growing after a session was disowned.
func (f *Fabric) Own(ctx context.Context, key, node string) (epoch uint64, before string, err error) {
	if f.server != nil {
		epoch, before = f.owners.own(key, node)
		return epoch, before, nil
	}
	subject, err := f.place(bucketOwners, key)
	if err != nil {
		return 0, "", err
	}
	for try := range ownTries {
		// A copy of the stream that is behind the leader's shows for some milliseconds who was the owner before: to ask it at once again would use up
		// the tries.
		if try > 0 {
			select {
			case <-time.After(rand.N(time.Millisecond << min(try, 6))):
			case <-ctx.Done():
				return 0, "", errs.Wrap(errs.Unavailable, ctx.Err(), "the session could not be owned in time")
			}
		}
		var revision uint64
		before = ""
		was, looked := f.last(ctx, bucketOwners, subject)
		switch {
		case looked == nil:
			revision, before = was.seq, string(was.data)
		case !errs.Is(looked, errs.NotFound):
			return 0, "", looked
		case was != nil:
			revision = was.seq
		}
		if epoch, err = f.put(ctx, slot{subject: subject, data: []byte(node), expect: &revision}); !errs.Is(err, errs.Conflict) {
			return epoch, before, err
		}
	}
	return 0, "", errs.New(errs.Unavailable, "the session changes its owner too often to be owned now")
}

// Disown gives up an ownership, if its epoch is still the given one.
func (f *Fabric) Disown(ctx context.Context, key string, epoch uint64) error {
	if f.server != nil {
		f.owners.disown(key, epoch)
		return nil
	}
	subject, err := f.place(bucketOwners, key)
	if err != nil {
		return err
	}
	_, err = f.put(ctx, slot{subject: subject, header: natsgo.Header{headerGone: {"1"}}, expect: &epoch})
	if errs.Is(err, errs.Conflict) {
		return nil // somebody else owns it already
	}
	return err
}

// Owners calls fn for every Own by any node from now on.
func (f *Fabric) Owners(ctx context.Context, ready func(), fn func(name, node string, epoch uint64)) error {
	if f.server != nil {
		return f.owners.follow(ctx, ready, fn)
	}
	stream := f.name.named(bucketOwners)
	state, _, err := f.state(ctx, stream)
	if err != nil {
		return err
	}
	return f.tail(ctx, stream, state.LastSeq, ready, func(s *stored) {
		if name, ok := key(s.subject); ok && !gone(s) {
			fn(name, string(s.data), s.seq)
		}
	})
}
