package sink_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/provider/sink"
)

// postgres returns a sink that writes into an empty schema, and a connection to look at it.
func postgres(t *testing.T) (*sink.Postgres, *pgx.Conn) {
	t.Helper()
	address := dbtest.URL(t)
	if strings.HasPrefix(address, "sqlite:") {
		t.Skip("needs a PostgreSQL: set MOORING_TEST_DB")
	}
	conn, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := conn.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	p := &sink.Postgres{Name: "s", URL: address, Tenant: "acme", Now: time.Now}
	t.Cleanup(p.Close)
	return p, conn
}

// stored are the payloads in the table, in the order of their places.
func stored(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), `SELECT convert_from(payload, 'UTF8') FROM mooring_message ORDER BY stream, seq`)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// some makes a batch of messages, received at a time, one after the other, with places from first.
func some(first uint64, n int, at time.Time) sink.Batch {
	b := sink.Batch{Born: 7}
	for i := range n {
		seq := first + uint64(i)
		b.Messages = append(b.Messages, &message.Message{Topic: "t", Thing: "dev-1", Payload: []byte(fmt.Sprint(seq)), At: at.UnixMilli(), Stream: message.Up, Seq: seq})
	}
	return b
}

func TestPostgresColumns(t *testing.T) {
	p, conn := postgres(t)
	at := time.Date(2026, 11, 26, 23, 59, 59, 999e6, time.UTC)
	m := &message.Message{Topic: "v1/dev-1/ü", Payload: []byte{0, 0xff, '\\'}, QoS: 2, Retain: true, Thing: "gw-1", Child: "dev-1", Cert: [16]byte{1, 2}, At: at.UnixMilli(), Seq: 1<<40 + 1, Stream: message.Up,
		Properties: message.Properties{ContentType: "text/plain", ResponseTopic: "r", Correlation: []byte{9}, User: []message.Pair{{Name: "a", Value: `"1"`}, {Name: "a", Value: "2"}}}}
	done, err := p.Put(t.Context(), sink.Batch{Born: 1795720329000000001, Messages: []*message.Message{m}})
	if err != nil || done != 1 {
		t.Fatalf("Put: %d, %v", done, err)
	}
	var got struct {
		stream, seq                                                         int64
		at                                                                  time.Time
		tenant, thing, child, device, topic, content, response, user, where string
		certificate, correlation, payload                                   []byte
		qos                                                                 int16
		retain                                                              bool
	}
	if err := conn.QueryRow(t.Context(), `SELECT stream, seq, at, tenant, thing, child, device, certificate, topic, qos, retain, content_type, response_topic, correlation, properties::text, payload, tableoid::regclass::text FROM mooring_message`).
		Scan(&got.stream, &got.seq, &got.at, &got.tenant, &got.thing, &got.child, &got.device, &got.certificate, &got.topic, &got.qos, &got.retain, &got.content, &got.response, &got.correlation, &got.user, &got.payload, &got.where); err != nil {
		t.Fatal(err)
	}
	line := fmt.Sprintln(got.stream, got.seq, got.at.UTC().Equal(at), got.tenant, got.thing, got.child, got.device == m.ID.String(), got.certificate[:3], got.topic, got.qos, got.retain, got.content, got.response, got.correlation, got.user, got.payload)
	want := `1795720329000000001 1099511627777 true acme gw-1 dev-1 true [1 2 0] v1/dev-1/ü 2 true text/plain r [9] [["a", "\"1\""], ["a", "2"]] [0 255 92]` + "\n"
	if line != want {
		t.Errorf("got  %s\nwant %s", line, want)
	}
	if _, part, _ := strings.Cut(got.where, "mooring_message_"); part != "20261126" {
		t.Errorf("the row is in %q, want the part of its day", got.where)
	}
}

