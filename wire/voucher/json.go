package voucher

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// The names of the outermost fields.
const (
	outerRequest = "ietf-voucher-request:voucher"
	outerVoucher = "ietf-voucher:voucher"
)

// The names of the fields (RFC 8366, section 5.3, and RFC 8995, section 3.4).
const (
	createdOn    = "created-on"
	expiresOn    = "expires-on"
	assertion    = "assertion"
	serialNumber = "serial-number"
	idevidIssuer = "idevid-issuer"
	pinnedCert   = "pinned-domain-cert"
	checks       = "domain-cert-revocation-checks"
	nonce        = "nonce"
	renewal      = "last-renewal-date"
	proximity    = "proximity-registrar-cert"
	prior        = "prior-signed-voucher-request"
)

// fields are the members of a JSON object, each named once.
type fields map[string]json.RawMessage

// readObject reads a JSON object and nothing after it. Nothing else refuses names that are there twice, and readers that differ about them can be played
// off against each other.
func readObject(in []byte) (fields, error) {
	if !utf8.Valid(in) {
		return nil, errors.New("the JSON is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(in))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return nil, errors.New("it is not a JSON object")
	}
	found := fields{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("reading JSON: %w", err)
		}
		name, ok := token.(string)
		if _, twice := found[name]; !ok || twice {
			return nil, fmt.Errorf("the field %.40q is there twice", name)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, fmt.Errorf("reading the field %.40q: %w", name, err)
		}
		found[name] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("reading JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something after the JSON object")
	}
	return found, nil
}

// reader takes values out of an object, and holds on to the first error.
type reader struct {
	fields fields
	err    error
}

// open reads the object in the one field of the outer object.
func open(in []byte, outer string) (*reader, error) {
	whole, err := readObject(in)
	if err != nil {
		return nil, err
	}
	inner, ok := whole[outer]
	if !ok || len(whole) != 1 {
		return nil, fmt.Errorf("the JSON object must have the field %q and no other", outer)
	}
	found, err := readObject(inner)
	return &reader{fields: found}, err
}

// take returns a field's value, once. ok is false for one that is absent; null is no value of anything here.
func (r *reader) take(name string) (value json.RawMessage, ok bool) {
	value, ok = r.fields[name]
	delete(r.fields, name)
	return value, ok && r.err == nil
}

func (r *reader) fail(name, format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("the field %q %s", name, fmt.Sprintf(format, args...))
	}
}

// text returns a string, which must not be empty when it is there.
func (r *reader) text(name string) (s string) {
	value, ok := r.take(name)
	if !ok {
		return ""
	}
	if value[0] != '"' || json.Unmarshal(value, &s) != nil || s == "" {
		r.fail(name, "must be a string, and not an empty one")
	}
	return s
}

func (r *reader) time(name string) (at time.Time) {
	text := r.text(name)
	if text == "" {
		return time.Time{}
	}
	if err := at.UnmarshalText([]byte(text)); err != nil || at.IsZero() {
		r.fail(name, "must be a time as in RFC 3339, such as 2026-03-01T12:00:00Z")
	}
	return at.UTC().Truncate(time.Second)
}

func (r *reader) octets(name string) []byte {
	text := r.text(name)
	if text == "" {
		return nil
	}
	octets, err := decodeBase64(text)
	if err != nil {
		r.fail(name, "must be base64")
	}
	return octets
}

func (r *reader) flag(name string) (set bool) {
	value, ok := r.take(name)
	if ok && (value[0] != 't' && value[0] != 'f' || json.Unmarshal(value, &set) != nil) {
		r.fail(name, "must be true or false")
	}
	return set
}

// end refuses what nobody has taken.
func (r *reader) end() error {
	if r.err != nil {
		return r.err
	}
	for name := range r.fields {
		return fmt.Errorf("the field %.40q is not one of this message", name)
	}
	return nil
}

// decodeBase64 reads both alphabets, with padding or without (RFC 4648, sections 4 and 5).
func decodeBase64(text string) ([]byte, error) {
	text = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	if strings.ContainsAny(text, "\r\n") { // the decoder passes over them
		return nil, errors.New("base64 with line ends")
	}
	return base64.RawStdEncoding.Strict().DecodeString(text)
}

func decodeRequest(content []byte) (Request, error) {
	r, err := open(content, outerRequest)
	if err != nil {
		return Request{}, err
	}
	q := Request{CreatedOn: r.time(createdOn), ExpiresOn: r.time(expiresOn), Assertion: Assertion(r.text(assertion)), SerialNumber: r.text(serialNumber),
		IDevIDIssuer: r.octets(idevidIssuer), Nonce: r.octets(nonce), ProximityRegistrarCert: r.octets(proximity), PriorSigned: r.octets(prior)}
	for _, ignored := range []string{pinnedCert, renewal, checks} {
		r.take(ignored)
	}
	if err := r.end(); err != nil {
		return Request{}, err
	}
	return q, q.check()
}

