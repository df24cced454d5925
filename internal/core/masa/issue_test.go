package masa

import (
	"testing"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/wire/voucher"
)

// A registrar does not use up the vouchers that there may be for a device.
func TestShareOfVouchers(t *testing.T) {
	s := New(Deps{Now: time.Now})
	ask := func(registrar string) *asking {
		return &asking{registrar: Registrar{Name: registrar}, request: &voucher.SignedRequest{Request: voucher.Request{Nonce: []byte("0123456789abcdef")}}}
	}
	greedy, owner, own := ask("greedy"), ask("owner"), ask("")
	own.actor = access.System("registrar")
	all := make([]Issued, maxForOne)
	for i := range all {
		all[i].Registrar = "greedy"
	}
	greedy.earlier, owner.earlier, own.earlier = all, all, make([]Issued, maxForOne)
	if err := s.due(greedy); !errs.Is(err, errs.Limited) {
		t.Errorf("who has many: got %v, want a refusal", err)
	}
	greedy.earlier = all[1:]
	for who, a := range map[string]*asking{"who has one less": greedy, "another": owner, "our own": own} {
		if err := s.due(a); err != nil {
			t.Errorf("%s: %v", who, err)
		}
	}
}
