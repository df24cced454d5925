//go:build unix

package agent

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lock keeps other processes from changing the folder until the function it returns is called, or this process ends.
func (f folder) lock() (unlock func(), err error) {
	file, err := os.OpenFile(f.path("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrBusy
		}
		return nil, errors.Join(fmt.Errorf("locking %s: %w", f.dir, err), file.Close())
	}
	return func() {
		_ = syscall.Flock(int(file.Fd()), syscall.LOCK_UN) // a program that is being started has a copy of the descriptor for a moment
		_ = file.Close()                                   // nothing was written to it
	}, nil
}
