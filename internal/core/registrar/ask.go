package registrar

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/audit"
	"mooring/internal/core/maker"
	"mooring/wire/voucher"
)

// askKey is what makes a request the same one: the device, and all that it sent.
type askKey struct {
	device  string
	message [sha256.Size]byte
}

// asked is a request that is with the MASA, or was.
type asked struct {
	// These are of the one goroutine that asks, while waiting.
	pledge *pledge   // nil when nothing is to be asked
	rvr    []byte    // what the MASA is sent, the same until it has decided
	ends   time.Time // when the voucher does; zero: it does not say

	// What follows is guarded by Service.mu.
	maker   string        // whose MASA is asked
	own     bool          // it is ours
	done    chan struct{} // closed when the MASA has answered; another one when it is asked again
	waiting bool          // done is not closed
	voucher []byte
	err     error
	again   time.Time // when the MASA is to be asked again; zero: never
	until   time.Time // when it is forgotten, unless it waits
}

// await has the MASA asked, unless that was done already, and waits a little.
func (s *Service) await(ctx context.Context, p *pledge) (message []byte, retry time.Duration, err error) {
	a, done, err := s.enqueue(p)
	if err != nil {
		return nil, 0, err
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
		return nil, minLater, nil
	case <-ctx.Done():
		return nil, minLater, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case a.waiting: // it was asked again meanwhile
		return nil, minLater, nil
	case a.voucher != nil:
		return a.voucher, 0, nil
	case a.err != nil:
		return nil, 0, a.err
	}
	return nil, max(minLater, a.again.Sub(s.Now())), nil
}

// enqueue finds the request among those that were asked, or puts it there, and says what to wait for.
func (s *Service) enqueue(p *pledge) (*asked, chan struct{}, error) {
	key := askKey{p.id(), sha256.Sum256(p.message)}
	now := s.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.asked[key]
	if a != nil && (a.waiting || now.Before(a.until) && (a.again.IsZero() || now.Before(a.again))) {
		return a, a.done, nil
	}
	if a == nil || !now.Before(a.until) {
		if err := s.vouchers.take(p.device.ID, now); err != nil {
			return nil, nil, err
		}
		if err := s.room(now); err != nil {
			return nil, nil, err
		}
		a = &asked{}
	}
	if len(s.queue) >= maxQueue || waitFor(s.queue, p.product.Maker) >= maxQueue/2 {
		return nil, nil, errs.WithRetry(errs.New(errs.Unavailable, "too many devices ask for vouchers at the same time; try again"), minLater)
	}
	a.pledge = p // a tag or the MASA may have been changed since it was asked last
	a.maker, a.own = p.product.Maker, p.url == ""
	a.done, a.waiting, a.voucher, a.err = make(chan struct{}), true, nil, nil
	s.asked[key], s.queue = a, append(s.queue, a)
	s.wake()
	return a, a.done, nil
}

// waitFor counts the requests that wait for the MASA of a manufacturer.
func waitFor(queue []*asked, maker string) (n int) {
	for _, a := range queue {
		if a.maker == maker {
			n++
		}
	}
	return n
}

// room makes room for one more request. It needs mu. When there is none, those give way that were refused or put off: they can be asked again.
func (s *Service) room(now time.Time) error {
	if len(s.asked) < maxAsked {
		return nil
	}
	for _, goes := range []func(a *asked) bool{
		func(a *asked) bool { return !now.Before(a.until) },
		func(a *asked) bool { return a.voucher == nil },
	} {
		for key, a := range s.asked {
			if !a.waiting && goes(a) {
				delete(s.asked, key)
			}
		}
		if len(s.asked) < maxAsked {
			return nil
		}
	}
	return errs.WithRetry(errs.New(errs.Unavailable, "too many devices ask for vouchers at the same time; try again"), failedLife)
}

