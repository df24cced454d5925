package nats

import (
	"strconv"
	"strings"

	"mooring/internal/base/errs"
)

// maxToken bounds an escaped key or topic: what NATS writes on one line (4 KiB) holds subject, reply subject and sizes.
const maxToken = 3 << 10

// fitsToken reports whether key fits in one token, whatever it consists of. Few keys are so long that they have to be escaped to know.
func fitsToken(key string) bool { return 3*len(key) <= maxToken }

// shards is over how many subjects the keys of a stream are spread, so that whoever reads a part of it can say which.
const shards = 64

const hexDigits = "0123456789ABCDEF"

func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// escape writes one level of a topic, or a whole key, as one token of a subject: letters, digits, - and _ as they are, any other octet as =XX, nothing as
// "=". No two levels have the same token.
func escape(b *strings.Builder, level string) {
	if level == "" {
		b.WriteByte('=')
		return
	}
	for i := range len(level) {
		if c := level[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('=')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
}

// token is the escaped form of a key.
func token(key string) string {
	for i := range len(key) {
		if !plain(key[i]) {
			var b strings.Builder
			escape(&b, key)
			return b.String()
		}
	}
	if key == "" {
		return "="
	}
	return key
}

// untoken reads what token wrote. It reports false for what token never writes.
func untoken(tok string) (string, bool) {
	if tok == "=" {
		return "", true
	}
	if !strings.Contains(tok, "=") {
		return tok, tok != ""
	}
	b := make([]byte, 0, len(tok))
	for i := 0; i < len(tok); i++ {
		if tok[i] != '=' {
			b = append(b, tok[i])
			continue
		}
		if i+2 >= len(tok) {
			return "", false
		}
		n, err := strconv.ParseUint(tok[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		b = append(b, byte(n))
		i += 2
	}
	return string(b), true
}

// shard is the token between a stream's subject and a key's: FNV-1a of the key.
func shard(key string) [2]byte {
	h := uint32(2166136261)
	for i := range len(key) {
		h = (h ^ uint32(key[i])) * 16777619
	}
	n := byte(h % shards)
	return [2]byte{'0' + n/10, '0' + n%10}
}

// topicTokens escapes a topic level by level.
func topicTokens(topic string) (string, error) {
	var b strings.Builder
	for level := range strings.SplitSeq(topic, "/") {
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		escape(&b, level)
	}
	if b.Len() > maxToken {
		return "", errs.New(errs.Invalid, "the topic is too long to be retained: %d octets with what is escaped, and %d fit", b.Len(), maxToken)
	}
	return b.String(), nil
}

// filterTokens translates an MQTT filter into the NATS filters over escaped levels that match the same topics. There are two when the filter ends in "#",
// which matches its parent level also (MQTT 5.0, section 4.7.1.2).
func filterTokens(filter string) ([]string, error) {
	var b strings.Builder
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		if level == "#" && i == len(levels)-1 {
			if i == 0 {
				return []string{">"}, nil
			}
			return []string{b.String(), b.String() + ".>"}, nil
		}
		if i > 0 {
			b.WriteByte('.')
		}
		switch {
		case level == "+":
			b.WriteByte('*')
		case strings.ContainsAny(level, "+#"):
			return nil, errs.New(errs.Invalid, "the filter %q has a wildcard that is not alone in its level, or a # that is not last", filter)
		default:
			escape(&b, level)
		}
		if b.Len() > maxToken {
			return nil, errs.New(errs.Invalid, "the filter is too long")
		}
	}
	return []string{b.String()}, nil
}

// hidden reports whether topic is one of those that begin with $, which no filter matches that begins with a wildcard (MQTT 5.0, section 4.7.2).
func hidden(filter, topic string) bool {
	return strings.HasPrefix(topic, "$") && (strings.HasPrefix(filter, "+") || strings.HasPrefix(filter, "#"))
}
