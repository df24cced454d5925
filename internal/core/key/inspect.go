package key

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"mooring/internal/base/errs"
)

// Inspector is a Custody that can say what it holds without using it. Inspect looks at the place where the key is kept, not at what was loaded
// from it: NotFound says that the key is not there, any other error that it is there or not and cannot be used.
type Inspector interface {
	IDs(ctx context.Context) ([]ID, error)
	Inspect(ctx context.Context, id ID) (Info, error)
}

// IDs lists the keys of the directory in their order. Nothing is decrypted.
func (s *Store) IDs(ctx context.Context) ([]ID, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "the key directory %s cannot be read", s.dir)
	}
	ids := []ID{}
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), "."+kindKey); ok {
			ids = append(ids, ID(id))
		}
	}
	slices.Sort(ids)
	return ids, ctx.Err()
}

// Inspect describes a key by its file, which is authenticated.
func (s *Store) Inspect(ctx context.Context, id ID) (Info, error) {
	if err := ctx.Err(); err != nil {
		return Info{}, err
	}
	h, plaintext, err := s.read(kindKey, string(id))
	clear(plaintext)
	if errors.Is(err, fs.ErrNotExist) || !secretName.MatchString(string(id)) {
		return Info{}, errs.Wrap(errs.NotFound, err, "there is no file %s: restore it from a backup", s.path(kindKey, string(id)))
	}
	if err != nil {
		return Info{}, err
	}
	return h.info(), nil
}
