package v2xsim

import (
	"context"
	"errors"
	"fmt"

	agent "mooring/agent/v2x"
	"mooring/internal/app"
	"mooring/internal/base/db"
	"mooring/wire/cocoon"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

// butterflies is what is known of butterfly tickets.
type butterflies struct {
	orders map[its.HashedId8]*agent.Butterfly
	ticket map[string]int // the number of the ticket that was made for a cocoon key
}

// expand finds out which cocoon key each ticket was made for, as the authorization authority knows that made it, and notes what the registration authority keeps: who asked, what it expands and
// what follows from that, which is all cocoon keys. If tickets had these, it could recognise them.
func (c *collusion) expand(ctx context.Context, s *Simulation, p *app.Platform) error {
	c.orders, c.ticket = map[its.HashedId8]*agent.Butterfly{}, map[string]int{}
	for _, v := range s.fleet {
		if v.order != nil {
			c.orders[v.order.ID] = v.order
		}
	}
	if err := p.DB.View(ctx, func(ctx context.Context, tx *db.Tx) error {
		return errors.Join(tx.Each(ctx, func(row db.Row) error {
			var id, who, signer, caterpillar []byte
			if err := row.Scan(&id, &who, &signer, &caterpillar); err != nil {
				return err
			}
			names, computed := c.cocoons(s, its.HashedId8(id))
			for _, of := range []int{ofRA, ofEA} {
				c.sees(of, append(names, id), append(computed, who, signer, caterpillar)...)
			}
			return nil
		}, `SELECT id, device, signer, caterpillar FROM v2x_order`), tx.Each(ctx, func(row db.Row) error {
			var id, octets []byte
			err := row.Scan(&id, &octets)
			c.sees(ofRA, [][]byte{id}, octets)
			return errors.Join(err, c.open(octets, its.HashedId8(id)))
		}, `SELECT id, octets FROM v2x_archive`))
	}); err != nil {
		return err
	}
	if s.o.Butterfly != "" && len(c.ticket) != c.tickets {
		return fmt.Errorf("of %d tickets the archives have %d", c.tickets, len(c.ticket))
	}
	return nil
}

// cocoons are the cocoon keys of a request: as names of what is asked for by them, and as keys that a ticket could have.
func (c *collusion) cocoons(s *Simulation, id its.HashedId8) (names, computed [][]byte) {
	order := c.orders[id]
	if order == nil {
		return nil, nil
	}
	public := order.Keys.Public()
	expander := public.Expander()
	for n := range s.o.Weeks {
		for j := range s.o.Tickets {
			signing, _ := expander.Cocoon(uint32(order.First+uint16(n)), uint32(j))
			x := signing.Bytes()[1:]
			names, computed = append(names, cocoonName(x)), append(computed, x)
		}
	}
	return names, computed
}

func cocoonName(x []byte) []byte { return append([]byte("cocoon "), x...) }

// open reads an archive with the keys of its vehicle.
func (c *collusion) open(octets []byte, id its.HashedId8) error {
	order := c.orders[id]
	if order == nil {
		return nil
	}
	a, err := cocoon.ParseArchive(octets)
	if err != nil {
		return err
	}
	for _, f := range a.Files {
		x, err := order.Read(a.I, f)
		if err != nil {
			return err
		}
		ticket, err := x.HashedId8()
		if err != nil {
			return err
		}
		n, ours := c.number[ticket]
		if !ours {
			return fmt.Errorf("the archive %s has a ticket that its vehicle has not", cocoon.ArchiveName(id, a.I))
		}
		signing, _ := order.Keys.Cocoon(uint32(a.I), f.J)
		c.ticket[string(signing.Public().Bytes()[1:])] = n
	}
	return nil
}

// asked is what a vehicle asks the registration authority, which has the key of the enrolment authority for that.
func (c *collusion) asked(m message, h spdu.Holder) {
	all := [][]byte{m.request, m.answer}
	if o, err := scr.Open(m.request, h); err == nil {
		if b, err := coer.Marshal(o.Message); err == nil {
			all = append(all, b)
		}
	}
	var names [][]byte
	if m.to == toButterfly {
		id := cocoon.RequestHash(m.request)
		names = append(names, id[:])
	}
	c.sees(ofRA, names, all...)
}

// issuing is a question for many tickets. Either side sees each cocoon key with what was answered for it; the authorization authority also the ticket. That tickets were asked for in one message says
// that they are of one vehicle only if all of them are: otherwise it does not say which.
func (c *collusion) issuing(m message, h spdu.Holder) error {
	o, err := scr.Open(m.request, h)
	if err != nil {
		return fmt.Errorf("opening a question for tickets: %w", err)
	}
	list, single, err := questions(o.Message)
	if err != nil {
		return err
	}
	answers := map[its.HashedId8]*its.AcaRaCertResponse{}
	if err := answered(m.answer, o.Session, single, answers); err != nil {
		return err
	}
	owners, tickets := map[int]bool{}, []int(nil)
	for i := range list {
		x := list[i].TbsCert.VerifyKeyIndicator.VerificationKey.Point.X
		request, err := coer.Marshal(&list[i])
		if err != nil {
			return err
		}
		seen := [][]byte{request}
		name, err := cocoon.Hash(&list[i])
		if err != nil {
			return err
		}
		if single {
			name = cocoon.RequestHash(m.request)
		}
		if a := answers[name]; a != nil {
			b, err := coer.Marshal(a)
			if err != nil {
				return err
			}
			seen = append(seen, b)
		}
		c.sees(ofRA, [][]byte{cocoonName(x)}, seen...)
		c.sees(ofAA, [][]byte{cocoonName(x)}, seen...)
		n, ours := c.ticket[string(x)]
		if !ours {
			owners[-1-i] = true // made up: of nobody
			continue
		}
		owners[c.owner[n-c.vehicles]] = true
		tickets = append(tickets, n)
		c.seen[ofAA][n] = true
		c.sights = append(c.sights, sight{ofAA, []int{n, c.key(cocoonName(x))}})
	}
	if len(owners) == 1 && c.vehicles > 1 {
		c.sights = append(c.sights, sight{ofAA, tickets})
	}
	return nil
}

// questions are what is asked for in a message: of many tickets, or in that of the standard, of one.
func questions(d *its.Ieee1609Dot2Data) (list []its.RaAcaCertRequest, single bool, err error) {
	_, octets, err := scr.Signed(d)
	if err != nil {
		return nil, false, err
	}
	if content, err := scr.Content(octets, its.ButterflyCertificateRequest); err == nil {
		return []its.RaAcaCertRequest{*content.ButterflyCertificateRequest}, true, nil
	}
	list, err = cocoon.ParseRequests(octets)
	return list, false, err
}

// answered adds what was answered. A message that was lost has no answer.
func answered(answer []byte, session *spdu.Session, single bool, to map[its.HashedId8]*its.AcaRaCertResponse) error {
	if len(answer) == 0 {
		return nil
	}
	if single {
		_, content, err := scr.OpenAnswer(answer, session, its.ButterflyCertificateResponse)
		if err != nil {
			return err
		}
		r := content.ButterflyCertificateResponse
		to[r.RequestHash] = r
		return nil
	}
	_, list, err := cocoon.OpenAnswer(answer, session)
	for i := range list {
		to[list[i].RequestHash] = &list[i]
	}
	return err
}
