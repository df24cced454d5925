package message

import (
	"context"
	"strconv"
	"strings"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
)

// SinkState is how one sink is: a receiver to whom what devices publish is passed on.
type SinkState struct {
	Name      string
	Measured  bool          // false: the database or the log did not answer, and the rest is not known
	Running   bool          // on this node, which then knows the counts
	Lag       uint64        // messages of the log that are not safe at the receiver
	Behind    time.Duration // age of the oldest message that is on its way
	Dead      int64         // dead letters
	Delivered uint64
	Failures  uint64
	Missed    uint64
	Cause     string // why the last call failed; "" when it did not
}

// DeadLetter is a message that a sink's receiver refused.
type DeadLetter struct {
	ID      string // for ever
	At      int64  // when it was given up, Unix seconds
	Reason  string
	Retry   bool // it is to be handed over once more
	Thing   string
	Topic   string
	Payload []byte
}

// Sinks are the sinks of the configuration, as an operator looks after them. A package of floor 3 implements it. The errors of what names no sink, or no dead
// letter, have kind NotFound.
type Sinks interface {
	Names() []string
	States(ctx context.Context) []SinkState
	// Dead returns dead letters of a sink, the oldest first, those after the one with the id after, if that is not "".
	Dead(ctx context.Context, sink, after string, limit int) ([]DeadLetter, error)
	// Retry has dead letters handed over once more, by whichever node supplies the sink, and Drop forgets them; both return how many. No ids mean all of them.
	Retry(ctx context.Context, tx *db.Tx, sink string, ids []string) (int64, error)
	Drop(ctx context.Context, tx *db.Tx, sink string, ids []string) (int64, error)
}

// SinkStates returns how all sinks are. It needs message.read.
func (s *Service) SinkStates(ctx context.Context, actor access.Actor) ([]SinkState, error) {
	if err := s.Access.Require(ctx, actor, access.MessageRead, "sinks"); err != nil {
		return nil, err
	}
	if s.Sinks == nil {
		return nil, nil
	}
	return s.Sinks.States(ctx), nil
}

// maxDeadListed bounds one list of dead letters.
const maxDeadListed = 1000

// DeadLetters returns dead letters of a sink, as Sinks.Dead does. It needs message.read, and is recorded, since it shows what things have said.
func (s *Service) DeadLetters(ctx context.Context, actor access.Actor, sink, after string, limit int) ([]DeadLetter, error) {
	if err := s.Access.Require(ctx, actor, access.MessageRead, "sinks"); err != nil {
		return nil, err
	}
	if err := s.hasSink(sink); err != nil {
		return nil, err
	}
	if err := s.record(ctx, audit.Entry{Action: "sink.read", Actor: actor.String(), Object: "sink " + sink}); err != nil {
		return nil, err
	}
	return s.Sinks.Dead(ctx, sink, after, min(max(limit, 1), maxDeadListed))
}

// RetryDead has dead letters of a sink handed over once more. It needs message.publish.
func (s *Service) RetryDead(ctx context.Context, actor access.Actor, sink string, ids []string) (int64, error) {
	return s.handleDead(ctx, actor, audit.Entry{Action: "sink.retry"}, sink, ids, Sinks.Retry)
}

// DropDead forgets dead letters of a sink. It needs message.publish.
func (s *Service) DropDead(ctx context.Context, actor access.Actor, sink string, ids []string) (int64, error) {
	return s.handleDead(ctx, actor, audit.Entry{Action: "sink.drop"}, sink, ids, Sinks.Drop)
}

// handleDead does something with dead letters, and records it in the same transaction.
func (s *Service) handleDead(ctx context.Context, actor access.Actor, e audit.Entry, sink string, ids []string, do func(Sinks, context.Context, *db.Tx, string, []string) (int64, error)) (n int64, err error) {
	if err := s.Access.Require(ctx, actor, access.MessagePublish, "sinks"); err != nil {
		return 0, err
	}
	if err := s.hasSink(sink); err != nil {
		return 0, err
	}
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if n, err = do(s.Sinks, ctx, tx, sink, ids); err != nil || n == 0 {
			return err
		}
		one := e
		one.At, one.Actor, one.Object = s.unix(), actor.String(), "sink "+sink
		one.Detail = map[string]string{"letters": strconv.FormatInt(n, 10)}
		return s.Audit.Append(ctx, tx, one)
	})
	return n, err
}

func (s *Service) hasSink(name string) error {
	var names []string
	if s.Sinks != nil {
		names = s.Sinks.Names()
	}
	for _, n := range names {
		if n == name {
			return nil
		}
	}
	if len(names) == 0 {
		return errs.New(errs.NotFound, "this server has no sinks: put a file for each into messaging.sinks")
	}
	return errs.New(errs.NotFound, "there is no sink of that name: it is one of %s", strings.Join(names, ", "))
}
