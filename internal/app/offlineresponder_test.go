package app_test

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	xocsp "golang.org/x/crypto/ocsp"

	"mooring/internal/app/apptest"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/ceremony"
	"mooring/internal/core/key"
	"mooring/wire/der"
)

const year = 365 * 86400

// offlineRoot is an offline root with a CA of the platform below it.
type offlineRoot struct {
	*ceremony.Root
	p     *apptest.Platform
	below *ca.Issuer
	above *ca.Issuer
}

func newOfflineRoot(t *testing.T, p *apptest.Platform) *offlineRoot {
	t.Helper()
	ctx, dir := t.Context(), t.TempDir()
	subject := func(cn string) []der.Attribute {
		return []der.Attribute{{Type: der.OIDOrganization, Value: "Test Fleet"}, {Type: der.OIDCommonName, Value: cn}}
	}
	keys, err := key.Create(filepath.Join(dir, "keys"), []byte("six words"), key.Options{})
	must(t, err)
	r := &offlineRoot{p: p}
	r.Root, err = ceremony.Create(ctx, filepath.Join(dir, "root"), keys, ceremony.Spec{Subject: subject("Offline Root"), Algorithm: key.P384, Validity: 20 * year, PathLen: 2,
		Status: p.Addresses().Status}, ceremony.Deps{Now: p.Clock.Now, By: "test"})
	must(t, err)
	t.Cleanup(func() { _ = r.Close() })
	waiting, err := p.CA.Request(ctx, apptest.Operator(), ca.Spec{Name: "below", Subject: subject("Below"), Algorithm: key.P256})
	must(t, err)
	q, err := r.Review(waiting.Request, ceremony.Order{Validity: 10 * year, OCSP: true})
	must(t, err)
	made, err := r.Sign(ctx, q)
	must(t, err)
	got, err := p.CA.Import(ctx, apptest.Operator(), ca.Import{Name: "below", Chain: [][]byte{made.DER, r.Certificate().Raw}, Record: r.Record().Text()})
	must(t, err)
	r.below, r.above = got.Issuers[0], got.Issuers[1]
	return r
}

// list signs a list and imports it.
func (r *offlineRoot) list(t *testing.T) {
	t.Helper()
	l, err := r.SignCRL(t.Context(), year)
	must(t, err)
	_, _, err = r.p.Revoke.ImportCRL(t.Context(), apptest.Operator(), l.DER)
	must(t, err)
}

// responder has a responder certified and returns its certificate, which is not imported yet.
func (r *offlineRoot) responder(t *testing.T, validity int64) []byte {
	t.Helper()
	waiting, err := r.p.CA.RequestResponder(t.Context(), apptest.Operator(), ca.NewResponder{CA: r.above.Name()})
	must(t, err)
	q, err := r.ReviewResponder(waiting.Request, validity)
	must(t, err)
	made, err := r.Sign(t.Context(), q)
	must(t, err)
	return made.DER
}

// ask asks the server over HTTP about the CA below, at the address that its certificate names, and returns the octets.
func (r *offlineRoot) ask(t *testing.T) []byte {
	t.Helper()
	q, err := xocsp.CreateRequest(r.below.Certificate(), r.above.Certificate(), nil)
	must(t, err)
	if n := r.below.Certificate().OCSPServer; len(n) != 1 || n[0] != r.p.Addresses().Status+"/ocsp" {
		t.Fatalf("the CA's certificate names the responders %v", n)
	}
	reply, err := http.Post(r.p.Addresses().Status+"/ocsp", "application/ocsp-request", bytes.NewReader(q))
	must(t, err)
	defer reply.Body.Close()
	raw, err := io.ReadAll(reply.Body)
	must(t, err)
	return raw
}

// want looks at the answer with an implementation that is not ours, and returns it.
func (r *offlineRoot) want(t *testing.T, when string, status int) *xocsp.Response {
	t.Helper()
	got, err := xocsp.ParseResponseForCert(r.ask(t), r.below.Certificate(), r.above.Certificate())
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	if got.Status != status {
		t.Errorf("%s: the answer is %d, want %d", when, got.Status, status)
	}
	if got.Certificate == nil || got.NextUpdate.After(got.Certificate.NotAfter) {
		t.Errorf("%s: the answer outlives its signer, or comes without its certificate", when)
	}
	return got
}

// refused wants an unsigned answer.
func (r *offlineRoot) refused(t *testing.T, when string, status xocsp.ResponseStatus) {
	t.Helper()
	_, err := xocsp.ParseResponse(r.ask(t), r.above.Certificate())
	if refusal, ok := err.(xocsp.ResponseError); !ok || refusal.Status != status {
		t.Errorf("%s: got %v, want %s", when, err, status)
	}
}

