//go:build interop

package interop

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
)

// TestInteropTransport sends the same request the way clients differ: what is generous in transport must not make two certificates of it.
func TestInteropTransport(t *testing.T) {
	engines(t, func(t *testing.T, database string) {
		s := start(t, database)
		s.enrol(t, "first", "device", p256)
		serial := s.sh(t, `openssl x509 -in first.pem -noout -serial`)
		s.sh(t, `openssl base64 -d -in first.csr -out first.der
openssl base64 -A -in first.der -out one-line
openssl base64 -in first.der | sed 's/$/\r/' > crlf
openssl req -inform DER -in first.der -out armoured
sed 's/^/ \t/' first.csr > indented`)
		token := s.device(t, "second", "device")
		for _, row := range []struct{ name, flags, version string }{
			{"TLS 1.2", "--tls-max 1.2", "2"},
			{"TLS 1.3", "--tlsv1.3", "2"},
			{"HTTP/1.0", "--http1.0", "1"},
			{"HTTP/1.1", "--http1.1", "1.1"},
			{"HTTP/2", "--http2", "2"},
			{"chunked", "--http1.1 -H 'Transfer-Encoding: chunked'", "1.1"},
			{"expectation", "--http1.1 -H 'Expect: 100-continue'", "1.1"},
			{"connection closed", "--http1.1 -H 'Connection: close' -H Accept:", "1.1"},
			{"encoding base64", "-H 'Content-Transfer-Encoding: base64'", "2"},
			{"encoding binary", "-H 'Content-Transfer-Encoding: binary'", "2"},
			{"type with parameters", "-H 'Content-Type: application/pkcs10; charset=us-ascii'", "2"},
			{"one line", "--data-binary @one-line", "2"},
			{"CRLF", "--data-binary @crlf", "2"},
			{"blanks", "--data-binary @indented", "2"},
			{"PEM armour", "--data-binary @armoured", "2"},
			{"own authentication header echoed", `-H 'WWW-Authenticate: Basic realm="est"'`, "2"},
		} {
			t.Run(row.name, func(t *testing.T) {
				flags := row.flags
				if !strings.Contains(flags, "--data-binary") {
					flags += " --data-binary @first.csr"
				}
				if !strings.Contains(flags, "Content-Type") {
					flags += " -H 'Content-Type: application/pkcs10'"
				}
				// The first device's key and certificate: the same octets were answered before.
				out := s.sh(t, `curl -sS --fail-with-body --cacert root.pem --cert first.pem --key first.key `+flags+` -D head -o answer \
	-w '%{http_version} %{num_headers}' "$EST/.well-known/est/simpleenroll"`)
				if version, _, _ := strings.Cut(out, " "); version != row.version {
					t.Errorf("answered in HTTP %s, want %s", version, row.version)
				}
				if got := s.sh(t, `openssl base64 -d -in answer | openssl pkcs7 -inform DER -print_certs | openssl x509 -noout -serial`); got != serial {
					t.Errorf("the same request got another certificate: %s, before %s", got, serial)
				}
				checkRendering(t, string(s.read(t, "head")), string(s.read(t, "answer")))
			})
		}
		t.Run("two identities", func(t *testing.T) {
			out, err := s.try(t, `curl -sS --fail-with-body --cacert root.pem --cert first.pem --key first.key -u "second:$TOKEN" \
	-H 'Content-Type: application/pkcs10' --data-binary @first.csr -D - "$EST/.well-known/est/simpleenroll"`, "TOKEN="+token)
			if err == nil || !strings.Contains(out, "different devices") {
				t.Errorf("a token and a certificate of different devices: %v, %s", err, out)
			}
		})
	})
}

