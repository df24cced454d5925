// Package conf reads the one configuration file, mooring.yaml in the data directory.
//
// The file is YAML, strictly read: an unknown key, a wrong type, a doubled key or a value outside its range is an error with file and
// line, and all errors are reported together. A key that is absent has a safe default, so that the empty file is a working configuration
// and a new key never breaks an old file. Anchors, aliases, tags and several documents are refused.
//
// One table (table.go) holds every key with its type, default, meaning and example and binds it to its field in Config; reading, checking,
// the generated file and "mooring config describe" all use it. Secrets never stand in the file: it names the files that hold them.
// The package deliberately reads no environment variables and watches nothing: a change takes effect at the next start.
package conf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mooring/internal/base/errs"
)

// FileName is the configuration file's name in the data directory.
const FileName = "mooring.yaml"

// maxFile bounds the configuration file in octets.
const maxFile = 1 << 20

// Config is the whole configuration. Make one with Default, Parse or Load; the zero value is not usable. Paths in it may be relative to
// Dir: the methods resolve them.
type Config struct {
	Dir string // the data directory, absolute; set by Load, not a key of the file

	Version    int
	Name       string
	Names      []string // DNS names and IP addresses of the server certificate
	Database   Database
	Keys       Keys
	Profiles   Profiles
	Listen     Listen
	PublicURLs PublicURLs
	TLS        TLS
	COAPS      COAPS
	Limits     Limits
	CRL        CRL
	OCSP       OCSP
	Enrol      Enrol
	ACME       ACME
	MASA       MASA
	V2X        V2X
	Messaging  Messaging
	Retention  Retention
	Jobs       Jobs
	Approve    Approve
	Log        Log
	Audit      Audit

	lines map[string]int // on which line a key stands; set by Load, see Place
}

// Database says where the records are kept. Use Config.DatabaseURL, which resolves both fields.
type Database struct {
	URL          string
	PasswordFile string
}

// Keys says where the private keys are kept and what unlocks them. Use Config.KeyDir and Config.UnlockSource.
type Keys struct {
	Dir     string
	Unlock  string
	Custody string // "file" or "pkcs11": where the keys of new CAs are kept
	PKCS11  PKCS11
}

// PKCS11 says which token keeps keys of CAs; an empty Module says none.
type PKCS11 struct {
	Module  string
	Token   string
	PINFile string // resolve it with Config.Path
}

// Profiles says where the certificate profiles are. Use Config.ProfileDir.
type Profiles struct{ Dir string }

// Listen holds the addresses to bind: host:port, and for Socket a path (use Config.SocketPath).
type Listen struct {
	EST    string
	API    string
	Status string
	SCEP   string // "": not served
	CMP    string // "": not served
	COAPS  string // "": none
	Socket string
	ACME   string // "": there is no such listener
	MASA   string // "": not served
	MQTT   string // "": not served
	// MQTTWeb is the same as MQTT, for networks that let one port through; "": not served.
	MQTTWeb string
	Hooks   string // "": not served
	// The authorities of V2X and the distribution centre of their lists; "": not served.
	V2XEA, V2XValidation, V2XAA, V2XDC string
	// V2XCPOC is where the lists of the trust list manager are; "": not served.
	V2XCPOC string
}

// PublicURLs holds what devices are told, without a trailing slash; "" is derived from Names and Listen. Use Config.ESTURL and
// Config.StatusURL.
type PublicURLs struct {
	EST    string
	Status string
	ACME   string
}

// TLS holds what every TLS listener shares.
type TLS struct {
	MinVersion      string // "1.2" or "1.3"
	Hybrid          bool
	SessionLifetime time.Duration // 0: no session tickets
	Anchors         []Anchor
}

// Anchor is a name under which the listeners present a certificate of a profile of its own, with no cross certificate, so that a client that
// completes a handshake trusts the root of that certificate.
type Anchor struct{ Name, Profile string }

// COAPS holds what the listener of CoAP has besides the limits of all.
type COAPS struct {
	Messages bool // whether devices publish and subscribe there
	MTU      int  // octets of an IP packet
	Node     int  // stands in connection IDs
	Memory   int  // octets of bodies in blocks
}

// Limits bounds what strangers can make the server hold or do, per listener.
type Limits struct {
	Connections       int
	AddressConns      int
	Handshakes        int
	HandshakeTimeout  time.Duration
	HandshakeRate     int // per second, all addresses together
	AddressHandshakes int // per second and address
	HeaderTimeout     time.Duration
	BodyTimeout       time.Duration
	IdleTimeout       time.Duration
	DrainTimeout      time.Duration
	RequestRate       int // per second and address
	RequestBurst      int
	TrackedAddresses  int
	BodySize          int // octets
}

// CRL holds how long a revocation list is valid and how often it is signed anew without a change.
type CRL struct {
	Validity time.Duration
	Refresh  time.Duration
	Delta    bool // whether there are delta lists
}

// OCSP holds who answers about the status of certificates, and how.
type OCSP struct {
	Validity          time.Duration
	Responder         string   // "ca", "delegated" or "off"
	Issuers           []string // "NAME=RESPONDER" for CAs for which it is another one. Use ResponderOf
	ResponderValidity time.Duration
	Cache             int // octets
	LivePerSecond     int
	NeverIssued       string // "unknown" or "revoked"
}

// ResponderOf returns who answers for the CA with this name.
func (o *OCSP) ResponderOf(issuer string) string {
	for _, entry := range o.Issuers {
		if name, responder, _ := strings.Cut(entry, "="); name == issuer {
			return responder
		}
	}
	return o.Responder
}

