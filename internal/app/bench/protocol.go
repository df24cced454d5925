package bench

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	agentacme "mooring/agent/acme"
	agentcmp "mooring/agent/cmp"
	agentest "mooring/agent/est"
	agentscep "mooring/agent/scep"
	"mooring/internal/base/conf"
	"mooring/internal/core/ca"
	"mooring/wire/acme"
	"mooring/wire/der"
)

// protocol is a way to enrol other than EST, through the client of our own agent, which runs in the measuring process and is not counted.
type protocol struct {
	configure func(c *conf.Config) error
	profile   profileFile
	// prepare returns what enrols device i, with all that is not to be measured done.
	prepare func(ctx context.Context, in *installation, tokens []token) (func(i int) error, error)
	// floor returns the microseconds of CPU of the cryptography that the protocol demands of the server for one enrolment.
	floor func() (float64, error)
}

// profileFile is a profile made from a default one by exchanging lines, "key: value", or adding them.
type profileFile struct {
	name, base string
	lines      []string
	replace    []string // pairs
}

// Protocols are the names of what Enrol can measure.
func Protocols() []string {
	return slices.Sorted(maps.Keys(protocols()))
}

// protocols are those with a client of their own. What the floor of each consists of:
//
//	est-coaps  a DTLS handshake (one ECDH, one signature, two verifications: of the device's and of its certificate's), a request, a certificate
//	acme       six messages signed by the account's key (account, order, authorisation, challenge, finalize, certificate), a request, a certificate
//	cmp        four MACs whose keys are stretched by 1,000 rounds of PBKDF2 (request, answer, confirmation, its answer), a request, a certificate
//	scep       an RSA-2048 signature and request verified, a key opened by RSA-3072, a certificate signed, a key sealed for RSA-2048, an RSA-3072 signature
func protocols() map[string]*protocol {
	const working = "evidence: [token, operational, account]"
	return map[string]*protocol{
		"est":       nil,
		"est-coaps": {listen(func(c *conf.Config) *string { return &c.Listen.COAPS }), profileFile{"bench", "device", []string{working}, nil}, byCoAP, floorCoAP},
		"cmp":       {listen(func(c *conf.Config) *string { return &c.Listen.CMP }), profileFile{"bench", "device", []string{working}, nil}, byCMP, floorCMP},
		"scep": {listen(func(c *conf.Config) *string { return &c.Listen.SCEP }),
			profileFile{"bench", "device", []string{working, "keys: [rsa-2048, ec-p256]", "scep: {ra: scep-ra}"}, nil}, bySCEP, floorSCEP},
		"acme": {configureACME, profileFile{"bench", "gateway", []string{"evidence: [account]"}, []string{"  ip:\n", "  ip:\n    request: [127.0.0.0/8]\n    max: 1\n"}}, byACME, floorACME},
	}
}

func listen(field func(c *conf.Config) *string) func(*conf.Config) error {
	return func(c *conf.Config) error {
		*field(c) = "127.0.0.1:0"
		return nil
	}
}

func (p *protocol) write(dir string) error {
	text, err := fs.ReadFile(ca.DefaultProfiles(), p.profile.base+".yaml")
	if err != nil {
		return fmt.Errorf("reading a profile: %w", err)
	}
	lines := strings.Split(strings.NewReplacer(p.profile.replace...).Replace(string(text)), "\n")
	for _, line := range append([]string{"name: " + p.profile.name}, p.profile.lines...) {
		key, _, _ := strings.Cut(line, ":")
		at := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, key+":") })
		if at < 0 {
			lines = append(lines, line)
			continue
		}
		lines[at] = line
	}
	if err := os.WriteFile(filepath.Join(dir, p.profile.name+".yaml"), []byte(strings.Join(lines, "\n")), 0o644); err != nil {
		return fmt.Errorf("writing a profile: %w", err)
	}
	return nil
}

