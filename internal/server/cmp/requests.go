package cmp

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/enrol"
	"mooring/wire/cmp"
	"mooring/wire/cms"
	"mooring/wire/der"
)

// confirmWithin is for how long a certConf is waited for.
const confirmWithin = 5 * time.Minute

// numberOfPKCS10 is the certReqId of what a p10cr gets (RFC 9483, section 4.1.4).
const numberOfPKCS10 = -1

// certRequest answers ir, cr and kur (RFC 9483, sections 4.1.1 to 4.1.3, and 4.1.6 where the key is to be made here).
func (x *exchange) certRequest(t *transaction, body *cmp.Requests) ([]byte, error) {
	if len(body.List) != 1 {
		return x.refused(refuse(cmp.BadRequest, "%d requests in one message; one is taken", len(body.List)))
	}
	one := &body.List[0]
	if one.ID != 0 {
		return x.refused(refuse(cmp.BadRequest, "the certReqId is %d; that of the only request is 0", one.ID))
	}
	r := x.request()
	if body.As == cmp.KUR {
		r.Op = enrol.Renew
	}
	for _, step := range []func(*enrol.Request, *cmp.Request) error{x.replaces, x.possession, x.generates} {
		if err := step(&r, one); err != nil {
			x.Enrol.Refuse(x.ctx, r, err)
			return x.decided(t, 0, r, enrol.Answer{}, err)
		}
	}
	return x.submit(t, 0, r)
}

// replaces checks that a kur means the certificate that protects it.
func (x *exchange) replaces(r *enrol.Request, one *cmp.Request) error {
	old, there, err := one.OldCertID()
	switch {
	case !there || r.Op != enrol.Renew:
		return nil
	case err != nil:
		return refuse(cmp.BadDataFormat, "the oldCertID cannot be read: %v", err)
	case x.by.leaf == nil, !bytes.Equal(old.Issuer, x.by.leaf.RawIssuer), !bytes.Equal(bytes.TrimLeft(old.Serial, "\x00"), x.by.leaf.SerialNumber.Bytes()):
		return refuse(cmp.BadCertID, "the oldCertID is not that of the protecting certificate, which is the one that a kur replaces")
	}
	return nil
}

// possession takes the request and its proof over for core, which checks the proof.
func (x *exchange) possession(r *enrol.Request, one *cmp.Request) error {
	p, template := &one.Proof, &one.Template
	r.Template = &enrol.Template{Octets: one.Signed, Signed: one.What(), Subject: template.Subject, SPKI: template.SPKI, Extensions: template.Extensions}
	switch p.Kind {
	case cmp.NoProof:
		return nil
	case cmp.RAVerified:
		return x.vouch(r, template)
	case cmp.Signature:
	default:
		return refuse(cmp.BadPOP, "possession is proven by a signature here: for a key that cannot sign, have the key made by the server")
	}
	if p.Input != nil {
		switch {
		case p.MACed:
			return refuse(cmp.BadPOP, "a POPOSigningKeyInput with a publicKeyMAC is not taken: sign the request itself")
		case !bytes.Equal(p.Sender, x.m.Header.Sender) || !bytes.Equal(p.SPKI, template.SPKI):
			return refuse(cmp.BadPOP, "the POPOSigningKeyInput is about another sender or key than the message")
		}
	}
	r.Template.Algorithm, r.Template.Signature = p.Algorithm, p.Bits
	return nil
}

// vouch makes the request that of the registration authority that signed it, for the device that the subject's common name names.
func (x *exchange) vouch(r *enrol.Request, template *cmp.Template) error {
	if x.by.leaf == nil { // nested or not: an authority that passes a message on does not say that what is in it is true
		return refuse(cmp.BadPOP, "raVerified is the word of a registration authority, which signs the request itself: prove possession by a signature")
	}
	subject, err := der.ParseName(template.Subject)
	if err != nil {
		return refuse(cmp.BadCertTemplate, "the subject must name the device that the registration authority asks for: %v", err)
	}
	for _, a := range subject {
		if a.Type == der.OIDCommonName {
			r.Vouch = &enrol.Vouch{Chain: x.by.chain, Device: a.Value, Possession: true}
			return nil
		}
	}
	return refuse(cmp.BadCertTemplate, "the subject must have the common name of the device that the registration authority asks for")
}

// generates finds out whether the key is to be made here, and for whom it can be encrypted (RFC 9483, section 4.1.6).
func (x *exchange) generates(r *enrol.Request, one *cmp.Request) error {
	bits, err := []byte(nil), error(nil)
	if one.Template.SPKI != nil {
		if bits, err = der.KeyBits(one.Template.SPKI); err != nil {
			return refuse(cmp.BadCertTemplate, "the public key cannot be read: %v", err)
		}
	}
	switch {
	case len(bits) > 0:
		return nil
	case one.Proof.Kind != cmp.NoProof:
		return refuse(cmp.BadPOP, "a proof of possession of a key that is not there")
	case r.Op == enrol.Renew:
		return refuse(cmp.BadCertTemplate, "a kur without a public key: ask for a key by cr")
	case x.by.leaf == nil:
		return refuse(cmp.BadCertTemplate, "a key is made for the holder of a certificate alone, to whom it is encrypted: sign the request, or make the key and send its public half")
	}
	if _, err := recipient(x.by.leaf); err != nil {
		return err
	}
	r.Op, r.Template.SPKI = enrol.Generate, nil
	return nil
}

