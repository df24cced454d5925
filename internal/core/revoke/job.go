package revoke

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/job"
)

// The kinds of jobs.
const (
	JobRevoke job.Kind = "revoke" // its items are serial numbers
	JobMove   job.Kind = "move"   // its items are ids of devices
)

// Bulk revokes many certificates and moves many devices at once, as jobs. What a job works on is found and kept before it begins; it is done
// in steps of some hundreds, each one transaction, sorted so that the steps follow the CRLs: a list is signed a few times while its
// certificates are revoked, and not once for each of them. It is safe for concurrent use.
type Bulk struct {
	*Service
	jobs     *job.Service
	askAbove int64

	mu     sync.Mutex
	behind map[job.ID]*behind // guarded by mu
}

// behind is what the steps of a job have changed and no list of this node was made for.
type behind struct {
	changed []Revocation  // the newest of each list
	since   time.Time     // when lists were made last
	took    time.Duration // the making
}

// NewBulk returns the bulk side of s. Jobs of more than askAbove items wait for a second person; negative: never.
func NewBulk(s *Service, jobs *job.Service, askAbove int) *Bulk {
	return &Bulk{Service: s, jobs: jobs, askAbove: int64(askAbove), behind: map[job.ID]*behind{}}
}

// Workers returns what does the jobs.
func (b *Bulk) Workers() []job.Worker {
	return []job.Worker{
		{Kind: JobRevoke, Needs: access.CertRevoke, Unit: "certificates", Fill: b.fillRevoke, Step: b.stepRevoke, Rest: b.rest},
		{Kind: JobMove, Needs: access.DeviceState, Unit: "devices", Fill: b.fillMove, Step: b.stepMove, Rest: b.rest},
	}
}

// Filter selects certificates or devices. Fields that are set must all fit.
type Filter struct {
	Group   string `json:"group,omitempty"`   // of the device
	State   string `json:"state,omitempty"`   // of the device
	Tag     string `json:"tag,omitempty"`     // of the device: "key" or "key=value"
	Profile string `json:"profile,omitempty"` // of the certificate, or of the device when devices are moved
	Issuer  string `json:"issuer,omitempty"`  // of the certificate: name or id of a CA
	// Everything must be said for a filter that fits all there is.
	Everything bool `json:"everything,omitempty"`
}

// String returns the filter for people.
func (f Filter) String() string {
	var parts []string
	for _, p := range [][2]string{{"group", f.Group}, {"state", f.State}, {"tag", f.Tag}, {"profile", f.Profile}, {"issuer", f.Issuer}} {
		if p[1] != "" {
			parts = append(parts, p[0]+" "+p[1])
		}
	}
	if len(parts) == 0 {
		return "everything"
	}
	return strings.Join(parts, ", ")
}

func (f Filter) ofDevices() bool { return f.Group != "" || f.State != "" || f.Tag != "" }

// How says how a job of many is to go.
type How struct {
	Reason Reason
	Undo   time.Duration // between start and first deed
	Start  bool          // as soon as it is known what it works on; else it stays a draft, to be looked at
}

// params are what a job of either kind remembers.
type params struct {
	Filter Filter `json:"filter,omitzero"`
	Reason Reason `json:"reason"`
	Move   string `json:"move,omitempty"`
	Until  int64  `json:"until,omitempty"` // only certificates that were issued by then, UTC seconds
}

func (p *params) read(j *job.Job) error {
	if err := json.Unmarshal([]byte(j.Params), p); err != nil {
		return fmt.Errorf("reading what a job is to do: %w", err)
	}
	return nil
}

// check refuses filters that say nothing or cannot be.
func (b *Bulk) check(f *Filter) error {
	if f.State != "" {
		if _, err := device.ParseState(f.State); err != nil {
			return errs.New(errs.Invalid, "state: %s", errs.Public(err))
		}
	}
	if f.Profile != "" {
		if _, err := b.CA.Profile(f.Profile); err != nil {
			return errs.New(errs.Invalid, "profile: there is no profile %q", f.Profile)
		}
	}
	if f.Issuer != "" {
		if _, err := b.CA.Issuer(f.Issuer); err != nil {
			return errs.New(errs.Invalid, "issuer: %s", errs.Public(err))
		}
	}
	if !f.ofDevices() && f.Profile == "" && f.Issuer == "" && !f.Everything {
		return errs.New(errs.Invalid, "everything: this filter fits everything there is: name a group, an issuer, a profile, a state or a tag, or say explicitly that everything is meant")
	}
	return nil
}

