// Package message lets devices and services talk: who may publish and subscribe where, what is kept for whom, and who is cut off when.
//
// Fronts (MQTT, CoAP) end connections and speak protocols; each hands a proven identity to Service.Connect and gets a Conn. All that a front hears
// goes through Conn.Publish, Conn.Subscribe and Conn.Detach, and all that it is to say comes to its Link. What must not be lost lies in the Fabric,
// whose implementation is a provider: streams of messages, retained messages, sessions, who owns a session, and cuts.
//
//	device → front → Conn.Publish → policy, rate → Fabric.Append (stored) → done → front acknowledges
//	Fabric.Follow → subscriptions of this node's sessions → policy → Link.Deliver → front → Conn.Acked → the session's cursor moves
//
// Streams. Up holds what devices publish and is the record from which sinks read. Down holds what is addressed to one thing, Cast what is addressed to
// many; which of them a topic belongs to follows from the policy's templates (policy.Set.Addressees), never from a topic root that the code knows.
// A session has no consumer of its own in the fabric: its queue is Down's messages under its thing's name after the session's cursor, and those of Cast
// that its subscriptions match. Each node follows Down and Cast once, and Up only while a session on it subscribes to what devices publish.
//
// A session that is connected hears its messages from there; one that is too slow, or was away, reads them from the fabric by its cursor, so a slow peer costs
// no memory and delays nobody. Groups that share a subscription are one over all nodes.
//
// What outlives a connection. A session's record (subscriptions, cursors, what is on its way, the will) is written before an answer that must not be
// forgotten, and otherwise within a second. A take-over is an ownership with a number (Fabric.Own): the older connection closes its socket first, and who
// finds the record changed by somebody else has lost the session. Whoever leads says the wills of nodes that are gone. Retained messages are looked at again
// when they are shown: may their author still speak, and publish that; may the reader have it.
//
// The policy lies in the database, in every version; nodes follow it, and hold live connections, what waits for them, and their wills to it.
//
// Cutting off. Service.Cut marks connections, so that nothing which they sent before is stored afterwards, closes their sockets, drops will, session and
// queue, and has it recorded. Connecting registers first and looks at the recent cuts afterwards; cutting notes the cut first and looks at the
// connections afterwards; so one of the two sees the other.
//
// The package deliberately knows no packet of any protocol, opens no socket and verifies no certificate.
package message
