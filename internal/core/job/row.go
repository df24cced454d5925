package job

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
)

const columns = `id, turn, kind, state, title, params, sample, auto, ready, place, chunks, digest, kept, next, total, done, skipped, failed, results, result_digest,
 maker, maker_id, role, via, ask_above, undo, not_before, created, began, ended, busy, note`

const selectJob = `SELECT ` + columns + ` FROM job WHERE cell = 0`

const insertJob = `INSERT INTO job (cell, ` + columns + `) VALUES (0, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
 $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32)`

const updateJob = `UPDATE job SET turn = $2, state = $3, sample = $4, auto = $5, ready = $6, place = $7, chunks = $8, digest = $9, kept = $10, next = $11, total = $12,
 done = $13, skipped = $14, failed = $15, results = $16, result_digest = $17, not_before = $18, began = $19, ended = $20, busy = $21, note = $22
 WHERE cell = 0 AND id = $1 AND turn = $2 - 1`

func (j *Job) scan(r db.Row, before ...any) error {
	var id, digest, results []byte
	var kind, sample, maker, role string
	var state, auto, ready, kept, undo, busy int64
	err := r.Scan(append(before, &id, &j.turn, &kind, &state, &j.Title, &j.Params, &sample, &auto, &ready, &j.Place, &j.Chunks, &digest, &kept, &j.Next,
		&j.Total, &j.Done, &j.Skipped, &j.Failed, &j.Results, &results, &maker, &j.Maker.ID, &role, &j.Maker.Via, &j.AskAbove, &undo, &j.NotBefore,
		&j.Created, &j.Began, &j.Ended, &busy, &j.Note)...)
	if err != nil {
		return err
	}
	j.Auto, j.Ready, j.kept = auto == 1, ready == 1, kept == 1
	if auto>>1 != 0 || ready>>1 != 0 || kept>>1 != 0 || undo < 0 || len(id) != len(j.ID) || len(digest) != len(j.Digest) || len(results) != len(j.resultDigest) || json.Unmarshal([]byte(sample), &j.Sample) != nil {
		return fmt.Errorf("the row of job %x is damaged", id)
	}
	j.ID, j.Kind, j.State, j.Digest, j.resultDigest = ID(id), Kind(kind), State(state), [32]byte(digest), [32]byte(results)
	j.Maker.Kind, j.Maker.Role = access.Kind(maker), access.Role(role)
	j.Undo, j.Busy = time.Duration(undo)*time.Second, time.Duration(busy)*time.Millisecond
	return nil
}

// bit is how a truth is stored.
func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func (j *Job) sampleText() string {
	text, _ := json.Marshal(append([]string{}, j.Sample...)) // texts can always be encoded
	return string(text)
}

// all are the values of columns.
func (j *Job) all() []any {
	return []any{j.ID[:], j.turn, string(j.Kind), int64(j.State), j.Title, j.Params, j.sampleText(), bit(j.Auto), bit(j.Ready), j.Place, j.Chunks, j.Digest[:],
		bit(j.kept), j.Next, j.Total, j.Done, j.Skipped, j.Failed, j.Results, j.resultDigest[:], string(j.Maker.Kind), j.Maker.ID, string(j.Maker.Role),
		j.Maker.Via, j.AskAbove, int64(j.Undo / time.Second), j.NotBefore, j.Created, j.Began, j.Ended, j.Busy.Milliseconds(), j.Note}
}

