package est

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func exampleKeygen() Keygen {
	return Keygen{KeyType: TypePlainKey, Key: bytes.Repeat([]byte{1}, 121), Certificates: bytes.Repeat([]byte{2}, 500)}
}

func TestBuildKeygenBytes(t *testing.T) {
	body, contentType, err := BuildKeygen(Keygen{KeyType: TypeSealedKey, Key: []byte("hello"), Certificates: []byte("world")}, "b-1")
	if err != nil {
		t.Fatal(err)
	}
	want := "--b-1\r\n" +
		"Content-Type: application/pkcs7-mime; smime-type=server-generated-key\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
		"aGVsbG8=\r\n" +
		"--b-1\r\n" +
		"Content-Type: application/pkcs7-mime; smime-type=certs-only\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
		"d29ybGQ=\r\n" +
		"--b-1--\r\n"
	if string(body) != want || contentType != "multipart/mixed; boundary=b-1" {
		t.Errorf("got %q of type %q, want %q", body, contentType, want)
	}
	long, _, err := BuildKeygen(exampleKeygen(), "b")
	if err != nil {
		t.Fatal(err)
	}
	if n, m := bytes.Count(long, []byte("\n")), bytes.Count(long, []byte("\r\n")); n != m {
		t.Errorf("%d of %d lines end in CRLF, want all", m, n)
	}
}

func TestKeygenRoundTrip(t *testing.T) {
	for _, kind := range []string{TypePlainKey, TypeSealedKey} {
		k := exampleKeygen()
		k.KeyType = kind
		body, contentType, err := BuildKeygen(k, "boundary")
		if err != nil {
			t.Fatal(err)
		}
		for name, variant := range map[string][]byte{"CRLF": body, "LF": bytes.ReplaceAll(body, []byte("\r"), nil)} {
			if got, err := ParseKeygen(variant, contentType); err != nil || !reflect.DeepEqual(got, k) {
				t.Errorf("%s, %s: came back as %d and %d bytes of type %q, %v", kind, name, len(got.Key), len(got.Certificates), got.KeyType, err)
			}
		}
	}
}

func TestBuildKeygenRefuses(t *testing.T) {
	good := exampleKeygen()
	for name, c := range map[string]struct {
		k        Keygen
		boundary string
	}{
		"type":           {Keygen{KeyType: TypeCertsOnly, Key: good.Key, Certificates: good.Certificates}, "b"},
		"no key":         {Keygen{KeyType: TypePlainKey, Certificates: good.Certificates}, "b"},
		"no certificate": {Keygen{KeyType: TypePlainKey, Key: good.Key}, "b"},
		"no boundary":    {good, ""},
		"bad boundary":   {good, "a\r\nb"},
		"long boundary":  {good, strings.Repeat("b", 71)},
	} {
		if _, _, err := BuildKeygen(c.k, c.boundary); err == nil {
			t.Errorf("%s: built, want an error", name)
		}
	}
}

// part returns one part of a foreign answer.
func part(contentType, text string) string {
	return "--b\r\nContent-Type: " + contentType + "\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" + text + "\r\n"
}

func TestParseForeignKeygen(t *testing.T) {
	key, cert, end := part("application/pkcs8", "aGVsbG8="), part("application/pkcs7-mime", "d29ybGQ="), "--b--\r\n"
	const mixed = `multipart/mixed; boundary="b"`
	for _, c := range []struct {
		name, body, contentType string
		ok                      bool
	}{
		{"key first", key + cert + end, mixed, true},
		{"certificate first", cert + key + end, mixed, true},
		{"preamble and epilogue", "hello\r\n" + key + cert + end + "bye", mixed, true},
		{"key twice", key + key + cert + end, mixed, false},
		{"no key", cert + end, mixed, false},
		{"no certificate", key + end, mixed, false},
		{"not closed", key + cert, mixed, false},
		{"unknown part", key + cert + part("text/plain", "aGVsbG8=") + end, mixed, false},
		{"part not base64", key + part("application/pkcs7-mime", "?") + end, mixed, false},
		{"no boundary", key + cert + end, "multipart/mixed", false},
		{"other type", key + cert + end, "multipart/form-data; boundary=b", false},
		{"too long", strings.Repeat(" ", MaxBody+1), mixed, false},
	} {
		got, err := ParseKeygen([]byte(c.body), c.contentType)
		if (err == nil) != c.ok {
			t.Errorf("%s: error %v, want success %v", c.name, err, c.ok)
		}
		if c.ok && (string(got.Key) != "hello" || string(got.Certificates) != "world" || got.KeyType != TypePlainKey) {
			t.Errorf("%s: got key %q, certificates %q", c.name, got.Key, got.Certificates)
		}
	}
}

func TestKeygenHidesItsKey(t *testing.T) {
	k := Keygen{KeyType: TypePlainKey, Key: []byte("secret")}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(verb, k); strings.Contains(text, "secret") || strings.Contains(text, "115") {
			t.Errorf("%s prints %s", verb, text)
		}
	}
}

func FuzzParseKeygen(f *testing.F) {
	body, contentType, _ := BuildKeygen(exampleKeygen(), "b")
	f.Add(body, contentType)
	f.Add([]byte("--b\n\nMAA=\n--b--"), "multipart/mixed; boundary=b")
	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		k, err := ParseKeygen(body, contentType)
		if err != nil {
			return
		}
		again, contentType, err := BuildKeygen(k, "x")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseKeygen(again, contentType); err != nil || !reflect.DeepEqual(got, k) {
			t.Errorf("%q changed on its way: %v", body, err)
		}
	})
}
