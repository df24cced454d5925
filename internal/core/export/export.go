// Package export writes devices and certificates out, as CSV or JSON Lines, with a signed manifest that lets a stranger see whether a file is
// whole and as it was written.
//
// An export is one state of the database, as of one moment, however long it takes: it is read in one transaction into a temporary file, and
// handed out from there, so that a slow reader holds up nothing. What is exported stands in the order of the tables, by which two exports can be
// compared.
//
// The manifest is a signed note (the form of checkpoints) under the key of the audit record:
//
//	mooring-export/v1
//	what: devices
//	format: csv
//	query: group=plant-4
//	at: 2026-11-26T01:40:00Z
//	rows: 1234
//	sha256: 6f0c…
//	log: fleet.example.com/audit
//	entries: 99120
//	root: 3q2+7w…
//
// entries and root are those of the record's newest checkpoint: what was recorded up to there was done before the export or while it was made.
//
// The package deliberately exports no keys, tokens or requests, and keeps no exports.
package export

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
)

// Kind is the first line of a manifest.
const Kind = "mooring-export/v1"

// What can be exported.
const (
	Devices      = "devices"
	Certificates = "certificates"
)

// Deps are what a Service stands on.
type Deps struct {
	DB      *db.DB
	Audit   *audit.Log
	Access  *access.Decider
	Devices *device.Registry
	CA      *ca.Authority
	Revoke  *revoke.Service
	Now     func() time.Time
}

// Service exports. It is safe for concurrent use.
type Service struct{ Deps }

// New returns the service over d.
func New(d Deps) *Service { return &Service{d} }

// Query says what to export. Fields that are set must all fit; those of the other kind must be empty.
type Query struct {
	What   string // Devices or Certificates
	Format string // "csv" or "jsonl"
	// Of devices.
	Group, State, Tag string
	// Of devices their own, of certificates theirs.
	Profile string
	// Of certificates: name or id of a CA.
	Issuer string
}

// String returns what the query restricts, for the manifest.
func (q Query) String() string {
	var parts []string
	for _, p := range [][2]string{{"group", q.Group}, {"state", q.State}, {"tag", q.Tag}, {"profile", q.Profile}, {"issuer", q.Issuer}} {
		if p[1] != "" {
			parts = append(parts, p[0]+"="+strconv.QuoteToGraphic(p[1]))
		}
	}
	return strings.Join(parts, " ")
}

// File is a finished export. Close it.
type File struct {
	Rows     int64
	Manifest []byte // the signed note
	file     *os.File
	named    bool // it stands in the temporary folder
}

// WriteTo hands the export out.
func (f *File) WriteTo(w io.Writer) (int64, error) {
	if _, err := f.file.Seek(0, io.SeekStart); err != nil {
		return 0, fmt.Errorf("reading the temporary file of an export: %w", err)
	}
	return io.Copy(w, f.file)
}

// Close takes the temporary file away.
func (f *File) Close() {
	_ = f.file.Close()
	if f.named {
		_ = os.Remove(f.file.Name()) // what cannot be removed is in the temporary folder
	}
}

