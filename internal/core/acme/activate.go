package acme

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/wire/attest"
	"mooring/wire/der"
)

// A TPM's attestation key has no certificate by birth, and nobody outside gives any. It gets one here: the client shows the public parts of the
// attestation key and of the endorsement key, by which the manufacturer, or the registry, knows the TPM, and gets a secret that only this TPM
// opens, and only while it holds just that attestation key (TPM2_ActivateCredential). Whoever brings the secret gets the certificate. The
// attestation key signs nothing but what its TPM says, so that it cannot sign a request: the secret is the proof of possession.
//
// Nothing is stored between the two requests: what is to be remembered goes to the client, sealed.

// TagEK is the tag of a device with the SHA-256 of its TPM's endorsement key, as SubjectPublicKeyInfo in DER, in hexadecimal digits.
const TagEK = "tpm-ek"

const (
	activationLife  = 10 * time.Minute
	activationChain = 8
)

// Activation asks for the certificate of an attestation key.
type Activation struct {
	AK, EK       []byte   // TPMT_PUBLIC or TPM2B_PUBLIC
	Certificates [][]byte // of the endorsement key and what is above it, DER; may be none when the registry knows the key
	Profile      string   // "" = the first one that is made for attestation keys of this device
}

// ActivationChallenge is what the TPM has to open.
type ActivationChallenge struct {
	Session    []byte // comes back with the secret
	Credential attest.Credential
	Expires    time.Time
}

// session is what is sealed.
type session struct {
	Account ID
	Device  device.ID
	Profile string
	SPKI    []byte // of the attestation key
	EK      []byte // SHA-256 of the endorsement key, for the record
	Secret  []byte
	Expires int64
}

// Activate begins. The account must be bound to a device.
func (s *Service) Activate(ctx context.Context, a *Account, w Activation) (c ActivationChallenge, err error) {
	if !a.Bound() {
		return c, refuse(errs.Denied, Unauthorized, "an attestation key is certified for the device of an account: use an account that is bound to one")
	}
	dev, err := s.deviceOf(ctx, a, &Order{})
	if err != nil {
		return c, err
	}
	d := dev.device
	p, err := s.attestationProfile(&d, w.Profile)
	if err != nil {
		return c, err
	}
	ak, err := attest.ParseAttestationKey(w.AK)
	if err != nil {
		return c, badStatement("%v", err)
	}
	ek, err := attest.ParseEndorsementKey(w.EK)
	if err != nil {
		return c, badStatement("%v", err)
	}
	if err := s.endorsed(&d, ek, w.Certificates); err != nil {
		return c, err
	}
	sum := sha256.Sum256(ek.SPKI)
	kept := session{EK: sum[:], Account: a.ID, Device: d.ID, Profile: p.Name, SPKI: ak.SPKI, Secret: make([]byte, 32), Expires: s.Now().Add(activationLife).Unix()}
	rand.Read(kept.Secret)
	if c.Credential, err = ek.Wrap(rand.Reader, ak, kept.Secret); err != nil {
		return c, badStatement("nothing can be sealed for this endorsement key: %v", err)
	}
	text, err := json.Marshal(kept)
	if err != nil {
		return c, err
	}
	c.Expires = time.Unix(kept.Expires, 0).UTC()
	c.Session = s.sealer(sealLabel).Seal(nil, nil, text, []byte(sealLabel))
	return c, nil
}

const sealLabel = "activation of a TPM's attestation key"

// sealer seals for one purpose.
func (s *Service) sealer(label string) cipher.AEAD {
	h := hmac.New(sha256.New, s.Key)
	h.Write([]byte(label))
	block, err := aes.NewCipher(h.Sum(nil))
	if err != nil {
		panic("acme: " + err.Error()) // SHA-256 has the length of a key
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("acme: " + err.Error())
	}
	return aead
}

