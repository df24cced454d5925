package v2x

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"mooring/wire/butterfly"
	"mooring/wire/cocoon"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

// ButterflyOrder is which tickets are wanted by butterfly keys (TS 102 941, 6.2.3.5). The zero value is for CAM and DENM, from now on, with keys for encryption that are
// expanded apart from those for signatures. When tickets begin and end the authority decides: for all stations at the same moments.
type ButterflyOrder struct {
	Variant      butterfly.Variant
	Start        its.Time32   // the first tickets are those of the period that this lies in; 0: now
	Life         its.Duration // at most so long; of value 0: an hour
	Applications []its.PsidSsp
	// Plain takes tickets whose keys whoever expands knows as well, since the authority that issued them added no random point: TS 102 941 has it so, and then the enrolment
	// authority recognises the station by each of its tickets.
	Plain bool
}

// Butterfly is a request for many tickets: the keys that are expanded, which the station has to keep, and what has to be sent.
type Butterfly struct {
	Keys         butterfly.CaterpillarKeys
	Applications []its.PsidSsp
	Plain        bool          // as in ButterflyOrder
	Request      []byte        // encrypted; it may be sent again, and gets the same answer
	ID           its.HashedId8 // the name of the request
	// From the answer, see OrderButterfly: the first period, and when its tickets are there at the latest.
	First uint16
	Next  time.Time
}

// ButterflyCredential is by what a station asks for tickets of butterfly keys, and fetches them.
type ButterflyCredential interface {
	// seal signs either message and encrypts it to the enrolment authority.
	seal(c *Client, m butterflyMessage, ea *its.Certificate) ([]byte, error)
}

type butterflyMessage struct {
	request *its.EeRaCertRequest
	wanted  *its.EeRaDownloadRequest
}

func (m butterflyMessage) content() its.EtsiTs102941DataContent {
	if m.request != nil {
		return its.EtsiTs102941DataContent{Choice: its.ButterflyAuthorizationRequest, ButterflyAuthorizationRequest: m.request}
	}
	return its.EtsiTs102941DataContent{Choice: its.ButterflyAtDownloadRequest, ButterflyAtDownloadRequest: m.wanted}
}

func (by *Credential) seal(c *Client, m butterflyMessage, ea *its.Certificate) ([]byte, error) {
	signed, err := scr.Sign(m.content(), c.at(), scr.Signer(by.Key, by.Certificate))
	if err != nil {
		return nil, err
	}
	b, _, err := scr.Seal(rand.Reader, signed, ea)
	return b, err
}

// X509Credential is an X.509 certificate of the profile for enrolment credentials (TS 102 941, 6.1.3.1), with its key of P-256.
type X509Credential struct {
	Certificate []byte // DER
	Key         crypto.Signer
}

func (by *X509Credential) seal(_ *Client, m butterflyMessage, ea *its.Certificate) ([]byte, error) {
	p := its.EeRaInterfacePdu{Choice: its.EeRaRequest, EeRaCertRequest: m.request}
	if m.wanted != nil {
		p = its.EeRaInterfacePdu{Choice: its.EeRaDownload, EeRaDownloadRequest: m.wanted}
	}
	r := &its.SignedX509CertificateRequest{TbsRequest: its.ScmsPdu{Choice: its.ScmsEeRa, EeRa: p}, Signer: its.X509SignerIdentifier{Certificate: [][]byte{by.Certificate}}}
	digest, err := r.Input()
	if err != nil {
		return nil, err
	}
	if r.Signature, err = scr.Signature(by.Key)(digest); err != nil {
		return nil, err
	}
	octets, err := coer.Marshal(r)
	if err != nil {
		return nil, err
	}
	inner := &its.Ieee1609Dot2Data{Content: its.Ieee1609Dot2Content{Choice: its.ContentX509CertificateRequest, Opaque: octets}}
	if octets, err = scr.Encode(its.EtsiTs102941DataContent{Choice: its.X509SignedButterflyAuthorizationRequest, Data: inner}); err != nil {
		return nil, err
	}
	b, _, err := scr.Seal(rand.Reader, its.Unsecured(octets), ea)
	return b, err
}

