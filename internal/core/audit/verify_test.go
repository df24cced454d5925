package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/db/dbtest"
)

// master makes a database with 1,600 entries, two kept checkpoints and an unfinished tile of each level, and returns the octets of its
// file and of the log beside it, by the ends of their names.
func master(t *testing.T) map[string][]byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "master.db")
	d, err := db.Open(t.Context(), db.Options{URL: "sqlite:" + path, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Migrate(t.Context(), Schema()); err != nil {
		t.Fatal(err)
	}
	l, _ := newLog(t, d)
	next := fill(t, l, 0, 1000)
	sequence(t, l)
	fill(t, l, next, 600)
	sequence(t, l)
	wantClean(t, l, 1600)
	if err := d.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, end := range []string{"", "-wal"} {
		data, err := os.ReadFile(path + end)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		files[end] = data
	}
	return files
}

// copied opens a copy of the database in files.
func copied(t *testing.T, files map[string][]byte) *Log {
	t.Helper()
	path := filepath.Join(t.TempDir(), "copy.db")
	for end, data := range files {
		if err := os.WriteFile(path+end, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, _ := newLog(t, dbtest.OpenURL(t, "sqlite:"+path, Schema()))
	return l
}

// exec changes exactly one row.
func exec(t *testing.T, l *Log, sql string, args ...any) {
	t.Helper()
	err := l.db.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		n, err := tx.Exec(ctx, sql, args...)
		if err == nil && n != 1 {
			return fmt.Errorf("changed %d rows, want 1", n)
		}
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// auditTables names the tables with their key columns and the others.
var auditTables = []struct {
	name       string
	key, other []string
}{
	{"stream", []string{"cell", "stream"}, []string{"next"}},
	{"audit_batch", []string{"cell", "stream", "seq", "part"}, []string{"ts", "n", "body", "mac"}},
	{"audit_pos", []string{"cell", "idx"}, []string{"stream", "seq", "part", "n", "ts"}},
	{"audit_cursor", []string{"cell", "stream"}, []string{"seq", "part"}},
	{"audit_tile", []string{"cell", "level", "n"}, []string{"data"}},
	{"audit_filter", []string{"cell", "block"}, []string{"data"}},
	{"tree", []string{"cell"}, []string{"size", "root"}},
	{"checkpoint", []string{"cell", "size"}, []string{"text"}},
}

// harmless are the columns that say nothing about entries: who opened a stream, how often an outcome was asked for, and that a stream takes
// no more (closing one only makes its owner open another).
var harmless = []string{"stream.node", "stream.checked", "stream.closed"}

// alsoNamed: where two tables contradict each other, the one that lost its partner may be named in place of the one that was changed.
var alsoNamed = map[string][]string{
	"stream":       {"audit_cursor"},
	"audit_pos":    {"audit_batch"},
	"audit_cursor": {"stream", "audit_batch"},
}

// rows returns the key and the columns of every row of a table.
func rows(t *testing.T, l *Log, table string, columns []string) [][]any {
	t.Helper()
	var all [][]any
	err := l.db.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		all = nil
		return tx.Each(ctx, func(r db.Row) error {
			row := make([]any, len(columns))
			dest := make([]any, len(columns))
			for i := range row {
				dest[i] = &row[i]
			}
			all = append(all, row)
			return r.Scan(dest...)
		}, "SELECT "+strings.Join(columns, ", ")+" FROM "+table+" ORDER BY 1, 2")
	})
	if err != nil {
		t.Fatalf("reading %s: %v", table, err)
	}
	return all
}

// TestEveryColumnIsGuarded changes one value in every column of every table of the record and wants it named.
func TestEveryColumnIsGuarded(t *testing.T) {
	data := master(t)
	pristine := copied(t, data)
	wantClean(t, pristine, 1600)
	checkColumns(t, pristine)
	for _, table := range auditTables {
		columns := append(slices.Clone(table.key), table.other...)
		all := rows(t, pristine, table.name, append([]string{columns[len(table.key)-1]}, columns...))
		if table.name == "stream" {
			all = slices.DeleteFunc(all, func(r []any) bool { return r[3].(int64) < 5 }) // streams that recorded nothing guard nothing
		}
		for at := range slices.Values(slices.Compact([]int{0, len(all) - 1})) {
			row := all[at][1:]
			for c, column := range columns {
				for _, changed := range changes(column, row[c]) {
					t.Run(fmt.Sprintf("%s.%s/row %d", table.name, column, at), func(t *testing.T) {
						l := copied(t, data)
						if !damageRow(t, l, table.name, table.key, row, column, changed) {
							return // the place is taken: the engine itself refuses
						}
						r := verify(t, l, VerifyOptions{})
						named := append([]string{table.name}, alsoNamed[table.name]...)
						if len(r.Findings) == 0 || !slices.Contains(named, r.Findings[0].Table) {
							t.Errorf("%v in place of %v: findings %v, want one in %v first", changed, row[c], r.Findings, named)
						}
					})
				}
			}
		}
	}
}

// checkColumns fails when a table has a column that neither the test nor the list of harmless ones knows.
func checkColumns(t *testing.T, l *Log) {
	t.Helper()
	for _, table := range auditTables {
		for _, row := range rows(t, l, "pragma_table_info('"+table.name+"')", []string{"name", "cid"}) {
			name := row[0].(string)
			if !slices.Contains(table.key, name) && !slices.Contains(table.other, name) && !slices.Contains(harmless, table.name+"."+name) {
				t.Errorf("the column %s.%s is not covered", table.name, name)
			}
		}
	}
}

// changes returns values to put in place of v.
func changes(column string, v any) []any {
	switch v := v.(type) {
	case int64:
		if column == "next" {
			return []any{int64(1), int64(-1)} // larger and slightly smaller numbers are those of transactions that recorded nothing
		}
		if column == "cell" {
			return []any{int64(1)}
		}
		return []any{v + 1, int64(-1)}
	case []byte:
		flipped := bytes.Clone(v)
		flipped[len(v)/2] ^= 1
		return []any{flipped, v[:len(v)-1]}
	}
	return nil
}

// damageRow changes one column of one row. It returns false when the key that would result is taken.
func damageRow(t *testing.T, l *Log, table string, key []string, row []any, column string, changed any) bool {
	t.Helper()
	where := make([]string, len(key))
	for i, k := range key {
		where[i] = fmt.Sprintf("%s = $%d", k, i+2)
	}
	err := l.db.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		n, err := tx.Exec(ctx, "UPDATE "+table+" SET "+column+" = $1 WHERE "+strings.Join(where, " AND "), append([]any{changed}, row[:len(key)]...)...)
		if err == nil && n != 1 {
			return fmt.Errorf("changed %d rows, want 1", n)
		}
		return err
	})
	if err != nil && !db.IsConflict(err) {
		t.Fatalf("changing %s.%s: %v", table, column, err)
	}
	return err == nil
}

