package key

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"mooring/internal/base/errs"
	"mooring/wire/der"
)

const storeFile = "store.json"

// Passphrases shorter than this are refused when a store is made.
const minUnlock = 8

// Options tune a store. The zero value is right.
type Options struct {
	LogN int // scrypt cost 2^LogN for a new store; at least and by default 15, at most 20
}

// Info describes a key without touching its private part.
type Info struct {
	ID        ID
	Label     string
	Algorithm Algorithm
	SPKI      [32]byte // SHA-256 of the SubjectPublicKeyInfo
}

// Store keeps keys and secrets in one directory. It is safe for many goroutines, and several processes may use one directory at once,
// because files are only ever added. Its zero value is not usable: see Open and Create.
type Store struct {
	dir  string
	lock []byte // store.json
	box  *sealer

	mu     sync.Mutex // guards loaded
	loaded map[ID]*Signer
}

// Create makes a store in dir, which must not hold one yet, locked by unlock. The directory is made if it is missing.
func Create(dir string, unlock []byte, o Options) (*Store, error) {
	if len(unlock) < minUnlock {
		return nil, errs.New(errs.Invalid, "the unlock material is too short: use at least %d characters", minUnlock)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "the key directory %s cannot be made", dir)
	}
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	lock, keys, err := newLock(unlock, o)
	if err != nil {
		return nil, err
	}
	switch err := writeNew(dir, storeFile, lock); {
	case errors.Is(err, fs.ErrExist):
		return nil, errs.New(errs.Conflict, "%s already holds a key store: open it, or use another directory", dir)
	case err != nil:
		return nil, errs.Wrap(errs.Unavailable, err, "the key store in %s cannot be written", dir)
	}
	return newStore(dir, lock, keys)
}

// Open opens the store in dir. A wrong unlock is an error of kind Denied; a missing, damaged or carelessly protected store one of kind
// Unavailable, whose text says what to do.
func Open(dir string, unlock []byte, _ Options) (*Store, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	data, err := readPrivate(filepath.Join(dir, storeFile), maxContainer)
	if err != nil {
		return nil, err
	}
	keys, err := openLock(data, unlock)
	if err != nil {
		return nil, fmt.Errorf("opening the key store in %s: %w", dir, err)
	}
	return newStore(dir, data, keys)
}

// Reopen opens the store in dir, which must be s's own or a copy of it, with the master key that s has: who has unlocked a store need not wait
// for scrypt again. Another store is an error of kind Conflict.
func (s *Store) Reopen(dir string) (*Store, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	lock, err := readPrivate(filepath.Join(dir, storeFile), maxContainer)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(lock, s.lock) {
		return nil, errs.New(errs.Conflict, "%s holds another key store than that which was unlocked", dir)
	}
	return &Store{dir: dir, lock: lock, box: s.box, loaded: map[ID]*Signer{}}, nil
}

func newStore(dir string, lock []byte, keys derived) (*Store, error) {
	box, err := newSealer(keys.container)
	if err != nil {
		return nil, err
	}
	return &Store{dir: dir, lock: lock, box: box, loaded: map[ID]*Signer{}}, nil
}

// String names the store without showing what it holds.
func (s *Store) String() string { return "key store " + s.dir }

// Format prints String for every verb; see Signer.
func (s *Store) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// LogValue logs String.
func (s *Store) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Generate makes a key and returns when it is on disk. Label is for people and at most 200 octets.
func (s *Store) Generate(ctx context.Context, alg Algorithm, label string) (ID, crypto.PublicKey, error) {
	if err := ctx.Err(); err != nil {
		return "", nil, err
	}
	if len(label) > 200 {
		return "", nil, errs.New(errs.Invalid, "the key's label is longer than 200 octets")
	}
	priv, err := New(alg)
	if err != nil {
		return "", nil, err
	}
	pkcs8, err := der.EncodePrivateKey(priv)
	if err != nil {
		return "", nil, err
	}
	sum, err := spkiSum(priv.Public())
	if err != nil {
		return "", nil, err
	}
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", nil, err
	}
	id := ID(hex.EncodeToString(random[:]))
	h := header{Version: 1, Kind: kindKey, ID: string(id), Label: label, Algorithm: alg, SPKI: hex.EncodeToString(sum[:])}
	if err := s.add(h, pkcs8); err != nil {
		return "", nil, errs.Wrap(errs.Unavailable, err, "the new key cannot be stored")
	}
	return id, priv.Public(), nil
}

