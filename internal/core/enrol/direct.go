package enrol

import (
	"context"
	"crypto"
	"crypto/rand"
	"fmt"

	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/wire/der"
)

// ByOperator is the evidence of a certificate that an administrator asked for on a device's behalf. No profile lists it: it needs the
// permission of an administrator instead.
const ByOperator ca.Evidence = "operator"

// Direct issues a certificate for the public key of signer to a registered device, service or person on the word of actor, who needs
// ca.manage: the first operator's certificate, and the platform's own server certificates. It goes through the same funnel otherwise.
// The request is made here, with an empty subject, so that the profile decides every name.
func (s *Service) Direct(ctx context.Context, actor access.Actor, id device.ID, signer crypto.Signer) (Answer, error) {
	if err := s.Access.Require(ctx, actor, access.CAManage, "device "+id.String()); err != nil {
		return Answer{}, err
	}
	d, err := s.Devices.Load(ctx, id)
	if err != nil {
		return Answer{}, err
	}
	csr, err := emptyRequest(signer)
	if err != nil {
		return Answer{}, fmt.Errorf("making a request: %w", err)
	}
	sub := &submission{req: &Request{Protocol: "direct", Op: Enrol, CSR: csr}, identity: &Identity{Device: d, Evidence: ByOperator, by: &actor}}
	answer, err := s.decide(ctx, sub, s.parse, s.chooseProfile, s.checkDevice, s.checkPossession)
	if err != nil {
		s.recordRefusal(ctx, sub, err)
		return Answer{}, err
	}
	return answer, nil
}

func emptyRequest(signer crypto.Signer) ([]byte, error) {
	algorithm, err := der.AlgorithmFor(signer.Public())
	if err != nil {
		return nil, err
	}
	spki, err := der.EncodePublicKey(signer.Public())
	if err != nil {
		return nil, err
	}
	info, err := der.AppendRequestInfo(nil, der.RequestSpec{SPKI: spki})
	if err != nil {
		return nil, err
	}
	signature, err := signer.Sign(rand.Reader, algorithm.Digest(info), algorithm.Hash())
	if err != nil {
		return nil, err
	}
	return der.Wrap(nil, info, algorithm, signature), nil
}
