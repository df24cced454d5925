package device

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
)

// TestTokenSecret derives tokens again, in every state that they can be in.
func TestTokenSecret(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	d, bare := w.add(t, Spec{Name: "a"}), w.add(t, Spec{Name: "bare"})
	first, _, err := w.Token(ctx, operator, d.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	text, until, err := w.Token(ctx, operator, d.ID, 0)
	if err != nil || text == first {
		t.Fatalf("a second token: got %q after %q, %v", text, first, err)
	}
	if got, err := w.TokenSecret(ctx, "a"); err != nil || got != text {
		t.Errorf("TokenSecret: got %q, %v, want %q", got, err, text)
	}
	wrong := map[string]string{}
	for _, name := range []string{"nobody", "bare", ""} {
		got, err := w.TokenSecret(ctx, name)
		if got != "" || !errors.Is(err, ErrTokenWrong) || !errs.Is(err, errs.Denied) {
			t.Errorf("TokenSecret(%q): got %q, %v, want ErrTokenWrong", name, got, err)
		}
		wrong[errs.Public(err)] = name
	}

	c := w.claim(w.load(t, d.ID), 1)
	if c.Token, err = HashToken(text); err != nil {
		t.Fatal(err)
	}
	if refused := w.enrol(t, c); refused[0] != nil {
		t.Fatal(refused[0])
	}
	if got, err := w.TokenSecret(ctx, "a"); got != text || !errors.Is(err, ErrTokenUsed) {
		t.Errorf("used: got %q, %v, want the text and ErrTokenUsed", got, err)
	}
	late, _, err := w.Token(ctx, operator, bare.ID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	w.now = time.Unix(until, 0)
	if got, err := w.TokenSecret(ctx, "bare"); got != late || !errors.Is(err, ErrTokenExpired) {
		t.Errorf("expired: got %q, %v, want the text and ErrTokenExpired", got, err)
	}

	// A token from before there were salts is good where the text itself is shown, and cannot be derived.
	w.do(t, func(ctx context.Context, tx *db.Tx) error {
		hash := sha256.Sum256(make([]byte, tokenSize))
		_, err := tx.Exec(ctx, `UPDATE device SET token = $1, token_salt = $2, token_until = $3, token_used = 0 WHERE name = 'a'`, hash[:], []byte{}, until+1)
		return err
	})
	got, err := w.TokenSecret(ctx, "a")
	if got != "" || !errors.Is(err, ErrTokenWrong) || !strings.Contains(errs.Public(err), "ask for a new token") {
		t.Errorf("a token without a salt: got %q, %v", got, err)
	}
	wrong[errs.Public(err)] = "a"
	if len(wrong) != 1 {
		t.Errorf("texts of what is wrong: got %q, want one for all", wrong)
	}
	other, err := HashToken(encodeTokenText(make([]byte, tokenSize)))
	old := w.load(t, d.ID)
	if err != nil || old.TokenMatches(other, until) != nil {
		t.Errorf("the same token shown: got %v, %v, want success", err, old.TokenMatches(other, until))
	}
}

// TestTokensDifferByInstallation wants the deployment key to be what a token follows from.
func TestTokensDifferByInstallation(t *testing.T) {
	w := newWorld(t)
	id, salt := ID{1}, bytes.Repeat([]byte{2}, saltSize)
	here := w.tokenSecret(id, salt)
	w.setKey(bytes.Repeat([]byte{8}, 32))
	if there := w.tokenSecret(id, salt); bytes.Equal(here, there) || len(here) != tokenSize {
		t.Errorf("secrets under two deployment keys: got %x and %x", here, there)
	}
}
