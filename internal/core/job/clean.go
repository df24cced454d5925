package job

import (
	"context"
	"fmt"

	"mooring/internal/base/db"
)

// chunksAtOnce is how many rows of items are taken away in one transaction.
const chunksAtOnce = 200

// clean takes away the items of jobs that are done with, and forgets jobs that ended long ago.
func (r *runner) clean(ctx context.Context) error {
	var spent, old []Job
	err := r.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		spent, old = nil, nil
		into := func(list *[]Job) func(db.Row) error {
			return func(row db.Row) error {
				var j Job
				err := j.scan(row)
				*list = append(*list, j)
				return err
			}
		}
		if err := tx.Each(ctx, into(&spent), selectJob+` AND kept = 0 AND chunks > 0
			AND EXISTS (SELECT 1 FROM job_chunk c WHERE c.cell = 0 AND c.job = job.id) ORDER BY created, id LIMIT 100`); err != nil {
			return err
		}
		return tx.Each(ctx, into(&old), selectJob+` AND state >= 6 AND ended < $1 ORDER BY created, id LIMIT 100`, r.Now().Add(-keepFor).Unix())
	})
	if err != nil {
		return fmt.Errorf("looking for jobs that are over: %w", err)
	}
	for i := range spent {
		if err := r.takeItems(ctx, &spent[i]); err != nil {
			return err
		}
	}
	for i := range old {
		if err := r.forget(ctx, &old[i]); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) takeItems(ctx context.Context, j *Job) error {
	for from := int64(0); from < j.Chunks && ctx.Err() == nil; from += chunksAtOnce {
		err := r.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
			if err := r.lease.Fence(ctx, tx); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `DELETE FROM job_chunk WHERE cell = 0 AND job = $1 AND n >= $2 AND n < $3`, j.ID[:], from, from+chunksAtOnce)
			return err
		})
		if err != nil {
			return fmt.Errorf("taking away the items of a job: %w", err)
		}
	}
	return ctx.Err()
}

func (r *runner) forget(ctx context.Context, j *Job) error {
	if err := r.takeItems(ctx, j); err != nil {
		return err
	}
	err := r.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if err := r.lease.Fence(ctx, tx); err != nil {
			return err
		}
		n, err := tx.Exec(ctx, `DELETE FROM job WHERE cell = 0 AND id = $1 AND turn = $2`, j.ID[:], j.turn)
		if err != nil || n == 0 {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM job_result WHERE cell = 0 AND job = $1`, j.ID[:]); err != nil {
			return err
		}
		return r.Audit.Append(ctx, tx, j.entry(actionForget, actor(), r.Now().Unix()))
	})
	if err != nil {
		return fmt.Errorf("forgetting a job: %w", err)
	}
	return nil
}
