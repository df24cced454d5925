package message

import (
	"net/netip"

	"mooring/internal/base/errs"
	"mooring/internal/core/device"
	"mooring/internal/core/message/policy"
)

// Identity is who is at the other end, as the registry knows it by the certificate whose key the peer proved to hold.
type Identity struct {
	ID       device.ID
	Subject  policy.Subject // with the thing's name
	Cert     [16]byte       // of the certificate, as Deps.Author knows it: 16 octets that no other one has
	Serial   string         // of the certificate, content octets
	Issuer   string         // of the certificate: the id of its CA, octets
	NotAfter int64          // of the certificate, Unix seconds: the connection ends then
	// Group is the policy's group for whoever comes by a listener with a fixed one; "" = what the policy says.
	Group string

	asOf    uint64 // the number of the last cut that whoever looked it up could know of; Service.Identify fills it in
	changes uint64 // the number of changes of the registry that he could know of; likewise
}

// Link is one live connection as its front holds it. No method may block: what cannot be written now is queued by octets up to the limit, then dropped and counted.
type Link interface {
	// Deliver says d to the peer. It reports false when a message of QoS 0 had to be dropped; those of QoS 1 and 2 are never more than the window that
	// the front gave to Connect, and are always taken. It may be called before Connect or Subscribe has returned: the front says it after their answer. It
	// is called with locks held, so it must not call the Conn.
	Deliver(d Delivery) bool
	// Close ends the connection: the raw socket first, and nothing that was read but not handled yet is handled afterwards. It may be called by any
	// goroutine, more than once, with locks held; the first reason counts.
	Close(Reason)
	// Queued is for lists: octets that wait to be written.
	Queued() int
}

// Delivery is one message on its way to a peer.
type Delivery struct {
	Message *Message // shared; must not be changed
	QoS     byte     // granted: at most the message's
	// ID is the packet identifier of this delivery within the session, from 1; 0 with QoS 0. It stays the same when the delivery is repeated.
	ID      uint16
	Dup     bool     // it was delivered on an earlier connection
	Release bool     // QoS 2: the peer had received it; only the release (PUBREL) is said again
	Retain  bool     // the flag to be sent
	Expiry  uint32   // seconds that are left; 0 = it does not expire
	Subs    []uint32 // the identifiers of the subscriptions that match (MQTT 5.0, section 3.3.4)
}

// Attach is what a front asks Connect for.
type Attach struct {
	Identity Identity
	Client   string // the client identifier that was claimed; "" = it is to be assigned
	Front    string // "mqtt", "wss", "coap"
	Address  netip.AddrPort
	Clean    bool   // no earlier session is wanted
	Expiry   uint32 // seconds that the session outlives the connection; ^0 = for as long as is allowed
	Default  bool   // the protocol has no such number (MQTT 3.1.1, clean session 0): the policy's
	Will     *Will
	Window   int // deliveries of QoS 1 and 2 on their way at once, at most
	Link     Link
}

// Will is said when a connection ends without a farewell.
type Will struct {
	Message Message
	Delay   uint32 // seconds
}

// Connected is what Connect granted.
type Connected struct {
	Present  bool   // an earlier session goes on
	Client   string // the client identifier
	Assigned bool   // it was not claimed but assigned
	Expiry   uint32 // seconds
	Limits   policy.Limits
}

// Subscription is one filter of a session.
type Subscription struct {
	Filter    string // with $share/NAME/, if shared
	QoS       byte   // at most
	NoLocal   bool
	AsPublish bool   // Retain As Published
	Handling  byte   // Retain Handling: 0 replay, 1 replay if new, 2 never
	ID        uint32 // subscription identifier; 0 = none
}

// Grant is the answer to one subscription: the QoS, or why not.
type Grant struct {
	QoS byte
	Err error
}

// Reason is why a connection ends. Fronts have one table from reasons to the codes of their protocol.
type Reason uint8

// The reasons.
const (
	_               Reason = iota
	ReasonFarewell         // the peer said so
	ReasonLost             // the peer is gone
	ReasonProtocol         // the peer broke the rules of the protocol; the front knows which
	ReasonTimeout          // nothing was heard for too long
	ReasonTakenOver        // the same session connects again
	ReasonCut              // revoked, suspended, lost, retired
	ReasonExpired          // the certificate ended
	ReasonPolicy           // the policy does not allow the connection any more
	ReasonDenied           // it published what it may not
	ReasonRate             // too much, too fast
	ReasonQuota            // a quota is used up
	ReasonSlow             // it does not read
	ReasonStopping         // this node stops
	ReasonFabric           // the fabric cannot be reached
)

// Farewell is how a connection ends that ends in an orderly way.
type Farewell struct {
	Expiry   *uint32 // seconds that the session goes on, nil = as it was agreed
	KeepWill bool    // the will is said all the same (DISCONNECT 0x04)
}

// What Connect refuses for reasons that protocols have codes for. Test with errors.Is.
var (
	ErrClient = errs.New(errs.Invalid, "the client identifier is not one of this thing: use the thing's name")
	ErrWill   = errs.New(errs.Denied, "the policy does not allow this will")
)
