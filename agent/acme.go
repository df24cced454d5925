package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"mooring/agent/acme"
	"mooring/agent/durable"
	"mooring/agent/est"
	wire "mooring/wire/acme"
	"mooring/wire/der"
	estwire "mooring/wire/est"
)

const (
	acmeFolder    = "acme" // of the account's key
	acmeDirectory = "/acme/directory"
	acmeScheme    = "acme://"   // for https
	acmeTimeout   = time.Minute // for one request
	solverHeader  = 10 * time.Second
)

// byACME tells whether the server is spoken to by the Automatic Certificate Management Environment (RFC 8555) instead of EST: its URL begins with
// "acme". The token then binds an account to the device, by which certificates are ordered from then on; the first one and renewals are made alike.
func (a *Agent) byACME() bool { return strings.HasPrefix(a.config.Server, acmeScheme) }

// orderByACME gets a certificate by ACME and puts it into use.
func (a *Agent) orderByACME(ctx context.Context, roots []*x509.Certificate, proof est.Credential, old *Identity) error {
	wanted, err := a.identifiers()
	if err != nil {
		return err
	}
	client, err := a.register(ctx, roots, proof, old == nil)
	if err != nil {
		return err
	}
	kind, err := a.keyKind(new(estwire.CSRAttrs), old)
	if err != nil {
		return err
	}
	key, err := a.nextKey(kind, old)
	if err != nil {
		return err
	}
	request := est.Order{Key: key, Attributes: new(estwire.CSRAttrs), Names: a.names}
	csr, err := a.nextRequest(&request)
	if err != nil {
		return err
	}
	solver, stop, err := a.solver()
	if err != nil {
		return err
	}
	defer stop()
	raw, err := client.Obtain(ctx, wire.NewOrder{Identifiers: wanted, Profile: a.config.Label}, csr, solver)
	if err != nil {
		return err
	}
	chain, err := a.checkChain(raw, key, roots)
	if err != nil {
		return err
	}
	// What other programs of the device check their peers by is what the server itself is believed by.
	if err := errors.Join(writeCertificates(a.folder.path(caFile), roots...), a.folder.remove(serverCAFile)); err != nil {
		return err
	}
	return a.received(ctx, chain[0], chain, old)
}

// renewalAgain is when to ask for renewal information again if the server does not say (RFC 9773, section 4.3.3).
const renewalAgain = 6 * time.Hour

// askByACME asks when to renew (RFC 9773, section 4). A moment of the window is drawn, and kept for as long as it is in the window; a window that is over means now.
func (a *Agent) askByACME(ctx context.Context, identity *Identity) (estwire.Advice, error) {
	roots, err := a.folder.trusted()
	if err != nil {
		return estwire.Advice{}, err
	}
	cert := identity.Certificate()
	client := &acme.Client{Directory: a.directory(), HTTP: a.acmeWeb(roots, nil), Now: a.options.Now}
	window, again, err := client.RenewalInfo(ctx, wire.NewCertID(cert.AuthorityKeyId, cert.SerialNumber.Bytes()))
	switch {
	case errors.Is(err, acme.ErrNoRenewalInfo), acme.Is(err, "malformed"): // it has none, or does not know the certificate
		return estwire.Advice{}, &est.RefusedError{Status: http.StatusNotFound, Reason: err.Error()}
	case err != nil:
		return estwire.Advice{}, fmt.Errorf("asking when to renew: %w", err)
	case window.End.Before(window.Start) || window.Start.IsZero():
		return estwire.Advice{}, errors.New("asking when to renew: the server names no window")
	}
	at := a.advice(identity).RenewAt
	if at.Before(window.Start) || at.After(window.End) {
		at = window.Start.Add(a.random(window.End.Sub(window.Start)))
	}
	if again == 0 {
		again = renewalAgain
	}
	return estwire.Advice{RenewAt: at, AskAgain: int64(again / time.Second)}, nil
}

// identifiers are the configured names as ACME has them.
func (a *Agent) identifiers() (list []wire.Identifier, err error) {
	for _, name := range a.config.Names {
		kind, value, _ := strings.Cut(name, ":")
		if kind != wire.KindDNS && kind != wire.KindIP {
			return nil, fmt.Errorf("ordering by ACME: %q is neither a DNS name nor an address", name)
		}
		list = append(list, wire.Identifier{Type: kind, Value: value})
	}
	if len(list) == 0 {
		return nil, errors.New("ordering by ACME: the device needs at least one name to ask for, such as dns:gw1.example.com")
	}
	return list, nil
}

