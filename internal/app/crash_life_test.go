package app_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mooring/internal/app"
	"mooring/internal/app/apptest"
	"mooring/internal/core/audit"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/wire/der"
	"mooring/wire/est"
)

// TestCrashOfUnkept kills the server while devices get certificates that it does not keep, in brief and for one transaction, and holds it to the
// same promise: what a device was given is on record.
func TestCrashOfUnkept(t *testing.T) {
	c, made := apptest.Init(t, &apptest.Clock{}, &apptest.Log{}, nil)
	crew := newCrew(t, made, 32)
	p, err := app.Open(t.Context(), app.Options{Config: c})
	must(t, err)
	for _, m := range crew {
		d, err := p.Devices.Add(t.Context(), apptest.Operator(), device.Spec{Name: m.name, Profile: "device-short"})
		must(t, err)
		m.token, _, err = p.Devices.Token(t.Context(), apptest.Operator(), d.ID, time.Hour)
		must(t, err)
	}
	must(t, p.Close())
	s := startServer(t, made.Dir)
	for _, m := range crew {
		if !m.post(t.Context(), s.addresses.EST, "simpleenroll") {
			t.Fatalf("%s got no first certificate", m.name)
		}
	}
	s.kill()
	for round := range 2 {
		s := startServer(t, made.Dir)
		var received atomic.Int64
		var workers sync.WaitGroup
		for _, m := range crew {
			workers.Go(func() {
				for n := 0; n < 20 && received.Load() < 200; n++ {
					operation := []string{"transaction/simpleenroll", "simplereenroll"}[n%2]
					if !m.post(t.Context(), s.addresses.EST, operation) {
						return
					}
					if received.Add(1) == 150 {
						go s.kill()
					}
				}
			})
		}
		workers.Wait()
		s.kill()
		checkCrew(t, made.Dir, crew, fmt.Sprintf("round %d", round+1))
	}
}

// sailor is a device with all that it was given.
type sailor struct {
	name, token string
	key         *ecdsa.PrivateKey
	roots       *x509.CertPool
	leaf        *x509.Certificate // that it proves itself by
	got         [][]byte
}

func newCrew(t *testing.T, made app.InitResult, n int) []*sailor {
	t.Helper()
	root, err := os.ReadFile(made.Root)
	must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	crew := make([]*sailor, n)
	for i := range crew {
		crew[i] = &sailor{name: fmt.Sprintf("sailor-%d", i), key: apptest.Key(t), roots: roots}
	}
	return crew
}

// post asks once, over a connection of its own. Whatever goes wrong is the crash that the test is about.
func (m *sailor) post(ctx context.Context, origin, operation string) bool {
	spec := der.RequestSpec{}
	config := &tls.Config{RootCAs: m.roots, ServerName: "localhost"}
	if m.leaf != nil {
		spec.RawSubject, spec.Names = m.leaf.RawSubject, der.AltNames{URI: []string{m.leaf.URIs[0].String()}}
		config.Certificates = []tls.Certificate{{Certificate: [][]byte{m.leaf.Raw}, PrivateKey: m.key, Leaf: m.leaf}}
	}
	if operation == "transaction/simpleenroll" {
		spec = der.RequestSpec{}
	}
	csr, err := requestBy(m.key, spec)
	if err != nil {
		return false
	}
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, origin+"/.well-known/est/"+operation, bytes.NewReader(est.EncodeBase64(csr)))
	if err != nil {
		return false
	}
	r.Header.Set("Content-Type", est.TypeRequest)
	if m.leaf == nil {
		r.SetBasicAuth(m.name, m.token)
	}
	reply, err := client.Do(r)
	if err != nil {
		return false
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil || reply.StatusCode != http.StatusOK {
		return false
	}
	raw, err := certificateIn(text)
	if err != nil {
		return false
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		return false
	}
	m.got = append(m.got, raw)
	if ca.KeptAs(leaf.SerialNumber.Bytes()) == ca.Brief {
		m.leaf = leaf
	}
	return true
}

func requestBy(k *ecdsa.PrivateKey, spec der.RequestSpec) ([]byte, error) {
	var err error
	if spec.SPKI, err = x509.MarshalPKIXPublicKey(k.Public()); err != nil {
		return nil, err
	}
	info, err := der.AppendRequestInfo(nil, spec)
	if err != nil {
		return nil, err
	}
	signature, err := k.Sign(nil, der.ECDSAWithSHA256.Digest(info), der.ECDSAWithSHA256.Hash())
	if err != nil {
		return nil, err
	}
	return der.Wrap(nil, info, der.ECDSAWithSHA256, signature), nil
}

// checkCrew opens the installation of the killed server and compares its record with what the devices hold.
func checkCrew(t *testing.T, dir string, crew []*sailor, when string) {
	t.Helper()
	p, err := load(t.Context(), dir, app.Open)
	must(t, err)
	defer func() { must(t, p.Close()) }()
	report, err := p.Audit.Verify(t.Context(), audit.VerifyOptions{Checkers: p.Checkers()})
	must(t, err)
	for _, found := range report.Findings {
		t.Errorf("%s: the record does not verify: %s", when, found)
	}
	digests, serials := recordedDigests(t, p)
	counts := map[ca.Record]int{}
	for _, m := range crew {
		for _, raw := range m.got {
			cert, err := x509.ParseCertificate(raw)
			must(t, err)
			sum, serial := sha256.Sum256(raw), cert.SerialNumber.Bytes()
			class := ca.KeptAs(serial)
			counts[class]++
			if class == ca.Ephemeral && !digests[sum] || class == ca.Brief && serials[hex.EncodeToString(serial)] != hex.EncodeToString(sum[:]) || class == ca.Full {
				t.Errorf("%s: %s holds the certificate %x (%s), which is not on record", when, m.name, serial, class)
			}
		}
	}
	if counts[ca.Brief] == 0 || counts[ca.Ephemeral] == 0 {
		t.Errorf("%s: the devices hold %v: that shows nothing", when, counts)
	}
	t.Logf("%s: devices hold %v", when, counts)
}

// recordedDigests reads what the record says was issued.
func recordedDigests(t *testing.T, p *app.Platform) (digests map[[sha256.Size]byte]bool, serials map[string]string) {
	t.Helper()
	digests, serials = map[[sha256.Size]byte]bool{}, map[string]string{}
	for after := int64(0); ; {
		page, err := p.Audit.List(t.Context(), apptest.Operator(), audit.Query{After: after, Limit: 500})
		must(t, err)
		if len(page) == 0 {
			return digests, serials
		}
		for _, e := range page {
			after = e.Index + 1
			switch e.Action {
			case "cert.issue":
				serials[e.Serial] = e.Detail["sha256"]
			case ca.ActionEphemeral:
				all, err := ca.Digests(&e.Entry)
				must(t, err)
				for _, sum := range all {
					digests[sum] = true
				}
			}
		}
	}
}
