package device

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
)

// Spec describes a device to be added.
type Spec struct {
	Name    string
	Names   []string // "dns:…", "ip:…", "uri:…", "email:…"
	Group   string
	Tags    map[string]string
	Profile string
	Birth   []byte // the certificate, in DER, that another authority issued to it; empty = none
	Product Product
}

// Change says what becomes different about a device; nil fields stay.
type Change struct {
	Names   *[]string
	Group   *string
	Tags    *map[string]string
	Profile *string
	Birth   *[]byte // DER; empty = the device is no longer known by a birth certificate
	Product *Product
}

// errChanged is what an administrator's change gets when another one was faster. Enrolment meets it as a reason to look again.
var errChanged = errs.New(errs.Conflict, "retry: the device was changed at the same time")

// changed judges an UPDATE whose condition was the policy number.
func changed(n int64, err error) error {
	if err == nil && n != 1 {
		return errChanged
	}
	return err
}

const (
	insertDevice = `INSERT INTO device (cell, id, state, policy, name, names, grp, tags, profile, issued, token, token_salt, token_until, token_used, created, updated, product)
 VALUES ($1, $2, 1, 1, $3, $4, $5, $6, $7, 0, $8, $11, $9, 0, $10, $10, $12)`
	updateDevice = `UPDATE device SET names = $4, grp = $5, tags = $6, profile = $7, policy = policy + 1, updated = $8, product = $9
 WHERE cell = $1 AND id = $2 AND policy = $3`

	insertBirth = `INSERT INTO birth (cell, fingerprint, device_cell, device) VALUES ($1, $2, $3, $4)`
	deleteBirth = `DELETE FROM birth WHERE cell = $1 AND fingerprint = $2`
	// A slot that the device fills with a certificate of ours keeps it; the fingerprint stands beside.
	upsertBirthSlot = `INSERT INTO slot (cell, device, slot, serial, prev_serial, not_after, spki, request, revoked, fingerprint)
 VALUES ($1, $2, 'birth', $3, $3, $4, $5, $3, 0, $6) ON CONFLICT (cell, device, slot) DO UPDATE SET fingerprint = excluded.fingerprint`
	emptyBirthSlot  = `UPDATE slot SET fingerprint = $3 WHERE cell = $1 AND device = $2 AND slot = 'birth'`
	deleteBirthSlot = `DELETE FROM slot WHERE cell = $1 AND device = $2 AND slot = 'birth' AND serial = $3`
)

// Add registers a device. The error is Invalid for what cannot be stored, Conflict for a name or birth certificate that is known already.
func (r *Registry) Add(ctx context.Context, actor access.Actor, n Spec) (Device, error) {
	if err := r.access.Require(ctx, actor, access.DeviceWrite, "device"); err != nil {
		return Device{}, err
	}
	d, err := r.build(n)
	if err != nil {
		return Device{}, err
	}
	if err := r.mayGrant(ctx, actor, &d); err != nil {
		return Device{}, err
	}
	err = r.db.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		if _, err := r.loadTx(ctx, tx, d.ID); err == nil {
			return errs.New(errs.Conflict, "name: a device %q exists already", d.Name)
		} else if !errs.Is(err, errs.NotFound) {
			return err
		}
		_, err := tx.Exec(ctx, insertDevice, int64(d.Cell), d.ID[:], d.Name, joinNames(d.Names), d.Group, joinTags(d.Tags), d.Profile, []byte{}, int64(0), d.Created, []byte{}, d.Product.join())
		if err != nil {
			return err
		}
		none := &Device{ID: d.ID, Cell: d.Cell}
		if err := r.setBirth(ctx, tx, none, &d); err != nil {
			return err
		}
		if err := r.setProduct(ctx, tx, none, &d); err != nil {
			return err
		}
		tx.OnCommit(func() { r.inv.touch(d.ID) })
		return r.audit.Append(ctx, tx, r.rowEntry("device.add", actor, &d))
	})
	if db.IsConflict(err) {
		return Device{}, errs.Wrap(errs.Conflict, err, "name: a device %q exists already", d.Name)
	}
	if err != nil {
		return Device{}, err
	}
	return d, nil
}

