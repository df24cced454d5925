package dtls

import (
	"bytes"
	"testing"
)

// sample is a second ClientHello: with a cookie, record 1, message 1.
func sample() []byte {
	body := append([]byte{0xfe, 0xfd}, bytes.Repeat([]byte{7}, 32)...)
	body = append(body, 2, 's', 'i', 3, 'c', 'o', 'k', 0, 2, 0xc0, 0xae, 1, 0, 0, 4, 0, 23, 0, 0)
	return message(0xfefd, 1, clientHello, 1, body)
}

func TestHello(t *testing.T) {
	h, err := ParseHello(sample())
	if err != nil || h.Sequence != 1 || h.Message != 1 || string(h.Cookie) != "cok" || h.Random[5] != 7 {
		t.Fatalf("got %+v, %v", h, err)
	}
	first, err := ParseHello(h.First())
	if err != nil || first.Sequence != 0 || first.Message != 0 || len(first.Cookie) != 0 || !bytes.Equal(first.Parameters(nil), h.Parameters(nil)) {
		t.Errorf("the first hello is %+v, %v", first, err)
	}
	if cookie, ok := IsVerifyRequest(h.VerifyRequest([]byte("abc"))); !ok || string(cookie) != "abc" {
		t.Errorf("the request for verification gives %q, %v", cookie, ok)
	}
	for name, change := range map[string]func(b []byte) []byte{
		"later epoch":      func(b []byte) []byte { b[4] = 1; return b },
		"another message":  func(b []byte) []byte { b[recordHeader] = 2; return b },
		"fragment":         func(b []byte) []byte { b[recordHeader+8] = 1; return b },
		"cut off":          func(b []byte) []byte { return b[:len(b)-1] },
		"long session":     func(b []byte) []byte { b[recordHeader+handshakeHeader+34] = 33; return b },
		"application data": func(b []byte) []byte { b[0] = 23; return b },
	} {
		if _, err := ParseHello(change(sample())); err == nil {
			t.Errorf("%s: taken for a hello", name)
		}
	}
}

func TestRenumber(t *testing.T) {
	later := sample()
	later[4] = 1
	two := append(append(sample(), sample()...), later...)
	Renumber(two, 5)
	n := len(sample())
	if two[10] != 6 || two[n+10] != 6 || two[2*n+10] != 1 {
		t.Errorf("numbered %d, %d and %d, want 6, 6 and 1", two[10], two[n+10], two[2*n+10])
	}
}

func TestCIDOf(t *testing.T) {
	b := append([]byte{typeCID, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9}, "12345678"...)
	b = append(b, 0, 1, 'x')
	if cid, ok := CIDOf(b, 8); !ok || string(cid) != "12345678" {
		t.Errorf("got %q, %v", cid, ok)
	}
	if _, ok := CIDOf(b[:15], 8); ok {
		t.Error("a record that is too short has a connection ID")
	}
}

func FuzzParseHello(f *testing.F) {
	f.Add(sample())
	f.Fuzz(func(t *testing.T, b []byte) {
		IsVerifyRequest(b)
		CIDOf(b, 8)
		Renumber(bytes.Clone(b), 3)
		h, err := ParseHello(b)
		if err != nil {
			return
		}
		first, err := ParseHello(h.First())
		if err != nil || !bytes.Equal(first.Parameters(nil), h.Parameters(nil)) {
			t.Errorf("the first of %x is %+v, %v", b, first, err)
		}
	})
}
