package voucher

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// MaxStatus is the size in octets over which a status report is not read.
const MaxStatus = 16 << 10

// MaxAuditLog is the size in octets over which a log of vouchers is not read.
const MaxAuditLog = 1 << 20

// maxDepth is how deep the context of a status report may nest.
const maxDepth = 16

// Version is the version of status reports and logs that there is.
const Version = 1

// Status is what a device says of the voucher that it was given (RFC 8995, section 5.7), and later of its enrolment (section 5.9.4).
type Status struct {
	// Version is 1. Of a later version the fields that are known here mean the same.
	Version int
	Status  bool // true = it went well
	// Reason says why it did not. It is the device's own words: whoever shows it makes it fit for a terminal or a page first.
	Reason        string
	ReasonContext map[string]any
	// Unknown are the names of fields that the RFC does not have, in order. Nothing is known of their values; a server logs that they were there.
	Unknown []string
}

// ParseStatus reads a status report.
func ParseStatus(in []byte) (Status, error) {
	s, err := parseStatus(in)
	if err != nil {
		return Status{}, fmt.Errorf("reading a status report: %w", err)
	}
	return s, nil
}

func parseStatus(in []byte) (s Status, err error) {
	if len(in) > MaxStatus {
		return s, fmt.Errorf("it has %d octets; at most %d are read", len(in), MaxStatus)
	}
	found, err := readObject(in)
	if err != nil {
		return s, err
	}
	version, hasVersion := found["version"]
	status, hasStatus := found["status"]
	if !hasVersion || json.Unmarshal(version, &s.Version) != nil || s.Version < 1 {
		return s, errors.New("there is no version, or it is not a number from 1")
	}
	if !hasStatus || string(status) == "null" || json.Unmarshal(status, &s.Status) != nil {
		return s, errors.New("there is no status, or it is neither true nor false")
	}
	if reason, ok := found["reason"]; ok && json.Unmarshal(reason, &s.Reason) != nil {
		return s, errors.New("the reason is not a string")
	}
	if context, ok := found["reason-context"]; ok {
		if deep(context, maxDepth) || json.Unmarshal(context, &s.ReasonContext) != nil {
			return s, fmt.Errorf("the reason-context is not an object that is at most %d deep", maxDepth)
		}
	}
	for _, known := range []string{"version", "status", "reason", "reason-context"} {
		delete(found, known)
	}
	s.Unknown = slices.Sorted(maps.Keys(found))
	return s, nil
}

// deep tells whether JSON nests deeper than allowed.
func deep(in []byte, allowed int) bool {
	depth, quoted, escaped := 0, false, false
	for _, c := range in {
		switch {
		case escaped:
			escaped = false
		case quoted:
			escaped, quoted = c == '\\', c != '"'
		case c == '"':
			quoted = true
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		}
		if depth > allowed {
			return true
		}
	}
	return false
}

// Encode returns the report as JSON. A zero Version is written as 1; Unknown is not written.
func (s Status) Encode() ([]byte, error) {
	if s.Version == 0 {
		s.Version = Version
	}
	out, err := json.Marshal(struct {
		Version int            `json:"version"`
		Status  bool           `json:"status"`
		Reason  string         `json:"reason,omitempty"`
		Context map[string]any `json:"reason-context,omitempty"`
	}{s.Version, s.Status, s.Reason, s.ReasonContext})
	if err == nil && len(out) > MaxStatus {
		err = fmt.Errorf("the status report has %d octets; at most %d are read", len(out), MaxStatus)
	}
	return out, err
}

// AuditLog tells of the vouchers that were issued for one device (RFC 8995, section 5.8.1).
type AuditLog struct {
	// Version is 1. Later ones say more, but none says less.
	Version    int
	Events     []Event
	Truncation Truncation
}

// Event is one voucher, or several of one domain of which it was the last.
type Event struct {
	Date     time.Time
	DomainID []byte // whose: see DomainID
	// Nonce is the voucher's nonce as text, which need not be base64: see NonceText. "" = the voucher had none.
	Nonce     string
	Assertion Assertion
	Truncated uint64 // how many more of this domain were left out; a count of 1024 may stand for more
}

// Truncation counts the events that are left out.
type Truncation struct {
	NoncedDuplicates    uint64
	NoncelessDuplicates uint64
	Arbitrary           uint64
}

// NonceText is a nonce as we write it in the log.
func NonceText(nonce []byte) string { return base64.StdEncoding.EncodeToString(nonce) }

