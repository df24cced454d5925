package v2x

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"mooring/agent/durable"
	"mooring/agent/keyfile"
	"mooring/wire/butterfly"
	"mooring/wire/cocoon"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

// Names in the folder of a station. Each ticket is one file with its keys, so that it is there whole or not at all; so is each request that waits for its answer.
const (
	configFile     = "station.json"
	credentialFile = "credential.pem"
	useFile        = "use.json"
	orderFile      = "butterfly.pem"
	offerFile      = "offer.json"
	ticketFolder   = "tickets"
	pendingFolder  = "pending"
	listFolder     = "lists"
	suffix         = ".pem"
)

// Blocks of the files, in PEM. Private keys are PKCS #8.
const (
	blockCertificate = "ITS CERTIFICATE"
	blockKey         = "PRIVATE KEY"
	blockEncryption  = "ITS ENCRYPTION KEY"
	blockRequest     = "ITS REQUEST"
	blockSession     = "ITS SESSION KEY"
	blockCaterpillar = "ITS CATERPILLAR KEYS" // the scalar and the expansion key of signing, and if they are others, those of encryption
	blockPermissions = "ITS PERMISSIONS"
)

// maxFile bounds what is read as one of these files.
const maxFile = 256 << 10

// folder is where a station keeps what it has. Files are for the owner alone, and are replaced whole.
type folder struct{ dir string }

func (f folder) path(elem ...string) string {
	return filepath.Join(append([]string{f.dir}, elem...)...)
}

// tidy makes the folders and removes what a crash left unfinished.
func (f folder) tidy() error {
	for _, dir := range []string{f.dir, f.path(ticketFolder), f.path(pendingFolder), f.path(listFolder)} {
		if err := errors.Join(durable.Mkdir(dir), durable.Tidy(dir)); err != nil {
			return err
		}
	}
	return nil
}

func (f folder) readJSON(name string, into any) error {
	b, err := os.ReadFile(f.path(name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("reading %s: %w", f.path(name), err)
	}
	return nil
}

func (f folder) writeJSON(name string, from any) error {
	b, err := json.MarshalIndent(from, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(f.path(name), append(b, '\n'), 0o600)
}

// file is the blocks of a file, by their types.
type file map[string]*pem.Block

// read reads a file that only the owner may read.
func (f folder) read(name ...string) (file, error) {
	path := f.path(name...)
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s has mode %04o, so others may use the key; run: chmod 600 %s", path, info.Mode().Perm(), path)
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%s has %d octets; no file of a station is so long", path, info.Size())
	}
	rest, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	blocks := file{}
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return blocks, nil
		}
		blocks[block.Type] = block
	}
}

func (f folder) write(blocks []*pem.Block, name ...string) error {
	var text bytes.Buffer
	for _, b := range blocks {
		if err := pem.Encode(&text, b); err != nil {
			return err
		}
	}
	return durable.WriteFile(f.path(name...), text.Bytes(), 0o600)
}

// names lists the files of a folder in it.
func (f folder) names(dir string) (list []string, err error) {
	entries, err := os.ReadDir(f.path(dir))
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) {
			list = append(list, e.Name())
		}
	}
	return list, err
}

func (f folder) remove(name ...string) error {
	if err := os.Remove(f.path(name...)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// certificate is the certificate in a file.
func (b file) certificate() (*its.Certificate, error) {
	block := b[blockCertificate]
	if block == nil {
		return nil, errors.New("it has no certificate")
	}
	return its.ParseCertificate(block.Bytes)
}

// key is the private key in a file.
func (b file) key() (*ecdsa.PrivateKey, error) {
	block := b[blockKey]
	if block == nil {
		return nil, errors.New("it has no private key")
	}
	signer, err := keyfile.Decode(pem.EncodeToMemory(block))
	if err != nil {
		return nil, err
	}
	key, ok := signer.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("its private key is none of P-256")
	}
	return key, nil
}

// encryption is the private key for decryption in a file, if it has one.
func (b file) encryption() (butterfly.Scalar, error) {
	if block := b[blockEncryption]; block != nil {
		return butterfly.NewScalar(block.Bytes)
	}
	return butterfly.Scalar{}, nil
}

func keyBlock(key *ecdsa.PrivateKey) (*pem.Block, error) {
	text, err := keyfile.Encode(key)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	return block, nil
}

// keys are the blocks of the keys of a ticket.
func (t *Ticket) keys() ([]*pem.Block, error) {
	key, err := keyBlock(t.Key)
	if err != nil {
		return nil, err
	}
	blocks := []*pem.Block{key}
	if t.Encryption != (butterfly.Scalar{}) {
		blocks = append(blocks, &pem.Block{Type: blockEncryption, Bytes: t.Encryption.Bytes()})
	}
	return blocks, nil
}

// readTicket reads a ticket with its keys.
func (f folder) readTicket(name string) (*Ticket, error) {
	b, err := f.read(ticketFolder, name)
	if err != nil {
		return nil, err
	}
	t := &Ticket{}
	var errs [3]error
	t.Certificate, errs[0] = b.certificate()
	t.Key, errs[1] = b.key()
	t.Encryption, errs[2] = b.encryption()
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("reading %s: %w", f.path(ticketFolder, name), err)
	}
	return t, nil
}

