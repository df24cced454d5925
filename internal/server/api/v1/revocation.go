package v1

import "time"

// RevocationEvent is one event of the feed of revocations.
type RevocationEvent struct {
	Cursor *int64    `json:"cursor,omitempty" doc:"Its place in the record: after a break go on with from = cursor + 1. Absent for what was committed a moment ago and has no place yet; the same event follows with its place" example:"73894"`
	Kind   string    `json:"kind" enum:"revoke,hold,release" doc:"What happened" example:"revoke"`
	Serial string    `json:"serial" doc:"Serial number of the certificate" example:"4165a1b2c3d4e5f60718293a4b5c6d7e"`
	Issuer string    `json:"issuer" doc:"Id of the CA" example:"0011223344556677"`
	Device string    `json:"device,omitempty" doc:"Id of the device that it was issued to" example:"6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c"`
	Key    string    `json:"key,omitempty" doc:"SHA-256 of the public key, hexadecimal"`
	Reason string    `json:"reason" doc:"Why, by the names of RFC 5280, section 5.3.1; removeFromCRL when a hold was lifted" example:"keyCompromise"`
	At     time.Time `json:"at" doc:"When"`
}
