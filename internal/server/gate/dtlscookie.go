package gate

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"reflect"
	"time"
	"unsafe"

	piondtls "github.com/pion/dtls/v3"

	"mooring/wire/dtls"
)

// cookies makes the cookies by which a client shows that it can be reached at its address (RFC 6347, section 4.2.1), and checks them. Nothing is
// remembered: a cookie is a MAC of the address, of what the client asked for, and of the time.
type cookies struct{ secret [32]byte }

// cookieLife is how long a cookie is good at least, and half of how long at most.
const cookieLife = 60 * time.Second

// cookieOctets fits every client: DTLS 1.0 allowed 32.
const cookieOctets = 32

func newCookies() (*cookies, error) {
	c := new(cookies)
	if _, err := rand.Read(c.secret[:]); err != nil {
		return nil, fmt.Errorf("drawing the secret of the cookies: %w", err)
	}
	return c, nil
}

func (c *cookies) mac(h *dtls.Hello, from netip.AddrPort, period int64) []byte {
	mac := hmac.New(sha256.New, c.secret[:])
	text := binary.BigEndian.AppendUint64(nil, uint64(period))
	address := from.Addr().As16()
	text = append(text, address[:]...)
	text = binary.BigEndian.AppendUint16(text, from.Port())
	mac.Write(h.Parameters(text))
	return mac.Sum(nil)[:cookieOctets]
}

func period(now time.Time) int64 { return now.UnixNano() / int64(cookieLife) }

// give returns the cookie for a client at from.
func (c *cookies) give(h *dtls.Hello, from netip.AddrPort, now time.Time) []byte {
	return c.mac(h, from, period(now))
}

// good reports whether the hello has the cookie that was given to this client at this address not long ago.
func (c *cookies) good(h *dtls.Hello, from netip.AddrPort, now time.Time) bool {
	if len(h.Cookie) != cookieOctets {
		return false
	}
	p := period(now)
	return hmac.Equal(h.Cookie, c.mac(h, from, p)) || hmac.Equal(h.Cookie, c.mac(h, from, p-1))
}

// pion/dtls draws a cookie of its own for each connection, when it has the connection: so a flood of hellos with false addresses would fill the memory,
// and there is no way to give it a cookie. What a client signs contains the cookie that it was given, so the two must be the same. Hence the one place
// where a field of that module is written from outside. The field is looked for when the listener is bound, so that another version of the module that
// lacks it is refused there, and TestDTLSCookies fails.

// cookieField finds the cookie of a connection.
func cookieField(conn *piondtls.Conn) (*[]byte, error) {
	state := reflect.ValueOf(conn).Elem().FieldByName("state")
	if state.IsValid() && state.Kind() == reflect.Struct {
		if f := state.FieldByName("cookie"); f.IsValid() && f.Type() == reflect.TypeFor[[]byte]() && f.CanAddr() {
			return (*[]byte)(unsafe.Pointer(f.UnsafeAddr())), nil
		}
	}
	return nil, fmt.Errorf("this version of pion/dtls keeps its cookies elsewhere")
}
