package brski

import "testing"

func TestAccepts(t *testing.T) {
	const kind = "application/voucher-cms+json"
	for _, row := range []struct {
		fields []string
		want   bool
	}{
		{nil, true},
		{[]string{"*/*"}, true},
		{[]string{"application/*"}, true},
		{[]string{kind}, true},
		{[]string{"Application/Voucher-CMS+JSON;q=0.5"}, true},
		{[]string{"application/voucher-cose+cbor", kind}, true},
		{[]string{"application/voucher-cose+cbor, " + kind + ";q=0.1"}, true},
		{[]string{kind + ";q=0"}, false},
		{[]string{kind + ";q=0.000"}, false},
		{[]string{"text/*, application/json"}, false},
		{[]string{""}, false},
		{[]string{"/;;"}, false},
	} {
		if got := accepts(row.fields, kind); got != row.want {
			t.Errorf("%q: %t, want %t", row.fields, got, row.want)
		}
	}
}
