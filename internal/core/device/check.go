package device

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// Checker returns what compares the registry's rows with the audit record: it replays the entries about devices and certificates, and at the
// end names every row of device, slot and birth that says something else, that nobody recorded, or that is missing. Which of the
// administrative columns was changed it cannot say, since the record holds a keyed digest of them and not the values. The columns issued and
// policy count only as far as they guard others; when a device was last seen is not recorded at all.
//
// A Checker serves one verification. It keeps about 170 octets a device and slot in memory: one million devices are 170 MB.
//
// The order of entries in the record is not that of the commits: writers do not wait for each other. Each entry about a device therefore
// carries the policy number that it made, and each certificate its number among the device's (Claim.Annotate); the highest one counts.
func (r *Registry) Checker() audit.Checker {
	c := &replay{r: r, index: map[ID]uint32{}, purposes: map[string]uint16{}, revoked: map[serialKey]int64{}}
	return audit.Checker{Name: "device", Entry: c.entry, Finish: c.finish, Save: c.save, Load: c.load}
}

// replay is the registry as the record says that it is.
type replay struct {
	r        *Registry
	index    map[ID]uint32 // into devices
	devices  []replayed
	slots    []replayedSlot
	purposes map[string]uint16   // numbers of the slot names
	revoked  map[serialKey]int64 // when, -1 if the entry does not say

	findings []error
}

// replayed is what the record says about one device. Times and policy numbers fit 32 bits until 2106.
type replayed struct {
	row, token              mark
	policy, tokenPolicy     uint32
	until, used, usedPolicy uint32
	issued, rescued         uint32
	slot                    uint32 // index + 1 of the first slot
	met                     bool
}

type replayedSlot struct {
	serial, prev serialKey
	facts        serialKey // see certFacts; zero if the entry does not say them
	n            uint32    // the certificate's number among the device's
	next         uint32    // index + 1 of the next slot of the same device
	purpose      uint16
	met          bool
}

// serialKey is a serial of 16 octets, as ours are, or the digest of another one. Zero = none.
type serialKey [16]byte

func keyOfSerial(serial []byte) (k serialKey) {
	switch len(serial) {
	case 0:
	case len(k):
		copy(k[:], serial)
	default:
		sum := sha256.Sum256(serial)
		copy(k[:], sum[:])
	}
	return k
}

func (k serialKey) String() string {
	if k == (serialKey{}) {
		return "none"
	}
	return hex.EncodeToString(k[:])
}

// number reads a detail that is a number; 0 when it is missing.
func number(e *audit.Entry, name string) (uint32, error) {
	text, ok := e.Detail[name]
	if !ok {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("its detail %q is no number", name)
	}
	return uint32(n), nil
}

func (c *replay) entry(_ int64, e audit.Entry) error {
	if e.Refused != "" {
		return nil
	}
	switch e.Action {
	case "device.add", "device.change", "device.state", "device.token":
		return c.administered(&e)
	case "cert.issue":
		return c.issued(&e)
	case "acme.account":
		return c.spent(&e)
	case "cert.revoke":
		serial, err := hex.DecodeString(e.Serial)
		if err != nil {
			return fmt.Errorf("its serial is not hexadecimal")
		}
		at, err := strconv.ParseInt(cmp.Or(e.Detail["at"], "-1"), 10, 64)
		if err != nil {
			return fmt.Errorf("its detail %q is no number", "at")
		}
		c.revoked[keyOfSerial(serial)] = at
	}
	return nil
}

// device returns the index of the device that e is about.
func (c *replay) device(e *audit.Entry) (uint32, error) {
	id, err := ParseID(e.Device)
	if err != nil {
		return 0, fmt.Errorf("its device %q is no id", e.Device)
	}
	i, known := c.index[id]
	if !known {
		i = uint32(len(c.devices))
		c.devices = append(c.devices, replayed{})
		c.index[id] = i
	}
	return i, nil
}

// spent notes that a token was used up for something else than a certificate (SpendTokenTx).
func (c *replay) spent(e *audit.Entry) error {
	if e.Detail["token_at"] == "" {
		return nil
	}
	i, err := c.device(e)
	used, err2 := number(e, "token_at")
	policy, err3 := number(e, "policy")
	if err := errors.Join(err, err2, err3); err != nil {
		return fmt.Errorf("it cannot be read: %w", err)
	}
	if d := &c.devices[i]; policy >= d.usedPolicy {
		d.used, d.usedPolicy = used, policy
	}
	return nil
}

