package its

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"mooring/wire/coer"
)

// ENC-8: what is read is written as it was; what is wrong is an error of ours; nothing panics. What was built can be shown.
func sound(t *testing.T, b []byte, v coer.Value, err error) {
	t.Helper()
	if err != nil {
		if fault := (*coer.Error)(nil); !errors.As(err, &fault) || fault.Offset > len(b) {
			t.Fatalf("%x: %v is no *coer.Error, or lies outside", b, err)
		}
		return
	}
	if back, err := coer.Marshal(v); err != nil || !bytes.Equal(back, b) {
		t.Fatalf("%x is written as %x, %v", b, back, err)
	}
	normal, err := coer.Normal(v)
	if err != nil {
		t.Fatalf("%x has no canonical form: %v", b, err)
	}
	if len(normal) > len(b) {
		t.Fatalf("the canonical form of %x is longer: %x", b, normal)
	}
	if _, err := json.Marshal(coer.Describe(v)); err != nil {
		t.Fatal(err)
	}
}

// seeds are samples of everything.
func seeds(f *testing.F) [][]byte {
	cert := ticket()
	all := [][]byte{tlm(f), marshal(f, &cert), marshal(f, signedSample(f))}
	for _, content := range samples(f) {
		all = append(all, marshal(f, &EtsiTs102941Data{Content: *content}), marshal(f, &EtsiTs102941Data{Content: *content, LongVersion: true}))
	}
	for _, v := range scmsSamples(f) {
		all = append(all, marshal(f, v))
	}
	return all
}

func seed(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b)
	}
}

func FuzzParseCertificate(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := ParseCertificate(b)
		if sound(t, b, x, err); err != nil {
			return
		}
		if _, err := x.HashedId8(); err != nil && !errors.Is(err, ErrHash) {
			t.Fatal(err)
		}
	})
}

func FuzzParseData(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseData(b, MaxRequest)
		if len(b) <= MaxRequest {
			sound(t, b, d, err)
		}
	})
}

func FuzzParseManagement(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseManagement(b)
		sound(t, b, d, err)
	})
}

func FuzzParseScms(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseScms(b)
		sound(t, b, p, err)
	})
}

// FuzzMake reads octets as each of the structures that have a name.
func FuzzMake(f *testing.F) {
	for _, b := range seeds(f) {
		for i := range structures {
			f.Add(b, uint(i))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, which uint) {
		v := structures[which%uint(len(structures))].make()
		sound(t, b, v, coer.Unmarshal(b, v))
	})
}
