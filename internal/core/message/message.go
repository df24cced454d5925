package message

import (
	"mooring/internal/core/device"
)

// Message is what somebody published.
type Message struct {
	Topic   string
	Payload []byte
	QoS     byte // 0, 1 or 2, as published
	Retain  bool // as published
	Expiry  uint32
	Properties

	Thing string    // the name of who published it; "" = the platform
	Child string    // for whom a gateway published it; "" = for itself
	From  string    // the client identifier of who published it, where it is not the thing's name
	ID    device.ID // of Thing
	Cert  [16]byte  // of the certificate that it was published under: Identity.Cert
	At    int64     // received, Unix milliseconds

	Stream Stream // where it lies
	Key    string // under which key there
	Seq    uint64 // its place there, from 1; 0 = not stored yet
}

// Properties of a message go from publisher to subscriber untouched (MQTT 5.0, section 3.3.2.3).
type Properties struct {
	Format        byte // payload format indicator
	ContentType   string
	ResponseTopic string
	Correlation   []byte
	User          []Pair
}

// Pair is a user property.
type Pair struct{ Name, Value string }

// Stream is one of the three streams of the fabric. The numbers are stored.
type Stream uint8

// The streams.
const (
	Up   Stream = 1 // what devices publish, by their names
	Down Stream = 2 // what is addressed to one thing, by its name
	Cast Stream = 3 // what is addressed to many
)
