//go:build pkcs11

package pkcs11

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"mooring/internal/base/errs"
	"mooring/internal/core/key"
)

// harmed is SoftHSM with faults. Each hook may return what happens instead of the call.
type harmed struct {
	module
	info   func(*pkcs11.TokenInfo)
	login  func() error
	sign   func() error
	read   func(a *pkcs11.Attribute)
	open   func() error
	logins *atomic.Int64 // counts calls if not nil
}

func (h *harmed) GetTokenInfo(slot uint) (pkcs11.TokenInfo, error) {
	i, err := h.module.GetTokenInfo(slot)
	if err == nil && h.info != nil {
		h.info(&i)
	}
	return i, err
}

func (h *harmed) Login(s pkcs11.SessionHandle, user uint, pin string) error {
	if h.logins != nil {
		h.logins.Add(1)
	}
	if h.login != nil {
		if err := h.login(); err != nil {
			return err
		}
	}
	return h.module.Login(s, user, pin)
}

func (h *harmed) OpenSession(slot, flags uint) (pkcs11.SessionHandle, error) {
	if h.open != nil {
		if err := h.open(); err != nil {
			return 0, err
		}
	}
	return h.module.OpenSession(slot, flags)
}

func (h *harmed) Sign(s pkcs11.SessionHandle, message []byte) ([]byte, error) {
	if h.sign != nil {
		if err := h.sign(); err != nil {
			return nil, err
		}
	}
	return h.module.Sign(s, message)
}

func (h *harmed) GetAttributeValue(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, a []*pkcs11.Attribute) ([]*pkcs11.Attribute, error) {
	got, err := h.module.GetAttributeValue(s, o, a)
	if err == nil && h.read != nil {
		for i := range got {
			h.read(got[i])
		}
	}
	return got, err
}

// openHarmed opens a new token through h, whose module it sets.
func openHarmed(t *testing.T, label string, h *harmed, change func(*Options)) (*token, error) {
	t.Helper()
	newToken(t, label)
	o := options(t, label)
	if change != nil {
		change(&o)
	}
	h.module = pkcs11.New(o.Module)
	c, err := openModule(t.Context(), o, h)
	if c != nil {
		t.Cleanup(func() { _ = c.Close() }) // some tests leave a call hanging
	}
	return c, err
}

