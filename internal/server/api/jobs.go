package api

import (
	"cmp"
	"context"
	"encoding/hex"
	"math"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/access"
	"mooring/internal/core/approve"
	"mooring/internal/core/device"
	"mooring/internal/core/job"
	"mooring/internal/core/revoke"
	"mooring/internal/server/api/v1"
)

type listJobsInput struct {
	State  string `query:"state" enum:"draft,waiting,scheduled,running,paused,done,aborted,failed" doc:"In this state"`
	Kind   string `query:"kind" maxLength:"64" doc:"Of this kind" example:"revoke"`
	Cursor string `query:"cursor" maxLength:"1024" doc:"The next of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Jobs a page"`
}

func (s *server) listJobs(ctx context.Context, actor access.Actor, in *listJobsInput) (v1.JobPage, error) {
	f := job.Filter{Kind: job.Kind(in.Kind), Cursor: in.Cursor, Limit: in.Limit}
	if in.State != "" {
		var err error
		if f.State, err = job.ParseState(in.State); err != nil {
			return v1.JobPage{}, err
		}
	}
	page, next, err := s.Jobs.List(ctx, actor, f)
	if err != nil {
		return v1.JobPage{}, err
	}
	return v1.JobPage{Jobs: each(page, s.shownJob), Next: next}, nil
}

type jobInput struct {
	Job string `path:"job" maxLength:"64" doc:"Id" example:"6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c"`
}

// withJob does what every route about one job does.
func (s *server) withJob(ctx context.Context, actor access.Actor, in *jobInput, do func(context.Context, access.Actor, job.ID) (job.Job, error)) (v1.Job, error) {
	id, err := job.ParseID(in.Job)
	if err != nil { // no id of a job: whoever may not see jobs learns nothing else than with one
		err = cmp.Or(s.Access.Require(ctx, actor, access.JobRead, "job"), err)
		return v1.Job{}, err
	}
	j, err := do(ctx, actor, id)
	if err != nil {
		return v1.Job{}, err
	}
	return s.shownJob(j), nil
}

func (s *server) getJob(ctx context.Context, actor access.Actor, in *jobInput) (v1.Job, error) {
	return s.withJob(ctx, actor, in, s.Jobs.Get)
}

func (s *server) startJob(ctx context.Context, actor access.Actor, in *jobInput) (v1.Job, error) {
	return s.withJob(ctx, actor, in, s.Jobs.Start)
}

func (s *server) pauseJob(ctx context.Context, actor access.Actor, in *jobInput) (v1.Job, error) {
	return s.withJob(ctx, actor, in, s.Jobs.Pause)
}

func (s *server) resumeJob(ctx context.Context, actor access.Actor, in *jobInput) (v1.Job, error) {
	return s.withJob(ctx, actor, in, s.Jobs.Resume)
}

func (s *server) cancelJob(ctx context.Context, actor access.Actor, in *jobInput) (v1.Job, error) {
	return s.withJob(ctx, actor, in, s.Jobs.Cancel)
}

type jobResultsInput struct {
	Job   string `path:"job" maxLength:"64" doc:"Id" example:"6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c"`
	From  int64  `query:"from" minimum:"0" doc:"The next of the answer before"`
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Results at most"`
}

func (s *server) jobResults(ctx context.Context, actor access.Actor, in *jobResultsInput) (v1.JobResults, error) {
	out := v1.JobResults{Results: []v1.JobResult{}}
	_, err := s.withJob(ctx, actor, &jobInput{Job: in.Job}, func(ctx context.Context, actor access.Actor, id job.ID) (job.Job, error) {
		list, err := s.Jobs.Results(ctx, actor, id, in.From, in.Limit)
		for i, r := range list {
			out.Results = append(out.Results, v1.JobResult{N: in.From + int64(i), OK: r.OK, Item: r.Item, Text: r.Text})
		}
		if len(list) == in.Limit {
			out.Next = in.From + int64(len(list))
		}
		return job.Job{}, err
	})
	return out, err
}

