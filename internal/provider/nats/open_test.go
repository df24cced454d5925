package nats_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/provider/nats"
	"mooring/internal/provider/nats/natstest"
)

func TestOpenSaysWhatIsWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	used := t.TempDir()
	opened(t, options(used))
	alone := natstest.Start(t, 1)
	pki := newPKI(t)
	bare := natstest.Start(t, 1, func(o *server.Options) { o.JetStream = false })
	small := natstest.Start(t, 1, func(o *server.Options) { o.JetStreamMaxStore = 1 << 20 })
	secret := natstest.Start(t, 1, func(o *server.Options) { o.Username, o.Password = "u", "p" })
	mutual := natstest.Start(t, 1, func(o *server.Options) { o.TLSConfig = pki.server() })
	forbids := natstest.Start(t, 1, func(o *server.Options) {
		o.Users = []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.API.STREAM.>"}}}}}
		o.NoAuthUser = "u"
	})
	at := func(c *natstest.Cluster, change ...func(*nats.Options)) nats.Options {
		o := options("", c.URL(0))
		for _, f := range change {
			f(&o)
		}
		return o
	}
	for _, row := range []struct {
		name string
		o    nats.Options
		kind errs.Kind
		want string // words of the public text
	}{
		{"nothing given", options(""), errs.Invalid, "either a directory"},
		{"both given", options("d", "nats://127.0.0.1:1"), errs.Invalid, "either a directory"},
		{"a name with a dot", nats.Options{Dir: "d", Name: "a.b", Now: time.Now}, errs.Invalid, `"a.b"`},
		{"unknown durability", nats.Options{Dir: "d", Durability: "async"}, errs.Invalid, "process, disk or quorum"},
		{"quorum of one", nats.Options{Dir: "d", Durability: nats.Quorum}, errs.Invalid, "needs a cluster"},
		{"replicas of one", nats.Options{Dir: "d", Replicas: 3}, errs.Invalid, "need a cluster"},
		{"quorum of two", nats.Options{URLs: []string{"x"}, Durability: nats.Quorum, Replicas: 2}, errs.Invalid, "needs 3 replicas"},
		{"hardly any room", nats.Options{Dir: "d", MaxBytes: 1000}, errs.Invalid, "too few"},
		{"a file for a directory", options(file), errs.Invalid, file},
		{"a directory below a file", options(filepath.Join(file, "below")), errs.Invalid, "cannot be made"},
		{"a directory in use", options(used), errs.Conflict, "in use by another process"},
		{"nobody at the URL", options("", "nats://127.0.0.1:1"), errs.Unavailable, "nats://127.0.0.1:1"},
		{"no CA file", at(alone, func(o *nats.Options) { o.CA = filepath.Join(file, "x") }), errs.Unavailable, "CA file"},
		{"no credentials file", at(secret, func(o *nats.Options) { o.Credentials = filepath.Join(file, "x") }), errs.Unavailable, "credentials file"},
		{"no credentials", at(secret), errs.Denied, "credentials"},
		{"no client certificate", at(mutual, func(o *nats.Options) { o.CA = pki.ca }), errs.Unavailable, "client certificate"},
		{"a CA that is not the servers'", at(mutual, func(o *nats.Options) { o.CA, o.Cert, o.Key = newPKI(t).ca, pki.cert, pki.key }), errs.Unavailable, "CA file"},
		{"no JetStream", at(bare), errs.Unavailable, "JetStream"},
		{"no permission", at(forbids), errs.Denied, "$JS.API.>"},
		{"no cluster for replicas", at(alone, func(o *nats.Options) { o.Durability = nats.Quorum }), errs.Unavailable, "too small for 3 replicas"},
		{"no room at the server", at(small), errs.Limited, "storage"},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.o.Now, row.o.Log = time.Now, options("").Log
			f, err := nats.Open(t.Context(), row.o)
			if err == nil {
				t.Fatalf("Open succeeds: %v", f.Close(t.Context()))
			}
			if !errs.Is(err, row.kind) || !strings.Contains(errs.Public(err), row.want) {
				t.Errorf("Open: %v (%v), want %v with %q", err, errs.KindOf(err), row.kind, row.want)
			}
		})
	}
	t.Run("mutual TLS", func(t *testing.T) {
		f := opened(t, at(mutual, func(o *nats.Options) { o.CA, o.Cert, o.Key = pki.ca, pki.cert, pki.key }))
		stored(t, f, &message.Message{Topic: "t", Stream: message.Up, Key: "k"})
	})
	t.Run("the permissions that the error and the manual name", func(t *testing.T) {
		few := natstest.Start(t, 1, func(o *server.Options) {
			o.Users = []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{
				Publish:   &server.SubjectPermission{Allow: []string{"$JS.API.>", "mooring.>", "$KV.mooring_RET.>", "$KV.mooring_SESS.>", "$KV.mooring_OWN.>"}},
				Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}}}}}
			o.NoAuthUser = "u"
		})
		for _, row := range []func(*testing.T, *nats.Fabric){testWhole, testSessions, testOwners, testAnnounced} {
			o := at(few)
			row(t, opened(t, o))
			c, err := natsgo.Connect(few.URL(0))
			if err != nil {
				t.Fatal(err)
			}
			js, err := jetstream.New(c)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range []string{"UP", "DOWN", "CAST", "CUT", "RET", "SESS", "OWN"} {
				if err := js.DeleteStream(t.Context(), "mooring_"+s); err != nil {
					t.Fatal(err)
				}
			}
			c.Close()
		}
	})
	t.Run("the context ends", func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		stop()
		if _, err := nats.Open(ctx, options(t.TempDir())); err == nil {
			t.Error("Open with a context that ended succeeds")
		}
	})
}

// pki is a CA with a certificate for a server on loopback and one for a client, in files.
type pki struct {
	ca, cert, key string
	pool          *x509.CertPool
	pair          tls.Certificate
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	dir := t.TempDir()
	p := &pki{ca: filepath.Join(dir, "ca.pem"), cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"), pool: x509.NewCertPool()}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign}
	rootKey := newKey(t)
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "mooring"}, NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	leafKey := newKey(t)
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, leafKey.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{p.ca: {Type: "CERTIFICATE", Bytes: rootDER}, p.cert: {Type: "CERTIFICATE", Bytes: leafDER}, p.key: {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parsed, err := x509.ParseCertificate(rootDER)
	if err != nil {
		t.Fatal(err)
	}
	p.pool.AddCert(parsed)
	p.pair = tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: leafKey}
	return p
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (p *pki) server() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{p.pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: p.pool}
}
