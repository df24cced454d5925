package api

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/pem"
	"strings"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
	"mooring/internal/server/api/v1"
)

// DeviceFilter are the parameters that select devices. All that are given must fit. It is exported for the sake of the library, which does not see
// into embedded structs that are not.
type DeviceFilter struct {
	Group         string    `query:"group" doc:"In this group"`
	State         string    `query:"state" enum:"registered,enrolled,suspended,lost,retired" doc:"In this state"`
	Profile       string    `query:"profile" doc:"With this profile"`
	Tag           string    `query:"tag" doc:"With this tag: key, or key=value"`
	Issuer        string    `query:"issuer" maxLength:"64" doc:"Holding a certificate of this CA, by name or id. What is said about certificates must fit one and the same, which is not revoked" example:"devices"`
	Algorithm     string    `query:"algorithm" maxLength:"32" doc:"Holding a certificate for a key of this kind" example:"ec-p256"`
	ExpiresBefore time.Time `query:"expires_before" doc:"Holding a certificate that ends before this time; in order of the end" example:"2026-12-31T00:00:00Z"`
	ExpiresAfter  time.Time `query:"expires_after" doc:"Holding a certificate that ends at this time or later; in order of the end" example:"2026-12-01T00:00:00Z"`
	SeenBefore    time.Time `query:"seen_before" doc:"Last heard of before this time, or never" example:"2026-11-01T00:00:00Z"`
	SeenAfter     time.Time `query:"seen_after" doc:"Last heard of at this time or later" example:"2026-11-01T00:00:00Z"`
}

// filter is in as the registry takes it.
func (s *server) filter(in *DeviceFilter) (f device.Filter, err error) {
	f = device.Filter{Group: in.Group, Profile: in.Profile, Tag: in.Tag, Key: in.Algorithm, ExpiresBefore: seconds(in.ExpiresBefore), ExpiresAfter: seconds(in.ExpiresAfter),
		SeenBefore: seconds(in.SeenBefore), SeenAfter: seconds(in.SeenAfter)}
	if in.State != "" {
		if f.State, err = device.ParseState(in.State); err != nil {
			return f, err
		}
	}
	if in.Issuer != "" {
		issuer, err := s.CA.Issuer(in.Issuer)
		if err != nil {
			return f, err
		}
		id := issuer.ID()
		f.Issuer = id[:]
	}
	return f, nil
}

type listDevicesInput struct {
	DeviceFilter
	Cursor string `query:"cursor" maxLength:"1024" doc:"The next of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Devices a page"`
}

func (s *server) listDevices(ctx context.Context, actor access.Actor, in *listDevicesInput) (v1.DevicePage, error) {
	f, err := s.filter(&in.DeviceFilter)
	if err != nil {
		return v1.DevicePage{}, err
	}
	f.Cursor, f.Limit = in.Cursor, in.Limit
	page, next, err := s.Devices.List(ctx, actor, f)
	if err == nil && len(page) == 0 && next == "" && in.Cursor == "" {
		err = s.unknownProfile(errs.NotFound, in.Profile) // devices may still have a profile whose file is gone
	}
	if err != nil {
		return v1.DevicePage{}, err
	}
	return v1.DevicePage{Devices: each(page, s.shownDevice), Next: next}, nil
}

type addDeviceInput struct{ Body v1.NewDevice }

func (s *server) addDevice(ctx context.Context, actor access.Actor, in *addDeviceInput) (v1.AddedDevice, error) {
	b := &in.Body
	birth, err := parseBirth(b.Birth)
	if err != nil {
		return v1.AddedDevice{}, err
	}
	life, err := parseTokenLife("token_life", b.TokenLife)
	if err != nil {
		return v1.AddedDevice{}, err
	}
	if b.Token { // asked before, so that there is no device without the token that was asked for
		if err := s.Access.Require(ctx, actor, access.DeviceToken, s.pseudonym(b.Name)); err != nil {
			return v1.AddedDevice{}, err
		}
	}
	d, err := s.Devices.Add(ctx, actor, device.Spec{Name: b.Name, Names: b.Names, Group: b.Group, Tags: b.Tags, Profile: b.Profile, Birth: birth, Product: device.Product{Maker: b.Maker, Serial: b.Serial}})
	if err != nil {
		return v1.AddedDevice{}, s.whyNotAdded(ctx, actor, b, err)
	}
	if !b.Token {
		return v1.AddedDevice{Device: s.shownDevice(d)}, nil
	}
	token, err := s.token(ctx, actor, d.ID, life)
	if err != nil {
		return v1.AddedDevice{}, errs.Wrap(errs.KindOf(err), err, "the device was added, but not its token: %s", errs.Public(err))
	}
	return v1.AddedDevice{Device: s.shownDevice(d), Token: &token}, nil
}

