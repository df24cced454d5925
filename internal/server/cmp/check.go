package cmp

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/wire/cmp"
	"mooring/wire/der"
)

const (
	// clockWindow is by how much the clock of a sender may differ. A device without a clock sends no messageTime.
	clockWindow = 5 * time.Minute
	nonceLeast  = 16 // octets of transactionID and senderNonce (RFC 9483, section 3.1)
)

// sender is who protected a message, proven.
type sender struct {
	// By MAC: the device's name, the algorithm with the secret, and what is wrong with the token.
	name  string
	mac   *cmp.MAC
	stale error // device.ErrTokenUsed or device.ErrTokenExpired
	// By signature.
	leaf  *x509.Certificate
	chain [][]byte // the leaf first, then whatever certificates came with it
}

// id tells senders apart.
func (s *sender) id() string {
	if s.mac != nil {
		return "mac " + s.name
	}
	sum := sha256.Sum256(s.leaf.Raw)
	return "certificate " + string(sum[:])
}

// checkHeader holds the header to RFC 9483, sections 3.1 and 3.5.
func (x *exchange) checkHeader() error {
	h := &x.m.Header
	switch {
	case h.Version != 2 && h.Version != 3:
		return refuse(cmp.UnsupportedVersion, "the pvno is %d; 2 and 3 are known", h.Version)
	case h.Sender == nil:
		return refuse(cmp.BadMessageCheck, "the sender must be a directoryName")
	case h.Transaction == nil:
		return refuse(cmp.BadDataFormat, "the transactionID is missing")
	case len(h.Transaction) < nonceLeast:
		return refuse(cmp.BadRequest, "the transactionID has %d octets; it needs %d drawn at random", len(h.Transaction), nonceLeast)
	case len(h.SenderNonce) < nonceLeast:
		return refuse(cmp.BadSenderNonce, "the senderNonce has %d octets; it needs %d drawn at random", len(h.SenderNonce), nonceLeast)
	case !h.Time.IsZero() && x.Now().Sub(h.Time).Abs() > clockWindow:
		return refuse(cmp.BadTime, "the messageTime %s is more than %v off; set the clock, or leave the time out", h.Time.UTC().Format(time.RFC3339), clockWindow)
	case first(x.m.Body.Kind()) && h.RecipientNonce != nil:
		return refuse(cmp.BadRecipientNonce, "the first message of an exchange has no recipNonce")
	case !first(x.m.Body.Kind()) && h.RecipientNonce == nil && x.m.Body.Kind() != cmp.Error:
		return refuse(cmp.BadRecipientNonce, "the recipNonce is missing: it repeats the senderNonce of the answer before")
	}
	return nil
}

// first tells whether a message of this kind begins an exchange.
func first(k cmp.Kind) bool {
	switch k {
	case cmp.IR, cmp.CR, cmp.KUR, cmp.P10CR, cmp.RR, cmp.GenM, cmp.Nested:
		return true
	}
	return false
}

// checkProfile reads the profile that the header names (RFC 9483, section 3.4).
func (x *exchange) checkProfile() error {
	if info, there := cmp.Find(x.m.Header.Info, cmp.OIDCertProfile); there {
		names, err := cmp.ParseProfiles(info.Value)
		switch {
		case err != nil:
			return refuse(cmp.BadDataFormat, "%v", err)
		case len(names) != 1:
			return refuse(cmp.BadRequest, "the certProfile names %d profiles; one request has one", len(names))
		case x.label != "" && x.label != names[0]:
			return refuse(cmp.BadRequest, "the certProfile and the path name different profiles")
		}
		x.label = names[0]
	}
	if x.label == "" {
		return nil
	}
	_, err := x.Enrol.Profile(x.label)
	return err
}

// checkProtection proves who protected the message.
func (x *exchange) checkProtection() (err error) {
	h := &x.m.Header
	switch {
	case h.Protection == nil && x.m.Protection == nil:
		return unproven(cmp.BadMessageCheck, "the message is not protected: sign it, or protect it by the device's token")
	case h.Protection == nil || x.m.Protection == nil:
		return unproven(cmp.BadMessageCheck, "the message has a protection without a protectionAlg, or the reverse")
	case cmp.IsMAC(h.Protection):
		x.by, err = x.byMAC()
	default:
		x.by, err = x.bySignature()
	}
	return err
}

