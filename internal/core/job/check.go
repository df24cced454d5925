package job

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// standing is what the record says last about a job.
type standing struct {
	turn      int64
	row       string
	forgotten bool
	at        int64 // of the entry that says so
	met       bool
}

// stored is what a row says about the rows that belong to it.
type stored struct {
	chunks, total, results int64
	digest, resultDigest   [32]byte
	kept                   bool

	seenChunks, seenItems, seenResults int64
	gotDigest, gotResults              [32]byte
}

type checker struct {
	known map[string]*standing
	rows  map[ID]*stored
	last  int64 // when the latest entry about a job was written
	found []error
}

// findingsMost bounds what one verification names.
const findingsMost = 100

func (c *checker) find(format string, args ...any) {
	if len(c.found) < findingsMost {
		c.found = append(c.found, fmt.Errorf(format, args...))
	}
}

// Checker compares the jobs with the replayed record: each row must be what its newest entry says, and its items and results those over which
// the row holds a digest. A Checker serves one verification.
func (s *Service) Checker() audit.Checker {
	c := &checker{known: map[string]*standing{}, rows: map[ID]*stored{}}
	return audit.Checker{Name: "job", Entry: c.entry, Finish: c.finish, Save: c.save, Load: c.load}
}

// entry remembers the newest of a job's entries, by the number of the change: two nodes' clocks may differ.
func (c *checker) entry(_ int64, e audit.Entry) error {
	if e.Refused != "" || !strings.HasPrefix(e.Action, "job.") {
		return nil
	}
	turn, err := strconv.ParseInt(e.Detail["turn"], 10, 64)
	if err != nil {
		return errors.New("the entry does not say which change of the job it tells of")
	}
	k := c.known[e.Object]
	if k == nil {
		k = &standing{}
		c.known[e.Object] = k
	}
	c.last = max(c.last, e.At)
	switch {
	case e.Action == actionForget:
		k.forgotten, k.at = true, e.At
	case turn == k.turn:
		return fmt.Errorf("change %d of the job was recorded already", turn)
	case turn > k.turn:
		k.turn, k.row = turn, e.Detail["row"]
	}
	return nil
}

func (c *checker) finish(ctx context.Context, tx *db.Tx) error {
	steps := []func(context.Context, *db.Tx) error{c.compareJobs, c.readChunks, c.readResults}
	for _, step := range steps {
		if err := step(ctx, tx); err != nil {
			return err
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(c.rows), func(a, b ID) int { return strings.Compare(string(a[:]), string(b[:])) }) {
		if s := c.rows[id]; s.kept && (s.seenChunks != s.chunks || s.seenItems != s.total || s.gotDigest != s.digest) {
			c.find("table job_chunk: the items of job %s are not those that the record vouches for", id)
		} else if s.seenResults != s.results || s.gotResults != s.resultDigest {
			c.find("table job_result: the results of job %s are not those that the record vouches for", id)
		}
	}
	for _, object := range slices.Sorted(maps.Keys(c.known)) {
		if k := c.known[object]; !k.met && !k.forgotten {
			c.find("table job: the row of %s is missing", object)
		}
	}
	return errors.Join(c.found...)
}

func (c *checker) compareJobs(ctx context.Context, tx *db.Tx) error {
	return tx.Each(ctx, func(r db.Row) error {
		var j Job
		var cell int64
		if err := j.scan(r, &cell); err != nil {
			c.find("table job: %w", err)
			return nil
		}
		c.rows[j.ID] = &stored{chunks: j.Chunks, total: j.Total, results: j.Results, digest: j.Digest, resultDigest: j.resultDigest, kept: j.kept}
		k := c.known[j.object()]
		if k == nil || cell != 0 {
			c.find("table job: nobody recorded that %s was made", j.object())
			return nil
		}
		k.met = true
		if k.turn != j.turn || k.row != j.mark() {
			c.find("table job: the row of %s is not what the record says", j.object())
		}
		return nil
	}, `SELECT cell, `+columns+` FROM job ORDER BY cell, id`)
}

// belongs returns what is known of the job that a row names.
func (c *checker) belongs(table string, cell int64, id []byte) *stored {
	if len(id) == len(ID{}) && cell == 0 {
		if s := c.rows[ID(id)]; s != nil {
			return s
		}
	}
	c.find("table %s: a row belongs to no job (%x)", table, id)
	return &stored{}
}

func (c *checker) readChunks(ctx context.Context, tx *db.Tx) error {
	return tx.Each(ctx, func(r db.Row) error {
		var cell, n, items int64
		var id, body []byte
		if err := r.Scan(&cell, &id, &n, &items, &body); err != nil {
			return err
		}
		s := c.belongs("job_chunk", cell, id)
		if s.kept && n != s.seenChunks {
			c.find("table job_chunk: the rows of job %x are not numbered one after the other", id)
		}
		s.seenChunks++
		s.seenItems += items
		s.gotDigest = chain(s.gotDigest, body)
		return nil
	}, `SELECT cell, job, n, items, body FROM job_chunk ORDER BY cell, job, n`)
}

func (c *checker) readResults(ctx context.Context, tx *db.Tx) error {
	return tx.Each(ctx, func(r db.Row) error {
		var cell, n, ok int64
		var id []byte
		var one Result
		if err := r.Scan(&cell, &id, &n, &ok, &one.Item, &one.Text); err != nil {
			return err
		}
		one.OK = ok == 1
		s := c.belongs("job_result", cell, id)
		if ok != bit(one.OK) || n != s.seenResults {
			c.find("table job_result: a row of job %x cannot be", id)
		}
		s.seenResults++
		s.gotResults = chain(s.gotResults, one.bytes(n))
		return nil
	}, `SELECT cell, job, n, ok, item, text FROM job_result ORDER BY cell, job, n`)
}
