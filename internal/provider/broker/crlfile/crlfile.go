// Package crlfile keeps the file of revocation lists from which a broker knows whose certificates were revoked: mosquitto's crlfile, VerneMQ's, HiveMQ's. It
// runs beside the broker, as "mooring broker-agent".
//
// Every so often it fetches the lists of some CAs from the status listener, checks each, writes all into one file of PEM (RFC 7468, section 6) if anything has
// changed, and has the broker read it.
//
// A CA with shards publishes a list for each of them at once when something is revoked, and its complete list only every few hours. So the lists of all its
// shards are what goes into the file: ".../crl/devices/[0-255].crl". Programs with OpenSSL pick the right one by its distribution point.
//
// What goes wrong must not make things worse. Brokers refuse everybody when a list in the file is over, is not signed by the CA, or cannot be read
// (OpenSSL's "CRL has expired"). So a list is taken only if the CA signed it, it is valid now and it is not older than the one before; the file is
// replaced as a whole or not at all; and what cannot be fetched stays as it was. When less than a third of the time is left for which a list is valid, which is
// when it should have been renewed twice, there is an alarm, each round.
package crlfile

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"mooring/internal/base/errs"
)

// Options say what is kept where.
type Options struct {
	URLs    []string            // of the lists, in DER or PEM
	Issuers []*x509.Certificate // of the CAs that sign them
	Path    string              // the file
	// Reload has the broker read the file; nil = that is somebody else's affair. It is called after each change, once at the start, and again while it fails.
	Reload func(ctx context.Context) error
	Every  time.Duration
	Client *http.Client
	Now    func() time.Time
	Log    *slog.Logger
}

// Alarm says that a list is going to be over.
type Alarm struct {
	URL   string
	Left  time.Duration // until everybody is locked out; not more than 0: they are
	Cause error         // why there is no newer one; nil = the CA has none
}

const (
	maxList  = 64 << 20 // octets: about two million revoked certificates
	minEvery = time.Second
	maxRange = 1024
	maxTold  = 3 // lists whose failure is told by name
)

// Keeper keeps the file. It belongs to one goroutine.
type Keeper struct {
	o      Options
	lists  []list
	loaded bool // the broker has read the file
}

// list is the newest good list of one address.
type list struct {
	raw    []byte
	tag    string   // the ETag that it came with
	number *big.Int // nil = the CA does not number them
	begin  time.Time
	end    time.Time
}

// New returns a keeper. Lists that lie in the file already are taken up, so that an old one cannot come after a newer one, and a failure to fetch one at the
// start does not remove it.
func New(o Options) (*Keeper, error) {
	switch {
	case len(o.URLs) == 0 || len(o.Issuers) == 0 || o.Path == "":
		return nil, errs.New(errs.Invalid, "addresses of lists, certificates of their CAs and a file are needed")
	case o.Every < minEvery:
		return nil, errs.New(errs.Invalid, "lists cannot be fetched more often than every second")
	}
	k := &Keeper{o: o, lists: make([]list, len(o.URLs))}
	text, err := os.ReadFile(o.Path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errs.Wrap(errs.Unavailable, err, "the file %s cannot be read", o.Path)
	}
	for i := range k.lists { // they were written in this order
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if l, err := k.check(block.Bytes, list{}); err == nil {
			k.lists[i] = l
		}
	}
	return k, nil
}

// Expand returns the addresses that an address with a range of numbers in brackets stands for, as curl has them: "a[0-2]" is a0, a1 and a2. There may be one
// range, of 1024 numbers at most.
func Expand(url string) ([]string, error) {
	before, rest, found := strings.Cut(url, "[")
	if !found {
		return []string{url}, nil
	}
	inside, after, closed := strings.Cut(rest, "]")
	low, high, ok := strings.Cut(inside, "-")
	from, err := strconv.ParseUint(low, 10, 16)
	to, err2 := strconv.ParseUint(high, 10, 16)
	if !closed || !ok || err != nil || err2 != nil || to < from || to-from >= maxRange || strings.Contains(after, "[") {
		return nil, errs.New(errs.Invalid, "%q has no range that can be understood: write one as [0-255]", url)
	}
	var list []string
	for n := from; n <= to; n++ {
		list = append(list, before+strconv.FormatUint(n, 10)+after)
	}
	return list, nil
}

