package coap

import "strings"

// Format names a content format.
type Format uint32

// The content formats that are used here.
const (
	TextPlain      Format = 0
	LinkFormat     Format = 40  // RFC 6690
	MultipartCore  Format = 62  // RFC 8710
	PKCS7Enveloped Format = 280 // application/pkcs7-mime; smime-type=server-generated-key
	PKCS7CertsOnly Format = 281 // application/pkcs7-mime; smime-type=certs-only
	PKCS8          Format = 284
	CSRAttrs       Format = 285
	PKCS10         Format = 286
	PKIXCert       Format = 287
)

// Link is one resource of a list (RFC 6690, section 2).
type Link struct {
	Target     string
	Attributes []Attribute
}

// Attribute says something about a link; without a value that is all there is to say.
type Attribute struct{ Name, Value string }

// AppendLinks appends a list of links in the CoRE link format. Neither targets nor values may hold quotation marks or backslashes.
func AppendLinks(b []byte, links []Link) []byte {
	for i, l := range links {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, '<'), l.Target...), '>')
		for _, a := range l.Attributes {
			b = append(append(b, ';'), a.Name...)
			if a.Value == "" {
				continue
			}
			b = append(b, '=')
			b = append(append(append(b, '"'), a.Value...), '"')
		}
	}
	return b
}

// FilterLinks returns the links that a query such as "rt=ace.est*" asks for (RFC 6690, section 4.1): one of an attribute's values, which blanks part, is
// the value of the query or, with a star at its end, begins with it. A query by "href" looks at the target. Without "=" it asks for nothing.
func FilterLinks(links []Link, query string) (list []Link) {
	name, want, ok := strings.Cut(query, "=")
	if !ok {
		return nil
	}
	want = strings.Trim(want, `"`)
	for _, l := range links {
		if l.has(name, want) {
			list = append(list, l)
		}
	}
	return list
}

func (l Link) has(name, want string) bool {
	if name == "href" {
		return matches(l.Target, want)
	}
	for _, a := range l.Attributes {
		if a.Name != name {
			continue
		}
		for _, value := range strings.Fields(a.Value) {
			if matches(value, want) {
				return true
			}
		}
	}
	return false
}

func matches(value, want string) bool {
	if prefix, star := strings.CutSuffix(want, "*"); star {
		return strings.HasPrefix(value, prefix)
	}
	return value == want
}
