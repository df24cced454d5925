package masa

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"mooring/internal/base/db"
	"mooring/internal/core/audit"
)

// said is what the record says last about a registrar.
type said struct {
	turn int64
	mark string
}

// told is what the record says of the vouchers for a product: how many there were in their order, the digest of their digests, and the digests of those that
// stand in the record before one of theirs, as entries of two nodes may.
type told struct {
	number int64
	chain  string
	early  map[int64]string
}

func (t *told) add(number int64, mark string) {
	if number != t.number+1 {
		if t.early == nil {
			t.early = map[int64]string{}
		}
		t.early[number] = mark
		return
	}
	t.number, t.chain = number, digest(t.chain, mark)
	if next, ok := t.early[number+1]; ok {
		delete(t.early, number+1)
		t.add(number+1, next)
	}
}

type checker struct {
	registrars map[string]said
	products   map[string]*told
}

// Checker compares the registrars and the vouchers with the replayed record. It serves one verification.
func (s *Service) Checker() audit.Checker {
	c := &checker{registrars: map[string]said{}, products: map[string]*told{}}
	return audit.Checker{Name: "masa", Entry: c.entry, Finish: c.finish, Save: c.save, Load: c.load}
}

func (c *checker) entry(_ int64, e audit.Entry) error {
	if e.Refused != "" {
		return nil
	}
	switch {
	case e.Action == "masa.register", e.Action == "masa.remove":
		turn, err := strconv.ParseInt(e.Detail["turn"], 10, 64)
		if err != nil {
			return errors.New("the entry does not say which change of the registrar it tells of")
		}
		if turn > c.registrars[e.Object].turn {
			c.registrars[e.Object] = said{turn, e.Detail["row"]}
		}
	case e.Action == "masa.voucher":
		number, err := strconv.ParseInt(e.Detail["number"], 10, 64)
		if err != nil || number < 1 || number > MaxVouchers {
			return errors.New("the entry does not say which voucher it tells of")
		}
		if c.products[e.Object] == nil {
			c.products[e.Object] = &told{}
		}
		c.products[e.Object].add(number, e.Detail["row"])
	}
	return nil
}

func (c *checker) finish(ctx context.Context, tx *db.Tx) error {
	return errors.Join(c.finishRegistrars(ctx, tx), c.finishVouchers(ctx, tx))
}

func (c *checker) finishRegistrars(ctx context.Context, tx *db.Tx) error {
	all, err := everyRegistrar(ctx, tx)
	if err != nil {
		return fmt.Errorf("table masa_registrar or masa_anchor: %w", err)
	}
	var found []error
	met := map[string]bool{}
	for i := range all {
		r := &all[i]
		met[r.object()] = true
		if c.registrars[r.object()] != (said{r.turn, r.mark()}) {
			found = append(found, fmt.Errorf("table masa_registrar or masa_anchor: the %s is not what the record says", r.object()))
		}
	}
	for _, object := range slices.Sorted(maps.Keys(c.registrars)) {
		if !met[object] {
			found = append(found, fmt.Errorf("table masa_registrar: the row of the %s is missing", object))
		}
	}
	return errors.Join(found...)
}

func (c *checker) finishVouchers(ctx context.Context, tx *db.Tx) error {
	met := map[string]*told{}
	err := tx.Each(ctx, func(row db.Row) error {
		v, err := scanVoucher(row)
		if err != nil {
			return err
		}
		of := object(v.Product)
		if met[of] == nil {
			met[of] = &told{}
		}
		met[of].add(v.Number, v.mark())
		return nil
	}, selectVouchers)
	if err != nil {
		return fmt.Errorf("table masa_voucher: %w", err)
	}
	var found []error
	for of, there := range met {
		if want := c.products[of]; want == nil || !there.same(want) {
			found = append(found, fmt.Errorf("table masa_voucher: the vouchers for the %s are not those that the record tells of", of))
		}
	}
	for of := range c.products {
		if met[of] == nil {
			found = append(found, fmt.Errorf("table masa_voucher: the vouchers for the %s are missing", of))
		}
	}
	slices.SortFunc(found, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(found...)
}

func (t *told) same(other *told) bool {
	return t.number == other.number && t.chain == other.chain && maps.Equal(t.early, other.early)
}

func (c *checker) save(_ context.Context, _ *db.Tx, w *audit.StateWriter) error {
	w.Uint(uint64(len(c.registrars)))
	for _, object := range slices.Sorted(maps.Keys(c.registrars)) {
		w.Text(object)
		w.Int(c.registrars[object].turn)
		w.Text(c.registrars[object].mark)
	}
	w.Uint(uint64(len(c.products)))
	for _, object := range slices.Sorted(maps.Keys(c.products)) {
		t := c.products[object]
		w.Text(object)
		w.Int(t.number)
		w.Text(t.chain)
		w.Uint(uint64(len(t.early)))
		for _, number := range slices.Sorted(maps.Keys(t.early)) {
			w.Int(number)
			w.Text(t.early[number])
		}
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
		c.registrars[object] = k
	}
	for range r.Len() {
		object := r.Text()
		t := &told{number: r.Int(), chain: r.Text()}
		for range r.Len() {
			if t.early == nil {
				t.early = map[int64]string{}
			}
			number := r.Int()
			t.early[number] = r.Text()
		}
		if r.Err() != nil {
			break
		}
		c.products[object] = t
	}
	return r.Err()
}
