package client

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
)

// maxLine bounds one line of a stream, in octets.
const maxLine = 1 << 20

// lines hands each JSON line of body to fn until fn has seen the last one. A stream that ends before is Unreachable.
func lines[T any](ctx context.Context, c *Client, body io.Reader, fn func(T) (last bool, err error)) error {
	s := bufio.NewScanner(body)
	s.Buffer(make([]byte, 0, 64<<10), maxLine)
	for s.Scan() {
		var line T
		if err := json.Unmarshal(s.Bytes(), &line); err != nil {
			return fmt.Errorf("reading the answer of %s: %w", c.where, err)
		}
		if last, err := fn(line); last || err != nil {
			return err
		}
	}
	switch err := s.Err(); {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return &Unreachable{Where: c.where, Err: err}
	}
	return &Unreachable{Where: c.where, Err: io.ErrUnexpectedEOF}
}