// writeTicket writes a ticket; its name is its digest.
func (f folder) writeTicket(t *Ticket) error {
	id, err := t.Certificate.HashedId8()
	if err != nil {
		return err
	}
	keys, err := t.keys()
	if err != nil {
		return err
	}
	return f.write(append([]*pem.Block{{Type: blockCertificate, Bytes: t.Certificate.Octets}}, keys...), ticketFolder, id.String()+suffix)
}

func (f folder) readCredential() (*Credential, error) {
	b, err := f.read(credentialFile)
	if err != nil {
		return nil, err
	}
	x, err := b.certificate()
	key, err2 := b.key()
	if err := errors.Join(err, err2); err != nil {
		return nil, fmt.Errorf("reading %s: %w", f.path(credentialFile), err)
	}
	return &Credential{x, key}, nil
}

func (f folder) writeCredential(c *Credential) error {
	key, err := keyBlock(c.Key)
	if err != nil {
		return err
	}
	return f.write([]*pem.Block{{Type: blockCertificate, Bytes: c.Certificate.Octets}, key}, credentialFile)
}

// writePending writes a request that is about to be sent. Its answer is understood after a crash, too.
func (f folder) writePending(p *Pending, made int64) (name string, err error) {
	keys, err := p.ticket.keys()
	if err != nil {
		return "", err
	}
	secret := p.session.Secret()
	id, err := p.aa.HashedId8()
	if err != nil {
		return "", err
	}
	sum := scr.Hash(p.request)
	name = hex.EncodeToString(sum[:]) + suffix
	return name, f.write(append([]*pem.Block{
		{Type: blockRequest, Headers: map[string]string{"To": p.url, "Authority": id.String(), "Made": strconv.FormatInt(made, 10)}, Bytes: p.request},
		{Type: blockCertificate, Bytes: p.aa.Octets}, {Type: blockSession, Bytes: secret[:]}}, keys...), pendingFolder, name)
}

// readPending reads such a request, and when it was made.
func (f folder) readPending(name string) (p *Pending, made int64, err error) {
	b, err := f.read(pendingFolder, name)
	if err != nil {
		return nil, 0, err
	}
	request, session := b[blockRequest], b[blockSession]
	if request == nil || session == nil || len(session.Bytes) != 16 {
		return nil, 0, fmt.Errorf("reading %s: it has no request or no key for the answer", f.path(pendingFolder, name))
	}
	p = &Pending{ticket: &Ticket{}, url: request.Headers["To"], request: request.Bytes}
	var errs [6]error
	p.aa, errs[0] = b.certificate()
	p.ticket.Key, errs[1] = b.key()
	p.ticket.Encryption, errs[2] = b.encryption()
	p.session, errs[3] = spdu.Resume([16]byte(session.Bytes))
	made, errs[4] = strconv.ParseInt(request.Headers["Made"], 10, 64)
	if errs[1] == nil {
		p.key, errs[5] = scr.VerificationKey(&p.ticket.Key.PublicKey)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, 0, fmt.Errorf("reading %s: %w", f.path(pendingFolder, name), err)
	}
	return p, made, nil
}

// writeOrder writes the request for tickets by butterfly keys, with the keys that are expanded.
func (f folder) writeOrder(o *ordered) error {
	permissions, err := coer.Marshal(&permissionList{o.Applications})
	if err != nil {
		return err
	}
	k := &o.Keys
	keys := slices.Concat(k.SigningKey.Bytes(), k.SigningExpansion[:])
	if k.Variant == butterfly.Original {
		keys = slices.Concat(keys, k.EncryptionKey.Bytes(), k.EncryptionExpansion[:])
	}
	headers := map[string]string{"Variant": string(variantNames[k.Variant])}
	for name, n := range map[string]int64{"Made": o.made, "Until": o.until, "First": int64(o.First), "Next": o.Next.Unix(), "Low": int64(o.low), "Begun": int64(o.begun), "Ends": int64(o.ends), "Length": int64(o.length), "Refused": o.refused} {
		headers[name] = strconv.FormatInt(n, 10)
	}
	for name, yes := range map[string]bool{"Taken": o.taken, "Accept-Plain": o.Plain, "Plain": o.plain} {
		headers[name] = strconv.FormatBool(yes)
	}
	return f.write([]*pem.Block{{Type: blockRequest, Headers: headers, Bytes: o.Request}, {Type: blockPermissions, Bytes: permissions}, {Type: blockCaterpillar, Bytes: keys}}, orderFile)
}