// RevokeMany makes a job that revokes every certificate which f fits and which was issued by now, or puts it on hold. Certificates that have
// expired or are revoked already are left out, and so are those of operators and of the platform itself unless the filter names their profile:
// nobody shall lock himself out by the way. It needs cert.revoke, and access.grant for a profile that grants a role.
func (b *Bulk) RevokeMany(ctx context.Context, actor access.Actor, f Filter, h How) (job.Job, error) {
	if err := b.Access.Require(ctx, actor, access.CertRevoke, "certificates"); err != nil {
		return job.Job{}, err
	}
	if err := errors.Join(h.Reason.check(), b.check(&f)); err != nil {
		return job.Job{}, err
	}
	if err := b.mayMean(ctx, actor, &f); err != nil {
		return job.Job{}, err
	}
	return b.jobs.Create(ctx, actor, job.Spec{Kind: JobRevoke, Title: fmt.Sprintf("revoke %s (%s)", f, h.Reason), AskAbove: b.askAbove, Undo: h.Undo, Start: h.Start,
		Params: params{Filter: f, Reason: h.Reason, Until: b.Now().Unix()}})
}

// MoveMany makes a job that does move to every device which f fits and whose state allows it, and to its certificates what goes with it. It
// needs device.state and cert.revoke. Operators and the platform itself are left out unless the filter names their profile,
// which takes access.grant.
func (b *Bulk) MoveMany(ctx context.Context, actor access.Actor, f Filter, move device.Move, h How) (job.Job, error) {
	for _, p := range []access.Permission{access.DeviceState, access.CertRevoke} {
		if err := b.Access.Require(ctx, actor, p, "devices"); err != nil {
			return job.Job{}, err
		}
	}
	if f.Issuer != "" {
		return job.Job{}, errs.New(errs.Invalid, "issuer: devices have none: choose them by group, state, tag or profile")
	}
	_, err := forMove(move, h.Reason)
	if err := errors.Join(err, b.check(&f)); err != nil {
		return job.Job{}, err
	}
	if err := b.mayMean(ctx, actor, &f); err != nil {
		return job.Job{}, err
	}
	return b.jobs.Create(ctx, actor, job.Spec{Kind: JobMove, Title: fmt.Sprintf("%s devices: %s", move, f), AskAbove: b.askAbove, Undo: h.Undo, Start: h.Start,
		Params: params{Filter: f, Reason: h.Reason, Move: string(move)}})
}

// The bounds of a file of serial numbers.
const (
	serialsMost  = 4_000_000 // lines
	problemsMost = 20        // that are told
	lookupStep   = 500
)

// RevokeFile makes a job that revokes the certificates whose serial numbers stand in r, one a line, in hexadecimal digits; blank lines and those
// that begin with "#" are passed over. Everything is checked first: lines that are no serial number, and numbers of no certificate of ours, are
// named, and then nothing is made. name stands in the error texts. It needs cert.revoke.
func (b *Bulk) RevokeFile(ctx context.Context, actor access.Actor, r io.Reader, name string, h How) (job.Job, error) {
	if err := b.Access.Require(ctx, actor, access.CertRevoke, "certificates"); err != nil {
		return job.Job{}, err
	}
	if err := h.Reason.check(); err != nil {
		return job.Job{}, err
	}
	f := serialFile{name: name, lines: map[[16]byte]int{}}
	if err := f.read(r); err != nil {
		return job.Job{}, err
	}
	keep, sample, err := b.known(ctx, actor, &f, h.Reason)
	if err != nil {
		return job.Job{}, err
	}
	if err := f.verdict(len(keep)); err != nil {
		return job.Job{}, err
	}
	note := ""
	if already := len(f.lines) - len(keep); already > 0 {
		note = fmt.Sprintf("left out: %d that are revoked already or have expired", already)
	}
	return b.jobs.Create(ctx, actor, job.Spec{Kind: JobRevoke, Title: fmt.Sprintf("revoke the certificates of %s (%s)", name, h.Reason), AskAbove: b.askAbove,
		Undo: h.Undo, Start: h.Start, Items: keep, Sample: sample, Note: note, Params: params{Reason: h.Reason}})
}

// serialFile is what was read of a file of serial numbers.
type serialFile struct {
	name  string
	lines map[[16]byte]int // where each number stands first
	wrong []string
	more  int
}

