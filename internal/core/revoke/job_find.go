package revoke

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/job"
)

// Where a job's certificates are looked for: among all certificates when the filter speaks of certificates alone, and else device by device.
// Both ways go by cells, as the lists do. The search may take long; it reads in pages, each in a look of its own, and begins again behind the
// last page after a crash. That it is no single look does no harm: the filter is bound to what was issued before the job was made, what it
// found is kept, and what changed meanwhile is noticed when its turn comes.

// The pages of a search.
const (
	certPage   = 1000
	devicePage = 500
	ownProfile = "server" // of the platform's own listeners
	// registrarProfile is of the EST listener where devices come in by vouchers.
	registrarProfile = "registrar"
)

// place is how far a search has come.
type place struct {
	Cursor string `json:"cursor"`
	Left   int64  `json:"left"` // certificates or devices of operators and of the platform that were left out
}

func placeOf(j *job.Job) (p place, err error) {
	if j.Place == "" {
		return p, nil
	}
	if err = json.Unmarshal([]byte(j.Place), &p); err != nil {
		err = fmt.Errorf("reading where a search goes on: %w", err)
	}
	return p, err
}

func (p place) String() string {
	text, _ := json.Marshal(p) // a text and a number: cannot fail
	return string(text)
}

// privileged reports whether certificates of a profile give power over the platform, or are the platform's own.
func (b *Bulk) privileged(profile string) bool {
	p, err := b.CA.Profile(profile)
	return profile == ownProfile || profile == registrarProfile || err == nil && p.Grants != access.RoleNone || b.Devices.Empowers(profile)
}

// fillRevoke finds the next certificates of a job.
func (b *Bulk) fillRevoke(ctx context.Context, j job.Job) (job.Part, error) {
	var what params
	if err := what.read(&j); err != nil {
		return job.Part{}, err
	}
	at, err := placeOf(&j)
	if err != nil {
		return job.Part{}, err
	}
	find := b.amongCertificates
	if what.Filter.ofDevices() {
		find = b.byDevice
	}
	certs, next, err := find(ctx, j.Maker, &what, at.Cursor)
	if err != nil {
		return job.Part{}, err
	}
	certs = slices.DeleteFunc(certs, func(c *ca.Certificate) bool { return ca.IssuedAt(c.Serial[:]) > what.Until })
	if certs, err = b.changeable(ctx, certs, what.Reason); err != nil {
		return job.Part{}, err
	}
	slices.SortFunc(certs, func(x, y *ca.Certificate) int { return bySerial(x.Serial[:], y.Serial[:]) })
	var part job.Part
	var examples []*ca.Certificate
	for _, c := range certs {
		if what.Filter.Profile == "" && b.privileged(c.Profile) {
			at.Left++
			continue
		}
		part.Items = append(part.Items, c.Serial[:])
		if len(j.Sample)+len(examples) < job.SampleMost {
			examples = append(examples, c)
		}
	}
	if part.Sample, err = b.shown(ctx, examples); err != nil {
		return job.Part{}, err
	}
	at.Cursor = next
	return b.finish(ctx, j, &what, part, at, "certificates")
}

// finish says where the search goes on, and at its end what is to be known of it.
func (b *Bulk) finish(ctx context.Context, j job.Job, what *params, part job.Part, at place, unit string) (job.Part, error) {
	part.Place, part.End = at.String(), at.Cursor == ""
	if !part.End {
		return part, nil
	}
	if at.Left > 0 {
		part.Note = fmt.Sprintf("left out: %d %s of operators and of the platform itself; name their profile to mean them", at.Left, unit)
	}
	if found := j.Total + int64(len(part.Items)); found > 0 && !what.Filter.Everything {
		other, err := b.somethingElse(ctx, j.Maker, what)
		if err == nil && !other {
			err = errs.New(errs.Invalid, "the filter fits all %s there are (%d): say explicitly that everything is meant, or choose less", unit, found)
		}
		return part, err
	}
	return part, nil
}

// inBriefFrom begins the cursors of a search among the certificates that are recorded in brief, which comes after that among those that are
// kept.
const inBriefFrom = "brief:"