// byMany does each of n pieces of work, on so many goroutines.
func byMany(clients, n int, each func(i int) error) error {
	var next atomic.Int64
	failed := make([]error, clients)
	var all sync.WaitGroup
	for k := range clients {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if failed[k] = each(i); failed[k] != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return errors.Join(failed...)
}

// keysFor makes a P-256 key for each token.
func keysFor(tokens []token) ([]*ecdsa.PrivateKey, error) {
	keys, failed := make([]*ecdsa.PrivateKey, len(tokens)), make([]error, len(tokens))
	spread(len(tokens), func(i int) { keys[i], failed[i] = ecdsa.GenerateKey(elliptic.P256(), rand.Reader) })
	return keys, errors.Join(failed...)
}

func nameOf(t token) []der.Attribute {
	return []der.Attribute{{Type: der.OIDCommonName, Value: t.device}}
}

func byCMP(ctx context.Context, in *installation, tokens []token) (func(int) error, error) {
	keys, err := keysFor(tokens)
	if err != nil {
		return nil, err
	}
	client, err := agentcmp.New(agentcmp.Config{Server: "cmp" + strings.TrimPrefix(in.addresses.CMP, "http"), Now: time.Now})
	return func(i int) error {
		_, err := client.Order(ctx, agentcmp.Credential{Name: tokens[i].device, Secret: tokens[i].secret}, agentcmp.Order{Key: keys[i], Subject: nameOf(tokens[i])})
		return err
	}, err
}

// bySCEP takes a few RSA keys for all devices: to make one for each would take longer than the measurement.
func bySCEP(ctx context.Context, in *installation, tokens []token) (func(int) error, error) {
	keys, failed := make([]*rsa.PrivateKey, 16), make([]error, 16)
	spread(len(keys), func(i int) { keys[i], failed[i] = rsa.GenerateKey(rand.Reader, 2048) })
	if err := errors.Join(failed...); err != nil {
		return nil, err
	}
	client, err := agentscep.New(agentscep.Config{Server: "scep" + strings.TrimPrefix(in.addresses.SCEP, "http") + "/scep/bench", Roots: []*x509.Certificate{in.root}, Now: time.Now})
	return func(i int) error {
		_, err := client.Order(ctx, agentscep.Credential{Name: tokens[i].device, Secret: tokens[i].secret}, agentscep.Order{Key: keys[i%len(keys)], Subject: nameOf(tokens[i])})
		return err
	}, err
}

// byCoAP gives each device a certificate by EST first, since EST over CoAP takes no tokens.
func byCoAP(ctx context.Context, in *installation, tokens []token) (func(int) error, error) {
	keys, err := keysFor(tokens)
	if err != nil {
		return nil, err
	}
	roots := []*x509.Certificate{in.root}
	first, err := agentest.New(agentest.Config{Server: in.addresses.EST, Roots: roots})
	if err != nil {
		return nil, err
	}
	have := make([]*tls.Certificate, len(tokens))
	err = byMany(8, len(tokens), func(i int) error {
		session, err := first.Connect(ctx, agentest.Credential{User: tokens[i].device, Secret: tokens[i].secret})
		if err != nil {
			return err
		}
		defer session.Close()
		cert, err := session.Enrol(ctx, agentest.Order{Key: keys[i]})
		if err == nil {
			have[i] = &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: keys[i], Leaf: cert}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	client, err := agentest.New(agentest.Config{Server: in.addresses.CoAPS, Roots: roots})
	return func(i int) error {
		session, err := client.Connect(ctx, agentest.Credential{Certificate: have[i]})
		if err != nil {
			return err
		}
		defer session.Close()
		_, err = session.Enrol(ctx, agentest.Order{Key: keys[i]})
		return err
	}, err
}

// solverHost is where the challenges of all devices are answered: an address of this machine that is not the server's own.
const solverHost = "127.0.0.2"

func configureACME(c *conf.Config) error {
	var ports [2]int
	for i, host := range []string{"127.0.0.1", solverHost} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return fmt.Errorf("looking for a free port: %w", err)
		}
		ports[i] = l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			return err
		}
	}
	c.Listen.ACME = net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[0]))
	c.PublicURLs.ACME = "https://" + c.Listen.ACME
	c.ACME.HTTPPort = ports[1]
	return nil
}

