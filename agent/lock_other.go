//go:build !unix

package agent

// lock does nothing where there is no flock: run one agent for each folder.
func (f folder) lock() (unlock func(), err error) { return func() {}, nil }