// TestAResponderOfAnOfflineRoot: a responder whose key is here and whose certificate the root signed on its machine answers about the CA below the
// root, out of the root's imported list.
func TestAResponderOfAnOfflineRoot(t *testing.T) {
	p := apptest.Start(t, nil)
	ctx, op := t.Context(), apptest.Operator()
	root := newOfflineRoot(t, p)
	root.refused(t, "without a responder", xocsp.Unauthorized)
	first := root.responder(t, year)
	if _, err := p.CA.RequestResponder(ctx, op, ca.NewResponder{CA: root.above.Name()}); !errs.Is(err, errs.Conflict) {
		t.Errorf("a second request: %v", err)
	}
	if _, err := p.CA.RequestResponder(ctx, op, ca.NewResponder{CA: "devices"}); !errs.Is(err, errs.Conflict) {
		t.Errorf("a request for a CA whose key is here: %v", err)
	}
	operator := op
	operator.Role = access.RoleOperator
	if _, err := p.CA.ImportResponder(ctx, operator, first); !errs.Is(err, errs.Denied) {
		t.Errorf("an import by an operator: %v", err)
	}
	r, err := p.CA.ImportResponder(ctx, op, first)
	must(t, err)
	if nocheck := hasNoCheck(r.Cert); !nocheck || len(r.Cert.ExtKeyUsage) != 1 || r.Cert.ExtKeyUsage[0] != x509.ExtKeyUsageOCSPSigning || r.Cert.KeyUsage != x509.KeyUsageDigitalSignature || r.Cert.IsCA {
		t.Errorf("the responder's certificate: nocheck %v, %v, %v", nocheck, r.Cert.ExtKeyUsage, r.Cert.KeyUsage)
	}
	if _, err := p.CA.ImportResponder(ctx, op, first); !errs.Is(err, errs.Conflict) {
		t.Errorf("importing it twice: %v", err)
	}
	root.refused(t, "without a list", xocsp.TryLater)
	p.Clock.Move(time.Minute)
	root.list(t)
	if got := root.want(t, "good", xocsp.Good); got.ThisUpdate.After(p.Clock.Now()) || !bytes.Equal(got.Certificate.Raw, first) {
		t.Errorf("the answer is of %s, or by another signer", got.ThisUpdate)
	}
	p.Restart(t)
	root.want(t, "after a restart", xocsp.Good)

	p.Clock.Move(time.Minute)
	must(t, root.Revoke(ctx, hex.EncodeToString(root.below.Certificate().SerialNumber.Bytes()), "cACompromise"))
	root.want(t, "before the list is imported", xocsp.Good)
	root.list(t)
	if got := root.want(t, "revoked", xocsp.Revoked); got.RevocationReason != xocsp.CACompromise {
		t.Errorf("revoked for %d", got.RevocationReason)
	}
	// The next one takes over; when the list names it, the one before answers again, and when it names both, nobody.
	second := root.responder(t, 385*86400)
	_, err = p.CA.ImportResponder(ctx, op, second)
	must(t, err)
	if got := root.want(t, "another responder", xocsp.Revoked); !bytes.Equal(got.Certificate.Raw, first) && !bytes.Equal(got.Certificate.Raw, second) {
		t.Error("the answer is by neither responder")
	}
	for n, raw := range [][]byte{second, first} {
		cert, err := x509.ParseCertificate(raw)
		must(t, err)
		must(t, root.Revoke(ctx, hex.EncodeToString(cert.SerialNumber.Bytes()), "superseded"))
		p.Clock.Move(time.Minute)
		root.list(t)
		if n == 0 {
			if got := root.want(t, "the newer responder is revoked", xocsp.Revoked); !bytes.Equal(got.Certificate.Raw, first) {
				t.Error("a revoked responder answers")
			}
		}
	}
	root.refused(t, "both responders are revoked", xocsp.Unauthorized)
	_, n, err := p.CA.ImportRecord(ctx, op, root.Record().Text())
	if err != nil || n == 0 {
		t.Errorf("the record of the ceremony: %d new entries, %v", n, err)
	}
	for _, f := range p.Verify(t).Findings {
		t.Errorf("verification: %s", f)
	}
}

func hasNoCheck(cert *x509.Certificate) bool {
	for _, e := range cert.Extensions {
		if e.Id.String() == "1.3.6.1.5.5.7.48.1.5" {
			return true
		}
	}
	return false
}

// TestRequestsOfRespondersThatAreRefused: at the root.
func TestRequestsOfRespondersThatAreRefused(t *testing.T) {
	p := apptest.Start(t, nil)
	root := newOfflineRoot(t, p)
	subject := []der.Attribute{{Type: der.OIDOrganization, Value: "Test Fleet"}, {Type: der.OIDCommonName, Value: "Responder"}}
	purpose := der.NewExtKeyUsage(der.OIDOCSPSigning)
	ask := func(extensions ...der.Extension) []byte {
		return apptest.CSR(t, apptest.Key(t), der.RequestSpec{Subject: subject, Extensions: extensions})
	}
	for name, row := range map[string]struct {
		csr      []byte
		validity int64
		want     string
	}{
		"a CA":                {ask(der.NewBasicConstraints(true, 0), purpose), year, "is for a CA"},
		"no purpose":          {ask(), year, "not for an OCSP responder"},
		"one purpose more":    {ask(der.NewExtKeyUsage(der.OIDOCSPSigning, der.OIDServerAuth)), year, "not for an OCSP responder"},
		"a usage more":        {ask(purpose, der.NewKeyUsage(der.DigitalSignature|der.KeyCertSign)), year, "no business"},
		"too long":            {ask(purpose), 2 * year, "between a day and 400 days"},
		"foreign":             {apptest.CSR(t, apptest.Key(t), der.RequestSpec{Subject: []der.Attribute{{Type: der.OIDOrganization, Value: "Evil"}, {Type: der.OIDCommonName, Value: "R"}}, Extensions: []der.Extension{purpose}}), year, "foreign organisation"},
		"alternative names":   {apptest.CSR(t, apptest.Key(t), der.RequestSpec{Subject: subject, Names: der.AltNames{DNS: []string{"a.example"}}, Extensions: []der.Extension{purpose}}), year, "alternative names"},
		"nothing that is one": {[]byte("x"), year, "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(root.Record().Entries)
			if _, err := root.ReviewResponder(row.csr, row.validity); !errs.Is(err, errs.Invalid) || !strings.Contains(errs.Public(err), row.want) {
				t.Errorf("got %v, want a refusal with %q", err, row.want)
			}
			if len(root.Record().Entries) != before {
				t.Error("the record grew")
			}
		})
	}
	if _, err := root.ReviewResponder(ask(purpose), year); err != nil {
		t.Errorf("a good one: %v", err)
	}
}