// build checks n and returns the device that it describes.
func (r *Registry) build(n Spec) (Device, error) {
	if err := checkName(n.Name); err != nil {
		return Device{}, err
	}
	now := r.now().Unix()
	d := Device{Name: n.Name, State: Registered, Policy: 1, Created: now, Updated: now}
	d.ID, d.Cell = r.IDOf(n.Name)
	err := r.apply(&d, Change{Names: &n.Names, Group: &n.Group, Tags: &n.Tags, Profile: &n.Profile, Birth: &n.Birth, Product: &n.Product})
	return d, err
}

// apply checks c and sets it in d.
func (r *Registry) apply(d *Device, c Change) (err error) {
	if c.Names != nil {
		if d.Names, err = cleanNames(*c.Names); err != nil {
			return err
		}
	}
	if c.Group != nil {
		if err := checkGroup(*c.Group); err != nil {
			return err
		}
		d.Group = *c.Group
	}
	if c.Tags != nil {
		if err := checkTags(*c.Tags); err != nil {
			return err
		}
		d.Tags = maps.Clone(*c.Tags)
	}
	if c.Profile != nil {
		if err := r.checkProfile(*c.Profile); err != nil {
			return err
		}
		d.Profile = *c.Profile
	}
	if c.Product != nil {
		if err := c.Product.Check(); err != nil {
			return err
		}
		d.Product = *c.Product
	}
	if c.Birth != nil {
		return d.setBirth(*c.Birth)
	}
	return nil
}

func (r *Registry) checkProfile(profile string) error {
	if profile == "" {
		return errs.New(errs.Invalid, "profile: required")
	}
	if exists, _ := r.profiles(profile); !exists {
		return errs.New(errs.Invalid, "profile: unknown profile %s", shown(profile))
	}
	return nil
}

