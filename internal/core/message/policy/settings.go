package policy

import (
	"slices"
	"strings"
	"time"
)

// Mode is the choice that a setting leaves between a few words.
type Mode string

// The modes.
const (
	ClientBound Mode = "bound" // the client identifier is the thing's name, or that and a suffix
	ClientAny   Mode = "any"   // any: the session's key holds the thing's name anyway

	DenyClose Mode = "close" // who publishes what he may not is disconnected
	DenyDrop  Mode = "drop"  // it is acknowledged and forgotten

	ResponseAny    Mode = "any"    // response topics pass
	ResponseStrip  Mode = "strip"  // one that the requester may not receive from is taken off
	ResponseRefuse Mode = "refuse" // such a request is refused

	RetainedMark   Mode = "mark"   // retained messages of a revoked thing are still shown, and marked
	RetainedHide   Mode = "hide"   // they are kept and not shown
	RetainedDelete Mode = "delete" // they are removed
)

// Limits are the settings of one group: what one connection of it may use.
type Limits struct {
	Principal     Kind // Device or Service: which defaults hold, and whether the group's templates say to whom a topic is addressed
	ClientID      Mode
	Connections   int    // of one thing at once
	SessionExpiry uint32 // seconds, at most
	KeepAlive     uint16 // seconds, at most
	Idle          uint32 // seconds for which a connection over DTLS may be silent
	Packet        int    // octets
	InFlightIn    int    // messages of QoS 1 and 2 on their way to us (Receive Maximum)
	InFlightOut   int
	Outbound      int // octets that wait to be written
	QueueMessages int // of a session whose owner is away
	QueueOctets   int
	Subscriptions int // of a session
	Filters       int // in one request
	Aliases       int // of topics, for each direction
	Levels        int // of a topic
	TopicOctets   int
	Retained      int // topics of one thing
	Rate          Rate
	ByteRate      Rate // of what is published, in octets
	Deny          Mode
	Response      Mode
	Revoked       Mode // what becomes of a revoked thing's retained messages

	// These follow from the rules: the largest QoS that it may publish with, and whether any rule lets it retain or share.
	MaxQoS         byte
	Retain, Shared bool
}

// setting is a word that may stand in a group. read takes its value and returns it as Format writes it, or says what to write.
type setting struct {
	name            string
	device, service string // the values that hold unless a group says otherwise
	read            func(l *Limits, value string) (canon, lack string)
}

// The bounds of a duration, and of octets that a packet can have: NATS takes payloads up to 1 MiB.
const (
	longest    = 90 * 24 * time.Hour
	mostOctets = 1 << 20
)