// Run keeps the file until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	tick := time.NewTicker(k.o.Every)
	defer tick.Stop()
	for {
		alarms, err := k.Round(ctx)
		if err != nil && ctx.Err() == nil {
			k.o.Log.LogAttrs(ctx, slog.LevelError, "the broker has no new revocation lists", slog.Any("cause", err))
		}
		for _, a := range alarms {
			k.o.Log.LogAttrs(ctx, slog.LevelError, "a revocation list is going to be over, and then the broker refuses everybody", slog.String("url", a.URL), slog.Duration("left", a.Left), slog.Any("cause", a.Cause))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Round fetches all lists once, writes the file and has it read. Alarms come with and without an error.
func (k *Keeper) Round(ctx context.Context) (alarms []Alarm, err error) {
	now := k.o.Now()
	var failures []error
	missed := 0
	for i, url := range k.o.URLs {
		newest, err := k.fetch(ctx, url, k.lists[i])
		if err != nil {
			if missed++; missed <= maxTold {
				failures = append(failures, fmt.Errorf("fetching %s: %w", url, err))
			}
		} else {
			k.lists[i] = newest
		}
		if l := k.lists[i]; l.raw != nil && l.end.Sub(now) < l.end.Sub(l.begin)/3 || l.raw == nil {
			alarms = append(alarms, Alarm{URL: url, Left: max(0, l.end.Sub(now)), Cause: err})
		}
	}
	if missed > maxTold {
		failures = append(failures, fmt.Errorf("and so for %d lists in all", missed))
	}
	if err := k.write(ctx); err != nil {
		failures = append(failures, err)
	}
	return alarms, errors.Join(failures...)
}

// fetch gets a list and returns the newer of it and the one that we have.
func (k *Keeper) fetch(ctx context.Context, url string, have list) (list, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return list{}, errs.Wrap(errs.Invalid, err, "the address is none")
	}
	if have.tag != "" {
		r.Header.Set("If-None-Match", have.tag)
	}
	answer, err := k.o.Client.Do(r)
	if err != nil {
		return list{}, errs.Wrap(errs.Unavailable, err, "the status listener cannot be reached")
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusNotModified && have.raw != nil {
		return have, nil
	}
	if answer.StatusCode != http.StatusOK {
		return list{}, errs.New(errs.Unavailable, "the answer is %d", answer.StatusCode)
	}
	raw, err := io.ReadAll(io.LimitReader(answer.Body, maxList+1))
	if err != nil {
		return list{}, errs.Wrap(errs.Unavailable, err, "the list broke off")
	}
	if len(raw) > maxList {
		return list{}, errs.New(errs.Limited, "the list has more than %d octets: name the lists of shards in its place", maxList)
	}
	if block, _ := pem.Decode(raw); block != nil {
		raw = block.Bytes
	}
	l, err := k.check(raw, have)
	l.tag = answer.Header.Get("ETag")
	return l, err
}

// check takes a list if it can be used and is not older than have.
func (k *Keeper) check(raw []byte, have list) (list, error) {
	if bytes.Equal(raw, have.raw) {
		return have, nil
	}
	crl, err := x509.ParseRevocationList(raw)
	if err != nil {
		return list{}, errs.Wrap(errs.Invalid, err, "that is no revocation list")
	}
	if !k.signed(crl) {
		return list{}, errs.New(errs.Denied, "the list is signed by none of the CAs")
	}
	now := k.o.Now()
	switch {
	case crl.NextUpdate.IsZero() || !now.Before(crl.NextUpdate):
		return list{}, errs.New(errs.Conflict, "the list ended at %s", crl.NextUpdate.UTC().Format(time.RFC3339))
	case now.Before(crl.ThisUpdate):
		return list{}, errs.New(errs.Conflict, "the list begins at %s, and brokers would refuse everybody until then: is this machine's clock slow?", crl.ThisUpdate.UTC().Format(time.RFC3339))
	case have.number != nil && (crl.Number == nil || crl.Number.Cmp(have.number) < 0):
		return list{}, errs.New(errs.Conflict, "the list is older than the one before")
	}
	return list{raw: raw, number: crl.Number, begin: crl.ThisUpdate, end: crl.NextUpdate}, nil
}

func (k *Keeper) signed(crl *x509.RevocationList) bool {
	for _, c := range k.o.Issuers {
		if bytes.Equal(c.RawSubject, crl.RawIssuer) && crl.CheckSignatureFrom(c) == nil {
			return true
		}
	}
	return false
}

// write replaces the file if it is not what it should be, and has the broker read it. While a list is missing, nothing is written: the broker would refuse
// the things of that CA.
func (k *Keeper) write(ctx context.Context) error {
	var text bytes.Buffer
	for i, l := range k.lists {
		if l.raw == nil {
			return errs.New(errs.Unavailable, "there is no list of %s yet, so the file is not written", k.o.URLs[i])
		}
		if err := pem.Encode(&text, &pem.Block{Type: "X509 CRL", Bytes: l.raw}); err != nil {
			return err
		}
	}
	before, err := os.ReadFile(k.o.Path)
	if err != nil || !bytes.Equal(before, text.Bytes()) {
		k.loaded = false
		if err := replace(k.o.Path, text.Bytes()); err != nil {
			return errs.Wrap(errs.Unavailable, err, "the file %s cannot be written", k.o.Path)
		}
	}
	if k.loaded || k.o.Reload == nil {
		return nil
	}
	if err := k.o.Reload(ctx); err != nil {
		return fmt.Errorf("having the broker read its lists: %w", err)
	}
	k.loaded = true
	return nil
}

// replace writes a file so that whoever opens it finds the old or the new one, also after a crash. Brokers run as other users, so that all may read it: a
// revocation list is public.
func replace(path string, text []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil // the file is there; that its name is on the disk is as good as can be had
	}
	_ = dir.Sync()
	return dir.Close()
}
