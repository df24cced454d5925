package sink

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
)

// Postgres writes messages into a table of a PostgreSQL database, parted by day, and keeps its place there:
//
//	mooring_message (stream, seq, at, tenant, thing, child, device, certificate, topic, qos, retain, content_type, response_topic, correlation, properties, payload)
//	mooring_message_20261126, …       its parts, made some days ahead
//	mooring_place (sink, stream, seq)
//
// It makes what is missing. Rows are copied into a table of the transaction and taken over from there, so that a row which is there already changes nothing.
// Old days leave by DROP TABLE, which is for who owns the database to do.
type Postgres struct {
	Name   string // of the sink
	URL    string
	Tenant string
	Now    func() time.Time

	mu    sync.Mutex
	pool  *pgxpool.Pool   // guarded by mu; nil before the first use
	ready bool            // the tables are there
	days  map[string]bool // parts that are there
}

const (
	daysAhead = 3
	oneDay    = 24 * time.Hour
	lockKey   = 0x6d6f6f72 // of the advisory lock under which tables are made
)

const postgresTables = `
CREATE TABLE IF NOT EXISTS mooring_message (
	stream         bigint      NOT NULL, -- when it was made, Unix nanoseconds
	seq            bigint      NOT NULL,
	at             timestamptz NOT NULL, -- received
	tenant         text        NOT NULL,
	thing          text        NOT NULL,
	child          text        NOT NULL,
	device         text        NOT NULL,
	certificate    bytea       NOT NULL, -- its serial number
	topic          text        NOT NULL,
	qos            smallint    NOT NULL,
	retain         boolean     NOT NULL,
	content_type   text        NOT NULL,
	response_topic text        NOT NULL,
	correlation    bytea,
	properties     jsonb       NOT NULL, -- user properties: a list of pairs
	payload        bytea       NOT NULL,
	PRIMARY KEY (stream, seq, at)
) PARTITION BY RANGE (at);
CREATE INDEX IF NOT EXISTS mooring_message_thing ON mooring_message (thing, at);
CREATE TABLE IF NOT EXISTS mooring_place (
	sink   text   NOT NULL,
	stream bigint NOT NULL,
	seq    bigint NOT NULL,
	PRIMARY KEY (sink, stream)
)`

var postgresColumns = []string{"stream", "seq", "at", "tenant", "thing", "child", "device", "certificate", "topic", "qos", "retain", "content_type", "response_topic", "correlation", "properties", "payload"}

// Put implements Sink.
func (p *Postgres) Put(ctx context.Context, b Batch) (done int, err error) {
	pool, err := p.open(ctx)
	if err != nil {
		return 0, err
	}
	for _, m := range b.Messages {
		if err := p.part(ctx, pool, time.UnixMilli(m.At)); err != nil {
			return 0, err
		}
	}
	return narrow(b, func(part Batch) error {
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return p.write(ctx, tx, part) })
		var refused *pgconn.PgError
		if errors.As(err, &refused) && refused.Code == noPart {
			p.mu.Lock()
			clear(p.days) // somebody dropped one; it is made again
			p.mu.Unlock()
			return errs.Wrap(errs.Unavailable, err, "a part of the table was dropped")
		}
		return postgresError(err)
	})
}

// noPart is the SQLSTATE of a row for which there is no part, which shares it with broken conditions, of which the table has none.
const noPart = "23514"

// write takes the place, copies what is behind it, and moves it.
func (p *Postgres) write(ctx context.Context, tx pgx.Tx, b Batch) error {
	var place int64
	err := tx.QueryRow(ctx, `INSERT INTO mooring_place (sink, stream, seq) VALUES ($1, $2, 0) ON CONFLICT (sink, stream) DO UPDATE SET seq = mooring_place.seq RETURNING seq`, p.Name, b.Born).Scan(&place)
	if err != nil {
		return err
	}
	var rows [][]any
	last := place
	for _, m := range b.Messages {
		if int64(m.Seq) > place { // a row has the lock: nobody else is writing these
			rows = append(rows, p.row(b.Born, m))
			last = int64(m.Seq)
		}
	}
	if len(rows) == 0 {
		return nil
	}
	if _, err := tx.Exec(ctx, `CREATE TEMP TABLE IF NOT EXISTS mooring_stage (LIKE mooring_message) ON COMMIT DELETE ROWS`); err != nil {
		return err
	}
	if _, err := tx.CopyFrom(ctx, pgx.Identifier{"mooring_stage"}, postgresColumns, pgx.CopyFromRows(rows)); err != nil {
		return err
	}
	columns := strings.Join(postgresColumns, ", ")
	if _, err := tx.Exec(ctx, `INSERT INTO mooring_message (`+columns+`) SELECT `+columns+` FROM mooring_stage ON CONFLICT DO NOTHING`); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `UPDATE mooring_place SET seq = $3 WHERE sink = $1 AND stream = $2`, p.Name, b.Born, last)
	return err
}