func (c *replay) administered(e *audit.Entry) error {
	i, err := c.device(e)
	if err != nil {
		return err
	}
	policy, err := number(e, "policy")
	if err != nil || policy == 0 {
		return fmt.Errorf("it does not say the policy number")
	}
	d := &c.devices[i]
	if text, ok := e.Detail["row"]; ok && policy > d.policy {
		if d.row, ok = parseMark(text); !ok {
			return fmt.Errorf("its digest of the row cannot be read")
		}
		d.policy = policy
	}
	if text, ok := e.Detail["token"]; ok && policy > d.tokenPolicy {
		if d.token, ok = parseMark(text); !ok {
			return fmt.Errorf("its digest of the token cannot be read")
		}
		d.tokenPolicy = policy
		d.until, err = number(e, "until")
	}
	return err
}

func (c *replay) issued(e *audit.Entry) error {
	if e.Device == "" { // a certificate of the platform itself
		return nil
	}
	i, err := c.device(e)
	if err != nil {
		return err
	}
	serial, err := hex.DecodeString(e.Serial)
	prev, err2 := hex.DecodeString(e.Detail["presented"])
	n, err3 := number(e, "n")
	used, err4 := number(e, "token_at")
	policy, err5 := number(e, "policy")
	rescued, err6 := number(e, "rescued_at")
	if err := errors.Join(err, err2, err3, err4, err5, err6); err != nil {
		return fmt.Errorf("it cannot be read: %w", err)
	}
	d := &c.devices[i]
	if n == 0 {
		n = d.issued + 1
	}
	d.issued = max(d.issued, n)
	d.rescued = max(d.rescued, rescued)
	if used > 0 && policy >= d.usedPolicy {
		d.used, d.usedPolicy = used, policy
	}
	if name := e.Detail["slot"]; name != "" {
		s := c.slotFor(d, name)
		if n > s.n {
			s.serial, s.prev, s.n = keyOfSerial(serial), keyOfSerial(prev), n
			s.facts = certFacts(e.Detail["not_after"], e.Detail["spki"], e.Detail["issuer"], e.Detail["key"])
		}
	}
	return nil
}

// certFacts condenses what a slot repeats of its certificate: the end in UTC seconds, the digest of the key and the CA's id in hexadecimal, and
// the kind of the key.
func certFacts(notAfter, spki, issuer, key string) (k serialKey) {
	if notAfter == "" || spki == "" {
		return k
	}
	sum := sha256.Sum256([]byte(notAfter + " " + spki + " " + issuer + " " + key))
	copy(k[:], sum[:])
	return k
}

// slotFor returns the device's slot called name, which it adds when it is new.
func (c *replay) slotFor(d *replayed, name string) *replayedSlot {
	if s := c.findSlot(d, name); s != nil {
		return s
	}
	purpose, known := c.purposes[name]
	if !known {
		purpose = uint16(len(c.purposes))
		c.purposes[name] = purpose
	}
	c.slots = append(c.slots, replayedSlot{purpose: purpose, next: d.slot})
	d.slot = uint32(len(c.slots))
	return &c.slots[d.slot-1]
}

func (c *replay) findSlot(d *replayed, name string) *replayedSlot {
	purpose, known := c.purposes[name]
	if !known {
		return nil
	}
	for i := d.slot; i != 0; i = c.slots[i-1].next {
		if c.slots[i-1].purpose == purpose {
			return &c.slots[i-1]
		}
	}
	return nil
}

// findingsMost bounds what one verification names.
const findingsMost = 100

func (c *replay) find(format string, args ...any) {
	if len(c.findings) < findingsMost {
		c.findings = append(c.findings, fmt.Errorf(format, args...))
	}
}

// checkPage is how many devices are compared at a time.
const checkPage = 1000

// Slots without a device are found too: each page takes the slots from behind the last device before to its own last one.
const (
	checkDevices = `SELECT cell, id, state, name, names, grp, tags, profile, issued, token, token_salt, token_until, token_used, rescued, product
 FROM device WHERE (cell, id) > ($1, $2) ORDER BY cell, id LIMIT $3`
	checkSlots = `SELECT cell, device, slot, serial, prev_serial, not_after, spki, revoked, fingerprint, issuer, alg
 FROM slot WHERE (cell, device) > ($1, $2) AND (cell, device) <= ($3, $4) ORDER BY cell, device, slot`
	checkBirths = `SELECT b.fingerprint, b.device, COALESCE(d.product, '') FROM birth b LEFT JOIN slot s ON s.cell = b.device_cell AND s.device = b.device
 AND s.slot = 'birth' AND s.fingerprint = b.fingerprint LEFT JOIN device d ON d.cell = b.device_cell AND d.id = b.device WHERE s.slot IS NULL`
)

