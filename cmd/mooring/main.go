// Command mooring is the platform and its tools in one program: it sets up an installation (init), runs it (serve), and manages it from
// the server's machine or from anywhere with an operator's certificate (device, cert, ca, …). "mooring agent" is the device's side.
//
// Each command is one file here, with its help text at the top; "make gen" prints them all into doc/commands.md. Results go to standard
// output, as tables for people or with --json for programs, everything else to standard error. The package deliberately decides
// nothing: permissions, rules and records are the server's, which it asks over internal/server/api/client.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"golang.org/x/term"
)

//go:generate go run . docs ../../doc

func main() {
	allowSlack(os.Args)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // whoever asks a second time does not want to wait
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program without its process: what the arguments ask for, and the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, err io.Writer) int {
	c := &cli{in: in, out: out, err: err}
	root := c.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(err)
	failure := root.ExecuteContext(ctx)
	c.json = c.json || slices.Contains(args, "--json") // also when another flag was not understood before it was its turn
	return c.finish(failure)
}

// cli is one run of the program: its streams and the flags that every command has.
type cli struct {
	in       io.Reader
	out, err io.Writer

	dir, server   string
	cert, key, ca string
	json, quiet   bool
}

// isTerminal reports whether a person is at the other end of a stream.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
