package main

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"mooring/internal/base/errs"
)

// prompt asks the person at the terminal for the secret that unlocks the keys.
func (c *cli) prompt() ([]byte, error) { return c.ask("Passphrase of the key store: ") }

// promptTwice asks for a new secret, twice, so that a slip of the fingers does not lock the keys away for ever.
func (c *cli) promptTwice() ([]byte, error) { return c.askTwice("New passphrase of the key store: ") }

func (c *cli) askTwice(question string) ([]byte, error) {
	first, err := c.ask(question)
	if err != nil {
		return nil, err
	}
	again, err := c.ask("The same again: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(first, again) {
		return nil, errs.New(errs.Invalid, "the two passphrases differ: nothing was made, start again")
	}
	return first, nil
}

func (c *cli) ask(question string) ([]byte, error) {
	f, ok := c.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, errs.New(errs.Unavailable, "a passphrase is wanted and nobody is at the terminal: give it as --unlock file:PATH or fd:N")
	}
	fmt.Fprint(c.err, question)
	answer, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(c.err)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "the passphrase cannot be read from the terminal")
	}
	return answer, nil
}

// plainEvery is how often progress is told where no bar can be drawn.
const plainEvery = 5 * time.Second

// progress tells how far something is: a bar on a terminal, a line now and then elsewhere, nothing with --quiet.
type progress struct {
	c    *cli
	what string

	mu   sync.Mutex // guards what follows; the far end of a transfer reports on its own goroutine
	bar  *progressbar.ProgressBar
	said time.Time
}

func (c *cli) progress(what string) *progress {
	p := &progress{c: c, what: what, said: time.Now()}
	if !c.quiet && isTerminal(c.err) {
		p.bar = progressbar.NewOptions64(-1, progressbar.OptionSetWriter(c.err), progressbar.OptionSetDescription(what),
			progressbar.OptionShowCount(), progressbar.OptionSetWidth(30), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	}
	return p
}

// at notes that done of total is done; a total of 0 is not known.
func (p *progress) at(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		if total > 0 {
			p.bar.ChangeMax64(total)
		}
		_ = p.bar.Set64(done) // a bar that cannot be drawn is no reason to stop
		return
	}
	if p.c.quiet || time.Since(p.said) < plainEvery {
		return
	}
	p.said = time.Now()
	if total > 0 {
		fmt.Fprintf(p.c.err, "%s: %d of %d (%d %%)\n", p.what, done, total, done*100/total)
		return
	}
	fmt.Fprintf(p.c.err, "%s: %d\n", p.what, done)
}

// end removes the bar.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}
