package app

import (
	"context"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
)

// Request is a certification request that init wrote.
type Request struct {
	Name string `json:"name"`
	File string `json:"file"`
	Key  string `json:"key"` // SHA-256 of the public key, hex
}

func (p *Platform) rootFile() string    { return filepath.Join(p.Config.Dir, "root.pem") }
func (p *Platform) operatorDir() string { return filepath.Join(p.Config.Dir, "operator") }

// unfinishedFile holds the name of the first operator, whose credential needs a CA that is not certified yet.
func (p *Platform) unfinishedFile() string { return filepath.Join(p.Config.Dir, "operator.pending") }

// requestHierarchy makes the CAs' keys and requests, to be signed by an offline root, and leaves the rest to finishInit. The CA of birth certificates
// is its own root here too: it has no end, which no root that is to be replaced one day can give it.
func (p *Platform) requestHierarchy(ctx context.Context, actor access.Actor, operator string, r *InitResult) error {
	dir := filepath.Join(p.Config.Dir, "requests")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return errs.Wrap(errs.Unavailable, err, "the directory of the requests cannot be made")
	}
	for _, spec := range hierarchy(p.Config.Name) {
		if spec.Parent == "" && spec.Forever {
			if _, err := p.CA.Create(ctx, actor, spec); err != nil {
				return fmt.Errorf("making the CA %q: %w", spec.Name, err)
			}
		}
		if spec.Parent == "" {
			continue
		}
		waiting, err := p.CA.Request(ctx, actor, spec)
		if err != nil {
			return fmt.Errorf("requesting the CA %q: %w", spec.Name, err)
		}
		sum, err := waiting.Digest()
		if err != nil {
			return err
		}
		q := Request{spec.Name, filepath.Join(dir, spec.Name+".csr"), hex.EncodeToString(sum[:])}
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: waiting.Request})
		if err := os.WriteFile(q.File, text, 0o644); err != nil {
			return errs.Wrap(errs.Unavailable, err, "a request cannot be written")
		}
		r.Requests = append(r.Requests, q)
	}
	if err := os.WriteFile(p.unfinishedFile(), []byte(operator+"\n"), 0o600); err != nil {
		return errs.Wrap(errs.Unavailable, err, "the name of the first operator cannot be noted")
	}
	return nil
}

// finishInit makes the first operator's credential and root.pem when an offline root has certified the CAs since init. It is tried again until
// it is done.
func (p *Platform) finishInit(ctx context.Context) {
	name, err := os.ReadFile(p.unfinishedFile())
	if err != nil { // nearly always: there is nothing to do
		return
	}
	root, err := p.serverRoot()
	if err == nil {
		err = os.RemoveAll(p.operatorDir()) // of an attempt that a power cut ended
	}
	if err == nil {
		err = p.firstOperator(ctx, access.System("init"), strings.TrimSpace(string(name)), root)
	}
	if err == nil {
		err = os.WriteFile(p.rootFile(), encodePEM(root.Certificate().Raw), 0o644)
	}
	if err == nil {
		err = os.Remove(p.unfinishedFile())
	}
	switch {
	case err == nil:
		p.log.LogAttrs(ctx, slog.LevelInfo, "the first operator's credential is made", slog.String("directory", p.operatorDir()))
	case errs.Is(err, errs.Unavailable) || errs.Is(err, errs.NotFound): // a CA is not certified yet
	default:
		p.log.LogAttrs(ctx, slog.LevelError, "the first operator's credential could not be made", slog.Any("cause", err))
	}
}

// serverRoot returns the root above the listeners' certificate.
func (p *Platform) serverRoot() (*ca.Issuer, error) {
	profile, err := p.Profiles.Get(selfProfile)
	if err != nil {
		return nil, err
	}
	i, err := p.CA.Issuer(profile.IssuerAt(p.now().Unix()))
	if err != nil {
		return nil, err
	}
	for i.Parent() != nil {
		i = i.Parent()
	}
	return i, nil
}