// Late implements Latecomer.
func (p *Postgres) Late(ctx context.Context, born int64, m *message.Message) error {
	pool, err := p.open(ctx)
	if err != nil {
		return err
	}
	if err := p.part(ctx, pool, time.UnixMilli(m.At)); err != nil {
		return err
	}
	places := make([]string, len(postgresColumns))
	for i := range places {
		places[i] = "$" + strconv.Itoa(i+1)
	}
	_, err = pool.Exec(ctx, `INSERT INTO mooring_message (`+strings.Join(postgresColumns, ", ")+`) VALUES (`+strings.Join(places, ", ")+`) ON CONFLICT DO NOTHING`, p.row(born, m)...)
	return postgresError(err)
}

func (p *Postgres) row(born int64, m *message.Message) []any {
	pairs := make([][2]string, 0, len(m.User))
	for _, u := range m.User {
		pairs = append(pairs, [2]string{u.Name, u.Value})
	}
	payload := m.Payload
	if payload == nil {
		payload = []byte{}
	}
	return []any{born, int64(m.Seq), time.UnixMilli(m.At), p.Tenant, m.Thing, m.Child, m.ID.String(), m.Cert[:], m.Topic, int16(m.QoS), m.Retain, m.ContentType, m.ResponseTopic, m.Correlation, pairs, payload}
}

// Place implements Keeper.
func (p *Postgres) Place(ctx context.Context, born int64) (uint64, error) {
	pool, err := p.open(ctx)
	if err != nil {
		return 0, err
	}
	var seq int64
	err = pool.QueryRow(ctx, `SELECT coalesce(max(seq), 0) FROM mooring_place WHERE sink = $1 AND stream = $2`, p.Name, born).Scan(&seq)
	return uint64(seq), postgresError(err)
}

// Skip implements Keeper.
func (p *Postgres) Skip(ctx context.Context, born int64, seq uint64) error {
	pool, err := p.open(ctx)
	if err != nil {
		return err
	}
	_, err = pool.Exec(ctx, `INSERT INTO mooring_place (sink, stream, seq) VALUES ($1, $2, $3) ON CONFLICT (sink, stream) DO UPDATE SET seq = excluded.seq WHERE mooring_place.seq < excluded.seq`, p.Name, born, int64(seq))
	return postgresError(err)
}

// Close implements Sink.
func (p *Postgres) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pool != nil {
		p.pool.Close()
		p.pool, p.ready = nil, false
	}
}

// open connects and makes the tables, once.
func (p *Postgres) open(ctx context.Context) (*pgxpool.Pool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pool == nil {
		config, err := pgxpool.ParseConfig(p.URL)
		if err != nil {
			return nil, errs.New(errs.Unavailable, "the address of the sink's database cannot be read") // err may tell the password
		}
		config.MaxConns = 2
		if p.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
			return nil, postgresError(err)
		}
		p.days = map[string]bool{}
	}
	if !p.ready {
		if err := p.alone(ctx, p.pool, postgresTables); err != nil {
			return nil, err
		}
		p.ready = true
	}
	return p.pool, nil
}

// part makes the parts for a day and some days after it.
func (p *Postgres) part(ctx context.Context, pool *pgxpool.Pool, at time.Time) error {
	day := at.UTC().Truncate(oneDay)
	p.mu.Lock()
	known := p.days[day.Format("20060102")]
	p.mu.Unlock()
	if known {
		return nil
	}
	var sql strings.Builder
	last := day
	if today := p.Now().UTC().Truncate(oneDay); !day.Before(today) { // not for each day that is caught up with
		last = day.Add(daysAhead * oneDay)
	}
	for d := day; !d.After(last); d = d.Add(oneDay) {
		fmt.Fprintf(&sql, "CREATE TABLE IF NOT EXISTS mooring_message_%s PARTITION OF mooring_message FOR VALUES FROM ('%s') TO ('%s');\n", d.Format("20060102"), d.Format(time.RFC3339), d.Add(oneDay).Format(time.RFC3339))
	}
	if err := p.alone(ctx, pool, sql.String()); err != nil {
		return err
	}
	p.mu.Lock()
	p.days[day.Format("20060102")] = true // those ahead are made again when they come, with others ahead
	p.mu.Unlock()
	return nil
}

// alone runs statements that make tables, which two must not do at the same time.
func (p *Postgres) alone(ctx context.Context, pool *pgxpool.Pool, sql string) error {
	return postgresError(pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, lockKey); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, sql)
		return err
	}))
}

// postgresError gives err a kind: Invalid for what is wrong with values (SQLSTATE classes 22 and 23), Unavailable for everything else.
func postgresError(err error) error {
	if err == nil {
		return nil
	}
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		if class := refused.Code[:min(2, len(refused.Code))]; class == "22" || class == "23" {
			return errs.Wrap(errs.Invalid, err, "PostgreSQL does not take the message (SQLSTATE %s)", refused.Code)
		}
		return errs.Wrap(errs.Unavailable, err, "PostgreSQL refuses (SQLSTATE %s)", refused.Code)
	}
	return errs.Wrap(errs.Unavailable, err, "PostgreSQL cannot be reached")
}