// setBirth replaces the foreign birth certificate in d by the one with this DER, or by none.
func (d *Device) setBirth(der []byte) error {
	d.Slots = slices.DeleteFunc(d.Slots, func(s Slot) bool { return s.Name == SlotBirth && len(s.Serial) == 0 })
	own := slices.IndexFunc(d.Slots, func(s Slot) bool { return s.Name == SlotBirth }) // filled with a certificate of ours
	if len(der) == 0 {
		if own >= 0 {
			d.Slots[own].Fingerprint = nil
		}
		return nil
	}
	cert, err := checkBirth(der)
	if err != nil {
		return err
	}
	fingerprint := sha256.Sum256(der)
	if own >= 0 {
		d.Slots[own].Fingerprint = fingerprint[:]
		return nil
	}
	spki := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	d.Slots = append(d.Slots, Slot{Name: SlotBirth, NotAfter: cert.NotAfter.Unix(), SPKI: spki[:], Fingerprint: fingerprint[:]})
	slices.SortFunc(d.Slots, func(a, b Slot) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// checkBirth reads the certificate that another authority issued to a device.
func checkBirth(der []byte) (*x509.Certificate, error) {
	if len(der) > maxBirth {
		return nil, errs.New(errs.Invalid, "birth: a certificate of %d octets, at most %d are allowed", len(der), maxBirth)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errs.Wrap(errs.Invalid, err, "birth: not an X.509 certificate in DER")
	}
	if cert.BasicConstraintsValid && cert.IsCA {
		return nil, errs.New(errs.Invalid, "birth: this is the certificate of a CA, with which no device can enrol: give the certificate that the CA issued to the device")
	}
	return cert, nil
}

// setBirth brings the rows of the birth certificate from what old says to what d says.
func (r *Registry) setBirth(ctx context.Context, tx *db.Tx, old, d *Device) error {
	was, is := old.birth(), d.birth()
	if bytes.Equal(was, is) {
		return nil
	}
	if len(was) > 0 {
		if _, err := tx.Exec(ctx, deleteBirth, int64(was[0]), was); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, deleteBirthSlot, int64(d.Cell), d.ID[:], []byte{}); err != nil {
			return err
		}
	}
	if len(is) == 0 {
		_, err := tx.Exec(ctx, emptyBirthSlot, int64(d.Cell), d.ID[:], []byte{})
		return err
	}
	if taken, err := tx.Get(ctx, []any{new([]byte)}, `SELECT device FROM birth WHERE cell = $1 AND fingerprint = $2`, int64(is[0]), is); err != nil {
		return err
	} else if taken {
		return errs.New(errs.Conflict, "birth: another device is known by this certificate")
	}
	if _, err := tx.Exec(ctx, insertBirth, int64(is[0]), is, int64(d.Cell), d.ID[:]); err != nil {
		return err
	}
	s, _ := d.Slot(SlotBirth)
	_, err := tx.Exec(ctx, upsertBirthSlot, int64(d.Cell), d.ID[:], []byte{}, s.NotAfter, octets(s.SPKI), is)
	return err
}

// Change changes what administrators decide about a device. A running enrolment that decided upon the old state is turned away and decides
// again.
func (r *Registry) Change(ctx context.Context, actor access.Actor, id ID, c Change) (Device, error) {
	if err := r.access.Require(ctx, actor, access.DeviceWrite, id.String()); err != nil {
		return Device{}, err
	}
	if err := r.mayChange(ctx, actor, id, c); err != nil {
		return Device{}, err
	}
	var d Device
	err := r.db.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		old, err := r.loadTx(ctx, tx, id)
		if err != nil {
			return err
		}
		if err := r.sameGrant(&old, actor); err != nil {
			return err
		}
		if old.State == Retired {
			return errs.New(errs.Conflict, "the device is retired: it stays as it is")
		}
		d = old
		d.Slots = slices.Clone(old.Slots)
		if err := r.apply(&d, c); err != nil {
			return err
		}
		d.Policy, d.Updated = old.Policy+1, r.now().Unix()
		if err := r.updateRow(ctx, tx, old.Policy, &d); err != nil {
			return err
		}
		if err := r.setBirth(ctx, tx, &old, &d); err != nil {
			return err
		}
		if err := r.setProduct(ctx, tx, &old, &d); err != nil {
			return err
		}
		tx.OnCommit(func() { r.inv.touch(id) })
		e := r.rowEntry("device.change", actor, &d)
		e.Detail["changed"] = c.fields()
		return r.audit.Append(ctx, tx, e)
	})
	if db.IsConflict(err) {
		return Device{}, errs.Wrap(errs.Conflict, err, "birth: another device is known by this certificate")
	}
	if err != nil {
		return Device{}, err
	}
	if r.changed != nil {
		r.changed(ctx, id)
	}
	return d, nil
}

// updateRow writes what administrators decide about d, unless somebody did so since policy.
func (r *Registry) updateRow(ctx context.Context, tx *db.Tx, policy int64, d *Device) error {
	return changed(tx.Exec(ctx, updateDevice, int64(d.Cell), d.ID[:], policy, joinNames(d.Names), d.Group, joinTags(d.Tags), d.Profile, d.Updated, d.Product.join()))
}

// fields names what c sets, without the values: they may be personal and the record is for ever.
func (c Change) fields() string {
	var set []string
	for name, is := range map[string]bool{"names": c.Names != nil, "group": c.Group != nil, "tags": c.Tags != nil, "profile": c.Profile != nil, "birth": c.Birth != nil, "product": c.Product != nil} {
		if is {
			set = append(set, name)
		}
	}
	slices.Sort(set)
	return strings.Join(set, ",")
}

// rowEntry is the entry of an act that left d as it is now.
func (r *Registry) rowEntry(action string, actor access.Actor, d *Device) audit.Entry {
	return audit.Entry{At: d.Updated, Action: action, Actor: actor.String(), Device: d.ID.String(),
		Detail: map[string]string{"row": r.rowMark(d).String(), "policy": strconv.FormatInt(d.Policy, 10)}}
}

// grants reports whether certificates of this profile give a role, or let their holders speak for the platform.
func (r *Registry) grants(profile string) bool {
	_, role := r.profiles(profile)
	return role != access.RoleNone || r.speaks != nil && r.speaks(profile)
}

// Empowers reports whether it takes the permission access.grant to register a device for this profile.
func (r *Registry) Empowers(profile string) bool { return r.grants(profile) }