// Signer returns the key id, which it decrypts on first use and then keeps. The result is a *Signer. A missing, damaged or carelessly
// protected file is an error of kind Unavailable.
func (s *Store) Signer(ctx context.Context, id ID) (crypto.Signer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	k := s.loaded[id]
	s.mu.Unlock()
	if k != nil {
		return k, nil
	}
	k, err := s.load(id) // without the lock, so that a slow disk holds up nobody whose key is here
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if first := s.loaded[id]; first != nil { // one Signer for each key counts all its uses
		return first, nil
	}
	s.loaded[id] = k
	return k, nil
}

// Uses returns, for every key in use, how many signatures it made since the store was opened.
func (s *Store) Uses() map[ID]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	uses := make(map[ID]uint64, len(s.loaded))
	for id, k := range s.loaded {
		uses[id] = k.Uses()
	}
	return uses
}

// List describes all keys in the order of their labels. Each file is authenticated; the first that fails is the error.
func (s *Store) List(ctx context.Context) ([]Info, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "the key directory %s cannot be read", s.dir)
	}
	var list []Info
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".key")
		if !ok {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, _, err := s.read(kindKey, id)
		if err != nil {
			return nil, err
		}
		list = append(list, h.info())
	}
	slices.SortFunc(list, func(a, b Info) int { return cmp.Or(cmp.Compare(a.Label, b.Label), cmp.Compare(a.ID, b.ID)) })
	return list, nil
}

var secretName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,63}$`)

// Secret returns the named secret of size octets (16 to 64), random, which it makes when there is none yet. Two callers that race get the same one.
func (s *Store) Secret(ctx context.Context, name string, size int) ([]byte, error) {
	if !secretName.MatchString(name) || size < 16 || size > 64 {
		return nil, errs.New(errs.Invalid, "a secret needs a name of small letters, digits, dots and hyphens and 16 to 64 octets, not %q and %d", name, size)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := os.Stat(s.path(kindSecret, name)); errors.Is(err, fs.ErrNotExist) {
		fresh := make([]byte, size)
		if _, err := rand.Read(fresh); err != nil {
			return nil, err
		}
		// Losing a race is no error: what the winner stored is read below.
		err := s.add(header{Version: 1, Kind: kindSecret, ID: name}, fresh)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, errs.Wrap(errs.Unavailable, err, "the secret %s cannot be stored", name)
		}
	}
	_, secret, err := s.read(kindSecret, name)
	if err != nil {
		return nil, err
	}
	if len(secret) != size {
		return nil, errs.New(errs.Conflict, "the secret %s has %d octets, and %d are asked for", name, len(secret), size)
	}
	return secret, nil
}

func (s *Store) path(kind, id string) string { return filepath.Join(s.dir, id+"."+kind) }

func (s *Store) add(h header, plaintext []byte) error {
	data, err := s.box.seal(h, plaintext)
	if err != nil {
		return err
	}
	return writeNew(s.dir, h.ID+"."+h.Kind, data)
}

func (s *Store) read(kind, id string) (header, []byte, error) {
	if !secretName.MatchString(id) { // ids of keys have the same alphabet; nothing may leave the directory
		return header{}, nil, errs.New(errs.Unavailable, "there is no %s %q in the store", kind, id)
	}
	path := s.path(kind, id)
	data, err := readPrivate(path, maxContainer)
	if err != nil {
		return header{}, nil, err
	}
	h, plaintext, err := s.box.open(kind, id, data)
	if err != nil {
		return header{}, nil, errs.Wrap(errs.Unavailable, err, "%s is not usable: restore it from a backup", path)
	}
	return h, plaintext, nil
}

func (s *Store) load(id ID) (*Signer, error) {
	h, pkcs8, err := s.read(kindKey, string(id))
	if err != nil {
		return nil, err
	}
	priv, err := der.ParsePrivateKey(pkcs8)
	clear(pkcs8)
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "the key %s is not usable: restore it from a backup", id)
	}
	sum, err := spkiSum(priv.Public())
	if err != nil {
		return nil, err
	}
	info := h.info()
	if alg, _ := AlgorithmOf(priv.Public()); alg != info.Algorithm || sum != info.SPKI {
		return nil, errs.New(errs.Unavailable, "the key %s is not the one its file describes: restore it from a backup", id)
	}
	return &Signer{info: info, priv: priv}, nil
}

func (h header) info() Info {
	info := Info{ID: ID(h.ID), Label: h.Label, Algorithm: h.Algorithm}
	hex.Decode(info.SPKI[:], []byte(h.SPKI)) // authenticated, so it is what we wrote
	return info
}

func spkiSum(pub crypto.PublicKey) ([32]byte, error) {
	spki, err := der.EncodePublicKey(pub)
	return sha256.Sum256(spki), err
}
