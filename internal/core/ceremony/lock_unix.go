//go:build unix

package ceremony

import (
	"errors"
	"os"
	"syscall"

	"mooring/internal/base/errs"
)

// lock keeps other processes from changing the directory until the function it returns is called, or this process ends.
func lock(path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "the directory of the root cannot be locked")
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		return nil, errs.Wrap(errs.Conflict, err, "another process is using this root: wait until it has ended")
	}
	return func() error {
		// Closing alone is not enough: a program that is being started has a copy of the descriptor for a moment.
		return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
	}, nil
}
