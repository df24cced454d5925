//go:build !pkcs11

package pkcs11

import (
	"context"

	"mooring/internal/base/errs"
)

func open(context.Context, Options) (Custody, error) {
	return nil, errs.New(errs.Invalid, "this build has no PKCS #11: build with CGO_ENABLED=1 go build -tags pkcs11 ./cmd/mooring, or keep the keys in files (keys.custody: file)")
}