// readOrder reads it.
func (f folder) readOrder() (*ordered, error) {
	b, err := f.read(orderFile)
	if err != nil {
		return nil, err
	}
	o, err := b.order()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", f.path(orderFile), err)
	}
	return o, nil
}

// order is the request in a file.
func (b file) order() (*ordered, error) {
	request, permissions, keys := b[blockRequest], b[blockPermissions], b[blockCaterpillar]
	if request == nil || permissions == nil || keys == nil {
		return nil, errors.New("it lacks the request, what it is for, or its keys")
	}
	h := request.Headers
	n, err := decimal(h, "Made", "Until", "First", "Next", "Low", "Begun", "Ends", "Length", "Refused")
	if err != nil {
		return nil, err
	}
	o := &ordered{Butterfly: &Butterfly{Request: request.Bytes, ID: cocoon.RequestHash(request.Bytes), First: uint16(n[2]), Next: time.Unix(n[3], 0).UTC(), Plain: h["Accept-Plain"] == "true"},
		made: n[0], until: n[1], low: uint64(n[4]), begun: its.Time32(n[5]), ends: its.Time32(n[6]), length: its.Time32(n[7]), refused: n[8], taken: h["Taken"] == "true", plain: h["Plain"] == "true"}
	list := new(permissionList)
	if err := coer.Unmarshal(permissions.Bytes, list); err != nil {
		return nil, err
	}
	o.Applications = list.list
	variant, known := butterflyVariants[ByButterfly(h["Variant"])]
	if !known {
		return nil, fmt.Errorf("there is no variant %q of butterfly keys", h["Variant"])
	}
	o.Keys.Variant = variant
	rest, err := takeKey(keys.Bytes, &o.Keys.SigningKey, &o.Keys.SigningExpansion)
	if err == nil && variant == butterfly.Original {
		rest, err = takeKey(rest, &o.Keys.EncryptionKey, &o.Keys.EncryptionExpansion)
	}
	if err == nil && len(rest) > 0 {
		err = errKeys
	}
	return o, err
}

var errKeys = errors.New("its keys are damaged")

// takeKey takes a scalar and an expansion key from the front.
func takeKey(b []byte, key *butterfly.Scalar, expansion *[16]byte) (rest []byte, err error) {
	if len(b) < 48 {
		return nil, errKeys
	}
	copy(expansion[:], b[32:48])
	*key, err = butterfly.NewScalar(b[:32])
	return b[48:], err
}

// kept is a way to the authorities that keeps the lists which it fetches, and gives them out again when their distribution centre cannot be reached. Whether a list is
// to be believed is judged each time that it is read, so it does not matter who wrote it.
type kept struct {
	folder
	base  http.RoundTripper
	reads bool // nothing is written
}

// RoundTrip implements http.RoundTripper.
func (k kept) RoundTrip(q *http.Request) (*http.Response, error) {
	if q.Method != http.MethodGet || q.Header.Get(authorizationHeader) != "" { // tickets are no list
		return k.base.RoundTrip(q)
	}
	path := k.path(listFolder, hex.EncodeToString([]byte(q.URL.Path)))
	a, err := k.base.RoundTrip(q)
	if err != nil {
		return k.before(q, path, err)
	}
	if a.StatusCode != http.StatusOK {
		return a, nil
	}
	b, err := io.ReadAll(io.LimitReader(a.Body, its.MaxTrustList+1))
	a.Body.Close()
	if err != nil {
		return k.before(q, path, err)
	}
	a.Body = io.NopCloser(bytes.NewReader(b))
	if k.reads {
		return a, nil
	}
	return a, durable.WriteFile(path, append([]byte(a.Header.Get("Content-Type")+"\n"), b...), 0o600)
}

// nobody is a network without anybody.
type nobody struct{}

// RoundTrip implements http.RoundTripper.
func (nobody) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("nobody is asked")
}

// before is the list as it was fetched last.
func (k kept) before(q *http.Request, path string, reason error) (*http.Response, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, reason
	}
	kind, list, _ := bytes.Cut(b, []byte("\n"))
	return &http.Response{Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: q,
		Header: http.Header{"Content-Type": {string(kind)}}, Body: io.NopCloser(bytes.NewReader(list)), ContentLength: int64(len(list))}, nil
}
