package nats

import (
	"context"
	"time"

	natsgo "github.com/nats-io/nats.go"
)

// call asks and waits for the answer: for callWait at the most, in which it asks again while the connection is broken, nobody is there to answer, or the
// answer does not come. What is asked must bear that it was done already.
func (f *Fabric) call(ctx context.Context, question *natsgo.Msg) (*natsgo.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	for {
		answer, err := f.callOnce(ctx, question)
		if err == nil || ctx.Err() != nil || !passing(err) {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-f.closed:
			return nil, errClosed()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (f *Fabric) callOnce(ctx context.Context, question *natsgo.Msg) (*natsgo.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, callTry)
	defer cancel()
	return f.nc.RequestMsgWithContext(ctx, question)
}
