package device

import (
	"strings"

	"mooring/internal/base/errs"
)

// State is where a device stands in its life. The numbers are stored.
type State int16

// The states. Only Registered and Enrolled may enrol and connect.
const (
	Registered State = 1 // known, holds no certificate of ours yet
	Enrolled   State = 2 // got at least one certificate
	Suspended  State = 3 // barred until it is resumed
	Lost       State = 4 // out of its owner's hands; never comes back
	Retired    State = 5 // end of life; the row stays as a record
)

var stateNames = [...]string{Registered: "registered", Enrolled: "enrolled", Suspended: "suspended", Lost: "lost", Retired: "retired"}

// States returns every state in the order of life.
func States() []State { return []State{Registered, Enrolled, Suspended, Lost, Retired} }

// String returns the state's name, or "unknown".
func (s State) String() string {
	if s < Registered || s > Retired {
		return "unknown"
	}
	return stateNames[s]
}

// Active reports whether a device in this state may enrol and connect.
func (s State) Active() bool { return s == Registered || s == Enrolled }

// base is the state that the row digest holds: issuing turns Registered into Enrolled without an entry of its own, so both count as one.
func (s State) base() State {
	if s == Enrolled {
		return Registered
	}
	return s
}

// ParseState returns the state called name.
func ParseState(name string) (State, error) {
	for _, s := range States() {
		if s.String() == name {
			return s, nil
		}
	}
	return 0, errs.New(errs.Invalid, "unknown state %q: use registered, enrolled, suspended, lost or retired", name)
}

// Move is a change of state that an operator asks for.
type Move string

// The moves.
const (
	Suspend Move = "suspend"
	Resume  Move = "resume"
	Lose    Move = "lost"
	Retire  Move = "retire"
)

// Moves returns every move.
func Moves() []Move { return []Move{Suspend, Resume, Lose, Retire} }

// ParseMove returns the move called name.
func ParseMove(name string) (Move, error) {
	for _, m := range Moves() {
		if string(m) == name {
			return m, nil
		}
	}
	return "", errs.New(errs.Invalid, "unknown move %q: use suspend, resume, lost or retire", name)
}

// moves is the whole life cycle. What is not listed is forbidden: a lost device never comes back, since nobody knows who holds its
// key, and a retired one keeps its name for ever. Resume leads to Registered here and to Enrolled for a device that was issued to.
var moves = map[State]map[Move]State{
	Registered: {Suspend: Suspended, Lose: Lost, Retire: Retired},
	Enrolled:   {Suspend: Suspended, Lose: Lost, Retire: Retired},
	Suspended:  {Resume: Registered, Lose: Lost, Retire: Retired},
	Lost:       {Retire: Retired},
	Retired:    {},
}

// after returns the state that m leads to from s for a device that was issued `issued` certificates, or a Conflict that says what may be
// done instead.
func (s State) after(m Move, issued int64) (State, error) {
	to, ok := moves[s][m]
	if !ok {
		return 0, errs.New(errs.Conflict, "a device that is %s cannot be moved by %q: %s", s, m, s.choices())
	}
	if to == Registered && issued > 0 {
		to = Enrolled
	}
	return to, nil
}

func (s State) choices() string {
	var possible []string
	for _, m := range Moves() {
		if _, ok := moves[s][m]; ok {
			possible = append(possible, string(m))
		}
	}
	if len(possible) == 0 {
		return "no move is left"
	}
	return "possible is " + strings.Join(possible, ", ")
}
