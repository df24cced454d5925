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
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "the lock file %s cannot be written (permissions, read-only or full disk?)", path)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		who, _ := io.ReadAll(io.LimitReader(f, 64)) // only to say it better
		return nil, errors.Join(errs.Wrap(errs.Conflict, err, "the database is in use by process %s; stop it, or talk to it", bytes.TrimSpace(who)), f.Close())
	}
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
		if err != nil {
			return nil, errors.Join(errs.Wrap(errs.Unavailable, err, "the lock file %s cannot be written (full disk?)", path), f.Close())
		}
	}
	return f, nil
}
