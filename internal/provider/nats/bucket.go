package nats

import (
	"context"
	"strconv"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"mooring/internal/base/errs"
)

// headerGone marks that something was removed from a bucket. The marker keeps whoever knows an old revision from putting it back, and goes by itself.
const headerGone = "Mq-Gone"

// slot is what is to lie in a bucket.
type slot struct {
	subject string
	header  natsgo.Header
	data    []byte
	expect  *uint64       // the revision that is to be replaced, 0 = none; nil = any
	life    time.Duration // 0 = for ever
}

// put stores s and returns its revision; Conflict when what lies there is not what is expected.
func (f *Fabric) put(ctx context.Context, s slot) (uint64, error) {
	header := s.header
	if header == nil {
		header = natsgo.Header{}
	}
	if s.expect != nil {
		header[jetstream.ExpectedLastSubjSeqHeader] = []string{strconv.FormatUint(*s.expect, 10)}
	}
	if s.life > 0 {
		header[jetstream.MsgTTLHeader] = []string{strconv.FormatInt(int64((s.life+time.Second-1)/time.Second), 10) + "s"}
	}
	answer, err := f.call(ctx, &natsgo.Msg{Subject: s.subject, Header: header, Data: s.data})
	if err != nil {
		return 0, f.failed(err, "storing")
	}
	a := parseAck(answer.Data)
	return a.seq, f.failed(a.err, "storing")
}

// remove marks what lies under subject as gone.
func (f *Fabric) remove(ctx context.Context, subject string, expect *uint64) error {
	_, err := f.put(ctx, slot{subject: subject, header: natsgo.Header{headerGone: {"1"}}, expect: expect, life: goneFor})
	return err
}

func gone(s *stored) bool { return s.header.Get(headerGone) != "" }

// last is what lies under subject. When it was removed, NotFound comes with the marker, whose revision is the one to expect.
func (f *Fabric) last(ctx context.Context, bucket, subject string) (*stored, error) {
	s, err := f.get(ctx, f.name.named(bucket), lookup{Last: subject})
	if err == nil && gone(s) {
		return s, errs.New(errs.NotFound, "there is none")
	}
	return s, err
}
