package policy

import (
	_ "embed"
)

//go:embed default.policy
var defaultText []byte

// Default returns the policy of a new installation: devices publish telemetry and state and receive commands under their own names, operators read all of it
// and command.
func Default() *Set {
	s, err := Parse("default.policy", defaultText)
	if err != nil { // the text is part of the program, and tested
		panic("policy: " + err.Error())
	}
	return s
}

// DefaultText is the text of Default, to begin one's own with.
func DefaultText() string { return string(defaultText) }
