package v1

import "time"

// V2XAuthority is an authority that gives vehicles their certificates, a root, or a trust list manager (TS 102 941).
type V2XAuthority struct {
	ID        string    `json:"id" doc:"HashedId8 of its certificate" example:"C5691C82D7E330E8"`
	Role      string    `json:"role" enum:"rca,ea,aa,tlm" doc:"rca: root; ea: enrolment authority; aa: authorization authority; tlm: trust list manager"`
	Name      string    `json:"name" doc:"As its certificate says" example:"Acme EA"`
	NotBefore time.Time `json:"not_before" doc:"When its certificate begins"`
	NotAfter  time.Time `json:"not_after" doc:"When its certificate ends"`
	State     string    `json:"state" enum:"own,issued,believed,revoked,over" doc:"own: its keys are in this store; issued: by a root of this store; believed: a root of somebody else"`
	Issuer    string    `json:"issuer,omitempty" doc:"The root that issued it; left out of what signed itself"`
	URL       string    `json:"url,omitempty" doc:"Where stations reach it"`
	Peer      string    `json:"peer,omitempty" doc:"Where authorization authorities reach it"`
	Follows   string    `json:"follows,omitempty" doc:"The root or manager that vouches for it by a link certificate"`
	// Certificate and what follows are left out of listings.
	Certificate []byte    `json:"certificate,omitempty" doc:"Its certificate (COER), base64"`
	Lists       []V2XList `json:"lists,omitempty" doc:"What it publishes"`
}

// V2XAuthorityList holds authorities.
type V2XAuthorityList struct {
	Authorities []V2XAuthority `json:"authorities" doc:"The oldest first"`
}

// V2XList is a list of a root or manager, or its link certificate.
type V2XList struct {
	List       string     `json:"list" enum:"ctl,delta,crl,link" doc:"ctl: the full trust list; delta: what changed since the one before; crl: revocations; link: the word for the one that follows"`
	Sequence   *int       `json:"sequence,omitempty" doc:"Of a trust list"`
	Entries    int        `json:"entries,omitempty" doc:"How many there are"`
	NextUpdate *time.Time `json:"next_update,omitempty" doc:"When it ends"`
	Octets     []byte     `json:"octets,omitempty" doc:"The list as it is given out, base64; left out where lists are listed"`
}

// V2XRequest is a request for the certificate of an authority.
type V2XRequest struct {
	Request []byte `json:"request" doc:"CaCertificateRequest, signed with the new key and, if it follows on a certificate, with the key of that one; base64"`
	Digest  string `json:"digest" doc:"SHA-256 of the request, hex: tell it to the operators of the root on another way"`
}

// V2XAsk says what certificate an authority asks for.
type V2XAsk struct {
	Name  string `json:"name,omitempty" maxLength:"255" doc:"How it is to be called; not with rekey" example:"Acme EA"`
	Rekey bool   `json:"rekey,omitempty" doc:"The one that follows on its present certificate, which signs for it"`
}

// V2XIssue has a root issue a certificate to an authority.
type V2XIssue struct {
	Request []byte `json:"request" minLength:"1" maxLength:"90000" doc:"Its request, base64"`
	Role    string `json:"role,omitempty" enum:"ea,aa" doc:"What it is to be; may be left out where the request follows on a certificate"`
	URL     string `json:"url,omitempty" maxLength:"1024" doc:"Where stations are to reach it; left out: as before"`
	Peer    string `json:"peer,omitempty" maxLength:"1024" doc:"Of an enrolment authority: where authorization authorities are to reach it"`
	Digest  string `json:"digest,omitempty" maxLength:"128" doc:"SHA-256 that the request must have, hex, as it was told on another way"`
}

// V2XInstall gives an authority its certificate.
type V2XInstall struct {
	Certificate []byte `json:"certificate" minLength:"1" maxLength:"90000" doc:"Its certificate (COER), base64"`
	Root        []byte `json:"root" minLength:"1" maxLength:"90000" doc:"That of the root which issued it, which is believed from then on, base64"`
}

// V2XMove says where an authority is reached.
type V2XMove struct {
	URL  string `json:"url" minLength:"1" maxLength:"1024" doc:"Where stations are to reach it"`
	Peer string `json:"peer,omitempty" maxLength:"1024" doc:"Of an enrolment authority: where authorization authorities are to reach it"`
}

// V2XName is how a root or manager is to be called.
type V2XName struct {
	Name string `json:"name,omitempty" maxLength:"255" doc:"Left out: as the one before, with a number" example:"Acme TLM"`
}

// V2XListedRoot is a root on the list of the trust list manager.
type V2XListedRoot struct {
	ID       string    `json:"id" doc:"HashedId8 of its certificate" example:"EB038C02072DD13C"`
	Name     string    `json:"name" doc:"As its certificate says" example:"Acme RCA"`
	NotAfter time.Time `json:"not_after" doc:"When its certificate ends"`
	Follows  string    `json:"follows,omitempty" doc:"The root that vouches for it"`
	URL      string    `json:"url" doc:"Where its lists are" example:"http://dc.example.com"`
}

// V2XListedRootList holds them.
type V2XListedRootList struct {
	Roots []V2XListedRoot `json:"roots" doc:"In the order of the list"`
}

// V2XAdmit puts a root on the list of the trust list manager.
type V2XAdmit struct {
	Certificate []byte `json:"certificate" minLength:"1" maxLength:"90000" doc:"Its certificate (COER), base64"`
	URL         string `json:"url" minLength:"1" maxLength:"1024" doc:"Where its lists are" example:"http://dc.example.com"`
	Link        []byte `json:"link,omitempty" maxLength:"90000" doc:"The link certificate of the root on the list that it follows, base64; not needed for roots of this installation"`
}

// V2XCredential is an enrolment credential of a station.
type V2XCredential struct {
	ID       string     `json:"id" doc:"HashedId8 of its certificate" example:"5A1C3C2D1E0F9A8B"`
	Device   string     `json:"device" doc:"Name of the station in the registry" example:"car-7"`
	Issued   time.Time  `json:"issued" doc:"When it was issued"`
	NotAfter time.Time  `json:"not_after" doc:"When it ends"`
	State    string     `json:"state" enum:"valid,over,revoked" doc:"A credential that is valid serves only while its device is active"`
	Revoked  *time.Time `json:"revoked,omitempty" doc:"When it was revoked"`
}

// V2XStation is what the enrolment authority knows of a station. Nothing of it says which tickets the station has.
type V2XStation struct {
	Device      string          `json:"device" doc:"Its name in the registry" example:"car-7"`
	State       string          `json:"state" doc:"That of the device in the registry: only an active one gets anything" example:"active"`
	Station     bool            `json:"station" doc:"Whether it has the tag v2x, without which it gets nothing"`
	Credentials []V2XCredential `json:"credentials" doc:"The newest first, a thousand at the most"`
	Tickets     V2XTickets      `json:"tickets" doc:"Those that were granted and are not over"`
}

// V2XTickets is how many tickets a station has.
type V2XTickets struct {
	Valid int64     `json:"valid" doc:"How many are valid now"`
	Limit int       `json:"limit" doc:"How many may be valid at the same time"`
	Weeks []V2XWeek `json:"weeks" doc:"By the week in which they begin"`
}

// V2XWeek is how many tickets begin in a week.
type V2XWeek struct {
	From    time.Time `json:"from" doc:"Tuesday, 9:00 UTC less the leap seconds since 2015"`
	Tickets int64     `json:"tickets" doc:"How many"`
}
