//go:build !unix

package v2x

import "errors"

// ErrBusy is that another process has the folder of the station open.
var ErrBusy = errors.New("another process has it open")

// lock does nothing where there is no flock: run one process for each folder.
func (f folder) lock() (unlock func(), err error) { return func() {}, nil }