// owns reports whether one of the names is the platform's own.
func (r *Registry) owns(names []string) bool {
	return slices.ContainsFunc(names, r.isOwn)
}

// isOwn reports whether a name in the form "dns:…" or "ip:…" is the platform's own, or a wildcard, which stands for exactly one label, that
// covers such a name.
func (r *Registry) isOwn(name string) bool {
	name = asOwn(name)
	if r.own[name] {
		return true
	}
	parent, wildcard := strings.CutPrefix(name, "dns:*.")
	if !wildcard {
		return false
	}
	for own := range r.own {
		if host, ok := strings.CutPrefix(own, "dns:"); ok {
			if _, above, ok := strings.Cut(host, "."); ok && above == parent {
				return true
			}
		}
	}
	return false
}

// asOwn spells a name as the registry does. Common names and names of devices come as "dns:…" whatever they are, addresses too.
func asOwn(name string) string {
	name = strings.ToLower(name)
	host, ok := strings.CutPrefix(name, "dns:")
	if !ok {
		return name
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return "ip:" + ip.Unmap().String()
	}
	return "dns:" + strings.TrimSuffix(host, ".")
}

// NotOwn refuses names that are the platform's own or wildcards for them, in the form "dns:…" or "ip:…", unless they are registered for d: a pattern of a
// profile that happens to cover the host of the listeners, or a template that spells it, must not make every device the server.
func (r *Registry) NotOwn(d *Device, names []string) error {
	for _, name := range names {
		if r.isOwn(name) && !slices.Contains(d.Names, asOwn(name)) {
			return errs.New(errs.Denied, "the certificate would be for %q, which is a name of this platform or a wildcard for one: leave it out of the request, or have the device or the profile call it otherwise", name)
		}
	}
	return nil
}

// powerful reports whether d's certificates give more than the identity of a device: a role, or the name of the platform.
func (r *Registry) powerful(d *Device) bool {
	return r.grants(d.Profile) || r.owns(d.Names) || r.isOwn("dns:"+d.Name)
}

// Powerful reports whether it takes the permission access.grant to change d, to move it, or to take its certificates back.
func (r *Registry) Powerful(d *Device) bool { return r.powerful(d) }

// mayGrant asks for the permission that is needed to add, change or give a token to something powerful.
func (r *Registry) mayGrant(ctx context.Context, actor access.Actor, d *Device) error {
	if !r.powerful(d) {
		return nil
	}
	err := r.access.Require(ctx, actor, access.Grant, d.ID.String())
	if errs.Is(err, errs.Denied) && !r.grants(d.Profile) {
		return errs.Wrap(errs.Denied, err, "%s; it does since the device bears a name of this server", errs.Public(err))
	}
	return err
}

// MayEmpower returns nil when actor may do what gives the device power, such as a token, an approval or the end of a hold, or takes it away, else the recorded
// refusal: for a device whose present profile grants a role, or which bears the platform's own name, it needs the permission access.grant,
// else no more than the act itself. The error is NotFound when there is no such device.
func (r *Registry) MayEmpower(ctx context.Context, actor access.Actor, id ID) error {
	d, err := r.Load(ctx, id)
	if err != nil {
		return err
	}
	return r.mayGrant(ctx, actor, &d)
}

// mayChange asks for it if the device is powerful as it is or would be after c. What in c is no name is refused later.
func (r *Registry) mayChange(ctx context.Context, actor access.Actor, id ID, c Change) error {
	if err := r.MayEmpower(ctx, actor, id); err != nil {
		return err
	}
	after := Device{ID: id}
	if c.Profile != nil {
		after.Profile = *c.Profile
	}
	if c.Names != nil {
		after.Names, _ = cleanNames(*c.Names)
	}
	return r.mayGrant(ctx, actor, &after)
}

// sameGrant holds inside a transaction what MayEmpower found before it: no refusal can be recorded in there.
func (r *Registry) sameGrant(d *Device, actor access.Actor) error {
	if r.powerful(d) && !actor.May(access.Grant) {
		return errChanged
	}
	return nil
}

// octets makes nil an empty value: every column is NOT NULL.
func octets(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
