package device

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"slices"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/job"
)

// JobImport is the kind of jobs that write the devices of a file.
const JobImport job.Kind = "import"

// Importer imports files as jobs. A file is checked whole while it comes in, as Registry.Import does. When nothing is wrong its rows are kept with
// the job, in one transaction, and from then on the file is imported, whatever happens: a server that is killed goes on where it stood, on this
// node or another, and nobody cancels the job once it has begun. What is written stands in the order of the tables, so that it costs what one large
// transaction costs and others write in between.
//
// Names are not reserved meanwhile. A device that somebody registers between the check and its turn stays as it was registered; the row is a failed
// item of the job, with its line, and the others go on.
type Importer struct {
	r    *Registry
	jobs *job.Service
}

// NewImporter returns the importer into r.
func NewImporter(r *Registry, jobs *job.Service) *Importer { return &Importer{r, jobs} }

// Worker returns what does the jobs.
func (i *Importer) Worker() job.Worker {
	return job.Worker{Kind: JobImport, Needs: access.DeviceWrite, Unit: "devices", Step: i.step, Chunk: importStep, Whole: true}
}

// importParams are what a job remembers of its file. The salt makes the tokens only together with the deployment key.
type importParams struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
	Salt   []byte `json:"salt,omitempty"`
	Until  int64  `json:"until,omitempty"` // of the tokens, UTC seconds
}

// Import checks a file and makes the job that imports it. The errors are those of Registry.Import, and Conflict when the same file is being imported
// already. It needs device.write, device.token for tokens, and access.grant for rows that give a role. progress is told of the check alone. In
// the report Devices is how many the job will write.
func (i *Importer) Import(ctx context.Context, actor access.Actor, src Source, progress func(done, total int64)) (job.Job, ImportReport, error) {
	s, err := i.r.newImport(ctx, actor, src, progress)
	if err != nil {
		return job.Job{}, ImportReport{}, err
	}
	defer s.spool.close()
	if err := s.check(ctx); err != nil {
		return job.Job{}, s.report(0), err
	}
	p := importParams{File: src.Name, SHA256: hex.EncodeToString(s.sum.Sum(nil)), Salt: s.salt, Until: s.until}
	spec := job.Spec{Kind: JobImport, Title: "import " + src.Name, Params: p, Each: s.items(ctx), AskAbove: -1, Start: true}
	if spec.Sample, err = s.sample(); err != nil {
		return job.Job{}, s.report(0), err
	}
	spec.Also = func(ctx context.Context, tx *db.Tx, j job.Job) error {
		if err := i.notTwice(ctx, tx, j, p); err != nil {
			return err
		}
		e := s.summary()
		e.Detail["job"] = j.ID.String()
		return i.r.audit.Append(ctx, tx, e)
	}
	j, err := i.jobs.Create(ctx, actor, spec)
	if err != nil {
		return job.Job{}, s.report(0), err
	}
	return j, s.report(j.Total), nil
}

// notTwice refuses a file that another job has yet to bring to its end: its rows are not all in the registry yet, so that the check saw nothing of it.
func (i *Importer) notTwice(ctx context.Context, tx *db.Tx, j job.Job, p importParams) error {
	open, err := i.jobs.OpenTx(ctx, tx, JobImport)
	if err != nil {
		return fmt.Errorf("looking for other imports: %w", err)
	}
	for k := range open {
		var other importParams
		if err := json.Unmarshal([]byte(open[k].Params), &other); err != nil {
			return fmt.Errorf("reading what a job is to do: %w", err)
		}
		if open[k].ID != j.ID && other.SHA256 == p.SHA256 {
			return errs.New(errs.Conflict, "%s: this very file is being imported already: job %s is %s, %d of %d", p.File, open[k].ID, open[k].State, open[k].Handled(), open[k].Total)
		}
	}
	return nil
}

// items gives the rows in the order of the tables, as readItem reads them: the number of the line, cell, id, record.
func (s *importing) items(ctx context.Context) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		var b []byte
		for n, p := range s.spool.places {
			row, err := s.spool.row(p)
			if err == nil && n%progressEvery == 0 {
				err = s.givenUp(ctx)
			}
			b = append(append(binary.AppendUvarint(b[:0], uint64(p.line)), p.cell), p.id[:]...)
			b = appendRecord(b, &row.record)
			if !yield(b, err) || err != nil {
				return
			}
		}
	}
}

