package campaign

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/device"
)

// Standing is where a device stands in a campaign. The numbers are stored.
type Standing int16

// The standings of a device.
const (
	Waiting   Standing = 1 // for its turn, or, when that came, for its asking
	Told      Standing = 2 // it asked, was told, and has no new certificate yet
	Issued    Standing = 3 // it has a new certificate, which it was not seen to use
	Closing   Standing = 4 // it used it, and the old one is to be revoked
	Succeeded Standing = 5
	Failed    Standing = 6
	Skipped   Standing = 7 // nothing is wanted of it, as long as that lasts
)

var standingNames = [...]string{Waiting: "waiting", Told: "told", Issued: "issued", Closing: "closing", Succeeded: "done", Failed: "failed", Skipped: "skipped"}

// Standings returns every standing.
func Standings() []Standing {
	return []Standing{Waiting, Told, Issued, Closing, Succeeded, Failed, Skipped}
}

// String returns the standing's name, or "unknown".
func (s Standing) String() string {
	if s < Waiting || s > Skipped {
		return "unknown"
	}
	return standingNames[s]
}

// ParseStanding returns the standing called name.
func ParseStanding(name string) (Standing, error) {
	for _, s := range Standings() {
		if s.String() == name {
			return s, nil
		}
	}
	return 0, errs.New(errs.Invalid, "unknown standing %q: use waiting, told, issued, closing, done, failed or skipped", name)
}

// member is a device in a campaign, as its row says.
type member struct {
	cell     uint8
	device   device.ID
	place    int64
	standing Standing
	at       int64 // since when
	base     []byte
	note     string
}

const (
	memberColumns = `cell, device, place, state, at, base, note`
	selectMember  = `SELECT ` + memberColumns + ` FROM campaign_device WHERE cell = $1 AND campaign = $2 AND device = $3`
	selectTurns   = `SELECT ` + memberColumns + ` FROM campaign_device WHERE campaign = $1 AND state = $2 AND (place, device) > ($3, $4) AND place < $5
 ORDER BY place, device LIMIT $6`
	insertMember = `INSERT INTO campaign_device (cell, campaign, device, place, state, at, base, note) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`
	moveMember   = `UPDATE campaign_device SET state = $5, at = $6, note = $7 WHERE cell = $1 AND campaign = $2 AND device = $3 AND state = $4`
	addCount     = `INSERT INTO campaign_count (cell, campaign, state, n) VALUES ($1, $2, $3, $4)
 ON CONFLICT (cell, campaign, state) DO UPDATE SET n = campaign_count.n + excluded.n`
	sumCounts = `SELECT state, CAST(SUM(n) AS bigint) FROM campaign_count WHERE campaign = $1 GROUP BY state`
)

func (m *member) scan(r db.Row) error {
	var id []byte
	var state int64
	if err := r.Scan(&m.cell, &id, &m.place, &state, &m.at, &m.base, &m.note); err != nil {
		return err
	}
	if len(id) != len(m.device) {
		return fmt.Errorf("a row of campaign_device is damaged: its device has %d octets", len(id))
	}
	m.device, m.standing = device.ID(id), Standing(state)
	return nil
}

// memberTx returns the device's row in the campaign.
func memberTx(ctx context.Context, tx *db.Tx, c ID, cell uint8, id device.ID) (m member, found bool, err error) {
	err = tx.Each(ctx, func(r db.Row) error {
		found = true
		return m.scan(r)
	}, selectMember, int64(cell), c[:], id[:])
	return m, found, err
}

// moveTx changes where the device stands, unless somebody else has, and counts.
func (m *member) moveTx(ctx context.Context, tx *db.Tx, c ID, to Standing, at int64, note string) error {
	note = shortened(note)
	n, err := tx.Exec(ctx, moveMember, int64(m.cell), c[:], m.device[:], int64(m.standing), int64(to), at, note)
	if err != nil || n == 0 {
		return err
	}
	if m.standing != to {
		for standing, by := range map[Standing]int64{m.standing: -1, to: 1} {
			if _, err := tx.Exec(ctx, addCount, int64(m.cell), c[:], int64(standing), by); err != nil {
				return err
			}
		}
	}
	return nil
}

// noteMost bounds what is kept about a device.
const noteMost = 300

func progressTx(ctx context.Context, tx *db.Tx, c ID) (p Progress, err error) {
	err = tx.Each(ctx, func(r db.Row) error {
		var state, n int64
		if err := r.Scan(&state, &n); err != nil {
			return err
		}
		if to := p.of(Standing(state)); to != nil {
			*to = n
		}
		return nil
	}, sumCounts, c[:])
	return p, err
}

func (p *Progress) of(s Standing) *int64 {
	switch s {
	case Waiting:
		return &p.Waiting
	case Told:
		return &p.Told
	case Issued:
		return &p.Issued
	case Closing:
		return &p.Closing
	case Succeeded:
		return &p.Done
	case Failed:
		return &p.Failed
	case Skipped:
		return &p.Skipped
	}
	return nil
}

// slotOf is the slot that the campaign is about: that of the device's profile.
func (s *Service) slotOf(d *device.Device) device.Slot {
	if p, err := s.CA.Profile(d.Profile); err == nil {
		if slot, ok := d.Slot(p.Slot); ok {
			return slot
		}
	}
	return device.Slot{}
}

