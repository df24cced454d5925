//go:build interop

package app_test

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mooring/internal/app/apptest"
	"mooring/internal/core/ca"
	wire "mooring/wire/est"
)

// TestInteropRollover is TestRollover with OpenSSL looking on: in every phase, from either root, it verifies what the listeners show and the
// certificates of all devices with the lists of every CA above them, strictly. What stands between comes from /cacerts, in its order.
func TestInteropRollover(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatal("this test needs openssl: ", err)
	}
	rollover(t, func(t *testing.T, c *turnover) {
		dir := t.TempDir()
		c.files(t, dir)
		roots := []string{"g1", "g2"}
		if c.phase == 5 {
			roots = roots[1:]
		}
		at := fmt.Sprintf("-attime %d", c.Clock.Now().Unix())
		address := strings.TrimPrefix(c.Addresses().EST, "https://")
		for _, root := range roots {
			openssl(t, dir, `s_client -connect `+address+` -servername localhost -verify_return_error -x509_strict -CAfile `+root+`.pem `+at+` -brief`)
			for _, d := range []*fleetDevice{c.static, c.eager, c.late, c.by} {
				if d != nil && c.leaf(t, d).NotAfter.After(c.Clock.Now()) {
					openssl(t, dir, `verify -x509_strict -purpose sslclient -crl_check_all -CRLfile `+d.name+`.crl -CAfile `+root+`.pem -untrusted bundle.pem `+at+` `+d.name+`.pem`)
				}
			}
		}
		if c.phase != 0 {
			return
		}
		// The row of the table that must fail, so that this test would notice: the new root before the cross certificate.
		shuffled := append(pemOf("CERTIFICATE", c.g2.Raw), read(t, filepath.Join(dir, "bundle.pem"))...)
		must(t, os.WriteFile(filepath.Join(dir, "shuffled.pem"), shuffled, 0o600))
		below, err := c.CA.Issuer("devices-g2")
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, "below.pem"), pemOf("CERTIFICATE", below.Certificate().Raw), 0o600))
		openssl(t, dir, `verify -x509_strict -CAfile g1.pem -untrusted bundle.pem `+at+` below.pem`)
		if out, err := tryOpenSSL(t, dir, `verify -x509_strict -CAfile g1.pem -untrusted shuffled.pem `+at+` below.pem`); err == nil || !strings.Contains(out, "self-signed certificate in certificate chain") {
			t.Errorf("OpenSSL finds its way with the new root first: %s, so that the order does not matter any more", out)
		}
	})
}

// files writes roots, bundle, devices and lists.
func (c *turnover) files(t *testing.T, dir string) {
	t.Helper()
	put := func(name string, text []byte) { must(t, os.WriteFile(filepath.Join(dir, name), text, 0o600)) }
	put("g1.pem", pemOf("CERTIFICATE", c.g1.Raw))
	put("g2.pem", pemOf("CERTIFICATE", c.g2.Raw))
	trust := c.g2
	reply := c.Dial(t, c.trusting(trust)).Send(t, apptest.Call{Path: "/.well-known/est/device/cacerts"})
	raw, err := wire.DecodeBase64(reply.Text)
	must(t, err)
	put("bundle.p7", raw)
	openssl(t, dir, `pkcs7 -inform DER -in bundle.p7 -print_certs -out bundle.pem`)
	for _, d := range []*fleetDevice{c.static, c.eager, c.late, c.by} {
		if d == nil {
			continue
		}
		leaf := c.leaf(t, d)
		put(d.name+".pem", pemOf("CERTIFICATE", leaf.Raw))
		own, err := c.CA.Get(t.Context(), leaf.SerialNumber.Bytes())
		must(t, err)
		issuer, err := c.CA.IssuerByID(own.Issuer)
		must(t, err)
		l, err := c.Revoke.CRL(t.Context(), issuer.ID(), issuer.Shard(own.Serial[:]))
		must(t, err)
		lists := pemOf("X509 CRL", l.DER)
		for _, name := range []string{"root-g1", "root-g2"} {
			root, err := c.CA.Issuer(name)
			must(t, err)
			if root.Certificate().NotAfter.Before(c.Clock.Now()) {
				continue
			}
			l, err := c.Revoke.CRL(t.Context(), root.ID(), ca.Complete)
			must(t, err)
			lists = append(lists, pemOf("X509 CRL", l.DER)...)
		}
		put(d.name+".crl", lists)
	}
}

func pemOf(kind string, raw []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw})
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	return text
}

func openssl(t *testing.T, dir, arguments string) {
	t.Helper()
	if out, err := tryOpenSSL(t, dir, arguments); err != nil {
		t.Errorf("openssl %s: %v\n%s", arguments, err, out)
	}
}

func tryOpenSSL(t *testing.T, dir, arguments string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "openssl", strings.Fields(arguments)...)
	cmd.Dir = dir
	cmd.Stdin = bytes.NewReader(nil)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
