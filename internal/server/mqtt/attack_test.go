package mqtt

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"mooring/internal/core/message"
	"mooring/wire/mqtt"
)

// Packets that break the rules end their connection with the code that 5.0 has for it; others go on, and so does the process. The octets are written out,
// as no encoder would make them.
func TestMalformedPackets(t *testing.T) {
	w := newWorld(t, nil)
	bystander, _ := w.connect("dev-9", nil)
	for _, row := range []struct {
		name, octets, want string
	}{
		{"type 0", "\x00\x00", "malformed packet"},
		{"Remaining Length of five octets", "\x30\x80\x80\x80\x80\x01", "malformed packet"},
		{"Remaining Length that is not the shortest", "\xc0\x80\x00", "malformed packet"},
		{"CONNECT again", "\x10\x10\x00\x04MQTT\x05\x02\x00\x1e\x00\x00\x03abc", "protocol error"},
		{"CONNACK", "\x20\x03\x00\x00\x00", "protocol error"},
		{"PUBLISH with QoS 3", "\x36\x07\x00\x01a\x00\x01\x00x", "malformed packet"},
		{"PUBLISH with DUP and QoS 0", "\x38\x05\x00\x01a\x00x", "malformed packet"},
		{"PUBLISH with id 0", "\x32\x07\x00\x01a\x00\x00\x00x", "malformed packet"},
		{"PUBLISH without properties", "\x30\x03\x00\x01a", "malformed packet"},
		{"PUBLISH whose topic is longer than it", "\x30\x05\x00\xffa\x00x", "malformed packet"},
		{"PUBLISH with a wildcard", "\x30\x07\x00\x03a/#\x00x", "topic name invalid"},
		{"PUBLISH to nothing", "\x30\x04\x00\x00\x00x", "protocol error"},
		{"PUBLISH with NUL", "\x30\x07\x00\x03a\x00b\x00x", "malformed packet"},
		{"PUBLISH with bad UTF-8", "\x30\x06\x00\x02a\xff\x00x", "malformed packet"},
		{"PUBLISH with a surrogate", "\x30\x07\x00\x03\xed\xa0\x80\x00x", "malformed packet"},
		{"PUBLISH with U+FFFF", "\x30\x07\x00\x03\xef\xbf\xbf\x00x", "topic name invalid"},
		{"PUBLISH with a property twice", "\x30\x09\x00\x01a\x04\x01\x01\x01\x01x", "protocol error"},
		{"PUBLISH with a property of CONNECT", "\x30\x0a\x00\x01a\x05\x11\x00\x00\x00\x01x", "malformed packet"},
		{"PUBLISH with a subscription identifier", "\x30\x07\x00\x01a\x02\x0b\x01x", "malformed packet"},
		{"alias 0", "\x30\x08\x00\x01a\x03\x23\x00\x00x", "topic alias invalid"},
		{"alias above the maximum", "\x30\x08\x00\x01a\x03\x23\x00\x05x", "topic alias invalid"},
		{"alias that is unknown", "\x30\x07\x00\x00\x03\x23\x00\x02x", "protocol error"},
		{"PUBACK of one octet", "\x40\x01\x00", "malformed packet"},
		{"PUBACK with id 0", "\x40\x02\x00\x00", "malformed packet"},
		{"PUBACK with flags", "\x41\x02\x00\x01", "malformed packet"},
		{"PUBACK with a code of SUBACK", "\x40\x03\x00\x01\x01", "protocol error"},
		{"PUBREC with octets behind", "\x50\x05\x00\x01\x00\x00\xff", "malformed packet"},
		{"PUBREL with flags 0", "\x60\x02\x00\x01", "malformed packet"},
		{"PUBCOMP of nothing", "\x70\x00", "malformed packet"},
		{"SUBSCRIBE with flags 0", "\x80\x07\x00\x01\x00\x00\x01a\x00", "malformed packet"},
		{"SUBSCRIBE to nothing", "\x82\x03\x00\x01\x00", "protocol error"},
		{"SUBSCRIBE without options", "\x82\x06\x00\x01\x00\x00\x01a", "malformed packet"},
		{"SUBSCRIBE with an empty filter and no options", "\x82\x05\x00\x01\x00\x00\x00", "malformed packet"},
		{"SUBSCRIBE with reserved options", "\x82\x07\x00\x01\x00\x00\x01a\x40", "malformed packet"},
		{"SUBSCRIBE with QoS 3", "\x82\x07\x00\x01\x00\x00\x01a\x03", "protocol error"},
		{"SUBSCRIBE with Retain Handling 3", "\x82\x07\x00\x01\x00\x00\x01a\x30", "protocol error"},
		{"SUBSCRIBE, shared and No Local", "\x82\x10\x00\x01\x00\x00\x0a$share/g/a\x04", "protocol error"},
		{"SUBSCRIBE with identifier 0", "\x82\x09\x00\x01\x02\x0b\x00\x00\x01a\x00", "protocol error"},
		{"SUBACK", "\x90\x04\x00\x01\x00\x00", "protocol error"},
		{"UNSUBSCRIBE from nothing", "\xa2\x03\x00\x01\x00", "protocol error"},
		{"UNSUBSCRIBE with flags 0", "\xa0\x06\x00\x01\x00\x00\x01a", "malformed packet"},
		{"UNSUBACK", "\xb0\x04\x00\x01\x00\x00", "protocol error"},
		{"PINGREQ with a body", "\xc0\x01\x00", "malformed packet"},
		{"PINGRESP", "\xd0\x00", "protocol error"},
		{"DISCONNECT with a code of servers", "\xe0\x01\x8b", "protocol error"},
		{"DISCONNECT with a longer session than agreed", "\xe0\x07\x00\x05\x11\x00\x00\x00\x09", "protocol error"},
		{"AUTH", "\xf0\x00", "protocol error"},
		{"AUTH that goes on", "\xf0\x06\x18\x04\x15\x00\x01x", "protocol error"},
		{"a claim of 256 MB", "\x30\xff\xff\xff\x7f", "packet too large"},
		{"a property bomb", "\x30\xc9\x01\x00\x01a\xc4\x01" + strings.Repeat("\x26\x00\x00\x00\x00", 39) + "\x01", "packet too large"},
		{"a topic of 65,535 levels", "\x30\x82\x80\x04\xff\xff" + strings.Repeat("/", 65535) + "\x00", "topic name invalid"},
	} {
		t.Run(row.name, func(t *testing.T) {
			c, _ := w.in(t).connect("dev-1", nil)
			c.raw(row.octets)
			c.is(c.closed(), row.want)
		})
	}
	bystander.alive()
}

