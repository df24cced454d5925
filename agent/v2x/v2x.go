// Package v2x is the side of a vehicle or roadside station in TS 102 941: it gets an enrolment credential, and with that authorization tickets, the short-lived
// certificates by which stations sign what they send to each other. It speaks to any authorities of the standard.
//
//	client, err := v2x.New(v2x.Config{Root: root, DC: "http://dc.example.com"})   // root: the certificate that is believed; or Manager and CPOC
//	err = client.Update(ctx)                                                       // the lists of the root say where the authorities are
//	credential, err := client.Enrol(ctx, "vehicle-1", canonicalKey)
//	ticket, err := client.Ticket(ctx, credential, v2x.Order{Start: …, Life: …})
//
// What authorities send is believed only if it is signed by one of the trust list that is not revoked, and a ticket only if it says what was asked for. The
// signature with the credential is encrypted to the enrolment authority, so that the one that issues the ticket does not learn whose it is. Each request goes over a
// connection of its own; before it a real vehicle changes its network addresses too (TS 102 941, 6.2.2), which is the caller's.
//
// When a connection breaks, the same octets are sent again: authorities answer a request that they know as before, and issue nothing twice.
//
// A Client stores nothing. Keys of stations are those of the caller, or made here and handed out. A Station keeps what it has in a folder: its credential, its tickets,
// and what it asked for, so that a crash at any moment loses nothing. It fills its stock of tickets ahead and renews its credential. A Changer chooses the ticket to sign by,
// and a Talk signs and judges what stations tell each other:
//
//	s, err := v2x.MakeStation(dir, v2x.Settings{…}, v2x.StationOptions{…})
//	err = s.Enrol(ctx, canonicalKey)
//	go s.Run(ctx, log)
//	use := v2x.NewChanger(s, v2x.Habit{}, time.Now, 0)
//	talk := v2x.NewTalk(v2x.TalkOptions{Client: s.Client, Changer: use})
//	octets, err := talk.CAM(payload)
//	heard, err := talk.Hear(octets)
package v2x

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"mooring/wire/butterfly"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

// Bounds of a request.
const (
	exchangeTime = 30 * time.Second
	attempts     = 3
)

// Config says whom a client believes.
type Config struct {
	Root []byte // certificate of the root, as it is in the trust list of its manager
	DC   string // address of its distribution centre
	// Manager is the certificate of a trust list manager, whose list says which roots are believed and where their lists are; then Root, if it is given, says which of
	// them the station belongs to, and DC is not used. CPOC is where the manager's lists are.
	Manager []byte
	CPOC    string
	// Followed are roots to which Root led before (Client.LedTo): its word for them ends with its certificate, and they are believed beyond that.
	Followed [][]byte
	// Transport carries requests; nil is one of the package's own, with a connection for each request.
	Transport http.RoundTripper
	Now       func() time.Time
	Leap      int // leap seconds since 2004; 0: those that this package knows
}

// Client is a station's way to the authorities. It is safe for concurrent use.
type Client struct {
	Config
	http  *http.Client
	lists atomic.Pointer[lists]
}

// Refused is that an authority refused, with the code that says why.
type Refused struct{ Code string }

// Error implements error.
func (r *Refused) Error() string { return "the authority refuses: " + r.Code }

// New returns a client. It fetches nothing.
func New(c Config) (*Client, error) {
	if c.Now == nil {
		return nil, errors.New("a client needs a clock")
	}
	if c.Leap == 0 {
		c.Leap = its.LeapSeconds
	}
	begin, err := c.begin()
	if err != nil {
		return nil, err
	}
	if c.Transport == nil {
		c.Transport = &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 16 << 10}
	}
	made := &Client{Config: c, http: &http.Client{Transport: c.Transport, Timeout: exchangeTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("redirections are not followed") }}}
	made.lists.Store(begin)
	return made, nil
}

func (c *Client) at() its.Time64 { return its.TimeAt(c.Now(), c.Leap) }

