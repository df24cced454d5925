package aa

import (
	"context"
	"testing"

	"mooring/internal/base/errs"
	"mooring/wire/its"
)

// Keys of slow curves wait for each other, until who asks gives up.
func TestSlowCurvesWait(t *testing.T) {
	t.Parallel()
	s, a := &Service{slow: make(chan struct{}, 1)}, &asking{asked: &its.InnerAtRequest{}}
	a.asked.PublicKeys.VerificationKey.Choice = its.ECDSABrainpoolP384r1
	if !slow(a) {
		t.Fatal("brainpoolP384r1 is not slow")
	}
	s.slow <- struct{}{}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := s.provenSlowly(ctx, a); !errs.Is(err, errs.Unavailable) {
		t.Errorf("while another key is looked at: %v", err)
	}
	<-s.slow
	if code, err := s.provenSlowly(t.Context(), a); code != its.ItsAaDeniedPermissions || err != nil || len(s.slow) != 0 {
		t.Errorf("a key that is none: %v, %v, and %d are looked at", code, err, len(s.slow))
	}
}
