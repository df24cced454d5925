package v2xsim

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"mooring/internal/app"
	"mooring/internal/base/db"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

// Link is what somebody can find out who has everything of one component, or of several: its files, its log, and each message that it received or sent, with
// what it could decrypt of it.
type Link struct {
	Who      []string `json:"who"`
	Vehicles int      `json:"vehicles"` // of how many vehicles there is a name, number, key or enrolment credential
	Tickets  int      `json:"tickets"`  // of how many tickets there is a digest or key
	Linked   int      `json:"linked"`   // of how many tickets it follows from messages whose they are
	Grouped  int      `json:"grouped"`  // of how many tickets it follows which others are of the same vehicle
	// Stored is of how many tickets files alone would do, without messages: something by which a request can be known is in the files of each.
	Stored int `json:"stored"`
	// Ordered is of how many tickets the order of the two records gives away whose they are; with so many vehicles, chance alone gives one in so many.
	Ordered int `json:"ordered"`
}

// Name says who it is.
func (l Link) Name() string { return strings.Join(l.Who, " and ") }

// components are who could collude. The enrolment authority has the registry; root and distribution centre know what is public; the registration authority expands butterfly keys. That
// shares the process and the database of the enrolment authority, which therefore has what the other one keeps, too; what both sent and received is apart.
const (
	ofEA = iota
	ofAA
	ofRCA
	ofRA
	components
)

var componentNames = [components]string{"ea", "aa", "rca and dc", "ra"}

// present are the components that there are.
func (s *Simulation) present() []int {
	if s.o.Butterfly == "" {
		return []int{ofEA, ofAA, ofRCA}
	}
	return []int{ofEA, ofRA, ofAA, ofRCA}
}

// sight is what one component sees in one message, by which vehicles, tickets and other messages can be recognised.
type sight struct {
	of  int
	ids []int
}

// collusion is the search for what can be linked. Whatever can be recognised has a number: first vehicles, then tickets, then what names requests.
type collusion struct {
	vehicles, tickets int
	owner             []int // of each ticket, its vehicle
	find              *finder
	keys              map[string]int
	sights            []sight
	seen              [components][]bool // vehicles and tickets, in anything
	stored            [components]map[int]bool
	ordered           int                   // tickets that the order of both records gives away
	number            map[its.HashedId8]int // of tickets
	butterflies
}

// Collusion looks at everything that each component has, after all were closed, and says what each one and each pair can link.
func (s *Simulation) Collusion(ctx context.Context) ([]Link, error) {
	c, err := s.newCollusion()
	if err != nil {
		return nil, err
	}
	if err := s.opened(ctx, func(p *app.Platform, a *app.TicketAuthority) error { return c.watch(ctx, s, p, a) }); err != nil {
		return nil, err
	}
	if err := c.search(s); err != nil {
		return nil, err
	}
	var links []Link
	present := s.present()
	for _, one := range present {
		links = append(links, c.judge(one))
	}
	for i, one := range present {
		for _, other := range present[i+1:] {
			links = append(links, c.judge(one, other))
		}
	}
	return links, nil
}

// judge says whether one component alone can link. It is strict: one that has vehicles and tickets at all, in whatever way, could.
func judge(links []Link) (err error) {
	for _, l := range links {
		if len(l.Who) == 1 && (l.Vehicles > 0 && l.Tickets > 0 || l.Linked > 0 || l.Grouped > 0) {
			err = errors.Join(err, fmt.Errorf("%s alone can recognise %d vehicles and %d tickets, link %d tickets to vehicles and %d to each other", l.Name(), l.Vehicles, l.Tickets, l.Linked, l.Grouped))
		}
	}
	return err
}