// checkRendering holds an answer to what all clients in the field can read.
func checkRendering(t *testing.T, head, body string) {
	t.Helper()
	// curl writes the head of an interim answer, too.
	heads := strings.Split(strings.TrimSpace(head), "\r\n\r\n")
	h := http.Header{}
	for _, line := range strings.Split(heads[len(heads)-1], "\r\n")[1:] {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	for name, want := range map[string]string{
		"Content-Type":              "application/pkcs7-mime; smime-type=certs-only",
		"Content-Transfer-Encoding": "base64",
		"Content-Length":            fmt.Sprint(len(body)),
		"Transfer-Encoding":         "",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	lines := strings.Split(body, "\n")
	for i, line := range lines {
		if last := i >= len(lines)-2; len(line) > 64 || !last && len(line) != 64 || strings.Contains(line, "\r") {
			t.Errorf("line %d of the body is %q, want 64 characters", i+1, line)
		}
	}
}

// TestInteropTLS shakes hands with OpenSSL and GnuTLS by both versions, with a client certificate, and by what is too old.
func TestInteropTLS(t *testing.T) {
	s := start(t, "")
	s.enrol(t, "sensor", "device", p256)
	s.sh(t, `printf 'GET /.well-known/est/cacerts HTTP/1.0\r\n\r\n' > question`)
	for _, row := range []struct {
		name, command string
		ok            bool
	}{
		{"OpenSSL 1.3", "openssl s_client -tls1_3", true},
		{"OpenSSL 1.2", "openssl s_client -tls1_2", true},
		{"OpenSSL 1.2 with RSA key exchange", "openssl s_client -tls1_2 -cipher AES128-GCM-SHA256", false},
		{"OpenSSL 1.2 with CBC", "openssl s_client -tls1_2 -cipher ECDHE-ECDSA-AES128-SHA256", false},
		{"OpenSSL 1.1", "openssl s_client -tls1_1 -cipher DEFAULT:@SECLEVEL=0", false},
		{"GnuTLS 1.3", "gnutls-cli --priority NORMAL:-VERS-ALL:+VERS-TLS1.3", true},
		{"GnuTLS 1.2", "gnutls-cli --priority NORMAL:-VERS-ALL:+VERS-TLS1.2", true},
		{"GnuTLS 1.1", "gnutls-cli --priority NORMAL:-VERS-ALL:+VERS-TLS1.1", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			flags := ` --x509cafile root.pem --x509certfile sensor.pem --x509keyfile sensor.key --port 8443 "$HOST"`
			if strings.HasPrefix(row.command, "openssl") {
				flags = ` -CAfile root.pem -verify_return_error -verify_ip "$HOST" -cert sensor.pem -key sensor.key -ign_eof -connect "$HOST:8443"`
			}
			out, err := s.try(t, row.command+flags+` < question`)
			if answered := strings.Contains(out, " 200 OK"); answered != row.ok {
				t.Errorf("answered: %t, want %t: %v\n%s", answered, row.ok, err, out)
			}
		})
	}
}

// TestInteropErrors provokes refusals and looks for each in the table of doc/enrol-est.md.
func TestInteropErrors(t *testing.T) {
	page, err := os.ReadFile(enrolPage)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, "")
	s.write(t, "used.token", s.enrol(t, "used", "device", p256))
	s.write(t, "fresh.token", s.device(t, "fresh", "device"))
	s.write(t, "idle.token", s.device(t, "idle", "device"))
	s.enrol(t, "old", "device", p256)
	s.write(t, "one", "AAAA\n")
	s.write(t, "large", strings.Repeat("A", 1<<20))
	s.enrol(t, "held", "device", p256)
	s.enrol(t, "revoked", "device", p256)
	s.sh(t, `mooring device suspend held
mooring device suspend idle
cp old.pem now.pem
for time in 1 2; do
	openssl x509 -in now.pem -x509toreq -copy_extensions copyall -signkey old.key | openssl req -outform DER | openssl base64 > renewal
	curl -sS --fail-with-body --cacert root.pem --cert now.pem --key old.key -H 'Content-Type: application/pkcs10' --data-binary @renewal \
		"$EST/.well-known/est/simplereenroll" | openssl base64 -d | openssl pkcs7 -inform DER -print_certs -out next.pem
	mv next.pem now.pem
done
mooring cert revoke "$(openssl x509 -in revoked.pem -noout -serial | sed 's/.*=//')" --reason superseded
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout foreign.key -subj /CN=foreign -out foreign.req
openssl x509 -req -in foreign.req -signkey foreign.key -out foreign.pem
openssl req -new -key used.key -subj / -addext subjectAltName=DNS:www.example.com -outform DER | openssl base64 > dns.csr
openssl req -new -key used.key -subj /CN=used -outform DER | openssl base64 > nameless.csr
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521 -out p521.key
openssl req -new -key p521.key -subj / -outform DER | openssl base64 > p521.csr
openssl base64 -d -in used.csr | head -c -4 > damaged.der
printf '\1\2\3\4' >> damaged.der
openssl base64 -in damaged.der -out damaged.csr
printf '[req]\nprompt=no\ndistinguished_name=dn\nattributes=attr\n[dn]\nCN=used\n[attr]\nchallengePassword=secret\n' > challenge.cnf
openssl req -new -key used.key -config challenge.cnf -outform DER | openssl base64 > challenge.csr`)
	own := "--cert used.pem --key used.key"
	for _, row := range []struct {
		name, flags, body, path string
		status                  int
		row                     string // the text's row on the page begins so
	}{
		{"nobody", "", "used.csr", "simpleenroll", 401, "no client certificate was presented"},
		{"unknown device", "-u nobody:mt_tesyywegmc4uxi265kj4lg42wluim6aevkpg", "used.csr", "simpleenroll", 401, "the device is unknown or the token is wrong"},
		{"typing error", "-u used:mt_tesyywegmc4uxi265kj4lg42wluim6aevkpz", "used.csr", "simpleenroll", 401, "the token has a typing error"},
		{"used token", `-u used:$TOKEN`, "dns.csr", "simpleenroll", 401, "this token was used already"},
		{"foreign certificate", "--cert foreign.pem --key foreign.key", "used.csr", "simpleenroll", 401, "the client certificate was neither issued here"},
		{"on hold", "--cert held.pem --key held.key", "held.csr", "simplereenroll", 403, "the client certificate is on hold"},
		{"revoked", "--cert revoked.pem --key revoked.key", "revoked.csr", "simplereenroll", 403, "the client certificate is revoked"},
		{"replaced", "--cert old.pem --key old.key", "old.csr", "simpleenroll", 403, "the client certificate was replaced by a newer one"},
		{"suspended", "-u idle:$IDLE", "used.csr", "simpleenroll", 403, "this device is …: it may not enrol"},
		{"renewal by token", "-u fresh:$FRESH", "used.csr", "simplereenroll", 403, "a renewal is authenticated by the certificate"},
		{"renewal without names", own, "nameless.csr", "simplereenroll", 403, "a renewal must repeat the subjectAltName"},
		{"other profile", own, "used.csr", "gateway/simpleenroll", 403, "this device is registered for another profile"},
		{"kind of key", own, "p521.csr", "simpleenroll", 403, "the profile … does not accept keys of kind"},
		{"name not permitted", own, "dns.csr", "simpleenroll", 403, "the request asks for"},
		{"unknown label", own, "used.csr", "nothing/simpleenroll", 404, "there is no profile"},
		{"method", "-X PUT", "used.csr", "simpleenroll", 405, "this address answers only"},
		{"no type", own + " -H Content-Type:", "used.csr", "simpleenroll", 400, "the Content-Type is missing"},
		{"wrong type", own + " -H 'Content-Type: text/plain'", "used.csr", "simpleenroll", 415, "the Content-Type must be"},
		{"no base64", own, "challenge.cnf", "simpleenroll", 400, "the body is not the base64 of"},
		{"no request", own, "one", "simpleenroll", 400, "the certification request is not acceptable"},
		{"signature", own, "damaged.csr", "simpleenroll", 400, "the certification request's signature does not verify"},
		{"challenge", own, "challenge.csr", "simpleenroll", 400, "the challengePassword is not the channel binding"},
		{"too large", own, "large", "simpleenroll", 413, "the body has more than the … octets allowed here"},
		{"full CMC", own, "used.csr", "fullcmc", 501, "full CMC is not offered here"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if !strings.Contains(string(page), fmt.Sprintf("| %d | %s", row.status, row.row)) {
				t.Errorf("the page has no row for %d, %q", row.status, row.row)
			}
			flags := row.flags
			if !strings.Contains(flags, "Content-Type") {
				flags += " -H 'Content-Type: application/pkcs10'"
			}
			out := s.sh(t, `TOKEN=$(cat used.token) FRESH=$(cat fresh.token) IDLE=$(cat idle.token)
curl -sS --http1.1 --cacert root.pem `+flags+` --data-binary @`+row.body+` -D head -o answer -w '%{http_code}' "$EST/.well-known/est/`+row.path+`"`)
			if out != fmt.Sprint(row.status) {
				t.Errorf("status %s, want %d: %s", out, row.status, s.read(t, "answer"))
			}
			said := string(s.read(t, "answer"))
			if row.status == 401 {
				if said != "" || !strings.Contains(string(s.read(t, "head")), "Content-Length: 0\r\n") {
					t.Errorf("a 401 with the body %q and the head %q, want no body", said, s.read(t, "head"))
				}
				said = string(s.read(t, "head"))
			}
			for _, part := range strings.Split(row.row, "…") {
				if !strings.Contains(said, part) {
					t.Errorf("the answer is %q, want %q in it", said, row.row)
				}
			}
		})
	}
}
