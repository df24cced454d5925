package nats_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/provider/nats"
	"mooring/internal/provider/nats/natstest"
)

// stuff appends to Up until it is refused, and returns how many were stored.
func stuff(t *testing.T, f *nats.Fabric, most int) (n int, refusal error) {
	t.Helper()
	payload := bytes.Repeat([]byte("x"), 50_000)
	for ; n < most && refusal == nil; n++ {
		_, refusal = put(t, f, &message.Message{Topic: "t", Payload: payload, Stream: message.Up, Key: "k"}, "")
	}
	if refusal != nil {
		n--
	}
	return n, refusal
}

func count(t *testing.T, f *nats.Fabric) (n int) {
	t.Helper()
	if err := f.Read(t.Context(), message.Up, 0, 1<<30, func(*message.Message) bool { n++; return true }); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestSizesChange: an installation may be given more room, and less, also less than what lies there: then nothing is lost, and nothing new has room.
func TestSizesChange(t *testing.T) {
	outside := natstest.Start(t, 1, func(o *server.Options) { o.JetStreamMaxStore = 240 << 20 })
	for name, o := range map[string]nats.Options{"embedded": options(filepath.Join(t.TempDir(), "m")), "outside": options("", outside.URLs()...)} {
		t.Run(name, func(t *testing.T) {
			have := 0
			for _, row := range []struct {
				name  string
				bytes int64
				put   int
				full  bool
			}{
				{"at first", 64 << 20, 100, false},
				{"less", 32 << 20, 10, false},
				{"less than lies there", 4 << 20, 10, true},
				{"more than at first", 80 << 20, 10, false},
				{"less again", 16 << 20, 10, false},
			} {
				o.MaxBytes = row.bytes
				f, end := open(t, o)
				if got := count(t, f); got != have {
					t.Errorf("%s: %d messages are there, want %d", row.name, got, have)
				}
				n, err := stuff(t, f, row.put)
				if (err != nil) != row.full || err != nil && !errs.Is(err, errs.Limited) {
					t.Errorf("%s: Append: %v, want refused as Limited: %v", row.name, err, row.full)
				}
				have += n
				if s := f.Standing(); s.Limit != row.bytes {
					t.Errorf("%s: the limit is told as %d, want %d", row.name, s.Limit, row.bytes)
				}
				end()
			}
		})
	}
}

// TestAnnouncementsAlwaysHaveRoom: chatter must not keep a cut from being told.
func TestAnnouncementsAlwaysHaveRoom(t *testing.T) {
	o := options(t.TempDir())
	o.MaxBytes = 1 << 20
	f := opened(t, o)
	chatter := bytes.Repeat([]byte("x"), 50_000)
	for range 20 {
		if err := f.Announce(t.Context(), chatter); err != nil {
			t.Fatalf("Announce: %v", err)
		}
	}
	if err := f.Announce(t.Context(), []byte("cut")); err != nil {
		t.Fatalf("Announce: %v", err)
	}
	heard := make(chan string, 100)
	go func() {
		if err := f.Announced(t.Context(), 1, nil, func(_ uint64, data []byte) { heard <- string(data) }); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	}()
	n := 0
	for text := range heard {
		if n++; text == "cut" {
			break
		}
	}
	if n >= 20 {
		t.Errorf("%d announcements of %d octets are kept in %d", n, len(chatter), o.MaxBytes/4)
	}
}

type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

// TestFullIsTold: what is told of the room is that of what devices publish, since it is what they run out of; and the log says so before and when it happens.
func TestFullIsTold(t *testing.T) {
	var log lines
	o := options(filepath.Join(t.TempDir(), "m"))
	o.MaxBytes, o.Log = 4<<20, slog.New(slog.NewTextHandler(&log, nil))
	f, end := open(t, o)
	for i := range 5 { // Down has no part in it
		stored(t, f, &message.Message{Topic: "t", Payload: make([]byte, 50_000), Stream: message.Down, Key: fmt.Sprint(i)})
	}
	n, err := stuff(t, f, 1000)
	if !errs.Is(err, errs.Limited) {
		t.Fatalf("Append: %v, want Limited", err)
	}
	for range 5 {
		if _, err := stuff(t, f, 1); !errs.Is(err, errs.Limited) {
			t.Fatalf("Append: %v, want Limited", err)
		}
	}
	if got := log.count("messages are refused"); got != 1 {
		t.Errorf("the log says %d times that messages are refused, want once a minute", got)
	}
	end()
	f = opened(t, o)
	if s := f.Standing(); s.Limit != o.MaxBytes || s.Stored < int64(n)*50_000 || s.Stored > s.Limit {
		t.Errorf("Standing after %d messages is %+v, want a limit of %d", n, s, o.MaxBytes)
	}
	if got := log.count("nearly full"); got != 1 {
		t.Errorf("the log says %d times that the stream is nearly full", got)
	}
}
