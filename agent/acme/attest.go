package acme

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	"mooring/wire/acme"
)

// Attest is a Solver for orders of a permanent-identifier or a hardware-module: it returns the attestation object about the key that is to be
// certified, CBOR as package wire/attest tells, for the token and the key authorization of a challenge.
type Attest func(token, keyAuthorization string) (object []byte, err error)

// Present refuses: names of the network are not shown by a statement of hardware.
func (Attest) Present(string, string) (func(), error) {
	return nil, errors.New("this answers device-attest-01 only")
}

// ActivateTPM has the attestation key of a TPM certified, for the device that the account is bound to. open has the TPM open the secret:
// credential and secret are TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET, the parameters of TPM2_ActivateCredential. It returns the certificate
// and those above it, in DER: the x5c of statements that the key makes.
func (c *Client) ActivateTPM(ctx context.Context, a acme.Activation, open func(credential, secret []byte) ([]byte, error)) (chain [][]byte, err error) {
	if c.directory.ActivateTPM == "" {
		return nil, errors.New("the server does not certify attestation keys")
	}
	var ch acme.ActivationChallenge
	if _, err := c.post(ctx, c.directory.ActivateTPM, a, &ch); err != nil {
		return nil, fmt.Errorf("beginning the activation: %w", err)
	}
	credential, err := base64.RawURLEncoding.DecodeString(ch.Credential)
	if err != nil {
		return nil, fmt.Errorf("reading the credential: %w", err)
	}
	secret, err := base64.RawURLEncoding.DecodeString(ch.Secret)
	if err != nil {
		return nil, fmt.Errorf("reading the encrypted secret: %w", err)
	}
	opened, err := open(credential, secret)
	if err != nil {
		return nil, fmt.Errorf("opening the credential: %w", err)
	}
	var text []byte
	if _, err := c.post(ctx, c.directory.ActivateTPM, acme.Activation{Session: ch.Session, Secret: base64.RawURLEncoding.EncodeToString(opened)}, &text); err != nil {
		return nil, fmt.Errorf("ending the activation: %w", err)
	}
	return decode(text)
}
