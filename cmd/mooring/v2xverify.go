package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mooring/internal/base/errs"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/its/chain"
	"mooring/wire/trustlist"
)

const v2xVerifyHelp = `Says whether a certificate or a signed message is to be believed, and if not, which certificate lacks what: signatures, validity, permissions, regions and revocation,
up to a root that is trusted. The exit code is 1 if it is not.

--root names who is trusted: the certificate of a root, or a trust list, whose self-signed certificates are taken as they are. A self-signed certificate that stands for
itself, such as that of a trust list manager, is its own root. From a trust list manager, trust goes on to the roots of its list, if that is among what is known and in
force; and from a root or manager to the one that follows it, by a link certificate.

--known names where the certificates between are: certificates, trust lists, link certificates, or messages that bring them along. The order does not matter.

--crl names a revocation list of a root. It is verified like any message. What is below a root without a list counts as not revoked; if there is a list and it has
ended, nobody knows, and the answer is no.

Of a message it is told whether it has the profile of TS 103 097, or why not: one of IEEE 1609.2 alone need not have it, and is believed all the same.

A message that says where it was made must come from within the region of its signer. The borders of countries are not known here: where the region is made of
countries, --anywhere says that the place does not matter.`

// v2xTrust is what a verification stands on.
type v2xTrust struct {
	roots, known, crls []string
	at                 string
	anywhere           bool
}

func (c *cli) v2xVerifyCommand() *cobra.Command {
	var f v2xTrust
	cmd := &cobra.Command{
		Use: "verify FILE", Short: "Verify a certificate or a signed message", Long: v2xVerifyHelp,
		Example: "  mooring v2x verify ticket.oer --root root.oer --known ctl.oer --crl crl.oer\n" +
			"  mooring v2x verify ticket.oer --root tlm.oer --known ectl.oer --known ctl.oer\n" +
			"  mooring v2x verify E7A4B2B045E7ACF9.oer --root E7A4B2B045E7ACF9.oer --at 2026-01-01",
		Args: needs("FILE"),
		RunE: func(_ *cobra.Command, args []string) error { return c.v2xVerify(args[0], f) },
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.roots, "root", nil, "certificate that is trusted, or trust list; may be repeated")
	flags.StringArrayVar(&f.known, "known", nil, "certificates of authorities, lists, messages; may be repeated")
	flags.StringArrayVar(&f.crls, "crl", nil, "revocation list; may be repeated")
	flags.StringVar(&f.at, "at", "", "judge for this time instead of now, such as 2026-12-24 or 30d for in 30 days")
	flags.BoolVar(&f.anywhere, "anywhere", false, "do not ask whether a message was made within the countries of its signer")
	return cmd
}

// verifiedV2X is the result of a verification as the program prints it.
type verifiedV2X struct {
	Type string `json:"type"`
	// Lacks is what a message lacks to be one of TS 103 097; "" if it is one, or no message.
	Lacks  string      `json:"lacks,omitempty"`
	Psid   uint64      `json:"psid,omitempty"`
	Chain  []linkOfV2X `json:"chain"`
	Result string      `json:"result"`
}

