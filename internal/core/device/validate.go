package device

import (
	"crypto/elliptic"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"mooring/internal/base/errs"
)

// The bounds of what a device may carry.
const (
	maxName     = 128 // octets of an external name
	maxGroup    = 64  // octets of a group
	maxTags     = 32
	maxTagKey   = 64
	maxTagValue = 128
	maxNames    = 16
	maxDNS      = 253
	maxURI      = 512
	maxEmail    = 254
	maxReason   = 200
	maxBirth    = 16 << 10 // octets of a birth certificate
)

const wordRule = "letters, digits and . _ - : @ / + without blanks"

// isWord reports whether s holds only the characters of wordRule.
func isWord(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("._-:@/+", c) >= 0:
		default:
			return false
		}
	}
	return true
}

func checkName(name string) error {
	if name == "" {
		return errs.New(errs.Invalid, "name: required")
	}
	if len(name) > maxName || !isWord(name) {
		return errs.New(errs.Invalid, "name: %s: must be 1 to %d characters: %s", shown(name), maxName, wordRule)
	}
	return nil
}

func checkGroup(group string) error {
	if len(group) > maxGroup || !isWord(group) {
		return errs.New(errs.Invalid, "group: %s: must be at most %d characters: %s", shown(group), maxGroup, wordRule)
	}
	return nil
}

func checkReason(reason string) error {
	if len(reason) > maxReason || !printable(reason) {
		return errs.New(errs.Invalid, "reason: must be at most %d printable characters", maxReason)
	}
	return nil
}

// checkTags returns nil when every pair can be stored and written to a CSV column again.
func checkTags(tags map[string]string) error {
	if len(tags) > maxTags {
		return errs.New(errs.Invalid, "tags: %d pairs, at most %d are allowed", len(tags), maxTags)
	}
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		if k == "" || len(k) > maxTagKey || !isWord(k) {
			return errs.New(errs.Invalid, "tags: key %s: must be 1 to %d characters: %s", shown(k), maxTagKey, wordRule)
		}
		if v := tags[k]; len(v) > maxTagValue || !printable(v) || strings.Contains(v, ";") {
			return errs.New(errs.Invalid, "tags: value of %q: must be at most %d octets of printable text without a semicolon", k, maxTagValue)
		}
	}
	if v, has := tags[TagV2XKey]; has {
		if what := wrongPoint(v); what != "" {
			return errs.New(errs.Invalid, "tags: %s: must be a point of P-256, compressed, in 66 hexadecimal digits: %s", TagV2XKey, what)
		}
	}
	return nil
}

// TagV2XKey is the tag with the canonical key of a station of V2X. One that is no key would be found out by the vehicle, which nobody believes then.
const TagV2XKey = "v2x-key"

// wrongPoint says why a text is no compressed point of P-256; "" if it is one.
func wrongPoint(text string) string {
	b, err := hex.DecodeString(text)
	switch {
	case errors.Is(err, hex.ErrLength):
		return "it has an odd number of digits"
	case err != nil:
		return "it has a character that is no such digit"
	case len(b) > 0 && b[0] == 4:
		return "it is not compressed"
	case len(b) != 33:
		return fmt.Sprintf("it has %d digits", len(text))
	case b[0] != 2 && b[0] != 3:
		return "it does not begin with 02 or 03"
	}
	if x, _ := elliptic.UnmarshalCompressed(elliptic.P256(), b); x == nil {
		return "it is not on the curve"
	}
	return ""
}

// joinTags is the stored form of tags: sorted, one "key=value" a line.
func joinTags(tags map[string]string) string {
	if len(tags) == 0 {
		return ""
	}
	lines := make([]string, 0, len(tags))
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		lines = append(lines, k+"="+tags[k])
	}
	return strings.Join(lines, "\n")
}

func splitTags(text string) map[string]string {
	if text == "" {
		return nil
	}
	tags := make(map[string]string)
	for _, line := range splitLines(text) {
		k, v, _ := strings.Cut(line, "=")
		tags[k] = v
	}
	return tags
}

// cleanNames checks further names and returns them in the form in which they are stored: DNS names in lower case, addresses canonical.
func cleanNames(names []string) ([]string, error) {
	if len(names) > maxNames {
		return nil, errs.New(errs.Invalid, "names: %d names, at most %d are allowed", len(names), maxNames)
	}
	out := make([]string, 0, len(names))
	for _, n := range names {
		clean, err := cleanName(n)
		if err != nil {
			return nil, err
		}
		if slices.Contains(out, clean) {
			return nil, errs.New(errs.Invalid, "names: %s: given twice", shown(clean))
		}
		out = append(out, clean)
	}
	return out, nil
}

func cleanName(name string) (string, error) {
	kind, value, _ := strings.Cut(name, ":")
	switch kind {
	case "dns":
		value = strings.ToLower(value)
		if !isDNS(value) {
			return "", errs.New(errs.Invalid, "names: %s: must be a DNS name of letters, digits and hyphens, without a wildcard", shown(name))
		}
	case "ip":
		addr, err := netip.ParseAddr(value)
		if err != nil || addr.Zone() != "" {
			return "", errs.New(errs.Invalid, "names: %s: must be an IPv4 or IPv6 address without a zone", shown(name))
		}
		value = addr.Unmap().String()
	case "uri":
		u, err := url.Parse(value)
		if err != nil || u.Scheme == "" || len(value) > maxURI || !graphic(value) || strings.Contains(value, ";") {
			return "", errs.New(errs.Invalid, "names: %s: must be an absolute URI of at most %d ASCII characters without blanks or a semicolon", shown(name), maxURI)
		}
	case "email":
		local, domain, ok := strings.Cut(value, "@")
		if !ok || local == "" || len(value) > maxEmail || !graphic(local) || strings.ContainsAny(local, ";\"") || !isDNS(strings.ToLower(domain)) {
			return "", errs.New(errs.Invalid, "names: %s: must be a mail address of at most %d ASCII characters", shown(name), maxEmail)
		}
	default:
		return "", errs.New(errs.Invalid, "names: %s: must begin with dns:, ip:, uri: or email:", shown(name))
	}
	return kind + ":" + value, nil
}

// isDNS reports whether s is a host name in preferred syntax (RFC 1034, section 3.5, with the leading digits of RFC 1123, section 2.1).
func isDNS(s string) bool {
	if s == "" || len(s) > maxDNS {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := 0; i < len(label); i++ {
			if c := label[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-') {
				return false
			}
		}
	}
	return true
}

// graphic reports whether s is visible ASCII without blanks.
func graphic(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) })
}

// shown quotes hostile input for an error text and cuts it, so that one row cannot fill a screen.
func shown(s string) string {
	const most = 64
	if len(s) > most {
		return strings.ToValidUTF8(strconv.Quote(s[:most]), "") + "…"
	}
	return strconv.Quote(s)
}