type wireEvent struct {
	Date      string    `json:"date"`
	DomainID  string    `json:"domainID"`
	Nonce     *string   `json:"nonce"`
	Assertion Assertion `json:"assertion"`
	Truncated count     `json:"truncated,omitempty"`
}

type wireLog struct {
	Version    count           `json:"version"`
	Events     []wireEvent     `json:"events"`
	Truncation *wireTruncation `json:"truncation,omitempty"`
}

type wireTruncation struct {
	Nonced    count `json:"nonced duplicates"`
	Nonceless count `json:"nonceless duplicates"`
	Arbitrary count `json:"arbitrary"`
}

// count is a number. The RFC's grammar has numbers, and its example has them in quotes; both are read, and numbers are written.
type count uint64

// UnmarshalJSON reads a number from 0, with quotes or without.
func (c *count) UnmarshalJSON(in []byte) error {
	if len(in) > 2 && in[0] == '"' && in[len(in)-1] == '"' {
		in = in[1 : len(in)-1]
	}
	n, err := strconv.ParseUint(string(in), 10, 63)
	if err != nil {
		return fmt.Errorf("%.40q is not a number from 0", in)
	}
	*c = count(n)
	return nil
}

// ParseAuditLog reads a log of vouchers. One without an event is an error, since a voucher must have been issued to whoever may ask.
func ParseAuditLog(in []byte) (AuditLog, error) {
	l, err := parseAuditLog(in)
	if err != nil {
		return AuditLog{}, fmt.Errorf("reading a log of vouchers: %w", err)
	}
	return l, nil
}

func parseAuditLog(in []byte) (l AuditLog, err error) {
	if len(in) > MaxAuditLog {
		return l, fmt.Errorf("it has %d octets; at most %d are read", len(in), MaxAuditLog)
	}
	if _, err := readObject(in); err != nil {
		return l, err
	}
	var w wireLog
	if err := json.Unmarshal(in, &w); err != nil {
		return l, err
	}
	if w.Version < 1 || w.Version > 1000 {
		return l, fmt.Errorf("its version is %d, want 1 or a later one", w.Version)
	}
	if len(w.Events) == 0 {
		return l, errors.New("it has no events")
	}
	l.Version = int(w.Version)
	for i, e := range w.Events {
		event, err := e.event()
		if err != nil {
			return l, fmt.Errorf("event %d: %w", i+1, err)
		}
		l.Events = append(l.Events, event)
	}
	if t := w.Truncation; t != nil {
		l.Truncation = Truncation{uint64(t.Nonced), uint64(t.Nonceless), uint64(t.Arbitrary)}
	}
	return l, nil
}

func (w *wireEvent) event() (e Event, err error) {
	if err := e.Date.UnmarshalText([]byte(w.Date)); err != nil {
		return e, fmt.Errorf("the date %.40q is not as in RFC 3339", w.Date)
	}
	e.Date = e.Date.UTC().Truncate(time.Second)
	if e.DomainID, err = decodeBase64(w.DomainID); err != nil || len(e.DomainID) == 0 {
		return e, errors.New("the domainID is not base64")
	}
	if !w.Assertion.known() {
		return e, fmt.Errorf("the assertion %.40q is not known", w.Assertion)
	}
	if w.Nonce != nil {
		if e.Nonce = *w.Nonce; e.Nonce == "" {
			return e, errors.New("the nonce is empty; for none it is null")
		}
	}
	e.Assertion, e.Truncated = w.Assertion, uint64(w.Truncated)
	return e, nil
}

// Encode returns the log as JSON. A zero Version is written as 1.
func (l AuditLog) Encode() ([]byte, error) {
	if l.Version == 0 {
		l.Version = Version
	}
	w := wireLog{Version: count(l.Version), Events: []wireEvent{}}
	for _, e := range l.Events {
		event := wireEvent{Date: e.Date.UTC().Format(time.RFC3339), DomainID: base64.StdEncoding.EncodeToString(e.DomainID), Assertion: e.Assertion, Truncated: count(e.Truncated)}
		if e.Nonce != "" {
			event.Nonce = &e.Nonce
		}
		w.Events = append(w.Events, event)
	}
	if l.Truncation != (Truncation{}) {
		w.Truncation = &wireTruncation{count(l.Truncation.NoncedDuplicates), count(l.Truncation.NoncelessDuplicates), count(l.Truncation.Arbitrary)}
	}
	out, err := json.Marshal(w)
	if err == nil && len(out) > MaxAuditLog {
		err = fmt.Errorf("the log of vouchers has %d octets; at most %d are read", len(out), MaxAuditLog)
	}
	return out, err
}
