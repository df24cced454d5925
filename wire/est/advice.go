package est

import "time"

// RenewalPath is where a Mooring server tells a device, which presents its certificate, when to renew it (RFC 8615). EST has no such operation; a
// server that knows nothing of it answers 404.
const RenewalPath = "/.well-known/mooring/renewal"

// HeaderProblem is the header of that request in which a device may say why its last renewal failed.
const HeaderProblem = "Mooring-Agent-Problem"

// Advice is the answer, in JSON.
type Advice struct {
	// RenewAt is when to renew; zero: never, as far as the server knows.
	RenewAt time.Time `json:"renew_at,omitzero"`
	// KeyType is the kind of key of the next certificate, such as "ec-p384"; "" leaves it to the device.
	KeyType string `json:"key_type,omitempty"`
	// NewKey says that the present key must not be used again.
	NewKey bool `json:"new_key,omitempty"`
	// Reason is whose wish that is, for people.
	Reason string `json:"reason,omitempty"`
	// AskAgain is in how many seconds to ask again.
	AskAgain int64 `json:"ask_again"`
}