// finish compares all rows. The findings are joined in one error.
func (c *replay) finish(ctx context.Context, tx *db.Tx) error {
	cell, id := int64(0), []byte{}
	for {
		page, err := c.readPage(ctx, tx, cell, id)
		if err != nil {
			return fmt.Errorf("reading the devices: %w", err)
		}
		toCell, toID := int64(255), maxID()
		if len(page) == checkPage {
			last := &page[len(page)-1]
			toCell, toID = int64(last.Cell), last.key
		}
		if err := c.addSlots(ctx, tx, page, cell, id, toCell, toID); err != nil {
			return fmt.Errorf("reading the slots: %w", err)
		}
		for i := range page {
			c.compare(&page[i])
		}
		if err := c.compareBirths(ctx, tx, page); err != nil {
			return fmt.Errorf("reading the birth certificates: %w", err)
		}
		if len(page) < checkPage {
			break
		}
		cell, id = toCell, toID
	}
	for id, i := range c.index {
		if !c.devices[i].met {
			c.find("device %s: the row is missing", id)
		}
	}
	err := tx.Each(ctx, func(row db.Row) error {
		var fingerprint, device []byte
		var product string
		err := row.Scan(&fingerprint, &device, &product)
		if key := c.r.productKey(product); err == nil && product != "" && bytes.Equal(key[:], fingerprint) {
			return nil
		}
		c.find("birth %x: the row leads to device %x, which nobody recorded", fingerprint, device)
		return err
	}, checkBirths)
	return errors.Join(append(c.findings, err)...)
}

// checkedDevice is a device with its administrative columns as they are stored: taken apart and put together again, some changes would not show.
type checkedDevice struct {
	Device
	key     []byte // the id as it is stored
	stored  record
	salt    []byte // of the token
	damaged bool   // named already
}

func (c *replay) readPage(ctx context.Context, tx *db.Tx, cell int64, id []byte) (page []checkedDevice, err error) {
	err = tx.Each(ctx, func(row db.Row) error {
		var d checkedDevice
		var state int64
		err := row.Scan(&d.Cell, &d.key, &state, &d.stored.name, &d.stored.names, &d.Group, &d.stored.tags, &d.stored.profile, &d.Issued, &d.Token.Hash, &d.salt, &d.Token.Until, &d.Token.Used, &d.Rescued, &d.stored.product)
		if len(d.key) == 0 {
			return fmt.Errorf("a row without a key: %w", err)
		}
		if d.damaged = err != nil || len(d.key) != len(d.ID); err != nil {
			c.find("device %x: the row cannot be read: %w", d.key, err)
		} else if d.damaged {
			c.find("device %x: the id has %d octets", d.key, len(d.key))
		}
		copy(d.ID[:], d.key)
		d.State, d.stored.group = State(state), d.Group
		page = append(page, d)
		return nil
	}, checkDevices, cell, id, int64(checkPage))
	return page, err
}

// addSlots gives each device of the page its slots and names the slots that belong to no device.
func (c *replay) addSlots(ctx context.Context, tx *db.Tx, page []checkedDevice, cell int64, id []byte, toCell int64, toID []byte) error {
	at := make(map[ID]*checkedDevice, len(page))
	for i := range page {
		at[page[i].ID] = &page[i]
	}
	return tx.Each(ctx, func(row db.Row) error {
		var s Slot
		var slotCell uint8
		var device []byte
		if err := row.Scan(&slotCell, &device, &s.Name, &s.Serial, &s.Prev, &s.NotAfter, &s.SPKI, &s.Revoked, &s.Fingerprint, &s.Issuer, &s.Key); err != nil {
			c.find("slot %x/%s: the row cannot be read: %w", device, s.Name, err)
			return nil
		}
		var d *checkedDevice
		if len(device) == len(ID{}) {
			d = at[ID(device)]
		}
		if d == nil || d.Cell != slotCell {
			c.find("slot %x/%s: the row belongs to no device", device, s.Name)
			return nil
		}
		d.Slots = append(d.Slots, s)
		return nil
	}, checkSlots, cell, id, toCell, toID)
}