// newCollusion numbers vehicles and tickets and says what they can be recognised by.
func (s *Simulation) newCollusion() (*collusion, error) {
	c := &collusion{vehicles: len(s.fleet), find: newFinder(), keys: map[string]int{}, number: map[its.HashedId8]int{}}
	for i, v := range s.fleet {
		x := v.credential.Certificate
		id, err := x.HashedId8()
		if err != nil {
			return nil, err
		}
		canonical, err := scr.VerificationKey(&v.canonical.PublicKey)
		if err != nil {
			return nil, err
		}
		for _, o := range [][]byte{[]byte(v.name), v.id[:], []byte(v.id.String()), id[:], x.ToBeSigned.VerifyKeyIndicator.VerificationKey.Point.X, []byte(x.ToBeSigned.Id.Name), canonical.Point.X} {
			c.find.add(i, o)
		}
	}
	for i, v := range s.fleet {
		for _, t := range v.tickets {
			id, err := t.Certificate.HashedId8()
			if err != nil {
				return nil, err
			}
			n := c.vehicles + len(c.owner)
			c.owner, c.number[id] = append(c.owner, i), n
			c.find.add(n, id[:])
			c.find.add(n, t.Certificate.ToBeSigned.VerifyKeyIndicator.VerificationKey.Point.X)
		}
	}
	c.tickets = len(c.owner)
	for i := range c.seen {
		c.seen[i], c.stored[i] = make([]bool, c.vehicles+c.tickets), map[int]bool{}
	}
	return c, nil
}

// key is the number of something by which messages can be recognised.
func (c *collusion) key(octets []byte) int {
	n, ok := c.keys[string(octets)]
	if !ok {
		n = c.vehicles + c.tickets + len(c.keys)
		c.keys[string(octets)] = n
	}
	return n
}

// sees notes what a component sees in one message: octets as they are on the wire or after decryption, and names of messages.
func (c *collusion) sees(of int, names [][]byte, octets ...[]byte) {
	var ids []int
	for _, o := range octets {
		c.find.find(o, func(whom int) {
			c.seen[of][whom] = true
			ids = append(ids, whom)
		})
	}
	for _, n := range names {
		ids = append(ids, c.key(n))
	}
	c.sights = append(c.sights, sight{of, ids})
}

// byTime groups tickets of the same validity, if no other vehicle has one of that: who issues them can, and whoever meets them.
func (c *collusion) byTime(s *Simulation) {
	same := map[its.ValidityPeriod][]int{}
	n := c.vehicles
	for _, v := range s.fleet {
		for _, t := range v.tickets {
			valid := t.Certificate.ToBeSigned.ValidityPeriod
			same[valid] = append(same[valid], n)
			n++
		}
	}
	for _, tickets := range same {
		owners := map[int]bool{}
		for _, n := range tickets {
			owners[c.owner[n-c.vehicles]] = true
		}
		if len(owners) == 1 && c.vehicles > 1 {
			c.sights = append(c.sights, sight{ofAA, tickets})
		}
	}
}

// watch goes through all messages with the keys of both authorities, through the rows of the root, and through both records.
func (c *collusion) watch(ctx context.Context, s *Simulation, p *app.Platform, a *app.TicketAuthority) error {
	if err := p.DB.View(ctx, c.publicRows); err != nil {
		return err
	}
	var err error
	if c.ordered, err = c.byOrder(ctx, s, p, a); err != nil {
		return err
	}
	ea, err := p.V2X.Trust.Credential(ctx, trust.EA)
	if err != nil {
		return err
	}
	aa, err := a.Trust.Credential(ctx, trust.AA)
	if err != nil {
		return err
	}
	c.byTime(s)
	if err := c.expand(ctx, s, p); err != nil {
		return err
	}
	return s.traffic.each(func(m message) error {
		switch m.to {
		case toButterfly, toDownload:
			c.asked(m, ea.Holder)
			return nil
		case toIssuing:
			return c.issuing(m, aa.Holder)
		case toEnrolment:
			c.sees(ofEA, nil, append(opened(m, ea.Holder), m.request, m.answer)...)
		case toAuthorization:
			return c.authorization(m, aa.Holder)
		case toValidation:
			return c.validation(m, ea.Holder)
		case toDistribution:
			c.sees(ofRCA, nil, m.request, m.answer)
		}
		return nil
	})
}

