package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const renewalHelp = `Devices renew their certificates by themselves, each at an instant of its own within the window that its profile sets (renew_before,
give or take renew_spread).`

const renewalForecastHelp = `Tells how many certificates are to be renewed in each day or hour to come, so that one sees whether a fleet that was enrolled in one
night will come back in one. Filters of "mooring device list" can be combined. Suspended devices and certificates of other authorities do
not count. Overdue are those whose time came before the first span, and all that have expired. Spans without any are not shown; --json
has them.`

func (c *cli) renewalCommand() *cobra.Command {
	var f selection
	var by string
	var spans int
	forecast := &cobra.Command{
		Use: "forecast", Short: "Tell how many certificates are to be renewed when", Long: renewalForecastHelp,
		Example: "  mooring renewal forecast\n  mooring renewal forecast --by hour --spans 48 --group plant-3",
		Args:    needs(),
	}
	forecast.Flags().SortFlags = false
	forecast.Flags().StringVar(&by, "by", "day", "length of a span: hour or day")
	forecast.Flags().IntVar(&spans, "spans", 100, "how many spans, 1 to 1000")
	f.flags(forecast)
	forecast.RunE = c.online(func(ctx context.Context, s *client.Client, _ []string) error {
		if by != "hour" && by != "day" {
			return usagef("--by %q is neither hour nor day", by)
		}
		if err := f.times(time.Now()); err != nil {
			return err
		}
		found, err := s.Renewals(ctx, f.Devices, by, spans)
		if err != nil {
			return err
		}
		return c.show(found, func(w io.Writer) { forecastTable(w, found, by) })
	})
	return group(&cobra.Command{
		Use: "renewal", Short: "Look ahead at renewals", Long: renewalHelp,
		Example: "  mooring renewal forecast --by day",
	}, forecast)
}

// barWidth is the length of the longest bar of a histogram.
const barWidth = 50

// forecastTable writes a histogram without the empty spans.
func forecastTable(w io.Writer, f v1.Forecast, by string) {
	layout := "2006-01-02"
	if by == "hour" {
		layout = "2006-01-02 15:04 UTC"
	}
	most, total := int64(1), f.Overdue+f.Later
	for _, s := range f.Spans {
		most, total = max(most, s.Due), total+s.Due
	}
	if f.Overdue > 0 {
		row(w, "overdue", fmt.Sprint(f.Overdue), "")
	}
	for _, s := range f.Spans {
		if s.Due > 0 {
			row(w, s.From.UTC().Format(layout), fmt.Sprint(s.Due), strings.Repeat("#", int((s.Due*barWidth+most-1)/most)))
		}
	}
	if f.Later > 0 {
		row(w, "later", fmt.Sprint(f.Later), "")
	}
	row(w, "all", fmt.Sprint(total), "")
}
