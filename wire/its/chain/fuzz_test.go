package chain

import (
	"testing"

	"mooring/wire/coer"
	"mooring/wire/its"
)

// FuzzCheck judges certificates that strangers wrote, below an authority that is one: whatever they say, they are not believed, and nothing panics. Signatures
// aside, the rules are gone through as well.
func FuzzCheck(f *testing.F) {
	w := newWorld(f)
	w.at.cert.ToBeSigned.Region = identified(country(276))
	w.aa.cert.ToBeSigned.Region = identified(country(65535))
	if err := w.check(f); err != nil {
		f.Fatal(err)
	}
	for _, n := range []*node{w.root, w.aa, w.at} {
		b, err := coer.Marshal(n.cert)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	genuine := map[string]bool{}
	for _, n := range []*node{w.root, w.aa, w.at} {
		b, err := coer.Normal(n.cert)
		if err != nil {
			f.Fatal(err)
		}
		genuine[string(b)] = true
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := its.ParseCertificate(b)
		if err != nil {
			return
		}
		normal, err := coer.Normal(x)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range [][]*its.Certificate{{x}, {x, w.root.cert}, {x, w.aa.cert, w.root.cert}, {w.at.cert, x, w.root.cert}} {
			// An implicit certificate proves nothing until its key is used, and a signature has two forms.
			if err := Check(path, w.o); err == nil && !genuine[string(normal)] && x.Type == its.Explicit && !sameButForS(x, w) {
				t.Fatalf("%x is believed", b)
			}
		}
		for _, above := range []*node{w.root, w.aa} {
			_ = checkPermissions(&x.ToBeSigned, &above.cert.ToBeSigned)
			_ = checkPermissions(&above.cert.ToBeSigned, &x.ToBeSigned)
			_ = checkRegion([]*its.Certificate{x, above.cert}, 0)
			_ = checkRegion([]*its.Certificate{above.cert, x}, 0)
		}
		_ = wellFormed(x)
	})
}

// sameButForS says whether the certificate says what one of ours does.
func sameButForS(x *its.Certificate, w *world) bool {
	for _, n := range []*node{w.root, w.aa, w.at} {
		a, err1 := coer.Normal(&x.ToBeSigned)
		b, err2 := coer.Normal(&n.cert.ToBeSigned)
		if err1 == nil && err2 == nil && string(a) == string(b) {
			return true
		}
	}
	return false
}
