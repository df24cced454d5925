package trustlist

import (
	"fmt"
	"strings"

	"mooring/wire/its"
)

// LastOfManager is the highest number of a list of a trust list manager: before 255 it needs a new key (TS 102 941, E.5).
const LastOfManager = 254

// ReadECTL judges a list of a trust list manager, full or delta, at a moment.
func ReadECTL(octets []byte, manager *its.Certificate, at its.Time64) (*CTL, error) {
	c, made, err := content(octets, manager, its.EtsiTLM, its.PsidCTL)
	if err != nil {
		return nil, err
	}
	if c.Choice != its.CertificateTrustListTlm || c.CertificateTrustList == nil {
		return nil, ErrForm
	}
	l := &CTL{CtlFormat: c.CertificateTrustList, Generated: made, manager: true}
	if at >= its.Time64(l.NextUpdate)*1e6 {
		return nil, ErrOver
	}
	if l.CtlSequence > LastOfManager {
		return nil, fmt.Errorf("%w: its number is %d, which no list of a manager has", ErrForm, l.CtlSequence)
	}
	for i := range l.CtlCommands {
		c := &l.CtlCommands[i]
		if k := c.Add.Choice; c.Choice == its.CtlAdds && k != its.CtlRca && k != its.CtlTlm && k != its.CtlDc {
			return nil, ErrForeign
		}
	}
	return l, nil
}

// ListedRoot is a root of the list of a manager.
type ListedRoot struct {
	ID          its.HashedId8
	Certificate *its.Certificate
	Successor   *its.Certificate // the one that this one follows; nil: none
	Centres     []string         // where its lists are, in the order of the list
}

// Roots are the roots of a full list. Each was checked to be a root that signed itself; one that is not is left out, as the others are not to be blamed for it.
// Whether they are valid now is not looked at.
func (l *CTL) Roots() (all []ListedRoot) {
	for i := range l.CtlCommands {
		e := &l.CtlCommands[i].Add
		if l.CtlCommands[i].Choice != its.CtlAdds || e.Choice != its.CtlRca {
			continue
		}
		x := &e.Rca.SelfsignedRootCa
		id, err := x.HashedId8()
		if err != nil || x.CheckRole(its.EtsiRCA, 0) != nil || x.Verify(nil) != nil {
			continue
		}
		all = append(all, ListedRoot{id, x, e.Rca.SuccessorTo, l.centres(id)})
	}
	return all
}

// centres are the distribution centres of a root.
func (l *CTL) centres(root its.HashedId8) (urls []string) {
	for i := range l.CtlCommands {
		e := &l.CtlCommands[i].Add
		if l.CtlCommands[i].Choice != its.CtlAdds || e.Choice != its.CtlDc {
			continue
		}
		for _, id := range e.Dc.Cert {
			if id == root {
				urls = append(urls, e.Dc.Url)
				break
			}
		}
	}
	return urls
}

// Join puts a path behind the address of a distribution centre or access point, which may end in a slash or not.
func Join(base string, path ...string) string {
	return strings.TrimSuffix(base, "/") + "/" + strings.Join(path, "/")
}
