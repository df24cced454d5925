package message

import "mooring/internal/core/message/policy"

// Rules returns by which rules somebody may publish and subscribe under the policy that holds now, for protocols that list what is there. Who has no group has
// none.
func (s *Service) Rules(who Identity) []policy.Rule {
	rights, err := s.policy.Load().compile(who.Group, who.Subject)
	if err != nil {
		return nil
	}
	return rights.ForClient(who.Subject.Thing).Rules()
}

// Rights returns what a thing may do under the policy that holds now, for brokers of others.
func (s *Service) Rights(thing policy.Subject) (*policy.Rights, error) {
	return s.policy.Load().compile("", thing)
}

// MayBe reports whether somebody may call himself client under the policy that holds now, for brokers that know sessions by that alone.
func (s *Service) MayBe(who Identity, client string) bool {
	rights, err := s.policy.Load().compile(who.Group, who.Subject)
	if err != nil {
		return false
	}
	_, ok := rights.ClientID(client)
	return ok && client != ""
}