// recipient returns the key to which a new key is encrypted.
func recipient(leaf *x509.Certificate) (cms.Recipient, error) {
	id := cms.IssuerAndSerial(leaf)
	switch pub := leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		return cms.RSARecipient{ID: id, Key: pub}, nil
	case *ecdsa.PublicKey:
		if key, err := pub.ECDH(); err == nil {
			return cms.ECRecipient{ID: id, Key: key}, nil
		}
	}
	return nil, refuse(cmp.BadAlg, "to the key of the protecting certificate nothing can be encrypted; RSA and elliptic-curve keys can receive keys")
}

// pkcs10 answers p10cr.
func (x *exchange) pkcs10(t *transaction, csr cmp.PKCS10) ([]byte, error) {
	r := x.request()
	r.CSR = csr
	return x.submit(t, numberOfPKCS10, r)
}

// submit has core decide.
func (x *exchange) submit(t *transaction, number int, r enrol.Request) ([]byte, error) {
	if _, asked := cmp.Find(x.m.Header.Info, cmp.OIDImplicitConfirm); !asked {
		r.Confirm = enrol.Awaiting{Transaction: x.m.Header.Transaction, Within: confirmWithin}
	}
	answer, err := x.Enrol.Submit(x.ctx, r)
	defer clear(answer.Key)
	return x.decided(t, number, r, answer, err)
}

// decided answers with what core said.
func (x *exchange) decided(t *transaction, number int, r enrol.Request, answer enrol.Answer, err error) ([]byte, error) {
	if answer.Device != "" {
		x.note(slog.String("device", answer.Device))
	}
	t.waiting = nil
	out := &cmp.Responses{As: responseTo(t.kind), List: []cmp.Response{{ID: number}}}
	one := &out.List[0]
	switch {
	case err != nil:
		x.tell(err)
		t.finish()
		one.Status = cmp.Refused(x.failure(err), errs.Public(err))
		return x.reply(out, nil, nil)
	case answer.Pending > 0:
		return x.wait(t, number, r, answer.Pending)
	}
	one.Certificate = answer.Certificate.DER
	if answer.Key != nil {
		if one.PrivateKey, err = x.seal(answer.Key); err != nil {
			return nil, err
		}
	}
	anchors, err := x.Enrol.Anchors(answer.Profile.Name)
	if err != nil {
		return nil, err
	}
	chain, roots := split(anchors)
	if x.by.mac != nil { // who has a secret of its own with the sender may take roots from it (RFC 9810, section 5.3.2)
		out.CAPubs = roots
	}
	var info []cmp.Info
	if r.Confirm.Within == 0 {
		info = append(info, cmp.Info{Type: cmp.OIDImplicitConfirm, Value: []byte(cmp.Null)})
		t.finish()
	} else {
		info = append(info, cmp.ConfirmBy(x.Now().Add(r.Confirm.Within)))
		if answer.Profile.Record == ca.Ephemeral {
			t.passing = answer.Certificate.DER
		}
	}
	return x.reply(out, info, chain)
}

// split parts what leads to roots from the roots.
func split(anchors [][]byte) (chain, roots [][]byte) {
	for _, raw := range anchors {
		if c, err := x509.ParseCertificate(raw); err == nil && bytes.Equal(c.RawSubject, c.RawIssuer) {
			roots = append(roots, raw)
		} else {
			chain = append(chain, raw)
		}
	}
	return chain, roots
}

// seal encrypts a key that was made here, signed by the server, to the protecting certificate.
func (x *exchange) seal(private []byte) ([]byte, error) {
	to, err := recipient(x.by.leaf)
	if err != nil {
		return nil, err
	}
	signer, leaf, above := x.Identity()
	if signer == nil {
		return nil, errNoIdentity()
	}
	sealed, err := cms.SealKeys([][]byte{private}, cms.SignInput{Signer: signer, Certificate: leaf, Chain: above, Rand: rand.Reader},
		cms.EncryptInput{Cipher: cms.AES256CBC, Recipients: []cms.Recipient{to}, Rand: rand.Reader})
	if err != nil {
		return nil, fmt.Errorf("encrypting a generated key: %w", err)
	}
	_, content, err := cms.ParseContentInfo(sealed)
	return content, err
}

