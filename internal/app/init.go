package app

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

// InitOptions say what a new installation is to be.
type InitOptions struct {
	Dir string // is created; an existing one must be empty
	// Config is the configuration to begin with; nil for the default one. Its Dir is set to Dir.
	Config *conf.Config
	Prompt func() ([]byte, error) // asks for the secret that unlocks the keys, where the configuration says "prompt"
	// Operator names the first operator in the registry; "" for "admin".
	Operator string
	// OfflineRoot says that an offline root will certify the CAs: they are requested, and the first operator's credential is made by the running
	// server as soon as they are there.
	OfflineRoot bool
	Now         func() time.Time
	Log         *slog.Logger
}

// InitResult says what was made.
type InitResult struct {
	Dir         string     `json:"dir"`
	Config      string     `json:"config"`
	Profiles    string     `json:"profiles"`
	Unlock      string     `json:"unlock"`             // the file that unlocks the keys; "" when the secret is elsewhere
	Root        string     `json:"root"`               // the root certificate, PEM; is not there yet with an offline root
	Fingerprint string     `json:"fingerprint"`        // SHA-256 of the root certificate, hex; "" with an offline root
	Operator    string     `json:"operator"`           // the directory of the first operator's credential; is not there yet with an offline root
	AuditKey    string     `json:"audit_key"`          // with which anybody verifies checkpoints
	Requests    []Request  `json:"requests,omitempty"` // to be signed by the offline root
	Keys        *key.Store `json:"-"`                  // unlocked, for Options.Keys
}

// Init makes a data directory: configuration, keys, profiles, root and issuing CAs, and the first operator's credential. It refuses to touch
// anything that exists, and removes what it made when it fails.
func Init(ctx context.Context, o InitOptions) (r InitResult, err error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return r, errs.Wrap(errs.Invalid, err, "the directory %q cannot be resolved", o.Dir)
	}
	fresh, err := emptyDir(dir)
	if err != nil {
		return r, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, cleanUp(dir, fresh))
		}
	}()
	c := o.Config
	if c == nil {
		c = conf.Default()
	}
	c.Dir = dir
	if err := writeFiles(c); err != nil {
		return r, err
	}
	keys, err := makeKeys(c, o.Prompt)
	if err != nil {
		return r, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Operator == "" {
		o.Operator = "admin"
	}
	// The secret was read and may not be there a second time: a descriptor ends, a person was asked. So the store stays open.
	return populate(ctx, c, Options{Config: c, Keys: keys, Log: o.Log, Now: o.Now}, o)
}

// emptyDir makes dir, or accepts an empty one, and reports whether it made it.
func emptyDir(dir string) (fresh bool, err error) {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return false, errs.Wrap(errs.Unavailable, err, "the directory %s cannot be made", dir)
		}
		return true, nil
	case err != nil:
		return false, errs.Wrap(errs.Unavailable, err, "the directory %s cannot be read", dir)
	case len(entries) > 0:
		if _, err := os.Stat(filepath.Join(dir, conf.FileName)); err == nil {
			return false, errs.New(errs.Conflict, "%s holds an installation already; nothing was changed. Start it with mooring serve --dir %s", dir, dir)
		}
		return false, errs.New(errs.Conflict, "%s is not empty; nothing was changed. Choose another directory", dir)
	}
	return false, os.Chmod(dir, 0o700)
}

// cleanUp takes away what a failed Init made.
func cleanUp(dir string, fresh bool) error {
	if fresh {
		return os.RemoveAll(dir)
	}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// writeFiles writes the configuration and the profiles.
func writeFiles(c *conf.Config) error {
	if err := os.WriteFile(filepath.Join(c.Dir, conf.FileName), c.Write(), 0o600); err != nil {
		return errs.Wrap(errs.Unavailable, err, "the configuration cannot be written")
	}
	if err := os.MkdirAll(c.ProfileDir(), 0o755); err != nil {
		return errs.Wrap(errs.Unavailable, err, "the directory of the profiles cannot be made")
	}
	return fs.WalkDir(ca.DefaultProfiles(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(ca.DefaultProfiles(), name)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(c.ProfileDir(), name), text, 0o644)
	})
}

// makeKeys makes the key store. A key file that does not exist is made.
func makeKeys(c *conf.Config, prompt func() ([]byte, error)) (*key.Store, error) {
	source := c.UnlockSource()
	if path, ok := strings.CutPrefix(source, "file:"); ok {
		if err := makeUnlockFile(path); err != nil {
			return nil, err
		}
	}
	secret, err := key.ReadUnlock(source, prompt)
	if err != nil {
		return nil, err
	}
	return key.Create(c.KeyDir(), secret, key.Options{})
}

func makeUnlockFile(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil // somebody's own, to be used
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return errs.Wrap(errs.Unavailable, err, "the directory of %s cannot be made", path)
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	text := base64.StdEncoding.EncodeToString(secret) + "\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return errs.Wrap(errs.Unavailable, err, "the key file %s cannot be written", path)
	}
	return nil
}

