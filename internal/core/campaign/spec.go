package campaign

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strings"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/device"
	"mooring/wire/der"
)

// Action is what a campaign wants of each device.
type Action string

// The actions.
const (
	Renew Action = "renew" // another certificate, by the profile as it is now
	Rekey Action = "rekey" // one for a new key, of the kind Spec.Algorithm if that is set
	Move  Action = "move"  // one by the CA that Spec.To names, which the profile must name as its issuer
)

// Spec says what a campaign is to do. It never changes.
type Spec struct {
	Name      string        `json:"name"`
	Filter    device.Filter `json:"filter"`
	Action    Action        `json:"action"`
	Algorithm der.KeyKind   `json:"algorithm,omitempty"` // of Rekey
	To        string        `json:"to,omitempty"`        // of Move: name of the CA
	// Rate is how many hundredths of a percent of the devices have their turn in each Every seconds.
	Rate  int64 `json:"rate"`
	Every int64 `json:"every"`
	// From and Until bound the time of day, UTC seconds since midnight, in which turns come; both 0: the whole day.
	From  int64 `json:"from,omitempty"`
	Until int64 `json:"until,omitempty"`
	// MaxFailed is how many hundredths of a percent of the devices that had their chance may fail.
	MaxFailed int64 `json:"max_failed"`
	Deadline  int64 `json:"deadline"` // UTC seconds; the campaign ends then
	// Grace is how many seconds after its turn a device may still renew without what the campaign demands.
	Grace int64 `json:"grace"`
	// Patience is after how many seconds a device that was told and has no new certificate has failed.
	Patience  int64 `json:"patience"`
	RevokeOld bool  `json:"revoke_old,omitempty"` // the old certificate is revoked once the new one was used
	ByIssue   bool  `json:"by_issue,omitempty"`   // success is the issue, not the first use
	// Agreed is how many devices fitted when a second person was asked; 0 when nobody was. Create sets it.
	Agreed int64 `json:"agreed,omitempty"`
}

const (
	defaultGrace    = 7 * 86400
	defaultPatience = 3 * 86400
	longest         = 5 * 366 * 86400 // of a campaign
	day             = 86400
	placeMost       = 1 << 31
	whole           = 100_00 // hundredths of a percent
)

var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// check completes s and refuses what cannot be done.
func (s *Spec) check(now int64) error {
	if s.Grace == 0 {
		s.Grace = defaultGrace
	}
	if s.Patience == 0 {
		s.Patience = defaultPatience
	}
	s.Filter.Cursor, s.Filter.Limit, s.Agreed = "", 0, 0
	switch {
	case !plainName.MatchString(s.Name):
		return errs.New(errs.Invalid, "name: 1 to 64 letters, digits and . _ -, a letter or digit first")
	case s.Filter.ExpiresAfter > 0 || s.Filter.ExpiresBefore > 0:
		return errs.New(errs.Invalid, "select: the end of certificates changes while the campaign runs; choose by something else")
	case s.Action != Renew && s.Action != Rekey && s.Action != Move:
		return errs.New(errs.Invalid, "action: use renew, rekey or move")
	case s.Algorithm != "" && s.Action != Rekey:
		return errs.New(errs.Invalid, "algorithm: it goes with rekey only")
	case (s.To != "") != (s.Action == Move):
		return errs.New(errs.Invalid, "to: name the CA with move, and only there")
	case s.Every != 3600 && s.Every != day || s.Rate < 1 || s.Rate > whole:
		return errs.New(errs.Invalid, "rate: more than 0 and at most 100 percent per day or hour, such as 5%%/day")
	case s.MaxFailed < 0 || s.MaxFailed > whole:
		return errs.New(errs.Invalid, "max_failed: 0 to 100 percent")
	case s.From < 0 || s.Until < 0 || s.From > day || s.Until > day || s.From != 0 && s.From == s.Until:
		return errs.New(errs.Invalid, "window: two different times of day, such as 08:00-18:00")
	case s.Grace < 0 || s.Patience < 0 || s.Grace > longest || s.Patience > longest:
		return errs.New(errs.Invalid, "grace, patience: at most five years")
	case s.Deadline <= now || s.Deadline > now+longest:
		return errs.New(errs.Invalid, "deadline: in the future, at most five years ahead")
	}
	if end := s.clockAt(now, s.full()); end > s.Deadline {
		return errs.New(errs.Invalid, "deadline: at this rate the last device has its turn at %s, after the deadline: raise the rate or the deadline",
			time.Unix(end, 0).UTC().Format("2006-01-02 15:04 UTC"))
	}
	return nil
}

// String says in a line what the campaign does, for people.
func (s *Spec) String() string {
	what := string(s.Action)
	switch {
	case s.Algorithm != "":
		what += " to " + string(s.Algorithm)
	case s.To != "":
		what += " to the CA " + s.To
	}
	unit := "day"
	if s.Every == 3600 {
		unit = "hour"
	}
	if s.RevokeOld {
		what += ", old certificates are revoked"
	}
	return fmt.Sprintf("%s, %s a %s, stops above %s failures, until %s", what, percent(s.Rate), unit, percent(s.MaxFailed), time.Unix(s.Deadline, 0).UTC().Format("2006-01-02"))
}