// PrepareButterfly makes the keys and the request. It has to be sent while its time is fresh.
func (c *Client) PrepareButterfly(by ButterflyCredential, o ButterflyOrder) (*Butterfly, error) {
	e, err := c.entry(its.CtlEa)
	if err != nil {
		return nil, err
	}
	b := &Butterfly{Keys: butterfly.CaterpillarKeys{Variant: o.Variant}, Applications: o.Applications, Plain: o.Plain}
	if b.Applications == nil {
		b.Applications = Applications()
	}
	if err := newCaterpillar(&b.Keys); err != nil {
		return nil, err
	}
	now := its.Time32(c.at() / 1e6)
	valid := its.ValidityPeriod{Start: max(o.Start, now), Duration: o.Life}
	if valid.Duration.Value == 0 {
		valid.Duration = its.Duration{Choice: its.Hours, Value: 1}
	}
	r := &its.EeRaCertRequest{GenerationTime: now, AdditionalParams: params(&b.Keys), TbsCert: its.ToBeSignedCertificate{Id: its.CertificateId{Choice: its.IdNone},
		ValidityPeriod: valid, AppPermissions: b.Applications, VerifyKeyIndicator: its.VerificationKeyIndicator{
			VerificationKey: its.PublicVerificationKey{Point: its.Compressed(b.Keys.SigningKey.Public().Bytes())}}}}
	b.Request, err = by.seal(c, butterflyMessage{request: r}, &e.Ea.EaCertificate)
	b.ID = cocoon.RequestHash(b.Request)
	return b, err
}

// newCaterpillar makes keys of a variant.
func newCaterpillar(k *butterfly.CaterpillarKeys) (err error) {
	if k.SigningKey, err = butterfly.RandomScalar(rand.Reader); err != nil {
		return err
	}
	if _, err = rand.Read(k.SigningExpansion[:]); err != nil || k.Variant != butterfly.Original {
		return err
	}
	if k.EncryptionKey, err = butterfly.RandomScalar(rand.Reader); err != nil {
		return err
	}
	_, err = rand.Read(k.EncryptionExpansion[:])
	return err
}

// params are how the keys are to be expanded.
func params(k *butterfly.CaterpillarKeys) *its.AdditionalParams {
	signing := its.ButterflyExpansion{Aes128: k.SigningExpansion}
	switch k.Variant {
	case butterfly.Unified:
		return &its.AdditionalParams{Choice: its.ButterflyUnified, Expansion: signing}
	case butterfly.CompactUnified:
		return &its.AdditionalParams{Choice: its.ButterflyCompactUnified, Expansion: signing}
	}
	return &its.AdditionalParams{Original: its.ButterflyParamsOriginal{SigningExpansion: signing, EncryptionKey: scr.EncryptionKey(k.EncryptionKey),
		EncryptionExpansion: its.ButterflyExpansion{Aes128: k.EncryptionExpansion}}}
}

// butterflyURL is where an enrolment authority takes such requests: beside the address that the trust list has.
func butterflyURL(e *its.EaEntry, path string) (string, error) {
	url, ok := e.ItsAccessPoint.Get()
	if !ok {
		return "", errors.New("the trust list does not say where the enrolment authority is")
	}
	return url[:strings.LastIndexByte(url, '/')+1] + path, nil
}

// OrderButterfly sends a request that was prepared, and fills in what the answer says.
func (c *Client) OrderButterfly(ctx context.Context, b *Butterfly) error {
	e, err := c.entry(its.CtlEa)
	if err != nil {
		return err
	}
	url, err := butterflyURL(e.Ea, "butterfly")
	if err != nil {
		return err
	}
	answer, err := c.post(ctx, url, b.Request)
	if err != nil {
		return err
	}
	info, err := c.readInfo(answer, b.ID, e.Ea)
	if err != nil {
		return err
	}
	b.First, b.Next = info.CurrentI, info.NextDlTime.Time(c.Leap)
	return nil
}

