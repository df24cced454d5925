package chain

import (
	"bytes"
	"fmt"
	"slices"

	"mooring/wire/its"
)

// checkPermissions says whether an issuer with t's permissions to issue may give x what it has (IEEE 1609.2, 6.4.28 to 6.4.31).
func checkPermissions(x, t *its.ToBeSignedCertificate) error {
	for _, a := range x.AppPermissions {
		if !mayIssue(t.CertIssuePermissions, a) {
			return fmt.Errorf("%w: application %d", ErrPermission, a.Psid)
		}
	}
	for _, g := range x.CertIssuePermissions {
		if !coversGroup(t.CertIssuePermissions, g, x.CertIssuePermissions, 1) {
			return fmt.Errorf("%w: to issue %s", ErrPermission, describe(g))
		}
	}
	for _, g := range x.CertRequestPermissions {
		g.EeType, g.MinChainLength, g.ChainLengthRange = its.EndEntityEnrol, 0, 0 // the chain ends in the certificate that may request
		if !coversGroup(t.CertIssuePermissions, g, x.CertRequestPermissions, 1) {
			return fmt.Errorf("%w: to request %s", ErrPermission, describe(g))
		}
	}
	return nil
}

func describe(g its.PsidGroupPermissions) string {
	if g.SubjectPermissions.Choice == its.SubjectsAll {
		return "for all applications"
	}
	s := "for the applications"
	for _, r := range g.SubjectPermissions.Explicit {
		s += fmt.Sprint(" ", uint64(r.Psid))
	}
	return s
}

// longest stands for all lengths of chains that are greater: numbers of certificates may have any size, and sums of them must not go round.
const longest = 1 << 32

// lengths are from how many to how many certificates may follow.
func lengths(g its.PsidGroupPermissions) (low, high int64) {
	low = min(g.MinChainLength, longest)
	if g.ChainLengthRange == -1 {
		return low, MaxLength
	}
	return low, min(low+min(g.ChainLengthRange, longest), longest)
}

// mayIssue says whether one of the groups permits a to a certificate that follows at once and ends the chain.
func mayIssue(groups []its.PsidGroupPermissions, a its.PsidSsp) bool {
	return permit(groups, a.Psid, func(g its.PsidGroupPermissions) bool {
		low, high := lengths(g)
		return low <= 1 && 1 <= high && g.EeType&its.EndEntityApp != 0
	}, func(r its.PsidSspRange) bool { return holdsSsp(r, a) })
}

// permit says whether one of the groups that are fit names the application and contains what is asked for, or is for all applications; the latter is of no use for
// applications that any group names, fit or not.
func permit(groups []its.PsidGroupPermissions, p its.Psid, fit func(its.PsidGroupPermissions) bool, contains func(its.PsidSspRange) bool) bool {
	named, all := false, false
	for _, g := range groups {
		if g.SubjectPermissions.Choice == its.SubjectsAll {
			all = all || fit(g)
			continue
		}
		for _, r := range g.SubjectPermissions.Explicit {
			if r.Psid != p {
				continue
			}
			named = true
			if fit(g) && contains(r) {
				return true
			}
		}
	}
	return all && !named
}

// holdsSsp says whether a permission lies in a range.
func holdsSsp(r its.PsidSspRange, a its.PsidSsp) bool {
	set, ok := r.SspRange.Get()
	if !ok || set.Choice == its.SspRangeAll {
		return true
	}
	ssp, ok := a.Ssp.Get()
	switch {
	case !ok: // as an empty one that is opaque
		return set.Choice == its.SspRangeOpaque && holdsOctets(set.Opaque, nil)
	case set.Choice == its.SspRangeOpaque:
		return ssp.Choice == its.SspOpaque && holdsOctets(set.Opaque, ssp.Value)
	case set.Choice == its.SspRangeBitmap:
		return ssp.Choice == its.SspBitmap && agree(set.SspBitmask, set.SspValue, ssp.Value)
	}
	return false
}

func holdsOctets(set [][]byte, b []byte) bool {
	return slices.ContainsFunc(set, func(o []byte) bool { return bytes.Equal(o, b) })
}

// agree says whether two bitmaps are the same where the mask is 1. All have the same length.
func agree(mask, a, b []byte) bool {
	if len(mask) != len(a) || len(a) != len(b) {
		return false
	}
	for i := range mask {
		if (a[i]^b[i])&mask[i] != 0 {
			return false
		}
	}
	return true
}

// coversGroup says whether the groups of an issuer permit g, one of its subject's groups, whose chain is shorter by so many certificates.
func coversGroup(groups []its.PsidGroupPermissions, g its.PsidGroupPermissions, siblings []its.PsidGroupPermissions, shorter int64) bool {
	low, high := lengths(g)
	fit := func(of its.PsidGroupPermissions) bool {
		from, to := lengths(of)
		return from <= low+shorter && (of.ChainLengthRange == -1 || g.ChainLengthRange != -1 && high+shorter <= to) && g.EeType&^of.EeType == 0
	}
	if g.SubjectPermissions.Choice == its.SubjectsAll {
		return coversAll(groups, siblings, fit)
	}
	for _, r := range g.SubjectPermissions.Explicit {
		if !permit(groups, r.Psid, fit, func(of its.PsidSspRange) bool { return contains(of, r) }) {
			return false
		}
	}
	return true
}

// coversAll says whether a subject may have permissions for all applications: its issuer has them, and what the issuer names and so takes out of them is named
// by the subject as well.
func coversAll(groups, siblings []its.PsidGroupPermissions, fit func(its.PsidGroupPermissions) bool) bool {
	all := false
	for _, g := range groups {
		all = all || g.SubjectPermissions.Choice == its.SubjectsAll && fit(g)
		for _, r := range g.SubjectPermissions.Explicit {
			if !names(siblings, r.Psid) {
				return false
			}
		}
	}
	return all
}

func names(groups []its.PsidGroupPermissions, p its.Psid) bool {
	return slices.ContainsFunc(groups, func(g its.PsidGroupPermissions) bool {
		return slices.ContainsFunc(g.SubjectPermissions.Explicit, func(r its.PsidSspRange) bool { return r.Psid == p })
	})
}

// contains says whether range r lies in range of.
func contains(of, r its.PsidSspRange) bool {
	outer, ok := of.SspRange.Get()
	if !ok || outer.Choice == its.SspRangeAll {
		return true
	}
	inner, ok := r.SspRange.Get()
	if !ok || inner.Choice != outer.Choice {
		return false
	}
	switch outer.Choice {
	case its.SspRangeOpaque:
		return !slices.ContainsFunc(inner.Opaque, func(o []byte) bool { return !holdsOctets(outer.Opaque, o) })
	case its.SspRangeBitmap:
		return agree(outer.SspBitmask, outer.SspBitmask, inner.SspBitmask) && agree(outer.SspBitmask, outer.SspValue, inner.SspValue)
	}
	return false
}