// selects says for people which devices the campaign is for. issuer is the name of the CA in the filter.
func (s *Spec) selects(issuer string) string {
	f, all := &s.Filter, []string(nil)
	state := ""
	if f.State != 0 {
		state = f.State.String()
	}
	for _, part := range [][2]string{{"group", f.Group}, {"state", state}, {"profile", f.Profile}, {"tag", f.Tag}, {"issuer", issuer}, {"algorithm", f.Key},
		{"seen before", dateOf(f.SeenBefore)}, {"seen after", dateOf(f.SeenAfter)}} {
		if part[1] != "" {
			all = append(all, part[0]+" "+part[1])
		}
	}
	if all == nil {
		return "of the whole fleet"
	}
	return "of " + strings.Join(all, " and ")
}

func dateOf(at int64) string {
	if at == 0 {
		return ""
	}
	return clock(at)
}

// percent writes hundredths of a percent.
func percent(n int64) string {
	text := fmt.Sprintf("%d.%02d", n/100, n%100)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".") + " %"
}

// text is the stored form.
func (s *Spec) text() (string, error) {
	b, err := json.Marshal(s)
	return string(b), err
}

// full is in how many seconds of running every device has had its turn.
func (s *Spec) full() int64 { return (s.unit()*whole + s.Rate - 1) / s.Rate }

// unit is the length of a wave in seconds of running: an hour, or as much of a day as the window leaves.
func (s *Spec) unit() int64 {
	_, length := s.window()
	return min(s.Every, length)
}

// window returns begin and length of the daily window.
func (s *Spec) window() (from, length int64) {
	if s.From == s.Until {
		return 0, day
	}
	return s.From, (s.Until - s.From + day) % day
}

// active is how many seconds between two times lie within the daily window.
func (s *Spec) active(from, to int64) int64 {
	return s.sinceEpoch(to) - s.sinceEpoch(from)
}

// sinceEpoch is how many seconds of windows lie before t, counted from the first window of time.
func (s *Spec) sinceEpoch(t int64) int64 {
	begin, length := s.window()
	t -= begin
	return t/day*length + min(t%day, length)
}

// clockAt is when seconds of windows have passed after from.
func (s *Spec) clockAt(from, seconds int64) int64 {
	begin, length := s.window()
	n := s.sinceEpoch(from) + seconds
	if seconds <= 0 {
		return from
	}
	days, rest := n/length, n%length
	if rest == 0 { // the very end of a window
		days, rest = days-1, length
	}
	return begin + days*day + rest
}

// place is where in the order a device stands: by a hash, so that neighbours have their turns far apart, and each campaign another order.
func place(campaign ID, id device.ID) int64 {
	sum := sha256.Sum256(append(campaign[:], id[:]...))
	return int64(binary.BigEndian.Uint32(sum[:]) >> 1)
}

// elapsed is how many seconds the campaign has run by now.
func (c *Campaign) elapsed(now int64) int64 {
	if c.State != Running || c.Resumed == 0 {
		return c.Elapsed
	}
	return c.Elapsed + c.active(c.Resumed, max(now, c.Resumed))
}

// Released is which places have had their turn by now: those below it.
func (c *Campaign) released(now int64) int64 {
	if c.Started == 0 {
		return 0
	}
	return int64(math.Min(placeMost, float64(c.elapsed(now)+1)/float64(c.full())*placeMost))
}

// need is after how many seconds of running a place has its turn.
func (c *Campaign) need(place int64) int64 {
	return int64(float64(place) / placeMost * float64(c.full()))
}

// Turn is when a place has or had its turn, if nothing stops the campaign.
func (c *Campaign) Turn(place, now int64) int64 {
	need := c.need(place)
	switch elapsed := c.elapsed(now); {
	case need > elapsed:
		return c.clockAt(now, need-elapsed)
	case c.State == Running && need >= c.Elapsed:
		return c.clockAt(c.Resumed, need-c.Elapsed)
	}
	return c.Started
}

// Waves returns in which wave, from 1, a place has its turn, and how many there are. A wave is a day or an hour of the campaign's time.
func (c *Campaign) Waves(place int64) (wave, of int64) {
	unit := c.unit()
	return c.need(place)/unit + 1, (c.full() + unit - 1) / unit
}

// open reports whether turns come now: a campaign that is outside of its hours tells nobody.
func (c *Campaign) open(now int64) bool {
	begin, length := c.window()
	return ((now-begin)%day+day)%day < length
}

// ReleasedText says how many places have had their turn, as a percentage.
func (c *Campaign) ReleasedText(now int64) string {
	return compact(c.released(now) * whole / placeMost)
}

// LastTurn is when the last device has its turn, if nothing stops the campaign; 0 when it does not run.
func (c *Campaign) LastTurn(now int64) int64 {
	if c.State != Running {
		return 0
	}
	return c.Turn(placeMost-1, now)
}
