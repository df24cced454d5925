package broker

import (
	"encoding/json"
	"encoding/pem"
	"net/http"

	"mooring/internal/base/errs"
	"mooring/internal/base/web"
)

func emqx() dialect {
	return dialect{
		operations:  map[string]func(*question) verdict{"authn": emqxAuthn, "authz": emqxAuthz},
		refuse:      func(w http.ResponseWriter, _ Mode) { writeJSON(w, map[string]string{"result": "deny"}) },
		kicksClient: true,
	}
}

// emqxAuthn answers when a client connects. What EMQX sends is defined by the template in its configuration, that is by us; cert is optional there.
func emqxAuthn(q *question) verdict {
	var ask struct {
		ClientID    string `json:"clientid"`
		CN          string `json:"cn"`
		Certificate string `json:"cert"` // PEM
	}
	if err := q.json(&ask); err != nil {
		return no(err)
	}
	c := claim{name: ask.CN, client: ask.ClientID}
	if ask.Certificate != "" && ask.Certificate != "undefined" {
		block, _ := pem.Decode([]byte(ask.Certificate))
		if block == nil || block.Type != "CERTIFICATE" {
			return no(errs.New(errs.Invalid, "cert is no certificate in PEM"))
		}
		c.certificate = block.Bytes
	}
	k, err := q.know(c)
	if err != nil {
		return no(err)
	}
	return yes(func(w http.ResponseWriter) { writeJSON(w, q.admission(k)) })
}

// admission lets a client in. EMQX and RMQTT understand it: expire_at is in seconds, milliseconds would be refused.
type admission struct {
	Result    string  `json:"result"`
	Superuser bool    `json:"is_superuser"`
	ExpireAt  int64   `json:"expire_at"`
	ACL       []entry `json:"acl,omitempty"`
}

func (q *question) admission(k known) admission {
	a := admission{Result: "allow", ExpireAt: q.ends(k)}
	if q.List {
		a.ACL, _ = list(k.rights.Rules()) // what cannot be told exactly is asked for each time
	}
	return a
}

// emqxAuthz answers for one publish or subscribe, where no list was told.
func emqxAuthz(q *question) verdict {
	var ask struct {
		ClientID string      `json:"clientid"`
		CN       string      `json:"cn"`
		Action   string      `json:"action"`
		Topic    string      `json:"topic"`
		QoS      loose[int]  `json:"qos"`
		Retain   loose[bool] `json:"retain"`
	}
	if err := q.json(&ask); err != nil {
		return no(err)
	}
	k, err := q.know(claim{name: ask.CN, client: ask.ClientID})
	if err != nil {
		return no(err)
	}
	switch ask.Action {
	case "publish":
		err = k.publish(ask.Topic, ask.QoS.value, ask.Retain.value)
	case "subscribe":
		err = k.subscribe(ask.Topic, ask.QoS.value, false)
	default:
		err = errs.New(errs.Invalid, "the action %q is unknown", ask.Action)
	}
	if err != nil {
		return no(err)
	}
	return yes(func(w http.ResponseWriter) { writeJSON(w, map[string]string{"result": "allow"}) })
}

// json reads the body as a JSON object; members that v does not have are skipped.
func (q *question) json(v any) error {
	if err := json.Unmarshal(q.body, v); err != nil {
		return errs.Wrap(errs.Invalid, err, "the question is no JSON as it was agreed upon")
	}
	return nil
}

// loose is a number or truth that templates may have put into quotes. What is absent, or "undefined", is zero.
type loose[T int | bool] struct{ value T }

// UnmarshalJSON implements json.Unmarshaler.
func (l *loose[T]) UnmarshalJSON(text []byte) error {
	var quoted string
	if json.Unmarshal(text, &quoted) == nil {
		if quoted == "" || quoted == "undefined" {
			return nil
		}
		text = []byte(quoted)
	}
	return json.Unmarshal(text, &l.value)
}

// writeJSON answers 200 with v.
func writeJSON(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic("broker: " + err.Error()) // strings and numbers always marshal
	}
	web.Write(w, http.StatusOK, "application/json", body)
}
