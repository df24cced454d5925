package app_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/base/db"
	"mooring/internal/core/audit"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

// TestCrashDuringAnImport kills the server at many moments of an import, the first time at any, then again and again while the job writes. Once the
// file was accepted all of its devices are there at the end, each once, whatever anybody does; if it was not, nothing is there, and to send it
// again is all that is to be done. MOORING_CRASH_ROUNDS says how often; 3 is the default.
func TestCrashDuringAnImport(t *testing.T) {
	rounds := 3
	if text := os.Getenv("MOORING_CRASH_ROUNDS"); text != "" {
		var err error
		rounds, err = strconv.Atoi(text)
		must(t, err)
	}
	const rows = 14_000
	_, made := apptest.Init(t, &apptest.Clock{}, &apptest.Log{}, nil)
	kept, halves := 0, 0
	for round := range rounds {
		group := fmt.Sprintf("round-%d", round)
		var file strings.Builder
		file.WriteString("name,profile,group\n")
		for i := range rows {
			fmt.Fprintf(&file, "r%d-meter-%05d,device,%s\n", round, i, group)
		}
		s := startServer(t, made.Dir)
		time.AfterFunc(time.Duration(30+round*97%900)*time.Millisecond, s.kill)
		accepted := ""
		report, err := importFile(t, s, file.String(), func(r v1.ImportReport) { accepted = r.Job })
		s.kill()
		if err == nil && report.Devices != rows {
			t.Errorf("round %d: the answer was %+v", round+1, report)
		}
		// The same again, as whoever got no answer does: it is accepted now, or was before.
		s = startServer(t, made.Dir)
		again := ""
		_, err = importFile(t, s, file.String(), func(r v1.ImportReport) { again = r.Job; s.kill() })
		var refused *client.Error
		switch {
		case again != "" && accepted != "":
			t.Errorf("round %d: accepted twice, as %s and %s", round+1, accepted, again)
		case again != "":
		case !errors.As(err, &refused) || !strings.Contains(refused.Detail, "imported already"):
			t.Fatalf("round %d: sent again: %v", round+1, err)
		default:
			kept++
		}
		s.kill()
		j := finish(t, made.Dir, cmp.Or(accepted, again), group, &halves)
		if j.Done != rows || j.Failed != 0 || j.Skipped != 0 {
			t.Errorf("round %d: the job is %s: %d done, %d failed of %d: %s", round+1, j.State, j.Done, j.Failed, j.Total, j.Note)
		}
		if got := counted(t, made.Dir, group); got != rows {
			t.Errorf("round %d: at the end %d devices are there, want %d", round+1, got, rows)
		}
	}
	t.Logf("of %d imports that were cut off %d had been accepted; %d times some of the devices were there", rounds, kept, halves)
}

// finish starts the server until the newest import is done, and kills it whenever that has got on.
func finish(t *testing.T, dir, known, group string, halves *int) (j v1.Job) {
	t.Helper()
	for {
		s := startServer(t, dir)
		c := client.New(s.addresses.Socket)
		page, err := c.Jobs(t.Context(), client.Jobs{Kind: "import", Limit: 1})
		must(t, err)
		if len(page.Jobs) != 1 || known != "" && page.Jobs[0].ID != known {
			t.Fatalf("the newest job is %+v, want %s", page.Jobs, known)
		}
		was := page.Jobs[0].Done
		deadline, stop := context.WithTimeout(t.Context(), 2*time.Minute)
		j, err = c.AwaitJob(deadline, page.Jobs[0].ID, func(j v1.Job) bool {
			return j.Done > was || j.State == "done" || j.State == "failed" || j.State == "aborted"
		})
		stop()
		must(t, err)
		c.Close()
		s.kill()
		if j.State != "running" && j.State != "scheduled" {
			return j
		}
		if n := counted(t, dir, group); int64(n) < j.Done || int64(n) > j.Total {
			t.Errorf("%d devices are there when the job says %d of %d", n, j.Done, j.Total)
		} else if n > 0 && int64(n) < j.Total {
			*halves++
		}
	}
}

func importFile(t *testing.T, s *server, file string, accepted func(v1.ImportReport)) (v1.ImportReport, error) {
	t.Helper()
	c := client.New(s.addresses.Socket)
	defer c.Close()
	return c.Import(t.Context(), client.Import{R: strings.NewReader(file), Name: "fleet.csv", Format: "csv", Size: int64(len(file)), Accepted: accepted}, nil)
}

// counted opens the installation of a killed server, verifies its record, and counts the devices of a group.
func counted(t *testing.T, dir, group string) (n int) {
	t.Helper()
	p, err := load(t.Context(), dir, app.Open)
	must(t, err)
	defer func() { must(t, p.Close()) }()
	report, err := p.Audit.Verify(t.Context(), audit.VerifyOptions{Checkers: p.Checkers()})
	must(t, err)
	for _, found := range report.Findings {
		t.Errorf("the record does not verify: %s", found)
	}
	must(t, p.DB.View(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&n}, `SELECT count(*) FROM device WHERE grp = $1`, group)
		return err
	}))
	return n
}
