package demo

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"mooring/agent/mqtt"
	"mooring/internal/core/device"
	wire "mooring/wire/mqtt"
)

const (
	// mostConnected bounds how many devices are connected at once: each takes two of this process's files.
	mostConnected = 1000
	// readings is how many messages each device publishes.
	readings = 5
	// dashboard is the service that hears them.
	dashboard = "dashboard"
	// hearing is how long a message may take to the service.
	hearing = 30 * time.Second
)

// talk connects the fleet by MQTT and has every device publish, and a service hear it. The connections stay.
func (d *Demo) talk(ctx context.Context, f *fleet, r *Result) error {
	service, err := d.service(ctx, f)
	if err != nil {
		return err
	}
	var heard atomic.Int64
	want := int64(min(len(f.devices), mostConnected) * readings)
	all := make(chan struct{})
	ear, err := service.connect(ctx, f, func(mqtt.Message) {
		n := heard.Add(1)
		d.progress("hear", int(n), int(want))
		if n == want {
			close(all)
		}
	})
	if err != nil {
		return err
	}
	if _, err := ear.Subscribe(ctx, mqtt.Subscription{Filter: "v1/+/telemetry/#", QoS: wire.AtLeastOnce}); err != nil {
		return fmt.Errorf("subscribing as %s: %w", service.name, err)
	}
	talking := &fleet{demo: d, server: f.server, root: f.root, devices: f.devices[:min(len(f.devices), mostConnected)]}
	began := d.o.Now()
	if r.Connected, _, err = talking.each(ctx, "talk", (*simulated).talk); err != nil {
		return err
	}
	select {
	case <-all:
	case <-ear.Done():
		return fmt.Errorf("the connection of %s ended: %w", service.name, ear.Err())
	case <-time.After(hearing):
		return fmt.Errorf("%s heard %d messages of %d within %s", service.name, heard.Load(), want, hearing)
	case <-ctx.Done():
		return ctx.Err()
	}
	r.Messages = int(heard.Load())
	r.MessagesPerSecond = float64(r.Messages) / max(d.o.Now().Sub(began).Seconds(), 1e-9)
	return nil
}

// service registers and enrols a program that talks with devices.
func (d *Demo) service(ctx context.Context, f *fleet) (*simulated, error) {
	var out bytes.Buffer
	file := strings.NewReader("name,profile\n" + dashboard + ",service\n")
	src := device.Source{R: file, Name: "services.csv", Format: "csv", Size: file.Size(), Tokens: &out}
	if _, err := d.platform.Devices.Import(ctx, operator(), src, nil); err != nil {
		return nil, fmt.Errorf("registering the service: %w", err)
	}
	tokens, err := readTokens(&out)
	if err != nil {
		return nil, err
	}
	s := &simulated{name: dashboard, token: tokens[dashboard]}
	return s, s.enrol(ctx, f)
}

// connect makes a connection by MQTT 5 with the device's certificate.
func (s *simulated) connect(ctx context.Context, f *fleet, hear func(mqtt.Message)) (*mqtt.Conn, error) {
	roots := x509.NewCertPool()
	roots.AddCert(f.root)
	secure := &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{*s.credential()}}
	address := strings.TrimPrefix(f.demo.Addresses().MQTT, "mqtts://")
	c, err := mqtt.Dial(ctx, mqtt.Config{Dial: mqtt.TLS(address, secure), Now: f.demo.o.Now, ClientID: s.name, CleanStart: true, Handler: hear})
	if err != nil {
		return nil, fmt.Errorf("connecting %s by MQTT: %w", s.name, err)
	}
	return c, nil
}

// talk connects the device and publishes its readings; each is stored when it returns.
func (s *simulated) talk(ctx context.Context, f *fleet) (err error) {
	if s.conn, err = s.connect(ctx, f, nil); err != nil {
		return err
	}
	for i := range readings {
		m := mqtt.Message{Topic: "v1/" + s.name + "/telemetry/power", Payload: fmt.Appendf(nil, `{"reading":%d,"w":%d}`, i, 100+i), QoS: wire.AtLeastOnce}
		if err := s.conn.Publish(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// gone waits until the device's connection has been ended by the server, and returns how long after at that was, in milliseconds.
func (s *simulated) gone(ctx context.Context, f *fleet, at time.Time) (float64, error) {
	select {
	case <-s.conn.Done():
		return float64(f.demo.o.Now().Sub(at).Microseconds()) / 1000, nil
	case <-time.After(hearing):
		return 0, errors.New("the revoked device is still connected")
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}
