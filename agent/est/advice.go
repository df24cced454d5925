package est

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	wire "mooring/wire/est"
)

// opAdvice names the question in errors.
const opAdvice wire.Operation = "renewal advice"

// Advice asks the server, by the session's certificate, when that is to be renewed and with which kind of key. problem says why the last
// renewal failed; "" = it did not. A server that is no Mooring refuses, mostly with status 404.
func (s *Session) Advice(ctx context.Context, problem string) (wire.Advice, error) {
	a, err := s.ask(ctx, problem)
	if errors.Is(err, errClosed) {
		if err := s.reconnect(ctx); err != nil {
			return wire.Advice{}, err
		}
		a, err = s.ask(ctx, problem)
	}
	if err != nil {
		return wire.Advice{}, err
	}
	var advice wire.Advice
	if a.status != http.StatusOK {
		return advice, &RefusedError{Status: http.StatusNotFound, Reason: "the server gives no advice"}
	}
	if err := json.NewDecoder(bytes.NewReader(a.body)).Decode(&advice); err != nil {
		return wire.Advice{}, fmt.Errorf("reading the advice of the server: %w", err)
	}
	return advice, nil
}

func (s *Session) ask(ctx context.Context, problem string) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	target := s.client.base.ResolveReference(&url.URL{Path: wire.RenewalPath})
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("making the question for advice: %w", err)
	}
	if problem != "" {
		request.Header.Set(wire.HeaderProblem, visible(problem))
	}
	return s.exchange(opAdvice, request)
}

// visible makes text fit for a header: ASCII on one line, and not long.
func visible(text string) string {
	text = strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return ' '
		}
		return c
	}, text)
	return strings.TrimSpace(text[:min(len(text), maxReason)])
}