// list returns a page of all certificates, of both kinds.
func (b *Bulk) list(ctx context.Context, actor access.Actor, f ca.CertFilter) ([]*ca.Certificate, string, error) {
	if at, ok := strings.CutPrefix(f.Cursor, inBriefFrom); ok {
		f.Cursor = at
		page, next, err := b.CA.ListBrief(ctx, actor, f)
		if next != "" {
			next = inBriefFrom + next
		}
		return page, next, err
	}
	page, next, err := b.CA.List(ctx, actor, f)
	if next == "" {
		next = inBriefFrom
	}
	return page, next, err
}

// amongCertificates returns a page of those that fit by what stands in them.
func (b *Bulk) amongCertificates(ctx context.Context, actor access.Actor, what *params, cursor string) ([]*ca.Certificate, string, error) {
	f := ca.CertFilter{Profile: what.Filter.Profile, ExpiresAfter: b.Now().Unix(), Cursor: cursor, Limit: certPage}
	if what.Filter.Issuer != "" {
		i, err := b.CA.Issuer(what.Filter.Issuer)
		if err != nil {
			return nil, "", err
		}
		id := i.ID()
		f.Issuer = &id
	}
	return b.list(ctx, actor, f)
}

// devices returns a page of the devices that fit.
func (b *Bulk) devices(ctx context.Context, actor access.Actor, f *Filter, cursor, profile string) ([]device.Device, string, error) {
	q := device.Filter{Group: f.Group, Tag: f.Tag, Profile: profile, Cursor: cursor, Limit: devicePage}
	if f.State != "" {
		var err error
		if q.State, err = device.ParseState(f.State); err != nil {
			return nil, "", err
		}
	}
	return b.Devices.List(ctx, actor, q)
}

// byDevice returns the certificates of a page of the devices that fit.
func (b *Bulk) byDevice(ctx context.Context, actor access.Actor, what *params, cursor string) ([]*ca.Certificate, string, error) {
	page, next, err := b.devices(ctx, actor, &what.Filter, cursor, "")
	if err != nil {
		return nil, "", err
	}
	held, err := b.held(ctx, actor, page)
	if err != nil {
		return nil, "", err
	}
	var issuer *ca.Issuer
	if what.Filter.Issuer != "" {
		if issuer, err = b.CA.Issuer(what.Filter.Issuer); err != nil {
			return nil, "", err
		}
	}
	var certs []*ca.Certificate
	for i := range page {
		for _, c := range held[page[i].ID] {
			if c.Profile == "" { // recorded in brief, before there were rows of such: its slot does not say by which profile
				c.Profile = page[i].Profile
			}
			if (issuer == nil || c.Issuer == issuer.ID()) && (what.Filter.Profile == "" || c.Profile == what.Filter.Profile) {
				certs = append(certs, c)
			}
		}
	}
	return certs, next, nil
}

