package api_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/mod/sumdb/note"

	"mooring/internal/base/conf"
	"mooring/internal/base/db/dbtest"
	"mooring/internal/base/errs"
	"mooring/internal/base/web"
	"mooring/internal/core/access"
	"mooring/internal/core/acme"
	"mooring/internal/core/approve"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/campaign"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/core/export"
	"mooring/internal/core/job"
	"mooring/internal/core/key"
	"mooring/internal/core/key/keytest"
	"mooring/internal/core/maker"
	"mooring/internal/core/masa"
	"mooring/internal/core/revoke"
	"mooring/internal/server/api"
	"mooring/internal/server/api/client"
	"mooring/internal/server/api/v1"
	"mooring/internal/server/gate"
	"mooring/wire/der"
)

// platform is every slice behind the API, on a real socket and a real TLS listener.
type platform struct {
	deps   api.Deps
	url    string
	socket string
	roots  []byte // PEM, of the TLS listener
	logs   *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// start builds and runs a platform; change may alter what the API gets.
// withRoles are the profiles of a new installation, and one for each role that has none of its own, called as the role.
func withRoles(t *testing.T) fs.FS {
	t.Helper()
	all := fstest.MapFS{}
	files := must[[]string](t)(fs.Glob(ca.DefaultProfiles(), "*.yaml"))
	for _, name := range files {
		all[name] = &fstest.MapFile{Data: must[[]byte](t)(fs.ReadFile(ca.DefaultProfiles(), name))}
	}
	for _, role := range []access.Role{access.RoleV2XRoot, access.RoleV2XEnrolment, access.RoleV2XTickets, access.RoleV2XTrustLists} {
		all[string(role)+".yaml"] = &fstest.MapFile{Data: bytes.ReplaceAll(all["auditor.yaml"].Data, []byte("auditor"), []byte(role))}
	}
	return all
}

func start(t *testing.T, change func(*api.Deps)) *platform {
	t.Helper()
	p := &platform{logs: &lockedBuffer{}}
	log := slog.New(slog.NewTextHandler(p.logs, nil))
	d := dbtest.Open(t, audit.Schema(), key.Schema(), approve.Schema(), job.Schema(), device.Schema(), ca.Schema(), revoke.Schema(), enrol.Schema(), acme.Schema(), maker.Schema(), masa.Schema(), campaign.Schema())
	keys, _ := keytest.Store(t)
	profiles := must[*ca.Profiles](t)(ca.LoadProfiles(withRoles(t)))
	signer, vkey, err := audit.NoteKey("test.example/audit", make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	verifier := must[note.Verifier](t)(note.NewVerifier(vkey))
	record := audit.New(d, audit.Options{Origin: "test.example/audit", Signer: signer, Verifier: verifier, BatchKey: make([]byte, 32), Now: time.Now, Log: log})
	decider := access.NewDecider(record)
	devices := device.New(device.Deps{DB: d, Audit: record, Access: decider, Key: make([]byte, 32), Now: time.Now, Log: log,
		ProfileGrants: func(name string) (bool, access.Role) {
			found, err := profiles.Get(name)
			if err != nil {
				return false, access.RoleNone
			}
			return true, found.Grants
		}})
	meter := key.NewMeter(key.MeterDeps{DB: d, Audit: record, Access: decider, Now: time.Now, Log: log,
		Custody: key.NewCustodies(key.InFile, map[key.Place]key.Custody{key.InFile: keys})})
	authority := ca.New(ca.Deps{DB: d, Audit: record, Access: decider, Keys: meter, Profiles: profiles, Now: time.Now,
		URLs: ca.URLs{CRL: "http://pki.example/crl/", OCSP: "http://pki.example/ocsp", CAIssuers: "http://pki.example/ca/"}})
	if err := devices.Reindex(t.Context()); err != nil {
		t.Fatal(err)
	}
	revocation := revoke.New(revoke.Deps{DB: d, Audit: record, Access: decider, CA: authority, Devices: devices, Keys: keys, Now: time.Now, Log: log})
	makers := maker.New(maker.Deps{DB: d, Audit: record, Access: decider, Now: time.Now})
	registration := enrol.New(enrol.Deps{DB: d, Audit: record, Access: decider, Devices: devices, Makers: makers, CA: authority, Revoke: revocation, Now: time.Now, Log: log,
		Retry: time.Minute, MaxPending: 10, Default: "device"})
	approvals := approve.New(approve.Deps{DB: d, Audit: record, Access: decider, Now: time.Now})
	jobs := job.New(job.Deps{DB: d, Audit: record, Access: decider, Approve: approvals, Now: time.Now, Log: log})
	bulk := revoke.NewBulk(revocation, jobs, 2)
	bundle := enrol.NewBundle(registration, jobs)
	importer := device.NewImporter(devices, jobs)
	for _, w := range append(bulk.Workers(), bundle.Worker(), importer.Worker()) {
		jobs.Register(w)
	}
	campaigns := campaign.New(campaign.Deps{DB: d, Audit: record, Access: decider, Approve: approvals, Devices: devices, CA: authority, Revoke: revocation, Now: time.Now, Log: log, AskAbove: 1000})
	vouchers := masa.New(masa.Deps{DB: d, Audit: record, Access: decider, Devices: devices, Makers: makers, CA: authority, Revoke: revocation, Now: time.Now, Log: log,
		Signer: func() (masa.Signer, error) { return masa.Signer{}, errs.New(errs.NotFound, "no vouchers here") }})
	p.deps = api.Deps{MASA: vouchers, Campaigns: campaigns, Approve: approvals, Jobs: jobs, Bulk: bulk, Bundle: bundle, Importer: importer,
		Export: export.New(export.Deps{DB: d, Audit: record, Access: decider, Devices: devices, CA: authority, Revoke: revocation, Now: time.Now}), DB: d, Audit: record, Access: decider, Devices: devices, Makers: makers, Profiles: profiles, CA: authority, Custody: meter, Revoke: revocation, Enrol: registration,
		ACME: acme.New(acme.Deps{DB: d, Audit: record, Access: decider, Devices: devices, CA: authority, Revoke: revocation, Enrol: registration, Key: make([]byte, 32), Now: time.Now, Log: log}),
		Now:  time.Now, Log: log, Version: v1.Version{Version: "test"},
		Checkers: func() []audit.Checker {
			return []audit.Checker{meter.Checker(), approvals.Checker(), jobs.Checker(), devices.Checker(), authority.Checker(), revocation.Checker(), registration.Checker()}
		}}
	ctx := access.System("test")
	if err := authority.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, spec := range []ca.Spec{
		{Name: "root", Algorithm: key.P256, Validity: 20 * 365 * 86400, PathLen: 1},
		{Name: "devices", Parent: "root", Algorithm: key.P256, Validity: 10 * 365 * 86400},
		{Name: "operators", Parent: "root", Algorithm: key.P256, Validity: 10 * 365 * 86400},
	} {
		spec.Subject = must[[]der.Attribute](t)(der.ParseDN("CN=" + spec.Name + ",O=Test"))
		must[*ca.Issuer](t)(authority.Create(t.Context(), ctx, spec))
	}
	if change != nil {
		change(&p.deps)
	}
	run(t, registration.Run)
	run(t, revocation.Run)
	run(t, jobs.Run)
	p.listen(t)
	return p
}

// run runs a part until the test ends.
func run(t *testing.T, part func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- part(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("a part ended with %v", err)
		}
	})
}

