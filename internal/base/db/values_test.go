package db

import (
	"errors"
	"testing"
)

func TestValues(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		first    string
		width, n int
		want     string
	}{
		{"", 1, 1, "($1)"}, {"0, ", 2, 1, "(0, $1, $2)"}, {"0, ", 2, 2, "(0, $1, $2), (0, $3, $4)"}, {"", 3, 3, "($1, $2, $3), ($4, $5, $6), ($7, $8, $9)"},
	} {
		if got := Values(c.first, c.width, c.n); got != c.want {
			t.Errorf("%d rows of %d: got %s, want %s", c.n, c.width, got, c.want)
		}
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from, n int
		want    string
	}{{1, 1, "($1)"}, {3, 2, "($3, $4)"}} {
		if got := List(c.from, c.n); got != c.want {
			t.Errorf("%d from %d on: got %s, want %s", c.n, c.from, got, c.want)
		}
	}
}

// Each row is in one chunk, in order, and no size is anything but a power of two.
func TestChunks(t *testing.T) {
	t.Parallel()
	for n := range 3*chunkMost + 2 {
		next := 0
		if err := Chunks(n, func(from, to int) error {
			if size := to - from; from != next || size < 1 || size > chunkMost || size&(size-1) != 0 {
				t.Errorf("%d rows: a chunk from %d to %d after %d", n, from, to, next)
			}
			next = to
			return nil
		}); err != nil || next != n {
			t.Errorf("%d rows: ended at %d with %v", n, next, err)
		}
	}
	stop := errors.New("stop")
	calls := 0
	if err := Chunks(100, func(int, int) error { calls++; return stop }); !errors.Is(err, stop) || calls != 1 {
		t.Errorf("after an error: %d calls and %v", calls, err)
	}
}
