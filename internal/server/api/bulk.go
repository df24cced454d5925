package api

import (
	"mime"
	"net/http"
	"unicode/utf8"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/export"
	"mooring/internal/core/job"
	"mooring/internal/server/api/v1"
)

type issueBundleInput struct {
	Name    string `query:"name" maxLength:"255" default:"bundle" doc:"What messages call the file" example:"batch-17.pem"`
	Profile string `query:"profile" maxLength:"64" doc:"That of each device; its own when absent" example:"device"`
	Start   bool   `query:"start" doc:"Start at once; else it stays a draft, to be looked at"`
}

// maxBundle bounds a bundle in octets.
const maxBundle = 512 << 20

func (s *server) issueBundle(w http.ResponseWriter, r *http.Request, actor access.Actor, in *issueBundleInput) error {
	if err := s.Access.Require(r.Context(), actor, access.CertIssue, "bundle"); err != nil {
		return err // before it takes a turn
	}
	format := ""
	switch contentType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); contentType {
	case "application/x-pem-file", "application/pem-certificate-chain", "text/plain":
		format = "pem"
	case "application/jsonl", "application/x-ndjson":
		format = "jsonl"
	default:
		return errs.New(errs.Invalid, "Content-Type: send application/x-pem-file or application/jsonl")
	}
	if err := s.unknownProfile(errs.Invalid, in.Profile); err != nil {
		return err
	}
	return s.upload(w, r, maxBundle, func(body *patient) (job.Job, error) {
		return s.Bundle.Issue(r.Context(), actor, body, format, in.Name, in.Profile, in.Start)
	})
}

type exportInput struct {
	What    string `path:"what" enum:"devices,certificates" doc:"What to export" example:"devices"`
	Format  string `query:"format" enum:"csv,jsonl" default:"csv" doc:"Form of the file"`
	Group   string `query:"group" maxLength:"255" doc:"Devices: in this group"`
	State   string `query:"state" maxLength:"64" doc:"Devices: in this state"`
	Tag     string `query:"tag" maxLength:"512" doc:"Devices: with this tag: key, or key=value"`
	Profile string `query:"profile" maxLength:"64" doc:"Devices with, or certificates of, this profile"`
	Issuer  string `query:"issuer" maxLength:"64" doc:"Certificates: by this CA: name or id"`
}

func (s *server) export(w http.ResponseWriter, r *http.Request, actor access.Actor, in *exportInput) error {
	done, err := s.exports.take()
	if err != nil {
		return err
	}
	defer done()
	out := s.stream(w)
	lift(out.c)
	q := export.Query{What: in.What, Format: in.Format, Group: in.Group, State: in.State, Tag: in.Tag, Profile: in.Profile, Issuer: in.Issuer}
	file, err := s.Export.Write(r.Context(), actor, q, func(rows int64) { out.progress(v1.ExportLine{Rows: rows}) })
	if err != nil && !out.on {
		return err
	}
	if err == nil {
		defer file.Close()
		if _, err = file.WriteTo(&dataLines{out: out}); err == nil {
			return out.line(v1.ExportLine{Manifest: string(file.Manifest)})
		}
	}
	s.logged(r, err)
	problem := problemOf(err)
	_ = out.line(v1.ExportLine{Error: &problem})
	return nil
}

// dataLines sends a file on in pieces that end between characters.
type dataLines struct {
	out  *stream
	rest []byte
}

// Write makes dataLines an io.Writer. What is written is UTF-8.
func (d *dataLines) Write(p []byte) (int, error) {
	d.rest = append(d.rest, p...)
	end := len(d.rest)
	for n := 1; n < utf8.UTFMax && n <= len(d.rest); n++ {
		if c := d.rest[len(d.rest)-n]; utf8.RuneStart(c) {
			if !utf8.FullRune(d.rest[len(d.rest)-n:]) {
				end = len(d.rest) - n
			}
			break
		}
	}
	if end == 0 {
		return len(p), nil
	}
	err := d.out.line(v1.ExportLine{Data: string(d.rest[:end])})
	d.rest = append(d.rest[:0], d.rest[end:]...)
	return len(p), err
}