func TestMissingAndAddedRowsAreNamed(t *testing.T) {
	data := master(t)
	for name, row := range map[string]struct{ sql, table string }{
		"batch taken":      {`DELETE FROM audit_batch WHERE rowid = (SELECT MIN(rowid) FROM audit_batch)`, "audit_batch"},
		"position taken":   {`DELETE FROM audit_pos WHERE idx = (SELECT MAX(idx) FROM audit_pos)`, "tree"},
		"position added":   {`INSERT INTO audit_pos (cell, idx, stream, seq, part, n) SELECT 0, 1600, stream, 90000, part, n FROM audit_pos WHERE idx = 0`, "audit_pos"},
		"tile taken":       {`DELETE FROM audit_tile WHERE level = 0 AND n = 2`, "audit_tile"},
		"tile added":       {`INSERT INTO audit_tile (cell, level, n, data) VALUES (0, 1, 1, x'00')`, "audit_tile"},
		"level added":      {`INSERT INTO audit_tile (cell, level, n, data) VALUES (0, 5, 0, x'00')`, "audit_tile"},
		"filter taken":     {`DELETE FROM audit_filter WHERE block = 3`, "audit_filter"},
		"filter added":     {`INSERT INTO audit_filter (cell, block, data) VALUES (0, 7, x'00')`, "audit_filter"},
		"tree taken":       {`DELETE FROM tree`, "tree"},
		"cursor taken":     {`DELETE FROM audit_cursor WHERE stream = (SELECT MIN(stream) FROM audit_cursor)`, "audit_cursor"},
		"stream taken":     {`DELETE FROM stream WHERE stream = (SELECT MIN(stream) FROM audit_cursor)`, "stream"},
		"batch slipped in": {`INSERT INTO audit_batch (cell, stream, seq, part, ts, n, body, mac) SELECT 0, stream, seq, 50, ts, n, body, mac FROM audit_batch WHERE seq = 3 AND stream = (SELECT MIN(stream) FROM audit_cursor)`, "audit_batch"},
		"batch before":     {`INSERT INTO audit_batch (cell, stream, seq, part, ts, n, body, mac) SELECT 0, stream, 0, 0, ts, n, body, mac FROM audit_batch WHERE seq = 3 AND stream = (SELECT MIN(stream) FROM audit_cursor)`, "audit_batch"},
		"batch ahead":      {`INSERT INTO audit_batch (cell, stream, seq, part, ts, n, body, mac) SELECT 0, stream, 90000, 0, ts, n, body, mac FROM audit_batch WHERE seq = 3 AND stream = (SELECT MIN(stream) FROM audit_cursor)`, "audit_batch"},
		"batch of nobody":  {`INSERT INTO audit_batch (cell, stream, seq, part, ts, n, body, mac) SELECT 0, x'0102030405060708', seq, 0, ts, n, body, mac FROM audit_batch WHERE seq = 3 AND stream = (SELECT MIN(stream) FROM audit_cursor)`, "stream"},
		"false signature":  {`INSERT INTO checkpoint (cell, size, text) SELECT 0, 5, text FROM checkpoint WHERE size = 1000`, "checkpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			l := copied(t, data)
			exec(t, l, row.sql)
			r := verify(t, l, VerifyOptions{})
			if !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Table == row.table }) {
				t.Errorf("findings %v, want one in %s", r.Findings, row.table)
			}
		})
	}
}