// TestPostgresLate: a message from before the place, as a dead letter that is tried again is one, is there once and leaves the place where it is.
func TestPostgresLate(t *testing.T) {
	p, conn := postgres(t)
	now := time.Now()
	if _, err := p.Put(t.Context(), some(10, 2, now)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.Late(t.Context(), 7, some(4, 1, now).Messages[0]); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := stored(t, conn), []string{"4", "10", "11"}; !slices.Equal(got, want) {
		t.Errorf("stored are %v, want %v", got, want)
	}
	if place, err := p.Place(t.Context(), 7); place != 11 || err != nil {
		t.Errorf("the place is %d, %v, want 11", place, err)
	}
}

// TestPostgresNothingTwice: what comes again, as a whole, in part, or by another sink's name, is there once.
func TestPostgresNothingTwice(t *testing.T) {
	p, conn := postgres(t)
	now := time.Now()
	for _, row := range []struct {
		name string
		b    sink.Batch
		want []string
	}{
		{"first", some(1, 5, now), numbers(1, 5)},
		{"the same again", some(1, 5, now), numbers(1, 5)},
		{"in part", some(3, 5, now), numbers(1, 7)},
		{"an old one", some(1, 1, now), numbers(1, 7)},
		{"further on", some(20, 2, now), append(numbers(1, 7), "20", "21")},
	} {
		if done, err := p.Put(t.Context(), row.b); err != nil || done != len(row.b.Messages) {
			t.Fatalf("%s: %d, %v", row.name, done, err)
		}
		if got := stored(t, conn); !slices.Equal(got, row.want) {
			t.Errorf("%s: %v, want %v", row.name, got, row.want)
		}
	}
	other := &sink.Postgres{Name: "other", URL: p.URL, Tenant: "acme", Now: time.Now}
	defer other.Close()
	if _, err := other.Put(t.Context(), some(1, 7, now)); err != nil {
		t.Fatal(err)
	}
	if got := stored(t, conn); len(got) != 9 {
		t.Errorf("a second sink into the same table: %v", got)
	}
	place, err := p.Place(t.Context(), 7)
	if err != nil || place != 21 {
		t.Errorf("the place is %d, %v; want 21", place, err)
	}
	if place, err := p.Place(t.Context(), 8); err != nil || place != 0 {
		t.Errorf("the place in another stream is %d, %v; want 0", place, err)
	}
}

// TestPostgresParts: days are made ahead, old ones as they are needed, and one that somebody drops is made again.
func TestPostgresParts(t *testing.T) {
	p, conn := postgres(t)
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	p.Now = func() time.Time { return now }
	parts := func() string {
		t.Helper()
		rows, err := conn.Query(t.Context(), `SELECT substr(c.relname, 17) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class m ON m.oid = i.inhparent JOIN pg_namespace n ON n.oid = m.relnamespace
			WHERE n.nspname = current_schema() AND m.relname = 'mooring_message' ORDER BY 1`)
		if err != nil {
			t.Fatal(err)
		}
		list, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(list, " ")
	}
	for _, row := range []struct {
		name string
		at   time.Time
		want string
	}{
		{"today", now, "20261126 20261127 20261128 20261129"},
		{"an old day", now.AddDate(0, -1, 0), "20261026 20261126 20261127 20261128 20261129"},
		{"tomorrow", now.AddDate(0, 0, 1), "20261026 20261126 20261127 20261128 20261129 20261130"},
	} {
		seq := uint64(row.at.Unix())
		if row.name == "an old day" { // places grow
			seq = uint64(now.Unix()) + 1
		}
		if _, err := p.Put(t.Context(), some(seq, 1, row.at)); err != nil {
			t.Fatalf("%s: %v", row.name, err)
		}
		if got := parts(); got != row.want {
			t.Errorf("%s: the parts are %s, want %s", row.name, got, row.want)
		}
	}
	if _, err := conn.Exec(t.Context(), `DROP TABLE mooring_message_20261126`); err != nil {
		t.Fatal(err)
	}
	b := some(uint64(now.AddDate(1, 0, 0).Unix()), 1, now)
	if _, err := p.Put(t.Context(), b); !errs.Is(err, errs.Unavailable) {
		t.Errorf("the first message of a part that was dropped: %v, want Unavailable, since it is not the message's fault", err)
	}
	if done, err := p.Put(t.Context(), b); err != nil || done != 1 {
		t.Errorf("the second try: %d, %v", done, err)
	}
}

// TestPostgresRefuses: one row that PostgreSQL cannot hold keeps no others from being stored.
func TestPostgresRefuses(t *testing.T) {
	p, conn := postgres(t)
	b := some(1, 9, time.Now())
	b.Messages[4].Topic = "a\x00b"
	done, err := p.Put(t.Context(), b)
	if done != 4 || !errs.Is(err, errs.Invalid) {
		t.Fatalf("Put: %d, %v; want 4 and Invalid", done, err)
	}
	if err := p.Skip(t.Context(), 7, 5); err != nil {
		t.Fatal(err)
	}
	if done, err := p.Put(t.Context(), sink.Batch{Born: 7, Messages: b.Messages[5:]}); done != 4 || err != nil {
		t.Fatalf("the rest: %d, %v", done, err)
	}
	if got, want := stored(t, conn), slices.Delete(numbers(1, 9), 4, 5); !slices.Equal(got, want) {
		t.Errorf("stored %v, want %v", got, want)
	}
}

// cable is a way to a database that can be cut: at once, also in the middle of a transaction.
type cable struct {
	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

// lay returns the address of a listener from which the cable leads to the database of an address.
func lay(t *testing.T, address string) (*cable, string) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	to := u.Host
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	c := &cable{}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go c.join(conn, to)
		}
	}()
	u.Host = l.Addr().String()
	return c, u.String()
}

