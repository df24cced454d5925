package v1

import "time"

// MASA is what vouchers are signed with (BRSKI, RFC 8995).
type MASA struct {
	CA     MakerAnchor `json:"ca" doc:"What devices are to hold: the CA that issues the certificates of the signer, and nothing else"`
	Signer MakerAnchor `json:"signer" doc:"The certificate that signs now"`
}

// Registrar is the registrar of a domain that may ask for vouchers.
type Registrar struct {
	Name         string        `json:"name" doc:"What it is called here" example:"customer-7"`
	Group        string        `json:"group,omitempty" doc:"It may ask for the devices of this group alone; left out: for all" example:"sold/customer-7"`
	Offline      bool          `json:"offline,omitempty" doc:"It may ask for vouchers without a nonce, for devices that are not connected"`
	Certificates []MakerAnchor `json:"certificates" doc:"Its CAs, or its own certificates"`
	Created      time.Time     `json:"created" doc:"When it was registered"`
}

// RegistrarList holds registrars.
type RegistrarList struct {
	Registrars []Registrar `json:"registrars" doc:"By name"`
}

// NewRegistrar lets a registrar ask for vouchers.
type NewRegistrar struct {
	Name         string `json:"name" minLength:"1" maxLength:"64" doc:"What it is to be called here: letters, digits and . _ - : @ / +" example:"customer-7"`
	Group        string `json:"group,omitempty" maxLength:"255" doc:"It may ask for the devices of this group alone, which are then known to be its own" example:"sold/customer-7"`
	Offline      bool   `json:"offline,omitempty" doc:"It may ask for vouchers without a nonce"`
	Certificates string `json:"certificates" minLength:"1" maxLength:"400000" doc:"Its CAs, or its own certificates, PEM, one after the other"`
}

// IssuedVoucher is a voucher that was issued.
type IssuedVoucher struct {
	Number    int64      `json:"number" doc:"Of the device's vouchers, from 1"`
	Issued    time.Time  `json:"issued" doc:"When"`
	Expires   *time.Time `json:"expires,omitempty" doc:"When it ends; left out for one with a nonce, which is good once"`
	Registrar string     `json:"registrar,omitempty" doc:"Who asked; left out for this platform's own registrar"`
	Domain    string     `json:"domain" doc:"The domain, as the log of vouchers names it (RFC 8995, section 5.8.2), hex"`
	Nonce     string     `json:"nonce,omitempty" doc:"Hex"`
	Assertion string     `json:"assertion" enum:"verified,logged,proximity" doc:"How it was known whose the device is"`
	Voucher   []byte     `json:"voucher" doc:"The voucher"`
}

// VoucherList holds vouchers.
type VoucherList struct {
	Vouchers []IssuedVoucher `json:"vouchers" doc:"In the order in which they were issued"`
}