func made256(t *testing.T, c key.Custody) (key.ID, crypto.Signer) {
	t.Helper()
	id, _, err := c.Generate(t.Context(), key.P256, "test")
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.Signer(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return id, s
}

func signs(s crypto.Signer) error {
	digest := sha256.Sum256([]byte("message"))
	signature, err := s.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err == nil && !verifies(s.Public(), digest[:], crypto.SHA256, signature) {
		err = fmt.Errorf("signature %x does not verify", signature)
	}
	return err
}

func wantError(t *testing.T, err error, kind errs.Kind, text string) {
	t.Helper()
	if !errs.Is(err, kind) || !strings.Contains(errs.Public(err), text) {
		t.Errorf("got %s %q (%v), want %s and %q", errs.KindOf(err), errs.Public(err), err, kind, text)
	}
}

func TestKeysAreFoundAgain(t *testing.T) {
	first, _ := opened(t, "again")
	id, s := made256(t, first)
	other, err := Open(t.Context(), options(t, "again"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := other.Signer(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if !s.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(again.Public()) {
		t.Error("the key found again is another one")
	}
	ids, err := other.IDs(t.Context())
	if err != nil || len(ids) != 1 || ids[0] != id {
		t.Errorf("IDs: got %v, %v, want %s", ids, err, id)
	}
	info, err := other.Inspect(t.Context(), id)
	if err != nil || info.ID != id || info.Label != "test" || info.Algorithm != key.P256 {
		t.Errorf("Inspect: got %+v, %v", info, err)
	}
	_, err = other.Inspect(t.Context(), "00112233445566778899aabbccddeeff")
	wantError(t, err, errs.NotFound, "there is no key 0011")
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	wantError(t, signs(again), errs.Unavailable, "was closed")
	if err := signs(s); err != nil {
		t.Errorf("closing one Token ended the other: %v", err)
	}
}

// TestParallelSigners has more signers than sessions, with keys of several kinds.
func TestParallelSigners(t *testing.T) {
	newToken(t, "parallel")
	o := options(t, "parallel")
	o.Sessions, o.Wait = 4, time.Minute
	c, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var signers []crypto.Signer
	for _, alg := range []key.Algorithm{key.P256, key.P384, key.RSA2048} {
		id, _, err := c.Generate(t.Context(), alg, "same label")
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.Signer(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		signers = append(signers, s)
	}
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for n := range 10 {
				if err := signs(signers[(i+n)%len(signers)]); err != nil {
					t.Errorf("signer %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestHashesAndPaddings(t *testing.T) {
	c, _ := opened(t, "paddings")
	sum384, sum512 := sha512.Sum384([]byte("m")), sha512.Sum512([]byte("m"))
	sum256 := sha256.Sum256([]byte("m"))
	for _, alg := range []key.Algorithm{key.RSA2048, key.P256, key.P384} {
		id, _, err := c.Generate(t.Context(), alg, "")
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.Signer(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		rows := []struct {
			digest []byte
			opts   crypto.SignerOpts
		}{{sum256[:], crypto.SHA256}, {sum384[:], crypto.SHA384}, {sum512[:], crypto.SHA512}}
		if alg == key.RSA2048 {
			for _, salt := range []int{rsa.PSSSaltLengthEqualsHash, rsa.PSSSaltLengthAuto, 20} {
				rows = append(rows, struct {
					digest []byte
					opts   crypto.SignerOpts
				}{sum256[:], &rsa.PSSOptions{SaltLength: salt, Hash: crypto.SHA256}})
			}
		}
		for _, row := range rows {
			signature, err := s.Sign(nil, row.digest, row.opts)
			if err != nil || !verifies(s.Public(), row.digest, row.opts, signature) {
				t.Errorf("%s with %v: %x, %v", alg, row.opts, signature, err)
			}
		}
		_, err = s.Sign(nil, sum256[:], crypto.SHA384)
		wantError(t, err, errs.Invalid, "a digest of 32 octets is none of SHA-384")
	}
}

func TestWrongPINIsTriedOnce(t *testing.T) {
	newToken(t, "wrong-pin")
	o := options(t, "wrong-pin")
	o.PIN = func() ([]byte, error) { return []byte("not-it"), nil }
	none, err := Open(t.Context(), o)
	wantError(t, err, errs.Denied, `the token "wrong-pin" refuses the PIN`)
	if none != nil {
		t.Error("there is a custody all the same")
	}
	if strings.Contains(fmt.Sprint(err), "not-it") {
		t.Errorf("the error shows the PIN: %v", err)
	}

	// A PIN that was changed while we run: the session goes, the next login is refused, and that is the last one.
	pin := userPIN
	h := harmed{logins: new(atomic.Int64)}
	c, err := openHarmed(t, "changed-pin", &h, func(o *Options) { o.PIN = func() ([]byte, error) { return []byte(pin), nil } })
	if err != nil {
		t.Fatal(err)
	}
	_, s := made256(t, c)
	pin = "old"
	h.sign = func() error { return pkcs11.Error(pkcs11.CKR_DEVICE_REMOVED) }
	for range 5 {
		wantError(t, signs(s), errs.Denied, "refuses the PIN")
	}
	if n := h.logins.Load(); n != 2 {
		t.Errorf("%d logins, want 2: one that went well and one that did not", n)
	}
}

func TestPINsThatCannotBeUsed(t *testing.T) {
	for name, row := range map[string]struct {
		h      harmed
		kind   errs.Kind
		want   string
		logins int64
	}{
		"locked, said by the login": {harmed{login: func() error { return pkcs11.Error(pkcs11.CKR_PIN_LOCKED) }}, errs.Denied, "has locked its PIN", 1},
		"locked, said before":       {harmed{info: func(i *pkcs11.TokenInfo) { i.Flags |= pkcs11.CKF_USER_PIN_LOCKED }}, errs.Denied, "has locked its PIN", 0},
		"last attempt":              {harmed{info: func(i *pkcs11.TokenInfo) { i.Flags |= pkcs11.CKF_USER_PIN_FINAL_TRY }}, errs.Denied, "one attempt left", 0},
		"no PIN set":                {harmed{info: func(i *pkcs11.TokenInfo) { i.Flags &^= pkcs11.CKF_USER_PIN_INITIALIZED }}, errs.Denied, "has no valid user PIN", 0},
		"expired":                   {harmed{login: func() error { return pkcs11.Error(pkcs11.CKR_PIN_EXPIRED) }}, errs.Denied, "has no valid user PIN", 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := row.h
			h.logins = new(atomic.Int64)
			_, err := openHarmed(t, "pin "+name, &h, nil)
			wantError(t, err, row.kind, row.want)
			if n := h.logins.Load(); n != row.logins {
				t.Errorf("%d logins, want %d", n, row.logins)
			}
		})
	}
	_, err := openHarmed(t, "pin-file", &harmed{}, func(o *Options) {
		o.PIN = func() ([]byte, error) { return nil, errs.New(errs.Unavailable, "pin has mode 0644") }
	})
	wantError(t, err, errs.Unavailable, "mode 0644")
}

func TestModulesThatCannotBeUsed(t *testing.T) {
	o := options(t, "x")
	o.Module = t.TempDir() + "/none.so"
	_, err := Open(t.Context(), o)
	wantError(t, err, errs.Invalid, "none.so cannot be read: check keys.pkcs11.module")
	if err := os.WriteFile(o.Module, []byte("no library"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), o)
	wantError(t, err, errs.Invalid, "none.so is no PKCS #11 module")
}

// TestTokenComesLater: a server that starts without its token finds it when it is there.
func TestTokenComesLater(t *testing.T) {
	now := time.Now()
	o := options(t, "later")
	o.Now = func() time.Time { return now }
	c, err := Open(t.Context(), o)
	wantError(t, err, errs.Unavailable, `the token "later" is not there`)
	if c == nil {
		t.Fatal("no custody without the token")
	}
	defer c.Close()
	_, err = c.IDs(t.Context())
	wantError(t, err, errs.Unavailable, "is not there")
	newToken(t, "later")
	_, err = c.IDs(t.Context())
	wantError(t, err, errs.Unavailable, "is not there") // asked for again only after a pause
	now = now.Add(pauseAfterFailure)
	_, s := made256(t, c)
	if err := signs(s); err != nil {
		t.Error(err)
	}
}

// TestTokenRemovedAndBack takes the token's files away under the signers' hands.
func TestTokenRemovedAndBack(t *testing.T) {
	var clock atomic.Int64
	dir := newToken(t, "removed")
	o := options(t, "removed")
	o.Now = func() time.Time { return time.Unix(1e9+clock.Add(2), 0) } // no pauses
	c, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	id, s := made256(t, c)
	aside := t.TempDir() + "/aside"
	if err := os.Rename(dir, aside); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				wantError(t, signs(s), errs.Unavailable, "the token \"removed\" is")
			}
		})
	}
	wg.Wait()
	_, err = c.Inspect(t.Context(), id)
	wantError(t, err, errs.Unavailable, "the token \"removed\" is")
	if found, err := c.Signer(t.Context(), id); err != nil || found != s {
		t.Errorf("the key is forgotten with the token away: %v", err)
	}
	if err := os.Rename(aside, dir); err != nil {
		t.Fatal(err)
	}
	if err := signs(s); err != nil {
		t.Errorf("after the token came back: %v", err)
	}
}

// TestLosses: one loss is mended without anybody noticing, a lasting one is Unavailable, and its end is found.
func TestLosses(t *testing.T) {
	var h harmed
	var now atomic.Int64
	c, err := openHarmed(t, "losses", &h, func(o *Options) { o.Now = func() time.Time { return time.Unix(1e9+now.Add(2), 0) } })
	if err != nil {
		t.Fatal(err)
	}
	_, s := made256(t, c)
	for _, code := range []uint{pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_DEVICE_ERROR,
		pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_KEY_HANDLE_INVALID, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED} {
		left := 1
		h.sign = func() error {
			if left--; left >= 0 {
				return pkcs11.Error(code)
			}
			return nil
		}
		if err := signs(s); err != nil {
			t.Errorf("one %v: %v", pkcs11.Error(code), err)
		}
		left = 2
		wantError(t, signs(s), errs.Unavailable, `the token "losses" is not usable`)
		if err := signs(s); err != nil {
			t.Errorf("after %v: %v", pkcs11.Error(code), err)
		}
	}
	h.sign = func() error { return pkcs11.Error(pkcs11.CKR_DATA_LEN_RANGE) }
	wantError(t, signs(s), errs.Unavailable, "refuses: pkcs11: 0x21: CKR_DATA_LEN_RANGE")
	h.sign = nil
	if err := signs(s); err != nil {
		t.Errorf("after a refusal: %v", err)
	}
}

// TestNothingHangs: a token that does not answer costs its callers the time limit and no more, and so does one with too much to do.
func TestNothingHangs(t *testing.T) {
	release := make(chan struct{})
	var hang atomic.Bool
	h := harmed{sign: func() error {
		if hang.Load() {
			<-release
		}
		return nil
	}}
	c, err := openHarmed(t, "hangs", &h, func(o *Options) { o.Sessions, o.Wait = 2, 50*time.Millisecond })
	if err != nil {
		t.Fatal(err)
	}
	id, s := made256(t, c)
	hang.Store(true)
	for range 2 {
		wantError(t, signs(s), errs.Unavailable, "does not answer")
	}
	wantError(t, signs(s), errs.Unavailable, "no session became free")
	_, err = c.Inspect(t.Context(), id)
	wantError(t, err, errs.Unavailable, "no session became free")
	given, giveUp := context.WithCancel(t.Context())
	giveUp()
	_, err = c.Inspect(given, id)
	wantError(t, err, errs.Unavailable, "")
	hang.Store(false)
	close(release)
	for range 2 { // the two that hung give their turns back
		c.turns <- struct{}{}
	}
	for range 2 {
		<-c.turns
	}
	if err := signs(s); err != nil {
		t.Errorf("after the token answered again: %v", err)
	}
}

func TestTokensThatDoNotKeepKeys(t *testing.T) {
	for name, kind := range map[string]uint{"readable": pkcs11.CKA_SENSITIVE, "extractable": pkcs11.CKA_EXTRACTABLE, "imported": pkcs11.CKA_NEVER_EXTRACTABLE, "for the session": pkcs11.CKA_TOKEN} {
		t.Run(name, func(t *testing.T) {
			h := harmed{}
			c, err := openHarmed(t, "keeps "+name, &h, nil)
			if err != nil {
				t.Fatal(err)
			}
			h.read = func(a *pkcs11.Attribute) {
				if a.Type == kind {
					a.Value = []byte{1 - a.Value[0]}
				}
			}
			_, _, err = c.Generate(t.Context(), key.P256, "x")
			wantError(t, err, errs.Unavailable, "does not keep the key to itself")
			h.read = nil
			if ids, err := c.IDs(t.Context()); err != nil || len(ids) > 0 {
				t.Errorf("%s: the refused key is left behind: %v, %v", name, ids, err)
			}
			id, _ := made256(t, c)
			c.signers.Clear()
			if kind == pkcs11.CKA_SENSITIVE || kind == pkcs11.CKA_EXTRACTABLE {
				h.read = func(a *pkcs11.Attribute) {
					if a.Type == kind {
						a.Value = []byte{1 - a.Value[0]}
					}
				}
				_, err = c.Signer(t.Context(), id)
				wantError(t, err, errs.Unavailable, "does not keep the key to itself")
			}
		})
	}
}

func TestForeignFormsOfPoints(t *testing.T) {
	var h harmed
	c, err := openHarmed(t, "points", &h, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, alg := range []key.Algorithm{key.P256, key.P384, key.Ed25519} {
		h.read = func(a *pkcs11.Attribute) {
			if a.Type == pkcs11.CKA_EC_POINT {
				a.Value = a.Value[2:] // without the OCTET STRING around it
			}
			if a.Type == pkcs11.CKA_EC_PARAMS && alg == key.Ed25519 {
				a.Value = []byte(nameEd25519)
			}
		}
		id, pub, err := c.Generate(t.Context(), alg, "")
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		h.read = nil
		s, err := c.Signer(t.Context(), id)
		if err != nil || !s.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(pub) {
			t.Errorf("%s without the wrapper is another key: %v", alg, err)
		}
		h.read = func(a *pkcs11.Attribute) {
			if a.Type == pkcs11.CKA_EC_POINT {
				a.Value[len(a.Value)/2] ^= 1
			}
		}
		c.signers.Clear()
		wrong, err := c.Signer(t.Context(), id)
		if alg == key.Ed25519 && err == nil { // not every change is seen in the point alone
			_, err = wrong.Sign(nil, []byte("m"), crypto.Hash(0))
		}
		if !errs.Is(err, errs.Unavailable) {
			t.Errorf("%s with a wrong public key: got %v, want kind unavailable", alg, err)
		}
		h.read = nil
	}
}

func TestNamesOfTokens(t *testing.T) {
	newToken(t, "twin")
	newToken(t, "twin")
	_, err := Open(t.Context(), options(t, "twin"))
	wantError(t, err, errs.Invalid, `2 tokens are called "twin": give keys.pkcs11.token the serial number`)

	library := pkcs11.New(options(t, "").Module)
	if err := library.Initialize(); err != nil && !isCode(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		t.Fatal(err)
	}
	slots, err := library.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	serial := ""
	for _, slot := range slots {
		info, err := library.GetTokenInfo(slot)
		if err != nil {
			t.Fatal(err)
		}
		if info.Label == "twin" {
			serial = info.SerialNumber
		}
	}
	if err := library.Finalize(); err != nil { // whoever initialises must also end it, for the tests that follow
		t.Fatal(err)
	}
	c, err := Open(t.Context(), options(t, serial))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, s := made256(t, c); signs(s) != nil {
		t.Errorf("the token with the serial number %q does not sign", serial)
	}
}

func TestAlgorithmsTheTokenLacks(t *testing.T) {
	c, _ := opened(t, "lacks")
	_, _, err := c.Generate(t.Context(), key.MLDSA65, "x")
	wantError(t, err, errs.Invalid, "cannot be made in a PKCS #11 token: use ec-p256, ec-p384, rsa-3072, or have this key in a file (--custody file)")
}

func TestNothingPrintsThePIN(t *testing.T) {
	c, _ := opened(t, "prints")
	_, s := made256(t, c)
	for _, text := range []string{fmt.Sprint(c), fmt.Sprintf("%v", s), fmt.Sprintf("%s", s)} {
		if strings.Contains(text, userPIN) || !strings.Contains(text, "token prints") {
			t.Errorf("printed %q", text)
		}
	}
}
