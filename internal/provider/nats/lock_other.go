//go:build !unix

package nats

import "errors"

var errLocked = errors.New("locked by another process")

// lock does nothing where there is no flock: run one server for each directory.
func lock(string) (unlock func(), err error) { return func() {}, nil }