func (c *cable) join(conn net.Conn, to string) {
	far, err := net.Dial("tcp", to)
	if err != nil {
		_ = conn.Close()
		return
	}
	c.mu.Lock()
	if c.conns = append(c.conns, conn, far); c.cut {
		_ = conn.Close()
		_ = far.Close()
	}
	c.mu.Unlock()
	go func() {
		_, _ = io.Copy(far, conn)
		_ = far.Close()
	}()
	_, _ = io.Copy(conn, far)
	_ = conn.Close()
}

func (c *cable) set(cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut = cut; cut {
		for _, conn := range c.conns {
			_ = conn.Close()
		}
		c.conns = nil
	}
}

// TestPostgresAway runs a sink while its database comes and goes: nothing is lost and nothing is there twice.
func TestPostgresAway(t *testing.T) {
	p, conn := postgres(t)
	c, address := lay(t, p.URL)
	p.URL = address
	w := newWorld(t)
	r := w.runner(p, func(o *sink.Options) { o.Batch = 20 })
	stop := run(t, r)
	const rounds, each = 5, 100
	n := 0
	publish := func(more int) {
		published(t, w.log, n, more)
		n += more
	}
	for i := range rounds {
		publish(each)
		switch i {
		case 1: // in the middle of it, or behind its end: then the last one meets the broken line
			until(t, r, "some there", func(m sink.Metric) bool { return m.Place > each })
			c.set(true)
			publish(1)
			until(t, r, "noticed", func(m sink.Metric) bool { return m.Cause != "" })
		case 2:
			c.set(false)
			until(t, r, "caught up", caughtUp)
		case 3:
			stop()
			r = w.runner(p, nil)
			run(t, r)
		}
	}
	until(t, r, "caught up", func(m sink.Metric) bool { return caughtUp(m) && m.Place == uint64(n) })
	inOrder(t, stored(t, conn), 0, n)
	if m := until(t, r, "counted", func(sink.Metric) bool { return true }); m.Dead != 0 {
		t.Errorf("%d dead letters, want none", m.Dead)
	}
}
