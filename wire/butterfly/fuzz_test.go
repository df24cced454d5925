package butterfly

import (
	"bytes"
	"testing"
)

// What is taken for a point is one: it is written and read again as the same.
func FuzzNewPoint(f *testing.F) {
	f.Add([]byte{0})
	f.Add(append([]byte{2}, bytes.Repeat([]byte{1}, 32)...))
	f.Add(append([]byte{4}, bytes.Repeat([]byte{1}, 64)...))
	one, err := NewScalar(append(make([]byte, 31), 1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(one.Public().Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := NewPoint(b)
		if err != nil {
			return
		}
		if q, err := NewPoint(p.Bytes()); err != nil || !p.Equal(q) || p.IsInfinity() {
			t.Fatalf("%x is a point that is not read again: %v", b, err)
		}
	})
}

// What nobody sealed is not opened, and what was sealed is.
func FuzzOpen(f *testing.F) {
	f.Add([]byte("a message"), byte(0))
	f.Add(make([]byte, 40), byte(3))
	f.Fuzz(func(t *testing.T, b []byte, at byte) {
		k := NewMessageKey([16]byte{at})
		if m, err := k.Open([NonceSize]byte{at}, b); err == nil {
			t.Fatalf("%x was opened: %x", b, m)
		}
		sealed, err := k.Seal([NonceSize]byte{at, 1}, b)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := k.Open([NonceSize]byte{at, 1}, sealed); err != nil || !bytes.Equal(m, b) {
			t.Fatalf("%x came back as %x, %v", b, m, err)
		}
		sealed[int(at)%len(sealed)] ^= 1
		if _, err := k.Open([NonceSize]byte{at, 1}, sealed); err == nil {
			t.Fatal("a changed message was opened")
		}
	})
}