// Enrol holds what the registration authority lets wait, and how long.
type Enrol struct {
	RetryAfter time.Duration
	TokenTTL   time.Duration
	MaxPending int
	WeakKeys   string // resolve it with Config.Path; "" = none
}

// ACME holds what the ACME server allows, and where its validations may go.
type ACME struct {
	Open     bool           // accounts without a device's token
	Allow    []netip.Prefix // networks besides the public ones
	Resolver string         // host:port; "" = the machine's own
	HTTPPort int
	TLSPort  int
	Terms    string // the address of the terms of service; "" = none
	Attest   Attest
}

// MASA holds how vouchers are issued for the devices of manufacturers (BRSKI).
type MASA struct {
	Profile string        // of the certificate that signs them; "": none are issued
	Offline time.Duration // the longest life of one without a nonce
}

// Attest holds files of PEM certificates: whose word about a device's hardware is taken. "" is nobody's.
type Attest struct{ Step, Apple, AndroidKey, TPM, EK string }

// Messaging holds where messages lie and who may reach them besides devices.
type Messaging struct {
	Dir         string   // of the streams on this machine. Use Config.Path
	NATS        []string // URLs of servers that hold the streams instead
	Credentials string   // a file; use Config.Path
	CA          string   // a file of PEM; use Config.Path
	Cert, Key   string   // likewise
	Durability  string   // "process", "disk" or "quorum"
	MaxAge      time.Duration
	MaxBytes    int      // octets of the stream of what devices publish
	Origins     []string // of web pages that may open WebSockets
	Elsewhere   string   // where clients of MQTT 5 are told to go when this server stops; "" = nowhere
	Interop     string   // a loopback address without TLS and identity; "" = none
	Brokers     string   // a directory; use Config.Path
	Sinks       string   // a directory; use Config.Path
}

// Messages reports whether messages are carried: something listens for them, or other brokers ask.
func (c *Config) Messages() bool {
	return c.Listen.MQTT != "" || c.Listen.MQTTWeb != "" || c.Listen.Hooks != "" || c.Messaging.Interop != "" || c.Listen.COAPS != "" && c.COAPS.Messages
}

// Retention holds when certificates leave that their profiles keep no longer, and entries of the audit record.
type Retention struct {
	Hold  bool // nothing leaves
	Every time.Duration
	Audit time.Duration // how long entries of the audit record are kept; 0: for ever
}

// Jobs holds how long one can think better of work on many things at once, before it begins.
type Jobs struct{ Undo time.Duration }

// Approve holds above how many certificates or devices a second person must agree; -1: never.
type Approve struct {
	RevokeAbove   int
	CampaignAbove int
}

// Log holds the log's level ("debug", "info", "warn", "error") and format ("text", "json").
type Log struct {
	Level  string
	Format string
}

// Audit holds the name of the audit log; "" is derived from the organisation's name. Use Config.AuditOrigin.
type Audit struct{ Origin string }

// Default returns the configuration of an empty file.
func Default() *Config {
	c := new(Config)
	for _, e := range c.table() {
		if e.def == "" {
			continue
		}
		if err := e.value.parse(e.def); err != nil {
			panic("conf: default of " + e.key + ": " + err.Error()) // the table is wrong, and a test says so first
		}
	}
	return c
}

// Load reads the configuration in the data directory dir. A missing file is NotFound, a wrong one Invalid with every error on a line.
func Load(dir string) (*Config, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, errs.Wrap(errs.Invalid, err, "the data directory %q cannot be resolved", dir)
	}
	path := filepath.Join(abs, FileName)
	data, err := readBounded(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.New(errs.NotFound, "no configuration at %s: set MOORING_DIR or --dir to the directory of an installation, or make one there by mooring init", path)
	}
	if err != nil {
		return nil, errs.Wrap(errs.Unavailable, err, "the configuration %s cannot be read", path)
	}
	c, lines, err := parse(FileName, data)
	if err != nil {
		return nil, err
	}
	c.Dir, c.lines = abs, lines
	return c, nil
}

// readBounded reads one octet more than allowed, so that Parse sees that there is too much.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only: nothing to lose
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

// Place returns file and line of the first of keys that the file has, as "mooring.yaml:7", or the file alone.
func (c *Config) Place(keys ...string) string {
	for _, k := range keys {
		if n := c.lines[k]; n > 0 {
			return fmt.Sprintf("%s:%d", FileName, n)
		}
	}
	return FileName
}

// Path resolves p against the data directory.
func (c *Config) Path(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.Dir, p)
}

// KeyDir returns the directory of the private keys.
func (c *Config) KeyDir() string { return c.Path(c.Keys.Dir) }

// ProfileDir returns the directory of the certificate profiles.
func (c *Config) ProfileDir() string { return c.Path(c.Profiles.Dir) }

// SocketPath returns the path of the Unix socket.
func (c *Config) SocketPath() string { return c.Path(c.Listen.Socket) }

// UnlockSource returns where the unlock secret comes from, a "file:" path made absolute.
func (c *Config) UnlockSource() string {
	if p, ok := strings.CutPrefix(c.Keys.Unlock, "file:"); ok {
		return "file:" + c.Path(p)
	}
	return c.Keys.Unlock
}

// AuditOrigin returns the audit log's name: audit.origin, or the organisation's name in lower case, with "-" between its words, and "/audit".
// It has no white space and no "+", as a key name in a signed note must not.
func (c *Config) AuditOrigin() string {
	if c.Audit.Origin != "" {
		return c.Audit.Origin
	}
	words := strings.FieldsFunc(strings.ToLower(c.Name), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
	if len(words) == 0 {
		return "mooring/audit"
	}
	return strings.Join(words, "-") + "/audit"
}
