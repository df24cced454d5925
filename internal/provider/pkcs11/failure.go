//go:build pkcs11

package pkcs11

import (
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"mooring/internal/base/errs"
)

// isCode reports whether err is one of the codes.
func isCode(err error, codes ...uint) bool {
	var code pkcs11.Error
	return errors.As(err, &code) && slices.Contains(codes, uint(code))
}

// absence says that no slot holds the token.
type absence struct{ token, others string }

func (a *absence) Error() string {
	return fmt.Sprintf("no slot holds the token %q%s", a.token, a.others)
}

// lost reports whether a new login may help: the session, the token or the module's state is gone.
func lost(err error) bool {
	var gone *absence
	return errors.As(err, &gone) || isCode(err,
		pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_DEVICE_ERROR,
		pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_SLOT_ID_INVALID, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED,
		pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_KEY_HANDLE_INVALID, pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED)
}

// explain gives an error of the module a kind and a text.
func (t *token) explain(err error) error {
	var gone *absence
	switch {
	case err == nil || errs.KindOf(err) != errs.Internal:
		return err
	case errors.As(err, &gone):
		return errs.Wrap(errs.Unavailable, err, "the token %q is not there%s: plug it in, or correct keys.pkcs11.token", gone.token, gone.others)
	case lost(err):
		return errs.Wrap(errs.Unavailable, err, "the token %q is not usable: check that it is plugged in and whole", t.o.Token)
	case isCode(err, pkcs11.CKR_SESSION_COUNT):
		return errs.Wrap(errs.Unavailable, err, "the token %q permits no further session", t.o.Token)
	case isCode(err, pkcs11.CKR_TOKEN_WRITE_PROTECTED, pkcs11.CKR_DEVICE_MEMORY):
		return errs.Wrap(errs.Unavailable, err, "the token %q takes no further key: it is full or write-protected", t.o.Token)
	}
	return errs.Wrap(errs.Unavailable, err, "the token %q refuses: %v", t.o.Token, err)
}
