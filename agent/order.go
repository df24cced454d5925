package agent

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"mooring/agent/durable"
	"mooring/agent/est"
	"mooring/agent/keyfile"
	"mooring/wire/der"
	wire "mooring/wire/est"
)

// First is how a device and its server come to believe each other when they meet for the first time.
type First struct {
	// Roots are what the server's certificate must lead to. Give these or a Fingerprint; neither is needed when an
	// enrolment is repeated that got so far before.
	Roots []*x509.Certificate
	// Fingerprint is the SHA-256 of the server's root certificate.
	Fingerprint *[sha256.Size]byte
	// MASA, if set, are what vouchers of the device's manufacturer are believed by, and neither Roots nor a Fingerprint are given: the server is believed
	// by the voucher that it brings (BRSKI, RFC 8995), for which the device shows the certificate in CertFile. Vouchers are signed by one of these, or by what
	// leads to one.
	MASA []*x509.Certificate
	// Token is the claim code or device password that goes with Config.User.
	Token string
	// CertFile and KeyFile are a certificate that the device has already, such as one from its maker, and its key.
	CertFile, KeyFile string
}

// String keeps the token out of printed text.
func (First) String() string { return "agent.First(token withheld)" }

// GoString keeps the token out of %#v.
func (f First) GoString() string { return f.String() }

// MarshalText keeps the token out of JSON and logs.
func (f First) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// credential is the part of First that must survive while a server has not decided: it lies beside the key, is as well
// protected, and goes when the certificate is there.
type credential struct {
	Token    string `json:"token,omitempty"`
	CertFile string `json:"cert_file,omitempty"`
	KeyFile  string `json:"key_file,omitempty"`
	Voucher  stage  `json:"voucher,omitempty"`
}

// Enrol gets the first certificate, or another one in place of what has expired or is to be replaced (Replace). When the server wants to think about it, the error is an *est.PendingError; Run goes
// on then, or Enrol with the same First. After any other error the same call may be made again too: the key that was
// made is used again.
func (a *Agent) Enrol(ctx context.Context, first First) (*Identity, error) {
	return a.changing(ctx, func() error {
		if !a.mayEnrol() {
			return ErrEnrolled
		}
		c := credential{Token: first.Token, CertFile: first.CertFile, KeyFile: first.KeyFile}
		believe := a.believe
		if len(first.MASA) > 0 {
			believe = a.believeByVoucher
		}
		if err := believe(ctx, first); err != nil {
			return err
		}
		if len(first.MASA) > 0 {
			c.Voucher = a.stage(c)
		}
		err := a.enrol(ctx, &c)
		var pending *est.PendingError
		if errors.As(err, &pending) {
			return errors.Join(err, a.keep(c))
		}
		if err == nil {
			a.again = false
		}
		return err
	})
}

// waiting tells whether an enrolment is pending, the first or another.
func (a *Agent) waiting() bool {
	_, err := os.Stat(filepath.Join(a.folder.next(), credentialFile))
	return err == nil
}

// keep stores what an enrolment needs that goes on later.
func (a *Agent) keep(c credential) error {
	return a.folder.writeJSON(filepath.Join(nextFolder, credentialFile), c)
}

// resume sends a pending enrolment again. One that was to replace an identity is given up when it is refused, so that the
// old identity is renewed again while it lives.
func (a *Agent) resume(ctx context.Context) (*Identity, error) {
	return a.changing(ctx, func() error {
		var c credential
		if err := a.folder.readJSON(filepath.Join(nextFolder, credentialFile), &c); err != nil {
			return err
		}
		before := c
		err := a.enrol(ctx, &c)
		if err != nil && c != before {
			err = errors.Join(err, a.keep(c))
		}
		var refused *est.RefusedError
		if errors.As(err, &refused) && !refused.Temporary() && a.folder.enrolled() && !a.expired() {
			return errors.Join(err, a.folder.remove(filepath.Join(nextFolder, credentialFile)))
		}
		return err
	})
}

// Renew replaces the certificate now, by a new key unless Config.KeepKey, as the server said when it was asked last (Ask). When it fails the
// old identity remains in use.
func (a *Agent) Renew(ctx context.Context) (*Identity, error) {
	return a.changing(ctx, func() error {
		identity, err := a.Identity()
		if err != nil {
			return err
		}
		roots, err := a.folder.trusted()
		if err != nil {
			return err
		}
		return a.order(ctx, roots, est.Credential{Certificate: identity.TLS()}, identity)
	})
}

