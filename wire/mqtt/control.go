package mqtt

// Pingreq asks whether the server is there.
type Pingreq struct{}

// DecodePingreq reads a PINGREQ.
func DecodePingreq(r Rules, h Header, body []byte) (Pingreq, error) {
	c := begin(r, h, body, PINGREQ)
	return Pingreq{}, c.end()
}

// Append appends the packet.
func (Pingreq) Append(b []byte, _ Version) []byte { return appendHead(b, PINGREQ, 0) }

// Pingresp says that the server is there.
type Pingresp struct{}

// DecodePingresp reads a PINGRESP.
func DecodePingresp(r Rules, h Header, body []byte) (Pingresp, error) {
	c := begin(r, h, body, PINGRESP)
	return Pingresp{}, c.end()
}

// Append appends the packet.
func (Pingresp) Append(b []byte, _ Version) []byte { return appendHead(b, PINGRESP, 0) }

// Disconnect is the last packet of its sender. In 3.1.1 only clients send it, and it has nothing in it.
type Disconnect struct {
	Reason          Reason
	SessionExpiry   Maybe[uint32] // of clients; absent: as in CONNECT
	ServerReference string        // of servers; "": none
	ReasonString    string        // "": none
	User            UserProperties
}

// DecodeDisconnect reads a DISCONNECT.
func DecodeDisconnect(r Rules, h Header, body []byte) (Disconnect, error) {
	c := begin(r, h, body, DISCONNECT)
	var p Disconnect
	if r.Version == V5 && len(c.rest) > 0 {
		p.Reason = c.reason()
	}
	if r.Version == V5 && len(c.rest) > 0 {
		c.disconnectProperties(&p)
	}
	if err := c.end(); err != nil {
		return Disconnect{}, err
	}
	return p, nil
}

func (c *cursor) disconnectProperties(p *Disconnect) {
	allowed := disconnectOfClient
	if c.rules.From == Server {
		allowed = disconnectOfServer
	}
	c.properties(allowed)
	for c.property() {
		switch c.p.id {
		case sessionExpiry:
			p.SessionExpiry = Some(c.propertyU32())
		case serverReference:
			p.ServerReference = string(c.propertyText())
		case reasonString:
			p.ReasonString = string(c.propertyText())
		}
	}
	p.User = c.userProperties()
}

// Append appends the packet.
func (p Disconnect) Append(b []byte, v Version) []byte {
	start := len(b) + 1
	b = appendHead(b, DISCONNECT, 0)
	bare := !p.SessionExpiry.Present && p.ServerReference == "" && p.ReasonString == "" && len(p.User) == 0
	if v != V5 || bare && p.Reason == Success {
		return b
	}
	b = append(b, byte(p.Reason))
	if bare {
		return closeLength(b, start, 0)
	}
	at := len(b)
	b = appendU32(append(b, 0), sessionExpiry, p.SessionExpiry)
	b = appendTextProperty(b, serverReference, p.ServerReference)
	b = appendTextProperty(b, reasonString, p.ReasonString)
	b = closeLength(p.User.append(b), at, 0)
	return closeLength(b, start, 0)
}

// Auth is a step of an enhanced authentication, in 5.0 only.
type Auth struct {
	Reason               Reason
	AuthenticationMethod Maybe[string]
	AuthenticationData   []byte
	ReasonString         string // "": none
	User                 UserProperties
}

// DecodeAuth reads an AUTH. One without a body has the reason 0 and no method; any other one has a method (section 3.15.2.2.2).
func DecodeAuth(r Rules, h Header, body []byte) (Auth, error) {
	c := begin(r, h, body, AUTH)
	var p Auth
	if len(c.rest) > 0 {
		p.Reason = c.reason()
		c.authProperties(&p)
	} else if r.From == Client {
		c.fail(ProtocolError, "no client says that an authentication was a success")
	}
	if err := c.end(); err != nil {
		return Auth{}, err
	}
	return p, nil
}

func (c *cursor) authProperties(p *Auth) {
	c.properties(authProperties)
	for c.property() {
		switch c.p.id {
		case authenticationMethod:
			p.AuthenticationMethod = Some(string(c.propertyText()))
		case authenticationData:
			p.AuthenticationData = c.propertyBinary()
		case reasonString:
			p.ReasonString = string(c.propertyText())
		}
	}
	p.User = c.userProperties()
	if !c.has(authenticationMethod) {
		c.fail(ProtocolError, "there is no Authentication Method")
	}
}

// Append appends the packet; there is none in 3.1.1, and then nothing is appended.
func (p Auth) Append(b []byte, v Version) []byte {
	if v != V5 {
		return b
	}
	start := len(b) + 1
	b = appendHead(b, AUTH, 0)
	if p.Reason == Success && !p.AuthenticationMethod.Present && p.ReasonString == "" && len(p.User) == 0 {
		return b
	}
	b = append(b, byte(p.Reason))
	at := len(b)
	b = appendAuthentication(append(b, 0), p.AuthenticationMethod, p.AuthenticationData)
	b = appendTextProperty(b, reasonString, p.ReasonString)
	b = closeLength(p.User.append(b), at, 0)
	return closeLength(b, start, 0)
}
