package cmp

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"time"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/wire/cmp"
	"mooring/wire/der"
)

// listMost is the size in octets up to which revocation lists are sent in a message, all together. Larger ones are fetched by HTTP.
const listMost = 1 << 20

// general answers genm (RFC 9483, section 4.3): one genp with an answer to each question that is known here.
func (x *exchange) general(t *transaction, body *cmp.General) ([]byte, error) {
	if x.by.leaf != nil {
		id, err := x.Enrol.Authenticate(x.ctx, [][]byte{x.by.leaf.Raw})
		if err != nil {
			return x.refused(err)
		}
		x.note(slog.String("device", id.Device.ID.String()))
	}
	out := &cmp.General{As: cmp.GenP}
	seen := map[der.OID]bool{}
	for _, asked := range body.List {
		if seen[asked.Type] {
			return x.refused(refuse(cmp.BadRequest, "a question is asked twice: ask each once in a message"))
		}
		seen[asked.Type] = true
		answer, known, err := x.inform(asked)
		if err != nil {
			return x.refused(err)
		}
		if known {
			out.List = append(out.List, answer)
		}
	}
	if len(out.List) == 0 && len(body.List) > 0 {
		return x.refused(refuse(cmp.BadRequest, "none of the questions is known here: caCerts, rootCaCert, certReqTemplate, crlStatusList and currentCRL are"))
	}
	t.finish()
	return x.reply(out, nil, nil)
}

func (x *exchange) inform(asked cmp.Info) (answer cmp.Info, known bool, err error) {
	switch asked.Type {
	case cmp.OIDCACerts:
		anchors, err := x.Enrol.Anchors(x.label)
		return cmp.NewCertificates(cmp.OIDCACerts, anchors), true, err
	case cmp.OIDRootCACert:
		answer, err = x.rootUpdate(asked.Value)
	case cmp.OIDCertReqTemplate:
		answer, err = x.template()
	case cmp.OIDCRLStatusList:
		answer, err = x.lists(asked.Value)
	case cmp.OIDCurrentCRL:
		answer, err = x.currentCRL()
	default:
		return answer, false, nil
	}
	return answer, true, err
}

// rootUpdate answers with the newest root for which the given one vouches (RFC 9483, section 4.3.2), or with no value when there is none.
func (x *exchange) rootUpdate(value []byte) (cmp.Info, error) {
	none := cmp.Info{Type: cmp.OIDRootUpdate}
	old, err := x509.ParseCertificate(value)
	if err != nil {
		return none, refuse(cmp.BadRequest, "a rootCaCert carries the root that the sender has")
	}
	anchors, err := x.Enrol.Anchors(x.label)
	if err != nil {
		return none, err
	}
	var certs []*x509.Certificate
	for _, raw := range anchors {
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			return none, fmt.Errorf("parsing a CA certificate: %w", err)
		}
		certs = append(certs, c)
	}
	var update *cmp.RootUpdate
	var newest *x509.Certificate
	for _, root := range certs {
		if !bytes.Equal(root.RawSubject, root.RawIssuer) || newest != nil && !root.NotBefore.After(newest.NotBefore) {
			continue
		}
		with, back := crossing(certs, old, root), crossing(certs, root, old)
		if with == nil || bytes.Equal(root.Raw, old.Raw) || !root.NotBefore.After(old.NotBefore) {
			continue
		}
		update, newest = &cmp.RootUpdate{NewWithNew: root.Raw, NewWithOld: with, OldWithNew: back}, root
	}
	if update == nil {
		return none, nil
	}
	return update.Info(), nil
}

// crossing returns the certificate in which issuer vouches for the key of subject, or nil.
func crossing(certs []*x509.Certificate, issuer, subject *x509.Certificate) []byte {
	for _, c := range certs {
		if bytes.Equal(c.RawSubject, subject.RawSubject) && bytes.Equal(c.RawSubjectPublicKeyInfo, subject.RawSubjectPublicKeyInfo) &&
			bytes.Equal(c.RawIssuer, issuer.RawSubject) && bytes.Equal(c.AuthorityKeyId, issuer.SubjectKeyId) && !bytes.Equal(c.RawSubject, c.RawIssuer) {
			return c.Raw
		}
	}
	return nil
}

// template answers with what a request for the profile is to look like (RFC 9483, section 4.3.3).
func (x *exchange) template() (cmp.Info, error) {
	p, err := x.Enrol.Profile(x.label)
	if err != nil {
		return cmp.Info{}, err
	}
	t := &cmp.ReqTemplate{}
	if t.Template.Subject, err = subjectOf(p); err != nil {
		return cmp.Info{}, err
	}
	for _, kind := range p.Keys {
		spec, err := keySpec(kind)
		if err != nil {
			return cmp.Info{}, err
		}
		t.KeySpec = append(t.KeySpec, spec)
	}
	return t.Info()
}

// subjectOf writes the profile's subject, with empty values where each device has its own.
func subjectOf(p *ca.Profile) ([]byte, error) {
	var rdns []byte
	for _, part := range p.SubjectParts() {
		pair := der.AppendElement(part.Attribute.Append(nil), 0x0c, []byte(part.Fixed))
		rdns = der.AppendElement(rdns, 0x31, der.AppendElement(nil, 0x30, pair))
	}
	return der.AppendElement(nil, 0x30, rdns), nil
}

