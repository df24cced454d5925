package v1

import "time"

// Certificate is a certificate that this platform issued.
type Certificate struct {
	Serial     string      `json:"serial" doc:"Serial number" example:"4165a1b2c3d4e5f60718293a4b5c6d7e"`
	Issuer     string      `json:"issuer" doc:"Id of the CA" example:"0011223344556677"`
	IssuerName string      `json:"issuer_name,omitempty" doc:"Name of the CA" example:"devices"`
	Profile    string      `json:"profile" doc:"The profile it follows" example:"device"`
	Version    string      `json:"version" doc:"Version of the profile" example:"8899aabbccddeeff"`
	Slot       string      `json:"slot" doc:"Its purpose" example:"operational"`
	Device     string      `json:"device" doc:"Id of the device that it was issued to" example:"6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c"`
	NotBefore  time.Time   `json:"not_before" doc:"First second of validity"`
	NotAfter   time.Time   `json:"not_after" doc:"Last second of validity"`
	Key        string      `json:"key" doc:"SHA-256 of the public key"`
	Previous   string      `json:"previous,omitempty" doc:"Serial number of the certificate that it follows in its slot"`
	Record     string      `json:"record" enum:"full,brief" doc:"What was recorded of it" example:"full"`
	Kept       bool        `json:"kept" doc:"The certificate itself is here; else this is what the record of its issue says, because it was recorded in brief or its time here is over"`
	Revocation *Revocation `json:"revocation,omitempty" doc:"Present when it is revoked"`
	PEM        string      `json:"pem,omitempty" doc:"The certificate; left out of listings, and when it is not kept"`
}

// Revocation says when and why a certificate was revoked.
type Revocation struct {
	At     time.Time `json:"at" doc:"When"`
	Reason string    `json:"reason" doc:"Why, by the names of RFC 5280, section 5.3.1" example:"keyCompromise"`
}

// CertificatePage is a page of certificates. While Next is set there are more, also behind a page that is short or empty.
type CertificatePage struct {
	Certificates []Certificate `json:"certificates" doc:"In a stable order"`
	Next         string        `json:"next,omitempty" doc:"Cursor of the next page; absent at the end"`
}

// RevokeResult says what became of a certificate that was revoked, put on hold or released.
type RevokeResult struct {
	Serial     string     `json:"serial" doc:"Serial number" example:"4165a1b2c3d4e5f60718293a4b5c6d7e"`
	Revocation Revocation `json:"revocation" doc:"As it stands now; removeFromCRL when a hold was lifted"`
	Already    bool       `json:"already" doc:"It was so before; nothing changed"`
	Listed     int64      `json:"listed,omitempty" doc:"Number of the revocation list that shows it; absent when none could be signed in time" example:"1700000000"`
	Successor  string     `json:"successor,omitempty" doc:"Serial number of a newer certificate that was got with this one and stays valid: look at it when the key is in wrong hands"`
	Also       []string   `json:"also,omitempty" doc:"Serial numbers of the device's other certificates of the same key, which were revoked with it"`
}

// CA is a certification authority of this platform.
type CA struct {
	ID        string    `json:"id" doc:"Follows from its name and key" example:"0011223344556677"`
	Name      string    `json:"name" doc:"Unique name" example:"devices"`
	Parent    string    `json:"parent,omitempty" doc:"Name of the CA above; absent for a root" example:"root"`
	Subject   string    `json:"subject" doc:"Distinguished name (RFC 4514)" example:"CN=Devices CA 1,O=Example"`
	Serial    string    `json:"serial" doc:"Serial number of its certificate"`
	Signature string    `json:"signature" doc:"The algorithm of what it signs" example:"ecdsa-sha256"`
	NotBefore time.Time `json:"not_before" doc:"First second of validity"`
	NotAfter  time.Time `json:"not_after" doc:"Last second of validity"`
	Forever   bool      `json:"forever,omitempty" doc:"It has no well-defined end"`
	Offline   bool      `json:"offline,omitempty" doc:"Its key is elsewhere: it signs nothing here"`
	Revoked   string    `json:"revoked,omitempty" doc:"The CA, itself or one above, whose certificate is revoked or on hold, so that nothing is issued and nobody below is believed; absent when there is none" example:"devices"`
	Shards    int       `json:"crl_shards,omitempty" doc:"Into how many revocation lists its certificates are divided; absent when there is one" example:"256"`
	Created   time.Time `json:"created" doc:"When it was made"`
	Chain     string    `json:"chain,omitempty" doc:"Its certificate and those above it, PEM; left out of listings"`
	Sent      string    `json:"sent,omitempty" doc:"What the holder of a certificate by it sends along in TLS: its certificate and those above it but for the root, then the cross certificates for the root, PEM; left out of listings"`
}

// CAList holds all CAs in the order of their names.
type CAList struct {
	CAs []CA `json:"cas" doc:"By name"`
}

