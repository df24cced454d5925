package enrol

import "context"

// Admit proves who made r, as Submit does, and refuses a device that would get no certificate of its own profile by this proof: it is suspended, say,
// or the profile does not accept the evidence. Nothing is issued and nothing else is looked at. It is for protocols that hand out something of their own
// by which a certificate is asked for later. The refusal is recorded as one of an enrolment; the error is as that of Submit.
func (s *Service) Admit(ctx context.Context, r Request) (*Identity, error) {
	sub := &submission{req: &r}
	for _, step := range []func(context.Context, *submission) error{s.authenticate, s.chooseProfile, s.checkDevice, s.checkEvidence} {
		if err := step(ctx, sub); err != nil {
			s.recordRefusal(ctx, sub, err)
			return nil, err
		}
	}
	return sub.identity, nil
}
