package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"mooring/internal/app"
	"mooring/internal/base/errs"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"mooring": main, "print-slack": printSlack, "print-files": printFiles})
}

// TestScripts runs the conversations in testdata: the real program, in processes of its own, against real servers on loopback.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Values[serving{}] = new(running)
			env.Setenv("MOORING_DIR", filepath.Join(env.WorkDir, "d"))
			return os.WriteFile(filepath.Join(env.WorkDir, "free.yaml"), []byte(freePorts), 0o600)
		},
		Cmds:               map[string]func(*testscript.TestScript, bool, []string){"server": server, "stop": stop, "pick": pick, "damage": damage, "exits": exits, "requests": requests},
		RequireUniqueNames: true,
	})
}

// freePorts is the configuration of a server that takes whatever ports are free; scripts find it in free.yaml.
const freePorts = `name: Acme
names: [localhost, 127.0.0.1]
listen: {est: "127.0.0.1:0", api: "127.0.0.1:0", status: "127.0.0.1:0"}
`

// running is the server of a script.
type running struct {
	cmd  *exec.Cmd
	log  bytes.Buffer  // complete when done is closed
	done chan struct{} // closed at the end of the log
}

type serving struct{}

// server [ARG...] runs "mooring serve" until its log says that it is ready, and sets EST, API, STATUS and SOCKET to its addresses.
func server(ts *testscript.TestScript, neg bool, args []string) {
	s := ts.Value(serving{}).(*running)
	if neg || s.cmd != nil {
		ts.Fatalf("use: server [ARG...], one at a time")
	}
	ready := ts.MkAbs("ready.json")
	s.log.Reset()
	s.done = make(chan struct{})
	s.cmd = exec.Command("mooring", append([]string{"serve", "--ready-file", ready}, args...)...)
	s.cmd.Env = append(os.Environ(), "MOORING_DIR="+ts.Getenv("MOORING_DIR"))
	stderr, err := s.cmd.StderrPipe()
	ts.Check(err)
	ts.Check(s.cmd.Start())
	ts.Defer(func() { s.end() })
	began := make(chan bool, 1)
	go s.read(stderr, began)
	if !<-began {
		ts.Fatalf("the server ended:\n%s", s.end())
	}
	var a app.Addresses
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(ready)), &a))
	ts.Setenv("EST", a.EST)
	ts.Setenv("API", a.API)
	ts.Setenv("STATUS", a.Status)
	ts.Setenv("SOCKET", a.Socket)
}

// read keeps the log and tells once whether the server got ready.
func (s *running) read(stderr io.Reader, began chan<- bool) {
	defer close(s.done)
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		s.log.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), "msg=ready") {
			began <- true
		}
	}
	close(began)
}

// end stops the server as an operator would, and returns its log.
func (s *running) end() string {
	if s.cmd == nil {
		return ""
	}
	_ = s.cmd.Process.Signal(os.Interrupt) // it may have ended by itself
	<-s.done
	err := s.cmd.Wait()
	s.cmd = nil
	if err != nil {
		s.log.WriteString(err.Error())
	}
	return s.log.String()
}

// stop ends the server; its log becomes the standard error to look at.
func stop(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("use: stop")
	}
	log := ts.Value(serving{}).(*running).end()
	if !strings.Contains(log, "msg=stopped") {
		ts.Fatalf("the server did not stop in an orderly way:\n%s", log)
	}
	_, err := io.WriteString(ts.Stderr(), log)
	ts.Check(err)
}

// pick VAR REGEXP sets VAR to what the group of the expression matches in the last standard output.
func pick(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("use: pick VAR REGEXP")
	}
	found := regexp.MustCompile("(?m)" + args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if len(found) != 2 {
		ts.Fatalf("no match for %s", args[1])
	}
	ts.Setenv(args[0], found[1])
}

// exits CODE ARG... runs mooring, which must end with this exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("use: exits CODE ARG...")
	}
	code, err := 0, ts.Exec("mooring", args[1:]...)
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		code = ended.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("mooring %s: exit code %d, want %s\n%s", strings.Join(args[1:], " "), code, args[0], ts.ReadFile("stderr"))
	}
}

