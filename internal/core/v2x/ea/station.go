package ea

import (
	"context"
	"crypto/x509"
	"encoding/hex"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
)

// Tags of devices in the registry.
const (
	TagStation = "v2x"            // the device is a station; the value is for people
	TagKey     = device.TagV2XKey // its canonical key

	// What its tickets may permit within CAM and DENM at the most: the octets of the bitmap, in hexadecimal digits. Without such a tag, and with one that is none, they
	// permit nothing special: a car is no ambulance.
	TagCAM  = "v2x-cam"
	TagDENM = "v2x-denm"
)

// granted says whether a station may have tickets with these permissions, each of which this authority may grant to some.
func granted(d *device.Device, permissions []its.PsidSsp) bool {
	for _, p := range permissions {
		tag := TagCAM
		if p.Psid == its.PsidDENM {
			tag = TagDENM
		}
		want := p.Ssp.Value.Value
		if len(want) == 0 {
			return false
		}
		have, err := hex.DecodeString(d.Tags[tag])
		if err != nil || len(have) != len(want) || have[0] != want[0] {
			have = make([]byte, len(want))
		}
		for i := 1; i < len(want); i++ { // the first octet is the version
			if want[i]&^have[i] != 0 {
				return false
			}
		}
	}
	return true
}

// station is a device that may take part.
type station struct {
	device device.Device
	key    its.PublicVerificationKey // canonical
}

// byName finds a station by its canonical identifier: nil if there is none.
func (s *Service) byName(ctx context.Context, name []byte) (*station, error) {
	id, _ := s.Devices.IDOf(string(name))
	return s.byID(ctx, id)
}

func (s *Service) byID(ctx context.Context, id device.ID) (*station, error) {
	d, err := s.Devices.Load(ctx, id)
	if errs.Is(err, errs.NotFound) || err == nil && !d.Tagged(TagStation) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	st := &station{device: d}
	if text, ok := d.Tags[TagKey]; ok {
		b, err := hex.DecodeString(text)
		if err != nil || len(b) != 33 || b[0]&^1 != 2 {
			return st, nil // the key verifies nothing
		}
		st.key = its.PublicVerificationKey{Point: its.Compressed(b)}
		return st, nil
	}
	return st, s.bridge(ctx, st)
}

// bridge takes the key of the device's X.509 certificate for the canonical one, if that is valid and not revoked.
func (s *Service) bridge(ctx context.Context, st *station) error {
	now := s.Now().Unix()
	for i := range st.device.Slots {
		slot := &st.device.Slots[i]
		if slot.Name == device.SlotBirth || len(slot.Serial) == 0 || slot.Revoked != 0 {
			continue
		}
		c, ok, err := s.standing(ctx, slot.Serial)
		if err != nil {
			return err
		}
		if !ok || c.DER == nil || now < c.NotBefore || now > c.NotAfter {
			continue
		}
		x, err := x509.ParseCertificate(c.DER)
		if err != nil {
			continue
		}
		if key, err := scr.VerificationKey(x.PublicKey); err == nil {
			st.key = key
			return nil
		}
	}
	return nil
}

// standing returns a certificate unless it is revoked.
func (s *Service) standing(ctx context.Context, serial []byte) (c *ca.Certificate, ok bool, err error) {
	_, revoked, err := s.Revoke.Status(ctx, serial)
	if err != nil || revoked {
		return nil, false, err
	}
	c, err = s.CA.Known(ctx, serial)
	if errs.Is(err, errs.NotFound) {
		return nil, false, nil
	}
	return c, err == nil, err
}

// credential is an enrolment credential that was issued.
type credential struct {
	id        its.HashedId8
	cert      *its.Certificate
	signatory *its.Signatory // the same
	device    device.ID
	expires   int64
	revoked   bool // when it was read
}

const (
	insertCredential = `INSERT INTO v2x_credential (cell, id, device, cert, issued, expires) VALUES (0, $1, $2, $3, $4, $5)`
	selectCredential = `SELECT c.device, c.cert, c.expires, COALESCE(r.at, 0) FROM v2x_credential AS c LEFT JOIN v2x_credential_revoked AS r ON r.cell = c.cell AND r.id = c.id WHERE c.cell = 0 AND c.id = $1`
	countCredentials = `SELECT COUNT(*) FROM v2x_credential WHERE cell = 0 AND device = $1 AND issued > $2`
	insertKey        = `INSERT INTO v2x_credential_key (cell, key, expires) VALUES (0, $1, $2) ON CONFLICT DO NOTHING`
	insertAnswer     = `INSERT INTO v2x_enrolment (cell, request, answer, at) VALUES (0, $1, $2, $3)`
	selectAnswer     = `SELECT answer FROM v2x_enrolment WHERE cell = 0 AND request = $1`
)

// credential finds an enrolment credential by its digest: nil if there is none.
func (s *Service) credential(ctx context.Context, id its.HashedId8) (c *credential, err error) {
	var dev, cert []byte
	var expires, revoked int64
	var found bool
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		found, err = tx.Get(ctx, []any{&dev, &cert, &expires, &revoked}, selectCredential, id[:])
		return err
	})
	if err != nil || !found {
		return nil, err
	}
	x, err := its.ParseCertificate(cert)
	if err != nil || len(dev) != len(device.ID{}) {
		return nil, errs.New(errs.Internal, "table v2x_credential: the row of %s is damaged", id)
	}
	signatory, err := its.NewSignatory(x)
	if err != nil {
		return nil, errs.Wrap(errs.Internal, err, "table v2x_credential: the row of %s is damaged", id)
	}
	return &credential{id, x, signatory, device.ID(dev), expires, revoked != 0}, nil
}

// keptMost is how many credentials are kept at hand, of about one KiB each.
const keptMost = 1 << 14

// recent is credential, of which those that were asked for before are kept: a station gets many tickets in a row. Whether it was revoked since is looked at where the
// ticket is counted.
func (s *Service) recent(ctx context.Context, id its.HashedId8) (*credential, error) {
	s.mu.Lock()
	c := s.kept[id]
	s.mu.Unlock()
	if c != nil {
		return c, nil
	}
	c, err := s.credential(ctx, id)
	if c == nil || err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.kept) >= keptMost {
		for old := range s.kept { // any of them
			delete(s.kept, old)
			break
		}
	}
	s.kept[id] = c
	return c, nil
}

func keyDigest(k *its.PublicVerificationKey) ([]byte, error) {
	b, err := coer.Normal(k)
	return digest(b), err
}
