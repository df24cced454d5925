package v1

import "time"

// MessagePolicy says who may publish and subscribe where.
type MessagePolicy struct {
	Version int64      `json:"version" doc:"Raised by every change; 0 is the one that is built in"`
	Text    string     `json:"text" doc:"The policy, as the guide to policies describes"`
	Changed *time.Time `json:"changed,omitempty" doc:"When it was set; left out for the one that is built in"`
	By      string     `json:"by,omitempty" doc:"Who set it"`
}

// NewMessagePolicy replaces the policy.
type NewMessagePolicy struct {
	Text string `json:"text" minLength:"1" maxLength:"1048576" doc:"The policy"`
	File string `json:"file,omitempty" maxLength:"255" doc:"What the text is called where it comes from; mistakes are told under that name" example:"fleet.policy"`
	Seen int64  `json:"seen" minimum:"0" doc:"The version that it replaces; another one has been set meanwhile if it is not the present one"`
}

// PolicyQuestion asks what the policy would say.
type PolicyQuestion struct {
	Thing  string `json:"thing" minLength:"1" maxLength:"255" doc:"The device or service: name or id" example:"meter-1"`
	Client string `json:"client,omitempty" maxLength:"255" doc:"Its client identifier; left out: the name"`
	Action string `json:"action" enum:"publish,subscribe,will" doc:"What it would do"`
	Topic  string `json:"topic" minLength:"1" maxLength:"2048" doc:"The topic, or for subscribe the filter" example:"v1/meter-1/telemetry/power"`
	QoS    int    `json:"qos,omitempty" minimum:"0" maximum:"2" doc:"Quality of service"`
	Retain bool   `json:"retain,omitempty" doc:"With the retain flag"`
	Size   int    `json:"size,omitempty" minimum:"0" doc:"Octets of the payload"`
}

// PolicyVerdict is the answer, with the reason.
type PolicyVerdict struct {
	Allowed bool     `json:"allowed" doc:"Whether it may"`
	Group   string   `json:"group,omitempty" doc:"The policy's group that it is in; left out when it is in none and may not connect"`
	Why     []string `json:"why" doc:"Which rule decided, or what each one lacks"`
}

// MessageConnection is a live connection at the server that was asked.
type MessageConnection struct {
	Thing         string     `json:"thing" doc:"Name of the device or service"`
	ID            string     `json:"id" doc:"Its id"`
	Client        string     `json:"client" doc:"Client identifier"`
	Group         string     `json:"group" doc:"The policy's group that it is in"`
	Front         string     `json:"front" doc:"How it is connected" example:"mqtt"`
	Address       string     `json:"address" doc:"From where" example:"192.0.2.7:51123"`
	Serial        string     `json:"serial" doc:"Of its certificate, hex"`
	Since         time.Time  `json:"since" doc:"Since when"`
	Subscriptions int        `json:"subscriptions" doc:"Of its session"`
	InFlight      int        `json:"in_flight" doc:"Messages that it has not acknowledged yet"`
	Queued        int        `json:"queued" doc:"Octets that wait to be written"`
	LastCut       string     `json:"last_cut,omitempty" doc:"Why this server cut it off last; left out: it has not since it started"`
	CutAt         *time.Time `json:"cut_at,omitempty" doc:"When that was"`
}

// MessageConnectionList holds live connections.
type MessageConnectionList struct {
	Connections []MessageConnection `json:"connections" doc:"By name"`
}

// EndConnections names connections to be ended.
type EndConnections struct {
	Thing string `json:"thing" minLength:"1" maxLength:"255" doc:"The device or service: name or id" example:"meter-1"`
}

// EndedConnections says how many were ended.
type EndedConnections struct {
	Ended int `json:"ended" doc:"Connections of this server that were ended"`
}

// NewMessage is published by an operator.
type NewMessage struct {
	Topic         string         `json:"topic" minLength:"1" maxLength:"2048" doc:"Where it is published" example:"v1/meter-1/cmd/reboot"`
	Payload       []byte         `json:"payload,omitempty" maxLength:"1398104" doc:"At most 1 MiB"`
	QoS           int            `json:"qos,omitempty" minimum:"0" maximum:"2" doc:"The most that subscribers get it with"`
	Retain        bool           `json:"retain,omitempty" doc:"Kept for those that subscribe later"`
	Expiry        int            `json:"expiry,omitempty" minimum:"0" maximum:"4294967295" doc:"Seconds after which it is of no use any more; 0: never"`
	ContentType   string         `json:"content_type,omitempty" maxLength:"255" doc:"Of the payload" example:"application/json"`
	ResponseTopic string         `json:"response_topic,omitempty" maxLength:"2048" doc:"Where an answer is awaited"`
	Correlation   []byte         `json:"correlation,omitempty" maxLength:"1400" doc:"What the answer is to repeat"`
	User          []UserProperty `json:"user,omitempty" maxItems:"32" doc:"User properties"`
}

