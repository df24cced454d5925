//go:build interop

package interop

import (
	"regexp"
	"strings"
	"testing"

	zx509 "github.com/zmap/zcrypto/x509"
	zlinter "github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"
)

// fetched are the commands by which a stranger gets what is needed to ask about NAME.pem, from the addresses in it.
const fetched = `CRL=$(openssl x509 -in "$NAME.pem" -noout -ext crlDistributionPoints | sed -n 's/.*URI://p')
curl -sSf "$CRL" -o crl.der
openssl crl -inform DER -in crl.der -out crl.pem
curl -sSf "$(openssl x509 -in "$NAME.pem" -noout -text | sed -n 's/.*CA Issuers - URI://p')" | openssl x509 -inform DER -out issuer.pem
OCSP=$(openssl x509 -in "$NAME.pem" -noout -ocsp_uri)
`

// TestInteropStatus asks for certificates' status with OpenSSL and GnuTLS, before and after a revocation.
func TestInteropStatus(t *testing.T) {
	engines(t, func(t *testing.T, database string) {
		s := start(t, database)
		s.enrol(t, "good", "device", p256)
		s.enrol(t, "bad", "device", p256)
		const good = "NAME=good"
		s.sh(t, fetched+`openssl verify -x509_strict -crl_check -CRLfile crl.pem -CAfile root.pem -untrusted cas.pem good.pem`, good)
		s.sh(t, `mooring cert revoke "$(openssl x509 -in bad.pem -noout -serial | sed 's/.*=//')" --reason cessationOfOperation`)

		const ask = fetched + `openssl ocsp -issuer issuer.pem -url "$OCSP" -CAfile root.pem `
		for _, row := range []struct{ name, flags, want string }{
			{"good with nonce", "-cert good.pem -nonce", `(?s)verify OK.*good\.pem: good`},
			{"good without nonce", "-no_nonce -cert good.pem", `(?s)verify OK.*good\.pem: good`},
			{"good by SHA-256", "-sha256 -cert good.pem", `(?s)verify OK.*good\.pem: good`},
			{"good by SHA-1 and SHA-512", "-sha1 -cert good.pem -sha512 -cert good.pem", `(?s)verify OK.*good\.pem: good.*good\.pem: good`},
			{"several", "-cert good.pem -cert bad.pem", `(?s)verify OK.*good\.pem: good.*bad\.pem: revoked.*Reason: cessationOfOperation`},
			{"by number", "-serial 0x4100000000000000000000000000000f", `(?s)verify OK.*: unknown`},
			{"signed question", "-cert bad.pem -signer good.pem -signkey good.key", `(?s)verify OK.*bad\.pem: revoked`},
			{"of a CA, which only the root's list tells", "-issuer root.pem -cert issuer.pem", `Responder Error: unauthorized \(6\)`},
		} {
			t.Run(row.name, func(t *testing.T) {
				out, err := s.try(t, ask+row.flags, good)
				if !regexp.MustCompile(row.want).MatchString(out) {
					t.Errorf("openssl ocsp %s: %v\n%s", row.flags, err, out)
				}
				if strings.Contains(out, "WARNING: no nonce") {
					t.Errorf("the nonce did not come back:\n%s", out)
				}
			})
		}
		t.Run("stranger's CA", func(t *testing.T) {
			out, _ := s.try(t, fetched+`openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout x.key -subj /CN=x -out x.pem
openssl ocsp -issuer x.pem -cert good.pem -url "$OCSP" -CAfile root.pem`, good)
			if !strings.Contains(out, "Responder Error: unauthorized (6)") {
				t.Errorf("a question about a stranger's CA:\n%s", out)
			}
		})
		t.Run("by GET", func(t *testing.T) {
			s.sh(t, fetched+`openssl ocsp -issuer issuer.pem -cert good.pem -no_nonce -reqout question
openssl base64 -A -in question -out path
curl -sSf -G "$OCSP/$(sed 's/+/%2B/g; s|/|%2F|g; s/=/%3D/g' path)" -o escaped -D head
curl -sSf --path-as-is "$OCSP/$(cat path)" -o plain
cmp escaped plain
grep -qi '^cache-control: max-age=' head
openssl ocsp -respin plain -issuer issuer.pem -cert good.pem -CAfile root.pem | grep -q 'good.pem: good'`, good)
		})
		t.Run("ocsptool", func(t *testing.T) {
			const ask = fetched + `ocsptool --ask="$OCSP" --load-issuer=issuer.pem --load-cert="$NAME.pem" --load-signer=issuer.pem `
			for name, want := range map[string]string{"good": "Certificate Status: good", "bad": "Certificate Status: revoked"} {
				for _, nonce := range []string{"--nonce", "--no-nonce"} {
					out, err := s.try(t, ask+nonce, "NAME="+name)
					if !strings.Contains(out, want) || !strings.Contains(out, "Verifying OCSP Response: Success.") {
						t.Errorf("ocsptool %s for %s: %v\n%s", nonce, name, err, out)
					}
				}
			}
		})
		t.Run("CRL", func(t *testing.T) {
			s.sh(t, `curl -sSf "$STATUS/crl/root.crl" -o root.der
openssl crl -inform DER -in root.der -out root.crl
openssl verify -x509_strict -crl_check -CRLfile root.crl -CAfile root.pem issuer.pem`)
			lintList(t, s.read(t, "root.der"))
			s.sh(t, fetched+`cat crl.pem root.crl >both.crl
openssl crl -in crl.pem -noout -verify -CAfile cas.pem
openssl verify -x509_strict -crl_check_all -CRLfile both.crl -CAfile root.pem -untrusted cas.pem good.pem
certtool --verify-crl --load-ca-certificate issuer.pem --infile crl.pem`, good)
			lintList(t, s.read(t, "crl.der"))
			out := s.sh(t, fetched+`cat crl.pem root.crl >both.crl
openssl crl -in crl.pem -noout -text -verify -CAfile cas.pem
if openssl verify -crl_check_all -CRLfile both.crl -CAfile root.pem -untrusted cas.pem bad.pem; then exit 1; fi
certtool --verify-crl --load-ca-certificate issuer.pem --infile crl.pem
certtool --crl-info --infile crl.pem`, "NAME=bad")
			for _, want := range []string{"verify OK", "Cessation Of Operation", "certificate revoked", "X509v3 CRL Number", "X509v3 Issuing Distribution Point: critical", "Only User Certificates", "Verified."} {
				if !strings.Contains(out, want) {
					t.Errorf("the list: no %q in\n%s", want, out)
				}
			}
			lintList(t, s.read(t, "crl.der"))
		})
		t.Run("CRL of another shard", func(t *testing.T) {
			out := s.sh(t, fetched+`own=$(basename "$CRL" .crl)
curl -sSf "$(dirname "$CRL")/$(( (own + 1) % 256 )).crl" | openssl crl -inform DER -out other.crl
if openssl verify -crl_check -CRLfile other.crl -CAfile root.pem -untrusted cas.pem good.pem; then exit 1; fi`, good)
			if !strings.Contains(out, "different CRL scope") && !strings.Contains(out, "unable to get certificate CRL") {
				t.Errorf("the list of another shard: %s", out)
			}
		})
		t.Run("complete CRL", func(t *testing.T) {
			out := s.sh(t, `curl -sSf "$STATUS/crl/devices.crl" -o whole.der
openssl crl -inform DER -in whole.der -out whole.crl
openssl crl -in whole.crl -noout -text -verify -CAfile cas.pem
openssl verify -x509_strict -crl_check -CRLfile whole.crl -CAfile root.pem -untrusted cas.pem good.pem
certtool --verify-crl --load-ca-certificate issuer.pem --infile whole.crl`)
			if strings.Contains(out, "Issuing Distribution Point") {
				t.Errorf("the complete list has a scope:\n%s", out)
			}
			lintList(t, s.read(t, "whole.der"))
		})
	})
}

