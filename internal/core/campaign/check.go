package campaign

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

// said is what the record says last about a campaign.
type said struct {
	turn int64
	row  string
	met  bool
}

type checker struct {
	known map[string]*said
	found []error
}

// Checker compares the campaigns with the replayed record: their plans, states, and how long they have run. How far each device has come is not
// recorded here; what becomes of it, a certificate or a revocation, is, by those who do it. A Checker serves one verification.
func (s *Service) Checker() audit.Checker {
	c := &checker{known: map[string]*said{}}
	return audit.Checker{Name: "campaign", Entry: c.entry, Finish: c.finish, Save: c.save, Load: c.load}
}

func (c *checker) entry(_ int64, e audit.Entry) error {
	if e.Refused != "" || !strings.HasPrefix(e.Action, "campaign.") {
		return nil
	}
	turn, err := strconv.ParseInt(e.Detail["turn"], 10, 64)
	if err != nil {
		return errors.New("the entry does not say which change of the campaign it tells of")
	}
	k := c.known[e.Object]
	if k == nil {
		k = &said{}
		c.known[e.Object] = k
	}
	if turn > k.turn {
		k.turn, k.row = turn, e.Detail["row"]
	}
	return nil
}

func (c *checker) finish(ctx context.Context, tx *db.Tx) error {
	err := tx.Each(ctx, func(r db.Row) error {
		var row Campaign
		var cell int64
		if err := row.scan(r, &cell); err != nil {
			c.found = append(c.found, fmt.Errorf("table campaign: %w", err))
			return nil
		}
		k := c.known[row.object()]
		if k == nil || cell != 0 {
			c.found = append(c.found, fmt.Errorf("table campaign: nobody recorded that %s was made", row.object()))
			return nil
		}
		k.met = true
		if k.turn != row.turn || k.row != row.mark() {
			c.found = append(c.found, fmt.Errorf("table campaign: the row of %s is not what the record says", row.object()))
		}
		return nil
	}, `SELECT cell, `+columns+` FROM campaign ORDER BY cell, id`)
	for _, object := range slices.Sorted(maps.Keys(c.known)) {
		if !c.known[object].met {
			c.found = append(c.found, fmt.Errorf("table campaign: the row of %s is missing", object))
		}
	}
	return errors.Join(append(c.found, err)...)
}
