package conf

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// value is one field of Config as the file sees it. Its texts are those between the quotes; a list is written with commas.
type value struct {
	kind   string // what describe prints: "text", "whole number", …
	form   form
	parse  func(string) error
	format func() string
	// derived returns what holds when the text is empty; nil: the empty text itself.
	derived func() string
}

// shown is the text for people: the field's own, or what holds in its place.
func (v value) shown() string {
	text := v.format()
	if text == "" && v.derived != nil {
		return v.derived()
	}
	return text
}

// form says which YAML nodes a value is written as.
type form uint8

const (
	asText form = iota
	asNumber
	asTruth
	asBare // a text that needs no quotes, such as a duration
	asList
)

// checked is a text that must pass check, which may also return a tidied text.
func checked(p *string, kind string, check func(string) (string, error)) value {
	return value{kind: kind, form: asText, format: func() string { return *p }, parse: func(s string) error {
		tidy, err := check(s)
		if err == nil {
			*p = tidy
		}
		return err
	}}
}

func text(p *string) value {
	return checked(p, "text", func(s string) (string, error) { return s, nil })
}

func path(p *string) value {
	return checked(p, "path", func(s string) (string, error) {
		if s == "" || strings.ContainsRune(s, 0) {
			return "", fmt.Errorf("is empty: give a path, absolute or below the data directory")
		}
		return s, nil
	})
}

// title is an organisation's name as X.520 bounds it: 1 to 64 printable characters.
func title(p *string) value {
	return checked(p, "text", func(s string) (string, error) {
		if n := len([]rune(s)); n == 0 || n > 64 || strings.TrimSpace(s) != s || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return "", fmt.Errorf("%q is not 1 to 64 printable characters without blanks at the ends", s)
		}
		return s, nil
	})
}

// origin is a key name of a signed note: no white space, no plus sign.
func origin(p *string) value {
	return checked(p, "text", func(s string) (string, error) {
		if len(s) > 128 || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) || r == '+' }) {
			return "", fmt.Errorf("%q has a blank, a plus sign or more than 128 octets", s)
		}
		return s, nil
	})
}

func oneOf(p *string, choices ...string) value {
	kind := strings.Join(choices, " | ")
	return checked(p, kind, func(s string) (string, error) {
		if !slices.Contains(choices, s) {
			return "", fmt.Errorf("%q is not one of %s", s, strings.Join(choices, ", "))
		}
		return s, nil
	})
}

func address(p *string) value {
	return checked(p, "host:port", func(s string) (string, error) {
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			return "", fmt.Errorf("%q is not host:port, such as 127.0.0.1:8443 or [::1]:8443", s)
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return "", fmt.Errorf("%q has the port %q: use a number from 0 to 65535", s, port)
		}
		if _, err := netip.ParseAddr(host); host != "" && err != nil && !isDNSName(host) {
			return "", fmt.Errorf("%q has the host %q: use an IP address or a DNS name", s, host)
		}
		return s, nil
	})
}

// addressOrNone is the address of a listener that is bound only when it is set.
func addressOrNone(p *string) value {
	v := address(p)
	parse := v.parse
	v.parse = func(s string) error {
		if s == "" {
			*p = ""
			return nil
		}
		return parse(s)
	}
	return v
}

func baseURL(p *string, scheme string, derived func() string) value {
	v := checked(p, scheme+" URL", func(s string) (string, error) {
		u, err := url.Parse(s)
		if err != nil || u.Hostname() == "" {
			return "", fmt.Errorf("%q is not a URL such as %s://pki.example.com", s, scheme)
		}
		if u.Scheme != scheme && scheme == "http" {
			return "", fmt.Errorf("%q must be http: what a certificate check needs cannot itself wait for a certificate check", s)
		}
		if u.Scheme != scheme {
			return "", fmt.Errorf("%q must start with %s://", s, scheme)
		}
		if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return "", fmt.Errorf("%q may have a host, a port and a path only", s)
		}
		return strings.TrimRight(s, "/"), nil
	})
	v.derived = derived
	return v
}

func databaseURL(p *string) value {
	return checked(p, "database URL", func(s string) (string, error) {
		if file, ok := strings.CutPrefix(s, "sqlite:"); ok && file != "" {
			return s, nil
		}
		u, err := url.Parse(s)
		if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
			// The text may hold a password, so it is not repeated.
			return "", fmt.Errorf("starts with neither sqlite:FILE nor postgres://")
		}
		if _, has := u.User.Password(); has || u.Query().Has("password") {
			return "", fmt.Errorf("holds a password: put it into a file of its own and name that file in database.password_file")
		}
		return s, nil
	})
}

func unlock(p *string) value {
	return checked(p, "file:PATH | fd:N | prompt", func(s string) (string, error) {
		if s == "prompt" || strings.HasPrefix(s, "file:") && len(s) > len("file:") {
			return s, nil
		}
		if n, ok := strings.CutPrefix(s, "fd:"); ok {
			if fd, err := strconv.ParseUint(n, 10, 16); err == nil && fd != 1 && fd != 2 {
				return s, nil
			}
		}
		// Somebody may have written the secret itself here, so the text is not repeated.
		return "", fmt.Errorf("must be file:PATH, fd:N or prompt")
	})
}

func prefixes(p *[]netip.Prefix) value {
	return value{kind: "list of networks", form: asList,
		format: func() string {
			var list []string
			for _, n := range *p {
				list = append(list, n.String())
			}
			return strings.Join(list, ",")
		},
		parse: func(s string) error {
			*p = nil
			for _, part := range strings.Split(s, ",") {
				if s == "" {
					break
				}
				n, err := netip.ParsePrefix(part)
				if err != nil || n != n.Masked() {
					return fmt.Errorf("has %q, which is not a network such as 10.20.0.0/16", part)
				}
				*p = append(*p, n)
			}
			return nil
		}}
}