// keySpec names a kind of key as CMP does: the algorithm of the key, or for RSA its length.
func keySpec(kind der.KeyKind) (cmp.Info, error) {
	if bits, ok := strings.CutPrefix(string(kind), "rsa-"); ok {
		n, err := strconv.Atoi(bits)
		return cmp.RSAKeyLength(n), err
	}
	id := map[der.KeyKind][]string{der.ECP256: {"1.2.840.10045.2.1", "1.2.840.10045.3.1.7"}, der.ECP384: {"1.2.840.10045.2.1", "1.3.132.0.34"},
		der.ECP521: {"1.2.840.10045.2.1", "1.3.132.0.35"}, der.KeyEd25519: {"1.3.101.112"}, der.KeyMLDSA44: {"2.16.840.1.101.3.4.3.17"}, der.KeyMLDSA65: {"2.16.840.1.101.3.4.3.18"}}[kind]
	var content []byte
	for _, dotted := range id {
		oid, err := der.ParseOID(dotted)
		if err != nil {
			return cmp.Info{}, err
		}
		content = oid.Append(content)
	}
	if content == nil {
		return cmp.Info{}, fmt.Errorf("a key of kind %q cannot be asked for", kind)
	}
	return cmp.KeyAlgorithm(der.AppendElement(nil, 0x30, content)), nil
}

// lists answers with the revocation lists that are asked about and are newer than those that the sender has (RFC 9483, section 4.3.4).
func (x *exchange) lists(value []byte) (cmp.Info, error) {
	asked, err := cmp.ParseCRLStatus(value)
	if err != nil {
		return cmp.Info{}, refuse(cmp.BadDataFormat, "%v", err)
	}
	type one struct {
		issuer *ca.Issuer
		shard  int64
	}
	var found [][]byte
	seen := map[one]bool{}
	for _, a := range asked {
		issuer, shard, err := x.listOf(a)
		if err != nil {
			return cmp.Info{}, err
		}
		if seen[one{issuer, shard}] {
			return cmp.Info{}, refuse(cmp.BadRequest, "a list is asked for twice: ask for each once in a message")
		}
		seen[one{issuer, shard}] = true
		list, err := x.list(issuer, shard, a.Since)
		if err != nil {
			return cmp.Info{}, err
		}
		if list != nil {
			found = append(found, list)
		}
	}
	return cmp.NewCertificates(cmp.OIDCRLs, found), nil
}

// list returns a list in DER if it is newer than since, else nil.
func (x *exchange) list(issuer *ca.Issuer, shard int64, since time.Time) ([]byte, error) {
	l, err := x.Revoke.CRL(x.ctx, issuer.ID(), shard)
	switch {
	case err != nil:
		return nil, err
	case !since.IsZero() && l.ThisUpdate <= since.Unix():
		return nil, nil
	case x.listed+l.Size > listMost:
		return nil, refuse(cmp.AddInfoNotAvailable, "the list is too large for a message, or the lists are together: fetch it from the address in the certificates, or ask for one at a time")
	}
	x.listed += l.Size
	if l.DER != nil {
		return l.DER, nil
	}
	list, err := io.ReadAll(x.Revoke.Content(x.ctx, l))
	if err != nil {
		return nil, fmt.Errorf("reading a revocation list: %w", err)
	}
	return list, nil
}

// listOf finds the list that is meant: the complete one of a CA by its name, or what stands at an address of ours.
func (x *exchange) listOf(a cmp.CRLStatus) (*ca.Issuer, int64, error) {
	if a.Issuer != nil {
		var found *ca.Issuer
		x.CA.Each(func(i *ca.Issuer) {
			if bytes.Equal(i.Certificate().RawSubject, a.Issuer) {
				found = i
			}
		})
		if found == nil {
			return nil, 0, refuse(cmp.BadCertID, "there is no CA of this name here")
		}
		return found, ca.Complete, nil
	}
	u, err := url.Parse(a.URL)
	if err != nil {
		return nil, 0, refuse(cmp.BadRequest, "the address of a list cannot be read")
	}
	name, ok := strings.CutSuffix(u.Path, ".crl")
	_, name, there := strings.Cut(name, "/crl/")
	if !ok || !there {
		return nil, 0, refuse(cmp.BadRequest, "no list is published at this address: use the one in the certificates")
	}
	id, number, sharded := strings.Cut(name, "/")
	issuer, err := x.CA.Issuer(id)
	if err != nil {
		return nil, 0, err
	}
	if !sharded {
		return issuer, ca.Complete, nil
	}
	shard, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		return nil, 0, errs.New(errs.NotFound, "there is no such list")
	}
	return issuer, int64(shard), nil
}

// currentCRL answers the older question with the complete list of the CA that issues by the profile.
func (x *exchange) currentCRL() (cmp.Info, error) {
	p, err := x.Enrol.Profile(x.label)
	if err != nil {
		return cmp.Info{}, err
	}
	issuer, err := x.CA.Issuer(p.IssuerAt(x.Now().Unix()))
	if err != nil {
		return cmp.Info{}, err
	}
	list, err := x.list(issuer, ca.Complete, time.Time{})
	return cmp.Info{Type: cmp.OIDCurrentCRL, Value: list}, err
}
