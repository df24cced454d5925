// Package pkcs11 keeps private keys in a token that speaks PKCS #11 (OASIS, versions 2.40 and 3.0): a hardware security module, a smart card,
// or SoftHSM. It is a custody as key.Custody describes: keys are made in the token, marked sensitive and not extractable, which is read back,
// and never leave it.
//
//	token, err := pkcs11.Open(ctx, pkcs11.Options{Module: "/usr/lib/softhsm/libsofthsm2.so", Token: "mooring", PIN: readPIN, Now: now})
//	id, pub, err := token.Generate(ctx, key.P384, "ca root")
//	signer, err := token.Signer(ctx, id)
//
// A token is named by its label or serial number, never by a slot, whose number changes. A key's id is its CKA_ID in hex, 16 random octets;
// labels are for people. A bounded number of sessions is kept open; who finds none free within the time limit is told Unavailable, and so is
// who waits for a token that does not answer. When the token or its session is gone, it is opened and logged in to once more, and if that
// does not help, the error is Unavailable and the next use tries again. A PIN that was refused is not tried again by this process, because a
// token locks itself after a few wrong ones.
//
// Modules come as C libraries, so this is the only package that needs cgo, and only with the build tag pkcs11. Without it the package is
// empty but for an Open that says so, and the program stays one static file. A module is initialised once for a process: two Tokens of one
// module may live side by side, but when one of them finds its token gone, it initialises the module anew, which ends the other's sessions
// and makes it open its own again.
//
// The package deliberately imports no keys, deletes none, and sets no PIN: that is done with the maker's tools.
package pkcs11

import (
	"context"
	"time"

	"mooring/internal/core/key"
)

// Options say which token and how to log in to it.
type Options struct {
	Module string // path of the module, a shared library
	Token  string // label or serial number of the token
	// PIN reads the user's PIN. It is called for every login, so that a changed file is seen.
	PIN func() ([]byte, error)
	Now func() time.Time

	Sessions int           // operations at once; 0 = 16
	Wait     time.Duration // how long one operation may take, with the wait for a session; 0 = 5 s. Making a key may take a minute
}

// Custody is what Open returns: the keys of one token.
type Custody interface {
	key.Custody
	key.Inspector
	// Close ends the sessions. Signers return Unavailable afterwards.
	Close() error
}

// Open loads the module, finds the token and logs in. A module that cannot be loaded is an error of kind Invalid, a PIN that the token refuses one
// of kind Denied. When the token is away, or does not let anybody in at present, the error is of kind Unavailable and the Custody is usable
// all the same: it looks for the token again whenever a key is asked for.
func Open(ctx context.Context, o Options) (Custody, error) { return open(ctx, o) }
