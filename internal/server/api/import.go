package api

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"reflect"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/job"
	"mooring/internal/server/api/v1"
)

const aboutImport = "The body is CSV (RFC 4180) with a first line that names the columns, or one JSON object a line. Columns: name (required), group, " +
	"profile, tags (k=v;k=v, or an object), names (dns:…;ip:…, or an array), birth (SHA-256 of the birth certificate, or the certificate in PEM or base64), maker and serial (the manufacturer and the serial number in the device's IDevID), " +
	"id (only checked). All of it is checked before anything is stored. The answer is a stream of JSON lines that begins while the body is still being " +
	"sent. The line with accepted says that the file is kept and a job imports it, also when nobody listens any more; the last line has report or error. " +
	"With tokens also the permission device.token."

type importInput struct {
	Name      string `query:"name" maxLength:"255" default:"import" doc:"What messages call the file" example:"devices.csv"`
	Size      int64  `query:"size" minimum:"0" doc:"Octets of the body, for the progress only"`
	Profile   string `query:"profile" doc:"Of rows that name none"`
	Group     string `query:"group" doc:"Of rows that name none"`
	Tokens    bool   `query:"tokens" doc:"Answer with a token for each device as well"`
	TokenLife string `query:"token_life" doc:"How long tokens are good: 1m to 2160h; 168h when absent" example:"24h"`
	Detach    bool   `query:"detach" doc:"Answer as soon as the file is accepted: the report names the job"`
}

// importRoute declares the body by hand, since huma would read a declared one whole.
func importRoute(s *server, a huma.API, op huma.Operation) {
	file := &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"text/csv": file, "application/jsonl": file}}
	describe(&op, "application/jsonl", a.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[v1.ImportLine](), true, ""))
	serve(a, op, writes(s, (*server).importDevices))
}

func (s *server) importDevices(w http.ResponseWriter, r *http.Request, actor access.Actor, in *importInput) error {
	if err := s.Access.Require(r.Context(), actor, access.DeviceWrite, "device"); err != nil {
		return err // before it takes a turn
	}
	src, err := s.source(w, r, in)
	if err != nil {
		return err
	}
	done, err := s.imports.take()
	if err != nil {
		return err
	}
	done = sync.OnceFunc(done)
	defer done()
	out := s.stream(w)
	if err := out.c.EnableFullDuplex(); err != nil {
		return errs.Wrap(errs.Internal, err, "progress during an upload")
	}
	lift(out.c)
	if in.Tokens {
		src.Tokens = &tokenLines{out: out}
	}
	j, report, err := s.Importer.Import(r.Context(), actor, src, func(done, total int64) {
		out.progress(v1.ImportLine{Progress: &v1.Progress{Done: done, Total: total}})
	})
	done() // from here on it is the job's turn
	if errs.Is(err, errs.Invalid) && report.Wrong > 0 {
		err = s.importedBefore(r.Context(), &report, err)
	}
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		err = web.TooLarge(large.Limit)
	}
	if err == nil && !in.Detach {
		_ = out.line(v1.ImportLine{Accepted: importReport(&j, &report)}) // kept in out.err; a client that is gone ends the request's context
		j, err = s.follow(r, actor, out, j, report.Octets)
	}
	if err != nil && !out.on {
		return err
	}
	if err != nil {
		s.logged(r, err)
		_ = out.line(v1.ImportLine{Error: &v1.ImportError{Problem: problemOf(err), Problems: report.Problems, Wrong: report.Wrong}})
		return nil
	}
	end := importReport(&j, &report)
	if j.Failed > 0 {
		if late, err := s.Jobs.Results(r.Context(), actor, j.ID, 0, lateShown); err == nil { // the number stands there in any case
			for _, one := range late {
				end.Problems = append(end.Problems, one.Text)
			}
		}
	}
	_ = out.line(v1.ImportLine{Report: end})
	return nil
}

// lateShown is how many rows that came too late are named at once; the job has the others.
const lateShown = 20

func importReport(j *job.Job, r *device.ImportReport) *v1.ImportReport {
	return &v1.ImportReport{Devices: j.Done, SHA256: hex.EncodeToString(r.SHA256[:]), Job: j.ID.String(), State: j.State.String(), Rows: j.Total, Failed: j.Failed}
}