// changing does what ends with another identity in use, and tells so once the folder is free again.
func (a *Agent) changing(ctx context.Context, do func() error) (*Identity, error) {
	identity, err := a.alone(ctx, do)
	if err == nil && a.options.Changed != nil {
		a.options.Changed(ctx, a.files())
	}
	return identity, err
}

// alone does something under the lock, after finishing what a crash may have interrupted, and records how it went.
func (a *Agent) alone(ctx context.Context, do func() error) (*Identity, error) {
	unlock, err := a.folder.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := a.recover(); err != nil {
		return nil, err
	}
	err = do()
	if err == nil || ctx.Err() == nil && !errors.Is(err, ErrEnrolled) && !errors.Is(err, ErrNotEnrolled) {
		err = errors.Join(err, a.settle(err))
	}
	if err != nil {
		return nil, err
	}
	return a.Identity()
}

// believe stores what the server is to be believed by.
func (a *Agent) believe(ctx context.Context, first First) error {
	roots := first.Roots
	switch {
	case a.byCMP() && first.Fingerprint != nil:
		return errors.New("by CMP the server is believed by the token, or by its root: give no fingerprint")
	case a.bySCEP() && roots == nil && first.Token != "":
		return errors.New("by SCEP the server is believed by its root alone: give it, and no fingerprint")
	case a.byCMP() && roots == nil && first.Token != "": // the secret proves the server too
		return nil
	case first.Fingerprint != nil && roots != nil:
		return errors.New("give the roots of the server or a fingerprint, not both")
	case first.Fingerprint != nil:
		root, err := est.Pin(ctx, a.estConfig(), *first.Fingerprint)
		if err != nil {
			return err
		}
		roots = []*x509.Certificate{root}
	case roots == nil:
		if known, err := a.folder.trusted(); err != nil || len(known) == 0 {
			return errors.Join(err, errors.New("the device does not know what to believe the server by; give it the roots or a fingerprint"))
		}
		return nil
	}
	if err := writeCertificates(a.folder.path(serverCAFile), roots...); err != nil {
		return err
	}
	if a.folder.enrolled() { // other programs check their peers by it until the new identity is there
		return nil
	}
	return a.folder.remove(caFile) // what was believed in an earlier attempt does not count any more
}

// enrol orders a certificate by what the device has from elsewhere. What it was given to believe the server by counts alone: a
// device that enrols again may do so because the old authority is not to be believed any more.
func (a *Agent) enrol(ctx context.Context, c *credential) error {
	if c.Voucher == voucherWanted {
		return a.enrolByVoucher(ctx, c)
	}
	proof, err := a.proof(*c)
	if err != nil {
		return err
	}
	roots, err := a.folder.readCertificates(serverCAFile)
	if err == nil && len(roots) == 0 {
		roots, err = a.folder.trusted()
	}
	if err != nil {
		return err
	}
	return a.order(ctx, roots, proof, nil)
}

// proof is what the device proves itself with.
func (a *Agent) proof(c credential) (est.Credential, error) {
	proof := est.Credential{User: a.config.User, Secret: c.Token}
	if proof.User == "" {
		proof.User = a.config.Name
	}
	if c.CertFile == "" {
		return proof, nil
	}
	cert, err := ReadCertificates(c.CertFile)
	if err != nil {
		return proof, err
	}
	key, err := keyfile.Read(c.KeyFile)
	if err != nil {
		return proof, err
	}
	proof.Certificate = (&Identity{Chain: cert, Key: key}).TLS()
	return proof, nil
}

// order gets a certificate and puts it into use; old is the identity to be renewed, or nil.
func (a *Agent) order(ctx context.Context, roots []*x509.Certificate, proof est.Credential, old *Identity) error {
	switch {
	case a.byCMP():
		return a.orderByCMP(ctx, roots, proof, old)
	case a.bySCEP():
		return a.orderBySCEP(ctx, roots, proof, old)
	}
	if a.byACME() {
		return a.orderByACME(ctx, roots, proof, old)
	}
	client, err := a.client(roots)
	if err != nil {
		return err
	}
	session, err := client.Connect(ctx, proof)
	if err != nil {
		return err
	}
	defer session.Close()
	if old != nil {
		return a.orderBy(ctx, session, old)
	}
	return a.reporting(ctx, session, a.orderBy(ctx, session, nil))
}