// attestationProfile returns the profile by which an attestation key of the device is certified.
func (s *Service) attestationProfile(d *device.Device, name string) (*ca.Profile, error) {
	for _, p := range s.CA.Profiles() {
		if (name == "" || p.Name == name) && p.For(d.Profile) && isForAttestationKeys(p) {
			return p, nil
		}
	}
	return nil, refuse(errs.Denied, InvalidProfile, "there is no profile for attestation keys of this device: one with ext_key_usage [%s], evidence [attested], san {attested: true}, also_for [%s] and without approval",
		usageAttestationKey, d.Profile)
}

// endorsed refuses a TPM that neither the registry nor a manufacturer knows. Where the registry knows one, no other will do.
func (s *Service) endorsed(d *device.Device, ek *attest.EndorsementKey, raw [][]byte) error {
	if known := d.Tags[TagEK]; known != "" {
		sum := sha256.Sum256(ek.SPKI)
		if want, err := hex.DecodeString(known); err != nil || subtle.ConstantTimeCompare(want, sum[:]) != 1 {
			return badStatement("this is not the TPM that is registered for the device (tag %s)", TagEK)
		}
		return nil
	}
	if len(raw) == 0 || len(raw) > activationChain {
		return badStatement("the endorsement key needs its certificate, with at most %d in all, or must be registered for the device (tag %s)", activationChain, TagEK)
	}
	chain := make([]*x509.Certificate, len(raw))
	for i, one := range raw {
		var err error
		if chain[i], err = x509.ParseCertificate(one); err != nil {
			return badStatement("certificate %d of the endorsement key cannot be read", i+1)
		}
	}
	if err := ek.Endorsed(chain, s.Roots.EK, s.Now()); err != nil {
		return badStatement("the endorsement key is not accepted: %v", err)
	}
	return nil
}

// Activated ends: it returns the certificate of the attestation key, with those above it but the root, to whoever opened the secret. The same
// answer again gets the same certificate.
func (s *Service) Activated(ctx context.Context, a *Account, sealed, secret []byte) (Chain, error) {
	text, err := s.sealer(sealLabel).Open(nil, nil, sealed, []byte(sealLabel))
	var kept session
	if err == nil {
		err = json.Unmarshal(text, &kept)
	}
	if err != nil || kept.Account != a.ID {
		return Chain{}, refuse(errs.Denied, Unauthorized, "this activation was not begun here by this account; begin again")
	}
	if s.Now().Unix() >= kept.Expires {
		return Chain{}, refuse(errs.Denied, Unauthorized, "the activation took longer than %s; begin again", activationLife)
	}
	if subtle.ConstantTimeCompare(secret, kept.Secret) != 1 {
		return Chain{}, badStatement("this is not the secret that was sealed for the TPM")
	}
	dev, err := s.deviceOf(ctx, a, &Order{})
	if err != nil {
		return Chain{}, err
	}
	once, hash := sha256.Sum256(sealed), sha256.Sum256(kept.SPKI)
	answer, err := s.Enrol.Submit(ctx, enrol.Request{Protocol: protocol, Op: enrol.Enrol, Profile: kept.Profile, Template: &enrol.Template{Octets: text, SPKI: kept.SPKI},
		Proven: &enrol.Proven{Device: kept.Device, Evidence: ca.EvidenceAttested, Attested: []der.OtherName{der.PermanentIdentifier(dev.device.Name, "")}, Possession: true, SPKI: hash[:], Once: once[:],
			Detail: map[string]string{TagEK: hex.EncodeToString(kept.EK)}}})
	if err != nil {
		return Chain{}, s.whyNot(ctx, &Order{Device: kept.Device}, err)
	}
	if answer.Pending > 0 || answer.Certificate == nil || len(answer.Certificate.DER) == 0 {
		return Chain{}, errors.New("an activation led to no certificate")
	}
	return s.chains(answer.Certificate.DER, answer.Certificate.Issuer)
}