// opened is what the receiver reads in a request and its answer.
func opened(m message, h spdu.Holder) (all [][]byte) {
	o, err := scr.Open(m.request, h)
	if err != nil {
		return nil // one that was not to be opened: nobody reads it
	}
	if b, err := coer.Marshal(o.Message); err == nil {
		all = append(all, b)
	}
	if d, err := its.ParseData(m.answer, its.MaxRequest); err == nil {
		if inner, err := o.Session.Open(d); err == nil && inner.Octets != nil {
			all = append(all, inner.Octets)
		}
	}
	return all
}

// authorization is a vehicle's request for a ticket, which the authorization authority reads. Its tag and the octets of what goes on to the enrolment authority name it.
func (c *collusion) authorization(m message, h spdu.Holder) error {
	o, err := scr.Open(m.request, h)
	if err != nil {
		return fmt.Errorf("opening a request for a ticket: %w", err)
	}
	_, octets, err := scr.Signed(o.Message)
	if err != nil {
		return err
	}
	content, err := scr.Content(octets, its.AuthorizationRequest)
	if err != nil {
		return err
	}
	r := content.AuthorizationRequest
	hash := scr.Hash(m.request)
	c.sees(ofAA, [][]byte{r.SharedAtRequest.KeyTag[:], hash[:]}, append(opened(m, h), m.request, m.answer)...)
	return nil
}

