package spdu

import (
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"mooring/wire/coer"
	"mooring/wire/its"
)

// FuzzOpen opens messages that strangers changed: only what was encrypted comes out, and nothing panics.
func FuzzOpen(f *testing.F) {
	a := newParty(f, elliptic.P256())
	h := a.holder(f)
	sealed, session, err := Seal(rand.Reader, its.Unsecured([]byte("request")), h.Recipient)
	if err != nil {
		f.Fatal(err)
	}
	answer, err := session.Answer(rand.Reader, its.Unsecured([]byte("answer")))
	if err != nil {
		f.Fatal(err)
	}
	for _, d := range []*its.Ieee1609Dot2Data{sealed, answer, its.Unsecured([]byte("plain"))} {
		b, err := coer.Marshal(d)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := its.ParseData(b, its.MaxRequest)
		if err != nil {
			return
		}
		// Request and answer have one key and do not bind the recipients, so that either may be put in the place of the other; signatures inside tell them apart.
		ours := func(d *its.Ieee1609Dot2Data) bool {
			return string(d.Content.Opaque) == "request" || string(d.Content.Opaque) == "answer"
		}
		if inner, _, err := Open(d, h); err == nil && !ours(inner) {
			t.Fatalf("%x was opened: %s", b, inner.Content.Opaque)
		}
		if inner, err := session.Open(d); err == nil && !ours(inner) {
			t.Fatalf("%x was opened: %s", b, inner.Content.Opaque)
		}
		_, _ = ToSender(d)
	})
}
