package v1

import "time"

// CARequest is a CA, or an OCSP responder of a CA whose key is elsewhere, that has its key here and waits for its certificate, which somebody else
// signs.
type CARequest struct {
	Name    string    `json:"name" doc:"Name that the CA will have; of a responder, ocsp: and the name of the CA" example:"devices"`
	Subject string    `json:"subject" doc:"Distinguished name (RFC 4514)" example:"CN=Devices CA 1,O=Example"`
	Key     string    `json:"key" doc:"SHA-256 of the public key, which the one who signs compares"`
	Shards  int       `json:"crl_shards,omitempty" doc:"Into how many revocation lists its certificates will be divided"`
	Created time.Time `json:"created" doc:"When it was made"`
	Request string    `json:"request" doc:"The certification request (PKCS#10), PEM"`
}

// CARequestList holds all CAs that wait.
type CARequestList struct {
	Requests []CARequest `json:"requests" doc:"By name"`
}

// NewCARequest asks for the key of a CA and a certification request.
type NewCARequest struct {
	Name      string `json:"name" pattern:"^[a-z][a-z0-9-]*$" maxLength:"32" doc:"Unique name: small letters, digits, hyphens" example:"devices"`
	Subject   string `json:"subject" minLength:"1" doc:"Distinguished name (RFC 4514), best with O and a CN that names the generation" example:"CN=Devices CA 1,O=Example"`
	Algorithm string `json:"algorithm,omitempty" doc:"Kind of key: ec-p256, ec-p384, ed25519, rsa-3072, rsa-4096, ml-dsa-44, ml-dsa-65; ec-p256 when absent" example:"ec-p256"`
	Custody   string `json:"custody,omitempty" enum:"file,pkcs11" doc:"Where its key is kept; when absent, as keys.custody of the configuration says" example:"pkcs11"`
	PathLen   int    `json:"path_len,omitempty" minimum:"0" maximum:"6" doc:"How many tiers of CAs may follow below" example:"0"`
	Shards    *int   `json:"crl_shards,omitempty" minimum:"0" maximum:"256" doc:"Into how many revocation lists its certificates are divided: 0 (one list) or a power of two up to 256; when absent, 256 for a CA with no tier below it and 0 for others" example:"256"`
}

// CAImport brings the certificate of a CA with those above it.
type CAImport struct {
	Name   string `json:"name" pattern:"^[a-z][a-z0-9-]*$" maxLength:"32" doc:"Of a CA that waits, or of a new one whose key is elsewhere, such as a root" example:"devices"`
	Chain  string `json:"chain" minLength:"1" doc:"Certificates in any order up to the root, PEM"`
	Record string `json:"record,omitempty" doc:"The ceremony record of the offline root"`
}

// CAImported is what an import led to.
type CAImported struct {
	CAs     []CA `json:"cas" doc:"The new CAs, the named one first, then those above it that were not known"`
	Entries int  `json:"entries" doc:"Entries of the ceremony record that are new"`
}

// Cross is a certificate by which one root vouches for another (RFC 4210, section 4.4).
type Cross struct {
	Subject   string    `json:"subject" doc:"Name of the root that is vouched for" example:"root-g2"`
	Issuer    string    `json:"issuer" doc:"Name of the root that vouches" example:"root"`
	Serial    string    `json:"serial" doc:"Serial number"`
	NotBefore time.Time `json:"not_before" doc:"First second of validity"`
	NotAfter  time.Time `json:"not_after" doc:"Last second of validity"`
	Shadowed  bool      `json:"shadowed,omitempty" doc:"It is not shorter than the self-signed certificate of the same root, so that bundles list it after that: clients need that root as an anchor"`
	Revoked   bool      `json:"revoked,omitempty" doc:"It is revoked or on hold, and not announced any more"`
	PEM       string    `json:"pem" doc:"The certificate"`
}

// CrossList holds cross certificates.
type CrossList struct {
	Crosses []Cross `json:"crosses" doc:"Those that have not ended, the oldest first"`
}

// NewCross asks two roots to vouch for each other.
type NewCross struct {
	Old string `json:"old" minLength:"1" doc:"Name of the older root" example:"root"`
	New string `json:"new" minLength:"1" doc:"Name of the newer root" example:"root-g2"`
}

// NewResponder asks for the key of an OCSP responder and a certification request.
type NewResponder struct {
	CA        string `json:"ca" minLength:"1" maxLength:"64" doc:"Name or id of a CA whose key is elsewhere" example:"root"`
	Algorithm string `json:"algorithm,omitempty" doc:"Kind of key: ec-p256, ec-p384, ed25519, rsa-3072, rsa-4096, ml-dsa-44, ml-dsa-65; when absent, ec-p256, or the CA's own where that is ML-DSA" example:"ec-p256"`
	Custody   string `json:"custody,omitempty" enum:"file,pkcs11" doc:"Where its key is kept; when absent, as keys.custody of the configuration says" example:"pkcs11"`
}

// Responder is an OCSP responder that a CA certified whose key is elsewhere (RFC 6960, section 4.2.2.2).
type Responder struct {
	CA        string    `json:"ca" doc:"Name of the CA for which it answers" example:"root"`
	Serial    string    `json:"serial" doc:"Serial number"`
	NotBefore time.Time `json:"not_before" doc:"First second of validity"`
	NotAfter  time.Time `json:"not_after" doc:"Last second of validity"`
	Answers   bool      `json:"answers,omitempty" doc:"It is the one that answers now"`
	Revoked   bool      `json:"revoked,omitempty" doc:"The CA's list names it, and it answers no more"`
	PEM       string    `json:"pem" doc:"The certificate"`
}

// ResponderList holds responders.
type ResponderList struct {
	Responders []Responder `json:"responders" doc:"Those that have not ended, the oldest first"`
}

// CertificateText is one certificate.
type CertificateText struct {
	Certificate string `json:"certificate" minLength:"1" doc:"PEM"`
}

// RecordText is the ceremony record of an offline root.
type RecordText struct {
	Record string `json:"record" minLength:"1" doc:"The text, whole"`
}

// RecordImported says how much of a ceremony record was new.
type RecordImported struct {
	CA      string `json:"ca" doc:"Name of the root" example:"root"`
	Entries int    `json:"entries" doc:"Entries that are new"`
}

// ListText is a revocation list that was signed elsewhere.
type ListText struct {
	CRL string `json:"crl" minLength:"1" doc:"PEM"`
}

// ListImported tells about a revocation list that was taken in.
type ListImported struct {
	CA         string    `json:"ca" doc:"Name of the CA" example:"root"`
	Number     int64     `json:"number" doc:"Number of the list"`
	ThisUpdate time.Time `json:"this_update" doc:"When it was made"`
	NextUpdate time.Time `json:"next_update" doc:"When it ends"`
}
