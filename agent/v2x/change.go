package v2x

import (
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"mooring/wire/its"
)

// Stock is where tickets to sign by come from. Station is one. Choose is asked when the ticket is to change, and gives one that is valid at that moment, another
// one if there is any. It is not called twice at once.
type Stock interface {
	Choose() (*Ticket, error)
}

// Judge is a Stock that also says whether a ticket which it gave is still to be used. Station is one.
type Judge interface {
	Usable(*Ticket) bool
}

// ErrNoTicket is that there is no ticket that is valid now.
var ErrNoTicket = errors.New("there is no ticket that is valid now")

// Habit says when a vehicle changes its ticket. The zero value is as the European car makers do it: at the start of a trip; then once, after 800 to 1500 m, so that the
// start says nothing of the way; then after at least 800 m more and 2 to 6 minutes after that. Times and ways are chosen by chance between the two.
type Habit struct {
	FirstMetres  [2]float64       // way from the start to the first change
	Metres       float64          // way at least after each further one
	Wait         [2]time.Duration // and how long then
	HoldAtMost   time.Duration    // how long the change waits for who holds the ticket
	NeverChanges bool             // for stations at the roadside: a ticket is used until it ends
}

func (h *Habit) defaults() {
	if h.FirstMetres == [2]float64{} {
		h.FirstMetres = [2]float64{800, 1500}
	}
	if h.Metres == 0 {
		h.Metres = 800
	}
	if h.Wait == [2]time.Duration{} {
		h.Wait = [2]time.Duration{2 * time.Minute, 6 * time.Minute}
	}
	if h.HoldAtMost == 0 {
		h.HoldAtMost = 30 * time.Minute
	}
}

// Changer has the one ticket that a station signs by, and changes it. It is safe for concurrent use: whoever asks gets the same ticket until it changes for all.
type Changer struct {
	stock Stock
	habit Habit
	now   func() time.Time
	leap  int

	// Changed, if not nil, is called after each change, before anybody gets the new ticket: everything else that a station can be recognised by, such as its network
	// addresses and its station ID, has to change at the same moment. It must not call the Changer. Set it before the first use.
	Changed func(*Ticket)

	mu      sync.Mutex
	ticket  *Ticket           // guarded by mu; nil: none yet
	changes int               // guarded by mu; since the start of the trip
	due     bool              // guarded by mu; a change waits for who holds the ticket
	way     float64           // guarded by mu; metres since the last change
	need    float64           // guarded by mu; metres until the next one
	then    time.Duration     // guarded by mu; time to wait after them
	reached time.Time         // guarded by mu; when those metres were over; zero: not yet
	holds   map[int]time.Time // guarded by mu; since when
	next    int               // guarded by mu; number of the next hold
	at      its.TwoDLocation  // guarded by mu; where the station was
	placed  bool              // guarded by mu; at is known
}

// NewChanger returns a changer over a stock. It chooses nothing before it is asked.
func NewChanger(s Stock, h Habit, now func() time.Time, leap int) *Changer {
	h.defaults()
	if leap == 0 {
		leap = its.LeapSeconds
	}
	return &Changer{stock: s, habit: h, now: now, leap: leap, holds: map[int]time.Time{}}
}

// Start begins a trip: the ticket changes, and the way counts from here.
func (c *Changer) Start() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.placed = false
	if err := c.change(true); err != nil {
		return err
	}
	c.changes = 0
	c.plan()
	return nil
}

// plan says when the next change is.
func (c *Changer) plan() {
	c.way, c.reached = 0, time.Time{}
	if c.changes == 0 {
		c.need, c.then = between(c.habit.FirstMetres[0], c.habit.FirstMetres[1]), 0
		return
	}
	c.need = c.habit.Metres
	c.then = time.Duration(between(float64(c.habit.Wait[0]), float64(c.habit.Wait[1])))
}

func between(a, b float64) float64 { return a + rand.Float64()*(b-a) }

// Moved tells where the station is now. When a change is due it is made.
func (c *Changer) Moved(to its.TwoDLocation) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.placed {
		c.way += metres(c.at, to)
	}
	c.at, c.placed = to, true
	if c.habit.NeverChanges || c.ticket == nil || c.way < c.need {
		return nil
	}
	if c.reached.IsZero() {
		c.reached = c.now()
	}
	if c.now().Sub(c.reached) < c.then {
		return nil
	}
	return c.change(false)
}

// over says whether the ticket cannot be signed by any more: it ended, or the stock says that it is worth nothing.
func (c *Changer) over() bool {
	if c.ticket == nil || !c.ticket.Certificate.ToBeSigned.ValidityPeriod.Contains(its.TimeAt(c.now(), c.leap)) {
		return true
	}
	j, judges := c.stock.(Judge)
	return judges && !j.Usable(c.ticket)
}

// Ticket returns the ticket to sign by. One that is over, or whose authority was revoked, is changed at once, whoever holds it.
func (c *Changer) Ticket() (*Ticket, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over() {
		if err := c.change(true); err != nil {
			return nil, err
		}
	} else if c.due {
		if err := c.change(false); err != nil {
			return nil, err
		}
	}
	return c.ticket, nil
}

// Hold keeps the ticket as it is until release is called: while a station repeats a warning, its messages have to be recognised as those of one station. A change that
// would be due is made afterwards. Who never releases does not keep a ticket for ever.
func (c *Changer) Hold() (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.next
	c.next++
	c.holds[n] = c.now()
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.holds, n)
	}
}

// held says whether somebody holds the ticket.
func (c *Changer) held() bool {
	for n, since := range c.holds {
		if c.now().Sub(since) < c.habit.HoldAtMost {
			return true
		}
		delete(c.holds, n)
	}
	return false
}

// change chooses another ticket. Without force it waits for who holds the present one. Where the stock has nothing, the present one stays, unless that is over.
func (c *Changer) change(force bool) error {
	if !force && c.held() {
		c.due = true
		return nil
	}
	t, err := c.stock.Choose()
	if err != nil {
		if !c.over() {
			return nil
		}
		c.ticket = nil
		return err
	}
	c.due = false
	c.changes++
	c.plan()
	if c.ticket != t && c.Changed != nil {
		c.Changed(t)
	}
	c.ticket = t
	return nil
}
