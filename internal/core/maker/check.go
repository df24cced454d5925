package maker

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

const (
	insertMaker   = `INSERT INTO maker (cell, name, state, organization, timeless, created, turn, masa) VALUES (0, $1, $2, $3, $4, $5, $6, $7)`
	updateMaker   = `UPDATE maker SET state = $2, organization = $3, timeless = $4, created = $5, turn = $6, masa = $7 WHERE cell = 0 AND name = $1 AND turn = $8`
	deleteAnchors = `DELETE FROM maker_anchor WHERE cell = 0 AND maker = $1`
	insertAnchor  = `INSERT INTO maker_anchor (cell, subject, print, maker, der) VALUES (0, $1, $2, $3, $4)`

	makerColumns = `m.cell, m.name, m.state, m.organization, m.timeless, m.created, m.turn, m.masa`
	selectMakers = `SELECT ` + makerColumns + ` FROM maker m ORDER BY m.cell, m.name`
	selectAbove  = `SELECT ` + makerColumns + `, a.der FROM maker_anchor a JOIN maker m ON m.cell = a.cell AND m.name = a.maker
 WHERE a.cell = 0 AND a.subject = $1 AND m.state = 1 ORDER BY m.name, a.print`
	selectAnchors = `SELECT cell, subject, print, maker, der FROM maker_anchor ORDER BY cell, maker, print`
)

// scan reads a row with makerColumns and then more.
func scan(r db.Row, more ...any) (m Maker, err error) {
	var cell, timeless int64
	if err := r.Scan(append([]any{&cell, &m.Name, &m.state, &m.Organization, &timeless, &m.Created, &m.turn, &m.MASA.Where}, more...)...); err != nil {
		return m, fmt.Errorf("reading table maker: %w", err)
	}
	if cell != 0 || timeless != flag(timeless == 1) {
		return m, fmt.Errorf("table maker: the row of the manufacturer %s is damaged", m.Name)
	}
	m.Timeless = timeless == 1
	return m, nil
}

// everyMaker returns all there are, those that were removed among them, by name.
func everyMaker(ctx context.Context, tx *db.Tx) (all []Maker, err error) {
	err = tx.Each(ctx, func(r db.Row) error {
		m, err := scan(r)
		all = append(all, m)
		return err
	}, selectMakers)
	if err != nil {
		return nil, err
	}
	err = tx.Each(ctx, func(r db.Row) error {
		var cell int64
		var subject, print, der []byte
		var name string
		if err := r.Scan(&cell, &subject, &print, &name, &der); err != nil {
			return fmt.Errorf("reading table maker_anchor: %w", err)
		}
		at := slices.IndexFunc(all, func(m Maker) bool { return m.Name == name })
		a, err := x509.ParseCertificate(der)
		if err != nil || at < 0 || cell != 0 || sha256.Sum256(der) != [32]byte(fit(print)) || sha256.Sum256(a.RawSubject) != [32]byte(fit(subject)) {
			return fmt.Errorf("table maker_anchor: a certificate of the manufacturer %s cannot be read, or its row is damaged", name)
		}
		all[at].Anchors = append(all[at].Anchors, a)
		return nil
	}, selectAnchors)
	if err != nil {
		return nil, err
	}
	return all, readMASA(ctx, tx, all)
}

// fit makes a digest of any octets comparable; those of another length fit none.
func fit(b []byte) []byte {
	if len(b) != sha256.Size {
		return make([]byte, sha256.Size)
	}
	return b
}

// said is what the record says last about a manufacturer.
type said struct {
	turn int64
	mark string
}

type checker struct{ known map[string]said }

// Checker compares the manufacturers with the replayed record. It serves one verification.
func (s *Service) Checker() audit.Checker {
	c := &checker{known: map[string]said{}}
	return audit.Checker{Name: "maker", Entry: c.entry, Finish: c.finish, Save: c.save, Load: c.load}
}

func (c *checker) entry(_ int64, e audit.Entry) error {
	if e.Refused != "" || e.Action != "maker.add" && e.Action != "maker.change" && e.Action != "maker.remove" {
		return nil
	}
	turn, err := strconv.ParseInt(e.Detail["turn"], 10, 64)
	if err != nil {
		return errors.New("the entry does not say which change of the manufacturer it tells of")
	}
	if turn > c.known[e.Object].turn {
		c.known[e.Object] = said{turn, e.Detail["row"]}
	}
	return nil
}

func (c *checker) finish(ctx context.Context, tx *db.Tx) error {
	all, err := everyMaker(ctx, tx)
	if err != nil {
		return fmt.Errorf("table maker, maker_anchor or maker_masa: %w", err)
	}
	var found []error
	met := map[string]bool{}
	for i := range all {
		m := &all[i]
		met[m.object()] = true
		if c.known[m.object()] != (said{m.turn, m.mark()}) {
			found = append(found, fmt.Errorf("table maker, maker_anchor or maker_masa: the %s is not what the record says", m.object()))
		}
	}
	for _, object := range slices.Sorted(maps.Keys(c.known)) {
		if !met[object] {
			found = append(found, fmt.Errorf("table maker: the row of the %s is missing", object))
		}
	}
	return errors.Join(found...)
}

func (c *checker) save(_ context.Context, _ *db.Tx, w *audit.StateWriter) error {
	w.Uint(uint64(len(c.known)))
	for _, object := range slices.Sorted(maps.Keys(c.known)) {
		w.Text(object)
		w.Int(c.known[object].turn)
		w.Text(c.known[object].mark)
	}
	return nil
}

func (c *checker) load(r *audit.StateReader) error {
	for range r.Len() {
		object := r.Text()
		k := said{turn: r.Int(), mark: r.Text()}
		if r.Err() != nil {
			break
		}
		c.known[object] = k
	}
	return r.Err()
}
