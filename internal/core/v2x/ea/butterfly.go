package ea

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/url"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
	"mooring/wire/its"
	"mooring/wire/its/chain"
	"mooring/wire/scr"
)

// What package ra needs of an enrolment authority: who signed a request, what a station may have, and the count of its tickets.

// Member is a station whose signature was verified.
type Member struct {
	Device device.ID
	By     its.HashedId8 // its enrolment credential; of an X.509 certificate, the last octets of its digest
	Until  int64         // the end of that, UTC seconds
}

// SignedBy returns whose enrolment credential signed a message, which is to be of this moment. There is a member with each code from where it is known who that is.
func (s *Service) SignedBy(ctx context.Context, d *its.SignedData) (*Member, its.EnrolmentResponseCode, error) {
	if d.Signer.Choice != its.SignerDigest {
		return nil, its.EnrolmentUnknownIts, nil
	}
	c, err := s.credential(ctx, d.Signer.Digest)
	if c == nil || err != nil {
		return nil, its.EnrolmentUnknownIts, err
	}
	m := &Member{c.device, c.id, c.expires}
	switch {
	case d.Verify(c.cert, nil) != nil:
		return nil, its.EnrolmentInvalidSignature, nil
	case c.revoked || !c.cert.ToBeSigned.ValidityPeriod.Contains(s.Trust.At()):
		return m, its.EnrolmentBadItsStatus, nil
	case !s.fresh(d):
		return m, its.EnrolmentDeniedRequest, nil
	}
	return s.standingMember(ctx, m)
}

// ByName returns the station of a name, for which somebody else vouches.
func (s *Service) ByName(ctx context.Context, name string) (*Member, its.EnrolmentResponseCode, error) {
	st, err := s.byName(ctx, []byte(name))
	if st == nil || err != nil {
		return nil, its.EnrolmentUnknownIts, err
	}
	return s.standingMember(ctx, &Member{Device: st.device.ID})
}

// standingMember looks whether a station is one, and active.
func (s *Service) standingMember(ctx context.Context, m *Member) (*Member, its.EnrolmentResponseCode, error) {
	st, err := s.byID(ctx, m.Device)
	switch {
	case err != nil:
		return nil, 0, err
	case st == nil:
		return nil, its.EnrolmentUnknownIts, nil
	case !st.device.State.Active():
		return m, its.EnrolmentBadItsStatus, nil
	}
	return m, its.EnrolmentOk, nil
}

// SignedByX509 returns whose X.509 certificate signed a request. The certificate has to be one of the platform's own that stands and was not replaced, and of the profile of TS 102 941.
func (s *Service) SignedByX509(ctx context.Context, r *its.SignedX509CertificateRequest) (*Member, its.EnrolmentResponseCode, error) {
	if len(r.Signer.Certificate) != 1 {
		return nil, its.EnrolmentBadContentType, nil
	}
	x, err := x509.ParseCertificate(r.Signer.Certificate[0])
	if err != nil {
		return nil, its.EnrolmentCantParse, nil
	}
	key, err := scr.VerificationKey(x.PublicKey)
	if err != nil || r.HashAlgorithmId != its.SHA256 {
		return nil, its.EnrolmentInvalidSignature, nil
	}
	input, err := r.Input()
	if err != nil || key.Verify(input, &r.Signature) != nil {
		return nil, its.EnrolmentInvalidSignature, nil
	}
	c, ok, err := s.standing(ctx, x.SerialNumber.Bytes())
	if err != nil {
		return nil, 0, err
	}
	now := s.Now().Unix()
	if !ok || !bytes.Equal(c.DER, x.Raw) || now < c.NotBefore || now > c.NotAfter {
		return nil, its.EnrolmentUnknownIts, nil
	}
	sum := digest(x.Raw)
	m := &Member{device.ID(c.Device), its.HashedId8(sum[24:]), c.NotAfter}
	switch used, err := s.inSlot(ctx, c); {
	case err != nil:
		return nil, 0, err
	case !used:
		return m, its.EnrolmentBadItsStatus, nil
	case Credential509(x) != "":
		return m, its.EnrolmentDeniedPermissions, nil
	}
	return s.standingMember(ctx, m)
}