// validation is what the authorization authority asks, about one ticket or about many: both see its outside, the enrolment authority also who signed inside. That
// questions came in one message does not say that they belong together.
func (c *collusion) validation(m message, h spdu.Holder) error {
	o, err := scr.Open(m.request, h)
	if err != nil {
		return fmt.Errorf("opening a question: %w", err)
	}
	_, octets, err := scr.Signed(o.Message)
	if err != nil {
		return err
	}
	hash := scr.Hash(m.request)
	both := append(opened(m, h), m.request, m.answer)
	if content, err := scr.Content(octets, its.ValidationRequest); err == nil {
		return c.question(content.AuthorizationValidationRequest, h, [][]byte{hash[:]}, both)
	}
	list, err := scr.ParseQuestions(octets)
	if err != nil {
		return err
	}
	c.sees(ofAA, [][]byte{hash[:]}, both...)
	c.sees(ofEA, [][]byte{hash[:]}, both...)
	for i := range list {
		b, err := coer.Marshal(&list[i])
		if err == nil {
			err = c.question(&list[i], h, nil, [][]byte{b})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// question is what is asked about one ticket.
func (c *collusion) question(q *its.AuthorizationValidationRequest, h spdu.Holder, names, both [][]byte) (err error) {
	names = append(names, q.SharedAtRequest.KeyTag[:])
	c.sees(ofAA, names, both...)
	inside := q.EcSignature.Data
	if q.EcSignature.Choice == its.EcSignatureEncrypted {
		if inside, err = scr.OpenInside(inside, h); err != nil {
			return fmt.Errorf("opening a vehicle's signature: %w", err)
		}
	}
	b, err := coer.Marshal(inside)
	c.sees(ofEA, names, append(both, b)...)
	return err
}

// search looks into the files of each.
func (c *collusion) search(s *Simulation) error {
	names := newFinder()
	for k, n := range c.keys {
		names.add(n, []byte(k))
	}
	look := func(of int) func([]byte) {
		return func(b []byte) {
			c.find.find(b, func(whom int) { c.seen[of][whom] = true })
			names.find(b, func(name int) { c.stored[of][name] = true })
		}
	}
	if err := files(look(ofEA), []string{s.Made.Dir, s.side}, s.o.Dir); err != nil {
		return err
	}
	if err := files(look(ofAA), nil, s.Made.Dir); err != nil {
		return err
	}
	for i, log := range s.logs() {
		if err := files(look(i), nil, log); err != nil {
			return err
		}
		if i == ofEA {
			if err := files(look(ofRA), nil, log); err != nil {
				return err
			}
		}
	}
	return nil
}

// publicRows are the rows of the root and the distribution centre, which share the database of the enrolment authority.
func (c *collusion) publicRows(ctx context.Context, tx *db.Tx) error {
	for _, sql := range []string{`SELECT cert FROM v2x_authority`, `SELECT octets FROM v2x_list`} {
		if err := tx.Each(ctx, func(row db.Row) error {
			var b []byte
			err := row.Scan(&b)
			c.sees(ofRCA, nil, b)
			return err
		}, sql); err != nil {
			return err
		}
	}
	return nil
}

// judge says what those together can link: what one message shows belongs together, and so do messages with the same name.
func (c *collusion) judge(who ...int) Link {
	var l Link
	seen := make([]bool, c.vehicles+c.tickets)
	with := [components]bool{}
	for _, w := range who {
		l.Who, with[w] = append(l.Who, componentNames[w]), true
		for i, yes := range c.seen[w] {
			seen[i] = seen[i] || yes
		}
	}
	g := newGroups(c.vehicles + c.tickets + len(c.keys))
	var named [][]int // of requests: their names and whom else a message with them shows
	for _, s := range c.sights {
		if with[s.of] {
			g.join(s.ids)
			named = append(named, s.ids)
		}
	}
	members := map[int]int{}
	for t := range c.tickets {
		if seen[c.vehicles+t] {
			l.Tickets++
			members[g.of(c.vehicles+t)]++
		}
	}
	for v := range c.vehicles {
		if seen[v] {
			l.Vehicles++
		}
	}
	for t, owner := range c.owner {
		if at := g.of(c.vehicles + t); seen[c.vehicles+t] {
			if seen[owner] && g.of(owner) == at {
				l.Linked++
			}
			if members[at] > 1 {
				l.Grouped++
			}
		}
	}
	if len(who) == 2 {
		l.Stored = c.inFilesOfBoth(who[0], who[1], named)
	}
	if with[ofEA] && with[ofAA] {
		l.Ordered = c.ordered
	}
	return l
}

// inFilesOfBoth counts tickets by whose requests the files of two could be compared.
func (c *collusion) inFilesOfBoth(a, b int, named [][]int) int {
	found := map[int]bool{}
	for _, ids := range named {
		var joins bool
		for _, id := range ids {
			joins = joins || c.stored[a][id] && c.stored[b][id]
		}
		for _, id := range ids {
			if joins && id >= c.vehicles && id < c.vehicles+c.tickets {
				found[id] = true
			}
		}
	}
	return len(found)
}

// groups says what belongs together.
type groups []int

func newGroups(n int) groups {
	g := make(groups, n)
	for i := range g {
		g[i] = i
	}
	return g
}

func (g groups) of(i int) int {
	for g[i] != i {
		g[i] = g[g[i]]
		i = g[i]
	}
	return i
}

func (g groups) join(ids []int) {
	for _, id := range ids {
		g[g.of(id)] = g.of(ids[0])
	}
}

// byOrder says of how many tickets the n-th entry of one record and the n-th of the other name vehicle and ticket rightly.
func (c *collusion) byOrder(ctx context.Context, s *Simulation, p *app.Platform, a *app.TicketAuthority) (n int, err error) {
	vehicles, err := recorded(ctx, p.Audit, "v2x.validate", func(e audit.Entry) string { return e.Device })
	if err != nil {
		return 0, err
	}
	tickets, err := recorded(ctx, a.Audit, "v2x.issued", func(e audit.Entry) string { return e.Object })
	if err != nil {
		return 0, err
	}
	owner := map[string]string{}
	for _, v := range s.fleet {
		for _, t := range v.tickets {
			id, err := t.Certificate.HashedId8()
			if err != nil {
				return 0, err
			}
			owner[id.String()] = v.id.String()
		}
	}
	for i, ticket := range tickets[:min(len(tickets), len(vehicles))] {
		if owner[ticket] == vehicles[i] {
			n++
		}
	}
	return n, nil
}

// recorded is what entries of a record say, in their order, without refusals.
func recorded(ctx context.Context, log *audit.Log, action string, of func(audit.Entry) string) (list []string, err error) {
	if err := log.Sequence(ctx); err != nil {
		return nil, err
	}
	const page = 1000
	for after := int64(0); ; {
		entries, err := log.List(ctx, access.System("simulation"), audit.Query{After: after, Limit: page, Action: action})
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if after = e.Index + 1; e.Refused == "" {
				list = append(list, of(e.Entry))
			}
		}
		if len(entries) < page {
			return list, nil
		}
	}
}
