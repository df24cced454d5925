package est

import (
	"crypto/subtle"
	"encoding/base64"
)

// The channel binding of TLS 1.3: an exported value of ExporterLength bytes under ExporterLabel with an empty context
// (RFC 9266, section 2).
const (
	ExporterLabel  = "EXPORTER-Channel-Binding"
	ExporterLength = 32
)

// tlsUniqueLength is the length of a Finished message of TLS 1.2, the first of which is tls-unique (RFC 5929, section 3).
const tlsUniqueLength = 12

// ChannelBinding holds the values that tie a request to the TLS connection it came over (RFC 7030, section 3.5). A
// field is nil when the connection has no such value: TLS 1.3 has no tls-unique.
type ChannelBinding struct {
	TLSUnique []byte
	Exporter  []byte
}

// Text returns the challengePassword that a client puts into its request: the base64 of tls-unique where there is one,
// else of the exported value, else "".
func (b ChannelBinding) Text() string {
	if len(b.TLSUnique) > 0 {
		return base64.StdEncoding.EncodeToString(b.TLSUnique)
	}
	return base64.StdEncoding.EncodeToString(b.Exporter)
}

// Matches tells in constant time whether the challengePassword of a request belongs to this connection, by either
// value. A connection without values matches nothing.
func (b ChannelBinding) Matches(challenge string) bool {
	unique := matchText(challenge, b.TLSUnique)
	exporter := matchText(challenge, b.Exporter)
	return unique|exporter == 1
}

func matchText(challenge string, value []byte) int {
	if len(value) == 0 {
		return 0
	}
	want := base64.StdEncoding.EncodeToString(value)
	return subtle.ConstantTimeCompare([]byte(challenge), []byte(want))
}

// LooksBound tells whether a challengePassword has the form of a channel binding at all, so that a password put there
// by a user can be told what is wrong. It proves nothing.
func LooksBound(challenge string) bool {
	value, err := base64.StdEncoding.Strict().DecodeString(challenge)
	return err == nil && (len(value) == tlsUniqueLength || len(value) == ExporterLength)
}