// register finds or makes the account, with a key that is used for nothing else.
func (a *Agent) register(ctx context.Context, roots []*x509.Certificate, proof est.Credential, first bool) (*acme.Client, error) {
	key, err := a.accountKey()
	if err != nil {
		return nil, err
	}
	web := a.acmeWeb(roots, nil)
	client := &acme.Client{Directory: a.directory(), HTTP: web, Key: key, Now: a.options.Now, Pause: a.options.Sleep}
	var binding *acme.Binding
	switch {
	case proof.Secret != "":
		binding = &acme.Binding{Name: proof.User, Token: proof.Secret}
	case proof.Certificate != nil && first:
		shown := &acme.Client{Directory: client.Directory, HTTP: a.acmeWeb(roots, proof.Certificate), Now: a.options.Now}
		if binding, err = shown.BindBirth(ctx); err != nil {
			return nil, err
		}
	}
	err = client.Register(ctx, binding)
	if acme.Is(err, "unauthorized") && binding != nil { // the account of this key has ended; the token is for another one
		if err := os.RemoveAll(a.folder.path(acmeFolder)); err != nil {
			return nil, err
		}
		if client.Key, err = a.accountKey(); err != nil {
			return nil, err
		}
		err = client.Register(ctx, binding)
	}
	return client, err
}

// acmeWeb speaks to the server as nobody, or with a certificate.
func (a *Agent) acmeWeb(roots []*x509.Certificate, by *tls.Certificate) *http.Client {
	pool := x509.NewCertPool()
	for _, root := range roots {
		pool.AddCert(root)
	}
	c := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12, Time: a.options.Now}
	if by != nil { // whatever CAs the server names
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return by, nil }
	}
	return &http.Client{Timeout: acmeTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DialContext: a.options.Dial, TLSClientConfig: c}}
}

// directory is the address of the directory: the server's, with the path that Mooring's has if there is none.
func (a *Agent) directory() string {
	rest := strings.TrimPrefix(a.config.Server, acmeScheme)
	if _, path, _ := strings.Cut(rest, "/"); path == "" {
		rest = strings.TrimSuffix(rest, "/") + acmeDirectory
	}
	return "https://" + rest
}

func (a *Agent) accountKey() (crypto.Signer, error) {
	dir := a.folder.path(acmeFolder)
	key, err := a.options.Keys.Load(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := durable.Mkdir(dir); err != nil {
		return nil, err
	}
	if key, err = a.options.Keys.Create(dir, der.ECP256); err != nil {
		return nil, fmt.Errorf("making the account's key: %w", err)
	}
	return key, nil
}

// solver serves the answers to http-01 challenges while an order is made, if there is an address for them. Without one only names can be ordered
// that need none.
func (a *Agent) solver() (acme.Solver, func(), error) {
	if a.config.HTTPListen == "" {
		return nil, func() {}, nil
	}
	l, err := net.Listen("tcp", a.config.HTTPListen)
	if err != nil {
		return nil, nil, fmt.Errorf("listening for the validation of names: %w", err)
	}
	s := &acme.HTTPSolver{}
	server := &http.Server{Handler: s, ReadHeaderTimeout: solverHeader, ReadTimeout: solverHeader, WriteTimeout: solverHeader}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // until it is closed
	}()
	return s, func() {
		_ = server.Close() // the order is over, whoever still reads
		<-done
	}, nil
}

// checkChain parses what came and sees that it is for the key and leads to a root that the server is believed by.
func (a *Agent) checkChain(raw [][]byte, key crypto.Signer, roots []*x509.Certificate) (chain []*x509.Certificate, err error) {
	trusted, between := x509.NewCertPool(), x509.NewCertPool()
	for _, root := range roots {
		trusted.AddCert(root)
	}
	for i, octets := range raw {
		cert, err := x509.ParseCertificate(octets)
		if err != nil {
			return nil, fmt.Errorf("reading the certificate: %w", err)
		}
		if chain = append(chain, cert); i > 0 {
			between.AddCert(cert)
		}
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(spki, chain[0].RawSubjectPublicKeyInfo) {
		return nil, errors.New("the certificate that came is for another key")
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: trusted, Intermediates: between, CurrentTime: a.options.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return nil, fmt.Errorf("checking the certificate that came: %w", err)
	}
	return chain, nil
}
