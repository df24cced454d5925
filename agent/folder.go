package agent

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"mooring/agent/durable"
	"mooring/wire/der"
)

// Names in the folder of an agent.
const (
	configFile     = "config.json"
	stateFile      = "state.json"
	serverCAFile   = "server-ca.pem"
	caFile         = "ca.pem"
	currentLink    = "current"
	genFolder      = "gen"
	nextFolder     = "next"
	certFile       = "cert.pem"
	chainFile      = "chain.pem"
	requestFile    = "request.der" // in next/: the request, if it may be repeated as it is
	credentialFile = "credential.json"
)

// maxPEM bounds the certificate files that are read.
const maxPEM = 1 << 20

// folder knows where things lie in an agent's folder, and nothing of what they are for.
type folder struct{ dir string }

func (f folder) path(elem ...string) string {
	return filepath.Join(append([]string{f.dir}, elem...)...)
}
func (f folder) next() string    { return f.path(nextFolder) }
func (f folder) current() string { return f.path(currentLink) }

// enrolled tells whether there is a generation in use.
func (f folder) enrolled() bool {
	_, err := os.Stat(filepath.Join(f.current(), certFile))
	return err == nil
}

func (f folder) readJSON(name string, into any) error {
	data, err := os.ReadFile(f.path(name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("reading %s: %w", f.path(name), err)
	}
	return nil
}

func (f folder) writeJSON(name string, from any) error {
	data, err := json.MarshalIndent(from, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(f.path(name), append(data, '\n'), 0o600)
}

// remove removes files; those that are not there need no removing.
func (f folder) remove(names ...string) error {
	var failed error
	for _, name := range names {
		if err := os.Remove(f.path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// readCertificates reads a PEM file; an absent file has none.
func (f folder) readCertificates(name string) ([]*x509.Certificate, error) {
	certs, err := ReadCertificates(f.path(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return certs, err
}

// ReadCertificates reads all certificates of a PEM file; there is at least one. Blocks of other kinds are passed over.
func ReadCertificates(path string) ([]*x509.Certificate, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxPEM {
		return nil, fmt.Errorf("%s has %d bytes; this is no file of certificates", path, info.Size())
	}
	rest, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading a certificate in %s: %w", path, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%s holds no certificate in PEM", path)
	}
	return certs, nil
}

func writeCertificates(path string, certs ...*x509.Certificate) error {
	var text bytes.Buffer
	for _, cert := range certs {
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}); err != nil {
			return err
		}
	}
	return durable.WriteFile(path, text.Bytes(), 0o644)
}

// trusted are the certificates that the server is believed by.
func (f folder) trusted() ([]*x509.Certificate, error) {
	given, err := f.readCertificates(serverCAFile)
	if err != nil {
		return nil, err
	}
	roots, err := f.readCertificates(caFile)
	return slices.Concat(given, roots), err
}

// generations are the numbers of the complete generations in ascending order.
func (f folder) generations() ([]int, error) {
	entries, err := os.ReadDir(f.path(genFolder))
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && n > 0 {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// inUse is the number of the generation that current points to; 0 if there is none.
func (f folder) inUse() int {
	target, err := os.Readlink(f.current())
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(filepath.Base(target))
	if err != nil {
		return 0
	}
	return n
}

// use makes a generation the one in use, and removes all but it and the one before.
func (f folder) use(n int) error {
	if err := durable.Point(f.current(), filepath.Join(genFolder, strconv.Itoa(n))); err != nil {
		return err
	}
	numbers, err := f.generations()
	if err != nil {
		return err
	}
	i := slices.Index(numbers, n)
	for _, old := range numbers[:max(i-1, 0)] {
		if err := os.RemoveAll(f.path(genFolder, strconv.Itoa(old))); err != nil {
			return err
		}
	}
	return nil
}

// parseNames reads alternative names with their kinds in front.
func parseNames(list []string) (der.AltNames, error) {
	var names der.AltNames
	for _, text := range list {
		kind, value, _ := strings.Cut(text, ":")
		switch kind {
		case "dns":
			names.DNS = append(names.DNS, value)
		case "uri":
			names.URI = append(names.URI, value)
		case "email":
			names.Email = append(names.Email, value)
		case "ip":
			ip, err := netip.ParseAddr(value)
			if err != nil {
				return names, fmt.Errorf("name %q: not an IP address", text)
			}
			names.IP = append(names.IP, ip)
		default:
			return names, fmt.Errorf("name %q: begin it with dns: ip: uri: or email: to say what it is", text)
		}
	}
	return names.Normalise()
}