// follow tells of the progress of an import until it has ended. Its octets were read: that was the first half.
func (s *server) follow(r *http.Request, actor access.Actor, out *stream, j job.Job, octets int64) (job.Job, error) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go cancelWhenDraining(ctx, r, cancel)
	j, err := s.Jobs.Await(ctx, actor, j.ID, func(j job.Job) bool {
		out.progress(v1.ImportLine{Progress: &v1.Progress{Done: octets + octets*j.Handled()/max(j.Total, 1), Total: 2 * octets}})
		return j.State.Ended() || j.State == job.Paused
	})
	switch {
	case err != nil:
		return j, err
	case j.State != job.Done:
		return j, errs.New(errs.Conflict, "the import does not go on: job %s is %s after %d of %d devices: %s", j.ID, j.State, j.Done, j.Total, j.Note)
	}
	return j, nil
}

// importsLookedAt bounds how many imports of the past are compared with a file.
const importsLookedAt = 1000

// importedBefore says better what is wrong with a file that was imported already: whoever was cut off from the answer sends it again to be sure.
func (s *server) importedBefore(ctx context.Context, report *device.ImportReport, refusal error) error {
	if err := s.Audit.Sequence(ctx); err != nil {
		return refusal
	}
	past, err := s.Audit.List(ctx, access.System("api"), audit.Query{Action: "device.import", Newest: true, Limit: importsLookedAt})
	if err != nil {
		return refusal // which is right, if not as clear
	}
	for _, e := range past {
		if e.Refused == "" && e.Detail["sha256"] == hex.EncodeToString(report.SHA256[:]) {
			report.Problems, report.Wrong = nil, 0
			return errs.Wrap(errs.Conflict, refusal, "this very file was imported already, at %s: %s devices%s. Nothing was stored now",
				moment(e.At).Format(time.RFC3339), e.Detail["rows"], s.importStands(ctx, e.Detail["job"]))
		}
	}
	return refusal
}

// importStands says how far the job of an import of the past is, when it is not done.
func (s *server) importStands(ctx context.Context, id string) string {
	known, err := job.ParseID(id)
	if err != nil {
		return ""
	}
	j, err := s.Jobs.Get(ctx, access.System("api"), known)
	if err != nil || j.State == job.Done && j.Failed == 0 {
		return "" // jobs that ended long ago are forgotten
	}
	return fmt.Sprintf("; job %s is %s, %d done and %d failed", j.ID, j.State, j.Done, j.Failed)
}

// source says what is to be read, and how.
func (s *server) source(w http.ResponseWriter, r *http.Request, in *importInput) (device.Source, error) {
	src := device.Source{Name: in.Name, Size: in.Size, Profile: in.Profile, Group: in.Group}
	contentType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case err == nil && contentType == "text/csv":
		src.Format = "csv"
	case err == nil && (contentType == "application/jsonl" || contentType == "application/x-ndjson"):
		src.Format = "jsonl"
	default:
		return src, errs.New(errs.Invalid, "Content-Type: send text/csv or application/jsonl")
	}
	if r.ContentLength > s.MaxImport {
		return src, web.TooLarge(s.MaxImport)
	}
	if src.Size == 0 && r.ContentLength > 0 {
		src.Size = r.ContentLength
	}
	src.R = &patient{r: http.MaxBytesReader(w, r.Body, s.MaxImport), c: http.NewResponseController(w)}
	if src.TokenLife, err = parseTokenLife("token_life", in.TokenLife); err != nil {
		return src, err
	}
	return src, s.unknownProfile(errs.Invalid, in.Profile)
}

// tokenLines sends CSV on in pieces of whole lines.
type tokenLines struct {
	out  *stream
	rest []byte // of a line whose end has not come
}

// Write makes tokenLines an io.Writer. The last line must end in a line feed.
func (t *tokenLines) Write(p []byte) (int, error) {
	t.rest = append(t.rest, p...)
	end := bytes.LastIndexByte(t.rest, '\n') + 1
	if end == 0 {
		return len(p), nil
	}
	err := t.out.line(v1.ImportLine{Tokens: string(t.rest[:end])})
	t.rest = append(t.rest[:0], t.rest[end:]...)
	return len(p), err
}
