package v1

import "time"

// ACMEAccount is an account at the ACME server.
type ACMEAccount struct {
	ID      string    `json:"id" doc:"Id, the end of its address" example:"0a1b2c3d4e5f60718293a4b5c6d7e8f9"`
	State   string    `json:"state" doc:"valid, deactivated by itself, or revoked by an operator or its device's next account"`
	Device  string    `json:"device,omitempty" doc:"Id of the device that it is bound to; absent for an account that anybody may have"`
	Key     string    `json:"key" doc:"SHA-256 thumbprint of its key (RFC 7638), hex"`
	Created time.Time `json:"created" doc:"When it was made"`
	Used    time.Time `json:"used" doc:"When it last ordered something, to the day"`
}

// ACMEAccountPage is a page of accounts. While Next is set there are more.
type ACMEAccountPage struct {
	Accounts []ACMEAccount `json:"accounts" doc:"In the order of their ids"`
	Next     string        `json:"next,omitempty" doc:"Cursor of the next page; absent at the end"`
}

// ACMEName is a name of an order.
type ACMEName struct {
	Name   string `json:"name" doc:"The name" example:"dns:gw1.example.com"`
	State  string `json:"state" doc:"pending, valid, invalid or deactivated"`
	Method string `json:"method,omitempty" doc:"The challenge that decided, or account where the profile trusts it"`
	Error  string `json:"error,omitempty" doc:"Why it is invalid"`
}

// ACMEOrder is an order of an account. Orders are kept for seven days.
type ACMEOrder struct {
	ID      string     `json:"id" doc:"Id, the end of its address"`
	Account string     `json:"account" doc:"Id of the account"`
	Device  string     `json:"device" doc:"Id of the device that the certificate is for"`
	Profile string     `json:"profile" doc:"Profile of the certificate"`
	State   string     `json:"state" doc:"pending, ready, processing, valid or invalid"`
	Serial  string     `json:"serial,omitempty" doc:"Serial number of the certificate"`
	Names   []ACMEName `json:"names" doc:"What it is for"`
	Created time.Time  `json:"created" doc:"When it was made"`
	Expires time.Time  `json:"expires" doc:"When it is forgotten"`
}

// ACMEOrderList holds the orders of an account.
type ACMEOrderList struct {
	Orders []ACMEOrder `json:"orders" doc:"Oldest first, at most 1,000"`
}
