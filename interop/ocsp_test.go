//go:build interop

package interop

import (
	"regexp"
	"strings"
	"testing"
)

// TestInteropOCSP asks with other people's programs, of a CA that answers itself and of one that delegates. None is given the responder's
// certificate beforehand.
func TestInteropOCSP(t *testing.T) {
	for _, mode := range []string{"ca", "delegated"} {
		t.Run(mode, func(t *testing.T) {
			s := newSite(t)
			s.sh(t, `mooring init -q --name Acme `+s.initFlags("")+`
sed -i 's/^  # responder: .*/  responder: "`+mode+`"/' d/mooring.yaml
mooring config check`)
			s.serve(t)
			s.sh(t, `mooring ca export --root -o root.pem
curl -sSf --cacert root.pem "$EST/.well-known/est/cacerts" | openssl base64 -d | openssl pkcs7 -inform DER -print_certs -out cas.pem`)
			s.enrol(t, "good", "device", p256)
			s.enrol(t, "bad", "device", p256)
			s.sh(t, `NAME=good
`+fetched+`echo "$OCSP" > ocsp.url
mooring cert revoke "$(openssl x509 -in bad.pem -noout -serial | sed 's/.*=//')" --reason keyCompromise`)
			askWithOpenSSL(t, s)
			askWithGnuTLS(t, s)
			askWithCurl(t, s)
			delegate(t, s, mode == "delegated")
		})
	}
}

func askWithOpenSSL(t *testing.T, s *site) {
	for _, row := range []struct{ flags, want string }{
		{"-cert good.pem -nonce", `(?s)verify OK.*good\.pem: good`},
		{"-cert good.pem -no_nonce", `(?s)verify OK.*good\.pem: good`},
		{"-cert bad.pem", `(?s)verify OK.*bad\.pem: revoked.*Reason: keyCompromise`},
		{"-no_nonce -cert bad.pem", `(?s)verify OK.*bad\.pem: revoked.*Reason: keyCompromise`},
		{"-sha256 -cert good.pem", `(?s)verify OK.*good\.pem: good`},
		{"-sha384 -cert good.pem -sha512 -cert bad.pem -sha1 -cert good.pem", `(?s)verify OK.*good\.pem: good.*bad\.pem: revoked.*good\.pem: good`},
		{"-no_nonce -serial 0x4100000000000000000000000000000f -cert good.pem", `(?s)verify OK.*: unknown.*good\.pem: good`},
		{"-cert good.pem -signer bad.pem -signkey bad.key", `(?s)verify OK.*good\.pem: good`},
	} {
		out, err := s.try(t, `openssl ocsp -issuer issuer.pem -url "$(cat ocsp.url)" -CAfile root.pem `+row.flags)
		if !regexp.MustCompile(row.want).MatchString(out) || strings.Contains(out, "WARNING") {
			t.Errorf("openssl ocsp %s: %v\n%s", row.flags, err, out)
		}
	}
}

func askWithGnuTLS(t *testing.T, s *site) {
	for _, trust := range []string{"--load-signer=issuer.pem", "--load-trust=cas.pem"} {
		for name, want := range map[string]string{"good": "Certificate Status: good", "bad": "Certificate Status: revoked"} {
			for _, nonce := range []string{"--nonce", "--no-nonce"} {
				out, err := s.try(t, `ocsptool --ask="$(cat ocsp.url)" --load-issuer=issuer.pem --load-cert=`+name+`.pem `+trust+" "+nonce)
				if !strings.Contains(out, want) || !strings.Contains(out, "Verifying OCSP Response: Success.") {
					t.Errorf("ocsptool %s %s for %s: %v\n%s", trust, nonce, name, err, out)
				}
			}
		}
	}
}

// askWithCurl asks as caches do, and looks at what they need.
func askWithCurl(t *testing.T, s *site) {
	out := s.sh(t, `openssl ocsp -issuer issuer.pem -cert good.pem -no_nonce -reqout question
openssl ocsp -issuer issuer.pem -cert good.pem -nonce -reqout fresh
openssl base64 -A -in question -out path
OCSP=$(cat ocsp.url)
curl -sSf --path-as-is "$OCSP/$(cat path)" -o plain -D head
curl -sSf "$OCSP/$(sed 's/+/%2B/g; s|/|%2F|g; s/=/%3D/g' path)" -o escaped
curl -sSf -H 'Content-Type: application/ocsp-request' --data-binary @question "$OCSP" -o posted -D posthead
cmp plain escaped
cmp plain posted
TAG=$(sed -n 's/^[Ee][Tt]ag: //p' head | tr -d '\r')
curl -sS --path-as-is -H "If-None-Match: $TAG" "$OCSP/$(cat path)" -o none -w 'again %{http_code} %{size_download}\n'
curl -sSf -I --path-as-is "$OCSP/$(cat path)" | grep -i '^content-length'
curl -sSf -H 'Content-Type: application/ocsp-request' --data-binary @fresh "$OCSP" -o answered -D freshhead
cat freshhead
openssl ocsp -respin plain -issuer issuer.pem -cert good.pem -no_nonce -CAfile root.pem
openssl ocsp -respin answered -reqin fresh -CAfile root.pem -verify_other cas.pem -trust_other
curl -sS -H 'Content-Type: text/plain' --data-binary @question "$OCSP" | openssl ocsp -respin /dev/stdin -noverify 2>&1 || true
cat head`)
	for _, want := range []string{`again 304 0`, `(?s)verify OK.*good\.pem: good.*verify OK`, `(?i)cache-control: no-store`, `(?i)cache-control: max-age=\d+, public, no-transform, must-revalidate`,
		`(?i)\nexpires: `, `(?i)\nlast-modified: `, `(?i)\netag: "`, `malformedrequest`} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
}

// delegate looks at the certificate that comes with an answer, and holds it to OpenSSL and zlint.
func delegate(t *testing.T, s *site, wanted bool) {
	out := s.sh(t, `openssl ocsp -respin plain -noverify -resp_text`)
	if has := strings.Contains(out, "BEGIN CERTIFICATE"); has != wanted {
		t.Errorf("a certificate came along: %v, want %v\n%s", has, wanted, out)
	}
	if !wanted {
		return
	}
	out = s.sh(t, `openssl ocsp -respin plain -noverify -resp_text | openssl x509 -out responder.pem
openssl verify -x509_strict -purpose ocsphelper -CAfile root.pem -untrusted cas.pem responder.pem
openssl x509 -in responder.pem -noout -text
openssl x509 -in responder.pem -outform DER -out responder.der
certtool --verify --load-ca-certificate cas.pem --infile responder.pem
mooring audit list --action cert.issue --json`)
	for _, want := range []string{"responder.pem: OK", "OCSP Signing", "OCSP No Check", "Digital Signature", "Verified. The certificate is trusted", "ocsp responder"} {
		if !strings.Contains(out, want) {
			t.Errorf("the responder's certificate: no %q in\n%s", want, out)
		}
	}
	lintCertificate(t, s.read(t, "responder.der"))
}