func (p *platform) listen(t *testing.T) {
	t.Helper()
	dir := must[string](t)(os.MkdirTemp("", "api")) // t.TempDir can be too long for a socket's address
	t.Cleanup(func() { os.RemoveAll(dir) })
	p.socket = filepath.Join(dir, "m.sock")
	limits := conf.Default().Limits
	limits.RequestRate, limits.RequestBurst, limits.HandshakeRate, limits.AddressHandshakes = 10000, 10000, 10000, 10000
	limits.DrainTimeout = 2 * time.Second
	held := &gate.ServerCertificate{}
	certificate, roots := serverCertificate(t)
	held.Set(&certificate)
	p.roots = roots
	o := gate.Options{Name: "api", Address: "127.0.0.1:0", Limits: limits, Now: time.Now, Log: p.deps.Log, Refuse: web.Problem,
		TLS: &gate.TLS{Certificate: held, Settings: conf.Default().TLS}}
	overTLS := must[*gate.Gate](t)(gate.Listen(t.Context(), o))
	p.url = "https://" + overTLS.Addr().String()
	o.Name, o.Address, o.TLS = "socket", p.socket, nil
	local := must[*gate.Gate](t)(gate.ListenSocket(t.Context(), o))
	counters := &web.Counters{}
	p.deps.Surfaces = func() []api.Surface {
		return []api.Surface{{Name: "api", Gate: overTLS, Counters: counters}, {Name: "socket", Gate: local}}
	}
	h := web.Observer{Surface: "api", Log: p.deps.Log, Now: time.Now, Refuse: web.Problem, Counters: counters}.Wrap(api.New(p.deps))
	run(t, func(ctx context.Context) error { return overTLS.Serve(ctx, h) })
	run(t, func(ctx context.Context) error { return local.Serve(ctx, h) })
}

