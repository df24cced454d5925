package device

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
)

// Source is a file of devices to be imported.
//
// Format "csv" is RFC 4180 with a first line that names the columns; "jsonl" has one JSON object a line. The columns or fields are
//
//	name     required
//	group    default: Source.Group
//	profile  default: Source.Profile
//	tags     csv: "k=v;k=v", jsonl: an object of strings
//	names    csv: "dns:a.example;ip:192.0.2.1", jsonl: an array of strings
//	birth    SHA-256 of the birth certificate in hexadecimal digits, or the certificate in PEM or as DER in base64
//	maker    with serial: the manufacturer's registered name, and the serial number in the subject of the device's IDevID
//	serial
//	id       only checked: it must be the id that the name has here
//
// A byte order mark and CRLF are tolerated; a row has at most 64 KiB.
type Source struct {
	R       io.Reader // need not be seekable; read once
	Name    string    // stands in the error texts, such as "devices.csv"
	Format  string    // "csv" or "jsonl"
	Size    int64     // octets that R will give, for the progress only; 0 = not known
	Profile string    // of rows that name none
	Group   string    // of rows that name none
	// Tokens, when set, receives CSV "name,token" with an enrolment token for each device, before anything is stored: a token that is lost
	// on the way to a full disk would otherwise belong to a device that exists. When the import then fails the tokens are void.
	Tokens    io.Writer
	TokenLife time.Duration // 0 = TokenLife
}

// ImportReport says what an import did or found.
type ImportReport struct {
	Devices  int64    // added
	Octets   int64    // that were read
	SHA256   [32]byte // of these
	Problems []string // the first things that are wrong, as "devices.csv:17: column profile: …"
	Wrong    int64    // how many things are wrong
}

// The bounds of one import.
const (
	importMost    = 4_000_000 // rows of one file: the place of each is kept in memory
	problemsMost  = 20
	importChunk   = 2000 // rows a statement (PostgreSQL) and an audit entry row
	importStep    = 2000 // rows a step of a job
	lookupChunk   = 256  // keys a look-up
	progressEvery = 1000 // rows
)

// Import adds the devices of a file, all or none, at once: everything is checked before anything is written, and it is written in one transaction.
// It is for whoever has the database to himself, such as a new installation that is filled: on SQLite other writers wait until the transaction ends,
// about ten seconds per million devices. Importer does the same as a job. The error for a file with mistakes has kind Invalid and lists the first
// twenty with their lines; nothing is stored then. A context that ends stops the import.
//
// progress, when set, is called now and then with how much is done of total; total is 0 until the size of the work is known.
func (r *Registry) Import(ctx context.Context, actor access.Actor, src Source, progress func(done, total int64)) (ImportReport, error) {
	s, err := r.newImport(ctx, actor, src, progress)
	if err != nil {
		return ImportReport{}, err
	}
	defer s.spool.close()
	if err := s.check(ctx); err != nil {
		return s.report(0), err
	}
	if err := s.store(ctx); err != nil {
		return s.report(0), err
	}
	return s.report(int64(len(s.spool.places))), nil
}

// newImport returns an import that has yet to read anything. Its spool is to be closed.
func (r *Registry) newImport(ctx context.Context, actor access.Actor, src Source, progress func(done, total int64)) (*importing, error) {
	if err := r.access.Require(ctx, actor, access.DeviceWrite, "device"); err != nil {
		return nil, err
	}
	s := &importing{r: r, src: src, actor: actor, sum: sha256.New(), salt: []byte{}, profiles: map[string]profileFacts{}, progress: progress, at: r.now().Unix()}
	if s.progress == nil {
		s.progress = func(int64, int64) {}
	}
	if src.Tokens != nil {
		if err := r.access.Require(ctx, actor, access.DeviceToken, "device"); err != nil {
			return nil, err
		}
		if err := s.prepareTokens(); err != nil {
			return nil, err
		}
	}
	var err error
	s.spool, err = newSpool()
	return s, err
}

// importing is one import under way.
type importing struct {
	r        *Registry
	src      Source
	actor    access.Actor
	at       int64
	spool    *spool
	sum      hash.Hash
	read     int64 // octets
	profiles map[string]profileFacts
	granting bool // some row's profile grants a role, or it bears the platform's own name
	problems problems
	progress func(done, total int64)

	salt  []byte // of the token of each device, so that none is kept anywhere; empty = no tokens
	until int64
}

type profileFacts struct {
	err    error
	grants bool
}

