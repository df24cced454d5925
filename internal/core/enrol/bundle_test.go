package enrol_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/base/errs"
	"mooring/internal/core/access"
	"mooring/internal/core/device"
	"mooring/internal/core/job"
	"mooring/wire/der"
)

// done waits until the job has ended.
func done(t *testing.T, p *apptest.Platform, j job.Job) job.Job {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !j.State.Ended(); time.Sleep(5 * time.Millisecond) {
		var err error
		if j, err = p.Jobs.Get(t.Context(), apptest.Operator(), j.ID); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("the job is %s: %s", j.State, j.Note)
		}
	}
	return j
}

func namedCSR(t *testing.T, name string) []byte {
	t.Helper()
	return apptest.CSR(t, apptest.Key(t), der.RequestSpec{Subject: []der.Attribute{{Type: der.OIDCommonName, Value: name}}})
}

func TestABundleIsIssuedRowByRow(t *testing.T) {
	p := apptest.Start(t, nil)
	ctx := t.Context()
	want := map[string]string{"unknown": "no such device", "retired": "retired", "other": "another profile", "forged": "does not verify", "evil": "profile"}
	var bundle bytes.Buffer
	keys := map[string][]byte{}
	for _, name := range []string{"a-1", "a-2", "a-3", "retired", "other", "forged", "evil", "unknown"} {
		profile := "device"
		if name == "other" {
			profile = "gateway"
		}
		if name != "unknown" {
			d := p.Add(t, device.Spec{Name: name, Profile: profile})
			if name == "retired" {
				if _, err := p.Devices.Move(ctx, apptest.Operator(), d.ID, device.Retire, ""); err != nil {
					t.Fatal(err)
				}
			}
		}
		csr := namedCSR(t, name)
		switch name {
		case "forged":
			csr[len(csr)-1] ^= 1
		case "evil":
			csr = apptest.CSR(t, apptest.Key(t), der.RequestSpec{Subject: []der.Attribute{{Type: der.OIDCommonName, Value: name}}, Names: der.AltNames{DNS: []string{"bank.example"}}})
		}
		keys[name] = csr
		fmt.Fprintf(&bundle, "of %s:\n", name)
		must(t, pem.Encode(&bundle, &pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
	}
	operator := access.Actor{Kind: access.KindOperator, ID: "bb", Role: access.RoleOperator, Via: "api"}
	if _, err := p.Bundle.Issue(ctx, operator, bytes.NewReader(bundle.Bytes()), "pem", "b.pem", "device", true); !errs.Is(err, errs.Denied) {
		t.Errorf("an operator: got %v", err)
	}
	j, err := p.Bundle.Issue(ctx, apptest.Operator(), bytes.NewReader(bundle.Bytes()), "pem", "b.pem", "device", true)
	must(t, err)
	j = done(t, p, j)
	if j.State != job.Done || j.Done != 3 || j.Failed != 5 {
		t.Fatalf("got %s, %d done, %d failed: %s", j.State, j.Done, j.Failed, j.Note)
	}
	results, err := p.Jobs.Results(ctx, apptest.Operator(), j.ID, 0, 0)
	must(t, err)
	for _, r := range results {
		if text := want[r.Item]; text != "" {
			if r.OK || !strings.Contains(r.Text, text) {
				t.Errorf("%s: got %+v, want %q", r.Item, r, text)
			}
			continue
		}
		serial, err := hex.DecodeString(r.Text)
		must(t, err)
		c, err := p.CA.Get(ctx, serial)
		must(t, err)
		leaf, err := x509.ParseCertificate(c.DER)
		must(t, err)
		csr, err := der.ParseRequest(keys[r.Item])
		must(t, err)
		if !r.OK || !bytes.Equal(leaf.RawSubjectPublicKeyInfo, csr.RawSPKI) {
			t.Errorf("%s: the certificate is for another key", r.Item)
		}
	}
	// The very same bundle again: the same certificates.
	again, err := p.Bundle.Issue(ctx, apptest.Operator(), bytes.NewReader(bundle.Bytes()), "pem", "b.pem", "device", true)
	must(t, err)
	again = done(t, p, again)
	second, err := p.Jobs.Results(ctx, apptest.Operator(), again.ID, 0, 0)
	must(t, err)
	for i := range results {
		if results[i].OK && results[i] != second[i] {
			t.Errorf("%s got %s and then %s for one request", results[i].Item, results[i].Text, second[i].Text)
		}
	}
}

func TestABundleWithMistakesMakesNothing(t *testing.T) {
	p := apptest.Start(t, nil)
	p.Add(t, device.Spec{Name: "a-1", Profile: "device"})
	line := func(name string, csr string) string {
		text, err := json.Marshal(map[string]string{"device": name, "csr": csr})
		must(t, err)
		return string(text) + "\n"
	}
	good := base64.StdEncoding.EncodeToString(namedCSR(t, "a-1"))
	for _, row := range []struct{ format, text, want string }{
		{"jsonl", line("a-1", "!!!"), "b:1: the field csr is neither"},
		{"jsonl", "\n{nonsense\n", "b:2: this is no object"},
		{"jsonl", line("", good), "b:1: the field device is missing"},
		{"jsonl", line("a-1", good) + line("a-1", good), `b:2: the request of "a-1" stands in line 1 already`},
		{"jsonl", line("a-1", base64.StdEncoding.EncodeToString([]byte("no DER"))), "b:1: this is no certification request"},
		{"jsonl", strings.Repeat("x", 70<<10), "a line is longer"},
		{"pem", "nothing here", "holds no certification request"},
		{"pem", "x\n-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", "b:2: the request that begins here has no end"},
		{"pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "b:1: -----BEGIN PRIVATE KEY----- is no certification request"},
		{"pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: apptest.CSR(t, apptest.Key(t), der.RequestSpec{})})), "b:1: the request has no common name"},
		{"zip", "", "format: "},
	} {
		_, err := p.Bundle.Issue(t.Context(), apptest.Operator(), strings.NewReader(row.text), row.format, "b", "", true)
		if !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s %.40q: got %v, want %q", row.format, row.text, err, row.want)
		}
	}
	if jobs, _, err := p.Jobs.List(t.Context(), apptest.Operator(), job.Filter{}); err != nil || len(jobs) != 0 {
		t.Errorf("%d jobs were made, %v", len(jobs), err)
	}
	j, err := p.Bundle.Issue(t.Context(), apptest.Operator(), strings.NewReader(line("a-1", good)), "jsonl", "b", "", true)
	must(t, err)
	if j = done(t, p, j); j.Done != 1 {
		t.Errorf("a good one: %d done, %d failed", j.Done, j.Failed)
	}
}
