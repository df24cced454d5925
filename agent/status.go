package agent

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"mooring/agent/est"
	"mooring/agent/keyfile"
	"mooring/wire/der"
)

// Condition is what an agent has: see the constants.
type Condition string

// The conditions of an agent.
const (
	NotEnrolled Condition = "not enrolled"
	Pending     Condition = "pending" // the server has not decided the first enrolment
	Enrolled    Condition = "enrolled"
	Expired     Condition = "expired" // enrolled, and too late
)

// Status is an agent as a person or a monitor wants to see it. Times are zero where there is none.
type Status struct {
	Condition   Condition `json:"condition"`
	Name        string    `json:"name"`
	Server      string    `json:"server"`
	Label       string    `json:"label,omitempty"`
	Subject     string    `json:"subject,omitempty"`
	Issuer      string    `json:"issuer,omitempty"`
	Serial      string    `json:"serial,omitempty"` // hexadecimal
	KeyType     string    `json:"key_type,omitempty"`
	Fingerprint string    `json:"fingerprint,omitempty"` // SHA-256 of the certificate
	NotBefore   time.Time `json:"not_before,omitzero"`
	NotAfter    time.Time `json:"not_after,omitzero"`
	RenewAt     time.Time `json:"renew_at,omitzero"`
	// RenewalAsked is whose wish the renewal is, and NextKeyType the kind of key that it is to be for, where the server said so.
	RenewalAsked string    `json:"renewal_asked,omitempty"`
	NextKeyType  string    `json:"next_key_type,omitempty"`
	NextAttempt  time.Time `json:"next_attempt,omitzero"` // of a daemon, if it runs
	Failures     int       `json:"failures,omitempty"`
	LastError    string    `json:"last_error,omitempty"`
	LastErrorAt  time.Time `json:"last_error_at,omitzero"`
	Files        Files     `json:"files,omitzero"`
}

// Files are the paths of an identity in use. They stay the same through renewals; other programs should open them anew
// for each connection, or be told to.
type Files struct {
	Key         string `json:"key"`
	Certificate string `json:"certificate"`
	Chain       string `json:"chain"`
	CA          string `json:"ca"`
}

// Status reads the condition of the agent. It changes nothing.
func (a *Agent) Status() (Status, error) {
	s, err := a.state()
	if err != nil {
		return Status{}, err
	}
	status := Status{
		Condition: NotEnrolled, Name: a.config.Name, Server: a.config.Server, Label: a.config.Label,
		Failures: s.Failures, LastError: s.LastError, LastErrorAt: s.LastErrorAt,
	}
	switch due, err := a.Due(); {
	case errors.Is(err, ErrNotEnrolled):
		return status, nil
	case err != nil:
		return Status{}, err
	default:
		status.NextAttempt = due
	}
	if !a.folder.enrolled() {
		status.Condition = Pending
		return status, nil
	}
	identity, err := a.Identity()
	if err != nil {
		return Status{}, fmt.Errorf("reading the identity in use: %w", err)
	}
	status.describe(identity, a)
	return status, nil
}

// describe fills in what there is to say about an identity.
func (s *Status) describe(identity *Identity, a *Agent) {
	cert := identity.Certificate()
	s.Condition = Enrolled
	if a.options.Now().After(cert.NotAfter) {
		s.Condition = Expired
	}
	s.Subject, s.Issuer = nameText(cert.RawSubject), nameText(cert.RawIssuer)
	s.Serial = fmt.Sprintf("%x", cert.SerialNumber)
	s.KeyType = string(der.KindOf(identity.Key.Public()))
	s.Fingerprint = est.FormatFingerprint(sha256.Sum256(cert.Raw))
	s.NotBefore, s.NotAfter = cert.NotBefore.UTC(), cert.NotAfter.UTC()
	s.RenewAt = a.renewAt(identity)
	said := a.advice(identity)
	s.RenewalAsked, s.NextKeyType = said.Reason, said.KeyType
	s.Files = a.files()
}

// files are the paths of the identity in use.
func (a *Agent) files() Files {
	current := a.folder.current()
	return Files{
		Key:         filepath.Join(current, keyfile.Name),
		Certificate: filepath.Join(current, certFile),
		Chain:       filepath.Join(current, chainFile),
		CA:          a.folder.path(caFile),
	}
}

// nameText writes a name for people. A name that der refuses, as other authorities may write them, is shown as such.
func nameText(raw []byte) string {
	attributes, err := der.ParseName(raw)
	if err != nil {
		return "(a name in an unusual form)"
	}
	return der.FormatName(attributes)
}
