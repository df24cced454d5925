package app

import (
	"context"
	"log/slog"

	"mooring/internal/base/errs"
	"mooring/internal/core/key"
	"mooring/internal/provider/pkcs11"
)

// openToken opens the PKCS #11 token of the configuration, if it names one. A token that is away does not keep the platform from starting:
// what the CAs in it have published goes on being served, and they sign again when it is back. A new installation needs it at once.
func (p *Platform) openToken(ctx context.Context) error {
	t := p.Config.Keys.PKCS11
	if t.Module == "" {
		return nil
	}
	source := "file:" + p.Config.Path(t.PINFile)
	if _, err := key.ReadUnlock(source, nil); err != nil { // before the token counts an attempt
		return err
	}
	token, err := pkcs11.Open(ctx, pkcs11.Options{Module: t.Module, Token: t.Token, Now: p.now,
		PIN: func() ([]byte, error) { return key.ReadUnlock(source, nil) }})
	if token != nil {
		p.token = token
	}
	if token != nil && errs.Is(err, errs.Unavailable) {
		p.log.LogAttrs(ctx, slog.LevelError, "the token is not usable: CAs whose keys are in it sign nothing until it is", slog.Any("cause", err))
		return nil
	}
	return err
}

// custodies puts the places for keys together.
func (p *Platform) custodies() *key.Custodies {
	places := map[key.Place]key.Custody{key.InFile: p.Keys}
	if p.token != nil {
		places[key.InToken] = p.token
	}
	return key.NewCustodies(key.Place(p.Config.Keys.Custody), places)
}