func hosts(p *[]string) value {
	return value{kind: "list of DNS names and IP addresses", form: asList, format: func() string { return strings.Join(*p, ",") },
		parse: func(s string) error {
			list := strings.Split(s, ",")
			if s == "" {
				return fmt.Errorf("is empty: give at least one DNS name or IP address")
			}
			for i, name := range list {
				if _, err := netip.ParseAddr(name); err != nil && !isDNSName(name) {
					return fmt.Errorf("has %q, which is neither a DNS name nor an IP address", name)
				}
				if slices.Contains(list[:i], name) {
					return fmt.Errorf("has %q twice", name)
				}
			}
			*p = list
			return nil
		}}
}

// texts is a list of words.
func texts(p *[]string) value {
	return value{kind: "list of texts", form: asList, format: func() string { return strings.Join(*p, ",") },
		parse: func(s string) error {
			*p = nil
			for part := range strings.SplitSeq(s, ",") {
				if s == "" {
					break
				}
				if part == "" {
					return fmt.Errorf("has an empty entry")
				}
				*p = append(*p, part)
			}
			return nil
		}}
}

func natsURLs(p *[]string) value {
	v := texts(p)
	v.kind = "list of NATS URLs"
	split := v.parse
	v.parse = func(s string) error {
		if err := split(s); err != nil {
			return err
		}
		for _, one := range *p {
			u, err := url.Parse(one)
			if err != nil || u.Hostname() == "" || u.Path != "" || !slices.Contains([]string{"nats", "tls"}, u.Scheme) {
				return fmt.Errorf("has %q, which is not a URL such as tls://nats-1.example.com:4222", one)
			}
			if u.User != nil {
				return fmt.Errorf("has a URL with a user: secrets stand in files, see messaging.nats_credentials")
			}
		}
		return nil
	}
	return v
}

// responders is a list of CAs, each with who answers OCSP for it. The names of CAs are not known here.
func responders(p *[]string) value {
	return value{kind: "list of NAME=ca, NAME=delegated or NAME=off", form: asList, format: func() string { return strings.Join(*p, ",") },
		parse: func(s string) error {
			*p = nil
			if s == "" {
				return nil
			}
			seen := map[string]bool{}
			for _, entry := range strings.Split(s, ",") {
				name, responder, _ := strings.Cut(entry, "=")
				if name == "" || !slices.Contains([]string{"ca", "delegated", "off"}, responder) {
					return fmt.Errorf("has %q, which is not the name of a CA, \"=\" and one of ca, delegated, off", entry)
				}
				if seen[name] {
					return fmt.Errorf("has the CA %q twice", name)
				}
				seen[name] = true
				*p = append(*p, entry)
			}
			return nil
		}}
}

// anchors is a list of DNS names, each with the profile of its certificate.
func anchors(p *[]Anchor) value {
	format := func() string {
		var list []string
		for _, a := range *p {
			list = append(list, a.Name+"="+a.Profile)
		}
		return strings.Join(list, ",")
	}
	return value{kind: "list of NAME=PROFILE", form: asList, format: format, parse: func(s string) error {
		*p = nil
		if s == "" {
			return nil
		}
		for _, entry := range strings.Split(s, ",") {
			name, profile, _ := strings.Cut(entry, "=")
			if !isDNSName(name) || profile == "" {
				return fmt.Errorf("has %q, which is not a DNS name, \"=\" and the name of a profile", entry)
			}
			if slices.ContainsFunc(*p, func(a Anchor) bool { return strings.EqualFold(a.Name, name) }) {
				return fmt.Errorf("has %q twice", name)
			}
			*p = append(*p, Anchor{strings.ToLower(name), profile})
		}
		return nil
	}}
}

func whole(p *int, low, high int) value {
	return value{kind: "whole number", form: asNumber, format: func() string { return strconv.Itoa(*p) }, parse: func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", s)
		}
		if n < low || n > high {
			return fmt.Errorf("%d is not between %d and %d", n, low, high)
		}
		*p = n
		return nil
	}}
}

func truth(p *bool) value {
	return value{kind: "true | false", form: asTruth, format: func() string { return strconv.FormatBool(*p) }, parse: func(s string) error {
		b, err := strconv.ParseBool(s)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", s)
		}
		*p = b
		return nil
	}}
}

func duration(p *time.Duration, low, high time.Duration) value {
	return value{kind: "duration", form: asBare, format: func() string { return FormatDuration(*p) }, parse: func(s string) error {
		d, err := ParseDuration(s)
		if err != nil {
			return err
		}
		if d < low || d > high {
			return fmt.Errorf("%s is not between %s and %s", s, FormatDuration(low), FormatDuration(high))
		}
		*p = d
		return nil
	}}
}

// durationOrNone is a duration that may also be 0s, which stands for none.
func durationOrNone(p *time.Duration, low, high time.Duration) value {
	v := duration(p, low, high)
	within := v.parse
	v.parse = func(s string) error {
		if d, err := ParseDuration(s); err == nil && d == 0 {
			*p = 0
			return nil
		}
		return within(s)
	}
	return v
}

// isDNSName reports whether s is a host name in letters, digits and hyphens (RFC 1123, section 2.1) that cannot be mistaken for an address.
func isDNSName(s string) bool {
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	labels := strings.Split(s, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		if strings.ContainsFunc(label, func(r rune) bool { return !isLetterDigit(r) && r != '-' }) {
			return false
		}
	}
	return strings.ContainsFunc(labels[len(labels)-1], func(r rune) bool { return r < '0' || r > '9' })
}

func isLetterDigit(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}