// readInfo reads and verifies the message by which the enrolment authority says when there is something to fetch.
func (c *Client) readInfo(octets []byte, id its.HashedId8, asked *its.EaEntry) (*its.RaEeCertInfo, error) {
	d, err := its.ParseData(octets, its.MaxRequest)
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	by, payload, err := scr.Signed(d)
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if err := by.Verify(c.answers(by, asked), nil); err != nil {
		return nil, fmt.Errorf("verifying the answer: %w", err)
	}
	content, err := scr.Content(payload, its.ButterflyAuthorizationResponse)
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if content.ButterflyAuthorizationResponse.RequestHash != id {
		return nil, errOther
	}
	return content.ButterflyAuthorizationResponse, nil
}

// answers is the certificate under which an enrolment authority answers: the one that is asked, or one that this followed at the same address, to which the request was encrypted.
func (c *Client) answers(by *its.SignedData, asked *its.EaEntry) *its.Certificate {
	for _, r := range c.lists.Load().roots {
		if !r.home || r.ctl.CTL == nil || c.at() >= its.Time64(r.ctl.NextUpdate)*1e6 {
			continue
		}
		e := r.ctl.Find(by.Signer.Digest)
		if e == nil || e.Choice != its.CtlEa || e.Ea.ItsAccessPoint != asked.ItsAccessPoint {
			continue
		}
		if x := &e.Ea.EaCertificate; x.CheckRole(its.EtsiEA, 0) == nil && c.Check(c.at(), x) == nil {
			return x
		}
	}
	return &asked.EaCertificate
}

// Batch is the tickets of a period.
type Batch struct {
	I       uint16
	Tickets []*Ticket
	Next    time.Time // when those of the next period are there at the latest
}

// FetchButterfly fetches the tickets of a period and verifies each of them: the private key is reconstructed and compared with the certificate, the message has to be signed
// with the certificate that issued the ticket, and that has to lead to the root. While the tickets are not there the error is a StatusError with the code 404.
func (c *Client) FetchButterfly(ctx context.Context, by ButterflyCredential, b *Butterfly, i uint16) (*Batch, error) {
	octets, err := c.archive(ctx, by, cocoon.ArchiveName(b.ID, i))
	if err != nil {
		return nil, err
	}
	return c.OpenButterfly(b, octets)
}

// OpenButterfly reads an archive that was fetched.
func (c *Client) OpenButterfly(b *Butterfly, archive []byte) (*Batch, error) {
	e, err := c.entry(its.CtlEa)
	if err != nil {
		return nil, err
	}
	a, err := cocoon.ParseArchive(archive)
	if err != nil {
		return nil, err
	}
	info, err := c.readInfo(a.Info, b.ID, e.Ea)
	if err != nil {
		return nil, err
	}
	if info.CurrentI != a.I {
		return nil, errOther
	}
	batch := &Batch{I: a.I, Next: info.NextDlTime.Time(c.Leap)}
	for _, f := range a.Files {
		t, err := c.openTicket(b, a.I, f)
		if err != nil {
			return nil, fmt.Errorf("reading ticket %x_%x: %w", a.I, f.J, err)
		}
		batch.Tickets = append(batch.Tickets, t)
	}
	return batch, nil
}

// Read returns the ticket in a file of the archive of a period. It says nothing of whether the ticket is to be believed: FetchButterfly does.
func (b *Butterfly) Read(i uint16, f cocoon.File) (*its.Certificate, error) {
	said, _, err := b.read(i, f)
	if err != nil {
		return nil, err
	}
	return &said.Certificate, nil
}

// read opens the message with a ticket. The name is of the certificate by which it is signed; one that is not has none.
func (b *Butterfly) read(i uint16, f cocoon.File) (said *its.AcaEeCertResponse, outer its.HashedId8, err error) {
	d := new(its.Ieee1609Dot2Data)
	if err := coer.Unmarshal(f.Octets, d); err != nil {
		return nil, outer, err
	}
	if b.Keys.Variant != butterfly.CompactUnified {
		if d, outer, err = signedTicket(d); err != nil {
			return nil, outer, err
		}
	}
	_, encryption := b.Keys.Cocoon(uint32(i), f.J)
	said, err = decryptTicket(d, encryption)
	return said, outer, err
}