// ask asks the MASA and keeps what comes of it.
func (s *Service) ask(ctx context.Context, a *asked) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	message, retry, err := s.obtain(ctx, a)
	if err != nil {
		s.log(ctx, a.pledge, err)
	}
	now := s.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	a.waiting, a.voucher, a.err = false, message, err
	a.pledge = nil // who asks again brings another
	switch {
	case err != nil:
		// Whatever it was may pass or be mended: the device can ask the same again.
		a.again, a.until = now.Add(failedLife), now.Add(laterLife)
		if errs.Is(err, errs.Unavailable) || errs.Is(err, errs.Internal) {
			a.err = errs.WithRetry(err, failedLife)
		}
	case message == nil:
		a.again, a.until = now.Add(min(max(retry, minLater), maxLater)), now.Add(max(laterLife, 2*retry))
	default:
		a.rvr = nil // all that is left to do is to answer
		a.again, a.until = time.Time{}, now.Add(answerLife)
		if !a.ends.IsZero() && a.ends.Before(a.until) {
			a.until = a.ends
		}
	}
	close(a.done)
}

// log tells the operator what a MASA would not do. What it refused stands in the record as well, but for its own words.
func (s *Service) log(ctx context.Context, p *pledge, err error) {
	level := slog.LevelWarn
	if errs.Is(err, errs.Internal) {
		level = slog.LevelError
	}
	s.Log.LogAttrs(ctx, level, "no voucher could be had for a device", slog.String("device", p.id()), slog.String("masa", p.host()), slog.Any("cause", err))
}

// host names the MASA.
func (p *pledge) host() string {
	if p.url == "" {
		return maker.OwnMASA
	}
	u, err := url.Parse(p.url)
	if err != nil {
		return ""
	}
	return u.Host
}

// obtain gets the voucher and looks at it, and at the device's history. It is recorded before anybody has it.
func (s *Service) obtain(ctx context.Context, a *asked) (message []byte, retry time.Duration, err error) {
	p := a.pledge
	if a.rvr == nil {
		if a.rvr, err = p.sign(s.Now()); err != nil {
			return nil, 0, fmt.Errorf("making the registrar's voucher request: %w", err)
		}
	}
	masa := s.Remote
	if p.url == "" {
		masa = s.Own
	}
	ask := &Ask{URL: p.url, Given: p.masa.Where != maker.IDevIDMASA, Trusted: p.masa.Trusted, By: p.by, Request: a.rvr}
	message, retry, err = masa.Voucher(ctx, ask)
	if err != nil || message == nil {
		return nil, retry, err
	}
	v, err := s.checkVoucher(p, message)
	if err != nil {
		return nil, 0, err
	}
	a.ends = v.ExpiresOn
	events := "not asked for"
	if p.device.Tags[HistoryTag] != HistoryAccepted {
		log, err := masa.Log(ctx, ask)
		if err != nil {
			return nil, 0, noLog(err)
		}
		if err := s.checkHistory(p, log); err != nil {
			return nil, 0, err
		}
		events = strconv.Itoa(len(log.Events))
	}
	return message, 0, s.record(ctx, p, v, events)
}

// sign makes the registrar voucher-request (RFC 8995, section 5.5).
func (p *pledge) sign(now time.Time) ([]byte, error) {
	r := voucher.Request{CreatedOn: now.UTC(), Assertion: voucher.Proximity, SerialNumber: p.product.Serial, IDevIDIssuer: voucher.IDevIDIssuer(p.leaf),
		Nonce: p.request.Nonce, PriorSigned: p.message}
	return r.Sign(p.by.Key, p.by.Certificate, p.by.Above, rand.Reader)
}

// noLog says of a failure to get the log what the owner can do where the service has none.
func noLog(err error) error {
	if errs.Is(err, errs.Unavailable) || errs.Is(err, errs.Internal) || errors.Is(err, context.Canceled) {
		return err
	}
	return errs.Wrap(errs.Conflict, err, "the manufacturer's service does not say who else has vouchers for the device; to take it all the same, give it the tag %s=%s", HistoryTag, HistoryAccepted)
}

// record says in the record that there is a voucher for the device.
func (s *Service) record(ctx context.Context, p *pledge, v *voucher.SignedVoucher, events string) error {
	sum := sha256.Sum256(v.Raw)
	return s.DB.Do(ctx, func(ctx context.Context, tx *db.Tx) error {
		return s.Audit.Append(ctx, tx, audit.Entry{At: s.Now().Unix(), Action: "registrar.voucher", Actor: access.Device(p.id(), surface).String(), Device: p.id(),
			Detail: map[string]string{"manufacturer": p.product.Maker, "masa": p.host(), "assertion": string(v.Assertion), "voucher": hex.EncodeToString(sum[:]),
				"registrar": hex.EncodeToString(p.by.Certificate.SerialNumber.Bytes()), "log": events}})
	})
}
