//go:build !linux

package gate

import (
	"net"
	"time"
)

// poll is for Linux; elsewhere Go's own poller serves.
type poll struct{}

func newPoll(func() time.Time) *poll { return nil }

func (p *poll) run()                  {}
func (p *poll) end()                  {}
func (p *poll) take(net.Conn) *polled { return nil }

type polled struct{ net.Conn }

func (c *polled) flush() error { return nil }
func (c *polled) kept() bool   { return false }
