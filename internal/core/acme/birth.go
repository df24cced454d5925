package acme

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"strings"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
)

// ACME knows no certificates of manufacturers: who asks is an account, and what is shown are names. A device that has an IDevID (IEEE 802.1AR) and no
// token gets an external account binding for it: it connects with the IDevID, the funnel recognizes it as by every other protocol, and hands it a key
// identifier and a key by which it makes its account, once and within minutes. From then on it is a device with an account, whatever client it has.
//
// Nothing is stored for a binding: what is to be remembered is sealed into the key identifier, and the key follows from that. Its use is a row among
// the used nonces.

const (
	birthPrefix = "birth."
	birthLife   = 10 * time.Minute
	birthLabel  = "external account binding by birth certificate"
)

// BirthBinding is an external account binding (RFC 8555, section 7.3.4).
type BirthBinding struct {
	KID     string
	Key     []byte // of the HMAC, 32 octets
	Expires time.Time
}

// birth is what is sealed into the key identifier.
type birth struct {
	Device  device.ID
	Policy  int64 // of the device: with whatever an operator changes about it, the binding ends
	Cert    []byte
	Expires int64
	Once    []byte
}

// BindBirth returns a binding for the device whose birth certificate, or recognized IDevID, leads chain (DER, leaf first), of which possession was
// proven. Its profile must accept this evidence, and accounts.
func (s *Service) BindBirth(ctx context.Context, chain [][]byte, source netip.Addr) (b BirthBinding, err error) {
	id, err := s.Enrol.Admit(ctx, enrol.Request{Protocol: protocol, Op: enrol.Enrol, Chain: chain, Source: source})
	if err != nil {
		return b, recorded{err}
	}
	d := &id.Device
	defer func() {
		if err != nil && !IsRecorded(err) {
			s.Refuse(ctx, &Account{Device: d.ID}, source, "birth", err)
			err = recorded{err}
		}
	}()
	if id.Evidence != ca.EvidenceBirth {
		return b, refuse(errs.Denied, Unauthorized, "an external account binding is for the certificate of a device's manufacturer; with a certificate of this platform renew by EST, CMP or SCEP, or ask for a token")
	}
	if p, err := s.CA.Profile(d.Profile); err != nil || !p.Accepts(ca.EvidenceAccount) {
		return b, refuse(errs.Denied, InvalidProfile, "the profile %s of this device accepts no accounts: evidence must list account", d.Profile)
	}
	sum := sha256.Sum256(chain[0])
	kept := birth{Device: d.ID, Policy: d.Policy, Cert: sum[:], Expires: s.Now().Add(birthLife).Unix(), Once: make([]byte, 16)}
	rand.Read(kept.Once)
	text, err := json.Marshal(kept)
	if err != nil {
		return b, err
	}
	b.KID = birthPrefix + base64.RawURLEncoding.EncodeToString(s.sealer(birthLabel).Seal(nil, nil, text, nil))
	b.Key, b.Expires = s.birthKey(b.KID), time.Unix(kept.Expires, 0).UTC()
	return b, nil
}

// birthKey derives the key that belongs to a key identifier.
func (s *Service) birthKey(kid string) []byte {
	h := hmac.New(sha256.New, s.Key)
	h.Write([]byte(birthLabel + ": "))
	h.Write([]byte(kid))
	return h.Sum(nil)
}

// isBirth reports whether a key identifier may be one of BindBirth. No device is called so: what follows the prefix is longer than names are.
func isBirth(kid string) bool { return strings.HasPrefix(kid, birthPrefix) && len(kid) > 128 }

// newByBirth makes the account of a device by a binding of BindBirth.
func (s *Service) newByBirth(ctx context.Context, a Account, n Newcomer) (Account, bool, error) {
	if n.Binding.VerifyMAC(s.birthKey(n.Binding.KID)) != nil {
		return Account{}, false, refuse(errs.Denied, Unauthorized, "the external account binding is not accepted: the key is not the one that was handed out with this key identifier")
	}
	var kept birth
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimPrefix(n.Binding.KID, birthPrefix))
	if err == nil {
		sealed, err = s.sealer(birthLabel).Open(nil, nil, sealed, nil)
	}
	if err == nil {
		err = json.Unmarshal(sealed, &kept)
	}
	now := s.Now().Unix()
	if err != nil || now >= kept.Expires {
		return Account{}, false, refuse(errs.Denied, Unauthorized, "the external account binding is older than %s; ask for another one", birthLife)
	}
	a.Device = kept.Device
	err = s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error { return s.makeByBirth(ctx, tx, a, kept, now) })
	if isFault(err) {
		s.accounts.clear()
	}
	return s.made(ctx, a, err)
}

func (s *Service) makeByBirth(ctx context.Context, tx *db.Tx, a Account, kept birth, now int64) error {
	d, err := s.Devices.LockTx(ctx, tx, kept.Device) // or two bindings used at once would each leave an account that ends none
	switch {
	case err != nil && !errs.Is(err, errs.NotFound):
		return err
	case err == nil && !d.State.Active():
		return refuse(errs.Denied, Unauthorized, "%s", errs.Public(device.StateRefusal(d.State)))
	case err != nil || d.Policy != kept.Policy:
		return refuse(errs.Denied, Unauthorized, "the external account binding is not accepted: the device was changed since it was handed out; ask for another one")
	}
	once := sha256.Sum256(append([]byte(birthLabel), kept.Once...))
	actor := access.Device(a.Device.String(), protocol)
	var ended []audit.Entry
	use := &db.Stmt{SQL: `INSERT INTO acme_nonce (id, expires) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING`, Args: []any{once[:16], kept.Expires + int64(nonceLife.Seconds())}}
	if err := tx.Send(ctx, use); err != nil {
		return err
	}
	if use.N != 1 {
		return refuse(errs.Denied, Unauthorized, "the external account binding was used before; ask for another one")
	}
	older := s.supersede(&a, now, func(older *Account) { ended = append(ended, older.entry("acme.end", actor, now, nil)) })
	if err := tx.Send(ctx, older, a.insert()); err != nil {
		return err
	}
	tx.OnCommit(s.accounts.clear)
	detail := map[string]string{"evidence": string(ca.EvidenceBirth), "certificate": hex.EncodeToString(kept.Cert)}
	return s.Audit.Append(ctx, tx, append(ended, a.entry("acme.account", actor, now, detail))...)
}
