package db

import (
	"strconv"
	"strings"
)

// Values is the text of n rows of parameters for VALUES, each of which begins with what first says and has so many parameters: Values("0, ", 2, 2) is
// (0, $1, $2), (0, $3, $4). A statement for many rows costs far less than as many statements; Chunks says for how many at once, so that few texts are prepared.
func Values(first string, width, n int) string {
	var b strings.Builder
	for i := range n * width {
		switch {
		case i%width > 0:
			b.WriteString(", $")
		case i > 0:
			b.WriteString("), (" + first + "$")
		default:
			b.WriteString("(" + first + "$")
		}
		b.WriteString(strconv.Itoa(i + 1))
	}
	b.WriteString(")")
	return b.String()
}

// List is the text of n parameters from the one with that number on, for IN: List(3, 2) is ($3, $4).
func List(from, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("$" + strconv.Itoa(from+i))
	}
	return "(" + b.String() + ")"
}

// chunkMost is how many rows one statement has at the most.
const chunkMost = 32

// Chunks goes over n rows in chunks whose sizes are powers of two.
func Chunks(n int, do func(from, to int) error) error {
	for from := 0; from < n; {
		size := chunkMost
		for size > n-from {
			size /= 2
		}
		if err := do(from, from+size); err != nil {
			return err
		}
		from += size
	}
	return nil
}