// post sends a request, again if the connection breaks.
func (c *Client) post(ctx context.Context, url string, request []byte) (answer []byte, err error) {
	for range attempts {
		r, err2 := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(request))
		if err2 != nil {
			return nil, err2
		}
		r.Header.Set("Content-Type", scr.RequestType)
		answer, err = c.exchange(r, scr.ResponseType, its.MaxRequest)
		var status *StatusError
		if err == nil || ctx.Err() != nil || errors.As(err, &status) && status.Code != http.StatusServiceUnavailable {
			break
		}
	}
	return answer, err
}

// StatusError is an answer that is no message.
type StatusError struct{ Code int }

// Error implements error.
func (s *StatusError) Error() string {
	return fmt.Sprintf("the authority answers with status %d and no message", s.Code)
}

func (c *Client) exchange(r *http.Request, kind string, limit int64) ([]byte, error) {
	body, _, err := c.tagged(r, kind, limit)
	return body, err
}

// tagged sends a request. The second result is the answer's ETag.
func (c *Client) tagged(r *http.Request, kind string, limit int64) ([]byte, string, error) {
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, "", &StatusError{answer.StatusCode}
	}
	if got := answer.Header.Get("Content-Type"); got != kind {
		return nil, "", fmt.Errorf("the answer is of the type %q, not %s", got, kind)
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, limit+1))
	if err == nil && int64(len(body)) > limit {
		err = fmt.Errorf("the answer has more than %d octets", limit)
	}
	return body, answer.Header.Get("ETag"), err
}

// ask sends a signed request to an authority and returns its verified answer.
func (c *Client) ask(ctx context.Context, url string, signed *its.Ieee1609Dot2Data, authority *its.Certificate, want its.ManagementChoice) (*its.EtsiTs102941DataContent, its.RequestHash, error) {
	request, session, err := scr.Seal(rand.Reader, signed, authority)
	if err != nil {
		return nil, its.RequestHash{}, err
	}
	content, err := c.send(ctx, url, request, session, authority, want)
	return content, scr.Hash(request), err
}

// send sends a request and returns its verified answer.
func (c *Client) send(ctx context.Context, url string, request []byte, session *spdu.Session, authority *its.Certificate, want its.ManagementChoice) (*its.EtsiTs102941DataContent, error) {
	answer, err := c.post(ctx, url, request)
	if err != nil {
		return nil, err
	}
	by, content, err := scr.OpenAnswer(answer, session, want)
	if err != nil {
		return nil, fmt.Errorf("opening the answer: %w", err)
	}
	id, err := authority.HashedId8()
	if err != nil {
		return nil, err
	}
	if by.Signer.Choice != its.SignerDigest || by.Signer.Digest != id {
		return nil, errors.New("the answer is signed by somebody else than who was asked")
	}
	if err := by.Verify(authority, nil); err != nil {
		return nil, fmt.Errorf("verifying the answer: %w", err)
	}
	return content, nil
}

// errOther is that an answer is for another request.
var errOther = errors.New("the answer is for another request")

// Credential is an enrolment credential with its key.
type Credential struct {
	Certificate *its.Certificate
	Key         *ecdsa.PrivateKey
}

// Enrol gets a station its first enrolment credential. The station is known by its canonical identifier and key.
func (c *Client) Enrol(ctx context.Context, id string, canonical crypto.Signer) (*Credential, error) {
	return c.enrol(ctx, []byte(id), scr.Signer(canonical, nil))
}

// Renew gets a station another enrolment credential, with a new key, by the one that it has.
func (c *Client) Renew(ctx context.Context, old *Credential) (*Credential, error) {
	id, err := old.Certificate.HashedId8()
	if err != nil {
		return nil, err
	}
	return c.enrol(ctx, id[:], scr.Signer(old.Key, old.Certificate))
}

