package masa

import (
	"testing"

	"mooring/wire/voucher"
)

// Of few vouchers the log tells each; of many the newest with a nonce and the newest without one of each domain, and how many it leaves out.
func TestAbridge(t *testing.T) {
	var all []Issued
	for n := range fullLog {
		v := Issued{At: int64(n), Domain: []byte{1}, Nonce: []byte("12345678"), Assertion: voucher.Logged}
		if n%2 == 1 {
			v.Nonce = nil
		}
		all = append(all, v)
	}
	if l := abridge(all); len(l.Events) != fullLog || l.Truncation != (voucher.Truncation{}) || l.Events[0].Date.Unix() != fullLog-1 {
		t.Errorf("%d vouchers became %d events", fullLog, len(l.Events))
	}
	all = append(all, Issued{At: fullLog, Domain: []byte{2}, Assertion: voucher.Logged})
	l := abridge(all)
	want := voucher.Truncation{NoncedDuplicates: fullLog/2 - 1, NoncelessDuplicates: fullLog/2 - 1}
	if len(l.Events) != 3 || l.Truncation != want || l.Events[0].DomainID[0] != 2 || l.Events[1].Nonce != "" || l.Events[1].Truncated != fullLog/2-1 || l.Events[2].Date.Unix() != fullLog-2 {
		t.Errorf("got %+v", l)
	}
}

// Entries of two nodes may stand in another order than their vouchers' numbers.
func TestToldInAnyOrder(t *testing.T) {
	var straight, mixed told
	for n, mark := range []string{"a", "b", "c", "d"} {
		straight.add(int64(n+1), mark)
	}
	for _, n := range []int64{3, 1, 4, 2} {
		mixed.add(n, string(rune('a'+n-1)))
	}
	if !straight.same(&mixed) || straight.number != 4 {
		t.Errorf("%+v and %+v differ", straight, mixed)
	}
	mixed.add(6, "f")
	if straight.same(&mixed) {
		t.Error("a gap is not seen")
	}
}
