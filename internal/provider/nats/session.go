package nats

import (
	"bytes"
	"context"
	"time"

	"mooring/internal/base/errs"
)

// place is the subject of something in a bucket under key.
func (f *Fabric) place(bucket, key string) (string, error) {
	tok := token(key)
	if len(tok) > maxToken {
		return "", errs.New(errs.Invalid, "the key of the session is too long: %d octets with what is escaped, and %d fit", len(tok), maxToken)
	}
	return f.name.slot(bucket, tok), nil
}

// Session returns what was last put for key and its revision.
func (f *Fabric) Session(ctx context.Context, key string) ([]byte, uint64, error) {
	if f.present != nil && f.present.lacks(key) {
		return nil, 0, errs.New(errs.NotFound, "there is none")
	}
	subject, err := f.place(bucketSessions, key)
	if err != nil {
		return nil, 0, err
	}
	s, err := f.last(ctx, bucketSessions, subject)
	if err != nil {
		return nil, 0, err
	}
	return s.data, s.seq, nil
}

// PutSession replaces what was put for key, if its revision is still the given one. With life 0 it is kept for ever.
func (f *Fabric) PutSession(ctx context.Context, key string, data []byte, revision uint64, life time.Duration) (uint64, error) {
	if f.present == nil {
		return f.putSession(ctx, key, data, revision, life)
	}
	ended := f.present.put(key, life, f.o.Now())
	seq, err := f.putSession(ctx, key, data, revision, life)
	ended(err == nil, f.o.Now())
	return seq, err
}

func (f *Fabric) putSession(ctx context.Context, key string, data []byte, revision uint64, life time.Duration) (uint64, error) {
	subject, err := f.place(bucketSessions, key)
	if err != nil {
		return 0, err
	}
	s := slot{subject: subject, data: data, expect: &revision}
	if life > 0 {
		s.life = life + goneFor
	}
	seq, err := f.put(ctx, s)
	if !errs.Is(err, errs.Conflict) {
		return seq, err
	}
	// Two conflicts are none: what lies there is the marker of something removed, or it is this very record, stored by a try whose answer got lost.
	now, looked := f.last(ctx, bucketSessions, subject)
	switch {
	case errs.Is(looked, errs.NotFound) && now != nil && revision == 0:
		s.expect = &now.seq
		return f.put(ctx, s)
	case looked == nil && now.seq > revision && bytes.Equal(now.data, data):
		return now.seq, nil
	}
	return 0, err
}

// DropSession removes what was put for key, if its revision is still the given one, 0 = whatever that is.
func (f *Fabric) DropSession(ctx context.Context, key string, revision uint64) error {
	subject, err := f.place(bucketSessions, key)
	if err != nil {
		return err
	}
	if f.present == nil {
		return f.dropSession(ctx, subject, revision)
	}
	dropped := f.present.drop(key)
	if err := f.dropSession(ctx, subject, revision); err != nil {
		return err
	}
	dropped()
	return nil
}

func (f *Fabric) dropSession(ctx context.Context, subject string, revision uint64) error {
	var expect *uint64
	if revision != 0 {
		expect = &revision
	}
	err := f.remove(ctx, subject, expect)
	if !errs.Is(err, errs.Conflict) {
		return err
	}
	// Where nothing lies by now, it was removed already, maybe by a try whose answer got lost.
	if _, looked := f.last(ctx, bucketSessions, subject); errs.Is(looked, errs.NotFound) {
		return nil
	}
	return err
}

// Sessions calls fn for every session.
func (f *Fabric) Sessions(ctx context.Context, fn func(name string, data []byte, revision uint64) bool) error {
	return f.scan(ctx, bucketSessions, f.name.slot(bucketSessions, ">"), func(s *stored) bool {
		name, ok := key(s.subject)
		if gone(s) || !ok || s.subject == f.name.slot(bucketSessions, slotRows) {
			return true
		}
		return fn(name, s.data, s.seq)
	})
}