// openTicket opens the message with a ticket, reconstructs its key and verifies it.
func (c *Client) openTicket(b *Butterfly, i uint16, f cocoon.File) (*Ticket, error) {
	said, outer, err := b.read(i, f)
	if err != nil {
		return nil, err
	}
	signing, _ := b.Keys.Cocoon(uint32(i), f.J)
	x := &said.Certificate
	if x.Type != its.Explicit || b.Keys.Variant != butterfly.CompactUnified && x.Issuer.Digest != outer {
		return nil, errors.New("the message is signed with another certificate than the one that issued the ticket")
	}
	aa, err := c.listed(x.Issuer.Digest)
	if err != nil {
		return nil, err
	}
	if b.Keys.Variant == butterfly.CompactUnified && aa.ToBeSigned.Flags.Value&its.UsesCubk == 0 {
		return nil, errors.New("the message is not signed, and the authority that issued the ticket has no permission for that")
	}
	info, random := said.PrivateKeyInfo.Get()
	switch {
	case random:
		r, err := butterfly.NewScalar(info[:])
		if err != nil {
			return nil, err
		}
		signing = signing.Add(r)
	case !b.Plain:
		return nil, ErrPlain
	}
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), signing.Bytes())
	if err != nil {
		return nil, err
	}
	public, err := scr.VerificationKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	if err := permits(x, b.Applications); err != nil {
		return nil, err
	}
	// One that is for later, or over, has to be right for its own time.
	v := x.ToBeSigned.ValidityPeriod
	at := max(c.at(), its.Time64(v.Start)*1e6)
	if at >= its.Time64(v.End())*1e6 {
		at = its.Time64(v.Start) * 1e6
	}
	return &Ticket{Certificate: x, Key: key}, c.mine(x, &public, its.EtsiAT, aa, at)
}

// signedTicket verifies the outer signature of a message, whose certificate goes along, and returns what was signed and the name of the certificate. Whether that
// is to be believed shows with the ticket, which it must have issued.
func signedTicket(d *its.Ieee1609Dot2Data) (*its.Ieee1609Dot2Data, its.HashedId8, error) {
	s := d.Content.SignedData
	if d.Content.Choice != its.ContentSigned || s == nil || s.Signer.Choice != its.SignerCertificate || len(s.Signer.Certificate) != 1 || s.TbsData.HeaderInfo.Psid != its.PsidSCR ||
		s.TbsData.Payload.Data == nil || s.TbsData.Payload.Data.Content.Choice != its.UnsecuredData {
		return nil, its.HashedId8{}, errors.New("the message is not signed as one with a ticket is")
	}
	by := &s.Signer.Certificate[0]
	if err := s.Verify(by, nil); err != nil {
		return nil, its.HashedId8{}, err
	}
	id, err := by.HashedId8()
	if err != nil {
		return nil, id, err
	}
	inner := new(its.Ieee1609Dot2Data)
	return inner, id, coer.Unmarshal(s.TbsData.Payload.Data.Content.Opaque, inner)
}

// decryptTicket decrypts what is encrypted to a cocoon key.
func decryptTicket(d *its.Ieee1609Dot2Data, private butterfly.Scalar) (*its.AcaEeCertResponse, error) {
	to, err := spdu.ToKey(scr.EncryptionKey(private))
	if err != nil {
		return nil, err
	}
	inner, _, err := spdu.Open(d, spdu.Holder{Recipient: to, Private: private})
	if err != nil {
		return nil, err
	}
	if inner.Content.Choice != its.UnsecuredData {
		return nil, errors.New("what was encrypted is no ticket")
	}
	p, err := its.ParseScms(inner.Content.Opaque)
	if err != nil {
		return nil, err
	}
	if p.Choice != its.ScmsAcaEe || p.AcaEe.AcaEeCertResponse == nil {
		return nil, errors.New("what was encrypted is no ticket")
	}
	return p.AcaEe.AcaEeCertResponse, nil
}