// inSlot says whether a certificate is one that counts of its device: the newest of its slot, or the one by which that was got, as long as the newest is neither revoked for
// more than that there is another, nor on hold. Package enrol judges in the same way.
func (s *Service) inSlot(ctx context.Context, c *ca.Certificate) (bool, error) {
	d, err := s.Devices.Load(ctx, device.ID(c.Device))
	if errs.Is(err, errs.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	slot, ok := d.Slot(c.Slot)
	switch {
	case !ok:
		return false, nil
	case bytes.Equal(slot.Serial, c.Serial[:]):
		return true, nil
	case !bytes.Equal(slot.Prev, c.Serial[:]):
		return false, nil
	}
	r, revoked, err := s.Revoke.Status(ctx, slot.Serial)
	return !revoked || r.Reason == revoke.Superseded, err
}

// Credential509 says what an X.509 certificate lacks to be an enrolment credential (TS 102 941, 6.1.3.1); "" for nothing.
func Credential509(x *x509.Certificate) string {
	switch {
	case x.Version != 3:
		return "it is not of version 3"
	case !named(&x.Issuer):
		return "its issuer has not one country, one organisation and one common name"
	case !named(&x.Subject):
		return "its subject has not one country, one organisation and one common name"
	case len(x.AuthorityKeyId) == 0:
		return "it does not say by which key it was issued"
	case x.KeyUsage != x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment:
		return "its key is not for digital signatures and content commitment alone"
	case len(x.Policies) == 0 || critical(x, asn1.ObjectIdentifier{2, 5, 29, 32}):
		return "it has no certificate policy, or a critical one"
	case len(x.OCSPServer) == 0 && !reachable(x.CRLDistributionPoints) || critical(x, asn1.ObjectIdentifier{2, 5, 29, 31}):
		return "nobody can find out whether it is revoked"
	case len(x.OCSPServer) == 0 && len(x.IssuingCertificateURL) == 0:
		return "it does not say where to ask about it"
	}
	return ""
}

// named says whether a name has one country, one organisation and one common name, each of which says something.
func named(n *pkix.Name) bool {
	found := map[string]int{}
	for _, a := range n.Names {
		if text, ok := a.Value.(string); ok && text != "" {
			found[a.Type.String()]++
		}
	}
	return found["2.5.4.6"] == 1 && found["2.5.4.10"] == 1 && found["2.5.4.3"] == 1
}

func critical(x *x509.Certificate, id asn1.ObjectIdentifier) bool {
	for _, e := range x.Extensions {
		if e.Id.Equal(id) {
			return e.Critical
		}
	}
	return false
}

// reachable says whether one of the addresses is one of http or ldap.
func reachable(list []string) bool {
	for _, text := range list {
		if u, err := url.Parse(text); err == nil && (u.Scheme == "http" || u.Scheme == "ldap") {
			return true
		}
	}
	return false
}

// StandingTx returns which of some stations may have tickets at the moment. It is for what was asked for before.
func (s *Service) StandingTx(ctx context.Context, tx *db.Tx, ids []device.ID) (map[device.ID]bool, error) {
	all, err := s.Devices.LoadManyTx(ctx, tx, ids)
	standing := map[device.ID]bool{}
	for id, d := range all {
		standing[id] = d.State.Active() && d.Tagged(TagStation)
	}
	return standing, err
}

// May says whether tickets of stations may be for these applications, each once.
func May(permissions []its.PsidSsp) bool {
	seen := map[its.Psid]bool{}
	for _, p := range permissions {
		if seen[p.Psid] || !chain.MayIssue(Permissions(), p) {
			return false
		}
		seen[p.Psid] = true
	}
	return len(permissions) > 0
}

// Reservation is some tickets of a station that are valid from Start until before Ends, as certificates have it.
type Reservation struct {
	Start, Ends its.Time32
	Tickets     int64
}

// ReserveTx counts tickets with these permissions, as Validate does one, in the same table and under the same lock of the station: all of the reservations, or none if one of
// them would make it too many tickets at once. What the station may have and the policy's other bounds are looked at too, and whether the credential
// that asked was revoked.
func (s *Service) ReserveTx(ctx context.Context, tx *db.Tx, id device.ID, by its.HashedId8, permissions []its.PsidSsp, list []Reservation) (its.AuthorizationValidationResponseCode, error) {
	if _, err := tx.Exec(ctx, lockStation, id[:]); err != nil {
		return 0, err
	}
	d, err := s.Devices.LoadTx(ctx, tx, id)
	if err != nil {
		return 0, err
	}
	revoked, err := s.RevokedTx(ctx, tx, by)
	if err != nil {
		return 0, err
	}
	if !d.State.Active() || !d.Tagged(TagStation) || revoked[by] {
		return its.ValidationDeniedRequest, nil
	}
	if !granted(&d, permissions) {
		return its.ValidationDeniedPermissions, nil
	}
	latest := its.Time32(s.Trust.At()/1e6) + its.Time32(s.Policy.Preload/time.Second)
	for i, r := range list {
		if r.Start > latest || r.Ends <= r.Start || time.Duration(r.Ends-r.Start)*time.Second > s.Policy.Ticket {
			return its.ValidationDeniedPermissions, nil
		}
		there, err := s.intervals(ctx, tx, id, r)
		if err != nil {
			return 0, err
		}
		for _, before := range list[:i] {
			if before.Ends > r.Start && before.Start < r.Ends {
				there = append(there, interval{int64(before.Start), int64(before.Ends), before.Tickets})
			}
		}
		if most(there, int64(r.Start))+r.Tickets > int64(s.Policy.Tickets) {
			return its.ValidationDeniedTooManyCerts, nil
		}
	}
	for _, r := range list {
		if _, err := tx.Exec(ctx, addIntervals, id[:], int64(r.Start), int64(r.Ends), r.Tickets); err != nil {
			return 0, err
		}
	}
	return its.ValidationOk, nil
}

// addIntervals is addInterval for several tickets.
const addIntervals = `INSERT INTO v2x_interval (cell, device, start, ends, tickets) VALUES (0, $1, $2, $3, $4) ON CONFLICT (cell, device, start, ends) DO UPDATE SET tickets = v2x_interval.tickets + EXCLUDED.tickets`

// intervals are those that share time with a reservation.
func (s *Service) intervals(ctx context.Context, tx *db.Tx, id device.ID, r Reservation) (there []interval, err error) {
	err = tx.Each(ctx, func(row db.Row) error {
		var i interval
		err := row.Scan(&i.start, &i.ends, &i.tickets)
		there = append(there, i)
		return err
	}, selectIntervals, id[:], int64(r.Start), int64(r.Ends))
	return there, err
}
