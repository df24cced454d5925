package job

import (
	"strings"

	"mooring/internal/base/errs"
)

// State is where a job stands. The numbers are stored.
type State int16

// The states.
const (
	Draft     State = 1 // its items are looked for, or looked at; nothing is decided
	Waiting   State = 2 // for a second person
	Scheduled State = 3 // nothing is done yet, and it can still be cancelled without any effect
	Running   State = 4
	Paused    State = 5
	Done      State = 6
	Aborted   State = 7 // cancelled, refused, or never started; what was done by then stays done
	Failed    State = 8 // it could not go on
)

var stateNames = [...]string{Draft: "draft", Waiting: "waiting", Scheduled: "scheduled", Running: "running", Paused: "paused", Done: "done",
	Aborted: "aborted", Failed: "failed"}

// States returns every state.
func States() []State {
	return []State{Draft, Waiting, Scheduled, Running, Paused, Done, Aborted, Failed}
}

// String returns the state's name, or "unknown".
func (s State) String() string {
	if s < Draft || s > Failed {
		return "unknown"
	}
	return stateNames[s]
}

// ParseState returns the state called name.
func ParseState(name string) (State, error) {
	for _, s := range States() {
		if s.String() == name {
			return s, nil
		}
	}
	return 0, errs.New(errs.Invalid, "state: there is no state %q: use draft, waiting, scheduled, running, paused, done, aborted or failed", name)
}

// Ended reports whether nothing more happens by itself.
func (s State) Ended() bool { return s == Done || s == Aborted || s == Failed }

// move is what changes a state.
type move string

const (
	moveAsk      move = "ask"      // start, with a second person to be asked
	moveStart    move = "start"    // start without
	moveApproved move = "approved" // by the second person
	moveDue      move = "due"
	moveFinish   move = "finish"
	moveBreak    move = "break"
	movePause    move = "pause"
	moveResume   move = "resume"
	moveCancel   move = "cancel"
)

// moves is the whole life cycle. What is not listed is forbidden.
var moves = map[State]map[move]State{
	Draft:     {moveAsk: Waiting, moveStart: Scheduled, moveCancel: Aborted, moveBreak: Failed},
	Waiting:   {moveApproved: Scheduled, moveCancel: Aborted},
	Scheduled: {moveDue: Running, movePause: Paused, moveCancel: Aborted},
	Running:   {moveFinish: Done, movePause: Paused, moveCancel: Aborted, moveBreak: Failed},
	Paused:    {moveResume: Scheduled, moveCancel: Aborted},
	Done:      {},
	Aborted:   {},
	Failed:    {moveResume: Scheduled},
}

// after returns the state that m leads to from s, or a Conflict that says what may be done instead.
func (s State) after(m move) (State, error) {
	to, ok := moves[s][m]
	if !ok {
		if m == moveAsk {
			m = moveStart // that somebody is to be asked is not what was said
		}
		return 0, errs.New(errs.Conflict, "a job that is %s takes no %s: %s", s, m, s.choices())
	}
	return to, nil
}

// choices names what a person can do with a job in this state.
func (s State) choices() string {
	var possible []string
	for _, m := range []move{moveStart, movePause, moveResume, moveCancel} {
		if _, ok := moves[s][m]; ok {
			possible = append(possible, string(m))
		}
	}
	if len(possible) == 0 {
		return "it has ended"
	}
	return "possible is " + strings.Join(possible, ", ")
}