type linkOfV2X struct {
	Name      string    `json:"name,omitempty"`
	HashedId8 string    `json:"hashed_id8"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

func (c *cli) v2xVerify(path string, f v2xTrust) error {
	if len(f.roots) == 0 {
		return usagef("mooring v2x verify needs --root: who is trusted")
	}
	b, err := readOctets(path)
	if err != nil {
		return err
	}
	name, v, err := readV2X(b, "")
	if err != nil {
		return err
	}
	known, o, err := f.read(chain.Certificates(v))
	if err != nil {
		return err
	}
	result := verifiedV2X{Type: name, Result: "valid"}
	links, err := judgeV2X(v, known, o, &result.Psid)
	for _, x := range links {
		result.Chain = append(result.Chain, linkOf(x))
	}
	if err != nil {
		return errs.Wrap(errs.Invalid, err, "%s is not to be believed", path)
	}
	d, message := v.(*its.Ieee1609Dot2Data)
	if message {
		if err := chain.CheckData(d); err != nil {
			result.Lacks = err.Error()
		}
	}
	return c.show(result, func(w io.Writer) {
		for i, l := range result.Chain {
			who := strings.TrimRight(l.HashedId8+" "+l.Name, " ")
			fact(w, fmt.Sprintf("Certificate %d", i+1), fmt.Sprintf("%s, %s to %s", who, minute(l.NotBefore), minute(l.NotAfter)))
		}
		if message {
			fact(w, "Profile", cmp.Or(result.Lacks, "TS 103 097"))
		}
		fact(w, "Result", result.Result)
	})
}

// judgeV2X judges a certificate or message, and returns its chain.
func judgeV2X(v coer.Value, known []*its.Certificate, o chain.Options, psid *uint64) ([]*its.Certificate, error) {
	switch v := v.(type) {
	case *its.Certificate:
		links, err := chain.Find(v, known)
		if err != nil {
			return links, err
		}
		return links, chain.Check(links, o)
	case *its.Ieee1609Dot2Data:
		s := v.Content.SignedData
		if s == nil {
			break
		}
		*psid = uint64(s.TbsData.HeaderInfo.Psid)
		signer, err := signerOf(s, known)
		if err != nil {
			return nil, err
		}
		links, err := chain.Find(signer, append(known, chain.Certificates(v)...))
		if err != nil {
			return links, err
		}
		return links, chain.CheckMessage(s, links, o)
	}
	return nil, errors.New("it is neither a certificate nor a signed message")
}

// signerOf is the certificate of who signed, which the message brings along or names.
func signerOf(s *its.SignedData, known []*its.Certificate) (*its.Certificate, error) {
	switch s.Signer.Choice {
	case its.SignerCertificate:
		if len(s.Signer.Certificate) > 0 {
			return &s.Signer.Certificate[0], nil
		}
	case its.SignerDigest:
		for _, x := range known {
			if id, err := x.HashedId8(); err == nil && id == s.Signer.Digest {
				return x, nil
			}
		}
		return nil, fmt.Errorf("the certificate of its signer is not known: %v", s.Signer.Digest)
	}
	return nil, errors.New("it is signed by the holder of a key alone, which proves no more than that")
}

func linkOf(x *its.Certificate) linkOfV2X {
	p := x.ToBeSigned.ValidityPeriod
	l := linkOfV2X{Name: x.ToBeSigned.Id.Name, NotBefore: p.Start.Time(its.LeapSeconds), NotAfter: p.End().Time(its.LeapSeconds)}
	if id, err := x.HashedId8(); err == nil {
		l.HashedId8 = id.String()
	}
	return l
}

// read reads the files that a verification stands on. The certificates of what is verified may be those to which trust goes on.
func (f v2xTrust) read(judged []*its.Certificate) ([]*its.Certificate, chain.Options, error) {
	at, err := moment("--at", f.at, time.Now())
	if err != nil {
		return nil, chain.Options{}, err
	}
	if f.at == "" {
		at = time.Now()
	}
	o := chain.Options{At: its.TimeAt(at, its.LeapSeconds)}
	if f.anywhere {
		o.Within = func(its.TwoDLocation, its.IdentifiedRegion) bool { return true }
	}
	var known []*its.Certificate
	trusted := map[its.HashedId8]*its.Certificate{}
	var files [][]byte
	for i, path := range append(append([]string(nil), f.roots...), f.known...) {
		b, err := readOctets(path)
		if err != nil {
			return nil, o, err
		}
		_, v, err := readV2X(b, "")
		if err != nil {
			return nil, o, errs.Wrap(errs.Invalid, err, "%s", path)
		}
		files = append(files, b)
		found := chain.Certificates(v)
		if _, err := trustlist.ReadLink(b); len(found) == 0 && err != nil {
			return nil, o, errs.New(errs.Invalid, "%s has no certificates", path)
		}
		known = append(known, found...)
		for _, x := range found {
			if id, err := x.HashedId8(); err == nil && i < len(f.roots) && x.Issuer.Choice == its.IssuerSelf {
				trusted[id] = x
			}
		}
	}
	goOn(trusted, files, append(known, judged...), o.At)
	o.Trusted = func(id its.HashedId8) bool { return trusted[id] != nil }
	o.Revocation, err = readRevocations(f.crls, known, o)
	return known, o, err
}

// goOn adds whom those who are trusted vouch for: a trust list manager for the roots of its list, and each for the one that follows it.
func goOn(trusted map[its.HashedId8]*its.Certificate, files [][]byte, known []*its.Certificate, at its.Time64) {
	for n := -1; n != len(trusted); { // until there is nobody new
		n = len(trusted)
		for _, b := range files {
			for _, x := range vouched(trusted, b, known, at) {
				if id, err := x.HashedId8(); err == nil {
					trusted[id] = x
				}
			}
		}
	}
}

// vouched are those for whom a file speaks, by the word of somebody who is trusted.
func vouched(trusted map[its.HashedId8]*its.Certificate, file []byte, known []*its.Certificate, at its.Time64) (all []*its.Certificate) {
	if link, err := trustlist.ReadLink(file); err == nil {
		for _, x := range known {
			if old := trusted[link.Old]; old != nil && link.Check(old, x, at) == nil {
				all = append(all, x)
			}
		}
		return all
	}
	for _, manager := range trusted {
		list, err := trustlist.ReadECTL(file, manager, at)
		if err != nil || !list.IsFullCtl {
			continue
		}
		for _, r := range list.Roots() {
			all = append(all, r.Certificate)
		}
	}
	return all
}

// readRevocations reads revocation lists, which must verify, and says what they say.
func readRevocations(paths []string, known []*its.Certificate, o chain.Options) (func(*its.Certificate, its.HashedId8) chain.State, error) {
	type entry struct{ root, id its.HashedId8 }
	revoked := map[entry]bool{}
	ended := map[its.HashedId8]bool{} // by root: its list has ended
	for _, path := range paths {
		b, err := readOctets(path)
		if err != nil {
			return nil, err
		}
		d, err := its.ParseData(b, its.MaxTrustList)
		if err != nil {
			return nil, errs.Wrap(errs.Invalid, err, "%s is no revocation list", path)
		}
		links, err := judgeV2X(d, known, o, new(uint64))
		if err != nil {
			return nil, errs.Wrap(errs.Invalid, err, "%s is not to be believed", path)
		}
		l, err := listIn(d)
		if err != nil {
			return nil, errs.Wrap(errs.Invalid, err, "%s is no revocation list", path)
		}
		id, err := links[0].HashedId8()
		if err != nil {
			return nil, err
		}
		ended[id] = its.Time64(l.NextUpdate)*1e6 <= o.At
		for _, e := range l.Entries {
			revoked[entry{id, e}] = true
		}
	}
	return func(x *its.Certificate, id its.HashedId8) chain.State {
		switch issuer := x.Issuer.Digest; {
		case revoked[entry{issuer, id}] || revoked[entry{id, id}]: // a root revokes those that it issued, and itself
			return chain.Revoked
		case ended[issuer]:
			return chain.Unknown
		}
		return chain.Good
	}, nil
}

// listIn is the revocation list that a message contains.
func listIn(d *its.Ieee1609Dot2Data) (*its.ToBeSignedCrl, error) {
	inner := d.Content.SignedData.TbsData.Payload.Data
	if inner == nil || d.Content.SignedData.TbsData.HeaderInfo.Psid != its.PsidCRL {
		return nil, errors.New("it contains something else")
	}
	m, err := its.ParseManagement(inner.Content.Opaque)
	if err != nil {
		return nil, err
	}
	if m.Content.CertificateRevocationList == nil {
		return nil, errors.New("it contains something else")
	}
	return m.Content.CertificateRevocationList, nil
}
