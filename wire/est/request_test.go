package est

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

func TestParseKeyIDs(t *testing.T) {
	for name, parse := range map[string]func([]byte) ([]byte, error){
		"symmetric": ParseDecryptKeyID, "asymmetric": ParseAsymmetricDecryptKeyID,
	} {
		if got, err := parse([]byte(tlv(4, "key-7"))); err != nil || string(got) != "key-7" {
			t.Errorf("%s: got %q, %v, want key-7", name, got, err)
		}
		for _, value := range []string{"", tlv(4), tlv(4, "a") + "\x00", tlv(12, "a"), "\x24\x80\x04\x01a\x00\x00",
			"\x04\x82\x01\x01" + strings.Repeat("a", 257)} {
			if got, err := parse([]byte(value)); err == nil {
				t.Errorf("%s: %x was read as %x, want an error", name, value, got)
			}
		}
	}
}

func TestParseSMIMECapabilities(t *testing.T) {
	aes256CBC, aes128GCM := "\x60\x86\x48\x01\x65\x03\x04\x01\x2a", "\x60\x86\x48\x01\x65\x03\x04\x01\x06"
	value := tlv(0x30, tlv(0x30, tlv(6, aes256CBC)), tlv(0x30, tlv(6, aes128GCM), tlv(5)))
	got, err := ParseSMIMECapabilities([]byte(value))
	want := []Capability{
		{Algorithm: oid(t, "2.16.840.1.101.3.4.1.42")},
		{Algorithm: oid(t, "2.16.840.1.101.3.4.1.6"), Parameters: []byte{5, 0}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, value := range []string{"", value + "\x00", tlv(0x30, tlv(6, aes256CBC)), tlv(0x30, tlv(0x30, tlv(6, aes256CBC), tlv(5), tlv(5))),
		"\x30\x82\x01\x08" + strings.Repeat(tlv(0x30, tlv(6, "\x55\x04\x03"), "\x01"), 33)} {
		if got, err := ParseSMIMECapabilities([]byte(value)); err == nil {
			t.Errorf("%x was read as %v, want an error", value, got)
		}
	}
}

func TestParseChallengePassword(t *testing.T) {
	for _, tag := range []byte{12, 19, 22} {
		if got, err := ParseChallengePassword([]byte(tlv(tag, "AAECAwQFBgcICQoL"))); err != nil || got != "AAECAwQFBgcICQoL" {
			t.Errorf("tag %d: got %q, %v", tag, got, err)
		}
	}
	for _, value := range []string{"", tlv(12), tlv(4, "abc"), tlv(30, "\x00a"), tlv(12, "a") + tlv(12, "b")} {
		if got, err := ParseChallengePassword([]byte(value)); err == nil {
			t.Errorf("%x was read as %q, want an error", value, got)
		}
	}
}

func TestChannelBinding(t *testing.T) {
	unique, exporter := []byte("0123456789ab"), bytes.Repeat([]byte{7}, ExporterLength)
	both := ChannelBinding{TLSUnique: unique, Exporter: exporter}
	if text := both.Text(); text != "MDEyMzQ1Njc4OWFi" || len(text) != 16 {
		t.Errorf("tls-unique is written %q, want MDEyMzQ1Njc4OWFi", text)
	}
	exporterText := ChannelBinding{Exporter: exporter}.Text()
	other := ChannelBinding{TLSUnique: []byte("another one!"), Exporter: bytes.Repeat([]byte{8}, ExporterLength)}
	for _, c := range []struct {
		name      string
		binding   ChannelBinding
		challenge string
		want      bool
	}{
		{"tls-unique", both, both.Text(), true},
		{"exporter on TLS 1.2", both, exporterText, true},
		{"exporter on TLS 1.3", ChannelBinding{Exporter: exporter}, exporterText, true},
		{"tls-unique on TLS 1.3", ChannelBinding{Exporter: exporter}, both.Text(), false},
		{"another connection", other, both.Text(), false},
		{"another connection, exporter", other, exporterText, false},
		{"password", both, "hunter2", false},
		{"nothing", both, "", false},
		{"nothing on a connection without values", ChannelBinding{}, "", false},
		{"prefix", both, both.Text()[:12], false},
	} {
		if got := c.binding.Matches(c.challenge); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	for text, want := range map[string]bool{both.Text(): true, exporterText: true, "hunter2": false, "": false, "AAAA": false} {
		if got := LooksBound(text); got != want {
			t.Errorf("LooksBound(%q) = %v, want %v", text, got, want)
		}
	}
}

func FuzzParseDecryptKeyID(f *testing.F) {
	f.Add([]byte(tlv(4, "key-7")))
	f.Fuzz(func(t *testing.T, value []byte) {
		if id, err := ParseDecryptKeyID(value); err == nil && (len(id) == 0 || len(id) > maxKeyID || !bytes.HasSuffix(value, id)) {
			t.Errorf("%x was read as %x", value, id)
		}
	})
}

func FuzzParseAsymmetricDecryptKeyID(f *testing.F) {
	f.Add([]byte(tlv(4, "key-7")))
	f.Fuzz(func(t *testing.T, value []byte) {
		if id, err := ParseAsymmetricDecryptKeyID(value); err == nil && (len(id) == 0 || len(id) > maxKeyID || !bytes.HasSuffix(value, id)) {
			t.Errorf("%x was read as %x", value, id)
		}
	})
}

func FuzzParseSMIMECapabilities(f *testing.F) {
	f.Add([]byte(tlv(0x30, tlv(0x30, tlv(6, "\x60\x86\x48\x01\x65\x03\x04\x01\x2a")))))
	f.Fuzz(func(t *testing.T, value []byte) {
		if c, err := ParseSMIMECapabilities(value); err == nil && len(c) > maxCapabilities {
			t.Errorf("%x has %d entries", value, len(c))
		}
	})
}

func FuzzParseChallengePassword(f *testing.F) {
	f.Add([]byte(tlv(12, "AAECAwQFBgcICQoL")))
	f.Fuzz(func(t *testing.T, value []byte) {
		if text, err := ParseChallengePassword(value); err == nil && !bytes.HasSuffix(value, []byte(text)) {
			t.Errorf("%x was read as %q", value, text)
		}
	})
}
