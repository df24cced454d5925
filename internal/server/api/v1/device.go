package v1

import "time"

// Device is a device, service or person in the registry.
type Device struct {
	ID       string            `json:"id" doc:"Pseudonymous id that follows from the name" example:"6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c"`
	Name     string            `json:"name" doc:"External name, unique for ever" example:"sensor-0017"`
	Names    []string          `json:"names,omitempty" doc:"Further names for its certificates" example:"[\"dns:sensor-0017.example.com\"]"`
	Group    string            `json:"group,omitempty" example:"plant-3" doc:"Group"`
	Tags     map[string]string `json:"tags,omitempty" doc:"Free pairs for people and filters"`
	Profile  string            `json:"profile" doc:"The profile that its certificates follow" example:"device"`
	Maker    string            `json:"maker,omitempty" doc:"The manufacturer on whose ownership list it stands" example:"acme"`
	Serial   string            `json:"serial,omitempty" doc:"Its serial number there, as its IDevID says it" example:"AC-00017"`
	State    string            `json:"state" enum:"registered,enrolled,suspended,lost,retired" doc:"Where it stands in its life" example:"enrolled"`
	Issued   int64             `json:"issued" doc:"Certificates issued so far" example:"3"`
	Created  time.Time         `json:"created" doc:"When it was registered"`
	Updated  time.Time         `json:"updated" doc:"When its row was last changed"`
	LastSeen time.Time         `json:"last_seen,omitzero" doc:"When it was last heard of; lags by up to half a minute"`
	Slots    []Slot            `json:"slots,omitempty" doc:"The certificate that it holds for each purpose"`
	Token    *TokenState       `json:"token,omitempty" doc:"Its enrolment token, if it was ever given one"`
}

// Slot is the certificate that a device holds for one purpose.
type Slot struct {
	Name        string    `json:"name" doc:"The purpose" example:"operational"`
	Serial      string    `json:"serial,omitempty" doc:"Serial number of the newest certificate" example:"4165a1b2c3d4e5f60718293a4b5c6d7e"`
	Previous    string    `json:"previous,omitempty" doc:"Serial number of the certificate with which that one was asked for"`
	Issuer      string    `json:"issuer,omitempty" doc:"The CA that signed it, by its name" example:"devices"`
	Algorithm   string    `json:"algorithm,omitempty" doc:"The kind of its key" example:"ec-p256"`
	NotAfter    time.Time `json:"not_after,omitzero" doc:"When it ends"`
	RenewAt     time.Time `json:"renew_at,omitzero" doc:"When the device is to renew it"`
	Key         string    `json:"key,omitempty" doc:"SHA-256 of its public key"`
	Revoked     time.Time `json:"revoked,omitzero" doc:"When it was revoked or put on hold"`
	Reason      string    `json:"reason,omitempty" doc:"Why, by the names of RFC 5280, section 5.3.1; certificateHold can be lifted; left out of listings" example:"certificateHold"`
	Fingerprint string    `json:"fingerprint,omitempty" doc:"SHA-256 of the birth certificate that another authority issued"`
}

// TokenState is what is known about a device's enrolment token. The token itself is not.
type TokenState struct {
	Until time.Time `json:"until" doc:"When it ends"`
	Used  time.Time `json:"used,omitzero" doc:"When it was used"`
}

// Token is a one-time enrolment token. It is shown once and kept nowhere.
type Token struct {
	Token string    `json:"token" doc:"The secret; it is shown only here" example:"mt_mfrggzdfmztwq2lkmfrggzdfmztwq2lkabcd"`
	Until time.Time `json:"until" doc:"When it ends"`
}

// NewDevice registers a device.
type NewDevice struct {
	Name      string            `json:"name" minLength:"1" maxLength:"255" doc:"External name, unique for ever" example:"sensor-0017"`
	Names     []string          `json:"names,omitempty" maxItems:"64" doc:"Further names for its certificates: dns:…, ip:…, uri:…, email:…" example:"[\"dns:sensor-0017.example.com\"]"`
	Group     string            `json:"group,omitempty" doc:"Group" example:"plant-3"`
	Tags      map[string]string `json:"tags,omitempty" doc:"Free pairs for people and filters"`
	Profile   string            `json:"profile" minLength:"1" doc:"The profile that its certificates follow" example:"device"`
	Birth     string            `json:"birth,omitempty" doc:"The certificate, PEM, that another authority issued to it"`
	Maker     string            `json:"maker,omitempty" doc:"With serial: the registered manufacturer whose IDevID lets it in" example:"acme"`
	Serial    string            `json:"serial,omitempty" doc:"The serialNumber in the subject of that IDevID" example:"AC-00017"`
	Token     bool              `json:"token,omitempty" doc:"Give it an enrolment token as well"`
	TokenLife string            `json:"token_life,omitempty" doc:"How long the token is good: 1m to 2160h; 168h when absent" example:"24h"`
}

// AddedDevice is the registered device, with its token if one was asked for.
type AddedDevice struct {
	Device Device `json:"device" doc:"The device as it was registered"`
	Token  *Token `json:"token,omitempty" doc:"Its token, if one was asked for"`
}