// permits says whether a ticket has the permissions that were asked for.
func permits(x *its.Certificate, want []its.PsidSsp) error {
	if len(x.ToBeSigned.AppPermissions) != len(want) {
		return errors.New("the ticket has other permissions than were asked for")
	}
	for i := range want {
		a, err := coer.Marshal(&x.ToBeSigned.AppPermissions[i])
		b, err2 := coer.Marshal(&want[i])
		if err != nil || err2 != nil || !bytes.Equal(a, b) {
			return errors.New("the ticket has other permissions than were asked for")
		}
	}
	return nil
}

// ErrPlain is that the authority that expands the keys knows those of the tickets too.
var ErrPlain = errors.New("the enrolment authority knows the key of the ticket, and would recognise the station by it")

// listed finds an authorization authority of the trust lists by its name.
func (c *Client) listed(id its.HashedId8) (*its.Certificate, error) {
	for _, r := range c.lists.Load().roots {
		if r.ctl.CTL == nil || c.at() >= its.Time64(r.ctl.NextUpdate)*1e6 {
			continue
		}
		if e := r.ctl.Find(id); e != nil && e.Choice == its.CtlAa {
			return &e.Aa.AaCertificate, e.Aa.AaCertificate.CheckRole(its.EtsiAA, 0)
		}
	}
	return nil, errors.New("the ticket was issued by an authority that is not on the trust list")
}

// archive fetches an archive; when the connection breaks, what is missing of it.
func (c *Client) archive(ctx context.Context, by ButterflyCredential, name string) ([]byte, error) {
	e, err := c.entry(its.CtlEa)
	if err != nil {
		return nil, err
	}
	url, err := butterflyURL(e.Ea, "butterfly/download")
	if err != nil {
		return nil, err
	}
	message, err := by.seal(c, butterflyMessage{wanted: &its.EeRaDownloadRequest{GenerationTime: its.Time32(c.at() / 1e6), Filename: name}}, &e.Ea.EaCertificate)
	if err != nil {
		return nil, err
	}
	d := &downloading{client: c, url: url, message: base64.StdEncoding.EncodeToString(message)}
	for range attempts {
		var status *StatusError
		if err = d.more(ctx); err == nil || ctx.Err() != nil || errors.As(err, &status) {
			break
		}
	}
	return d.have, err
}

// downloading is an archive that is being fetched.
type downloading struct {
	client       *Client
	url, message string
	tag          string // of the archive that the octets are of
	have         []byte
}

// authorizationHeader has the message that asks for an archive, in Base64 (IEEE 1609.2.1, 6.3.5.3).
const authorizationHeader = "Ieee-1609.2.1-Authorization"

// more fetches what is missing.
func (d *downloading) more(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url, nil)
	if err != nil {
		return err
	}
	r.Header.Set(authorizationHeader, d.message)
	if len(d.have) > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", len(d.have)))
		r.Header.Set("If-Range", d.tag)
	}
	answer, err := d.client.http.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	switch {
	case answer.StatusCode == http.StatusPartialContent && len(d.have) > 0 && strings.HasPrefix(answer.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", len(d.have))):
	case answer.StatusCode == http.StatusOK:
		d.have = nil
	default:
		return &StatusError{answer.StatusCode}
	}
	d.tag = answer.Header.Get("ETag")
	body, err := io.ReadAll(io.LimitReader(answer.Body, int64(cocoon.MaxArchive-len(d.have)+1)))
	d.have = append(d.have, body...)
	if err == nil && len(d.have) > cocoon.MaxArchive {
		return &StatusError{http.StatusRequestEntityTooLarge}
	}
	if err != nil && d.tag == "" {
		d.have = nil // it cannot be gone on with
	}
	return err
}
