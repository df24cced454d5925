package client

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"mooring/internal/server/api/v1"
)

// WatchRevocations calls fn for every revocation, hold and release from the cursor from on (0: all; -1: the present) until ctx ends, the server
// stops, or fn fails. A stream that ends by itself is Unreachable: go on from next, which is where to begin again, or -1 when nothing has come.
func (c *Client) WatchRevocations(ctx context.Context, from int64, fn func(v1.RevocationEvent) error) (next int64, err error) {
	next = from
	r, err := c.send(ctx, http.MethodGet, "/v1/revocations/events", url.Values{"from": {strconv.FormatInt(from, 10)}}, "", nil)
	if err != nil {
		return next, err
	}
	defer r.Body.Close()
	s := bufio.NewScanner(r.Body)
	s.Buffer(make([]byte, 0, 64<<10), maxLine)
	var name, data string
	for s.Scan() {
		field, value, _ := strings.Cut(s.Text(), ": ")
		switch field {
		case "id":
			id, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return next, fmt.Errorf("reading the events of %s: the id %q is no number", c.where, value)
			}
			next = id + 1
		case "event":
			name = value
		case "data":
			data = value
		case "":
			if s.Text() == "" && data != "" {
				if err := event(name, data, fn); err != nil {
					return next, err
				}
			}
			if s.Text() == "" {
				name, data = "", ""
			}
		}
	}
	if ctx.Err() != nil {
		return next, ctx.Err()
	}
	cause := s.Err()
	if cause == nil {
		cause = io.ErrUnexpectedEOF
	}
	return next, &Unreachable{Where: c.where, Err: cause}
}

func event(name, data string, fn func(v1.RevocationEvent) error) error {
	if name == "error" {
		var p v1.Problem
		if err := json.Unmarshal([]byte(data), &p); err != nil {
			return fmt.Errorf("reading why the feed ended: %w", err)
		}
		return &Error{Problem: p}
	}
	var e v1.RevocationEvent
	if err := json.Unmarshal([]byte(data), &e); err != nil {
		return fmt.Errorf("reading an event: %w", err)
	}
	return fn(e)
}