// held returns the certificates of devices. Normally their slots lead to all of them; for devices to which more were issued than that, their cells
// are searched, each once for all devices of the page.
func (b *Bulk) held(ctx context.Context, actor access.Actor, page []device.Device) (map[device.ID][]*ca.Certificate, error) {
	var all map[device.ID][]*ca.Certificate
	short, beside := map[uint8]map[[16]byte]bool{}, make([][]*ca.Certificate, len(page))
	for i := range page {
		var err error
		if beside[i], err = b.beside(ctx, &page[i]); err != nil {
			return nil, err
		}
	}
	err := b.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		all = make(map[device.ID][]*ca.Certificate, len(page))
		clear(short)
		for i := range page {
			d := &page[i]
			certs, err := b.certificatesTx(ctx, tx, d, beside[i])
			if err != nil {
				return err
			}
			all[d.ID] = certs
			if int64(len(certs)) < d.Issued {
				if short[d.Cell] == nil {
					short[d.Cell] = map[[16]byte]bool{}
				}
				short[d.Cell][d.ID] = true
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for cell, ids := range short {
		if err := b.searchCell(ctx, actor, cell, ids, all); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// searchCell adds to all what the cell holds of the devices and their slots do not lead to.
func (b *Bulk) searchCell(ctx context.Context, actor access.Actor, cell uint8, ids map[[16]byte]bool, all map[device.ID][]*ca.Certificate) error {
	for f := (ca.CertFilter{Cell: &cell, ExpiresAfter: b.Now().Unix()}); ; {
		page, next, err := b.CA.List(ctx, actor, f)
		if err != nil {
			return fmt.Errorf("searching for the certificates of devices: %w", err)
		}
		for _, c := range page {
			id := device.ID(c.Device)
			if ids[c.Device] && !slices.ContainsFunc(all[id], func(known *ca.Certificate) bool { return known.Serial == c.Serial }) {
				all[id] = append(all[id], c)
			}
		}
		if f.Cursor = next; next == "" {
			return nil
		}
	}
}

// somethingElse reports whether there is anything but what the filter fits, operators and the platform itself aside.
func (b *Bulk) somethingElse(ctx context.Context, actor access.Actor, what *params) (bool, error) {
	if what.Filter.ofDevices() || what.Move != "" {
		return b.otherDevice(ctx, actor, &what.Filter, what.Move != "")
	}
	var issuer *ca.Issuer
	if what.Filter.Issuer != "" {
		var err error
		if issuer, err = b.CA.Issuer(what.Filter.Issuer); err != nil {
			return false, err
		}
	}
	for f := (ca.CertFilter{ExpiresAfter: b.Now().Unix()}); ; {
		page, next, err := b.list(ctx, actor, f)
		if err != nil {
			return false, err
		}
		for _, c := range page {
			fits := (issuer == nil || c.Issuer == issuer.ID()) && (what.Filter.Profile == "" || c.Profile == what.Filter.Profile)
			if !fits && !b.privileged(c.Profile) && c.Profile != ca.ResponderProfile {
				return true, nil
			}
		}
		if f.Cursor = next; next == "" {
			return false, nil
		}
	}
}

func (b *Bulk) otherDevice(ctx context.Context, actor access.Actor, f *Filter, moving bool) (bool, error) {
	fits := func(d *device.Device) bool {
		return (f.Group == "" || d.Group == f.Group) && (f.State == "" || d.State.String() == f.State) && (f.Tag == "" || d.Tagged(f.Tag)) &&
			(!moving || f.Profile == "" || d.Profile == f.Profile)
	}
	for cursor := ""; ; {
		page, next, err := b.Devices.List(ctx, actor, device.Filter{Cursor: cursor, Limit: devicePage})
		if err != nil {
			return false, err
		}
		for i := range page {
			d := &page[i]
			there := d.State != device.Retired && (moving || d.Issued > 0)
			if there && !fits(d) && !b.privileged(d.Profile) {
				return true, nil
			}
		}
		if cursor = next; next == "" {
			return false, nil
		}
	}
}

// fillMove finds the next devices of a job.
func (b *Bulk) fillMove(ctx context.Context, j job.Job) (job.Part, error) {
	var what params
	if err := what.read(&j); err != nil {
		return job.Part{}, err
	}
	at, err := placeOf(&j)
	if err != nil {
		return job.Part{}, err
	}
	page, next, err := b.devices(ctx, j.Maker, &what.Filter, at.Cursor, what.Filter.Profile)
	if err != nil {
		return job.Part{}, err
	}
	slices.SortFunc(page, func(x, y device.Device) int {
		return cmp.Or(cmp.Compare(x.Cell, y.Cell), bytes.Compare(x.ID[:], y.ID[:]))
	})
	var part job.Part
	for i := range page {
		d := &page[i]
		switch {
		case !d.State.Allows(device.Move(what.Move)):
			continue
		case what.Filter.Profile == "" && b.privileged(d.Profile):
			at.Left++
			continue
		}
		part.Items = append(part.Items, d.ID[:])
		if len(part.Sample) < job.SampleMost {
			part.Sample = append(part.Sample, fmt.Sprintf("%s %s, %s, profile %s", hex.EncodeToString(d.ID[:]), d.Name, d.State, d.Profile))
		}
	}
	at.Cursor = next
	return b.finish(ctx, j, &what, part, at, "devices")
}