func (s *server) token(ctx context.Context, actor access.Actor, id device.ID, life time.Duration) (v1.Token, error) {
	text, until, err := s.Devices.Token(ctx, actor, id, life)
	return v1.Token{Token: text, Until: moment(until)}, err
}

func (s *server) getDevice(ctx context.Context, actor access.Actor, in *oneDevice) (v1.Device, error) {
	d, err := s.find(ctx, actor, in.Device)
	if err != nil {
		return v1.Device{}, err
	}
	return s.fullDevice(ctx, d)
}

type changeDeviceInput struct {
	Device string `path:"device" maxLength:"255" doc:"Name or id" example:"sensor-0017"`
	Body   v1.ChangeDevice
}

func (s *server) changeDevice(ctx context.Context, actor access.Actor, in *changeDeviceInput) (v1.Device, error) {
	change := device.Change{Names: in.Body.Names, Group: in.Body.Group, Tags: in.Body.Tags, Profile: in.Body.Profile}
	if in.Body.Birth != nil {
		birth, err := parseBirth(*in.Body.Birth)
		if err != nil {
			return v1.Device{}, err
		}
		change.Birth = &birth
	}
	d, err := s.named(ctx, actor, access.DeviceWrite, in.Device)
	change.Product = productChange(d.Product, &in.Body)
	if err == nil {
		if d, err = s.Devices.Change(ctx, actor, d.ID, change); errs.Is(err, errs.Invalid) && in.Body.Profile != nil {
			err = cmp.Or(s.unknownProfile(errs.Invalid, *in.Body.Profile), err)
		}
	}
	return s.shownDevice(d), err
}

// productChange is what becomes of the product p, or nil.
func productChange(p device.Product, b *v1.ChangeDevice) *device.Product {
	if b.Maker == nil && b.Serial == nil {
		return nil
	}
	if b.Maker != nil {
		p.Maker = *b.Maker
	}
	if b.Serial != nil {
		p.Serial = *b.Serial
	}
	return &p
}

// named returns the device called nameOrID to an actor who wants perm, which is asked for before anything is looked up.
func (s *server) named(ctx context.Context, actor access.Actor, perm access.Permission, nameOrID string) (device.Device, error) {
	if err := s.Access.Require(ctx, actor, perm, s.pseudonym(nameOrID)); err != nil {
		return device.Device{}, err
	}
	return s.find(ctx, actor, nameOrID)
}

// pseudonym is how the record names a device of which only the name is known: names have no place there.
func (s *server) pseudonym(nameOrID string) string {
	if id, err := device.ParseID(nameOrID); err == nil {
		return id.String()
	}
	id, _ := s.Devices.IDOf(nameOrID)
	return id.String()
}

type giveTokenInput struct {
	Device string       `path:"device" maxLength:"255" doc:"Name or id" example:"sensor-0017"`
	Body   *v1.NewToken `doc:"May be absent"`
}

func (s *server) giveToken(ctx context.Context, actor access.Actor, in *giveTokenInput) (v1.Token, error) {
	var life time.Duration
	if in.Body != nil {
		var err error
		if life, err = parseTokenLife("life", in.Body.Life); err != nil {
			return v1.Token{}, err
		}
	}
	d, err := s.named(ctx, actor, access.DeviceToken, in.Device)
	if err != nil {
		return v1.Token{}, err
	}
	return s.token(ctx, actor, d.ID, life)
}

type moveInput struct {
	Device string     `path:"device" maxLength:"255" doc:"Name or id" example:"sensor-0017"`
	Body   *v1.Reason `doc:"May be absent"`
}

// move changes the state of a device and its certificates with it.
func (s *server) move(ctx context.Context, actor access.Actor, in *moveInput, m device.Move) (v1.MovedDevice, error) {
	why, err := parseReason(in.Body)
	if err != nil {
		return v1.MovedDevice{}, err
	}
	d, err := s.named(ctx, actor, access.DeviceState, in.Device)
	if err != nil {
		return v1.MovedDevice{}, err
	}
	n, err := s.Revoke.Device(ctx, actor, d.ID, m, why)
	if err != nil {
		return v1.MovedDevice{}, err
	}
	if d, err = s.Devices.Get(ctx, actor, d.ID.String()); err != nil {
		return v1.MovedDevice{}, err
	}
	shown, err := s.fullDevice(ctx, d)
	return v1.MovedDevice{Device: shown, Changed: n}, err
}