func decodeVoucher(content []byte) (Voucher, error) {
	r, err := open(content, outerVoucher)
	if err != nil {
		return Voucher{}, err
	}
	v := Voucher{CreatedOn: r.time(createdOn), ExpiresOn: r.time(expiresOn), LastRenewalDate: r.time(renewal), Assertion: Assertion(r.text(assertion)),
		SerialNumber: r.text(serialNumber), IDevIDIssuer: r.octets(idevidIssuer), PinnedDomainCert: r.octets(pinnedCert), Nonce: r.octets(nonce),
		DomainCertRevocationChecks: r.flag(checks)}
	if r.err != nil { // what else there is, a device must be prepared to pass over (RFC 8995, section 5.6.1)
		return Voucher{}, r.err
	}
	return v, v.check()
}

func (q *Request) check() error {
	if err := checkNames(q.SerialNumber, q.IDevIDIssuer, q.Nonce); err != nil {
		return err
	}
	switch {
	case q.Assertion != "" && !q.Assertion.known():
		return fmt.Errorf("the assertion %.40q is not known: it is verified, logged or proximity", q.Assertion)
	case q.Nonce != nil && !q.ExpiresOn.IsZero():
		return errors.New("there are a nonce and a time at which it expires, and there may be only one of them")
	case q.ProximityRegistrarCert != nil && q.PriorSigned != nil:
		return fmt.Errorf("there are %s and %s: the first is for devices and the other for registrars", proximity, prior)
	}
	return checkCert(proximity, q.ProximityRegistrarCert)
}

func (v *Voucher) check() error {
	if err := checkNames(v.SerialNumber, v.IDevIDIssuer, v.Nonce); err != nil {
		return err
	}
	switch {
	case v.CreatedOn.IsZero():
		return fmt.Errorf("there is no %s", createdOn)
	case !v.Assertion.known():
		return fmt.Errorf("the assertion %.40q is not known: it is verified, logged or proximity", v.Assertion)
	case v.PinnedDomainCert == nil:
		return fmt.Errorf("there is no %s", pinnedCert)
	case v.ExpiresOn.IsZero() && v.DomainCertRevocationChecks:
		return fmt.Errorf("there is %s without %s", checks, expiresOn)
	case v.ExpiresOn.IsZero() && !v.LastRenewalDate.IsZero():
		return fmt.Errorf("there is %s without %s", renewal, expiresOn)
	}
	return checkCert(pinnedCert, v.PinnedDomainCert)
}

func (a Assertion) known() bool { return a == Verified || a == Logged || a == Proximity }

func checkNames(serial string, issuer, n []byte) error {
	switch {
	case serial == "" || len(serial) > maxSerial || !utf8.ValidString(serial) || strings.ContainsFunc(serial, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("the %s must be text of 1 to %d octets", serialNumber, maxSerial)
	case n != nil && (len(n) < MinNonce || len(n) > MaxNonce):
		return fmt.Errorf("the nonce has %d octets, want %d to %d", len(n), MinNonce, MaxNonce)
	case issuer != nil && len(issuer) == 0:
		return fmt.Errorf("the %s is empty", idevidIssuer)
	}
	return nil
}

func checkCert(name string, raw []byte) error {
	if raw == nil {
		return nil
	}
	if _, err := x509.ParseCertificate(raw); err != nil {
		return fmt.Errorf("the field %q is not a certificate in DER: %w", name, err)
	}
	return nil
}

// A builder puts fields in the order in which they are added.
type builder struct {
	fields []string
	err    error
}

func (b *builder) add(name string, value any) {
	text, err := json.Marshal(value)
	b.err = errors.Join(b.err, err)
	b.fields = append(b.fields, fmt.Sprintf("%q:%s", name, text))
}

func (b *builder) text(name, value string) {
	if value != "" {
		b.add(name, value)
	}
}

func (b *builder) time(name string, at time.Time) {
	if at.IsZero() {
		return
	}
	if at = at.UTC(); at.Year() < 1 || at.Year() > 9999 {
		b.err = errors.Join(b.err, fmt.Errorf("%s is in the year %d, which cannot be written", name, at.Year()))
	}
	b.text(name, at.Format(time.RFC3339))
}

func (b *builder) octets(name string, value []byte) {
	b.text(name, base64.StdEncoding.EncodeToString(value))
}

func (b *builder) wrap(outer string) ([]byte, error) {
	return fmt.Appendf(nil, "{%q:{%s}}", outer, strings.Join(b.fields, ",")), b.err
}

func (q *Request) encode() ([]byte, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	var b builder
	b.text(assertion, string(q.Assertion))
	b.time(createdOn, q.CreatedOn)
	b.time(expiresOn, q.ExpiresOn)
	b.text(serialNumber, q.SerialNumber)
	b.octets(idevidIssuer, q.IDevIDIssuer)
	b.octets(nonce, q.Nonce)
	b.octets(proximity, q.ProximityRegistrarCert)
	b.octets(prior, q.PriorSigned)
	return b.wrap(outerRequest)
}

func (v *Voucher) encode() ([]byte, error) {
	if err := v.check(); err != nil {
		return nil, err
	}
	var b builder
	b.text(assertion, string(v.Assertion))
	b.time(createdOn, v.CreatedOn)
	b.time(expiresOn, v.ExpiresOn)
	b.time(renewal, v.LastRenewalDate)
	b.text(serialNumber, v.SerialNumber)
	b.octets(idevidIssuer, v.IDevIDIssuer)
	b.octets(nonce, v.Nonce)
	b.octets(pinnedCert, v.PinnedDomainCert)
	if v.DomainCertRevocationChecks {
		b.add(checks, true)
	}
	return b.wrap(outerVoucher)
}
