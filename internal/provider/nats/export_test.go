package nats

import (
	"context"
	"log/slog"

	natsgo "github.com/nats-io/nats.go"

	"mooring/internal/core/message"
)

// Break breaks the connection with the server, which comes back by itself.
func (f *Fabric) Break() error { return f.nc.ForceReconnect() }

// StoreAlone stores m as an entry of its own, as it was done before there were rows.
func (f *Fabric) StoreAlone(ctx context.Context, m *message.Message) error {
	subject, err := f.name.subject(m.Stream, m.Key)
	if err != nil {
		return err
	}
	return f.StoreEntry(ctx, &natsgo.Msg{Subject: subject, Header: natsgo.Header{headerTopic: {encodeTopic(m.Topic)}, headerMeta: {encodeMeta(m, false)}}, Data: m.Payload})
}

// StoreEntry stores an entry as it is.
func (f *Fabric) StoreEntry(ctx context.Context, entry *natsgo.Msg) error {
	answer, err := f.call(ctx, entry)
	if err != nil {
		return err
	}
	return parseAck(answer.Data).err
}

// Entries returns what lies in Up, entry by entry.
func (f *Fabric) Entries(ctx context.Context) (list []*natsgo.Msg, err error) {
	err = f.scan(ctx, "UP", f.name.all(message.Up), func(s *stored) bool {
		m := &natsgo.Msg{Subject: s.subject, Header: natsgo.Header{}, Data: s.data}
		for _, name := range []string{headerTopic, headerMeta} {
			if s.header.Get(name) != "" {
				m.Header[name] = s.header[name]
			}
		}
		list = append(list, m)
		return true
	})
	return list, err
}

// Empty has everything leave Up, as its age does.
func (f *Fabric) Empty(ctx context.Context) error {
	return f.api(ctx, "STREAM.PURGE."+f.name.named("UP"), struct{}{}, &struct{}{})
}

// RowsLeave has the rows leave Up, as their age does, and what lies behind them stay.
func (f *Fabric) RowsLeave(ctx context.Context) error {
	return f.api(ctx, "STREAM.PURGE."+f.name.named("UP"), map[string]string{"filter": f.name.rows()}, &struct{}{})
}

// Unnoted has Close not note how far places are counted, as if the process were killed.
func (f *Fabric) Unnoted() {
	f.noted.seq, f.noted.first = f.out.rowsEnd()
}

// ForgetSpans has the next reader look for its place.
func (f *Fabric) ForgetSpans() { f.spans.last = [len(f.spans.last)]span{} }

// Unpack reads an entry of Up.
func Unpack(entry []byte, fn func(*message.Message)) {
	f := &Fabric{name: "mooring", rowsEnd: span{n: 1}, o: Options{Log: slog.New(slog.DiscardHandler)}}
	f.unpack(message.Up, &stored{subject: f.name.rows(), data: entry, seq: 1}, 0, func(m *message.Message) bool { fn(m); return true })
}

// Row is the entry for messages.
func Row(first uint64, list ...*message.Message) []byte {
	var entries []*entry
	for _, m := range list {
		entries = append(entries, &entry{record: appendRecord(nil, m)})
	}
	return appendRow(nil, first, entries)
}
