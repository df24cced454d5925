package sink

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"time"

	"mooring/internal/core/message"
)

// event is a message as CloudEvents 1.0 writes it in JSON. Extensions have simple values and names of small letters and digits. The payload is base64, since
// it may be anything, and is to arrive as it was sent.
type event struct {
	SpecVersion   string `json:"specversion"`
	ID            string `json:"id"`
	Source        string `json:"source"`
	Type          string `json:"type"`
	Subject       string `json:"subject"` // the topic
	Time          string `json:"time"`    // received
	ContentType   string `json:"datacontenttype"`
	Tenant        string `json:"tenant,omitempty"`
	Thing         string `json:"thing"`
	Child         string `json:"child,omitempty"`
	Device        string `json:"device"`
	Certificate   string `json:"certificate,omitempty"`
	QoS           int    `json:"qos"`
	Retain        bool   `json:"retain"`
	ResponseTopic string `json:"responsetopic,omitempty"`
	Correlation   string `json:"correlation,omitempty"` // base64
	Data          string `json:"data_base64"`
}

// eventType is what all messages are.
const eventType = "mooring.message"

func newEvent(tenant string, born int64, m *message.Message) event {
	e := event{
		SpecVersion: "1.0", ID: ID(born, m), Source: "/mooring/up", Type: eventType, Subject: m.Topic, Time: time.UnixMilli(m.At).UTC().Format("2006-01-02T15:04:05.000Z"), ContentType: m.ContentType,
		Tenant: tenant, Thing: m.Thing, Child: m.Child, Device: m.ID.String(), QoS: int(m.QoS), Retain: m.Retain, ResponseTopic: m.ResponseTopic,
		Data: base64.StdEncoding.EncodeToString(m.Payload),
	}
	if tenant != "" {
		e.Source = "/mooring/" + url.PathEscape(tenant) + "/up"
	}
	if e.ContentType == "" {
		e.ContentType = anyType
	}
	if m.Cert != [16]byte{} {
		e.Certificate = hex.EncodeToString(m.Cert[:])
	}
	if len(m.Correlation) > 0 {
		e.Correlation = base64.StdEncoding.EncodeToString(m.Correlation)
	}
	return e
}

// buried is what is kept of a dead letter: its event, and what an event has no place for.
type buried struct {
	event
	User   [][2]string `json:"user,omitempty"`
	Format byte        `json:"format,omitempty"`
	Expiry uint32      `json:"expiry,omitempty"`
}

func bury(e event, m *message.Message) buried {
	b := buried{event: e, Format: m.Format, Expiry: m.Expiry}
	for _, u := range m.User {
		b.User = append(b.User, [2]string{u.Name, u.Value})
	}
	return b
}

// exhume is the message that was buried, as far as it can be read.
func exhume(text []byte) *message.Message {
	var b buried
	m := &message.Message{Stream: message.Up}
	if json.Unmarshal(text, &b) != nil {
		return m
	}
	m.Topic, m.Thing, m.Child, m.QoS, m.Retain, m.Expiry = b.Subject, b.Thing, b.Child, byte(b.QoS), b.Retain, b.Expiry
	m.Format, m.ResponseTopic = b.Format, b.ResponseTopic
	if b.ContentType != anyType {
		m.ContentType = b.ContentType
	}
	m.Payload, _ = base64.StdEncoding.DecodeString(b.Data)
	m.Correlation, _ = base64.StdEncoding.DecodeString(b.Correlation)
	if cert, err := hex.DecodeString(b.Certificate); err == nil && len(cert) == len(m.Cert) {
		m.Cert = [16]byte(cert)
	}
	if id, err := hex.DecodeString(b.Device); err == nil && len(id) == len(m.ID) {
		copy(m.ID[:], id)
	}
	if at, err := time.Parse(time.RFC3339, b.Time); err == nil {
		m.At = at.UnixMilli()
	}
	for _, u := range b.User {
		m.User = append(m.User, message.Pair{Name: u[0], Value: u[1]})
	}
	return m
}

// encode writes v, which has strings, numbers and truths only.
func encode(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic("sink: " + err.Error()) // it always marshals
	}
	return text
}
