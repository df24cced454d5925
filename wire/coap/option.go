package coap

import (
	"encoding/binary"
	"strings"
)

// Number names an option.
type Number uint16

// The options that are used here.
const (
	IfMatch       Number = 1
	URIHost       Number = 3
	ETag          Number = 4
	IfNoneMatch   Number = 5
	Observe       Number = 6 // RFC 7641
	URIPort       Number = 7
	LocationPath  Number = 8
	URIPath       Number = 11
	ContentFormat Number = 12
	MaxAge        Number = 14
	URIQuery      Number = 15
	Accept        Number = 17
	LocationQuery Number = 20
	Block2        Number = 23 // RFC 7959
	Block1        Number = 27 // RFC 7959
	Size2         Number = 28 // RFC 7959
	ProxyURI      Number = 35
	ProxyScheme   Number = 39
	Size1         Number = 60
	Echo          Number = 252 // RFC 9175
	NoResponse    Number = 258 // RFC 7967
	RequestTag    Number = 292 // RFC 9175
)

// Critical reports whether an endpoint that does not know the option must refuse the message (RFC 7252, section 5.4.1).
func (n Number) Critical() bool { return n&1 != 0 }

// NoCacheKey reports whether the option has no part in what makes two requests the same (RFC 7252, section 5.4.2).
func (n Number) NoCacheKey() bool { return n&0x1e == 0x1c }

// Option is one option of a message.
type Option struct {
	Number Number
	Value  []byte
}

// Options are the options of a message.
type Options []Option

// Get returns the value of the first option of this number.
func (o Options) Get(n Number) ([]byte, bool) {
	for _, one := range o {
		if one.Number == n {
			return one.Value, true
		}
	}
	return nil, false
}

// Uint returns the number in the first option of this number, and false when there is none or it is longer than four octets.
func (o Options) Uint(n Number) (uint32, bool) {
	value, ok := o.Get(n)
	if !ok {
		return 0, false
	}
	return Uint(value)
}

// Path returns the Uri-Path options, each with "/" in front; "/" when there is none. A segment that holds a "/" makes no other path out of it: the
// second result is false then.
func (o Options) Path() (string, bool) {
	var path strings.Builder
	for _, one := range o {
		if one.Number != URIPath {
			continue
		}
		if segment := string(one.Value); strings.Contains(segment, "/") || segment == "." || segment == ".." {
			return "", false // RFC 7252, section 5.10.1: neither stands for a step in the path
		}
		path.WriteByte('/')
		path.Write(one.Value)
	}
	if path.Len() == 0 {
		return "/", true
	}
	return path.String(), true
}

// Queries returns the Uri-Query options.
func (o Options) Queries() (list []string) {
	for _, one := range o {
		if one.Number == URIQuery {
			list = append(list, string(one.Value))
		}
	}
	return list
}

// Uint reads an option's value as a number of at most 32 bits; zeros in front are allowed (RFC 7252, section 3.2).
func Uint(value []byte) (n uint32, ok bool) {
	if len(value) > 4 {
		return 0, false
	}
	for _, b := range value {
		n = n<<8 | uint32(b)
	}
	return n, true
}

// UintValue writes a number as an option's value, without zeros in front.
func UintValue(n uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, n)
	for len(b) > 0 && b[0] == 0 {
		b = b[1:]
	}
	return b
}

// UintOption is an option that holds a number.
func UintOption(number Number, n uint32) Option { return Option{number, UintValue(n)} }

// PathOptions returns Uri-Path and Uri-Query options for a path that begins with "/" and may have a query after "?".
func PathOptions(path string) (list Options) {
	path, query, asked := strings.Cut(path, "?")
	for segment := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		list = append(list, Option{URIPath, []byte(segment)})
	}
	if asked {
		for part := range strings.SplitSeq(query, "&") {
			list = append(list, Option{URIQuery, []byte(part)})
		}
	}
	return list
}

// OperationKey returns what messages have in common that carry blocks of one body: the method and all options but the blocks themselves and those that
// have no part in a cache key, as Observe has none (RFC 7641, section 2): the rest of a notification is asked for without it. Token and message ID are no part of it; Request-Tag is, so that two uploads to one resource are told apart
// (RFC 9175, section 3.3).
func OperationKey(m *Message) string { return operationKey(m, func(Number) bool { return false }) }

// LooseKey is OperationKey without what describes the request's body. A client that asks for the rest of an answer may leave that out, since it sends
// no body then.
func LooseKey(m *Message) string {
	return operationKey(m, func(n Number) bool { return n == RequestTag || n == ContentFormat })
}

func operationKey(m *Message, without func(Number) bool) string {
	key := []byte{byte(m.Code)}
	for _, o := range m.Options {
		if o.Number == Block1 || o.Number == Block2 || o.Number == Observe || o.Number.NoCacheKey() && !o.Number.Critical() || without(o.Number) {
			continue
		}
		key = binary.BigEndian.AppendUint16(key, uint16(o.Number))
		key = binary.BigEndian.AppendUint16(key, uint16(len(o.Value)))
		key = append(key, o.Value...)
	}
	return string(key)
}
