package cms

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"testing"
)

func TestCertsOnlyBytes(t *testing.T) {
	a, b := []byte{0x30, 3, 2, 1, 1}, []byte{0x30, 2, 5, 0}
	got, err := CertsOnly([][]byte{a, b})
	if err != nil {
		t.Fatal(err)
	}
	want := "302e06092a864886f70d010702a021301f" + "020101" + "3100" + "300b06092a864886f70d010701" + "a009" + "30020500" + "3003020101" + "3100"
	if hex.EncodeToString(got) != want {
		t.Errorf("got %x, want %s", got, want)
	}
	certs, err := ParseCertsOnly(got)
	if err != nil || !reflect.DeepEqual(certs, [][]byte{b, a}) {
		t.Errorf("read as %x, %v", certs, err)
	}
}

func TestCertsOnlyRefuses(t *testing.T) {
	many := make([][]byte, MaxCertificates+1)
	for i := range many {
		many[i] = []byte{0x30, 0}
	}
	big := append([]byte{0x30, 0x83, 4, 0, 0}, make([]byte, MaxSize)...)
	for name, certs := range map[string][][]byte{
		"none": nil, "too many": many, "empty": {{}}, "not a SEQUENCE": {{4, 0}}, "trailing byte": {{0x30, 0, 0}}, "too long": {big},
	} {
		if der, err := CertsOnly(certs); err == nil {
			t.Errorf("%s: built %d bytes, want an error", name, len(der))
		}
	}
}

func TestParseCertsOnlyRefuses(t *testing.T) {
	good, err := CertsOnly([][]byte{{0x30, 0}})
	if err != nil {
		t.Fatal(err)
	}
	signed := signExample(t, newCertificate(t, "P-256"), nil)
	for name, der := range map[string][]byte{
		"empty":            nil,
		"trailing byte":    append(bytes.Clone(good), 0),
		"cut off":          good[:len(good)-1],
		"signed":           signed,
		"no certificate":   unhex(t, "302306092a864886f70d010702a0163014020101"+"3100"+"300b06092a864886f70d010701"+"3100"),
		"indefinite (BER)": unhex(t, "308006092a864886f70d010702a0803080020101310030 0b06092a864886f70d010701a00230003100000000000000"),
		"too long":         make([]byte, MaxSize+1),
	} {
		if certs, err := ParseCertsOnly(der); err == nil {
			t.Errorf("%s: read as %x, want an error", name, certs)
		}
	}
}

func FuzzParseCertsOnly(f *testing.F) {
	good, err := CertsOnly([][]byte{{0x30, 0}, {0x30, 2, 5, 0}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, der []byte) {
		certs, err := ParseCertsOnly(der)
		if err != nil {
			return
		}
		again, err := CertsOnly(certs)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseCertsOnly(again); err != nil || len(got) != len(certs) {
			t.Errorf("%x became %x: %v", der, again, err)
		}
	})
}