// orderBy gets a certificate over a session and puts it into use.
func (a *Agent) orderBy(ctx context.Context, session *est.Session, old *Identity) error {
	cert, chain, err := a.orderOver(ctx, session, old)
	if err != nil {
		return err
	}
	return a.received(ctx, cert, chain, old)
}

// received puts a certificate into use and says so.
func (a *Agent) received(ctx context.Context, cert *x509.Certificate, chain []*x509.Certificate, old *Identity) error {
	if err := a.install(cert, chain); err != nil {
		return err
	}
	a.options.Log.LogAttrs(ctx, slog.LevelInfo, "certificate received",
		slog.String("serial", cert.SerialNumber.Text(16)), slog.Time("not_after", cert.NotAfter), slog.Bool("renewal", old != nil))
	return nil
}

func (a *Agent) orderOver(ctx context.Context, session *est.Session, old *Identity) (cert *x509.Certificate, chain []*x509.Certificate, err error) {
	bundle, err := session.CACerts(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := a.linked(ctx, bundle); err != nil {
		return nil, nil, err
	}
	if err := a.adopt(ctx, session, bundle); err != nil {
		return nil, nil, err
	}
	if err := a.report(session); err != nil {
		return nil, nil, err
	}
	attributes, err := a.attributes(ctx, session)
	if err != nil {
		return nil, nil, err
	}
	order, err := a.prepare(attributes, old)
	if err != nil {
		return nil, nil, err
	}
	ask := session.Enrol
	if old != nil {
		ask = session.Renew
	}
	if cert, err = ask(ctx, order); err != nil {
		return nil, nil, err
	}
	chain, err = bundle.Chain(cert, a.options.Now())
	return cert, chain, err
}

// adopt replaces the trusted roots by those that the server, which was believed by the old ones, now names. Roots that this
// very connection is believed by are never dropped, or the device would lock itself out.
func (a *Agent) adopt(ctx context.Context, session *est.Session, bundle *est.Bundle) error {
	if bundle.Accepts(session) == nil {
		if err := writeCertificates(a.folder.path(caFile), bundle.Roots...); err != nil {
			return err
		}
		return a.folder.remove(serverCAFile)
	}
	given, err := a.folder.readCertificates(serverCAFile)
	if err != nil {
		return err
	}
	both := est.Bundle{Roots: append(given, bundle.Roots...), Others: bundle.Others}
	if both.Accepts(session) != nil {
		old, err := a.folder.readCertificates(caFile)
		if err != nil {
			return err
		}
		a.options.Log.LogAttrs(ctx, slog.LevelWarn, "server names only roots that it does not prove itself by; the old ones are kept too")
		bundle.Roots = union(bundle.Roots, old)
	}
	return writeCertificates(a.folder.path(caFile), bundle.Roots...)
}

func union(a, b []*x509.Certificate) []*x509.Certificate {
	for _, cert := range b {
		if !slices.ContainsFunc(a, cert.Equal) {
			a = append(a, cert)
		}
	}
	return a
}

// attributes asks for the server's wishes. A server that refuses to tell has none, as far as this device can know.
func (a *Agent) attributes(ctx context.Context, session *est.Session) (*wire.CSRAttrs, error) {
	attributes, err := session.CSRAttrs(ctx)
	var refused *est.RefusedError
	if errors.As(err, &refused) && !refused.Temporary() {
		a.options.Log.LogAttrs(ctx, slog.LevelWarn, "server does not say what a request must have", slog.Int("status", refused.Status))
		return new(wire.CSRAttrs), nil
	}
	return attributes, err
}

// emptyName is a name without attributes, in DER.
var emptyName = []byte{0x30, 0}

// prepare makes the order, with the key and if possible the very request of an earlier attempt.
func (a *Agent) prepare(attributes *wire.CSRAttrs, old *Identity) (est.Order, error) {
	kind, err := a.keyKind(attributes, old)
	if err != nil {
		return est.Order{}, err
	}
	key, err := a.nextKey(kind, old)
	if err != nil {
		return est.Order{}, err
	}
	order := est.Order{Key: key, Attributes: attributes, Subject: a.subject, Names: a.names}
	if a.config.Nameless {
		order.RawSubject = emptyName
	}
	if old != nil {
		if order, err = est.OrderAgain(old.Certificate(), key, attributes); err != nil {
			return est.Order{}, err
		}
	}
	order.Bind = a.config.Bind
	if order.Bound() {
		return order, nil
	}
	order.Request, err = a.nextRequest(&order)
	return order, err
}

// keyKind is the kind of key to be certified.
func (a *Agent) keyKind(attributes *wire.CSRAttrs, old *Identity) (der.KeyKind, error) {
	if said, _ := a.adviseKey(old); said != "" { // those who run the fleet want it of this very device
		return said, nil
	}
	if own := a.config.KeyType; own != "" {
		// The attributes are what the server would like (RFC 7030, section 4.5.2), and a list names one kind where several may do:
		// whether it takes this one is for it to say.
		return own, nil
	}
	wanted, err := est.KeyWanted(attributes)
	switch {
	case err != nil:
		return "", err
	case wanted != "":
		return wanted, nil
	case old != nil:
		return der.KindOf(old.Key.Public()), nil
	}
	return der.ECP256, nil
}

// nextRequest is the request that is repeated until it is answered. It is made anew only if it would say something else.
func (a *Agent) nextRequest(order *est.Order) ([]byte, error) {
	fresh, err := order.Build(wire.ChannelBinding{})
	if err != nil {
		return nil, err
	}
	path := filepath.Join(a.folder.next(), requestFile)
	stored, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil && sameRequest(stored, fresh) {
		return stored, nil
	}
	return fresh, durable.WriteFile(path, fresh, 0o600)
}

// sameRequest tells whether two requests differ in nothing but their signatures.
func sameRequest(a, b []byte) bool {
	first, err := der.ParseRequest(a)
	if err != nil {
		return false
	}
	second, err := der.ParseRequest(b)
	return err == nil && string(first.RawInfo) == string(second.RawInfo)
}

// install completes the next generation with its certificate and puts it into use. The certificate comes last: a generation
// that has one is complete.
func (a *Agent) install(cert *x509.Certificate, chain []*x509.Certificate) error {
	next := a.folder.next()
	if err := writeCertificates(filepath.Join(next, chainFile), chain...); err != nil {
		return err
	}
	if err := writeCertificates(filepath.Join(next, certFile), cert); err != nil {
		return err
	}
	return a.promote()
}

// promote moves the complete next generation to its place and points to it.
func (a *Agent) promote() error {
	if err := a.folder.remove(filepath.Join(nextFolder, credentialFile), filepath.Join(nextFolder, requestFile)); err != nil {
		return err
	}
	numbers, err := a.folder.generations()
	if err != nil {
		return err
	}
	n := 1
	if len(numbers) > 0 {
		n = numbers[len(numbers)-1] + 1
	}
	if err := durable.Rename(a.folder.next(), a.folder.path(genFolder, strconv.Itoa(n))); err != nil {
		return err
	}
	return a.folder.use(n)
}

// recover finishes what a crash interrupted after the certificate had arrived. Anything earlier is simply done again.
func (a *Agent) recover() error {
	if err := errors.Join(durable.Tidy(a.folder.dir), durable.Tidy(a.folder.next())); err != nil {
		return err
	}
	numbers, err := a.folder.generations()
	if err != nil {
		return err
	}
	if len(numbers) > 0 && numbers[len(numbers)-1] > a.folder.inUse() {
		if err := a.folder.use(numbers[len(numbers)-1]); err != nil {
			return err
		}
	}
	switch _, err := a.load(a.folder.next()); {
	case errors.Is(err, fs.ErrNotExist): // none, or no certificate yet
		return nil
	case err != nil:
		// Not what install wrote. The order is repeated; whatever lies there is replaced by the answer.
		return a.folder.remove(filepath.Join(nextFolder, certFile))
	}
	return a.promote()
}

// load reads a generation and checks that its parts belong together.
func (a *Agent) load(dir string) (*Identity, error) {
	cert, err := ReadCertificates(filepath.Join(dir, certFile))
	if err != nil {
		return nil, err
	}
	chain, err := ReadCertificates(filepath.Join(dir, chainFile))
	if err != nil {
		return nil, err
	}
	key, err := a.options.Keys.Load(dir)
	if err != nil {
		return nil, err
	}
	identity := &Identity{Chain: chain, Key: key}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	if !chain[0].Equal(cert[0]) || string(spki) != string(cert[0].RawSubjectPublicKeyInfo) {
		return nil, fmt.Errorf("key, certificate and chain in %s do not belong together", dir)
	}
	return identity, nil
}