// TestInteropDelta lets OpenSSL put delta lists together with the full list that they follow: a hold, its end, and a revocation.
func TestInteropDelta(t *testing.T) {
	engines(t, func(t *testing.T, database string) {
		s := newSite(t)
		s.sh(t, `mooring init -q --name Acme `+s.initFlags(database)+`
sed -i 's/^  # delta: false/  delta: true/' d/mooring.yaml`)
		s.serve(t)
		s.sh(t, `mooring ca export --root -o root.pem
curl -sSf --cacert root.pem "$EST/.well-known/est/cacerts" | openssl base64 -d | openssl pkcs7 -inform DER -print_certs -out cas.pem`)
		s.enrol(t, "pump", "device", p256)
		const pump = "NAME=pump"
		out := s.sh(t, fetched+`cp crl.pem base.crl
openssl crl -in base.crl -noout -text`, pump)
		if !strings.Contains(out, "X509v3 Freshest CRL") {
			t.Errorf("the full list names no delta list:\n%s", out)
		}
		const verify = `FRESH=$(openssl crl -in base.crl -noout -text | sed -n '/Freshest CRL/,/URI:/s/.*URI://p')
curl -sSf "$FRESH" -o delta.der
openssl crl -inform DER -in delta.der -out delta.crl
openssl crl -in delta.crl -noout -text -verify -CAfile cas.pem
certtool --verify-crl --load-ca-certificate issuer.pem --infile delta.crl
openssl verify -crl_check -extended_crl -use_deltas -CRLfile base.crl -CRLfile delta.crl -CAfile root.pem -untrusted cas.pem pump.pem`
		for _, step := range []struct{ act, want string }{
			{`mooring cert revoke "$SERIAL" --reason certificateHold`, `(?s)X509v3 Delta CRL Indicator: critical.*Certificate Hold.*certificate revoked`},
			{`curl -sSf --unix-socket d/mooring.sock -X POST "http://mooring/v1/certificates/$SERIAL/release"`, `(?s)Remove From CRL.*pump\.pem: OK`},
			{`mooring cert revoke "$SERIAL" --reason keyCompromise`, `(?s)Key Compromise.*certificate revoked`},
		} {
			s.sh(t, `SERIAL=$(openssl x509 -in pump.pem -noout -serial | sed 's/.*=//' | tr A-F a-f)
`+step.act)
			out, err := s.try(t, verify, pump)
			if !regexp.MustCompile(step.want).MatchString(out) {
				t.Errorf("after %s: %v, want %s in\n%s", step.act, err, step.want, out)
			}
			lintList(t, s.read(t, "delta.der"))
		}
	})
}

