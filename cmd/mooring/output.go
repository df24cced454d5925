package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
)

// show prints a result: v as JSON with --json, else what human writes.
func (c *cli) show(v any, human func(w io.Writer)) error {
	if !c.json {
		w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
		human(w)
		return w.Flush()
	}
	e := json.NewEncoder(c.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// jsonLine writes v as one line.
func jsonLine(v any) (string, error) {
	text, err := json.Marshal(v)
	return string(text), err
}

// advise tells a person what to do next; programs and the laconic are spared.
func (c *cli) advise(format string, a ...any) {
	if !c.json && !c.quiet {
		fmt.Fprintf(c.err, format+"\n", a...)
	}
}

// row writes the cells of one line of a table.
func row(w io.Writer, cells ...string) {
	line := make([]string, len(cells))
	for i, cell := range cells {
		line[i] = cmp.Or(printable(cell), "-")
	}
	fmt.Fprintln(w, strings.Join(line, "\t"))
}

// fact writes one line of a description, unless there is nothing to say.
func fact(w io.Writer, name, value string) {
	if value != "" {
		fmt.Fprintf(w, "%s:\t%s\n", name, printable(value))
	}
}

// printable replaces what could move the cursor or look like another line: much of what is shown was written by somebody else.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' {
			return '\ufffd'
		}
		return r
	}, s)
}

// minute writes a time to the minute, "" for none.
func minute(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04 UTC")
}

// within writes a time with how far it is from now: "2026-12-24 18:00 UTC (in 29 days)".
func within(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	form, d := "%s (in %s)", t.Sub(now)
	if d < 0 {
		form, d = "%s (%s ago)", -d
	}
	return fmt.Sprintf(form, minute(t), distance(d))
}

// distance writes how far off something is, rounded to what a person would say: what ends in 6 days and 23 hours ends in 7 days.
func distance(d time.Duration) string {
	n, unit := d.Round(time.Minute)/time.Minute, "minute"
	switch {
	case d < 30*time.Second:
		return "less than a minute"
	case d >= 36*time.Hour:
		n, unit = (d+12*time.Hour)/(24*time.Hour), "day"
	case d >= 90*time.Minute:
		n, unit = d.Round(time.Hour)/time.Hour, "hour"
	}
	if n != 1 {
		unit += "s"
	}
	return fmt.Sprintf("%d %s", n, unit)
}

// span writes a length of time that came as Go writes it ("2160h0m0s") as people do ("90d").
func span(s string) string {
	d, err := time.ParseDuration(s)
	if err != nil {
		return s
	}
	return conf.FormatDuration(d)
}

// life reads a flag that is a length of time; "" is 0.
func life(flag, s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := conf.ParseDuration(s)
	if err != nil {
		return 0, usagef("%s: %v", flag, err)
	}
	return d, nil
}

// moment reads a time as people write it: a date, a date with a time in UTC, or a distance from now such as 30d; the zero time for "".
func moment(flag, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	d, err := conf.ParseDuration(s)
	if err != nil {
		return time.Time{}, usagef("%s: %q is neither a date such as 2026-12-24 nor a time from now such as 30d or 12h", flag, s)
	}
	return now.Add(d), nil
}

// write puts data into the file at path, which must not be there yet, or on standard output for "" and "-".
func (c *cli) write(path string, data []byte, mode os.FileMode) error {
	if path == "" || path == "-" {
		_, err := c.out.Write(data)
		return err
	}
	f, err := create(path, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return errs.Wrap(errs.Unavailable, err, "%s cannot be written", path)
	}
	return nil
}

func create(path string, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	switch {
	case os.IsExist(err):
		return nil, errs.New(errs.Conflict, "%s is there already: give another name, or move it away", path)
	case err != nil:
		return nil, errs.Wrap(errs.Unavailable, err, "%s cannot be made", path)
	}
	return f, nil
}
