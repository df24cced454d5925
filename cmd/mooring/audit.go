package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/base/errs"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

const auditHelp = `The audit record: who did what, or was refused. Every change writes its entry in the same step, and entries are sealed in a Merkle
tree whose signed head (checkpoint) nobody can change unnoticed, the administrator included.

Keep a checkpoint elsewhere now and then ("mooring audit checkpoint"): a later "mooring audit verify --known FILE" then also notices
if the whole database was put back to an earlier state.`

const auditListHelp = `Lists entries, oldest first, or newest first with --newest. --device takes a name or an id, --serial a serial number in hex, and
--action must be one of the record's actions: an unknown one is told with all there are.`

const auditCheckpointHelp = `Writes the newest signed head of the record. It is a few lines of text and says nothing about what was recorded: keep it where
this installation cannot reach it.`

const auditKeyHelp = `Prints the public key of the audit record, by which anybody can check proofs and checkpoints. It is read from the data directory;
give it to auditors once, in a way that they trust.`

func (c *cli) auditCommand() *cobra.Command {
	var out string
	checkpoint := &cobra.Command{
		Use: "checkpoint", Short: "Write the signed head of the record", Long: auditCheckpointHelp,
		Example: "  mooring audit checkpoint -o 2026-11-25.checkpoint",
		Args:    needs(),
		RunE: c.online(func(ctx context.Context, s *client.Client, _ []string) error {
			p, err := s.Checkpoint(ctx)
			if err != nil {
				return err
			}
			if c.json && out == "" {
				return c.show(p, nil)
			}
			return c.write(out, []byte(p.Checkpoint), 0o644)
		}),
	}
	checkpoint.Flags().StringVarP(&out, "out", "o", "", "file to write; must not exist (default standard output)")
	return group(&cobra.Command{
		Use: "audit", Short: "Read, verify and prove the audit record", Long: auditHelp,
		Example: "  mooring audit list --newest\n  mooring audit verify\n  mooring audit prove 42 -o 42.proof",
	}, c.auditListCommand(), c.auditVerifyCommand(), c.auditProveCommand(), c.auditCheckCommand(), checkpoint, &cobra.Command{
		Use: "key", Short: "Print the public key of the record", Long: auditKeyHelp,
		Example: "  mooring audit key > audit.vkey",
		Args:    needs(),
		RunE:    func(*cobra.Command, []string) error { return c.auditKey() },
	})
}

func (c *cli) auditKey() error {
	path := filepath.Join(c.dir, auditKeyFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return errs.Wrap(errs.NotFound, err, "%s cannot be read: mooring init writes it; give the data directory with --dir", path)
	}
	key := strings.TrimSpace(string(text))
	return c.show(map[string]string{"key": key}, func(w io.Writer) { fmt.Fprintln(w, key) })
}

func (c *cli) auditListCommand() *cobra.Command {
	var f client.Audit
	var p paging
	cmd := &cobra.Command{
		Use: "list", Short: "List entries", Long: auditListHelp,
		Example: "  mooring audit list --newest --limit 20\n  mooring audit list --action cert.revoke --all --json",
		Args:    needs(),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.BoolVar(&f.Newest, "newest", false, "newest first")
	flags.StringVar(&f.Device, "device", "", "only of this device, by name or id")
	flags.StringVar(&f.Serial, "serial", "", "only of the certificate with this serial number")
	flags.StringVar(&f.Action, "action", "", "only this action, such as cert.issue or device.state")
	p.flags(cmd)
	cmd.RunE = c.online(func(ctx context.Context, s *client.Client, _ []string) error {
		f.Serial = serial(f.Serial)
		return listing[v1.Entry]{
			name:  "entries",
			head:  []string{"INDEX", "TIME", "ACTION", "ACTOR", "DEVICE", "OUTCOME", "DETAIL"},
			cells: entryCells,
			fetch: func(cursor string, limit int) ([]v1.Entry, string, error) {
				if cursor != "" {
					after, err := strconv.ParseInt(cursor, 10, 64)
					if err != nil {
						return nil, "", usagef("--cursor %q is not a number: take it from the end of the page before", cursor)
					}
					f.After = after
				}
				f.Limit = limit
				page, err := s.Audit(ctx, f)
				next := ""
				if page.Next != 0 {
					next = strconv.FormatInt(page.Next, 10)
				}
				return page.Entries, next, err
			},
		}.print(c, cmd, p)
	})
	return cmd
}

func entryCells(e v1.Entry) []string {
	return []string{strconv.FormatInt(e.Index, 10), minute(e.At), e.Action, e.Actor, e.Device, outcome(e), entryDetail(e)}
}

func outcome(e v1.Entry) string {
	if e.Refused != "" {
		return "REFUSED: " + e.Refused
	}
	return "done"
}

func entryDetail(e v1.Entry) string {
	all := nonEmpty(e.Object)
	if e.Serial != "" {
		all = append(all, "serial="+e.Serial)
	}
	for _, k := range slices.Sorted(maps.Keys(e.Detail)) {
		all = append(all, k+"="+detailText(k, e.Detail[k]))
	}
	return strings.Join(all, " ")
}

// detailText writes a detail for people: what is a time stands in the record as UTC seconds.
func detailText(name, value string) string {
	seconds, err := strconv.ParseInt(value, 10, 64)
	isTime := strings.HasSuffix(name, "_at") || strings.HasSuffix(name, "_update") || slices.Contains([]string{"at", "until", "not_before", "not_after", "deadline"}, name)
	if err != nil || !isTime || seconds < 1e8 {
		return value
	}
	return time.Unix(seconds, 0).UTC().Format(time.RFC3339)
}