// NewCA asks for a new CA.
type NewCA struct {
	Name      string    `json:"name" pattern:"^[a-z0-9][a-z0-9-]*$" maxLength:"64" doc:"Unique name: small letters, digits, hyphens" example:"devices-2"`
	Parent    string    `json:"parent,omitempty" doc:"Name of the CA above; absent for a root" example:"root"`
	Subject   string    `json:"subject" minLength:"1" doc:"Distinguished name (RFC 4514), best with O and a CN that names the generation" example:"CN=Devices CA 2,O=Example"`
	Algorithm string    `json:"algorithm,omitempty" doc:"Kind of key: ec-p256, ec-p384, ed25519, rsa-3072, rsa-4096, ml-dsa-44, ml-dsa-65; ec-p256 when absent" example:"ec-p256"`
	Validity  string    `json:"validity,omitempty" doc:"How long it is good, in hours; needed unless forever" example:"87600h"`
	Forever   bool      `json:"forever,omitempty" doc:"No well-defined end, for CAs of birth certificates"`
	PathLen   int       `json:"path_len,omitempty" minimum:"0" maximum:"8" doc:"How many tiers of CAs may follow below" example:"0"`
	Custody   string    `json:"custody,omitempty" enum:"file,pkcs11" doc:"Where its key is kept; when absent, as keys.custody of the configuration says" example:"pkcs11"`
	KeyLimit  *KeyLimit `json:"key_limit,omitempty" doc:"How often and how long its key may sign certificates"`
	Shards    *int      `json:"crl_shards,omitempty" minimum:"0" maximum:"256" doc:"Into how many revocation lists its certificates are divided: 0 (one list) or a power of two up to 256; when absent, 256 for a CA with no tier below it and 0 for others" example:"256"`
}

// Profile says what certificates of a kind look like and on which terms they are given.
type Profile struct {
	Name           string   `json:"name" doc:"Name" example:"device"`
	Description    string   `json:"description,omitempty" doc:"What it is for"`
	Version        string   `json:"version" doc:"Follows from the text" example:"8899aabbccddeeff"`
	Issuer         string   `json:"issuer" doc:"Name of the CA that issues now" example:"devices"`
	Turns          []Turn   `json:"issuers,omitempty" doc:"Which CAs issue and from when; absent when it is one and the same"`
	Slot           string   `json:"slot" doc:"The purpose of its certificates" example:"operational"`
	Keys           []string `json:"keys" doc:"Kinds of keys that are accepted" example:"[\"ec-p256\"]"`
	Validity       string   `json:"validity,omitempty" doc:"How long a certificate is good; absent when forever" example:"2160h0m0s"`
	Forever        bool     `json:"forever,omitempty" doc:"Certificates have no well-defined end"`
	Backdate       string   `json:"backdate,omitempty" doc:"How far before the present a certificate begins" example:"5m0s"`
	RenewBefore    string   `json:"renew_before,omitempty" doc:"How long before its end a certificate may be renewed" example:"720h0m0s"`
	ReuseKey       bool     `json:"reuse_key,omitempty" doc:"A renewal may keep its key"`
	Evidence       []string `json:"evidence" doc:"What proves that one may have a certificate" example:"[\"token\"]"`
	Approval       bool     `json:"approval,omitempty" doc:"A person must approve each issue"`
	ServerKeygen   string   `json:"server_keygen,omitempty" doc:"Kind of key that the platform makes on request" example:"ec-p256"`
	Grants         string   `json:"grants,omitempty" doc:"The role of whoever holds such a certificate" example:"operator"`
	CRL            bool     `json:"crl" doc:"Certificates point to the revocation list"`
	OCSP           bool     `json:"ocsp" doc:"Certificates point to the status responder"`
	NoRevAvail     bool     `json:"no_rev_avail,omitempty" doc:"Certificates say that nobody will tell about their revocation (RFC 9608)"`
	Record         string   `json:"record" enum:"full,brief,ephemeral" doc:"What is kept of each certificate" example:"full"`
	Retention      string   `json:"retention,omitempty" doc:"How long after its end a certificate is kept, or forever; absent when none is kept" example:"1y"`
	Rescue         *Rescue  `json:"rescue,omitempty" doc:"How a device may renew by a certificate that has expired; absent when it may not"`
	AlsoFor        []string `json:"also_for,omitempty" doc:"Profiles whose devices may have a certificate of this one, too"`
	LintExceptions []string `json:"lint_exceptions,omitempty" doc:"Lints that the profile is known to break"`
	Source         string   `json:"source,omitempty" doc:"The file, YAML; left out of listings"`
}

// Rescue says how a device may renew by a certificate that has expired.
type Rescue struct {
	MaxExpired string `json:"max_expired" doc:"How long after its end a certificate is still forgiven, and how often: once in this time" example:"180d"`
	Approval   string `json:"approval" enum:"none,once,four-eyes" doc:"Who must agree"`
	Evidence   string `json:"evidence" enum:"certificate,certificate-and-token" doc:"What the device must show"`
	Validity   string `json:"validity" doc:"How long the certificate lives that it gets" example:"7d"`
}

// Turn is from when on a CA issues by a profile.
type Turn struct {
	Issuer string     `json:"issuer" doc:"Name of the CA" example:"devices-g2"`
	From   *time.Time `json:"from,omitempty" doc:"Since when; absent for the first"`
}

// ProfileList holds all profiles in the order of their names.
type ProfileList struct {
	Profiles []Profile `json:"profiles" doc:"By name"`
}
