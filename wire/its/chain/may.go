package chain

import "mooring/wire/its"

// MayIssue says whether permissions to issue allow an application to a certificate that follows at once and ends the chain: what an authority asks before it
// signs.
func MayIssue(groups []its.PsidGroupPermissions, a its.PsidSsp) bool { return mayIssue(groups, a) }