// UserProperty is a pair of texts that goes with a message.
type UserProperty struct {
	Name  string `json:"name" maxLength:"1024" doc:"Name"`
	Value string `json:"value" maxLength:"4096" doc:"Value"`
}

// Message is one that somebody published.
type Message struct {
	Topic         string         `json:"topic" doc:"Where it was published"`
	Payload       []byte         `json:"payload" doc:"What it says, base64"`
	QoS           int            `json:"qos" doc:"As it was published"`
	Retain        bool           `json:"retain,omitempty" doc:"As it was published"`
	Expiry        int            `json:"expiry,omitempty" doc:"Seconds that it is of use from its reception on"`
	ContentType   string         `json:"content_type,omitempty" doc:"Of the payload"`
	ResponseTopic string         `json:"response_topic,omitempty" doc:"Where an answer is awaited"`
	Correlation   []byte         `json:"correlation,omitempty" doc:"What the answer is to repeat"`
	User          []UserProperty `json:"user,omitempty" doc:"User properties"`
	Thing         string         `json:"thing,omitempty" doc:"Name of who published it; left out: the platform, or an operator"`
	Child         string         `json:"child,omitempty" doc:"For whom a gateway published it"`
	At            time.Time      `json:"at" doc:"When it was received"`
	Listeners     *int           `json:"listeners,omitempty" doc:"Of what was just published: how many subscriptions of connections of the server that was asked match its topic"`
}

// MessageLine is a line of a stream of messages.
type MessageLine struct {
	Begun   bool     `json:"begun,omitempty" doc:"The first line: messages from now on follow"`
	Alive   bool     `json:"alive,omitempty" doc:"Nothing was published for a while"`
	Message *Message `json:"message,omitempty" doc:"One message"`
	Error   *Problem `json:"error,omitempty" doc:"Why the stream ends"`
}

// Sink is how a receiver is to whom what devices publish is passed on.
type Sink struct {
	Name      string  `json:"name" doc:"Name of its file in messaging.sinks"`
	Measured  bool    `json:"measured" doc:"False: the database or the log did not answer, and the rest is not known"`
	Running   bool    `json:"running" doc:"Whether the server that was asked supplies it, and so knows what is counted"`
	Lag       uint64  `json:"lag" doc:"Messages of the log that are not safe at the receiver"`
	Behind    float64 `json:"behind_seconds" doc:"Age of the oldest message that is on its way"`
	Dead      int64   `json:"dead" doc:"Dead letters"`
	Delivered uint64  `json:"delivered" doc:"Messages that became safe since the start of the server"`
	Failures  uint64  `json:"failures" doc:"Calls that failed since then"`
	Missed    uint64  `json:"missed" doc:"Messages that had left the log before the sink came to them, since then"`
	Cause     string  `json:"cause,omitempty" doc:"Why the last call failed"`
}

// SinkList holds sinks.
type SinkList struct {
	Sinks []Sink `json:"sinks" doc:"By name"`
}

// DeadLetter is a message that a receiver refused.
type DeadLetter struct {
	ID      string    `json:"id" doc:"Its id for ever" example:"dj3k2v9qk1k0-42"`
	At      time.Time `json:"at" doc:"When it was refused"`
	Reason  string    `json:"reason" doc:"What the receiver has against it"`
	Retry   bool      `json:"retry,omitempty" doc:"It is about to be handed over once more"`
	Thing   string    `json:"thing" doc:"Name of who published it"`
	Topic   string    `json:"topic" doc:"Where it was published"`
	Payload []byte    `json:"payload" doc:"What it says, base64"`
}

// DeadLetterList holds dead letters.
type DeadLetterList struct {
	Letters []DeadLetter `json:"letters" doc:"The oldest first"`
	Next    string       `json:"next,omitempty" doc:"Give it as after to go on; left out at the end"`
}

// DeadLetters names dead letters of a sink.
type DeadLetters struct {
	IDs []string `json:"ids,omitempty" maxItems:"1000" doc:"Which ones"`
	All bool     `json:"all,omitempty" doc:"All of them, in the place of ids"`
}

// HandledLetters says how many dead letters were meant.
type HandledLetters struct {
	Letters int64 `json:"letters" doc:"How many"`
}
