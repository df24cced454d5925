package broker

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"

	"mooring/internal/base/errs"
)

// refusedQoS refuses one filter of several.
const refusedQoS = 128

func vernemq() dialect {
	d := dialect{
		operations:  map[string]func(*question) verdict{},
		kicksClient: true,
		refuse: func(w http.ResponseWriter, _ Mode) {
			writeJSON(w, map[string]any{"result": map[string]string{"error": "not_allowed"}})
		},
	}
	for name, answer := range map[string]func(*question, bool) verdict{
		"auth_on_register": vernemqRegister, "auth_on_publish": vernemqPublish, "auth_on_subscribe": vernemqSubscribe,
	} {
		d.operations[name] = func(q *question) verdict { return vernemqHook(q, name, false, answer) }
		d.operations[name+"_m5"] = func(q *question) verdict { return vernemqHook(q, name+"_m5", true, answer) }
	}
	return d
}

// vernemqHook answers one hook. The header names it as well: a hook that was registered with another's address is refused.
func vernemqHook(q *question, name string, five bool, answer func(*question, bool) verdict) verdict {
	if got := q.r.Header.Get("vernemq-hook"); got != name {
		return no(errs.New(errs.Invalid, "the question is the hook %q and not %q", got, name))
	}
	return answer(q, five)
}

// vernemqClient is what each hook tells of the client.
type vernemqClient struct {
	Mountpoint  string  `json:"mountpoint"`
	ClientID    string  `json:"client_id"`
	Username    *string `json:"username"` // null when there is none
	Certificate string  `json:"client_cert"`
}

func (q *question) vernemq(c vernemqClient) (known, error) {
	if c.Mountpoint != "" {
		return known{}, errs.New(errs.Denied, "there are no mountpoints here")
	}
	name := ""
	if c.Username != nil {
		name = *c.Username
	}
	who := q.username(name, c.ClientID)
	if c.Certificate != "" {
		raw, err := base64.StdEncoding.DecodeString(c.Certificate)
		if err != nil {
			return known{}, errs.Wrap(errs.Invalid, err, "client_cert is no base64")
		}
		who.certificate = raw
	}
	return q.know(who)
}

func vernemqRegister(q *question, _ bool) verdict {
	var ask vernemqClient
	if err := q.json(&ask); err != nil {
		return no(err)
	}
	if _, err := q.vernemq(ask); err != nil {
		return no(err)
	}
	return yes(func(w http.ResponseWriter) { writeJSON(w, map[string]string{"result": "ok"}) }) // never cached: a revoked device must not come in
}

func vernemqPublish(q *question, _ bool) verdict {
	var ask struct {
		vernemqClient
		Topic  string `json:"topic"`
		QoS    int    `json:"qos"`
		Retain bool   `json:"retain"`
	}
	if err := q.json(&ask); err != nil {
		return no(err)
	}
	k, err := q.vernemq(ask.vernemqClient)
	if err == nil {
		err = k.publish(ask.Topic, ask.QoS, ask.Retain)
	}
	if err != nil {
		return no(err)
	}
	return yes(func(w http.ResponseWriter) {
		q.cacheable(w)
		writeJSON(w, map[string]string{"result": "ok"})
	})
}

// cacheable lets VerneMQ remember an answer, which it does with yes alone.
func (q *question) cacheable(w http.ResponseWriter) {
	if q.Cache > 0 {
		w.Header().Set("Cache-Control", fmt.Sprintf("max-age=%d", int(q.Cache.Seconds())))
	}
}

// vernemqTopic is one filter of a subscription; options of MQTT 5 go back as they came.
type vernemqTopic struct {
	Topic string          `json:"topic"`
	QoS   json.RawMessage `json:"qos"` // MQTT 5: may be a pair of the QoS and options, as VerneMQ's version has it
}

// qos returns the QoS: the number, or the first of a list, or the member of an object. What is none of these is 2, the most.
func (t *vernemqTopic) qos() int {
	var number int
	var list []json.RawMessage
	var object struct{ QoS *int }
	switch {
	case json.Unmarshal(t.QoS, &number) == nil:
		return number
	case json.Unmarshal(t.QoS, &list) == nil && len(list) > 0 && json.Unmarshal(list[0], &number) == nil:
		return number
	case json.Unmarshal(t.QoS, &object) == nil && object.QoS != nil:
		return *object.QoS
	}
	return 2
}

// vernemqSubscribe refuses filters one by one. If none is left, the whole is refused.
func vernemqSubscribe(q *question, five bool) verdict {
	var ask struct {
		vernemqClient
		Topics []vernemqTopic `json:"topics"`
	}
	if err := q.json(&ask); err != nil {
		return no(err)
	}
	k, err := q.vernemq(ask.vernemqClient)
	if err != nil {
		return no(err)
	}
	refused := 0
	for i, t := range ask.Topics {
		if err = k.subscribe(t.Topic, t.qos(), false); err != nil {
			ask.Topics[i].QoS = json.RawMessage(fmt.Sprint(refusedQoS))
			refused++
		}
	}
	if refused == len(ask.Topics) {
		return no(errs.Wrap(errs.Denied, err, "it may subscribe to none of that"))
	}
	answer := map[string]any{"result": "ok"}
	switch {
	case refused > 0 && five:
		answer["modifiers"] = map[string]any{"topics": ask.Topics}
	case refused > 0:
		answer["topics"] = ask.Topics
	}
	return yes(func(w http.ResponseWriter) {
		q.cacheable(w)
		writeJSON(w, answer)
	})
}
