package ceremony

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"mooring/internal/base/errs"
	"mooring/internal/core/ceremony/minutes"
)

// The files of a root.
const (
	stateFile  = "root.json"
	recordFile = "record.txt"
	lockFile   = "lock"
)

// state is root.json.
type state struct {
	Version int    `json:"version"`
	Custody string `json:"custody,omitempty"` // "" = the store in keys/
	Key     string `json:"key"`               // id in the custody
	Entries int    `json:"entries"`           // of the record, at least
	Head    string `json:"head"`              // hash of the last of them
	CRL     int64  `json:"crl_number"`        // of the last revocation list, reserved before it is signed
}

func (r *Root) path(name string) string { return filepath.Join(r.dir, name) }

// exists tells a person who named the wrong directory.
func (r *Root) exists() error {
	if _, err := os.Stat(r.path(recordFile)); err != nil {
		return errs.Wrap(errs.NotFound, err, "there is no root in %s: make one with mooring ca root create, or name its directory with --root", r.dir)
	}
	return nil
}

// vacant refuses to make a second root in one directory. A state without a record is what a creation left that was interrupted: nothing came
// of it.
func (r *Root) vacant() error {
	if _, err := os.Stat(r.path(recordFile)); !errors.Is(err, fs.ErrNotExist) {
		return errs.New(errs.Conflict, "%s holds a root already; nothing was changed. Choose another directory", r.dir)
	}
	return nil
}

// open makes the directory if need be and locks it.
func (r *Root) open() error {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return errs.Wrap(errs.Unavailable, err, "the directory %s cannot be made", r.dir)
	}
	var err error
	r.unlock, err = lock(r.path(lockFile))
	return err
}

// load reads and verifies the state and the record. A record that reaches further than the state is what a power cut leaves: its entries are
// signed, so they count.
func (r *Root) load() error {
	data, err := readFile(r.path(stateFile))
	if err != nil {
		return err
	}
	decode := json.NewDecoder(bytes.NewReader(data))
	decode.DisallowUnknownFields()
	if err := decode.Decode(&r.state); err != nil || r.state.Version != 1 {
		return errs.Wrap(errs.Unavailable, err, "%s is damaged: restore the directory of the root from a backup", r.path(stateFile))
	}
	text, err := readFile(r.path(recordFile))
	if err != nil {
		return err
	}
	if r.record, err = minutes.Parse(text); err != nil {
		return errs.Wrap(errs.Unavailable, err, "%s is damaged: restore the directory of the root from a backup", r.path(recordFile))
	}
	r.cert = r.record.Root
	if n := r.state.Entries; n < 0 || n > len(r.record.Entries) || n > 0 && hex.EncodeToString(r.record.Entries[n-1].Hash[:]) != r.state.Head {
		return errs.New(errs.Unavailable, "%s was cut short or comes from another backup than %s, which knows of %d entries: restore both from one backup", r.path(recordFile), stateFile, n)
	}
	if r.state.Entries < len(r.record.Entries) {
		return r.storeState()
	}
	return nil
}

// store writes the record, which is what counts, and then the state.
func (r *Root) store() error {
	if err := replace(r.path(recordFile), r.record.Text()); err != nil {
		return err
	}
	return r.storeState()
}

func (r *Root) storeState() error {
	if n := len(r.record.Entries); n > 0 {
		r.state.Entries, r.state.Head = n, hex.EncodeToString(r.record.Entries[n-1].Hash[:])
	}
	data, err := json.MarshalIndent(r.state, "", "  ")
	if err != nil {
		return err
	}
	return replace(r.path(stateFile), append(data, '\n'))
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "%s cannot be read: check that it exists and is yours, or restore it from a backup", path)
	}
	defer f.Close() // read only: nothing to lose
	data, err := io.ReadAll(io.LimitReader(f, minutes.MaxRecord+1))
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "%s cannot be read", path)
	}
	return data, nil
}

// replace writes a file so that a power cut leaves the old content or the new.
func replace(path string, data []byte) (err error) {
	defer func() {
		if err != nil {
			err = errs.Wrap(errs.Unavailable, err, "%s cannot be written", path)
		}
	}()
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("opening the directory: %w", err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}