func readItem(item []byte) (row importRow, err error) {
	line, used := binary.Uvarint(item)
	if used <= 0 || len(item) < used+1+len(row.id) {
		return row, errDamagedRow
	}
	row.line, row.cell, row.id = uint32(line), item[used], ID(item[used+1:used+1+len(row.id)])
	row.record, err = readRecord(item[used+1+len(row.id):])
	return row, err
}

// sample returns the first devices of the file, for people.
func (s *importing) sample() (list []string, err error) {
	for off := int64(0); off < s.spool.end && len(list) < job.SampleMost; {
		c, next, err := s.spool.at(off)
		if err != nil {
			return nil, err
		}
		text := c.name + ", profile " + c.profile
		if c.group != "" {
			text += ", group " + c.group
		}
		list, off = append(list, text), next
	}
	return list, nil
}

// step writes some thousand devices in the transaction that moves the job on.
func (i *Importer) step(ctx context.Context, b *job.Batch) error {
	var p importParams
	if err := json.Unmarshal([]byte(b.Job.Params), &p); err != nil {
		return fmt.Errorf("reading what a job is to do: %w", err)
	}
	rows := make([]importRow, len(b.Items))
	var err error
	for n, item := range b.Items {
		if rows[n], err = readItem(item); err != nil {
			return err
		}
	}
	for range meetMost {
		if err = b.Commit(ctx, func(ctx context.Context, tx *db.Tx) (job.Outcome, error) { return i.write(ctx, tx, &b.Job, p, rows) }); !db.IsConflict(err) {
			return err
		}
	}
	return errs.Wrap(errs.Conflict, err, "devices of the file are being registered at this moment; the step is done again")
}

// meetMost is how often a step is done at once when somebody registers one of its devices between the look and the writing. When it is done again
// that device is seen.
const meetMost = 5

// write writes the rows that are still new.
func (i *Importer) write(ctx context.Context, tx *db.Tx, j *job.Job, p importParams, rows []importRow) (o job.Outcome, err error) {
	late, err := i.r.comeBetween(ctx, tx, rows)
	if err != nil {
		return o, fmt.Errorf("looking for devices that came between: %w", err)
	}
	fresh := make([]importRow, 0, len(rows))
	for n := range rows {
		if late[n] == "" {
			fresh = append(fresh, rows[n])
			continue
		}
		o.Results = append(o.Results, job.Result{Item: rows[n].name, Text: fmt.Sprintf("%s:%d: %s", p.File, rows[n].line, late[n])})
	}
	if len(fresh) == 0 {
		return o, nil
	}
	o.Done = int64(len(fresh))
	w := importWriter{r: i.r, tx: tx, actor: j.Maker.String(), at: i.r.now().Unix(), salt: octets(p.Salt), until: p.Until}
	if err := w.devices(ctx, fresh); err != nil {
		return o, err
	}
	return o, w.births(ctx, i.r.birthsOf(fresh))
}

// birthsOf returns the birth certificates and products of rows, in the order of their table.
func (r *Registry) birthsOf(rows []importRow) []birthPlace {
	var births []birthPlace
	for n := range rows {
		c := &rows[n]
		if len(c.birth) > 0 {
			births = append(births, birthPlace{fingerprint: [32]byte(c.birth), line: uint32(n), cell: c.cell, id: c.id})
		}
		if c.product != "" {
			births = append(births, birthPlace{fingerprint: r.productKey(c.product), line: uint32(n), cell: c.cell, id: c.id, product: true})
		}
	}
	slices.SortFunc(births, func(a, b birthPlace) int { return bytes.Compare(a.fingerprint[:], b.fingerprint[:]) })
	return births
}

// comeBetween returns, for each row, what of it the registry holds by now: "" for those that can be written.
func (r *Registry) comeBetween(ctx context.Context, tx *db.Tx, rows []importRow) (late []string, err error) {
	late = make([]string, len(rows))
	err = lookup(ctx, tx, selectKnown, len(rows), func(n int) (uint8, []byte) { return rows[n].cell, rows[n].id[:] }, func(n int) error {
		late[n] = "a device of this name was registered meanwhile, and stays as it is"
		return nil
	})
	if err != nil {
		return nil, err
	}
	births := r.birthsOf(rows) // line is the place in rows here
	return late, lookup(ctx, tx, selectKnownBirth, len(births), func(n int) (uint8, []byte) { return births[n].fingerprint[0], births[n].fingerprint[:] }, func(n int) error {
		if at := births[n].line; late[at] == "" {
			late[at] = "another device was registered with this birth certificate meanwhile, so that this one is not"
			if births[n].product {
				late[at] = "another device was registered with this manufacturer and serial number meanwhile, so that this one is not"
			}
		}
		return nil
	})
}
