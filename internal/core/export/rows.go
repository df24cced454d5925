package export

import (
	"context"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/revoke"
)

// row is one device or certificate: as an object of JSON, and as cells of CSV under head.
type row interface {
	cells() []string
}

// writer writes rows in one of the formats.
type writer struct {
	lines *json.Encoder
	table *csv.Writer
}

func newWriter(q Query, w io.Writer) *writer {
	if q.Format == "jsonl" {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		return &writer{lines: e}
	}
	table := csv.NewWriter(w)
	head := deviceHead()
	if q.What == Certificates {
		head = certificateHead()
	}
	_ = table.Write(head) // a Writer keeps its first error
	return &writer{table: table}
}

func (w *writer) put(r row) error {
	if w.lines != nil {
		return w.lines.Encode(r)
	}
	return w.table.Write(r.cells())
}

func (w *writer) end() error {
	if w.table == nil {
		return nil
	}
	w.table.Flush()
	return w.table.Error()
}

// deviceRow has the columns that an import reads among its own.
type deviceRow struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Group    string            `json:"group,omitempty"`
	Profile  string            `json:"profile"`
	State    string            `json:"state"`
	Names    []string          `json:"names,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`
	Maker    string            `json:"maker,omitempty"`
	Serial   string            `json:"serial,omitempty"`
	Issued   int64             `json:"issued"`
	Created  string            `json:"created"`
	LastSeen string            `json:"last_seen,omitempty"`
	Slots    []slotRow         `json:"certificates,omitempty"`
}

type slotRow struct {
	Slot        string `json:"slot"`
	Serial      string `json:"serial,omitempty"`
	NotAfter    string `json:"not_after,omitempty"`
	Revoked     string `json:"revoked,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
}

func deviceHead() []string {
	return []string{"id", "name", "group", "profile", "state", "names", "tags", "maker", "serial", "issued", "created", "last_seen", "certificates"}
}

func (r deviceRow) cells() []string {
	var tags, slots []string
	for _, k := range slices.Sorted(maps.Keys(r.Tags)) {
		tags = append(tags, k+"="+r.Tags[k])
	}
	for _, s := range r.Slots {
		slots = append(slots, s.Slot+"="+s.Serial+s.Fingerprint)
	}
	return []string{r.ID, r.Name, r.Group, r.Profile, r.State, strings.Join(r.Names, ";"), strings.Join(tags, ";"), r.Maker, r.Serial, strconv.FormatInt(r.Issued, 10), r.Created, r.LastSeen,
		strings.Join(slots, ";")}
}

// moment writes UTC seconds, "" for 0.
func moment(at int64) string {
	if at == 0 {
		return ""
	}
	return time.Unix(at, 0).UTC().Format(time.RFC3339)
}

func (s *Service) devices(q Query) (source, error) {
	f := device.Filter{Group: q.Group, Tag: q.Tag, Profile: q.Profile}
	if q.State != "" {
		var err error
		if f.State, err = device.ParseState(q.State); err != nil {
			return nil, errs.New(errs.Invalid, "state: %s", errs.Public(err))
		}
	}
	return func(ctx context.Context, tx *db.Tx, put func(row) error) error {
		return s.Devices.EachTx(ctx, tx, f, func(d *device.Device) error {
			r := deviceRow{ID: d.ID.String(), Name: d.Name, Group: d.Group, Profile: d.Profile, State: d.State.String(), Names: d.Names, Tags: d.Tags, Maker: d.Product.Maker, Serial: d.Product.Serial, Issued: d.Issued,
				Created: moment(d.Created), LastSeen: moment(d.LastSeen)}
			for _, slot := range d.Slots {
				r.Slots = append(r.Slots, slotRow{Slot: slot.Name, Serial: hex.EncodeToString(slot.Serial), NotAfter: moment(slot.NotAfter), Revoked: moment(slot.Revoked),
					Fingerprint: hex.EncodeToString(slot.Fingerprint)})
			}
			return put(r)
		})
	}, nil
}

type certificateRow struct {
	Serial    string `json:"serial"`
	Issuer    string `json:"issuer"`
	IssuerID  string `json:"issuer_id"`
	Device    string `json:"device"`
	Profile   string `json:"profile"`
	Version   string `json:"version"`
	Slot      string `json:"slot"`
	NotBefore string `json:"not_before"`
	NotAfter  string `json:"not_after"`
	Key       string `json:"key"` // SHA-256 of the public key
	Previous  string `json:"previous,omitempty"`
	Revoked   string `json:"revoked,omitempty"`
	Reason    string `json:"reason,omitempty"`
}

func certificateHead() []string {
	return []string{"serial", "issuer", "issuer_id", "device", "profile", "version", "slot", "not_before", "not_after", "key", "previous", "revoked", "reason"}
}

func (r certificateRow) cells() []string {
	return []string{r.Serial, r.Issuer, r.IssuerID, r.Device, r.Profile, r.Version, r.Slot, r.NotBefore, r.NotAfter, r.Key, r.Previous, r.Revoked, r.Reason}
}

func (s *Service) certificates(q Query) (source, error) {
	f := ca.CertFilter{Profile: q.Profile}
	if q.Issuer != "" {
		i, err := s.CA.Issuer(q.Issuer)
		if err != nil {
			return nil, errs.New(errs.Invalid, "issuer: %s", errs.Public(err))
		}
		id := i.ID()
		f.Issuer = &id
	}
	return func(ctx context.Context, tx *db.Tx, put func(row) error) error {
		f := f
		for {
			page, next, err := s.CA.PageTx(ctx, tx, f)
			if err != nil {
				return err
			}
			revoked, err := s.Revoke.StandingTx(ctx, tx, page)
			if err != nil {
				return err
			}
			for i, c := range page {
				if err := put(s.certificate(c, revoked[i])); err != nil {
					return err
				}
			}
			if f.Cursor = next; next == "" {
				return nil
			}
		}
	}, nil
}

func (s *Service) certificate(c *ca.Certificate, revoked *revoke.Revocation) certificateRow {
	r := certificateRow{Serial: hex.EncodeToString(c.Serial[:]), IssuerID: c.Issuer.String(), Device: hex.EncodeToString(c.Device[:]), Profile: c.Profile, Version: c.Version,
		Slot: c.Slot, NotBefore: moment(c.NotBefore), NotAfter: moment(c.NotAfter), Key: hex.EncodeToString(c.SPKIHash[:]), Previous: hex.EncodeToString(c.PrevSerial)}
	if i, err := s.CA.IssuerByID(c.Issuer); err == nil { // a CA that this node does not know yet has no name
		r.Issuer = i.Name()
	}
	if revoked != nil {
		r.Revoked, r.Reason = moment(revoked.At), revoked.Reason.String()
	}
	return r
}
