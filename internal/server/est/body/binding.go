package body

import (
	"mooring/internal/server/gate"
	"mooring/wire/est"
)

// Bound returns what compares a challengePassword with the connection's channel bindings (RFC 7030, section 3.5; RFC 9266).
func Bound(p *gate.Peer) func(challenge string) bool {
	return func(challenge string) bool {
		matched := false
		for _, value := range p.Bindings() {
			if (est.ChannelBinding{Exporter: value}).Matches(challenge) {
				matched = true
			}
		}
		return matched
	}
}
