package api

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"mime"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/server/api/v1"
)

const aboutImport = "The body is CSV (RFC 4180) with a first line that names the columns, or one JSON object a line. Columns: name (required), group, " +
	"profile, tags (k=v;k=v, or an object), names (dns:…;ip:…, or an array), birth (SHA-256 of the birth certificate), id (only checked). " +
	"The answer is a stream of JSON lines that begins while the body is still being sent; the last line has report or error. With tokens also the " +
	"permission device.token."

type importInput struct {
	Name      string `query:"name" maxLength:"255" default:"import" doc:"What messages call the file" example:"devices.csv"`
	Size      int64  `query:"size" minimum:"0" doc:"Octets of the body, for the progress only"`
	Profile   string `query:"profile" doc:"Of rows that name none"`
	Group     string `query:"group" doc:"Of rows that name none"`
	Tokens    bool   `query:"tokens" doc:"Answer with a token for each device as well"`
	TokenLife string `query:"token_life" doc:"How long tokens are good: 1m to 2160h; 168h when absent" example:"24h"`
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
	defer done()
	out := s.stream(w)
	if err := out.c.EnableFullDuplex(); err != nil {
		return errs.Wrap(errs.Internal, err, "progress during an upload")
	}
	lift(out.c)
	if in.Tokens {
		src.Tokens = &tokenLines{out: out}
	}
	report, err := s.Devices.Import(r.Context(), actor, src, func(done, total int64) {
		out.progress(v1.ImportLine{Progress: &v1.Progress{Done: done, Total: total}})
	})
	if errs.Is(err, errs.Invalid) && report.Wrong > 0 {
		err = s.importedBefore(r.Context(), &report, err)
	}
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		err = web.TooLarge(large.Limit)
	}
	switch {
	case err == nil:
		_ = out.line(v1.ImportLine{Report: &v1.ImportReport{Devices: report.Devices, SHA256: hex.EncodeToString(report.SHA256[:])}})
	case !out.on:
		return err
	default:
		s.logged(r, err)
		_ = out.line(v1.ImportLine{Error: &v1.ImportError{Problem: problemOf(err), Problems: report.Problems, Wrong: report.Wrong}})
	}
	return nil
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
			return errs.Wrap(errs.Conflict, refusal, "this very file was imported already, at %s: %s devices. Nothing was stored now",
				moment(e.At).Format(time.RFC3339), e.Detail["rows"])
		}
	}
	return refusal
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