// What is wrong with the first packet, in octets.
func TestMalformedConnects(t *testing.T) {
	w := newWorld(t, nil)
	bystander, _ := w.connect("dev-9", nil)
	for _, row := range []struct {
		name, octets string
		version      mqtt.Version
		want         string
	}{
		{"SUBSCRIBE first", "\x82\x07\x00\x01\x00\x00\x01a\x00", mqtt.V5, ""},
		{"PINGREQ first", "\xc0\x00", mqtt.V5, ""},
		{"HTTP", "GET / HTTP/1.1\r\n\r\n", mqtt.V5, ""},
		{"another protocol", "\x10\x0f\x00\x04MQTX\x05\x02\x00\x1e\x00\x00\x02ab", mqtt.V5, ""},
		{"level 3", "\x10\x0e\x00\x04MQTT\x03\x02\x00\x1e\x00\x02ab", mqtt.V311, "connack: unsupported protocol version"},
		{"MQIsdp", "\x10\x10\x00\x06MQIsdp\x03\x02\x00\x1e\x00\x02ab", mqtt.V311, "connack: unsupported protocol version"},
		{"level 6", "\x10\x0f\x00\x04MQTT\x06\x02\x00\x1e\x00\x00\x02ab", mqtt.V5, "connack: unsupported protocol version"},
		{"reserved flag", "\x10\x0f\x00\x04MQTT\x05\x03\x00\x1e\x00\x00\x02ab", mqtt.V5, "connack: malformed packet"},
		{"a QoS of no will", "\x10\x0f\x00\x04MQTT\x05\x0a\x00\x1e\x00\x00\x02ab", mqtt.V5, "connack: malformed packet"},
		{"octets behind", "\x10\x10\x00\x04MQTT\x05\x02\x00\x1e\x00\x00\x02ab!", mqtt.V5, "connack: malformed packet"},
		{"a password without a user, 3.1.1", "\x10\x11\x00\x04MQTT\x04\x42\x00\x1e\x00\x02ab\x00\x01p", mqtt.V311, ""},
		{"no client identifier and a session, 3.1.1", "\x10\x0c\x00\x04MQTT\x04\x00\x00\x1e\x00\x00", mqtt.V311, "connack: client identifier not valid"},
		{"Receive Maximum 0", "\x10\x12\x00\x04MQTT\x05\x02\x00\x1e\x03\x21\x00\x00\x00\x02ab", mqtt.V5, "connack: protocol error"},
		{"authentication method", "\x10\x13\x00\x04MQTT\x05\x02\x00\x1e\x04\x15\x00\x01x\x00\x02ab", mqtt.V5, "connack: bad authentication method"},
		{"a will that is no text though it says so", "\x10\x18\x00\x04MQTT\x05\x06\x00\x1e\x00\x00\x02ab\x02\x01\x01\x00\x01a\x00\x01\xff", mqtt.V5,
			"connack: payload format invalid"},
		{"a claim of 40 MB, 5.0", "\x10\x80\xda\xc4\x13\x00\x04MQTT\x05\x02\x00\x1e", mqtt.V5, "connack: packet too large"},
		{"a claim of 40 MB, 3.1.1", "\x10\x80\xda\xc4\x13\x00\x04MQTT\x04\x02\x00\x1e", mqtt.V311, ""},
		{"a claim of 256 MB of nothing", "\x10\xff\xff\xff\x7f\x00\x00\x00\x00\x00\x00\x00", mqtt.V5, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := w.in(t).dial("dev-1")
			c.version = row.version
			c.raw(row.octets)
			c.is(c.closed(), row.want)
		})
	}
	bystander.alive()
	if has(w.hub.seen(), "connect mqtt dev-1") {
		t.Error("core was asked about one of them")
	}
}