// byACME makes an account for each device, bound by its token, and shows by http-01 that the device has its address. Connections are kept, as in EST.
func byACME(ctx context.Context, in *installation, tokens []token) (func(int) error, error) {
	keys, err := keysFor(tokens)
	if err != nil {
		return nil, err
	}
	accounts, err := keysFor(tokens)
	if err != nil {
		return nil, err
	}
	solver := &agentacme.HTTPSolver{}
	if in.solver == nil {
		l, err := net.Listen("tcp", net.JoinHostPort(solverHost, strconv.Itoa(in.config.ACME.HTTPPort)))
		if err != nil {
			return nil, fmt.Errorf("listening for challenges: %w", err)
		}
		in.solver = &http.Server{Handler: solver, ReadHeaderTimeout: time.Minute}
		go func() { _ = in.solver.Serve(l) }() // it ends with the process
	} else {
		in.solver.Handler = solver
	}
	names := der.AltNames{}
	names.IP = []netip.Addr{netip.MustParseAddr(solverHost)}
	transport := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1024, TLSClientConfig: &tls.Config{RootCAs: in.roots, ServerName: "localhost"}}}
	return func(i int) error {
		csr, err := csrFor(keys[i], names)
		if err != nil {
			return err
		}
		c := &agentacme.Client{Directory: in.addresses.ACME + "/acme/directory", HTTP: transport, Key: accounts[i], Now: time.Now}
		if err := c.Register(ctx, &agentacme.Binding{Name: tokens[i].device, Token: tokens[i].secret}); err != nil {
			return err
		}
		_, err = c.Obtain(ctx, acme.NewOrder{Identifiers: []acme.Identifier{{Type: "ip", Value: solverHost}}}, csr, solver)
		return err
	}, nil
}

func csrFor(key crypto.Signer, names der.AltNames) ([]byte, error) {
	spki, err := der.EncodePublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	info, err := der.AppendRequestInfo(nil, der.RequestSpec{SPKI: spki, Names: names})
	if err != nil {
		return nil, err
	}
	algorithm, err := der.AlgorithmFor(key.Public())
	if err != nil {
		return nil, err
	}
	signature, err := key.Sign(rand.Reader, algorithm.Digest(info), algorithm.Hash())
	if err != nil {
		return nil, err
	}
	return der.Wrap(nil, info, algorithm, signature), nil
}

// floorOf is the cost of issuing once and what else must be done.
func floorOf(n int, besides ...func() error) (float64, error) {
	once, err := issueOnce()
	if err != nil {
		return 0, err
	}
	return costOf(n, func() error {
		for _, f := range append(besides, once) {
			if err := f(); err != nil {
				return err
			}
		}
		return nil
	})
}

// verifying returns what verifies n P-256 signatures.
func verifying(n int) (func() error, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte("a message"))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	return func() error {
		for range n {
			if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature) {
				return errors.New("a signature does not verify")
			}
		}
		return nil
	}, err
}

func floorACME() (float64, error) {
	verify, err := verifying(6)
	if err != nil {
		return 0, err
	}
	return floorOf(1000, verify)
}

func floorCMP() (float64, error) {
	return floorOf(500, func() error {
		for range 4 {
			if _, err := pbkdf2.Key(sha256.New, "a secret", make([]byte, 16), 1000, 32); err != nil {
				return err
			}
		}
		return nil
	})
}

func floorCoAP() (float64, error) {
	verify, err := verifying(2)
	if err != nil {
		return 0, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return 0, err
	}
	peer, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return 0, err
	}
	return floorOf(2000, verify, func() error {
		own, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		secret, err := own.ECDH(peer.PublicKey())
		if err != nil {
			return err
		}
		_, err = ecdsa.SignASN1(rand.Reader, key, secret)
		return err
	})
}

func floorSCEP() (float64, error) {
	device, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return 0, err
	}
	authority, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		return 0, err
	}
	digest := sha256.Sum256([]byte("a message"))
	signature, err := rsa.SignPKCS1v15(nil, device, crypto.SHA256, digest[:])
	if err != nil {
		return 0, err
	}
	//lint:ignore SA1019 what SCEP demands
	sealed, err := rsa.EncryptPKCS1v15(rand.Reader, &authority.PublicKey, digest[:])
	if err != nil {
		return 0, err
	}
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return 0, err
	}
	return costOf(200, func() error {
		var failed error
		for range 2 {
			failed = errors.Join(failed, rsa.VerifyPKCS1v15(&device.PublicKey, crypto.SHA256, digest[:], signature))
		}
		//lint:ignore SA1019 what SCEP demands
		_, err := rsa.DecryptPKCS1v15(nil, authority, sealed)
		failed = errors.Join(failed, err)
		_, err = ecdsa.SignASN1(rand.Reader, signer, digest[:])
		failed = errors.Join(failed, err)
		//lint:ignore SA1019 what SCEP demands
		_, err = rsa.EncryptPKCS1v15(rand.Reader, &device.PublicKey, digest[:])
		failed = errors.Join(failed, err)
		_, err = rsa.SignPKCS1v15(nil, authority, crypto.SHA256, digest[:])
		return errors.Join(failed, err)
	})
}