// byMAC checks a MAC. An unknown device takes as long as a known one, and gets the same answer as a wrong secret.
func (x *exchange) byMAC() (*sender, error) {
	h := &x.m.Header
	mac, err := cmp.ParseMAC(h.Protection)
	if err != nil {
		return nil, unproven(cmp.BadAlg, "%v", err)
	}
	if len(h.SenderKID) == 0 {
		return nil, unproven(cmp.BadMessageCheck, "the senderKID is missing: it is the name of the device whose token protects the message")
	}
	done, err := x.turns.take(x.ctx, x.source, mac)
	if err != nil {
		return nil, err
	}
	defer done()
	by := &sender{name: string(h.SenderKID), mac: mac}
	text, err := x.Secret(x.ctx, by.name)
	switch {
	case errors.Is(err, device.ErrTokenUsed), errors.Is(err, device.ErrTokenExpired):
		by.stale = err
	case errors.Is(err, device.ErrTokenWrong):
		text = rand.Text()
	case err != nil:
		return nil, err
	}
	mac.Secret = []byte(text)
	switch checked := x.m.CheckMAC(mac); {
	case errors.Is(err, device.ErrTokenWrong):
		return nil, unproven(cmp.BadMessageCheck, "%s", errs.Public(err))
	case checked != nil:
		return nil, unproven(cmp.BadMessageCheck, "the message authentication code does not match: the device is unknown or the token is wrong; check both, or ask for a new token")
	case errors.Is(by.stale, device.ErrTokenExpired):
		return nil, unproven(cmp.NotAuthorized, "%s", errs.Public(by.stale))
	}
	return by, nil
}

// bySignature checks a signature, by the key of the first of the extraCerts. Whether that certificate is to be believed, core decides.
func (x *exchange) bySignature() (*sender, error) {
	h := &x.m.Header
	if _, err := der.ParseSignatureAlgorithm(h.Protection); err != nil {
		return nil, unproven(cmp.BadAlg, "the protectionAlg is not taken: %v", err)
	}
	if len(x.m.Certs) == 0 {
		return nil, unproven(cmp.BadMessageCheck, "the extraCerts must begin with the certificate by whose key the message is signed")
	}
	leaf, err := x509.ParseCertificate(x.m.Certs[0])
	if err != nil {
		return nil, unproven(cmp.BadMessageCheck, "the first of the extraCerts cannot be parsed; send one that strict X.509 readers accept")
	}
	pub, err := der.ParsePublicKey(leaf.RawSubjectPublicKeyInfo)
	if err == nil {
		err = der.CheckKey(pub)
	}
	switch {
	case err != nil:
		return nil, unproven(cmp.BadMessageCheck, "the key of the protecting certificate is not taken: %v", err)
	case !bytes.Equal(h.Sender, leaf.RawSubject):
		return nil, unproven(cmp.BadMessageCheck, "the sender is not the subject of the protecting certificate, the first of the extraCerts")
	case len(h.SenderKID) > 0 && !bytes.Equal(h.SenderKID, leaf.SubjectKeyId):
		return nil, unproven(cmp.BadMessageCheck, "the senderKID is not the subject key identifier of the protecting certificate, the first of the extraCerts")
	}
	if err := x.m.Verify(pub); err != nil {
		return nil, unproven(cmp.BadMessageCheck, "the signature does not match the message and the first of the extraCerts")
	}
	return &sender{leaf: leaf, chain: x.m.Certs}, nil
}

// refusal is a refusal with the failure that CMP has for it.
type refusal struct {
	failure cmp.Failure
	error
}

func (r refusal) Unwrap() error { return r.error }

func refuse(f cmp.Failure, format string, args ...any) error {
	return refusal{f, errs.New(errs.Invalid, format, args...)}
}

// unproven refuses somebody who has not shown who he is.
func unproven(f cmp.Failure, format string, args ...any) error {
	return refusal{f, errs.Wrap(errs.Denied, enrol.ErrUnauthenticated, format, args...)}
}

// failureOf is the table from what core says to what CMP has for it.
func failureOf(err error) cmp.Failure {
	var own refusal
	switch {
	case errors.As(err, &own):
		return own.failure
	case errors.Is(err, enrol.ErrPossession):
		return cmp.BadPOP
	case errors.Is(err, enrol.ErrRevoked):
		return cmp.CertRevoked
	case errors.Is(err, enrol.ErrConfirmed):
		return cmp.CertConfirmed
	case errors.Is(err, enrol.ErrUnknownTransaction):
		return cmp.BadCertID
	case errors.Is(err, enrol.ErrUnauthenticated):
		return cmp.SignerNotTrusted
	}
	return kindFailures()[errs.KindOf(err)]
}

// kindFailures has a failure for each kind of error.
func kindFailures() map[errs.Kind]cmp.Failure {
	return map[errs.Kind]cmp.Failure{errs.Internal: cmp.SystemFailure, errs.Invalid: cmp.BadCertTemplate, errs.Denied: cmp.NotAuthorized, errs.NotFound: cmp.BadCertID,
		errs.Conflict: cmp.NotAuthorized, errs.Limited: cmp.SystemUnavail, errs.Unavailable: cmp.SystemUnavail}
}