func (s *server) shownJob(j job.Job) v1.Job {
	out := v1.Job{ID: j.ID.String(), Kind: string(j.Kind), State: j.State.String(), Title: j.Title, Unit: s.Jobs.Unit(j.Kind), Params: j.Params, Sample: append([]string{}, j.Sample...),
		Ready: j.Ready, Total: j.Total, Done: j.Done, Skipped: j.Skipped, Failed: j.Failed, Rate: math.Round(10*j.Rate()) / 10, Maker: j.Maker.String(),
		AskAbove: j.AskAbove, Undo: j.Undo.String(), NotBefore: moment(j.NotBefore), Created: moment(j.Created), Began: moment(j.Began), Ended: moment(j.Ended), Note: j.Note}
	if left := j.Left(); left > 0 {
		out.Left = left.String()
	}
	return out
}

// how reads what jobs of many have in common.
func (s *server) how(reason, undo string, start bool) (revoke.How, error) {
	h := revoke.How{Undo: s.Undo, Start: start}
	var err error
	if undo != "" {
		if h.Undo, err = time.ParseDuration(undo); err != nil {
			return h, errs.New(errs.Invalid, "undo: %q is no length of time, such as 10m or 0s", shortened(undo))
		}
	}
	h.Reason, err = revoke.ParseReason(reason)
	return h, err
}

type revokeManyInput struct{ Body v1.NewRevocation }

func (s *server) revokeMany(ctx context.Context, actor access.Actor, in *revokeManyInput) (v1.Job, error) {
	b := &in.Body
	if err := s.Access.Require(ctx, actor, access.CertRevoke, "certificates"); err != nil {
		return v1.Job{}, err
	}
	h, err := s.how(b.Reason, b.Undo, b.Start)
	if err != nil {
		return v1.Job{}, err
	}
	j, err := s.Bulk.RevokeMany(ctx, actor, revoke.Filter{Group: b.Group, State: b.State, Tag: b.Tag, Profile: b.Profile, Issuer: b.Issuer, Everything: b.Everything}, h)
	if err != nil {
		return v1.Job{}, err
	}
	return s.shownJob(j), nil
}

type moveManyInput struct{ Body v1.NewMove }

func (s *server) moveMany(ctx context.Context, actor access.Actor, in *moveManyInput) (v1.Job, error) {
	b := &in.Body
	if err := s.Access.Require(ctx, actor, access.DeviceState, "devices"); err != nil {
		return v1.Job{}, err
	}
	h, err := s.how(b.Reason, b.Undo, b.Start)
	if err != nil {
		return v1.Job{}, err
	}
	move, err := device.ParseMove(b.Move)
	if err != nil {
		return v1.Job{}, err
	}
	j, err := s.Bulk.MoveMany(ctx, actor, revoke.Filter{Group: b.Group, State: b.State, Tag: b.Tag, Profile: b.Profile, Everything: b.Everything}, move, h)
	if err != nil {
		return v1.Job{}, err
	}
	return s.shownJob(j), nil
}

type revokeFileInput struct {
	Name   string `query:"name" maxLength:"255" default:"serials" doc:"What messages call the file" example:"batch-17.txt"`
	Reason string `query:"reason" maxLength:"64" doc:"A name of RFC 5280, section 5.3.1" example:"keyCompromise"`
	Undo   string `query:"undo" maxLength:"32" doc:"How long it waits, visibly, before anything is done; jobs.undo when absent" example:"10m"`
	Start  bool   `query:"start" doc:"Start at once; else it stays a draft, to be looked at"`
}

// maxSerials bounds a file of serial numbers in octets: four million lines.
const maxSerials = 160 << 20

// textRoute declares a body of lines by hand, since huma would read a declared one whole.
func textRoute[I any](fn func(s *server, w http.ResponseWriter, r *http.Request, actor access.Actor, in *I) error, types ...string) registrar {
	return func(s *server, a huma.API, op huma.Operation) {
		op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{}}
		for _, t := range types {
			op.RequestBody.Content[t] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}
		}
		describe(&op, "application/json", a.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[v1.Job](), true, ""))
		serve(a, op, writes(s, fn))
	}
}

