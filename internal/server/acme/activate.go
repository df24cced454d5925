package acme

import (
	"encoding/base64"
	"encoding/binary"
	"time"

	"mooring/internal/base/errs"
	core "mooring/internal/core/acme"
	"mooring/wire/acme"
)

// activate certifies the attestation key of a TPM in two requests (doc/attestation.md). ACME has nothing for it.
func (s *server) activate(c *call) (*answer, error) {
	var w acme.Activation
	if err := c.object(&w); err != nil {
		return nil, err
	}
	if w.Session != "" {
		session, err := octets("session", w.Session)
		if err != nil {
			return nil, err
		}
		secret, err := octets("secret", w.Secret)
		if err != nil {
			return nil, err
		}
		chain, err := s.ACME.Activated(c.Context(), c.account, session, secret)
		if err != nil {
			return nil, err
		}
		return &answer{chain: encode(chain.Certificates)}, nil
	}
	a := core.Activation{Profile: w.Profile, Certificates: make([][]byte, len(w.Certificates))}
	var err error
	if a.AK, err = octets("ak", w.AK); err != nil {
		return nil, err
	}
	if a.EK, err = octets("ek", w.EK); err != nil {
		return nil, err
	}
	for i, text := range w.Certificates {
		if a.Certificates[i], err = octets("certificates", text); err != nil {
			return nil, err
		}
	}
	challenge, err := s.ACME.Activate(c.Context(), c.account, a)
	if err != nil {
		return nil, err
	}
	return &answer{body: acme.ActivationChallenge{Session: base64.RawURLEncoding.EncodeToString(challenge.Session), Credential: sized(challenge.Credential.Object),
		Secret: sized(challenge.Credential.Secret), Expires: challenge.Expires.Format(time.RFC3339)}}, nil
}

func octets(field, text string) ([]byte, error) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, refuse(errs.Invalid, core.Malformed, "%s is not base64url without padding", field)
	}
	return raw, nil
}

// sized is a TPM2B of content.
func sized(content []byte) string {
	return base64.RawURLEncoding.EncodeToString(append(binary.BigEndian.AppendUint16(nil, uint16(len(content))), content...))
}
