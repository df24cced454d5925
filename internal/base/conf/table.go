package conf

import "time"

// entry is one key of the file.
type entry struct {
	key     string // "listen.est"
	def     string // the default, as format returns it; "" is the empty text, or a text that is derived
	doc     string
	example string
	value   value
}

// groups says what the keys below a name have in common, in the order of the file.
func groups() map[string]string {
	return map[string]string{
		"database":    "Where the records are kept.",
		"keys":        "Where the private keys are kept and what unlocks them.",
		"keys.pkcs11": "A token that keeps keys of CAs; the program must be built for it, see doc/keys.md.",
		"profiles":    "What kinds of certificates are issued.",
		"listen":      "What is bound on this machine.",
		"public_urls": "What devices are told, when that differs from what is bound.",
		"tls":         "How connections are protected.",
		"coaps":       "CoAP and DTLS, for constrained devices.",
		"limits":      "What strangers can make each listener hold or do.",
		"crl":         "Certificate revocation lists.",
		"ocsp":        "Answers about single certificates.",
		"enrol":       "What waits before it becomes a certificate.",
		"acme":        "Enrolment by ACME, when listen.acme is set.",
		"masa":        "Vouchers for the devices of manufacturers who have this platform issue them (BRSKI), see doc/masa.md.",
		"v2x":         "Certificates for vehicles and roadside stations (TS 102 941), see doc/v2x.md.",
		"messaging":   "Messages between devices and services, when listen.mqtt, listen.mqtt_web or coaps.messages is set.",
		"retention":   "When certificates leave that have expired, and entries of the audit record; how long a certificate is kept then, its profile says.",
		"jobs":        "Work on many things at once.",
		"approve":     "What needs a second person.",
		"log":         "What the server says about its own running, on standard error.",
		"audit":       "The tamper-evident record.",
	}
}