// damage FILE OLD NEW puts NEW, which is as long, wherever OLD stands in FILE: what somebody does who has the disk and not the keys.
func damage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 || len(args[1]) != len(args[2]) {
		ts.Fatalf("use: damage FILE OLD NEW")
	}
	data, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	if !bytes.Contains(data, []byte(args[1])) {
		ts.Fatalf("%s does not contain %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), bytes.ReplaceAll(data, []byte(args[1]), []byte(args[2])), 0o600))
}

func TestReferenceIsUpToDate(t *testing.T) {
	t.Parallel()
	written, err := os.ReadFile("../../doc/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(written, reference((&cli{}).root())) {
		t.Error("doc/commands.md differs from the commands' help: run make gen")
	}
}

func TestReferenceNamesEveryCommand(t *testing.T) {
	t.Parallel()
	text := string(reference((&cli{}).root()))
	all(t, func(cmd *cobra.Command) {
		for above := cmd; above != nil; above = above.Parent() {
			if above.Hidden || above.Name() == "help" || above.Name() == "completion" {
				return
			}
		}
		if !strings.Contains(text, "# "+cmd.CommandPath()+"\n") {
			t.Errorf("the reference has no %s", cmd.CommandPath())
		}
	})
	if strings.Contains(text, "(default )") {
		t.Error("the reference tells of a default that is empty")
	}
}

// all calls fn for every command of ours.
func all(t *testing.T, fn func(*cobra.Command)) {
	t.Helper()
	var walk func(*cobra.Command)
	n := 0
	walk = func(cmd *cobra.Command) {
		n++
		fn(cmd)
		for _, below := range cmd.Commands() {
			walk(below)
		}
	}
	walk((&cli{}).root())
	if n < 40 {
		t.Errorf("only %d commands were looked at", n)
	}
}

func TestEveryCommandSaysWhatItIs(t *testing.T) {
	t.Parallel()
	all(t, func(cmd *cobra.Command) {
		for what, text := range map[string]string{"Short": cmd.Short, "Long": cmd.Long, "Example": cmd.Example} {
			if text == "" {
				t.Errorf("%s has no %s", cmd.CommandPath(), what)
			}
		}
		if cmd.InheritedFlags().Lookup("json") == nil && cmd.Flags().Lookup("json") == nil && cmd.PersistentFlags().Lookup("json") == nil {
			t.Errorf("%s has no --json", cmd.CommandPath())
		}
		for _, line := range strings.Split(cmd.Example, "\n") {
			if !strings.HasPrefix(line, "  ") || !strings.Contains(line, strings.Fields(cmd.CommandPath())[0]) {
				t.Errorf("%s: example %q is not an indented command", cmd.CommandPath(), line)
			}
		}
	})
}

func TestExamplesParse(t *testing.T) {
	t.Parallel()
	all(t, func(cmd *cobra.Command) {
		for _, line := range strings.Split(cmd.Example, "\n") {
			_, line, _ = strings.Cut(line, "mooring ")
			for _, end := range []string{" > ", " | ", " && "} {
				line, _, _ = strings.Cut(line, end)
			}
			args := words(line)
			root := (&cli{}).root()
			found, rest, err := root.Find(args)
			if err != nil {
				t.Errorf("%s: example %q: %v", cmd.CommandPath(), line, err)
				continue
			}
			if err := found.ParseFlags(rest); err != nil {
				t.Errorf("%s: example %q: %v", cmd.CommandPath(), line, err)
				continue
			}
			if err := found.ValidateArgs(found.Flags().Args()); err != nil {
				t.Errorf("%s: example %q: %v", cmd.CommandPath(), line, err)
			}
		}
	})
}

// words splits a line as a shell does, for lines with nothing but double quotes.
func words(line string) (all []string) {
	var word strings.Builder
	var quote rune
	open := false // word is one, be it empty
	end := func() {
		if open {
			all = append(all, word.String())
		}
		word.Reset()
		open = false
	}
	for _, r := range line {
		switch {
		case r == quote:
			quote = 0
		case quote == 0 && (r == '"' || r == '\''):
			quote, open = r, true
		case quote == 0 && unicode.IsSpace(r):
			end()
		default:
			word.WriteRune(r)
			open = true
		}
	}
	end()
	return all
}

func TestHelpOfEveryCommand(t *testing.T) {
	t.Parallel()
	all(t, func(cmd *cobra.Command) {
		args := append(strings.Fields(cmd.CommandPath())[1:], "--help")
		var out, err bytes.Buffer
		if code := run(t.Context(), args, strings.NewReader(""), &out, &err); code != exitOK || err.Len() > 0 || !strings.Contains(out.String(), "Examples:") {
			t.Errorf("mooring %v: exit code %d, standard error %q, output %q", args, code, &err, &out)
		}
	})
}

func TestExitCodeOfEveryKind(t *testing.T) {
	t.Parallel()
	want := map[errs.Kind]int{errs.Internal: 1, errs.Invalid: 1, errs.Denied: 3, errs.NotFound: 4, errs.Conflict: 1, errs.Limited: 5, errs.Unavailable: 5}
	for _, k := range errs.Kinds() {
		code, known := want[k]
		if got := exitCode(errs.New(k, "x")); !known || got != code {
			t.Errorf("exit code of %v = %d, want %d", k, got, code)
		}
	}
	if got := exitCode(usagef("x")); got != exitUsage {
		t.Errorf("exit code of a usage error = %d, want %d", got, exitUsage)
	}
	for status, want := range map[int]int{400: 1, 401: 3, 403: 3, 404: 4, 409: 1, 413: 5, 422: 1, 429: 5, 500: 1, 503: 5} {
		refused := &client.Error{Problem: v1.Problem{Status: status}}
		if got := exitCode(refused); got != want {
			t.Errorf("exit code of HTTP status %d = %d, want %d", status, got, want)
		}
	}
}

func TestMoments(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for _, row := range []struct {
		text, want string
	}{
		{"", "0001-01-01T00:00:00Z"}, {"2026-12-24", "2026-12-24T00:00:00Z"}, {"2026-12-24 18:00", "2026-12-24T18:00:00Z"},
		{"2026-12-24T18:00:00+01:00", "2026-12-24T17:00:00Z"}, {"30d", "2026-12-25T12:00:00Z"}, {"90m", "2026-11-25T13:30:00Z"},
	} {
		got, err := moment("--x", row.text, now)
		if err != nil || got.UTC().Format(time.RFC3339) != row.want {
			t.Errorf("moment(%q) = %v, %v, want %s", row.text, got, err, row.want)
		}
	}
	for _, text := range []string{"tomorrow", "2026-13-01", "-3d", "30"} {
		if got, err := moment("--x", text, now); exitCode(err) != exitUsage || !strings.Contains(err.Error(), "--x") {
			t.Errorf("moment(%q) = %v, %v, want a usage error that names the flag", text, got, err)
		}
	}
	for at, want := range map[time.Time]string{
		now.Add(30 * 24 * time.Hour): "2026-12-25 12:00 UTC (in 30 days)", now.Add(-3 * time.Hour): "2026-11-25 09:00 UTC (3 hours ago)",
		now.Add(5 * time.Minute): "2026-11-25 12:05 UTC (in 5 minutes)", {}: "",
	} {
		if got := within(at, now); got != want {
			t.Errorf("within(%v) = %q, want %q", at, got, want)
		}
	}
}

func TestHostileTextIsMadePrintable(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	row(&b, "a\x1b[2Jb", "c\nd", "e\u202ef", "", "Größe")
	if got, want := b.String(), "a\ufffd[2Jb\tc\ufffdd\te\ufffdf\t-\tGröße\n"; got != want {
		t.Errorf("row = %q, want %q", got, want)
	}
	for text, want := range map[string]string{"car-4711": "car-4711", "a b": "'a b'", "it's; rm": `'it'\''s; rm'`, "": "''"} {
		if got := quoted(text); got != want {
			t.Errorf("quoted(%q) = %s, want %s", text, got, want)
		}
	}
}

// TestListingOfEmptyPages has a filter that leaves the first page empty, which must break neither the table nor the JSON.
func TestListingOfEmptyPages(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		json bool
		want string
	}{{false, "N\na\nb\n"}, {true, `{"things":["a","b"],"next":""}`}} {
		var out, advice bytes.Buffer
		c := &cli{out: &out, err: &advice, json: row.json}
		pages := map[string][]string{"": nil, "1": {"a"}, "2": nil, "3": {"b"}}
		next := map[string]string{"": "1", "1": "2", "2": "3"}
		l := listing[string]{name: "things", head: []string{"N"}, cells: func(s string) []string { return []string{s} },
			fetch: func(cursor string, _ int) ([]string, string, error) { return pages[cursor], next[cursor], nil }}
		if err := l.print(c, &cobra.Command{Use: "x"}, paging{limit: 100, all: true}); err != nil {
			t.Fatal(err)
		}
		got := out.String()
		if row.json {
			var b bytes.Buffer
			if err := json.Compact(&b, out.Bytes()); err != nil {
				t.Fatalf("%v in %s", err, got)
			}
			got = b.String()
		}
		if got != row.want {
			t.Errorf("listing with json=%v: %q, want %q", row.json, got, row.want)
		}
	}
}
