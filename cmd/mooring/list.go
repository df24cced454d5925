package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// paging are the flags of every command that lists without end.
type paging struct {
	limit  int
	cursor string
	all    bool
}

func (p *paging) flags(cmd *cobra.Command) {
	cmd.Flags().IntVar(&p.limit, "limit", 100, "entries a page, 1 to 1000")
	cmd.Flags().StringVar(&p.cursor, "cursor", "", "go on where the page before ended, as it said")
	cmd.Flags().BoolVar(&p.all, "all", false, "everything, page after page")
}

func (p *paging) check() error {
	if p.limit < 1 || p.limit > 1000 {
		return usagef("--limit %d is not between 1 and 1000; for everything use --all", p.limit)
	}
	if p.all {
		p.limit = 1000
	}
	return nil
}

// listing is a list of T as a table for people or one JSON document, written page by page, so that a whole fleet needs no memory.
type listing[T any] struct {
	name  string // of the list in JSON
	head  []string
	cells func(T) []string
	fetch func(cursor string, limit int) (page []T, next string, err error)
}

func (l listing[T]) print(c *cli, cmd *cobra.Command, p paging) error {
	if err := p.check(); err != nil {
		return err
	}
	page, next, err := l.fetch(p.cursor, p.limit)
	if err != nil {
		return err
	}
	put := l.table
	if c.json {
		fmt.Fprintf(c.out, "{%q: [", l.name)
		put = l.lines
	}
	for n := 0; ; {
		if err := put(c, page, n == 0); err != nil {
			return err
		}
		n += len(page)
		if next == "" || !p.all {
			return l.end(c, cmd, n, next)
		}
		if page, next, err = l.fetch(next, p.limit); err != nil {
			return err
		}
	}
}

// end closes a list of n entries after which others follow when next is not empty.
func (l listing[T]) end(c *cli, cmd *cobra.Command, n int, next string) error {
	switch {
	case c.json:
		_, err := fmt.Fprintf(c.out, "\n], \"next\": %q}\n", next)
		return err
	case next != "":
		c.advise("There are more: %s with the same flags and --cursor %s, or with --all", cmd.CommandPath(), next)
	case n == 0:
		c.advise("None.")
	}
	return nil
}

// table writes a page as a table, with its head when nothing was written before.
func (l listing[T]) table(c *cli, page []T, first bool) error {
	w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	if first && len(page) > 0 {
		row(w, l.head...)
	}
	for _, item := range page {
		row(w, l.cells(item)...)
	}
	return w.Flush()
}

// lines writes a page as elements of a JSON array, one a line.
func (l listing[T]) lines(c *cli, page []T, first bool) error {
	for _, item := range page {
		text, err := json.Marshal(item)
		if err != nil {
			return err
		}
		comma := ","
		if first {
			comma, first = "", false
		}
		if _, err := fmt.Fprintf(c.out, "%s\n  %s", comma, text); err != nil {
			return err
		}
	}
	return nil
}
