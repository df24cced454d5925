package db

import (
	"context"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// After each checkpoint the next commit begins the log anew, though somebody writes all the time.
func TestTheLogIsBegunAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	e, err := openSQLite(t.Context(), path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	write := func(sql string, args ...any) error {
		s, err := e.begin(t.Context(), true)
		if err != nil {
			return err
		}
		return s.commit(t.Context(), []*Stmt{{SQL: sql, Args: args}}, follow{})
	}
	if err := write(`CREATE TABLE x (n bigint NOT NULL, t bytea NOT NULL)`); err != nil {
		t.Fatal(err)
	}
	written, stop, stopped := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		row := make([]byte, 20_000)
		for {
			if err := write(`INSERT INTO x (n, t) VALUES (1, $1)`, row); err != nil {
				stopped <- err
				return
			}
			select {
			case written <- struct{}{}:
			case <-stop:
				stopped <- nil
				return
			default:
			}
		}
	}()
	c, err := e.connect(t.Context(), "_pragma=synchronous(FULL)")
	if err != nil {
		t.Fatal(err)
	}
	before, most := begun(t, path), 20
	for range most {
		for range 5 { // commits, of which one at least began after the checkpoint
			<-written
		}
		if err := e.checkpoint(t.Context(), c); err != nil {
			t.Error(err)
		}
	}
	<-written
	<-written
	close(stop)
	for ended := false; !ended; {
		select {
		case <-written:
		case err := <-stopped:
			if ended = true; err != nil {
				t.Error(err)
			}
		}
	}
	if n := begun(t, path) - before; n != uint32(most) {
		t.Errorf("the log was begun anew %d times, want %d", n, most)
	}
	if err := c.close(); err != nil {
		t.Error(err)
	}
}

// begun reads how often the log was begun anew from its header (the WAL file format of SQLite, "checkpoint sequence number").
func begun(t *testing.T, path string) uint32 {
	t.Helper()
	f, err := os.Open(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var header [32]byte
	if _, err := f.ReadAt(header[:], 0); err != nil {
		t.Fatal(err)
	}
	return binary.BigEndian.Uint32(header[12:])
}