// ChangeDevice says what becomes different about a device; absent fields stay.
type ChangeDevice struct {
	Names   *[]string          `json:"names,omitempty" maxItems:"64" doc:"All its further names" example:"[\"dns:sensor-0017.example.com\"]"`
	Group   *string            `json:"group,omitempty" doc:"Group; empty for none" example:"plant-4"`
	Tags    *map[string]string `json:"tags,omitempty" doc:"All its tags"`
	Profile *string            `json:"profile,omitempty" doc:"The profile that its certificates follow" example:"device"`
	Birth   *string            `json:"birth,omitempty" doc:"The certificate, PEM, that another authority issued to it; empty: it is no longer known by one"`
	Maker   *string            `json:"maker,omitempty" doc:"The manufacturer whose IDevID lets it in; empty, with an empty serial: none" example:"acme"`
	Serial  *string            `json:"serial,omitempty" doc:"The serialNumber in the subject of that IDevID" example:"AC-00017"`
}

// MovedDevice is the device after a change of its state.
type MovedDevice struct {
	Device  Device `json:"device" doc:"The device in its new state"`
	Changed int    `json:"changed" doc:"How many of its certificates were revoked, put on hold or released with it" example:"1"`
}

// NewToken asks for a new enrolment token.
type NewToken struct {
	Life string `json:"life,omitempty" doc:"How long it is good: 1m to 2160h; 168h when absent" example:"24h"`
}

// DevicePage is a page of devices. While Next is set there are more, also behind a page that is short or empty.
type DevicePage struct {
	Devices []Device `json:"devices" doc:"In a stable order"`
	Next    string   `json:"next,omitempty" doc:"Cursor of the next page; absent at the end"`
}

// ImportLine is one line of the answer to an import. Exactly one of its fields is set, and the last line has Report or Error: a stream that
// ends without either was cut off. After a line with Accepted the import goes on all the same; before it, nothing was stored.
type ImportLine struct {
	Progress *Progress     `json:"progress,omitempty" doc:"So much is done"`
	Tokens   string        `json:"tokens,omitempty" doc:"A piece of the CSV file name,token, in whole lines. It is void when no line with accepted follows"`
	Accepted *ImportReport `json:"accepted,omitempty" doc:"Nothing is wrong with the file, and it is kept: the job imports it, whatever happens from now on"`
	Report   *ImportReport `json:"report,omitempty" doc:"It has ended or, with detach, it was accepted"`
	Error    *ImportError  `json:"error,omitempty" doc:"Nothing was stored or, after accepted, the job does not go on by itself"`
}

// ImportReport says what an import did.
type ImportReport struct {
	Devices  int64    `json:"devices" doc:"How many were added so far" example:"1000000"`
	SHA256   string   `json:"sha256" doc:"Of the octets that were read"`
	Job      string   `json:"job" doc:"The job that imports" example:"6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c"`
	State    string   `json:"state" doc:"Where the job stands" example:"done"`
	Rows     int64    `json:"rows" doc:"Devices in the file" example:"1000000"`
	Failed   int64    `json:"failed" doc:"How many were not added, since somebody registered them meanwhile" example:"0"`
	Problems []string `json:"problems,omitempty" doc:"The first of these" example:"[\"devices.csv:17: a device of this name was registered meanwhile, and stays as it is\"]"`
}

// ImportError is why nothing was imported, or why a job does not go on.
type ImportError struct {
	Problem
	Problems []string `json:"problems,omitempty" doc:"The first lines that are wrong" example:"[\"devices.csv:17: column profile: there is no profile \\\"devise\\\"\"]"`
	Wrong    int64    `json:"wrong,omitempty" doc:"How many lines are wrong" example:"1"`
}

// Request is a request for a certificate that waits for a person's decision.
type Request struct {
	ID      string    `json:"id" doc:"What a decision names, so that it is about this request and no later one" example:"0d7f3a4a7c9a2d5f9e7f1a2b3c6f0cbd"`
	Device  string    `json:"device" doc:"Id of the device" example:"6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c"`
	Profile string    `json:"profile" doc:"The profile that was asked for" example:"gateway"`
	State   string    `json:"state" enum:"waiting,approved,refused" doc:"Where the request stands" example:"waiting"`
	Subject string    `json:"subject,omitempty" doc:"Subject, as asked for" example:"CN=sensor-0017"`
	Names   string    `json:"names,omitempty" doc:"Names, as asked for"`
	Key     string    `json:"key" doc:"Kind of key" example:"ec-p256"`
	SPKI    string    `json:"spki" doc:"SHA-256 of the public key, to compare with what the device shows"`
	Created time.Time `json:"created" doc:"When it came"`
	Decided time.Time `json:"decided,omitzero" doc:"When it was decided"`
	Decider string    `json:"decider,omitempty" doc:"Who decided"`
	Expired time.Time `json:"expired,omitzero" doc:"In a rescue: when the certificate ended by which the device asks"`
	Second  string    `json:"second,omitempty" doc:"Id of the approval that a second person must give before this decision counts"`
}

// Decision says more about a decision on a request.
type Decision struct {
	Request string `json:"request,omitempty" maxLength:"64" doc:"Id of the request that was looked at, needed to approve: when another one waits by now, nothing is decided" example:"0d7f3a4a7c9a2d5f9e7f1a2b3c6f0cbd"`
}

// RequestList holds the requests that wait, oldest first.
type RequestList struct {
	Requests []Request `json:"requests" doc:"Oldest first"`
}
