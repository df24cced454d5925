package v1

import "time"

// Manufacturer is one whose certificates show which of its products a device is (IDevIDs, IEEE 802.1AR).
type Manufacturer struct {
	Name           string        `json:"name" doc:"As ownership lists call it" example:"acme"`
	Organization   string        `json:"organization,omitempty" doc:"What the subject of its certificates must say besides" example:"ACME Ltd"`
	IgnoreLifetime bool          `json:"ignore_lifetime,omitempty" doc:"Its certificates count although they have expired (RFC 8995, section 2.6.2)"`
	Certificates   []MakerAnchor `json:"certificates" doc:"The CAs that issue its certificates"`
	// MASA and what follows are for zero touch by vouchers (BRSKI).
	MASA             string        `json:"masa,omitempty" doc:"Who gives out the vouchers for its devices (RFC 8995): own, this platform; idevid, the service that a device's certificate names; or the address of a service; left out when nobody does" example:"https://masa.example.com/.well-known/brski"`
	MASACertificates []MakerAnchor `json:"masa_certificates,omitempty" doc:"What that service and its vouchers are checked by"`
	Created          time.Time     `json:"created" doc:"When it was registered"`
}

// MakerAnchor is the certificate of a manufacturer's CA, or one that its service for vouchers is checked by.
type MakerAnchor struct {
	Subject     string    `json:"subject" doc:"Its name" example:"CN=ACME Device CA"`
	Fingerprint string    `json:"fingerprint" doc:"SHA-256, hex"`
	NotAfter    time.Time `json:"not_after" doc:"When it ends"`
	PEM         string    `json:"pem,omitempty" doc:"The certificate; left out of listings"`
}

// ManufacturerList holds manufacturers.
type ManufacturerList struct {
	Manufacturers []Manufacturer `json:"manufacturers" doc:"By name"`
}

// NewManufacturer registers a manufacturer.
type NewManufacturer struct {
	Name             string `json:"name" minLength:"1" maxLength:"64" doc:"As ownership lists call it: letters, digits and . _ - : @ / +" example:"acme"`
	Organization     string `json:"organization,omitempty" maxLength:"64" doc:"What the subject of its certificates must say besides; needed where several manufacturers have one CA" example:"ACME Ltd"`
	IgnoreLifetime   bool   `json:"ignore_lifetime,omitempty" doc:"Its certificates are to count although they have expired"`
	Certificates     string `json:"certificates" minLength:"1" maxLength:"400000" doc:"The CAs that issue its certificates, PEM, one after the other"`
	MASA             string `json:"masa,omitempty" maxLength:"1024" doc:"Who gives out the vouchers for its devices (RFC 8995): own, this platform; idevid, the service that a device's certificate names; or the address of a service, https; nobody when left out" example:"own"`
	MASACertificates string `json:"masa_certificates,omitempty" maxLength:"400000" doc:"What a service other than this platform, and its vouchers, are to be checked by: PEM, one after the other"`
}

// MASAChoice says who gives out the vouchers for a manufacturer's devices.
type MASAChoice struct {
	MASA             string `json:"masa,omitempty" maxLength:"1024" doc:"Who gives out the vouchers for its devices (RFC 8995): own, this platform; idevid, the service that a device's certificate names; or the address of a service, https; nobody when left out" example:"own"`
	MASACertificates string `json:"masa_certificates,omitempty" maxLength:"400000" doc:"What a service other than this platform, and its vouchers, are to be checked by: PEM, one after the other"`
}