func (f *serialFile) problem(line int, text string) {
	if len(f.wrong) < problemsMost {
		f.wrong = append(f.wrong, fmt.Sprintf("%s:%d: %s", f.name, line, text))
	} else {
		f.more++
	}
}

func (f *serialFile) read(r io.Reader) error {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 4096)
	n := 0
	for s.Scan() {
		if n++; n > serialsMost {
			return errs.New(errs.Limited, "%s: more than %d lines: split the file", f.name, serialsMost)
		}
		text := strings.TrimSpace(strings.TrimPrefix(s.Text(), "\ufeff"))
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		serial, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
		switch {
		case err != nil || len(serial) == 0:
			f.problem(n, fmt.Sprintf("%q is no serial number in hexadecimal digits", shortened(text)))
		case ca.KeptAs(serial) == "":
			f.problem(n, fmt.Sprintf("%s is not a serial number of this installation", shortened(text)))
		case f.lines[[16]byte(serial)] == 0:
			f.lines[[16]byte(serial)] = n
		}
	}
	if err := s.Err(); errors.Is(err, bufio.ErrTooLong) {
		return errs.New(errs.Invalid, "%s:%d: the line is longer than 4096 octets: is it the right file?", f.name, n+1)
	} else if err != nil {
		return errs.Wrap(errs.Invalid, err, "%s cannot be read to its end; nothing was done", f.name)
	}
	return nil
}

func shortened(text string) string {
	if r := []rune(text); len(r) > 64 {
		return string(r[:64]) + "…"
	}
	return text
}

// verdict refuses a file with mistakes, and one that leaves nothing to do.
func (f *serialFile) verdict(left int) error {
	if len(f.wrong) > 0 {
		text := strings.Join(f.wrong, "\n")
		if f.more > 0 {
			text += fmt.Sprintf("\nand %d more", f.more)
		}
		return errs.New(errs.Invalid, "%s\nnothing was done", text)
	}
	switch {
	case len(f.lines) == 0:
		return errs.New(errs.Invalid, "%s holds no serial number", f.name)
	case left == 0:
		return errs.New(errs.Conflict, "all certificates of %s are revoked already or have expired: there is nothing to do", f.name)
	}
	return nil
}

// known looks every number up, notes those that are of no certificate, and returns the others that the reason changes, in the order of the lists.
func (b *Bulk) known(ctx context.Context, actor access.Actor, f *serialFile, to Reason) (keep [][]byte, sample []string, err error) {
	all := make([][]byte, 0, len(f.lines))
	for serial := range f.lines {
		all = append(all, serial[:])
	}
	slices.SortFunc(all, bySerial)
	var unknown [][]byte
	var examples []*ca.Certificate
	for chunk := range slices.Chunk(all, lookupStep) {
		var certs []*ca.Certificate
		err := b.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
			certs, err = b.CA.GetManyTx(ctx, tx, chunk)
			return err
		})
		if err != nil {
			return nil, nil, err
		}
		brief, err := b.brief(ctx, chunk)
		if err != nil {
			return nil, nil, err
		}
		for i := range certs {
			if certs[i] == nil {
				certs[i] = brief[string(chunk[i])]
			}
			if certs[i] == nil {
				unknown = append(unknown, chunk[i])
			}
		}
		left, err := b.changeable(ctx, certs, to)
		if err != nil {
			return nil, nil, err
		}
		if err := b.refusedFor(ctx, actor, "certificates", b.withinPower(actor, left)); err != nil {
			return nil, nil, err
		}
		for _, c := range left {
			keep = append(keep, c.Serial[:])
			if len(examples) < job.SampleMost {
				examples = append(examples, c)
			}
		}
	}
	if sample, err = b.shown(ctx, examples); err != nil {
		return nil, nil, err
	}
	slices.SortFunc(unknown, func(x, y []byte) int { return f.lines[[16]byte(x)] - f.lines[[16]byte(y)] })
	for _, serial := range unknown {
		f.problem(f.lines[[16]byte(serial)], fmt.Sprintf("there is no certificate with the serial number %x", serial))
	}
	return keep, sample, nil
}

// bySerial orders serial numbers as the lists divide them: by cell first.
func bySerial(x, y []byte) int {
	if x[5] != y[5] {
		return int(x[5]) - int(y[5])
	}
	return bytes.Compare(x, y)
}

