package ca

// CRLAddress returns the address of the CRL of the CA with this id as certificates name it, "" when they name none. The list repeats it
// octet by octet (RFC 5280, section 5.2.5).
func (a *Authority) CRLAddress(id IssuerID) string { return a.URLs.crl(id) }
