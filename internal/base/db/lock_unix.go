//go:build unix

package db

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"mooring/internal/base/errs"
)

// lockFile makes this process the only one that uses a database file. The lock ends with the process, however it ends; the file only says
// who holds it.
func lockFile(path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "the lock file %s cannot be written (permissions, read-only or full disk?)", path)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil && !errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errors.Join(errs.Wrap(errs.Unavailable, err, "the lock file %s cannot be locked", path), f.Close())
	} else if err != nil {
		// Whoever reads nothing gets a sentence all the same.
		who, _ := io.ReadAll(io.LimitReader(f, 64))
		if who = bytes.TrimSpace(who); len(who) == 0 {
			who = []byte("that did not say who it is")
		}
		return nil, errors.Join(errs.New(errs.Conflict, "the database is in use by process %s; stop it, or talk to it", who), f.Close())
	}
	// Who holds the lock is written for people. On a full disk it cannot be, and then what is stored can still be served.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	return func() error {
		// Closing alone is not enough: a program that is being started has a copy of the descriptor for a moment.
		return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
	}, nil
}