// Write makes an export. It needs device.read or cert.read, and audit.read for the manifest. progress, when set, is called now and then with the
// rows written so far.
func (s *Service) Write(ctx context.Context, actor access.Actor, q Query, progress func(rows int64)) (*File, error) {
	perm := access.DeviceRead
	if q.What == Certificates {
		perm = access.CertRead
	}
	for _, p := range []access.Permission{perm, access.AuditRead} {
		if err := s.Access.Require(ctx, actor, p, "export of "+q.What); err != nil {
			return nil, err
		}
	}
	rows, err := s.source(q)
	if err != nil {
		return nil, err
	}
	temporary, err := os.CreateTemp("", "mooring-export-")
	if err != nil {
		return nil, fmt.Errorf("making a temporary file for an export: %w", err)
	}
	f := &File{file: temporary, named: os.Remove(temporary.Name()) != nil} // it goes on without a name, so that nothing is left of it after a crash
	if err := s.write(ctx, f, q, rows, progress); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// source says how the rows of a query are read.
type source func(ctx context.Context, tx *db.Tx, put func(row) error) error

func (s *Service) source(q Query) (source, error) {
	if !slices.Contains([]string{"csv", "jsonl"}, q.Format) {
		return nil, errs.New(errs.Invalid, "format: an export is csv or jsonl, not %q", q.Format)
	}
	switch q.What {
	case Devices:
		if q.Issuer != "" {
			return nil, errs.New(errs.Invalid, "issuer: devices have none; choose them by group, state, tag or profile")
		}
		return s.devices(q)
	case Certificates:
		if q.Group+q.State+q.Tag != "" {
			return nil, errs.New(errs.Invalid, "group, state and tag are of devices; choose certificates by issuer or profile")
		}
		return s.certificates(q)
	}
	return nil, errs.New(errs.Invalid, "what: devices or certificates can be exported, not %q", q.What)
}

// progressEvery is how many rows lie between two calls of progress.
const progressEvery = 1000

func (s *Service) write(ctx context.Context, f *File, q Query, rows source, progress func(int64)) error {
	var sum hash.Hash
	var at time.Time
	err := s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error { // all of it again when the store interrupts
		if _, err := f.file.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("writing the temporary file of an export: %w", err)
		}
		if err := f.file.Truncate(0); err != nil {
			return fmt.Errorf("writing the temporary file of an export: %w", err)
		}
		sum, at, f.Rows = sha256.New(), s.Now(), 0
		buffered := bufio.NewWriterSize(io.MultiWriter(f.file, sum), 256<<10)
		out := newWriter(q, buffered)
		err := rows(ctx, tx, func(r row) error {
			if f.Rows++; progress != nil && f.Rows%progressEvery == 0 {
				progress(f.Rows)
			}
			return out.put(r)
		})
		if err == nil {
			err = out.end()
		}
		if err == nil {
			err = buffered.Flush()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("exporting %s: %w", q.What, err)
	}
	f.Manifest, err = s.manifest(ctx, Manifest{What: q.What, Format: q.Format, Query: q.String(), At: at, Rows: f.Rows, SHA256: hex.EncodeToString(sum.Sum(nil))})
	return err
}

// Manifest is what a signed manifest says.
type Manifest struct {
	What, Format, Query string
	At                  time.Time
	Rows                int64
	SHA256              string // of the file
	Log                 string // the record's name
	Entries             int64  // in the record when the export was made
	Root                string // of these entries
}

func (s *Service) manifest(ctx context.Context, m Manifest) ([]byte, error) {
	if err := s.Audit.Sequence(ctx); err != nil {
		return nil, fmt.Errorf("bringing the record up to date for an export: %w", err)
	}
	signed, size, err := s.Audit.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	lines := strings.SplitN(string(signed), "\n", 4)
	if len(lines) < 4 {
		return nil, errs.New(errs.Internal, "the newest checkpoint has less than three lines")
	}
	m.Log, m.Entries, m.Root = lines[0], size, lines[2]
	return s.Audit.SignStatement(Kind, m.text())
}

func (m *Manifest) text() string {
	return fmt.Sprintf("what: %s\nformat: %s\nquery: %s\nat: %s\nrows: %d\nsha256: %s\nlog: %s\nentries: %d\nroot: %s\n", m.What, m.Format, m.Query,
		m.At.UTC().Format(time.RFC3339), m.Rows, m.SHA256, m.Log, m.Entries, m.Root)
}

// Verify reads an export and its manifest, and reports whether v's key vouches for just these octets. It needs no server.
func Verify(file io.Reader, manifest []byte, v note.Verifier) (Manifest, error) {
	text, err := audit.OpenStatement(manifest, Kind, v)
	if err != nil {
		return Manifest{}, err
	}
	m, err := parse(text)
	if err != nil {
		return m, err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return m, errs.Wrap(errs.Unavailable, err, "the export cannot be read to its end")
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != m.SHA256 {
		return m, errs.New(errs.Invalid, "the file is not the one that was exported: its SHA-256 is %s, the manifest says %s", got, m.SHA256)
	}
	return m, nil
}

// parse reads what text writes, and nothing else.
func parse(text string) (m Manifest, err error) {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		fields[strings.TrimSuffix(name, ":")] = value
	}
	m = Manifest{What: fields["what"], Format: fields["format"], Query: fields["query"], SHA256: fields["sha256"], Log: fields["log"], Root: fields["root"]}
	var failed [3]error
	m.At, failed[0] = time.Parse(time.RFC3339, fields["at"])
	m.Rows, failed[1] = strconv.ParseInt(fields["rows"], 10, 64)
	m.Entries, failed[2] = strconv.ParseInt(fields["entries"], 10, 64)
	for _, f := range failed {
		if f != nil {
			return m, errs.Wrap(errs.Invalid, f, "the manifest is not in the form that this version knows")
		}
	}
	if m.text() != text {
		return m, errs.New(errs.Invalid, "the manifest is not in the form that this version knows")
	}
	return m, nil
}
