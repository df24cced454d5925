package job

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
)

func (s *Service) find(ctx context.Context, id ID) (j Job, err error) {
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		j, err = readTx(ctx, tx, id)
		return err
	})
	return j, err
}

// Get returns the job with the id. It needs job.read.
func (s *Service) Get(ctx context.Context, actor access.Actor, id ID) (Job, error) {
	if err := s.Access.Require(ctx, actor, access.JobRead, "job "+id.String()); err != nil {
		return Job{}, err
	}
	return s.find(ctx, id)
}

// Await asks for a job until pass has seen enough, or ctx ends. It needs job.read.
func (s *Service) Await(ctx context.Context, actor access.Actor, id ID, pass func(Job) bool) (Job, error) {
	for wait := awaitLeast; ; wait = min(2*wait, awaitMost) {
		j, err := s.Get(ctx, actor, id)
		if err != nil || pass(j) {
			return j, err
		}
		pause(ctx, wait)
		if err := ctx.Err(); err != nil {
			return j, errs.Wrap(errs.Unavailable, err, "nobody waits for job %s any more; it goes on", id)
		}
	}
}

// How often Await asks.
const (
	awaitLeast = 5 * time.Millisecond
	awaitMost  = 250 * time.Millisecond
)

// OpenTx returns the jobs of a kind that have not come to their end: those that can still do something, failed ones among them.
func (s *Service) OpenTx(ctx context.Context, tx *db.Tx, kind Kind) (list []Job, err error) {
	err = tx.Each(ctx, func(r db.Row) error {
		var j Job
		err := j.scan(r)
		list = append(list, j)
		return err
	}, selectJob+` AND kind = $1 AND state <> 6 AND state <> 7 ORDER BY created, id LIMIT 1000`, string(kind))
	return list, err
}

// Filter selects jobs. Fields that are set must all fit.
type Filter struct {
	State  State
	Kind   Kind
	Cursor string // what the previous page returned as next
	Limit  int    // jobs a page; 0 = 100, at most 1,000
}

const listMost = 1000

func limited(n int) int {
	if n <= 0 {
		return 100
	}
	return min(n, listMost)
}

// List returns jobs, newest first, and the cursor of the next page, "" at the end. It needs job.read.
func (s *Service) List(ctx context.Context, actor access.Actor, f Filter) (page []Job, next string, err error) {
	if err := s.Access.Require(ctx, actor, access.JobRead, "jobs"); err != nil {
		return nil, "", err
	}
	query, args, err := f.query()
	if err != nil {
		return nil, "", err
	}
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		page = nil
		return tx.Each(ctx, func(r db.Row) error {
			var j Job
			err := j.scan(r)
			page = append(page, j)
			return err
		}, query, args...)
	})
	if err != nil {
		return nil, "", fmt.Errorf("listing jobs: %w", err)
	}
	if len(page) == limited(f.Limit) {
		last := page[len(page)-1]
		next = base64.RawURLEncoding.EncodeToString(append(binary.BigEndian.AppendUint64(nil, uint64(last.Created)), last.ID[:]...))
	}
	return page, next, nil
}

func (f *Filter) query() (string, []any, error) {
	query, args := selectJob, []any{int64(limited(f.Limit))}
	if f.State != 0 {
		args = append(args, int64(f.State))
		query += fmt.Sprintf(` AND state = $%d`, len(args))
	}
	if f.Kind != "" {
		args = append(args, string(f.Kind))
		query += fmt.Sprintf(` AND kind = $%d`, len(args))
	}
	if f.Cursor != "" {
		b, err := base64.RawURLEncoding.DecodeString(f.Cursor)
		if err != nil || len(b) != 8+len(ID{}) {
			return "", nil, errs.New(errs.Invalid, "cursor: it does not belong to this list; begin without one")
		}
		args = append(args, int64(binary.BigEndian.Uint64(b)), b[8:])
		query += fmt.Sprintf(` AND (created, id) < ($%d, $%d)`, len(args)-1, len(args))
	}
	return query + ` ORDER BY created DESC, id DESC LIMIT $1`, args, nil
}

// Results returns what became of single items from the number from on, at most limit (0: 100): of those that failed the first ResultsMost,
// of others where the kind of job keeps it. It needs job.read.
func (s *Service) Results(ctx context.Context, actor access.Actor, id ID, from int64, limit int) (list []Result, err error) {
	if err := s.Access.Require(ctx, actor, access.JobRead, "job "+id.String()); err != nil {
		return nil, err
	}
	if _, err := s.find(ctx, id); err != nil {
		return nil, err
	}
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		list = nil
		return tx.Each(ctx, func(r db.Row) error {
			var one Result
			var ok int64
			err := r.Scan(&ok, &one.Item, &one.Text)
			one.OK = ok == 1
			list = append(list, one)
			return err
		}, `SELECT ok, item, text FROM job_result WHERE cell = 0 AND job = $1 AND n >= $2 ORDER BY n LIMIT $3`, id[:], from, int64(limited(limit)))
	})
	if err != nil {
		return nil, fmt.Errorf("reading the results of a job: %w", err)
	}
	return list, nil
}