const (
	year     = 365 * 24 * 3600
	rootName = "root"
)

// hierarchy is what a new installation begins with. Purposes have issuers of their own, so that trusting "our devices" is one certificate and
// not a filter on names. The root has room for a tier more than is used: that of its successor, which it certifies when the successor takes over.
// The CA of birth certificates stands apart: it has no end, as they have none.
func hierarchy(organisation string) []ca.Spec {
	subject := func(cn string) []der.Attribute {
		return []der.Attribute{{Type: der.OIDOrganization, Value: organisation}, {Type: der.OIDCommonName, Value: organisation + " " + cn}}
	}
	return []ca.Spec{
		{Name: rootName, Subject: subject("Root G1"), Algorithm: key.P384, Validity: 30 * year, PathLen: 2},
		{Name: "devices", Parent: rootName, Subject: subject("Devices G1"), Algorithm: key.P256, Validity: 15 * year, Shards: ca.MostShards},
		{Name: "services", Parent: rootName, Subject: subject("Services G1"), Algorithm: key.P256, Validity: 15 * year, Shards: ca.MostShards},
		{Name: "operators", Parent: rootName, Subject: subject("Operators G1"), Algorithm: key.P256, Validity: 15 * year, Shards: ca.MostShards},
		{Name: "birth", Subject: subject("Birth G1"), Algorithm: key.P256, Forever: true, Shards: ca.MostShards},
	}
}

// populate makes the CAs and the first operator.
func populate(ctx context.Context, c *conf.Config, o Options, init InitOptions) (r InitResult, err error) {
	p, err := build(ctx, o, toPopulate)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	r = InitResult{Dir: c.Dir, Config: filepath.Join(c.Dir, conf.FileName), Profiles: c.ProfileDir(), Root: p.rootFile(), Operator: p.operatorDir(), AuditKey: p.AuditKey, Keys: o.Keys}
	if path, ok := strings.CutPrefix(c.UnlockSource(), "file:"); ok {
		r.Unlock = path
	}
	make := p.ownHierarchy
	if init.OfflineRoot {
		make = p.requestHierarchy
	}
	if err := make(ctx, access.System("init"), init.Operator, &r); err != nil {
		return r, err
	}
	if err := p.Custody.Store(ctx); err != nil {
		return r, err
	}
	return r, p.Audit.Sequence(ctx)
}

// ownHierarchy makes root and CAs here, and the first operator.
func (p *Platform) ownHierarchy(ctx context.Context, actor access.Actor, operator string, r *InitResult) error {
	for _, spec := range hierarchy(p.Config.Name) {
		if _, err := p.CA.Create(ctx, actor, spec); err != nil {
			return fmt.Errorf("making the CA %q: %w", spec.Name, err)
		}
	}
	root, err := p.CA.Issuer(rootName)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(root.Certificate().Raw)
	r.Fingerprint = hex.EncodeToString(sum[:])
	if err := os.WriteFile(r.Root, encodePEM(root.Certificate().Raw), 0o644); err != nil {
		return errs.Wrap(errs.Unavailable, err, "the root certificate cannot be written")
	}
	recording, stop := context.WithCancel(ctx)
	stopped := make(chan error, 1)
	go func() { stopped <- p.Enrol.Run(recording) }()
	defer func() {
		stop()
		<-stopped
	}()
	if err := p.firstOperator(ctx, actor, operator, root); err != nil {
		return fmt.Errorf("making the first operator's credential: %w", err)
	}
	return nil
}

// firstOperator registers an administrator and writes key, certificate chain and root to the directory for it.
func (p *Platform) firstOperator(ctx context.Context, actor access.Actor, name string, root *ca.Issuer) error {
	d, err := p.Devices.Add(ctx, actor, device.Spec{Name: name, Group: "operators", Profile: "operator-admin"})
	if errs.Is(err, errs.Conflict) { // a power cut came between the registration and the credential
		d, err = p.Devices.Get(ctx, actor, name)
	}
	if err != nil {
		return err
	}
	signer, err := key.New(key.P256)
	if err != nil {
		return err
	}
	answer, err := p.Enrol.Direct(ctx, actor, d.ID, signer)
	if err != nil {
		return err
	}
	chain := encodePEM(answer.Certificate.DER)
	for _, above := range p.CA.Chain(answer.Certificate.Issuer) {
		chain = append(chain, encodePEM(above)...)
	}
	return writeCredential(p.operatorDir(), signer, chain, encodePEM(root.Certificate().Raw))
}

func writeCredential(dir string, signer crypto.Signer, chain, roots []byte) error {
	private, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		text []byte
		mode fs.FileMode
	}{
		{"key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600},
		{"cert.pem", chain, 0o644},
		{"ca.pem", roots, 0o644},
	} {
		if err := os.WriteFile(filepath.Join(dir, f.name), f.text, f.mode); err != nil {
			return err
		}
	}
	return nil
}

func encodePEM(certs ...[]byte) []byte {
	var text []byte
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	return text
}
