package broker

import (
	"net/http"
	"strconv"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
)

// RMQTT takes every body that it does not know for an allow, and the mere presence of a header X-Superuser for a superuser. Both are never sent.
func rmqtt() dialect {
	return dialect{
		operations:  map[string]func(*question) verdict{"auth": rmqttAuth, "acl": rmqttACL},
		refuse:      func(w http.ResponseWriter, _ Mode) { web.Write(w, http.StatusOK, "text/plain", []byte("deny")) },
		kicksClient: true,
	}
}

func rmqttAllow(w http.ResponseWriter) { web.Write(w, http.StatusOK, "text/plain", []byte("allow")) }

func rmqttAuth(q *question) verdict {
	fields, err := q.fields("username", "clientid")
	if err != nil {
		return no(err)
	}
	k, err := q.know(q.username(fields["username"], fields["clientid"]))
	if err != nil {
		return no(err)
	}
	if !q.List { // versions before 0.8 know the word alone
		return yes(rmqttAllow)
	}
	return yes(func(w http.ResponseWriter) {
		a := q.admission(k)
		writeJSON(w, struct {
			Result    string  `json:"result"`
			Superuser bool    `json:"superuser"`
			ExpireAt  int64   `json:"expire_at"`
			ACL       []entry `json:"acl,omitempty"`
		}{a.Result, false, a.ExpireAt, a.ACL})
	})
}

// What RMQTT wants to do, in numbers of its own.
const (
	rmqttSubscribe = "1"
	rmqttPublish   = "2"
)

func rmqttACL(q *question) verdict {
	fields, err := q.fields("username", "clientid", "access", "topic")
	if err != nil {
		return no(err)
	}
	k, err := q.know(q.username(fields["username"], fields["clientid"]))
	if err != nil {
		return no(err)
	}
	switch fields["access"] {
	case rmqttSubscribe:
		err = k.subscribe(fields["topic"], 0, false)
	case rmqttPublish:
		err = k.publish(fields["topic"], 0, false) // which QoS, and whether it is retained, is not told
	default:
		err = errs.New(errs.Invalid, "the access %q is unknown", fields["access"])
	}
	if err != nil {
		return no(err)
	}
	return yes(func(w http.ResponseWriter) {
		if fields["access"] == rmqttPublish && q.Cache > 0 { // -1 would be for as long as the connection lasts
			w.Header().Set("X-Cache", strconv.FormatInt(q.Cache.Milliseconds(), 10))
		}
		rmqttAllow(w)
	})
}
