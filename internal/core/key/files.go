package key

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"mooring/internal/base/errs"
)

// checkDir refuses a directory that others could read, list or change.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return errs.Wrap(errs.Unavailable, err, "the key directory %s cannot be read", dir)
	}
	if !info.IsDir() {
		return errs.New(errs.Unavailable, "%s is not a directory", dir)
	}
	return checkAccess(dir, info, 0o700)
}

// checkAccess refuses a file or directory that anyone but its owner may use, or that another user owns.
func checkAccess(path string, info fs.FileInfo, want fs.FileMode) error {
	if err := checkOwner(path, info); err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return errs.New(errs.Unavailable, "%s has mode %04o, which lets other users at it: run chmod %04o %s",
			path, info.Mode().Perm(), want, path)
	}
	return nil
}

// readPrivate reads a regular file of at most limit octets after checking owner and mode on the open file, not on the name.
func readPrivate(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "%s cannot be read: check that it exists and is yours, or restore it from a backup", path)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "%s cannot be read: check that it exists and is yours, or restore it from a backup", path)
	}
	if !info.Mode().IsRegular() {
		return nil, errs.New(errs.Unavailable, "%s is not a regular file", path)
	}
	if err := checkAccess(path, info, 0o600); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "%s cannot be read: check that it exists and is yours, or restore it from a backup", path)
	}
	if int64(len(data)) > limit {
		return nil, errs.New(errs.Unavailable, "%s is larger than %d octets: this is not a file of the key store", path, limit)
	}
	return data, nil
}

// writeNew creates the file name in dir whole or not at all, durably, and never replaces one: an existing file is fs.ErrExist.
// The finished temporary file is linked to its name, because a rename would overwrite silently and an exclusive create would
// leave half a file behind after a crash.
func writeNew(dir, name string, data []byte) (err error) {
	f, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("creating a file: %w", err)
	}
	defer func() {
		f.Close()
		if e := os.Remove(f.Name()); err == nil && e != nil {
			err = fmt.Errorf("removing a temporary file: %w", e)
		}
		if err == nil {
			err = syncDir(dir)
		}
	}()
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing %s to disk: %w", name, err)
	}
	if err := os.Link(f.Name(), filepath.Join(dir, name)); err != nil {
		return fmt.Errorf("naming %s: %w", name, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("opening %s: %w", dir, err)
	}
	return errors.Join(d.Sync(), d.Close())
}
