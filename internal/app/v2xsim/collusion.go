package v2xsim

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	agent "mooring/agent/v2x"
	"mooring/wire/its"
)

// Link is what somebody who has the whole store of one authority, or of both, can find in it.
type Link struct {
	Store    string `json:"store"`    // whose files were searched
	Stations int    `json:"stations"` // of how many vehicles there is a name, number, key or enrolment credential
	Tickets  int    `json:"tickets"`  // of how many tickets there is a digest or key
	Linked   int    `json:"linked"`   // of how many tickets it can be said whose they are
}

// Collusion searches the files of each authority, after it was closed, for whatever names vehicles and tickets. A store that has both could link them; one that has one
// kind alone can not. The enrolment authority has the registry beside it.
func (s *Simulation) Collusion() ([]Link, error) {
	whole, apart := s.o.Dir, s.Made.Dir
	ea, err := dump(whole, apart)
	if err != nil {
		return nil, err
	}
	aa, err := dump(apart, "")
	if err != nil {
		return nil, err
	}
	var links []Link
	for _, store := range []struct {
		name  string
		files [][]byte
	}{{"ea", ea}, {"aa", aa}} {
		l := Link{Store: store.name}
		for _, v := range s.fleet {
			if err := l.count(s, v, store.files); err != nil {
				return nil, err
			}
		}
		if l.Stations > 0 && l.Tickets > 0 {
			l.Linked = l.Tickets
		}
		links = append(links, l)
	}
	return links, nil
}

// judge says whether one authority alone can link.
func judge(links []Link) (err error) {
	for _, l := range links {
		if l.Linked > 0 {
			err = errors.Join(err, fmt.Errorf("the store of the %s alone links %d tickets to vehicles", l.Store, l.Linked))
		}
	}
	return err
}

func (l *Link) count(s *Simulation, v *vehicle, files [][]byte) error {
	traces, err := s.station(v)
	if err != nil {
		return err
	}
	if contains(files, traces) {
		l.Stations++
	}
	for _, t := range v.tickets {
		traces, err := ticket(t)
		if err != nil {
			return err
		}
		if contains(files, traces) {
			l.Tickets++
		}
	}
	return nil
}

// station is what a vehicle can be known by.
func (s *Simulation) station(v *vehicle) ([][]byte, error) {
	id, _ := s.Platform.Devices.IDOf(v.name)
	ec, err := v.credential.Certificate.HashedId8()
	if err != nil {
		return nil, err
	}
	return append(traces(ec), []byte(v.name), id[:], []byte(id.String()), v.credential.Certificate.ToBeSigned.VerifyKeyIndicator.VerificationKey.Point.X,
		[]byte(v.credential.Certificate.ToBeSigned.Id.Name)), nil
}

// ticket is what a ticket can be known by.
func ticket(t *agent.Ticket) ([][]byte, error) {
	id, err := t.Certificate.HashedId8()
	if err != nil {
		return nil, err
	}
	x := t.Certificate.ToBeSigned.VerifyKeyIndicator.VerificationKey.Point.X
	return append(traces(id), x, []byte(hex.EncodeToString(x))), nil
}

func traces(id its.HashedId8) [][]byte {
	return [][]byte{id[:], []byte(id.String()), []byte(strings.ToLower(id.String()))}
}

func contains(files, traces [][]byte) bool {
	for _, f := range files {
		for _, t := range traces {
			if bytes.Contains(f, t) {
				return true
			}
		}
	}
	return false
}

// dump reads all files below a directory, but those below another one.
func dump(dir, without string) (files [][]byte, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && without != "" && path == without:
			return filepath.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		files = append(files, b)
		return err
	})
	return files, err
}