func (s *server) revokeFile(w http.ResponseWriter, r *http.Request, actor access.Actor, in *revokeFileInput) error {
	if err := s.Access.Require(r.Context(), actor, access.CertRevoke, "certificates"); err != nil {
		return err // before it takes a turn
	}
	h, err := s.how(in.Reason, in.Undo, in.Start)
	if err != nil {
		return err
	}
	return s.upload(w, r, maxSerials, func(body *patient) (job.Job, error) {
		return s.Bulk.RevokeFile(r.Context(), actor, body, in.Name, h)
	})
}

// upload makes a job of a body.
func (s *server) upload(w http.ResponseWriter, r *http.Request, most int64, make func(*patient) (job.Job, error)) error {
	if r.ContentLength > most {
		return web.TooLarge(most)
	}
	done, err := s.imports.take()
	if err != nil {
		return err
	}
	defer done()
	c := http.NewResponseController(w)
	lift(c)
	_ = c.SetWriteDeadline(time.Time{}) // to look up a million numbers takes longer than an answer may
	j, err := make(&patient{r: http.MaxBytesReader(w, r.Body, most), c: c})
	if err != nil {
		return err
	}
	w.Header().Set("Connection", "close") // deadlines were moved: no other request shall meet them
	writeJSON(w, http.StatusCreated, "application/json", s.shownJob(j))
	return nil
}

type listApprovalsInput struct {
	All   bool `query:"all" doc:"Also those that are decided or over"`
	Limit int  `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"At most so many"`
}

func (s *server) listApprovals(ctx context.Context, actor access.Actor, in *listApprovalsInput) (v1.ApprovalList, error) {
	list, err := s.Approve.List(ctx, actor, in.All, in.Limit)
	if err != nil {
		return v1.ApprovalList{}, err
	}
	return v1.ApprovalList{Approvals: each(list, shownApproval)}, nil
}

type approvalInput struct {
	Approval string `path:"approval" maxLength:"64" doc:"Id" example:"0d7f3a4a7c9a2d5f9e7f1a2b3c6f0cbd"`
}

func (s *server) withApproval(ctx context.Context, actor access.Actor, in *approvalInput, perm access.Permission, do func(context.Context, access.Actor, approve.ID) (approve.Approval, error)) (v1.Approval, error) {
	id, err := approve.ParseID(in.Approval)
	if err != nil {
		return v1.Approval{}, cmp.Or(s.Access.Require(ctx, actor, perm, "approval"), err)
	}
	a, err := do(ctx, actor, id)
	if err != nil {
		return v1.Approval{}, err
	}
	if perm == access.ApproveGrant { // it was decided
		s.Jobs.Nudge()
	}
	return shownApproval(a), nil
}

func (s *server) getApproval(ctx context.Context, actor access.Actor, in *approvalInput) (v1.Approval, error) {
	return s.withApproval(ctx, actor, in, access.ApproveRead, s.Approve.Get)
}

func (s *server) grantApproval(ctx context.Context, actor access.Actor, in *approvalInput) (v1.Approval, error) {
	return s.withApproval(ctx, actor, in, access.ApproveGrant, s.Approve.Grant)
}

func (s *server) refuseApproval(ctx context.Context, actor access.Actor, in *approvalInput) (v1.Approval, error) {
	return s.withApproval(ctx, actor, in, access.ApproveGrant, s.Approve.Refuse)
}

func shownApproval(a approve.Approval) v1.Approval {
	return v1.Approval{ID: a.ID.String(), Kind: string(a.Kind), Object: a.Object, Digest: hex.EncodeToString(a.Digest[:]), Summary: a.Summary, Needs: string(a.Needs),
		State: a.State.String(), Requester: a.Requester, Created: moment(a.Created), Expires: moment(a.Expires), Decided: moment(a.Decided), Decider: a.Decider,
		Spent: moment(a.Spent)}
}