// check reads and judges everything, and hands out the tokens, before anything is stored.
func (s *importing) check(ctx context.Context) error {
	steps := []func(context.Context) error{s.readAll, s.findDoubles, s.findKnown, s.judge, s.handOutTokens}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *importing) report(devices int64) ImportReport {
	p := ImportReport{Devices: devices, Octets: s.read, Problems: s.problems.lines(s.src.Name), Wrong: s.problems.total}
	s.sum.Sum(p.SHA256[:0])
	return p
}

// Read counts and digests what the parser takes from the source.
func (s *importing) Read(p []byte) (int, error) {
	n, err := s.src.R.Read(p)
	s.sum.Write(p[:n])
	s.read += int64(n)
	if err != nil && err != io.EOF {
		err = errs.Wrap(errs.Invalid, err, "%s: the file cannot be read to its end; nothing was stored", s.src.Name)
	}
	return n, err
}

func (s *importing) givenUp(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return errs.Wrap(errs.Unavailable, err, "%s: the import was given up; nothing was stored", s.src.Name)
	}
	return nil
}

func (s *importing) readAll(ctx context.Context) error {
	rows, err := newRowReader(s.src.Format, s)
	for n := 0; err == nil; n++ {
		if n%progressEvery == 0 {
			if err := s.givenUp(ctx); err != nil {
				return err
			}
			s.progress(s.read, 2*s.src.Size)
		}
		if n >= importMost {
			return errs.New(errs.Limited, "%s: more than %d rows: split the file", s.src.Name, importMost)
		}
		err = s.readRow(rows)
	}
	var syntax *rowError
	switch {
	case errors.Is(err, io.EOF):
		return s.spool.sorted()
	case errors.As(err, &syntax):
		s.problems.add(syntax.line, syntax.text)
		return s.spool.sorted()
	}
	return err
}

// readRow takes one row. What is wrong with the row alone is noted; an error ends the reading.
func (s *importing) readRow(rows rowReader) error {
	row, err := rows.next()
	if e, ok := err.(*rowError); ok && !e.final {
		s.problems.add(e.line, e.text)
		return nil
	}
	if err != nil {
		return err
	}
	c, err := s.parse(row)
	if err != nil {
		s.problems.add(row.line, "column "+errs.Public(err))
		return nil
	}
	id, cell := s.r.IDOf(c.name)
	if row.id != "" && !strings.EqualFold(row.id, id.String()) {
		s.problems.add(row.line, fmt.Sprintf("column id: %s is not the id of this name here", shown(row.id)))
		return nil
	}
	return s.spool.add(&c, row.line, id, cell, s.r.productKey(c.product))
}

// findDoubles looks for names and birth certificates that the file holds twice: equals are neighbours now.
func (s *importing) findDoubles(context.Context) error {
	p := s.spool.places
	for i := 1; i < len(p); i++ {
		if p[i].id == p[i-1].id {
			c, _, err := s.spool.at(p[i].off)
			if err != nil {
				return err
			}
			s.problems.add(int(p[i].line), fmt.Sprintf("column name: %q stands in line %d already", c.name, p[i-1].line))
		}
	}
	b := s.spool.births
	for i := 1; i < len(b); i++ {
		if b[i].fingerprint == b[i-1].fingerprint {
			s.problems.add(int(b[i].line), doubleText(&b[i], b[i-1].line))
		}
	}
	return nil
}

// doubleText says that something which only one device can have stands in an earlier line too.
func doubleText(b *birthPlace, line uint32) string {
	if b.product {
		return fmt.Sprintf("column serial: this manufacturer and serial number stand in line %d already", line)
	}
	return fmt.Sprintf("column birth: %x… stands in line %d already", b.fingerprint[:4], line)
}

// knownText says that a registered device has it.
func knownText(b *birthPlace) string {
	if b.product {
		return "column serial: another device is registered with this manufacturer and serial number"
	}
	return "column birth: another device is known by this certificate"
}

// findKnown looks for names and birth certificates that the registry holds already.
func (s *importing) findKnown(ctx context.Context) error {
	var found problems
	err := s.r.db.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		found = problems{}
		places := s.spool.places
		err := lookup(ctx, tx, selectKnown, len(places),
			func(i int) (uint8, []byte) { return places[i].cell, places[i].id[:] },
			func(i int) error {
				c, _, err := s.spool.at(places[i].off)
				found.add(int(places[i].line), fmt.Sprintf("column name: a device %q exists already", c.name))
				return err
			})
		if err != nil {
			return err
		}
		births := s.spool.births
		return lookup(ctx, tx, selectKnownBirth, len(births),
			func(i int) (uint8, []byte) { return births[i].fingerprint[0], births[i].fingerprint[:] },
			func(i int) error {
				found.add(int(births[i].line), knownText(&births[i]))
				return nil
			})
	})
	s.problems.merge(found)
	return err
}