// mark is the digest of the whole row, as the record holds it.
func (j *Job) mark() string {
	h := sha256.New()
	for _, v := range j.all() {
		text := fmt.Sprint(v)
		fmt.Fprintf(h, "%d:%s", len(text), text)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// What the entries about a job tell of.
const (
	actionCreate = "job.create"
	actionFill   = "job.fill" // items were found
	actionMove   = "job.move" // of its state
	actionStep   = "job.step" // items were handled
	actionForget = "job.forget"
)

func (j *Job) object() string { return "job " + j.ID.String() }

// entry is what the record keeps of a change that made the row what it is now.
func (j *Job) entry(action string, actor access.Actor, now int64) audit.Entry {
	n := func(i int64) string { return fmt.Sprint(i) }
	return audit.Entry{At: now, Action: action, Actor: actor.String(), Object: j.object(), Detail: map[string]string{"kind": string(j.Kind), "turn": n(j.turn),
		"state": j.State.String(), "total": n(j.Total), "done": n(j.Done), "skipped": n(j.Skipped), "failed": n(j.Failed), "row": j.mark()}}
}

// errMoved says that somebody wrote the row since it was read.
var errMoved = errs.New(errs.Conflict, "the job has moved on meanwhile: look at it again")

// write stores j in place of the row from which it was made.
func (s *Service) write(ctx context.Context, tx *db.Tx, j *Job, action string, actor access.Actor) error {
	j.turn++
	n, err := tx.Exec(ctx, updateJob, j.ID[:], j.turn, int64(j.State), j.sampleText(), bit(j.Auto), bit(j.Ready), j.Place, j.Chunks, j.Digest[:], bit(j.kept), j.Next,
		j.Total, j.Done, j.Skipped, j.Failed, j.Results, j.resultDigest[:], j.NotBefore, j.Began, j.Ended, j.Busy.Milliseconds(), j.Note)
	if err != nil {
		return fmt.Errorf("writing a job: %w", err)
	}
	if n != 1 {
		return errMoved
	}
	return s.Audit.Append(ctx, tx, j.entry(action, actor, s.Now().Unix()))
}

// readTx returns the job with the id.
func readTx(ctx context.Context, tx *db.Tx, id ID) (j Job, err error) {
	found := false
	err = tx.Each(ctx, func(r db.Row) error { found = true; return j.scan(r) }, selectJob+` AND id = $1`, id[:])
	if err == nil && !found {
		err = errs.New(errs.NotFound, "there is no job %s: it may have been forgotten, %d days after it ended", id, keepFor/(24*time.Hour))
	}
	return j, err
}

// chain goes on from a digest over what came before to one that covers body as well.
func chain(before [32]byte, body []byte) [32]byte {
	sum := sha256.Sum256(body)
	return sha256.Sum256(append(before[:], sum[:]...))
}

// appendItem writes an item behind its length.
func appendItem(body, item []byte) []byte {
	return append(binary.AppendUvarint(body, uint64(len(item))), item...)
}

func decode(body []byte, n int64) (items [][]byte, err error) {
	for len(body) > 0 {
		size, k := binary.Uvarint(body)
		if k <= 0 || size > uint64(len(body)-k) {
			return nil, errors.New("a chunk of a job is damaged")
		}
		items = append(items, body[k:k+int(size)])
		body = body[k+int(size):]
	}
	if int64(len(items)) != n {
		return nil, errors.New("a chunk of a job holds another number of items than its row says")
	}
	return items, nil
}

// addChunk adds n items, as appendItem writes them, to j in tx.
func (s *Service) addChunk(ctx context.Context, tx *db.Tx, j *Job, body []byte, n int) error {
	if n == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, `INSERT INTO job_chunk (cell, job, n, items, body) VALUES (0, $1, $2, $3, $4)`, j.ID[:], j.Chunks, int64(n), body)
	if err != nil {
		return fmt.Errorf("keeping the items of a job: %w", err)
	}
	j.Chunks++
	j.Total += int64(n)
	j.Digest = chain(j.Digest, body)
	return nil
}

// Result is what became of one item.
type Result struct {
	OK   bool
	Item string
	Text string // why it failed, or what came of it
}

func (r *Result) bytes(n int64) []byte {
	return fmt.Appendf(nil, "%d:%d:%d:%s:%s", n, bit(r.OK), len(r.Item), r.Item, r.Text)
}

// addResult keeps r in tx.
func (s *Service) addResult(ctx context.Context, tx *db.Tx, j *Job, r Result) error {
	_, err := tx.Exec(ctx, `INSERT INTO job_result (cell, job, n, ok, item, text) VALUES (0, $1, $2, $3, $4, $5)`, j.ID[:], j.Results, bit(r.OK), r.Item, r.Text)
	if err != nil {
		return fmt.Errorf("keeping the result of an item: %w", err)
	}
	j.resultDigest = chain(j.resultDigest, r.bytes(j.Results))
	j.Results++
	return nil
}
