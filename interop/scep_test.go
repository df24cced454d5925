//go:build interop

package interop

import (
	"strings"
	"testing"
)

// TestInteropSCEP does what doc/scep.md says with strongSwan's pki, and then enrols and renews with MicroMDM's scepclient, which is built with AES as the default
// of its library: as it is released it encrypts by single DES, which must be refused.
func TestInteropSCEP(t *testing.T) {
	engines(t, func(t *testing.T, database string) {
		s := newSite(t)
		s.env["SCEP"] = "http://" + s.env["HOST"] + ":8090/scep/printer"
		s.followWith(t, database, "../doc/scep.md", 5, "127.0.0.1:8090", s.env["HOST"]+":8090")
	})
	t.Run("scepclient", func(t *testing.T) {
		stock, patched := buildSCEPClients(t)
		s := newSite(t)
		s.env["SCEP"] = "http://" + s.env["HOST"] + ":8090/scep/printer"
		s.env["STOCK"], s.env["PATCHED"] = stock, patched
		s.sh(t, `mooring init -q --name Acme `+s.initFlags("")+`
sed -i "s|^  # scep: .*|  scep: \"$HOST:8090\"|" d/mooring.yaml
sed -e 's/^name: .*/name: printer/' -e 's/^keys: .*/keys: [rsa-2048]/' -e '/^server_keygen:/d' d/profiles/device.yaml > d/profiles/printer.yaml
printf 'scep: {ra: scep-ra, sha1: true}\nrequest_subject: ignore\n' >> d/profiles/printer.yaml`)
		s.serve(t)
		s.sh(t, `mooring ca export --root -o root.pem
pki --scepca --url "$SCEP" --caout ca.pem --raout ra.pem --outform pem --force
mooring device add printer-2 --profile printer`)
		if out, err := s.try(t, scepClient+`run "$STOCK" -challenge "$(mooring device token printer-2 -q)"`); err == nil || !strings.Contains(out, "badAlg") {
			t.Errorf("single DES: the client ended with %v:\n%s", err, out)
		}
		out := s.sh(t, scepClient+`rm -f csr.pem self.pem key.pem
run "$PATCHED" -challenge "$(mooring device token printer-2 -q)"
openssl verify -x509_strict -CAfile root.pem -untrusted ca-1.pem client.pem
first=$(openssl x509 -in client.pem -noout -serial)
rm csr.pem
run "$PATCHED"
openssl verify -x509_strict -CAfile root.pem -untrusted ca-1.pem client.pem
test "$first" != "$(openssl x509 -in client.pem -noout -serial)"
curl -sSf --cacert root.pem --cert client.pem --key key.pem "$EST/.well-known/est/cacerts" -o /dev/null -w 'handshake %{ssl_verify_result}\n'`)
		if strings.Count(out, "client.pem: OK") != 2 || !strings.Contains(out, "handshake 0") {
			t.Errorf("the client printed\n%s", out)
		}
	})
}

// scepClient runs a scepclient for the device printer-2.
const scepClient = `run() {
  "$1" -private-key key.pem -certificate client.pem -server-url "$SCEP" -cn printer-2 -debug \
    -ca-fingerprint "$(openssl x509 -in ra.pem -noout -fingerprint -sha256 | sed 's/.*=//;s/://g')" "${@:2}" 2>&1
}
`

// buildSCEPClients builds MicroMDM's scepclient twice, the second time with AES-128 as the default cipher of its library.
func buildSCEPClients(t *testing.T) (stock, patched string) {
	t.Helper()
	s := &site{dir: t.TempDir(), env: map[string]string{"GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"}}
	s.sh(t, `go mod init scepclient
go get github.com/micromdm/scep/v2/cmd/scepclient@v2.3.0
go build -o stock github.com/micromdm/scep/v2/cmd/scepclient
cp -r "$(go list -m -f '{{.Dir}}' github.com/smallstep/pkcs7)" pkcs7
chmod -R u+w pkcs7
sed -i 's/^var ContentEncryptionAlgorithm = EncryptionAlgorithmDESCBC$/var ContentEncryptionAlgorithm = EncryptionAlgorithmAES128CBC/' pkcs7/encrypt.go
grep -q 'ContentEncryptionAlgorithm = EncryptionAlgorithmAES128CBC' pkcs7/encrypt.go
go mod edit -replace github.com/smallstep/pkcs7=./pkcs7
go build -o patched github.com/micromdm/scep/v2/cmd/scepclient`)
	return s.dir + "/stock", s.dir + "/patched"
}