// settingTable is every setting with its defaults, in the order in which they are told.
func settingTable() []setting {
	return []setting{
		{"principal", "device", "service", func(l *Limits, v string) (string, string) {
			switch v {
			case "device":
				l.Principal = Device
			case "service":
				l.Principal = Service
			default:
				return v, "write device or service"
			}
			return v, ""
		}},
		{"client_id", "bound", "any", mode(func(l *Limits, m Mode) { l.ClientID = m }, ClientBound, ClientAny)},
		{"connections", "1", "100", number(1, 10_000, func(l *Limits, n int) { l.Connections = n })},
		{"session_expiry", "7d", "7d", span(0, longest, func(l *Limits, d time.Duration) { l.SessionExpiry = uint32(d / time.Second) })},
		{"keep_alive", "20m", "20m", span(5*time.Second, 18*time.Hour, func(l *Limits, d time.Duration) { l.KeepAlive = uint16(d / time.Second) })},
		{"idle", "24h", "24h", span(time.Minute, longest, func(l *Limits, d time.Duration) { l.Idle = uint32(d / time.Second) })},
		{"deny", "close", "close", mode(func(l *Limits, m Mode) { l.Deny = m }, DenyClose, DenyDrop)},
		{"response_topics", "strip", "any", mode(func(l *Limits, m Mode) { l.Response = m }, ResponseAny, ResponseStrip, ResponseRefuse)},
		{"retained_of_revoked", "hide", "hide", mode(func(l *Limits, m Mode) { l.Revoked = m }, RetainedMark, RetainedHide, RetainedDelete)},
		{"rate", "50/s", "none", rate(number64, 1_000_000, func(l *Limits, r Rate) { l.Rate = r })},
		{"burst", "200", "", number(1, 1_000_000, func(l *Limits, n int) { l.Rate.Burst = int64(n) })},
		{"byte_rate", "256KiB/s", "none", rate(octets64, 1<<30, func(l *Limits, r Rate) { l.ByteRate = r })},
		{"packet_size", "128KiB", "1MiB", octets(1024, mostOctets, func(l *Limits, n int) { l.Packet = n })},
		{"in_flight", "32", "1024", number(1, 65_535, func(l *Limits, n int) { l.InFlightIn = n })},
		{"in_flight_out", "64", "1024", number(1, 4096, func(l *Limits, n int) { l.InFlightOut = n })},
		{"outbound", "64KiB", "1MiB", octets(4096, 64<<20, func(l *Limits, n int) { l.Outbound = n })},
		{"queue_messages", "100", "10000", number(0, 1_000_000, func(l *Limits, n int) { l.QueueMessages = n })},
		{"queue_size", "256KiB", "16MiB", octets(0, 1<<30, func(l *Limits, n int) { l.QueueOctets = n })},
		{"subscriptions", "100", "10000", number(0, 1_000_000, func(l *Limits, n int) { l.Subscriptions = n })},
		{"filters", "64", "64", number(1, 10_000, func(l *Limits, n int) { l.Filters = n })},
		{"aliases", "16", "16", number(0, 65_535, func(l *Limits, n int) { l.Aliases = n })},
		{"topic_levels", "32", "32", number(1, 128, func(l *Limits, n int) { l.Levels = n })},
		{"topic_size", "512", "512", octets(1, 4096, func(l *Limits, n int) { l.TopicOctets = n })},
		{"retained_topics", "100", "1000", number(0, 1_000_000, func(l *Limits, n int) { l.Retained = n })},
	}
}

func settingNamed(name string) (setting, bool) {
	table := settingTable()
	i := slices.IndexFunc(table, func(s setting) bool { return s.name == name })
	if i < 0 {
		return setting{}, false
	}
	return table[i], true
}

func settingNames() []string {
	var names []string
	for _, s := range settingTable() {
		names = append(names, s.name)
	}
	return names
}

// defaults are the limits of a group that says nothing.
func defaults(principal Kind) Limits {
	var l Limits
	for _, s := range settingTable() {
		value := s.device
		if principal == Service {
			value = s.service
		}
		if value != "" {
			s.read(&l, value)
		}
	}
	return l
}

func mode(set func(*Limits, Mode), modes ...Mode) func(*Limits, string) (string, string) {
	return func(l *Limits, v string) (string, string) {
		var words []string
		for _, m := range modes {
			if string(m) == v {
				set(l, m)
				return v, ""
			}
			words = append(words, string(m))
		}
		return v, "write " + orList(words)
	}
}

func number(least, most int64, set func(*Limits, int)) func(*Limits, string) (string, string) {
	return func(l *Limits, v string) (string, string) {
		n, lack := numberIn(v, least, most)
		if lack == "" {
			set(l, int(n))
		}
		return v, lack
	}
}

func octets(least, most int64, set func(*Limits, int)) func(*Limits, string) (string, string) {
	return func(l *Limits, v string) (string, string) {
		n, lack := octetsIn(v, least, most)
		if lack != "" {
			return v, lack
		}
		set(l, int(n))
		return formatOctets(n), ""
	}
}

func span(least, most time.Duration, set func(*Limits, time.Duration)) func(*Limits, string) (string, string) {
	return func(l *Limits, v string) (string, string) {
		d, lack := spanIn(v, least, most)
		if lack != "" {
			return v, lack
		}
		set(l, d)
		return formatSpan(d), ""
	}
}

// A rate that is set anew brings its own burst; the word burst after it changes that.
func rate(unit func(string, int64) (int64, string), most int64, set func(*Limits, Rate)) func(*Limits, string) (string, string) {
	return func(l *Limits, v string) (string, string) {
		r, lack := rateIn(v, unit, most)
		if lack == "" {
			set(l, r)
		}
		return v, lack
	}
}

// orList is "a, b or c".
func orList(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
