package est

import (
	"bytes"
	"strings"
	"testing"
)

func TestValidLabel(t *testing.T) {
	for label, want := range map[string]bool{
		"factory": true, "line-2_b.v1": true, "simpleenroll": false, "csrattrs": false, "": false, "..": false,
		"a/b": false, "a%2f": false, strings.Repeat("a", 65): false, "süd": false,
	} {
		if got := ValidLabel(label); got != want {
			t.Errorf("ValidLabel(%q) = %v, want %v", label, got, want)
		}
	}
}

func TestMediaType(t *testing.T) {
	for header, want := range map[string]string{
		"application/pkcs10":                  TypeRequest,
		"Application/PKCS10; charset=\"x\"":   TypeRequest,
		" application/pkcs10;":                TypeRequest,
		"":                                    "",
		"application/x-www-form-urlencoded":   "application/x-www-form-urlencoded",
		"application/pkcs10-foo; a=b; c=\"d;": "application/pkcs10-foo",
	} {
		if got := MediaType(header); got != want {
			t.Errorf("MediaType(%q) = %q, want %q", header, got, want)
		}
	}
}

func TestEncodeBase64Lines(t *testing.T) {
	for _, size := range []int{1, 47, 48, 49, 96, 1000} {
		der := bytes.Repeat([]byte{0xa5}, size)
		lines := strings.SplitAfter(string(EncodeBase64(der)), "\n")
		if last := lines[len(lines)-1]; last != "" {
			t.Errorf("%d bytes: text ends in %q, want a line feed", size, last)
		}
		for i, line := range lines[:len(lines)-1] {
			full := i < len(lines)-2
			if n := len(line) - 1; n > 64 || n == 0 || full && n != 64 {
				t.Errorf("%d bytes: line %d has %d characters, want 64", size, i, n)
			}
		}
		if strings.ContainsAny(string(EncodeBase64Line(der)), "\r\n") {
			t.Errorf("%d bytes: the unwrapped form has line ends", size)
		}
		for _, text := range [][]byte{EncodeBase64(der), EncodeBase64Line(der)} {
			if got, err := DecodeBase64(text); err != nil || !bytes.Equal(got, der) {
				t.Errorf("%d bytes: round trip gave %x, %v", size, got, err)
			}
		}
	}
}

func TestDecodeBase64(t *testing.T) {
	armour := "-----BEGIN CERTIFICATE REQUEST-----\n"
	end := "-----END CERTIFICATE REQUEST-----\n"
	for _, c := range []struct{ name, body, want string }{
		{"one line", "aGVsbG8=", "hello"},
		{"line feeds", "aGVs\nbG8=\n", "hello"},
		{"CRLF", "aGVs\r\nbG8=\r\n", "hello"},
		{"odd places", " a\tGV\rsb G\n8 =\t", "hello"},
		{"armour", armour + "aGVsbG8=\n" + end, "hello"},
		{"armour with CRLF and blanks around", "\r\n" + strings.ReplaceAll(armour+"aGVsbG8=\n"+end, "\n", "\r\n") + "\r\n", "hello"},
		{"no padding", "aGVsbG8", ""},
		{"half padding", "aGVsbA=", ""},
		{"bytes after padding", "aGVsbG8=aGVs", ""},
		{"loose bits", "aGVsbG9=", ""},
		{"URL alphabet", "_-__", ""},
		{"binary DER", "\x30\x03\x02\x01\x05", ""},
		{"empty", "", ""},
		{"blanks only", " \r\n\t", ""},
		{"armour of nothing", armour + end, ""},
		{"armour without end", armour + "aGVsbG8=\n", ""},
		{"armour with other end", armour + "aGVsbG8=\n-----END CERTIFICATE-----\n", ""},
		{"two armours", armour + "aGVs\n" + end + armour + "aGVs\n" + end, ""},
		{"text before armour", "Certificate Request:\n" + armour + "aGVsbG8=\n" + end, ""},
		{"too long", strings.Repeat("A", MaxBody+4), ""},
	} {
		got, err := DecodeBase64([]byte(c.body))
		if string(got) != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: got %q, %v, want %q", c.name, got, err, c.want)
		}
	}
	if _, err := DecodeBase64([]byte("aGVsbG8")); err == nil || !strings.Contains(err.Error(), "padding") {
		t.Errorf("missing padding is reported as %v, want a word about padding", err)
	}
}

func FuzzDecodeBase64(f *testing.F) {
	f.Add([]byte("aGVs\r\nbG8=\r\n"))
	f.Add([]byte("-----BEGIN X-----\naGVsbG8=\n-----END X-----"))
	f.Fuzz(func(t *testing.T, body []byte) {
		der, err := DecodeBase64(body)
		if err != nil {
			return
		}
		if again, err := DecodeBase64(EncodeBase64(der)); err != nil || !bytes.Equal(again, der) {
			t.Errorf("%x came back as %x, %v", der, again, err)
		}
	})
}
