package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/base/errs"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const jobHelp = `Work on many things at once, in the background: revocations, moves of devices, issues from bundles. A job finds its items and keeps them
(draft), waits for a second person where that is needed (waiting) and for the time to think better of it (scheduled), then does its
work in steps (running). It goes on after a crash where it stood.`

const jobListHelp = `Lists jobs, newest first. They are forgotten a month after they ended.`

const jobShowHelp = `Shows a job with its progress, some of its items, and the first items that failed with the reasons. --results shows all that is kept.`

const jobWatchHelp = `Shows the progress of a job until it has ended. Interrupting it does not stop the job. With --json each change is one line.`

func (c *cli) jobCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "job", Short: "Look at and steer work on many things", Long: jobHelp,
		Example: "  mooring job list\n  mooring job watch 6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c\n  mooring job pause 6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c",
	}, c.jobListCommand(), c.jobShowCommand(), c.jobWatchCommand(),
		c.jobMoveCommand("start", "Start a draft", "Starts a draft, once its items were found. Only whoever made it can."),
		c.jobMoveCommand("pause", "Pause a job", "Pauses a job before its next step. Nothing of it is done until it is resumed."),
		c.jobMoveCommand("resume", "Let a paused or failed job go on", "Lets a job go on that was paused, or that failed and whose cause was mended."),
		c.jobMoveCommand("cancel", "End a job", "Ends a job before its next step. What was done stays done."),
	)
}

func (c *cli) jobListCommand() *cobra.Command {
	var f client.Jobs
	var p paging
	cmd := &cobra.Command{
		Use: "list", Short: "List jobs", Long: jobListHelp,
		Example: "  mooring job list\n  mooring job list --state running",
		Args:    needs(),
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&f.State, "state", "", "only in this state: draft, waiting, scheduled, running, paused, done, aborted or failed")
	cmd.Flags().StringVar(&f.Kind, "kind", "", "only of this kind, such as revoke")
	p.flags(cmd)
	cmd.RunE = c.online(func(ctx context.Context, s *client.Client, _ []string) error {
		return listing[v1.Job]{
			name:  "jobs",
			head:  []string{"JOB", "STATE", "DONE", "FAILED", "OF", "MADE", "WHAT"},
			cells: jobCells,
			fetch: func(cursor string, limit int) ([]v1.Job, string, error) {
				f.Cursor, f.Limit = cursor, limit
				page, err := s.Jobs(ctx, f)
				return page.Jobs, page.Next, err
			},
		}.print(c, cmd, p)
	})
	return cmd
}

func jobCells(j v1.Job) []string {
	return []string{j.ID, j.State, fmt.Sprint(j.Done + j.Skipped), fmt.Sprint(j.Failed), fmt.Sprint(j.Total), minute(j.Created), j.Title}
}

func (c *cli) jobShowCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "show JOB", Short: "Show a job", Long: jobShowHelp,
		Example: "  mooring job show 6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c",
		Args:    needs("JOB"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			j, err := s.Job(ctx, args[0])
			if err != nil {
				return err
			}
			results, err := jobResults(ctx, s, j.ID, all)
			if err != nil {
				return err
			}
			return c.show(struct {
				v1.Job
				Results []v1.JobResult `json:"results,omitempty"`
			}{j, results}, func(w io.Writer) { jobFacts(w, j, results) })
		}),
	}
	cmd.Flags().BoolVar(&all, "results", false, "show all results that are kept")
	return cmd
}

// firstResults are shown of a job when not all are asked for.
const firstResults = 10

func jobResults(ctx context.Context, s *client.Client, id string, all bool) (list []v1.JobResult, err error) {
	for from := int64(0); ; {
		page, err := s.JobResults(ctx, id, from)
		if err != nil {
			return nil, err
		}
		for _, r := range page.Results {
			if all || !r.OK && len(list) < firstResults {
				list = append(list, r)
			}
		}
		if from = page.Next; from == 0 || !all && len(list) == firstResults {
			return list, nil
		}
	}
}

func jobFacts(w io.Writer, j v1.Job, results []v1.JobResult) {
	now := time.Now()
	fact(w, "Job", j.ID)
	fact(w, "What", j.Title)
	fact(w, "State", j.State)
	fact(w, "Why", j.Note)
	fact(w, "Items", fmt.Sprintf("%d %s", j.Total, j.Unit))
	if j.Done+j.Skipped+j.Failed > 0 {
		fact(w, "Done", fmt.Sprintf("%d, nothing to do for %d, failed %d", j.Done, j.Skipped, j.Failed))
		fact(w, "Rate", fmt.Sprintf("%.0f a second", j.Rate))
	}
	fact(w, "Left", j.Left)
	fact(w, "Made", within(j.Created, now)+" by "+j.Maker)
	if j.State == "scheduled" {
		fact(w, "Nothing before", within(j.NotBefore, now))
	}
	fact(w, "Began", within(j.Began, now))
	fact(w, "Ended", within(j.Ended, now))
	if len(j.Sample) > 0 && j.State != "done" {
		fmt.Fprintln(w, "Some of them:")
	}
	for _, one := range j.Sample {
		if j.State != "done" {
			fmt.Fprintf(w, "  %s\n", printable(one))
		}
	}
	if len(results) > 0 {
		fmt.Fprintln(w, "Results:")
	}
	for _, r := range results {
		word := "failed"
		if r.OK {
			word = "ok"
		}
		row(w, "  "+r.Item, word, r.Text)
	}
}

func (c *cli) jobWatchCommand() *cobra.Command {
	return &cobra.Command{
		Use: "watch JOB", Short: "Show the progress of a job until it has ended", Long: jobWatchHelp,
		Example: "  mooring job watch 6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c",
		Args:    needs("JOB"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			return c.watch(ctx, s, args[0])
		}),
	}
}

func isEnded(j v1.Job) bool { return j.State == "done" || j.State == "aborted" || j.State == "failed" }

// watch follows a job to its end. A job that did not come to a good one is a failure of the command.
func (c *cli) watch(ctx context.Context, s *client.Client, id string) error {
	var bar *progress
	var last v1.Job
	j, err := s.AwaitJob(ctx, id, func(j v1.Job) bool {
		if bar == nil {
			bar = c.progress(j.Title)
		}
		bar.at(j.Done+j.Skipped+j.Failed, j.Total)
		if changed := j.State != last.State || j.Done+j.Skipped+j.Failed != last.Done+last.Skipped+last.Failed || j.Note != last.Note; changed {
			c.watched(j, last)
			last = j
		}
		return isEnded(j)
	})
	if bar != nil {
		bar.end()
	}
	if err != nil {
		return err
	}
	if !c.json {
		err = c.show(j, func(w io.Writer) {
			fmt.Fprintf(w, "Job %s is %s: done %d, nothing to do for %d, failed %d of %d %s\n", j.ID, j.State, j.Done, j.Skipped, j.Failed, j.Total, j.Unit)
		})
	}
	switch {
	case err != nil:
		return err
	case j.State != "done":
		return errs.New(errs.Conflict, "the job is %s: %s", j.State, j.Note)
	case j.Failed > 0:
		return errs.New(errs.Conflict, "%d of %d %s failed: mooring job show %s says why", j.Failed, j.Total, j.Unit, j.ID)
	}
	return nil
}

// watched tells of a change: as a line of JSON, or when it is one that a person must know of.
func (c *cli) watched(j, before v1.Job) {
	switch {
	case c.json:
		if text, err := jsonLine(j); err == nil {
			fmt.Fprintln(c.out, text)
		}
	case j.Note != "" && j.Note != before.Note && !isEnded(j):
		c.advise("%s: %s", j.State, printable(j.Note))
	case j.State != before.State && before.State != "" && !isEnded(j):
		c.advise("%s", j.State)
	}
}

func (c *cli) jobMoveCommand(verb, short, help string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " JOB", Short: short, Long: help,
		Example: "  mooring job " + verb + " 6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c",
		Args:    needs("JOB"),
		RunE: c.online(func(ctx context.Context, s *client.Client, args []string) error {
			j, err := s.MoveJob(ctx, args[0], verb)
			if err != nil {
				return err
			}
			if verb == "start" || verb == "resume" {
				return c.started(ctx, s, j, false)
			}
			return c.show(j, func(w io.Writer) {
				fmt.Fprintf(w, "Job %s is %s: %d of %d %s were handled\n", j.ID, j.State, j.Done+j.Skipped+j.Failed, j.Total, j.Unit)
			})
		}),
	}
}