func (c *Client) enrol(ctx context.Context, id []byte, by spdu.Signer) (*Credential, error) {
	e, err := c.entry(its.CtlEa)
	if err != nil {
		return nil, err
	}
	key, public, err := newKey()
	if err != nil {
		return nil, err
	}
	inner := its.InnerEcRequest{ItsId: id, CertificateFormat: its.FormatTs103097, PublicKeys: its.PublicKeys{VerificationKey: public},
		RequestedSubjectAttributes: its.CertificateSubjectAttributes{AppPermissions: []its.PsidSsp{its.Bitmap(its.PsidSCR, 1, 0xc0)}}}
	octets, err := coer.Marshal(&inner)
	if err != nil {
		return nil, err
	}
	pop, err := spdu.Sign(spdu.Payload(octets), scr.Header(c.at()), scr.Signer(key, nil))
	if err != nil {
		return nil, err
	}
	signed, err := scr.Sign(its.EtsiTs102941DataContent{Choice: its.EnrolmentRequest, Data: pop}, c.at(), by)
	if err != nil {
		return nil, err
	}
	url, ok := e.Ea.ItsAccessPoint.Get()
	if !ok {
		return nil, errors.New("the trust list does not say where the enrolment authority is")
	}
	content, hash, err := c.ask(ctx, url, signed, &e.Ea.EaCertificate, its.EnrolmentResponse)
	if err != nil {
		return nil, err
	}
	r := content.EnrolmentResponse
	switch {
	case r.RequestHash != hash:
		return nil, errOther
	case r.ResponseCode != its.EnrolmentOk:
		return nil, &Refused{r.ResponseCode.String()}
	}
	if err := c.mine(r.Certificate, &public, its.EtsiEC, &e.Ea.EaCertificate, c.at()); err != nil {
		return nil, err
	}
	return &Credential{r.Certificate, key}, nil
}

// mine checks that a certificate is what was asked for.
func (c *Client) mine(x *its.Certificate, key *its.PublicVerificationKey, role its.EtsiRole, issuer *its.Certificate, at its.Time64) error {
	a, err := coer.Normal(&x.ToBeSigned.VerifyKeyIndicator.VerificationKey)
	b, err2 := coer.Normal(key)
	if err != nil || err2 != nil || !bytes.Equal(a, b) {
		return errors.New("the certificate is for another key")
	}
	if err := x.CheckRole(role, 0); err != nil {
		return err
	}
	return c.Check(at, x, issuer)
}

func newKey() (*ecdsa.PrivateKey, its.PublicVerificationKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, its.PublicVerificationKey{}, err
	}
	public, err := scr.VerificationKey(&key.PublicKey)
	return key, public, err
}

// Order is which ticket is wanted. The zero value is one for CAM and DENM, from now on, as long as the authority gives.
type Order struct {
	Start        its.Time32   // 0: now
	Life         its.Duration // of value 0: the authority decides
	Applications []its.PsidSsp
	Encryption   bool // with a key for encryption
	WithoutProof bool // the request is not signed with the ticket's key
	Open         bool // the signature with the credential is not encrypted: for stations whose identity is no secret
}

// Applications are CAM and DENM with no special permissions.
func Applications() []its.PsidSsp {
	return []its.PsidSsp{its.Bitmap(its.PsidCAM, 1, 0, 0), its.Bitmap(its.PsidDENM, 1, 0, 0, 0)}
}

// Ticket is an authorization ticket with its keys.
type Ticket struct {
	Certificate *its.Certificate
	Key         *ecdsa.PrivateKey
	Encryption  butterfly.Scalar // if it was ordered
}

// Ticket gets a ticket: Prepare and Send.
func (c *Client) Ticket(ctx context.Context, by *Credential, o Order) (*Ticket, error) {
	p, err := c.Prepare(by, o)
	if err != nil {
		return nil, err
	}
	return c.Send(ctx, p)
}

// Pending is a request for a ticket, ready to be sent.
type Pending struct {
	ticket  *Ticket
	key     its.PublicVerificationKey
	url     string
	aa      *its.Certificate
	request []byte
	session *spdu.Session
}