func TestTheFirstChangedEntryIsNamedAndNothingElse(t *testing.T) {
	l := copied(t, master(t))
	target := sample(777)
	for _, r := range rows(t, l, "audit_batch", []string{"body", "rowid", "ts", "n"}) {
		split, err := splitBody(r[0].([]byte), r[2].(int64), r[3].(int64))
		if err != nil {
			t.Fatal(err)
		}
		entries := make([]Entry, len(split))
		found := false
		for i, data := range split {
			if entries[i], err = ParseEntry(data); err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(data, target.Bytes()) {
				entries[i].Detail["to"], found = "suspendet", true
			}
		}
		if found {
			exec(t, l, `UPDATE audit_batch SET body = $1 WHERE rowid = $2`, numbered().appendCompact(nil, r[2].(int64), entries), r[1])
		}
	}
	r := verify(t, l, VerifyOptions{})
	if len(r.Findings) != 1 || r.Findings[0].Table != "audit_batch" || r.Findings[0].Index != 777 || r.Findings[0].Action != "device.state" || r.Findings[0].Batch == "" {
		t.Errorf("findings %v, want entry 777 (device.state) of audit_batch with its batch", r.Findings)
	}
}

// TestAForgedHistoryIsFoundByAKnownCheckpoint: whoever holds the database and the key can write another history. Only what was kept
// elsewhere shows it.
func TestAForgedHistoryIsFoundByAKnownCheckpoint(t *testing.T) {
	first := openLog(t)
	fill(t, first, 0, 10)
	sequence(t, first)
	known, _, err := first.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fill(t, first, 10, 10)
	if r := verify(t, first, VerifyOptions{Known: [][]byte{known}}); len(r.Findings) != 0 {
		t.Errorf("findings %v in the true history", r.Findings)
	}
	forged := openLog(t)
	fill(t, forged, 1, 20)
	shorter := openLog(t)
	fill(t, shorter, 0, 5)
	for name, l := range map[string]*Log{"forged": forged, "put back": shorter} {
		if r := verify(t, l, VerifyOptions{Known: [][]byte{known}}); len(r.Findings) != 1 || r.Findings[0].Table != "known checkpoint" {
			t.Errorf("%s: findings %v, want the known checkpoint", name, r.Findings)
		}
	}
}

func TestCheckersSeeEveryEntryAndTheirErrorsAreFindings(t *testing.T) {
	l := openLog(t)
	fill(t, l, 0, 300)
	var seen, reported int64
	c := Checker{
		Name: "cert",
		Entry: func(index int64, e Entry) error {
			if index != seen {
				t.Errorf("entry %d came as number %d", index, seen)
			}
			seen++
			if index == 41 {
				return errors.New("no such certificate")
			}
			return nil
		},
		Finish: func(ctx context.Context, tx *db.Tx) error {
			var n int64
			if _, err := tx.Get(ctx, []any{&n}, `SELECT COUNT(*) FROM audit_pos WHERE cell = 0`); err != nil || n == 0 {
				t.Errorf("the tables cannot be read in Finish: %d, %v", n, err)
			}
			return errors.Join(errors.New("row a"), errors.New("row b"))
		},
	}
	r := verify(t, l, VerifyOptions{Checkers: []Checker{c}, Progress: func(done, total int64) { reported = done }})
	if seen != 300 || reported != 300 {
		t.Errorf("the checker saw %d entries, progress ended at %d, want 300", seen, reported)
	}
	want := []string{"cert: entry 41 (cert.issue) in batch", "cert: row a", "cert: row b"}
	if len(r.Findings) != len(want) {
		t.Fatalf("findings %v, want %q", r.Findings, want)
	}
	for i, f := range r.Findings {
		if !strings.HasPrefix(f.String(), want[i]) {
			t.Errorf("finding %d is %q, want %q", i, f, want[i])
		}
	}
}

// TestVerifyBesideWriters: what is committed while Verify runs gives no false alarm.
func TestVerifyBesideWriters(t *testing.T) {
	l := openLog(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		for n := 0; ctx.Err() == nil; n++ {
			if err := l.Record(t.Context(), sample(n), sample(n+1)); err != nil {
				done <- err
				return
			}
			if n%5 == 0 {
				if err := l.Sequence(t.Context()); err != nil {
					done <- err
					return
				}
			}
		}
		done <- nil
	}()
	for range 20 {
		if r := verify(t, l, VerifyOptions{}); len(r.Findings) > 0 {
			t.Fatalf("false alarm: %v", r.Findings)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