// A large claim takes no memory before its octets come.
func TestClaimsTakeNoMemory(t *testing.T) {
	w := newWorld(t, nil)
	before := heap()
	var all []*client
	for i := range 50 {
		c, _ := w.connect(fmt.Sprint("dev-", i), nil)
		c.raw("\x30\xf0\xff\x07\x00\x05all/a\x00") // nearly 128 KiB, of which some octets come
		all = append(all, c)
	}
	for i := range 50 {
		c := w.dial(fmt.Sprint("late-", i))
		c.raw("\x10\xf0\x3f\x00\x04MQTT\x05") // nearly 8 KiB
		all = append(all, c)
	}
	until(t, "all are there", func() bool { return w.server.Metrics().Open == 100 })
	if grown := int(heap()) - int(before); grown > 100*64<<10 {
		t.Errorf("100 connections, of both ends in this process, take %d KiB", grown>>10)
	}
	runtime.KeepAlive(all)
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Topics that are not one's own, in all disguises: nothing is stored, and the answer is the same.
func TestForeignTopics(t *testing.T) {
	w := newWorld(t, nil)
	for _, topic := range []string{"v1/dev-2/x", "v1/dev-1", "v1/dev-10/x", "v1/../dev-1/x", "v1/DEV-1/x", "/v1/dev-1/x", "v1//dev-1/x", "../v1/dev-1/x", "$SYS/x",
		"$share/g/v1/dev-1/x", "$JS/API", "v1/dev\u2010" + "1/x", "v1/dev-1\u200b/x", "\ufeffv1/dev-1/x", "v1/dev-1 /x", "v1 /dev-1/x"} {
		t.Run(topic, func(t *testing.T) {
			c, _ := w.in(t).connect("dev-1", nil)
			c.is(c.publish(topic, "x").Reason, mqtt.NotAuthorised)
			// By an alias it is no better: neither when it is given nor when it is used.
			c.send(mqtt.Publish{Topic: topic, TopicAlias: 1, QoS: 1, ID: 1})
			c.is(expect[mqtt.Ack](c).Reason, mqtt.NotAuthorised)
			c.send(mqtt.Publish{TopicAlias: 1, QoS: 1, ID: 2})
			c.is(expect[mqtt.Ack](c).Reason, mqtt.NotAuthorised)
			c.send(mqtt.Publish{Topic: "all/a", TopicAlias: 1, QoS: 1, ID: 3})
			c.is(expect[mqtt.Ack](c).Reason, mqtt.Success)
			c.send(mqtt.Publish{Topic: topic})
			c.is(c.closed(), "not authorised")
		})
	}
	for _, e := range w.hub.seen() {
		if strings.HasPrefix(e, "store") && e != "store all/a " {
			t.Errorf("core has %q", e)
		}
	}
}

// A subscriber that does not read slows nobody, its queue is bounded, and messages of QoS 0 beyond it are dropped and counted.
func TestSlowSubscriber(t *testing.T) {
	w := newWorld(t, func(s *Server) { s.times.write = time.Hour })
	slow, _ := w.connect("dev-1", nil)
	slow.subscribe(mqtt.Subscription{Filter: "all/#"})
	good, _ := w.connect("dev-2", nil)
	good.subscribe(mqtt.Subscription{Filter: "all/#"})
	payload := make([]byte, 16<<10)
	n := 0
	for ; w.server.Metrics().Dropped < 10; n++ {
		w.hub.send(message.Message{Topic: "all/a", Payload: payload})
		if got := expect[mqtt.Publish](good); len(got.Payload) != len(payload) {
			t.Fatalf("the good subscriber got %d octets", len(got.Payload))
		}
		if n > 100000 {
			t.Fatal("nothing was dropped")
		}
	}
	w.hub.mu.Lock()
	queued := w.hub.sessions["dev-1|dev-1"].link.Queued()
	w.hub.mu.Unlock()
	if queued > 64<<10 {
		t.Errorf("%d octets wait for the slow one, more than 64 KiB", queued)
	}
	for got := 0; got < 3; got++ { // what was not dropped comes when it reads again
		expect[mqtt.Publish](slow)
	}
}
