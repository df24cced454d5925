package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"mooring/internal/base/errs"
	"mooring/wire/mqtt"
)

// mqttClient is as much of a client as a conversation by QoS 0 needs: one goroutine, and an end that the context sets.
type mqttClient struct {
	conn   net.Conn
	stop   func() bool
	buffer []byte // what was read and not used yet
}

var serverRules = mqtt.Rules{Version: mqtt.V311, From: mqtt.Server}

// dialMQTT connects. The connection ends with ctx.
func dialMQTT(ctx context.Context, address string, config *tls.Config, id string) (*mqttClient, error) {
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, errBroker(err, "the broker cannot be reached")
	}
	c := &mqttClient{conn: conn}
	c.stop = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // whatever it waits for ends at once
	c.send(mqtt.Connect{Version: mqtt.V311, CleanStart: true, ClientID: id})
	answer, err := c.next()
	if err == nil {
		if ack, ok := answer.(mqtt.Connack); !ok || ack.Reason != mqtt.Success {
			err = errs.New(errs.Denied, "the broker does not let us in: is our certificate's name a client there?")
		}
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *mqttClient) close() {
	c.send(mqtt.Disconnect{})
	c.stop()
	_ = c.conn.Close() // what mattered was answered
}

// send writes a packet. What goes wrong with it shows when the answer is read.
func (c *mqttClient) send(p mqtt.Packet) { _, _ = c.conn.Write(p.Append(nil, mqtt.V311)) }

// next reads a packet.
func (c *mqttClient) next() (mqtt.Packet, error) {
	for {
		h, n, err := mqtt.ParseHeader(c.buffer)
		if err == nil {
			err = h.Check(serverRules)
		}
		switch {
		case err == nil && len(c.buffer) >= n+h.Length:
			body := c.buffer[n : n+h.Length]
			c.buffer = c.buffer[n+h.Length:]
			p, err := mqtt.Decode(serverRules, h, body)
			if err != nil {
				return nil, errBroker(err, "the broker speaks no MQTT")
			}
			return p, nil
		case err != nil && !errors.Is(err, mqtt.ErrMore):
			return nil, errBroker(err, "the broker speaks no MQTT")
		}
		chunk := make([]byte, 4096)
		n, err = c.conn.Read(chunk)
		if err != nil && (n == 0 || err != io.EOF) {
			return nil, errBroker(err, "the broker ended the connection, or did not answer in time")
		}
		c.buffer = append(c.buffer, chunk[:n]...)
	}
}

func (c *mqttClient) subscribe(filter string) error {
	c.send(mqtt.Subscribe{ID: 1, Filters: []mqtt.Subscription{{Filter: filter}}})
	for {
		p, err := c.next()
		if err != nil {
			return err
		}
		if ack, ok := p.(mqtt.Suback); ok {
			if len(ack.Reasons) != 1 || ack.Reasons[0].Failed() {
				return errs.New(errs.Denied, "the broker refuses a subscription to %s: allow it in its access list", filter)
			}
			return nil
		}
	}
}

// publish publishes by QoS 1 where a refusal would be told, which 3.1.1 does not: the answer that matters is the plugin's.
func (c *mqttClient) publish(topic string, payload []byte) error {
	c.send(mqtt.Publish{Topic: topic, Payload: payload})
	return nil
}

// receive returns the payload of the next message.
func (c *mqttClient) receive() ([]byte, error) {
	for {
		p, err := c.next()
		if err != nil {
			return nil, err
		}
		if m, ok := p.(mqtt.Publish); ok {
			return append([]byte(nil), m.Payload...), nil
		}
	}
}