// wait keeps the request that somebody must approve, and tells when to ask again (RFC 9483, section 4.4).
func (x *exchange) wait(t *transaction, number int, r enrol.Request, after time.Duration) ([]byte, error) {
	if x.m.Body.Kind() != cmp.PollReq && !x.open.room(t) {
		return x.refused(refuse(cmp.SystemUnavail, "too many requests wait here, of this sender or in all; send this one again later"))
	}
	r.Basic, r.User, r.Secret = false, "", ""
	t.waiting, t.number = &r, number
	if x.m.Body.Kind() != cmp.PollReq {
		return x.reply(&cmp.Responses{As: responseTo(t.kind), List: []cmp.Response{{ID: number, Status: cmp.Status{Status: cmp.Waiting}}}}, nil, nil)
	}
	return x.reply(cmp.Wait{{ID: number, After: int(math.Ceil(after.Seconds())), Reason: []string{"an operator must approve the request"}}}, nil, nil)
}

// poll answers pollReq.
func (x *exchange) poll(t *transaction, asked cmp.Poll) ([]byte, error) {
	switch {
	case t.waiting == nil:
		return x.refused(refuse(cmp.BadRequest, "nothing of this exchange waits"))
	case len(asked) != 1 || asked[0] != t.number:
		return x.refused(refuse(cmp.BadRequest, "a pollReq for another certReqId than that which waits"))
	}
	r, who := *t.waiting, x.request()
	r.Basic, r.User, r.Secret = who.Basic, who.User, who.Secret
	answer, err := x.Enrol.Submit(x.ctx, r)
	defer clear(answer.Key)
	return x.decided(t, t.number, r, answer, err)
}

func responseTo(k cmp.Kind) cmp.Kind {
	switch k {
	case cmp.CR, cmp.P10CR:
		return cmp.CP
	case cmp.KUR:
		return cmp.KUP
	}
	return cmp.IP
}

// confirmation answers certConf (RFC 9483, section 4.1.1).
func (x *exchange) confirmation(t *transaction, body cmp.Confirmation) ([]byte, error) {
	accept := len(body) == 1 && body[0].Status.Status != cmp.Rejection
	var wrong error
	switch {
	case len(body) > 1:
		wrong = refuse(cmp.BadRequest, "the certConf speaks of %d certificates; one was given out", len(body))
	case len(body) == 1 && !isNumber(t.kind, body[0].ID):
		wrong = refuse(cmp.BadCertID, "the certReqId %d is not that of the request", body[0].ID)
	case len(body) == 1 && body[0].HashAlgorithm != nil && x.m.Header.Version < 3:
		wrong = refuse(cmp.BadRequest, "a certConf with a hashAlg has the pvno 3")
	case len(body) == 1 && body[0].Status.Status != cmp.Accepted && body[0].Status.Status != cmp.Rejection:
		wrong = refuse(cmp.BadRequest, "a certificate is accepted or rejected")
	}
	if wrong != nil {
		return x.refused(wrong)
	}
	if t.passing != nil && accept && hashes(&body[0], t.passing) {
		t.finish()
		return x.reply(cmp.Confirmed{}, nil, nil)
	}
	r := x.request()
	r.Op = enrol.Renew // a certificate that expired may have been rescued
	r.Confirm = enrol.Awaiting{Transaction: x.m.Header.Transaction}
	id, err := x.Enrol.Confirm(x.ctx, r, func(cert []byte) bool { return len(body) == 0 || hashes(&body[0], cert) }, accept)
	if id != "" {
		x.note(slog.String("device", id))
	}
	if err != nil {
		return x.fail(err)
	}
	t.finish()
	return x.reply(cmp.Confirmed{}, nil, nil)
}

// isNumber reports whether a certConf may have the certReqId. That of a p10cr is 0 by the client of OpenSSL 3.0, and another node may have taken the request.
func isNumber(k cmp.Kind, id int) bool {
	return id == 0 || id == numberOfPKCS10 && (k == cmp.P10CR || k == cmp.CertConf)
}

// hashes reports whether the certHash is that of the certificate.
func hashes(s *cmp.CertStatus, raw []byte) bool {
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return false
	}
	h, ok := cmp.Hash(s.HashAlgorithm, signatureHash(cert.SignatureAlgorithm))
	if !ok {
		return false
	}
	sum := h.New()
	sum.Write(raw)
	return bytes.Equal(sum.Sum(nil), s.Hash)
}

// signatureHash is the hash of a signature algorithm; 0 for those that have none.
func signatureHash(a x509.SignatureAlgorithm) crypto.Hash {
	switch a {
	case x509.SHA256WithRSA, x509.ECDSAWithSHA256, x509.SHA256WithRSAPSS:
		return crypto.SHA256
	case x509.SHA384WithRSA, x509.ECDSAWithSHA384, x509.SHA384WithRSAPSS:
		return crypto.SHA384
	case x509.SHA512WithRSA, x509.ECDSAWithSHA512, x509.SHA512WithRSAPSS:
		return crypto.SHA512
	}
	return 0
}

// errNoIdentity is what is wrong while the platform has no certificate.
func errNoIdentity() error {
	return errs.Wrap(errs.Unavailable, errors.New("the listeners have no certificate"), "the server cannot sign now; try again later")
}