// Prepare makes the keys of a ticket and the request for it. It has to be sent while its time is fresh, which for most authorities is some minutes.
func (c *Client) Prepare(by *Credential, o Order) (*Pending, error) {
	e, err := c.entry(its.CtlEa)
	if err != nil {
		return nil, err
	}
	a, err := c.entry(its.CtlAa)
	if err != nil {
		return nil, err
	}
	t, request, err := c.order(by, o, &e.Ea.EaCertificate)
	if err != nil {
		return nil, err
	}
	content := its.EtsiTs102941DataContent{Choice: its.AuthorizationRequest, AuthorizationRequest: request}
	var message *its.Ieee1609Dot2Data
	if o.WithoutProof {
		octets, err := scr.Encode(content)
		if err != nil {
			return nil, err
		}
		message = its.Unsecured(octets)
	} else if message, err = scr.Sign(content, c.at(), scr.Signer(t.Key, nil)); err != nil {
		return nil, err
	}
	p := &Pending{ticket: t, key: request.PublicKeys.VerificationKey, url: a.Aa.AccessPoint, aa: &a.Aa.AaCertificate}
	p.request, p.session, err = scr.Seal(rand.Reader, message, p.aa)
	return p, err
}

// Send sends a request that was prepared, and returns the ticket. When that fails without an answer it may be sent again: there is one ticket for it.
func (c *Client) Send(ctx context.Context, p *Pending) (*Ticket, error) {
	said, err := c.send(ctx, p.url, p.request, p.session, p.aa, its.AuthorizationResponse)
	if err != nil {
		return nil, err
	}
	r := said.AuthorizationResponse
	switch {
	case r.RequestHash != scr.Hash(p.request):
		return nil, errOther
	case r.ResponseCode != its.AuthorizationOk:
		return nil, &Refused{r.ResponseCode.String()}
	}
	t := *p.ticket
	t.Certificate = r.Certificate
	at := max(c.at(), its.Time64(r.Certificate.ToBeSigned.ValidityPeriod.Start)*1e6)
	return &t, c.mine(r.Certificate, &p.key, its.EtsiAT, p.aa, at)
}

// order makes the keys of a ticket and the request for it.
func (c *Client) order(by *Credential, o Order, ea *its.Certificate) (*Ticket, *its.InnerAtRequest, error) {
	key, public, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	t := &Ticket{Key: key}
	r := &its.InnerAtRequest{PublicKeys: its.PublicKeys{VerificationKey: public}}
	if o.Encryption {
		if t.Encryption, err = butterfly.RandomScalar(rand.Reader); err != nil {
			return nil, nil, err
		}
		r.PublicKeys.EncryptionKey = coer.Some(scr.EncryptionKey(t.Encryption))
	}
	if _, err := rand.Read(r.HmacKey[:]); err != nil {
		return nil, nil, err
	}
	s := &r.SharedAtRequest
	s.CertificateFormat = its.FormatTs103097
	s.RequestedSubjectAttributes.AppPermissions = o.Applications
	if o.Applications == nil {
		s.RequestedSubjectAttributes.AppPermissions = Applications()
	}
	if o.Life.Value != 0 {
		start := o.Start
		if start == 0 {
			start = its.Time32(c.at() / 1e6)
		}
		s.RequestedSubjectAttributes.ValidityPeriod = coer.Some(its.ValidityPeriod{Start: start, Duration: o.Life})
	}
	if s.EaId, err = ea.HashedId8(); err != nil {
		return nil, nil, err
	}
	if s.KeyTag, err = scr.KeyTag(r.HmacKey, &r.PublicKeys); err != nil {
		return nil, nil, err
	}
	to := ea
	if o.Open {
		to = nil
	}
	r.EcSignature, err = scr.SignShared(rand.Reader, s, c.at(), scr.Signer(by.Key, by.Certificate), to)
	return t, r, err
}

// Signer is who signs messages with a ticket.
func (t *Ticket) Signer() spdu.Signer { return scr.Signer(t.Key, t.Certificate) }