func serverCertificate(t *testing.T) (tls.Certificate, []byte) {
	t.Helper()
	k := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "127.0.0.1"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{{127, 0, 0, 1}}, IsCA: true, BasicConstraintsValid: true}
	raw := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, k.Public(), k))
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: k}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
}

// local is a client on the Unix socket: an administrator, since the test is the server's own user.
func (p *platform) local(t *testing.T) *client.Client {
	c := client.New(p.socket)
	t.Cleanup(c.Close)
	return c
}

// unix is a plain HTTP client on the Unix socket.
func (p *platform) unix(t *testing.T) *http.Client {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", p.socket)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// credential registers name under profile and gets it a certificate: PEM of certificate and key.
func (p *platform) credential(t *testing.T, name, profile string) (certificate, privateKey []byte) {
	t.Helper()
	ctx, actor := t.Context(), access.System("test")
	d := must[device.Device](t)(p.deps.Devices.Add(ctx, actor, device.Spec{Name: name, Profile: profile}))
	k := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	answer := must[enrol.Answer](t)(p.deps.Enrol.Direct(ctx, actor, d.ID, k))
	raw := must[[]byte](t)(x509.MarshalPKCS8PrivateKey(k))
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: answer.Certificate.DER}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

// operator is a client over TLS with a certificate of profile.
func (p *platform) operator(t *testing.T, name, profile string) *client.Client {
	t.Helper()
	certificate, k := p.credential(t, name, profile)
	c := must[*client.Client](t)(client.NewTLS(p.url, certificate, k, p.roots))
	t.Cleanup(c.Close)
	return c
}

// raw returns what sends requests as they are: with a certificate of profile, or as nobody when profile is "".
func (p *platform) raw(t *testing.T, name, profile string) func(method, path, contentType, body string) (int, http.Header, string) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(p.roots)
	c := &tls.Config{RootCAs: pool}
	if profile != "" {
		certificate, k := p.credential(t, name, profile)
		c.Certificates = []tls.Certificate{must[tls.Certificate](t)(tls.X509KeyPair(certificate, k))}
	}
	transport := &http.Transport{TLSClientConfig: c}
	t.Cleanup(transport.CloseIdleConnections)
	return func(method, path, contentType, body string) (int, http.Header, string) {
		t.Helper()
		q := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), method, p.url+path, strings.NewReader(body)))
		if contentType != "" {
			q.Header.Set("Content-Type", contentType)
		}
		r := must[*http.Response](t)((&http.Client{Transport: transport}).Do(q))
		defer r.Body.Close()
		return r.StatusCode, r.Header, string(must[[]byte](t)(io.ReadAll(r.Body)))
	}
}
