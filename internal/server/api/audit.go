package api

import (
	"context"
	"encoding/hex"
	"log/slog"
	"net/http"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/server/api/v1"
)

type listAuditInput struct {
	After  int64  `query:"after" minimum:"0" doc:"The next of the page before; 0 is the beginning, or with newest the end"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Entries a page"`
	Newest bool   `query:"newest" doc:"Newest first"`
	Device string `query:"device" maxLength:"255" doc:"About this device: name or id"`
	Serial string `query:"serial" maxLength:"64" doc:"About the certificate with this serial number"`
	Action string `query:"action" maxLength:"64" doc:"Of this action" example:"cert.issue"`
}

func (s *server) listAudit(ctx context.Context, actor access.Actor, in *listAuditInput) (v1.EntryPage, error) {
	q := audit.Query{After: in.After, Limit: in.Limit, Newest: in.Newest, Action: in.Action}
	if in.Device != "" {
		q.Device = s.pseudonym(in.Device)
	}
	if in.Serial != "" {
		serial, err := parseSerial(in.Serial)
		if err != nil {
			return v1.EntryPage{}, err
		}
		q.Serial = hex.EncodeToString(serial)
	}
	if err := checkAction(in.Action); err != nil {
		return v1.EntryPage{}, err
	}
	if in.After == 0 && actor.May(access.AuditRead) {
		// What was done before the question is in the answer. Where the record cannot grow, as on a full disk, the answer is what it holds.
		_ = s.Audit.Sequence(ctx)
	}
	list, err := s.Audit.List(ctx, actor, q)
	if err == nil && len(list) == 0 && in.Device != "" {
		// Nothing on record is an answer only about a device that there is. One that has entries need not be looked up: its row may be what
		// somebody removed.
		_, err = s.find(ctx, actor, in.Device)
	}
	if err != nil {
		return v1.EntryPage{}, err
	}
	page := v1.EntryPage{Entries: each(list, shownEntry)}
	if n := len(list); n == in.Limit {
		page.Next = list[n-1].Index
		if !in.Newest {
			page.Next++
		}
	}
	return page, nil
}

func shownEntry(e audit.Indexed) v1.Entry {
	return v1.Entry{Index: e.Index, At: moment(e.At), Action: e.Action, Actor: e.Actor, Device: e.Device, Serial: e.Serial, Object: e.Object, Refused: e.Refused,
		Detail: e.Detail}
}

func (s *server) checkpoint(ctx context.Context, actor access.Actor, _ *none) (v1.Checkpoint, error) {
	if err := s.Access.Require(ctx, actor, access.AuditRead, "audit"); err != nil {
		return v1.Checkpoint{}, err
	}
	signed, size, err := s.Audit.Checkpoint(ctx)
	return v1.Checkpoint{Size: size, Checkpoint: string(signed)}, err
}

type proveInput struct {
	Index int64 `path:"index" minimum:"0" doc:"Of the entry" example:"73894"`
}

// prove has the record sequenced when the entry is too new to be under a checkpoint.
func (s *server) prove(ctx context.Context, actor access.Actor, in *proveInput) (v1.Proof, error) {
	if err := s.Access.Require(ctx, actor, access.AuditRead, "audit"); err != nil {
		return v1.Proof{}, err
	}
	p, err := s.Audit.Prove(ctx, in.Index)
	if errs.Is(err, errs.NotFound) {
		if err := s.Audit.Sequence(ctx); err != nil {
			return v1.Proof{}, err
		}
		p, err = s.Audit.Prove(ctx, in.Index)
	}
	if err != nil {
		return v1.Proof{}, err
	}
	out := v1.Proof{Index: p.Index, Entry: string(p.Entry), Leaf: p.Leaf.String(), Proof: string(p.Text())}
	if p.Left != 0 {
		left := moment(p.Left)
		out.Left = &left
	}
	return out, nil
}

type verifyInput struct {
	Body *v1.Verify `doc:"May be absent"`
}

func (s *server) verify(w http.ResponseWriter, r *http.Request, actor access.Actor, in *verifyInput) error {
	if err := s.Access.Require(r.Context(), actor, access.AuditRead, "audit"); err != nil {
		return err
	}
	done, err := s.verifying.take()
	if err != nil {
		return err
	}
	defer done()
	out := s.stream(w)
	lift(out.c)
	o := audit.VerifyOptions{Checkers: s.Checkers(), Progress: func(done, total int64) {
		out.progress(v1.VerifyLine{Progress: &v1.Progress{Done: done, Total: total}})
	}}
	if in.Body != nil {
		o.Known = each(in.Body.Known, func(text string) []byte { return []byte(text) })
	}
	report, err := s.Audit.Verify(r.Context(), o)
	switch {
	case err == nil:
		shown := ShownReport(report)
		_ = out.line(v1.VerifyLine{Report: &shown})
	case !out.on:
		return err
	default:
		s.logged(r, err)
		p := problemOf(err)
		_ = out.line(v1.VerifyLine{Error: &p})
	}
	return nil
}

// ShownReport is a report of a verification, as it is shown.
func ShownReport(r audit.Report) v1.VerifyReport {
	return v1.VerifyReport{Sound: len(r.Findings) == 0, Entries: r.Entries, Pending: r.Pending, Root: r.Root.String(), Checkpoint: r.Checkpoint, More: r.More, Replayed: r.Replayed, Left: r.Dropped,
		Findings: each(r.Findings, func(f audit.Finding) v1.Finding {
			return v1.Finding{Table: f.Table, Index: f.Index, Action: f.Action, Batch: f.Batch, Text: f.String()}
		})}
}

// problemOf is err as a line of a stream, whose status has been sent already.
func problemOf(err error) v1.Problem {
	status := web.Status(err)
	return v1.Problem{Title: http.StatusText(status), Status: status, Detail: errs.Public(err)}
}

// logged writes the cause of what ends a stream, where the fault is ours: the request's own line can only say 200.
func (s *server) logged(r *http.Request, err error) {
	if kind := errs.KindOf(err); kind == errs.Internal || kind == errs.Unavailable {
		s.Log.LogAttrs(r.Context(), slog.LevelError, "a stream ended early", slog.String("route", r.Pattern), slog.Any("cause", err))
	}
}
