package conf

import "time"

// V2X holds what there is for vehicles and roadside stations. Use the methods of Config for the addresses.
type V2X struct {
	EAURL, ValidationURL, AAURL, DCURL, CPOCURL string

	AADir      string // resolve it with Config.Path
	AADatabase string

	Tickets        int
	TicketLife     time.Duration
	Preload        time.Duration
	CredentialLife time.Duration
	Window         time.Duration
	EATimeout      time.Duration
	Proof          bool
	Butterfly      Butterfly
	CTLLife        time.Duration
	CRLLife        time.Duration
	LeapSeconds    int
}

// Butterfly is how stations get many tickets with one request.
type Butterfly struct {
	On       bool
	AAURL    string // use Config.V2XIssueURL
	Period   time.Duration
	Overlap  time.Duration
	Tickets  int
	Ahead    int
	Stations int
	Wait     time.Duration
	Strict   bool
	Compact  bool // certificates that the root issues to authorization authorities say that these answer compact unified requests
	// The OAuth server whose access tokens are taken; TokenKey is "" if there is none. Resolve it with Config.Path.
	TokenKey, TokenIssuer, TokenAudience string
}

// V2XIssueURL returns where the enrolment authority asks for tickets of butterfly keys.
func (c *Config) V2XIssueURL() string {
	if c.V2X.Butterfly.AAURL != "" {
		return c.V2X.Butterfly.AAURL
	}
	return c.V2XAAURL()
}

// V2XEAURL returns where stations reach the enrolment authority.
func (c *Config) V2XEAURL() string { return c.reached(c.V2X.EAURL, "http", c.Listen.V2XEA) }

// V2XValidationURL returns where authorization authorities reach it.
func (c *Config) V2XValidationURL() string {
	return c.reached(c.V2X.ValidationURL, "http", c.Listen.V2XValidation)
}

// V2XAAURL returns where stations reach the authorization authority.
func (c *Config) V2XAAURL() string { return c.reached(c.V2X.AAURL, "http", c.Listen.V2XAA) }

// V2XDCURL returns where anybody reaches the distribution centre.
func (c *Config) V2XDCURL() string { return c.reached(c.V2X.DCURL, "http", c.Listen.V2XDC) }

// V2XCPOCURL returns where anybody reaches the lists of the trust list manager.
func (c *Config) V2XCPOCURL() string { return c.reached(c.V2X.CPOCURL, "http", c.Listen.V2XCPOC) }

// V2XAADatabase returns the database of the authorization authority.
func (c *Config) V2XAADatabase() string {
	if c.V2X.AADatabase != "" {
		return c.V2X.AADatabase
	}
	return "sqlite:" + c.Path(c.V2X.AADir) + "/aa.db"
}