// shown are certificates as examples for people.
func (b *Bulk) shown(ctx context.Context, certs []*ca.Certificate) (texts []string, err error) {
	if len(certs) == 0 {
		return nil, nil
	}
	ids := make([]device.ID, len(certs))
	for i, c := range certs {
		ids[i] = c.Device
	}
	var devices map[device.ID]device.Device
	err = b.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		devices, err = b.Devices.LoadManyTx(ctx, tx, ids)
		return err
	})
	for _, c := range certs {
		of, issuer := hex.EncodeToString(c.Device[:]), c.Issuer.String()
		if d, known := devices[c.Device]; known {
			of = d.Name
		}
		if i, err := b.CA.IssuerByID(c.Issuer); err == nil {
			issuer = i.Name()
		}
		texts = append(texts, fmt.Sprintf("%x %s, of device %s, issued by %s, until %s", c.Serial, c.Profile, of, issuer, time.Unix(c.NotAfter, 0).UTC().Format(time.DateOnly)))
	}
	return texts, err
}

// changeable drops the certificates that have expired and those to which reason does nothing more.
func (b *Bulk) changeable(ctx context.Context, certs []*ca.Certificate, to Reason) (left []*ca.Certificate, err error) {
	now := b.Now().Unix()
	err = b.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		left = nil
		rows, err := readManyTx(ctx, tx, certs)
		if err != nil {
			return err
		}
		for i, c := range certs {
			if c == nil || c.NotAfter < now || rows[i].final() || rows[i].standing() && to == CertificateHold {
				continue
			}
			left = append(left, c)
		}
		return nil
	})
	return left, err
}

// readManyTx reads the rows of certificates in one round trip; of nil none.
func readManyTx(ctx context.Context, tx *db.Tx, certs []*ca.Certificate) ([]Revocation, error) {
	rows := make([]Revocation, len(certs))
	if tx.Arrays() {
		return rows, readArrayTx(ctx, tx, certs, rows)
	}
	stmts := make([]*db.Stmt, 0, len(certs))
	for i, c := range certs {
		if c == nil {
			continue
		}
		rows[i].Serial = c.Serial[:]
		stmts = append(stmts, &db.Stmt{SQL: selectRevoked, Args: []any{int64(c.Cell), c.Serial[:]}, Each: func(r db.Row) error { return rows[i].scan(r) }})
	}
	if err := tx.Send(ctx, stmts...); err != nil {
		return nil, fmt.Errorf("reading revocations: %w", err)
	}
	return rows, nil
}

const selectRevokedArray = `SELECT serial, ` + revokedColumns + ` FROM unnest($1::smallint[], $2::bytea[]) AS t(of_cell, of_serial)
 JOIN revoked ON cell = of_cell AND serial = of_serial`

// readArrayTx reads the rows into rows by one statement: PostgreSQL takes longer to begin one than to find a row.
func readArrayTx(ctx context.Context, tx *db.Tx, certs []*ca.Certificate, rows []Revocation) error {
	var cells []int16
	var serials [][]byte
	place := make(map[[16]byte][]int, len(certs))
	for i, c := range certs {
		if c == nil {
			continue
		}
		rows[i].Serial = c.Serial[:]
		if place[c.Serial] == nil {
			cells, serials = append(cells, int16(c.Cell)), append(serials, c.Serial[:])
		}
		place[c.Serial] = append(place[c.Serial], i)
	}
	err := tx.Each(ctx, func(row db.Row) error {
		var r Revocation
		if err := r.scan(row, &r.Serial); err != nil {
			return err
		}
		for _, i := range place[[16]byte(r.Serial)] {
			r.Serial = rows[i].Serial
			rows[i] = r
		}
		return nil
	}, selectRevokedArray, cells, serials)
	if err != nil {
		return fmt.Errorf("reading revocations: %w", err)
	}
	return nil
}

// StandingTx returns, for each certificate, how it is revoked or on hold in the state of the database that tx sees; nil where it is not.
func (s *Service) StandingTx(ctx context.Context, tx *db.Tx, certs []*ca.Certificate) ([]*Revocation, error) {
	rows, err := readManyTx(ctx, tx, certs)
	if err != nil {
		return nil, err
	}
	list := make([]*Revocation, len(rows))
	for i := range rows {
		if rows[i].standing() {
			list[i] = &rows[i]
		}
	}
	return list, nil
}
