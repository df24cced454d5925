package app

import (
	"io"
	"os"
	"path/filepath"

	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/wire/der"
)

// maxWeakKeys bounds a file of fingerprints in octets. The longest that go round have some 20 MB.
const maxWeakKeys = 256 << 20

// loadWeakKeys reads the lists of enrol.weak_keys.
func loadWeakKeys(c *conf.Config) (all der.Blocklist, err error) {
	if c.Enrol.WeakKeys == "" {
		return all, nil
	}
	at := c.Path(c.Enrol.WeakKeys)
	files := []string{at}
	info, err := os.Stat(at)
	if err == nil && info.IsDir() {
		files, err = filesIn(at)
	}
	if err != nil {
		return all, errs.Wrap(errs.Invalid, err, "%s: enrol.weak_keys: %s cannot be read: name a file of fingerprints or a directory of such", c.Place("enrol.weak_keys"), at)
	}
	for _, name := range files {
		list, err := readWeakKeys(name)
		if err != nil {
			return all, errs.Wrap(errs.Invalid, err, "%s: enrol.weak_keys: %s: %v", c.Place("enrol.weak_keys"), name, err)
		}
		all.Merge(list)
	}
	if all.Len() == 0 {
		return all, errs.New(errs.Invalid, "%s: enrol.weak_keys: there are no fingerprints in %s: put a list there, or leave the key out", c.Place("enrol.weak_keys"), at)
	}
	return all, nil
}

func filesIn(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	return names, err
}

func readWeakKeys(name string) (*der.Blocklist, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only: nothing to lose
	data, err := io.ReadAll(io.LimitReader(f, maxWeakKeys+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxWeakKeys {
		return nil, errs.New(errs.Invalid, "the file is longer than %d octets", maxWeakKeys)
	}
	return der.ParseBlocklist(data)
}
