package device

import "strings"

// Allows reports whether a device in this state can be moved by m.
func (s State) Allows(m Move) bool {
	_, ok := moves[s][m]
	return ok
}

// Tagged reports whether the device has the tag: "key" or "key=value".
func (d *Device) Tagged(tag string) bool {
	k, want, exact := strings.Cut(tag, "=")
	v, ok := d.Tags[k]
	return ok && (!exact || v == want)
}