// sources are the standards that certificates and lists are held to; those of the CA/Browser Forum speak of the public web.
func sources() lint.FilterOptions {
	return lint.FilterOptions{IncludeSources: lint.SourceList{lint.RFC5280, lint.RFC5480, lint.RFC8813, lint.RFC6960, lint.RFC3279, lint.RFC5891}}
}

// lintList holds a revocation list to zlint.
func lintList(t *testing.T, raw []byte) {
	t.Helper()
	list, err := zx509.ParseRevocationList(raw)
	if err != nil {
		t.Fatal(err)
	}
	registry, err := lint.GlobalRegistry().Filter(sources())
	if err != nil {
		t.Fatal(err)
	}
	results := zlinter.LintRevocationListEx(list, registry).Results
	if len(results) == 0 {
		t.Error("no lint was run on the list")
	}
	for name, r := range results {
		if r.Status >= lint.Warn {
			t.Errorf("the list breaks %s: %s %s", name, r.Status, r.Details)
		}
	}
}

// lintCertificate holds a certificate to zlint.
func lintCertificate(t *testing.T, raw []byte) {
	t.Helper()
	cert, err := zx509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	registry, err := lint.GlobalRegistry().Filter(sources())
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range zlinter.LintCertificateEx(cert, registry).Results {
		if r.Status >= lint.Error {
			t.Errorf("the certificate breaks %s: %s %s", name, r.Status, r.Details)
		}
	}
}
