package app

import (
	"context"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/ceremony"
	"mooring/internal/core/key"
	"mooring/internal/provider/pkcs11"
)

// RootOptions say which offline root is meant and who uses it. Neither needs an installation.
type RootOptions struct {
	Dir    string
	Unlock string // what unlocks the key store, or is the PIN of the token: file:PATH, fd:N or prompt
	Prompt func() ([]byte, error)
	By     string
	With   []string
	Now    func() time.Time
}

func (o *RootOptions) deps() ceremony.Deps {
	if o.Now == nil {
		o.Now = time.Now
	}
	return ceremony.Deps{Now: o.Now, By: o.By, With: o.With}
}

// CreateRoot makes an offline root and, where its key is to lie in the directory, the encrypted store. Close what it returns.
func CreateRoot(ctx context.Context, o RootOptions, spec ceremony.Spec) (*ceremony.Root, error) {
	if spec.Custody != "" {
		custody, err := openToken(ctx, spec.Custody, o)
		if err != nil {
			return nil, err
		}
		return ceremony.Create(ctx, o.Dir, custody, spec, o.deps())
	}
	secret, err := key.ReadUnlock(o.Unlock, o.Prompt)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "the directory %s cannot be made", o.Dir)
	}
	store, err := rootStore(filepath.Join(o.Dir, "keys"), secret)
	if err != nil {
		return nil, err
	}
	return ceremony.Create(ctx, o.Dir, store, spec, o.deps())
}

// rootStore makes the key store of a root, or opens the one that an interrupted creation left.
func rootStore(dir string, secret []byte) (*key.Store, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return key.Create(dir, secret, key.Options{})
	}
	return key.Open(dir, secret, key.Options{})
}

// OpenRoot opens an offline root with its key. Close what it returns.
func OpenRoot(ctx context.Context, o RootOptions) (_ *ceremony.Root, err error) {
	r, err := ReadRoot(o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = r.Close() // nothing was changed
		}
	}()
	if r.Custody() != "" {
		custody, err := openToken(ctx, r.Custody(), o)
		if err != nil {
			return nil, err
		}
		r.UseCustody(custody)
		return r, nil
	}
	secret, err := key.ReadUnlock(o.Unlock, o.Prompt)
	if err != nil {
		return nil, err
	}
	store, err := key.Open(filepath.Join(o.Dir, "keys"), secret, key.Options{})
	if err != nil {
		return nil, err
	}
	r.UseCustody(store)
	return r, nil
}

// ReadRoot opens an offline root without its key, to look at it. Close what it returns.
func ReadRoot(o RootOptions) (*ceremony.Root, error) { return ceremony.Open(o.Dir, nil, o.deps()) }

// openToken opens the token that a PKCS #11 URI names (RFC 7512): "pkcs11:token=LABEL?module-path=PATH".
func openToken(ctx context.Context, uri string, o RootOptions) (key.Custody, error) {
	wrong := func(err error) error {
		return errs.Wrap(errs.Invalid, err, "%q names no token: write pkcs11:token=LABEL?module-path=/usr/lib/MODULE.so", uri)
	}
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "pkcs11" {
		return nil, wrong(err)
	}
	p := pkcs11.Options{Module: u.Query().Get("module-path"), Now: time.Now}
	for _, part := range strings.Split(u.Opaque, ";") {
		if label, ok := strings.CutPrefix(part, "token="); ok {
			if p.Token, err = url.PathUnescape(label); err != nil {
				return nil, wrong(err)
			}
		}
	}
	if p.Token == "" || p.Module == "" {
		return nil, wrong(nil)
	}
	// It is read once: a descriptor ends, a person was asked.
	p.PIN = sync.OnceValues(func() ([]byte, error) { return key.ReadUnlock(o.Unlock, o.Prompt) })
	return pkcs11.Open(ctx, p)
}
