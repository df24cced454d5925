// Package durable writes files so that a crash or a loss of power at any moment leaves either the old content or the
// new one, never a part and never nothing. It follows POSIX: write beside, flush, rename over, flush the folder.
//
//	durable.WriteFile("dir/state.json", data, 0o600)
//	durable.Point("dir/current", "gen/2") // replaces a symbolic link
//
// It does not lock: two writers of one name are safe, but the later one wins.
package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// unfinished is the pattern of the names that files have until they are complete.
const unfinished = ".unfinished-*"

// Tidy removes from a folder what a crash left unfinished there. Nobody may be writing to the folder. The folder need not
// exist.
func Tidy(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, unfinished))
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// WriteFile replaces the content of a file. When it returns nil the content survives a loss of power. The mode is that of
// the new file whatever the old one had.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), unfinished)
	if err != nil {
		return err
	}
	if err := fill(f, data, mode); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), f.Close(), os.Remove(f.Name()))
	}
	if err := f.Close(); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), os.Remove(f.Name()))
	}
	return Rename(f.Name(), path)
}

func fill(f *os.File, data []byte, mode os.FileMode) error {
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// Rename moves a file or folder to a new name and flushes the folder that it goes to.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return flush(filepath.Dir(to))
}

// Point makes path a symbolic link to target, replacing the link that was there in one step.
func Point(path, target string) error {
	beside := path + ".new"
	if err := os.Remove(beside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, beside); err != nil {
		return err
	}
	return Rename(beside, path)
}

// Mkdir makes a folder and those above it, for the owner alone, and flushes the one it lies in. A folder that exists is
// left as it is.
func Mkdir(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	return flush(filepath.Dir(path))
}

func flush(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
