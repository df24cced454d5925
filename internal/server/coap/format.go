package coap

import (
	"mime"
	"strings"

	"mooring/internal/base/coap"
	"mooring/internal/core/message"
	wire "mooring/wire/coap"
)

// formats are the content formats of the registry (RFC 7252, section 12.3, and what was added to it) that devices send readings and commands in.
var formats = []struct {
	format wire.Format
	name   string
}{
	{wire.TextPlain, "text/plain;charset=utf-8"},
	{wire.LinkFormat, "application/link-format"},
	{41, "application/xml"},
	{42, "application/octet-stream"},
	{47, "application/exi"},
	{50, "application/json"},
	{51, "application/json-patch+json"},
	{52, "application/merge-patch+json"},
	{60, "application/cbor"},
	{61, "application/cwt"},
	{wire.MultipartCore, "application/multipart-core"},
	{63, "application/cbor-seq"},
	{96, "application/cose;cose-type=cose-encrypt"},
	{97, "application/cose;cose-type=cose-mac"},
	{98, "application/cose;cose-type=cose-sign"},
	{110, "application/senml+json"},
	{111, "application/sensml+json"},
	{112, "application/senml+cbor"},
	{113, "application/sensml+cbor"},
	{114, "application/senml-exi"},
	{115, "application/sensml-exi"},
	{310, "application/senml+xml"},
	{311, "application/sensml+xml"},
	{11542, "application/vnd.oma.lwm2m+tlv"},
	{11543, "application/vnd.oma.lwm2m+json"},
	{11544, "application/vnd.oma.lwm2m+cbor"},
}

// contentType returns the name of a content format.
func contentType(f wire.Format) (name string, ok bool) {
	for _, one := range formats {
		if one.format == f {
			return one.name, true
		}
	}
	return "", false
}

// format returns the content format of a message, or coap.NoFormat when there is no number for what it is.
func format(m *message.Message) wire.Format {
	switch {
	case m.ContentType != "":
		name := plain(m.ContentType)
		for _, one := range formats {
			if plain(one.name) == name {
				return one.format
			}
		}
	case m.Format == 1:
		return wire.TextPlain
	}
	return coap.NoFormat
}

// plain is a media type as it compares: RFC 9110, section 8.3.1. The charset of text is UTF-8, whoever wrote it how.
func plain(name string) string {
	kind, parameters, err := mime.ParseMediaType(name)
	if err != nil {
		return name
	}
	if strings.EqualFold(parameters["charset"], "utf-8") {
		delete(parameters, "charset")
	}
	return mime.FormatMediaType(kind, parameters)
}