func (c *replay) compare(d *checkedDevice) {
	i, known := c.index[d.ID]
	if d.damaged {
		if known {
			c.devices[i].met = true
		}
		return
	}
	if !known || c.devices[i].policy == 0 {
		if known {
			c.devices[i].met = true
		}
		c.find("device %s: nobody recorded that it was added", d.ID)
		return
	}
	want := &c.devices[i]
	want.met = true
	d.stored.birth = d.birth()
	if want.row != c.r.rowMarkOf(d.ID, d.State, d.stored) || c.r.CellOf(d.ID) != d.Cell {
		c.find("device %s: name, names, group, tags, profile, state or birth certificate was changed outside the platform, or its product", d.ID)
	}
	if d.Issued != int64(want.issued) {
		c.find("device %s: the row counts %d certificates, the record %d", d.ID, d.Issued, want.issued)
	}
	if d.Rescued != int64(want.rescued) {
		c.find("device %s: the time of its last rescue was changed outside the platform: %d, recorded is %d", d.ID, d.Rescued, want.rescued)
	}
	if d.State.Active() && (d.State == Enrolled) != (want.issued > 0) {
		c.find("device %s: the row says %s, but the record knows %d certificates", d.ID, d.State, want.issued)
	}
	c.compareToken(d, want)
	for i := range d.Slots {
		c.compareSlot(d, want, &d.Slots[i])
	}
	for i := want.slot; i != 0; i = c.slots[i-1].next {
		if s := &c.slots[i-1]; !s.met {
			c.find("slot %s/%s: the row is missing, certificate %s was issued to it", d.ID, c.purposeName(s.purpose), s.serial)
		}
	}
}

func (c *replay) purposeName(purpose uint16) string {
	for name, n := range c.purposes {
		if n == purpose {
			return name
		}
	}
	return "?"
}

func (c *replay) compareToken(d *checkedDevice, want *replayed) {
	var have mark
	if len(d.Token.Hash)+len(d.salt) > 0 {
		have = c.r.tokenMark(d.Token.Hash, d.salt)
	}
	if have != want.token {
		c.find("device %s: the token was changed outside the platform", d.ID)
	}
	if d.Token.Until != int64(want.until) {
		c.find("device %s: the end of the token was changed outside the platform: %d, recorded is %d", d.ID, d.Token.Until, want.until)
	}
	used := int64(0)
	if want.usedPolicy >= want.tokenPolicy {
		used = int64(want.used)
	}
	if d.Token.Used != used {
		c.find("device %s: the use of the token was changed outside the platform: %d, recorded is %d", d.ID, d.Token.Used, used)
	}
}

func (c *replay) compareSlot(d *checkedDevice, want *replayed, s *Slot) {
	if s.Name != SlotBirth && len(s.Fingerprint) > 0 {
		c.find("slot %s/%s: a birth certificate was put there outside the platform", d.ID, s.Name)
	}
	serial := keyOfSerial(s.Serial)
	recorded := c.findSlot(want, s.Name)
	switch {
	case recorded != nil:
		recorded.met = true
		if serial != recorded.serial {
			c.find("slot %s/%s: the row holds certificate %s, the record %s", d.ID, s.Name, serial, recorded.serial)
		}
		if prev := keyOfSerial(s.Prev); prev != recorded.prev {
			c.find("slot %s/%s: the row holds the certificate before as %s, the record as %s", d.ID, s.Name, prev, recorded.prev)
		}
		if facts := certFacts(strconv.FormatInt(s.NotAfter, 10), hex.EncodeToString(s.SPKI), hex.EncodeToString(s.Issuer), s.Key); recorded.facts != (serialKey{}) && facts != recorded.facts {
			c.find("slot %s/%s: the row does not have the end, the CA and the key of certificate %s", d.ID, s.Name, serial)
		}
	case len(s.Serial) > 0 || len(s.Fingerprint) == 0 || len(s.Prev) > 0 || len(s.Issuer) > 0 || s.Key != "":
		c.find("slot %s/%s: nobody recorded that certificate %s was issued", d.ID, s.Name, serial)
	}
	if at, revoked := c.revoked[serial]; revoked != (s.Revoked > 0) || at > 0 && s.Revoked != at {
		c.find("slot %s/%s: the row and the record disagree on whether and when certificate %s was revoked", d.ID, s.Name, serial)
	}
}

// compareBirths looks for the rows of each birth certificate and product on the page.
func (c *replay) compareBirths(ctx context.Context, tx *db.Tx, page []checkedDevice) error {
	for i := range page {
		d := &page[i]
		keys := [][]byte{d.birth()}
		if d.stored.product != "" {
			key := c.r.productKey(d.stored.product)
			keys = append(keys, key[:])
		}
		for _, key := range keys {
			if err := c.compareBirth(ctx, tx, key, d.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *replay) compareBirth(ctx context.Context, tx *db.Tx, key []byte, id ID) error {
	if len(key) == 0 {
		return nil
	}
	var device []byte
	_, err := tx.Get(ctx, []any{&device}, `SELECT device FROM birth WHERE cell = $1 AND fingerprint = $2`, int64(key[0]), key)
	if err == nil && !bytes.Equal(device, id[:]) {
		c.find("birth %x: the row is missing or leads to another device than %s", key, id)
	}
	return err
}