// table binds every key to its field in c. The order is that of the generated file.
func (c *Config) table() []entry {
	const day = 24 * time.Hour
	l := &c.Limits
	return []entry{
		{"version", "1", "The version of this file's format.", "1", whole(&c.Version, 1, 1)},
		{"name", "Mooring", "The organisation, as shown in CA certificates and used for the audit log's name.", "Acme Vehicles", title(&c.Name)},
		{"names", "localhost,127.0.0.1,::1", "DNS names and IP addresses that devices and operators use to reach this server; its certificate carries them.", "pki.example.com,192.0.2.7", hosts(&c.Names)},

		{"database.url", "sqlite:mooring.db", "sqlite: and a file, or the address of a PostgreSQL-compatible engine, without a password.", "postgres://mooring@db.example.com/mooring?sslmode=verify-full", databaseURL(&c.Database.URL)},
		{"database.password_file", "", "A file that holds the database password, readable by its owner only.", "database.password", text(&c.Database.PasswordFile)},

		{"keys.dir", "keys", "The directory of the encrypted private keys.", "/var/lib/mooring/keys", path(&c.Keys.Dir)},
		{"keys.unlock", "file:keys/unlock", "Where the secret that unlocks the keys comes from: file:PATH (readable by its owner only), fd:N, or prompt.", "fd:3", unlock(&c.Keys.Unlock)},
		{"keys.custody", "file", "Where the keys of new CAs are kept: file, in keys.dir, or pkcs11, in a token. Everything else that is secret stays in keys.dir.", "pkcs11", oneOf(&c.Keys.Custody, "file", "pkcs11")},
		{"keys.pkcs11.module", "", "The PKCS #11 module of the token, a shared library with an absolute path.", "/usr/lib/softhsm/libsofthsm2.so", text(&c.Keys.PKCS11.Module)},
		{"keys.pkcs11.token", "", "The token's label or serial number.", "mooring", text(&c.Keys.PKCS11.Token)},
		{"keys.pkcs11.pin_file", "", "A file that holds the token's user PIN, readable by its owner only.", "token.pin", text(&c.Keys.PKCS11.PINFile)},

		{"profiles.dir", "profiles", "The directory of the profiles, one YAML file each.", "/etc/mooring/profiles", path(&c.Profiles.Dir)},

		{"listen.est", "127.0.0.1:8443", "Enrolment over HTTPS (EST), for devices.", "0.0.0.0:8443", address(&c.Listen.EST)},
		{"listen.api", "127.0.0.1:9443", "The management API over HTTPS, for operators with a certificate.", "10.0.0.5:9443", address(&c.Listen.API)},
		{"listen.status", "127.0.0.1:8080", "Revocation lists, status answers and CA certificates over plain HTTP; all of it is public and signed.", "0.0.0.0:80", address(&c.Listen.Status)},
		{"listen.scep", "", "Enrolment by SCEP over plain HTTP, for devices that have nothing better, and only for profiles with scep; if absent, there is none.", "0.0.0.0:8090", addressOrNone(&c.Listen.SCEP)},
		{"listen.coaps", "", "Enrolment over CoAP and DTLS (EST-coaps), for constrained devices; UDP. If absent, there is none.", "0.0.0.0:5684", addressOrNone(&c.Listen.COAPS)},
		{"listen.cmp", "", "Enrolment by CMP over plain HTTP; its messages are protected themselves. If absent, there is none.", "0.0.0.0:8081", addressOrNone(&c.Listen.CMP)},
		{"listen.acme", "", "Enrolment by ACME over HTTPS, for gateways, servers and devices; if absent, there is none.", "0.0.0.0:8444", addressOrNone(&c.Listen.ACME)},
		{"listen.masa", "", "The service that issues vouchers (BRSKI), over HTTPS, for the registrars of other domains; if absent, there is none, and this platform's own registrar has its vouchers all the same.", "0.0.0.0:9444", addressOrNone(&c.Listen.MASA)},
		{"listen.mqtt", "", "Messages by MQTT over TLS, and by MQTT over WebSockets at the path /mqtt; if absent, there are none.", "0.0.0.0:8883", addressOrNone(&c.Listen.MQTT)},
		{"listen.mqtt_web", "", "The same at a second address, for networks that let only that port through.", "0.0.0.0:443", addressOrNone(&c.Listen.MQTTWeb)},
		{"listen.hooks", "", "The questions of other MQTT brokers, who may connect and what he may do, over HTTPS; if absent, none are answered.", "10.0.0.5:9445", addressOrNone(&c.Listen.Hooks)},
		{"listen.v2x_ea", "", "The enrolment authority of V2X, for stations, over plain HTTP: its messages are protected themselves. If absent, there is none.", "0.0.0.0:8450", addressOrNone(&c.Listen.V2XEA)},
		{"listen.v2x_validation", "", "The same authority, for authorization authorities alone; they may ask a hundred times as often as limits lets others.", "10.0.0.5:8451", addressOrNone(&c.Listen.V2XValidation)},
		{"listen.v2x_aa", "", "The authorization authority of V2X, over plain HTTP; if absent, there is none in this process.", "0.0.0.0:8452", addressOrNone(&c.Listen.V2XAA)},
		{"listen.v2x_cpoc", "", "The lists of the trust list manager of V2X (CPOC), over plain HTTP; if absent, there is none.", "0.0.0.0:8454", addressOrNone(&c.Listen.V2XCPOC)},
		{"listen.v2x_dc", "", "The distribution centre of V2X, with the trust list and the revocation list of the root, over plain HTTP; if absent, there is none.", "0.0.0.0:8453", addressOrNone(&c.Listen.V2XDC)},
		{"listen.socket", "mooring.sock", "The Unix socket for commands on this machine.", "/run/mooring/mooring.sock", path(&c.Listen.Socket)},

		{"public_urls.est", "", "Where devices reach the EST listener; the host must be one of names. If absent, the first of names with the port of listen.est.", "https://pki.example.com:8443", baseURL(&c.PublicURLs.EST, "https", c.ESTURL)},
		{"public_urls.acme", "", "Where clients reach the ACME listener; the host must be one of names. If absent, the first of names with the port of listen.acme.", "https://pki.example.com:8444", baseURL(&c.PublicURLs.ACME, "https", c.ACMEURL)},
		{"public_urls.status", "", "Where anybody reaches the status listener. It is written into every certificate, so choose it to last. If absent, the first of names with the port of listen.status.", "http://status.example.com", baseURL(&c.PublicURLs.Status, "http", c.StatusURL)},

		{"tls.min_version", "1.2", "The oldest TLS version accepted: \"1.2\" or \"1.3\".", "1.3", oneOf(&c.TLS.MinVersion, "1.2", "1.3")},
		{"tls.hybrid", "true", "Offer the key exchange X25519MLKEM768, which also withstands quantum computers; costs a quarter of the connections per second.", "false", truth(&c.TLS.Hybrid)},
		{"tls.session_lifetime", "1h", "How long a client may resume a session at most; 0s means never.", "10m", duration(&c.TLS.SessionLifetime, 0, day)},
		{"tls.anchors", "", "Names, each with a profile of its own, that show whether a client trusts the root of that profile's CA: to who asks for the name, no cross certificate is sent. See the rollover of roots.", "g2.pki.example.com=server-g2", anchors(&c.TLS.Anchors)},

		{"coaps.messages", "false", "Whether devices also publish and subscribe on listen.coaps, below the path /p.", "true", truth(&c.COAPS.Messages)},
		{"coaps.mtu", "1280", "Octets of the largest IP packet that is sent; blocks of answers follow from it.", "576", whole(&c.COAPS.MTU, 256, 1500)},
		{"coaps.node", "0", "The first two octets of connection IDs, so that a balancer in front of several nodes can send a device that has moved to the one that knows it.", "3", whole(&c.COAPS.Node, 0, 65535)},
		{"coaps.memory", "33554432", "Octets of requests and answers in blocks that are held for all devices together.", "134217728", whole(&c.COAPS.Memory, 1<<16, 1<<40)},

		{"limits.connections", "8192", "Open connections.", "20000", whole(&l.Connections, 1, 1<<20)},
		{"limits.connections_per_address", "256", "Open connections from one IPv4 address or IPv6 /64 network.", "1000", whole(&l.AddressConns, 1, 1<<20)},
		{"limits.handshakes", "1024", "TLS handshakes in progress.", "2048", whole(&l.Handshakes, 1, 1<<16)},
		{"limits.handshake_timeout", "9s", "The time a TLS handshake may take.", "5s", duration(&l.HandshakeTimeout, time.Millisecond, 5*time.Minute)},
		{"limits.handshakes_per_second", "2000", "New TLS connections per second, from everywhere.", "5000", whole(&l.HandshakeRate, 1, 1<<20)},
		{"limits.handshakes_per_address", "100", "New TLS connections per second from one address; four times as many in a burst.", "20", whole(&l.AddressHandshakes, 1, 1<<20)},
		{"limits.header_timeout", "10s", "The time a request's header may take to arrive.", "5s", duration(&l.HeaderTimeout, time.Millisecond, 5*time.Minute)},
		{"limits.body_timeout", "1m", "The time a whole request may take to arrive, and its answer to leave.", "2m", duration(&l.BodyTimeout, time.Millisecond, time.Hour)},
		{"limits.idle_timeout", "2m", "How long a connection may rest between requests.", "30s", duration(&l.IdleTimeout, time.Millisecond, day)},
		{"limits.drain_timeout", "10s", "How long requests may go on after the server was asked to stop.", "30s", duration(&l.DrainTimeout, 0, 10*time.Minute)},
		{"limits.requests_per_second", "100", "Requests per second from one address.", "20", whole(&l.RequestRate, 1, 1<<20)},
		{"limits.request_burst", "400", "Requests that one address may send at once.", "800", whole(&l.RequestBurst, 1, 1<<20)},
		{"limits.tracked_addresses", "16384", "Addresses whose rates are remembered; the least recently seen is forgotten first.", "65536", whole(&l.TrackedAddresses, 16, 1<<22)},
		{"limits.body_size", "262144", "Octets in a request's body, where the operation has no smaller limit.", "1048576", whole(&l.BodySize, 1024, 1<<30)},

		{"crl.validity", "7d", "How long a list is valid.", "3d", duration(&c.CRL.Validity, time.Minute, 400*day)},
		{"crl.refresh", "12h", "A list is signed anew at least this often; after a revocation at once.", "1h", duration(&c.CRL.Refresh, time.Second, 400*day)},
		{"crl.delta", "false", "Whether full lists name delta lists, which are then made for whoever asks.", "true", truth(&c.CRL.Delta)},

		{"ocsp.validity", "12h", "How long an answer is valid. Caches outside keep it for half of that, also after a revocation.", "1h", duration(&c.OCSP.Validity, time.Minute, 30*day)},
		{"ocsp.responder", "ca", "Who signs answers: ca (the CA's own key), delegated (a key that each server makes for itself and the CA certifies for this alone), or off (questions are answered with unauthorized).", "delegated", oneOf(&c.OCSP.Responder, "ca", "delegated", "off")},
		{"ocsp.issuers", "", "CAs for which somebody else answers, each as NAME=RESPONDER.", "devices-g1=delegated,services=off", responders(&c.OCSP.Issuers)},
		{"ocsp.responder_validity", "14d", "How long the certificate of a delegated responder is valid; the next one comes at half of that.", "30d", duration(&c.OCSP.ResponderValidity, 7*day, 30*day)},
		{"ocsp.cache", "67108864", "Octets of memory for answers that may be asked for again, about 1000 each.", "268435456", whole(&c.OCSP.Cache, 1<<20, 1<<40)},
		{"ocsp.live_per_second", "1000", "Answers per second that are signed for one question alone: with a nonce, for several certificates, for an unknown one. Others are told to try later.", "200", whole(&c.OCSP.LivePerSecond, 1, 1<<20)},
		{"ocsp.never_issued", "unknown", "The answer for a serial number that the CA never gave out: unknown, or revoked (since 1970, on hold: RFC 6960, section 2.2).", "revoked", oneOf(&c.OCSP.NeverIssued, "unknown", "revoked")},

		{"enrol.retry_after", "1m", "When a device whose request waits for approval is told to ask again.", "10m", duration(&c.Enrol.RetryAfter, time.Second, day)},
		{"enrol.token_ttl", "7d", "How long an enrolment token can be used if nothing else is said.", "1h", duration(&c.Enrol.TokenTTL, time.Minute, 400*day)},
		{"enrol.max_pending", "10000", "Requests that may wait for approval.", "500", whole(&c.Enrol.MaxPending, 1, 1<<20)},
		{"enrol.weak_keys", "", "A file, or a directory of files, with fingerprints of keys that nobody gets a certificate for, such as those that Debian's generator made from 2006 to 2008; see doc/profiles.md.", "weak-keys", text(&c.Enrol.WeakKeys)},

		{"acme.open", "false", "Whether there are accounts without a device's token. Such an account orders for the registered device that is called like one of the ordered names, and shows by challenges that it controls them all.", "true", truth(&c.ACME.Open)},
		{"acme.allow", "", "Networks besides the public ones that validations may reach: where the devices are. Without their network here, devices at private addresses cannot be validated.", "10.20.0.0/16,fd00:20::/32", prefixes(&c.ACME.Allow)},
		{"acme.resolver", "", "The name server that validations ask; if absent, those of this machine.", "10.0.0.53:53", addressOrNone(&c.ACME.Resolver)},
		{"acme.http_port", "80", "The port of http-01. Anything but 80 is for tests: whoever may bind the port need not be the machine's administrator.", "5002", whole(&c.ACME.HTTPPort, 1, 65535)},
		{"acme.tls_port", "443", "The port of tls-alpn-01, likewise.", "5001", whole(&c.ACME.TLSPort, 1, 65535)},
		{"acme.attest_step", "", "A PEM file of the roots of attestation statements of the format step, such as Yubico's. Without it no such statement is accepted.", "attest/yubico.pem", text(&c.ACME.Attest.Step)},
		{"acme.attest_apple", "", "The same for the format apple.", "attest/apple.pem", text(&c.ACME.Attest.Apple)},
		{"acme.attest_android_key", "", "The same for the format android-key.", "attest/android.pem", text(&c.ACME.Attest.AndroidKey)},
		{"acme.attest_tpm", "", "The same for the format tpm, besides this platform's own CAs, which are always trusted for attestation keys.", "attest/tpm-ak.pem", text(&c.ACME.Attest.TPM)},
		{"acme.attest_ek", "", "A PEM file of the manufacturers' roots of TPM endorsement keys. Without it a TPM must be registered with its device, by the tag tpm-ek.", "attest/tpm-makers.pem", text(&c.ACME.Attest.EK)},
		{"acme.terms", "", "The address of terms of service that accounts must agree to.", "https://pki.example.com/terms", text(&c.ACME.Terms)},

		{"masa.profile", "", "The profile of the certificate that signs vouchers; its CA must issue by no other. Without it no vouchers are issued.", "masa", text(&c.MASA.Profile)},
		{"masa.offline_validity", "14d", "How long a voucher without a nonce lives at most, for a device that is not connected when it is asked for.", "90d", duration(&c.MASA.Offline, time.Minute, 3650*day)},

		{"v2x.ea_url", "", "Where stations reach listen.v2x_ea; if absent, the first of names with its port.", "http://ea.example.com", baseURL(&c.V2X.EAURL, "http", c.V2XEAURL)},
		{"v2x.validation_url", "", "Where authorization authorities reach listen.v2x_validation; if absent, the first of names with its port.", "http://10.0.0.5:8451", baseURL(&c.V2X.ValidationURL, "http", c.V2XValidationURL)},
		{"v2x.aa_url", "", "Where stations reach listen.v2x_aa; if absent, the first of names with its port.", "http://aa.example.com", baseURL(&c.V2X.AAURL, "http", c.V2XAAURL)},
		{"v2x.dc_url", "", "Where anybody reaches listen.v2x_dc; if absent, the first of names with its port.", "http://dc.example.com", baseURL(&c.V2X.DCURL, "http", c.V2XDCURL)},
		{"v2x.cpoc_url", "", "Where anybody reaches listen.v2x_cpoc, with the path of an environment if there is one; if absent, the first of names with its port.", "http://cpoc.example.com/L0", baseURL(&c.V2X.CPOCURL, "http", c.V2XCPOCURL)},
		{"v2x.aa_dir", "v2x-aa", "The directory of the authorization authority, which has keys and, unless v2x.aa_database says otherwise, a database of its own.", "/var/lib/mooring-aa", path(&c.V2X.AADir)},
		{"v2x.aa_database", "", "Its database, as database.url says; if absent, a file in v2x.aa_dir.", "postgres://mooring-aa@db.example.com/mooring-aa", text(&c.V2X.AADatabase)},
		{"v2x.tickets", "100", "Tickets of a station that may be valid at the same time.", "20", whole(&c.V2X.Tickets, 1, 10000)},
		{"v2x.ticket_life", "7d", "How long a ticket may live.", "3d", duration(&c.V2X.TicketLife, time.Hour, 400*day)},
		{"v2x.preload", "92d", "How far ahead a ticket may begin.", "30d", duration(&c.V2X.Preload, 0, 3650*day)},
		{"v2x.credential_life", "1095d", "How long an enrolment credential lives; it ends before the authority's certificate does.", "365d", duration(&c.V2X.CredentialLife, day, 3650*day)},
		{"v2x.window", "5m", "How far the time of a request may be off.", "1m", duration(&c.V2X.Window, time.Second, time.Hour)},
		{"v2x.ea_timeout", "5s", "How long an enrolment authority may take to answer.", "2s", duration(&c.V2X.EATimeout, 100*time.Millisecond, time.Minute)},
		{"v2x.proof", "false", "Whether requests for tickets must be signed with the ticket's key.", "true", truth(&c.V2X.Proof)},
		{"v2x.butterfly", "false", "Whether stations get many tickets with one request, by butterfly key expansion; see doc/v2x.md for the patents on it.", "true", truth(&c.V2X.Butterfly.On)},
		{"v2x.butterfly_aa_url", "", "Where the enrolment authority asks for these tickets; if absent, v2x.aa_url.", "http://10.0.0.6:8452", baseURL(&c.V2X.Butterfly.AAURL, "http", c.V2XIssueURL)},
		{"v2x.butterfly_period", "7d", "How long the periods of these tickets are, which begin at the same moments for all stations.", "1d", duration(&c.V2X.Butterfly.Period, time.Hour, 92*day)},
		{"v2x.butterfly_overlap", "1h", "How long tickets live on in the next period, if v2x.ticket_life allows it.", "2h", duration(&c.V2X.Butterfly.Overlap, 0, 7*day)},
		{"v2x.butterfly_tickets", "20", "Tickets of a station in each period.", "10", whole(&c.V2X.Butterfly.Tickets, 1, 1000)},
		{"v2x.butterfly_ahead", "4", "Periods that are made in advance, the present one among them; v2x.preload bounds them too.", "12", whole(&c.V2X.Butterfly.Ahead, 1, 1000)},
		{"v2x.butterfly_stations", "100", "Of how many stations tickets are asked for together at least, in random order. Those that are missing after butterfly_wait are made up.", "1000", whole(&c.V2X.Butterfly.Stations, 1, 10000)},
		{"v2x.butterfly_wait", "1d", "How long tickets wait at most for those of other stations.", "12h", duration(&c.V2X.Butterfly.Wait, 0, 84*time.Hour)},
		{"v2x.butterfly_compact", "false", "Whether the root gives authorization authorities the flag usesCubk (IEEE 1609.2) from now on, with which they answer compact unified requests too; mooring v2x aa rekey gives it to one that there is.", "true", truth(&c.V2X.Butterfly.Compact)},
		{"v2x.butterfly_strict", "false", "Whether these tickets get the keys that the enrolment authority computed, as TS 102 941 has it: it can then recognise all tickets of a station.", "true", truth(&c.V2X.Butterfly.Strict)},
		{"v2x.butterfly_token_key", "", "The public key (PEM, P-256) of an OAuth server whose access tokens (RFC 9068) stations may show for these tickets; if absent, there is none.", "oauth.pem", text(&c.V2X.Butterfly.TokenKey)},
		{"v2x.butterfly_token_issuer", "", "Its name, as the tokens have it.", "https://login.example.com", text(&c.V2X.Butterfly.TokenIssuer)},
		{"v2x.butterfly_token_audience", "mooring", "For whom the tokens must be.", "v2x.example.com", text(&c.V2X.Butterfly.TokenAudience)},
		{"v2x.ctl_life", "90d", "How long a trust list lives; it is renewed when a quarter of that is left.", "30d", duration(&c.V2X.CTLLife, time.Hour, 400*day)},
		{"v2x.crl_life", "7d", "How long a revocation list lives, likewise.", "1d", duration(&c.V2X.CRLLife, time.Hour, 400*day)},
		{"v2x.leap_seconds", "5", "Leap seconds that were inserted since 2004: the clock of V2X has none.", "6", whole(&c.V2X.LeapSeconds, 0, 100)},

		{"messaging.dir", "messages", "The directory of messages, sessions and retained messages, when they are kept on this machine.", "/var/lib/mooring/messages", path(&c.Messaging.Dir)},
		{"messaging.nats", "", "NATS servers with JetStream that keep them instead, for several nodes.", "tls://nats-1.example.com:4222,tls://nats-2.example.com:4222", natsURLs(&c.Messaging.NATS)},
		{"messaging.nats_credentials", "", "A file of NATS credentials, readable by its owner only.", "nats.creds", text(&c.Messaging.Credentials)},
		{"messaging.nats_ca", "", "A PEM file of the roots of the NATS servers' certificates; if absent, this machine's.", "nats-ca.pem", text(&c.Messaging.CA)},
		{"messaging.nats_cert", "", "A PEM file of the certificate that this server shows them.", "nats-cert.pem", text(&c.Messaging.Cert)},
		{"messaging.nats_key", "", "A PEM file of its private key, readable by its owner only.", "nats-key.pem", text(&c.Messaging.Key)},
		{"messaging.durability", "process", "When a message counts as stored: process (it survives the end of this process; of the machine, but for the last second), disk (each one is written through), or quorum (most of three NATS servers have it).", "quorum", oneOf(&c.Messaging.Durability, "process", "disk", "quorum")},
		{"messaging.max_age", "7d", "How long messages are kept.", "30d", duration(&c.Messaging.MaxAge, time.Minute, 3650*day)},
		{"messaging.max_bytes", "4294967296", "Octets of messages from devices that are kept; when there is no room, devices are told so and nothing is lost.", "107374182400", whole(&c.Messaging.MaxBytes, 1<<20, 1<<50)},
		{"messaging.origins", "", "Web pages that may open WebSockets, by their origins; none, if absent. Clients that are no browsers need none.", "https://dashboard.example.com", texts(&c.Messaging.Origins)},
		{"messaging.elsewhere", "", "Where clients of MQTT 5 are told to go when this server stops, as one of several nodes; if absent, they are told that it stops.", "mqtt-2.example.com:8883", text(&c.Messaging.Elsewhere)},
		{"messaging.interop", "", "An address of this machine's own (127.0.0.1 or ::1) where any MQTT client may connect without TLS, under the policy's group interop. For trying clients out; never for a fleet.", "127.0.0.1:1883", addressOrNone(&c.Messaging.Interop)},
		{"messaging.brokers", "", "A directory with a file for each other broker that asks listen.hooks or from which devices are to be cut off; see doc/external-brokers.md.", "brokers", text(&c.Messaging.Brokers)},
		{"messaging.sinks", "", "A directory with a file for each place where messages of devices go on to; see doc/sinks.md.", "sinks", text(&c.Messaging.Sinks)},

		{"retention.hold", "false", "Delete nothing, whatever profiles and retention.audit say: somebody may need it as evidence.", "true", truth(&c.Retention.Hold)},
		{"retention.every", "6h", "How often is looked for what is over.", "24h", duration(&c.Retention.Every, time.Minute, 30*day)},
		{"retention.audit", "0s", "How long entries of the audit record are kept, by whole months, 90d at least; 0s means for ever. Their hashes, places and proofs stay for ever.", "730d", durationOrNone(&c.Retention.Audit, 90*day, 36500*day)},

		{"jobs.undo", "10m", "How long a revocation by a filter waits, visibly, before anything of it is done, if nothing else is said.", "1h", duration(&c.Jobs.Undo, 0, 30*day)},

		{"approve.revoke_above", "100", "Revoking or moving more than so many certificates or devices at once takes a second person; -1 means never.", "1000", whole(&c.Approve.RevokeAbove, -1, 1<<30)},
		{"approve.campaign_above", "1000", "A campaign for more than so many devices takes a second person; -1 means never.", "10000", whole(&c.Approve.CampaignAbove, -1, 1<<30)},

		{"log.level", "info", "The least serious message written: debug, info, warn or error.", "debug", oneOf(&c.Log.Level, "debug", "info", "warn", "error")},
		{"log.format", "text", "text for people, json for machines.", "json", oneOf(&c.Log.Format, "text", "json")},

		{"audit.origin", "", "The audit log's name in its signed checkpoints; made from name if empty. It must never change.", "acme.example/audit", origin(&c.Audit.Origin)},
	}
}
