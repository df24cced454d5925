package ca

import (
	"fmt"
	"regexp"
	"strings"

	"mooring/internal/base/errs"
	"mooring/wire/der"
)

// Values are what the registry says about the device that a certificate is for. Templates and registered names draw on nothing else.
type Values struct {
	ID    string // hex device id
	Name  string
	Group string
	Tags  map[string]string
	Names der.AltNames // normalised; Other are those that hardware attested
}

// text is a fixed text with places for registry values, such as "urn:mooring:device:{device.id}".
type text struct {
	source string
	parts  []part
}

// part is fixed text, or a value if field is set.
type part struct {
	fixed string
	field string // "id", "name", "group", "tag"
	tag   string
}

var placeholder = regexp.MustCompile(`^device\.(?:(id|name|group)|(tag)\.([A-Za-z0-9_.-]{1,64}))$`)

func parseText(source string) (text, error) {
	t := text{source: source}
	for rest := source; rest != ""; {
		fixed, after, open := strings.Cut(rest, "{")
		if strings.Contains(fixed, "}") {
			return text{}, fmt.Errorf("template %q: a } without its {", source)
		}
		if fixed != "" {
			t.parts = append(t.parts, part{fixed: fixed})
		}
		if !open {
			break
		}
		name, remainder, closed := strings.Cut(after, "}")
		m := placeholder.FindStringSubmatch(name)
		if !closed || m == nil {
			return text{}, fmt.Errorf("template %q: {%s} is unknown: use {device.id}, {device.name}, {device.group} or {device.tag.NAME}", source, name)
		}
		t.parts = append(t.parts, part{field: m[1] + m[2], tag: m[3]})
		rest = remainder
	}
	return t, nil
}

func (t text) fill(v *Values) (string, error) {
	if len(t.parts) == 1 {
		return t.parts[0].value(v)
	}
	var b strings.Builder
	for _, p := range t.parts {
		s, err := p.value(v)
		if err != nil {
			return "", err
		}
		b.WriteString(s)
	}
	return b.String(), nil
}

func (p part) value(v *Values) (string, error) {
	value := p.fixed
	switch p.field {
	case "":
		return value, nil
	case "id":
		value = v.ID
	case "name":
		value = v.Name
	case "group":
		value = v.Group
	case "tag":
		value = v.Tags[p.tag]
	}
	if value != "" {
		return value, nil
	}
	if p.field == "tag" {
		return "", errs.New(errs.Invalid, "the device has no tag %q, which its profile writes into the certificate", p.tag)
	}
	return "", errs.New(errs.Invalid, "the device has no %s, which its profile writes into the certificate", p.field)
}

// tags calls add for every tag that the text draws on.
func (t text) tags(add func(tag string)) {
	for _, p := range t.parts {
		if p.tag != "" {
			add(p.tag)
		}
	}
}