// judge refuses a file with mistakes, and one that makes more of its devices than the actor may.
func (s *importing) judge(ctx context.Context) error {
	if s.problems.total > 0 {
		text := strings.Join(s.problems.lines(s.src.Name), "\n")
		if more := s.problems.total - int64(len(s.problems.first)); more > 0 {
			text += fmt.Sprintf("\nand %d more", more)
		}
		return errs.New(errs.Invalid, "%s\nnothing was stored", text)
	}
	if len(s.spool.places) == 0 {
		return errs.New(errs.Invalid, "%s: the file holds no device", s.src.Name)
	}
	if s.granting {
		return s.r.access.Require(ctx, s.actor, access.Grant, "device")
	}
	return nil
}

func (s *importing) prepareTokens() (err error) {
	s.salt = newTokenSalt()
	s.until, err = tokenUntil(s.r.now(), s.src.TokenLife)
	return err
}

// tokens reports whether the devices get tokens. One salt serves them all: each token follows from the device's id as well.
func (s *importing) tokens() bool { return len(s.salt) > 0 }

// handOutTokens writes the tokens in the order of the file.
func (s *importing) handOutTokens(context.Context) error {
	if !s.tokens() {
		return nil
	}
	out := bufio.NewWriterSize(s.src.Tokens, 64<<10)
	fmt.Fprintln(out, "name,token")
	for off := int64(0); off < s.spool.end; {
		c, next, err := s.spool.at(off)
		if err != nil {
			return err
		}
		id, _ := s.r.IDOf(c.name)
		// No character of a name or token needs quotation marks.
		fmt.Fprintf(out, "%s,%s\n", c.name, encodeTokenText(s.r.tokenSecret(id, s.salt)))
		off = next
	}
	// A Writer keeps its first error.
	if err := out.Flush(); err != nil {
		return errs.Wrap(errs.Invalid, err, "the tokens cannot be written; nothing was stored")
	}
	return nil
}

// store writes everything in one transaction.
func (s *importing) store(ctx context.Context) error {
	err := s.r.db.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		w := importWriter{r: s.r, tx: tx, actor: s.actor.String(), at: s.at, salt: s.salt, until: s.until}
		done := int64(0)
		rows := make([]importRow, 0, importChunk)
		for chunk := range slices.Chunk(s.spool.places, importChunk) {
			if err := s.givenUp(ctx); err != nil {
				return err
			}
			rows = rows[:0]
			for _, p := range chunk {
				row, err := s.spool.row(p)
				if err != nil {
					return err
				}
				rows = append(rows, row)
			}
			if err := w.devices(ctx, rows); err != nil {
				return err
			}
			done += int64(len(chunk))
			s.progress(s.read+s.read*done/int64(len(s.spool.places)), 2*s.read)
		}
		for chunk := range slices.Chunk(s.spool.births, importChunk) {
			if err := w.births(ctx, chunk); err != nil {
				return err
			}
		}
		return s.r.audit.Append(ctx, tx, s.summary())
	})
	if db.IsConflict(err) {
		return errs.Wrap(errs.Conflict, err, "%s: the registry changed during the import and nothing was stored: import it again", s.src.Name)
	}
	return err
}

// summary is the entry about the file as a whole.
func (s *importing) summary() audit.Entry {
	return audit.Entry{At: s.at, Action: "device.import", Actor: s.actor.String(), Detail: map[string]string{
		"rows": strconv.Itoa(len(s.spool.places)), "sha256": hex.EncodeToString(s.sum.Sum(nil)), "tokens": strconv.FormatBool(s.tokens())}}
}

// problems keeps the first wrong lines of a file, by line.
type problems struct {
	first []rowError
	total int64
}

func (p *problems) add(line int, text string) {
	p.total++
	i, _ := slices.BinarySearchFunc(p.first, line, func(e rowError, line int) int {
		if e.line <= line {
			return -1
		}
		return 1
	})
	if i >= problemsMost {
		return
	}
	p.first = slices.Insert(p.first, i, rowError{line: line, text: text})
	p.first = p.first[:min(len(p.first), problemsMost)]
}

func (p *problems) merge(o problems) {
	for _, e := range o.first {
		p.add(e.line, e.text)
	}
	p.total += o.total - int64(len(o.first))
}

func (p *problems) lines(name string) []string {
	var out []string
	for _, e := range p.first {
		out = append(out, fmt.Sprintf("%s:%d: %s", name, e.line, e.text))
	}
	return out
}
