package broker

import (
	"mime"
	"net/http"
	"net/url"
	"strconv"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
)

func goauth() dialect {
	return dialect{
		operations: map[string]func(*question) verdict{"user": goauthUser, "superuser": goauthSuperuser, "acl": goauthACL},
		refuse: func(w http.ResponseWriter, mode Mode) {
			switch mode {
			case ModeJSON:
				writeJSON(w, goauthAnswer{Error: "denied"})
			case ModeText:
				web.Write(w, http.StatusOK, "text/plain", []byte("denied"))
			default: // a 5xx would be asked again and counted as an error
				web.Write(w, http.StatusForbidden, "text/plain", []byte("denied"))
			}
		},
	}
}

type goauthAnswer struct {
	OK    bool   `json:"Ok"`
	Error string `json:"Error"`
}

// goauthYes says yes in the broker's mode.
func goauthYes(q *question) verdict {
	return yes(func(w http.ResponseWriter) {
		if q.Mode == ModeJSON {
			writeJSON(w, goauthAnswer{OK: true})
			return
		}
		web.Write(w, http.StatusOK, "text/plain", []byte("ok"))
	})
}

// goauthUser answers when somebody connects whose name is not from a certificate in mosquitto's own way, which would not ask.
func goauthUser(q *question) verdict {
	fields, err := q.fields("username", "clientid")
	if err != nil {
		return no(err)
	}
	if _, err := q.know(q.username(fields["username"], fields["clientid"])); err != nil {
		return no(err)
	}
	return goauthYes(q)
}

func goauthSuperuser(*question) verdict {
	return no(errs.New(errs.Denied, "nobody is a superuser"))
}

// What mosquitto wants to do, in numbers of its own.
const (
	goauthRead      = 1 // deliver one message to the client: the topic is a name
	goauthWrite     = 2
	goauthSubscribe = 4 // the topic is a filter
)

func goauthACL(q *question) verdict {
	fields, err := q.fields("username", "clientid", "topic", "acc")
	if err != nil {
		return no(err)
	}
	k, err := q.know(q.username(fields["username"], fields["clientid"]))
	if err != nil {
		return no(err)
	}
	acc, err := strconv.Atoi(fields["acc"])
	topic := fields["topic"]
	switch {
	case err != nil || acc < goauthRead || acc > goauthRead+goauthWrite+goauthSubscribe:
		return no(errs.New(errs.Invalid, "the access %q is unknown", fields["acc"]))
	case acc&goauthRead != 0 && !k.rights.Receive(topic).OK():
		return no(errs.New(errs.Denied, "it may not receive from there"))
	case acc&goauthWrite != 0:
		if err := k.publish(topic, 0, false); err != nil { // which QoS, and whether it is retained, is not told
			return no(err)
		}
	}
	if acc&goauthSubscribe != 0 {
		if err := k.subscribe(topic, 0, true); err != nil {
			return no(err)
		}
	}
	return goauthYes(q)
}

// fields reads the members of that name from a JSON object or a form, as the Content-Type says. Those that are absent are "".
func (q *question) fields(names ...string) (map[string]string, error) {
	kind, _, err := mime.ParseMediaType(q.r.Header.Get("Content-Type"))
	all := map[string]string{}
	switch {
	case err == nil && kind == "application/json":
		var object map[string]any
		if err := q.json(&object); err != nil {
			return nil, err
		}
		for _, name := range names {
			switch v := object[name].(type) {
			case string:
				all[name] = v
			case float64:
				all[name] = strconv.FormatFloat(v, 'f', -1, 64)
			}
		}
	case err == nil && kind == "application/x-www-form-urlencoded":
		form, err := url.ParseQuery(string(q.body))
		if err != nil {
			return nil, errs.Wrap(errs.Invalid, err, "the question is no form")
		}
		for _, name := range names {
			if len(form[name]) > 1 {
				return nil, errs.New(errs.Invalid, "the form has %q more than once", name)
			}
			all[name] = form.Get(name)
		}
	default:
		return nil, errs.New(errs.Invalid, "the question is neither JSON nor a form")
	}
	return all, nil
}