func parseReason(r *v1.Reason) (revoke.Reason, error) {
	if r == nil {
		return revoke.Unspecified, nil
	}
	why, err := revoke.ParseReason(r.Reason)
	if err != nil {
		err = errs.Wrap(errs.KindOf(err), err, "reason: %s", errs.Public(err))
	}
	return why, err
}

func (s *server) suspend(ctx context.Context, actor access.Actor, in *moveInput) (v1.MovedDevice, error) {
	return s.move(ctx, actor, in, device.Suspend)
}

func (s *server) resume(ctx context.Context, actor access.Actor, in *moveInput) (v1.MovedDevice, error) {
	return s.move(ctx, actor, in, device.Resume)
}

func (s *server) lose(ctx context.Context, actor access.Actor, in *moveInput) (v1.MovedDevice, error) {
	return s.move(ctx, actor, in, device.Lose)
}

func (s *server) retire(ctx context.Context, actor access.Actor, in *moveInput) (v1.MovedDevice, error) {
	return s.move(ctx, actor, in, device.Retire)
}

// parseBirth reads a birth certificate, PEM, nothing before or after it; "" is none.
func parseBirth(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" || strings.TrimSpace(string(rest)) != "" {
		return nil, errs.New(errs.Invalid, "birth: give one certificate in PEM")
	}
	return block.Bytes, nil
}

// parseLength reads a length of time; "" is 0.
func parseLength(field, text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, errs.New(errs.Invalid, "%s: not a length of time: write it like 24h or 30m", field)
	}
	return d, nil
}

// each applies show to every item. The result is never nil: an empty list is [], not null.
func each[A, B any](list []A, show func(A) B) []B {
	out := make([]B, len(list))
	for i, item := range list {
		out[i] = show(item)
	}
	return out
}

// moment is a time of the platform in a message; 0 is the zero time, which is left out.
func moment(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

// seconds is a time of a message in the platform; the zero time is 0.
func seconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func (s *server) shownDevice(d device.Device) v1.Device {
	out := v1.Device{ID: d.ID.String(), Name: d.Name, Names: d.Names, Group: d.Group, Tags: d.Tags, Profile: d.Profile, Maker: d.Product.Maker, Serial: d.Product.Serial, State: d.State.String(), Issued: d.Issued,
		Created: moment(d.Created), Updated: moment(d.Updated), LastSeen: moment(d.LastSeen), Slots: each(d.Slots, shownSlot)}
	if len(d.Token.Hash) > 0 {
		out.Token = &v1.TokenState{Until: moment(d.Token.Until), Used: moment(d.Token.Used)}
	}
	for i := range d.Slots {
		out.Slots[i].RenewAt = moment(s.Devices.RenewAt(&d, &d.Slots[i]))
		if id := d.Slots[i].Issuer; len(id) == len(ca.IssuerID{}) {
			if issuer, err := s.CA.IssuerByID(ca.IssuerID(id)); err == nil {
				out.Slots[i].Issuer = issuer.Name()
			}
		}
	}
	return out
}

// fullDevice shows also why certificates are not good any more, which listings leave out because it is a look-up for each.
func (s *server) fullDevice(ctx context.Context, d device.Device) (v1.Device, error) {
	out := s.shownDevice(d)
	for i, slot := range d.Slots {
		if len(slot.Serial) == 0 {
			continue
		}
		r, standing, err := s.Revoke.Status(ctx, slot.Serial)
		if err != nil {
			return v1.Device{}, err
		}
		if standing {
			out.Slots[i].Revoked, out.Slots[i].Reason = moment(r.At), r.Reason.String()
		}
	}
	return out, nil
}

func shownSlot(s device.Slot) v1.Slot {
	return v1.Slot{Name: s.Name, Serial: hex.EncodeToString(s.Serial), Previous: hex.EncodeToString(s.Prev), NotAfter: moment(s.NotAfter),
		Key: hex.EncodeToString(s.SPKI), Revoked: moment(s.Revoked), Fingerprint: hex.EncodeToString(s.Fingerprint),
		Issuer: hex.EncodeToString(s.Issuer), Algorithm: s.Key}
}