// fulfilled reports whether the certificate in the slot is what the campaign wants of a device that had base.
func (s *Service) fulfilled(c *Campaign, slot *device.Slot, base []byte) bool {
	if len(slot.Serial) == 0 || slot.Revoked > 0 || bytes.Equal(slot.Serial, base) {
		return false
	}
	return s.conforms(c, slot)
}

// conforms reports whether a certificate has the key and the CA that the campaign demands.
func (s *Service) conforms(c *Campaign, slot *device.Slot) bool {
	if c.Algorithm != "" && slot.Key != string(c.Algorithm) {
		return false
	}
	if c.To != "" {
		i, err := s.CA.Issuer(c.To)
		id := [8]byte{}
		if err == nil {
			id = i.ID()
		}
		return bytes.Equal(slot.Issuer, id[:])
	}
	return true
}

// Member is a device in a campaign as people see it.
type Member struct {
	Device   device.ID
	Name     string
	Standing Standing
	Since    int64
	Turn     int64 // when its turn comes or came
	Wave, Of int64
	Reason   string // why it is not done
}

// Members returns a page of the devices of a campaign, in the order of their turns within each standing, and the cursor of the next page. With
// the standing 0 it goes through all of them. It needs device.read.
func (s *Service) Members(ctx context.Context, actor access.Actor, nameOrID string, only Standing, cursor string, limit int) (page []Member, next string, err error) {
	if err := s.Access.Require(ctx, actor, access.DeviceRead, "campaign"); err != nil {
		return nil, "", err
	}
	if limit <= 0 || limit > 1000 {
		limit = 100
	}
	at, err := readCursor(cursor, only)
	if err != nil {
		return nil, "", err
	}
	var c Campaign
	var rows []member
	err = s.DB.View(ctx, func(ctx context.Context, tx *db.Tx) (err error) {
		rows = nil
		if c, err = findTx(ctx, tx, nameOrID); err != nil {
			return err
		}
		for from := at; from.standing <= Skipped && len(rows) <= limit; from = (turn{standing: from.standing + 1, place: -1}) {
			err := tx.Each(ctx, func(r db.Row) error {
				var m member
				err := m.scan(r)
				rows = append(rows, m)
				return err
			}, selectTurns, c.ID[:], int64(from.standing), from.place, from.id, int64(placeMost), int64(limit+1-len(rows)))
			if err != nil || only != 0 {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	if len(rows) > limit {
		rows = rows[:limit]
		last := rows[limit-1]
		next = turn{last.standing, last.place, last.device[:]}.encode()
	}
	page = make([]Member, len(rows))
	for i := range rows {
		if page[i], err = s.show(ctx, &c, &rows[i]); err != nil {
			return nil, "", err
		}
	}
	return page, next, nil
}

// turn is a place in the list of a campaign's devices.
type turn struct {
	standing Standing
	place    int64
	id       []byte
}

func (t turn) encode() string {
	b := binary.BigEndian.AppendUint64([]byte{byte(t.standing)}, uint64(t.place))
	return base64.RawURLEncoding.EncodeToString(append(b, t.id...))
}

func readCursor(text string, only Standing) (turn, error) {
	at := turn{standing: max(only, Waiting), place: -1, id: []byte{}}
	if text == "" {
		return at, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) != 9+len(device.ID{}) || only != 0 && b[0] != byte(only) {
		return at, errs.New(errs.Invalid, "cursor: it does not belong to this list; begin without one")
	}
	return turn{Standing(b[0]), int64(binary.BigEndian.Uint64(b[1:])), b[9:]}, nil
}

// show says about a device what people want to know, and why it is not done.
func (s *Service) show(ctx context.Context, c *Campaign, row *member) (Member, error) {
	now := s.Now().Unix()
	m := Member{Device: row.device, Standing: row.standing, Since: row.at, Turn: c.Turn(row.place, now)}
	m.Wave, m.Of = c.Waves(row.place)
	d, err := s.Devices.Get(ctx, access.System("campaign"), row.device.String())
	if err != nil {
		return m, err
	}
	m.Name, m.Reason = d.Name, s.reason(c, row, &d, m, now)
	return m, nil
}

func (s *Service) reason(c *Campaign, row *member, d *device.Device, m Member, now int64) string {
	seen := "and was never heard of"
	if d.LastSeen > 0 {
		seen = "last heard of at " + clock(d.LastSeen)
	}
	switch row.standing {
	case Waiting:
		switch {
		case !d.State.Active():
			return "it is " + d.State.String()
		case c.State == Paused:
			return "the campaign is paused"
		case c.State != Running:
			return "the campaign is " + c.State.String()
		case row.place >= c.released(now):
			return fmt.Sprintf("its turn has not come: wave %d of %d, about %s", m.Wave, m.Of, clock(m.Turn))
		}
		return fmt.Sprintf("its turn came at %s; it has not asked since, %s", clock(m.Turn), seen)
	case Told:
		return fmt.Sprintf("told at %s and has no new certificate yet, %s", clock(row.at), seen)
	case Issued:
		return fmt.Sprintf("has a new certificate since %s and was not seen to use it, %s", clock(row.at), seen)
	case Closing:
		return "its old certificate is about to be revoked"
	case Failed, Skipped:
		return row.note
	}
	return ""
}

func clock(at int64) string { return time.Unix(at, 0).UTC().Format("2006-01-02 15:04 UTC") }
