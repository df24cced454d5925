package app_test

import (
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
)

// TestCrashDuringAnImport kills the server at many moments of an import: then all of its devices are there or none, and to send the file again
// is all that is to be done. MOORING_CRASH_ROUNDS says how often; 3 is the default.
func TestCrashDuringAnImport(t *testing.T) {
	rounds := 3
	if text := os.Getenv("MOORING_CRASH_ROUNDS"); text != "" {
		var err error
		rounds, err = strconv.Atoi(text)
		must(t, err)
	}
	const rows = 20_000
	_, made := apptest.Init(t, &apptest.Clock{}, &apptest.Log{}, nil)
	whole := 0
	for round := range rounds {
		var file strings.Builder
		file.WriteString("name,profile,group\n")
		for i := range rows {
			fmt.Fprintf(&file, "r%d-meter-%05d,device,round-%d\n", round, i, round)
		}
		s := startServer(t, made.Dir)
		time.AfterFunc(time.Duration(30+round*97%900)*time.Millisecond, s.kill)
		_, err := importFile(t, s, file.String())
		s.kill()
		n := counted(t, made.Dir, fmt.Sprintf("round-%d", round))
		if n != 0 && n != rows || err == nil && n != rows {
			t.Errorf("round %d: %d of %d devices are there, the answer was %v", round+1, n, rows, err)
		}
		// The same again, as whoever got no answer does.
		s = startServer(t, made.Dir)
		report, err := importFile(t, s, file.String())
		s.kill()
		var refused *client.Error
		switch {
		case n == 0 && (err != nil || report != rows):
			t.Errorf("round %d: sent again: %d devices, %v", round+1, report, err)
		case n == rows && (!errors.As(err, &refused) || !strings.Contains(refused.Detail, "was imported already")):
			t.Errorf("round %d: sent again after it was stored: %v", round+1, err)
		}
		if got := counted(t, made.Dir, fmt.Sprintf("round-%d", round)); got != rows {
			t.Errorf("round %d: at the end %d devices are there, want %d", round+1, got, rows)
		}
		if n == rows {
			whole++
		}
	}
	t.Logf("of %d imports that were cut off %d had been stored", rounds, whole)
}

func importFile(t *testing.T, s *server, file string) (int64, error) {
	t.Helper()
	c := client.New(s.addresses.Socket)
	defer c.Close()
	report, err := c.Import(t.Context(), client.Import{R: strings.NewReader(file), Name: "fleet.csv", Format: "csv", Size: int64(len(file))}, nil)
	return report.Devices, err
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
