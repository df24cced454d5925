package app

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"mooring/internal/base/conf"
	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/internal/provider/sink"
	"mooring/wire/mqtt"
)

// sinkFile is a file of messaging.sinks: a place where what devices publish goes on to.
type sinkFile struct {
	Kind   string   `yaml:"kind"`   // postgres, webhook, nats or kafka
	Topics []string `yaml:"topics"` // filters; none = everything
	Batch  int      `yaml:"batch"`

	URLFile     string   `yaml:"url_file"` // of postgres: the address with the password, in a file of its own
	URL         string   `yaml:"url"`      // of webhook
	SecretFiles []string `yaml:"secret_files"`
	Binary      bool     `yaml:"binary"`
	Allow       []string `yaml:"allow"` // networks besides the public ones that a webhook may reach
	URLs        []string `yaml:"urls"`  // of nats
	Subject     string   `yaml:"subject"`
	Brokers     []string `yaml:"brokers"` // of kafka
	Topic       string   `yaml:"topic"`
	Plain       bool     `yaml:"plain"` // no TLS to nats or kafka
	PeerFiles   `yaml:",inline"`
}

// loadSinks reads the files of messaging.sinks.
func (p *Platform) loadSinks() error {
	if p.fabric == nil {
		return nil
	}
	files, err := outsideFiles[sinkFile](p.Config, p.Config.Messaging.Sinks)
	if err != nil {
		return err
	}
	store := &sink.Store{DB: p.DB, Tenant: p.Config.Name, Now: p.now}
	p.Message.Sinks = sinkHouse{store, p}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f := files[name]
		to, err := p.sink(name, &f)
		if err != nil {
			return wrongFile(p.Config, p.Config.Messaging.Sinks, name, err)
		}
		p.sinks = append(p.sinks, sink.New(sink.Options{Name: name, Sink: to, Log: p.fabric, Store: store, Topics: f.Topics, Batch: f.Batch, Logger: p.log}))
	}
	return nil
}

// sinkHouse is what an operator sees of the sinks.
type sinkHouse struct {
	*sink.Store
	p *Platform
}

func (h sinkHouse) Names() (names []string) {
	for _, s := range h.p.sinks {
		names = append(names, s.Name())
	}
	return names
}

func (h sinkHouse) States(ctx context.Context) (list []message.SinkState) {
	ctx, cancel := context.WithTimeout(ctx, sampleTime)
	defer cancel()
	for _, s := range h.p.sinks {
		m, err := s.Metrics(ctx)
		list = append(list, message.SinkState{Name: m.Sink, Measured: err == nil, Running: m.Running, Lag: m.Lag, Behind: m.Behind, Dead: m.Dead, Delivered: m.Delivered,
			Failures: m.Failures, Missed: m.Missed, Cause: m.Cause})
	}
	return list
}

// outsideFiles reads the files of a directory of the configuration, none where it names none.
func outsideFiles[T any](c *conf.Config, dir string) (map[string]T, error) {
	if dir == "" {
		return nil, nil
	}
	return conf.Files[T](c.Path(dir))
}

// wrongFile says which of them is wrong. Only what passes is another kind of error.
func wrongFile(c *conf.Config, dir, name string, err error) error {
	kind := errs.Invalid
	if errs.Is(err, errs.Unavailable) {
		kind = errs.Unavailable
	}
	return errs.New(kind, "%s/%s.yaml: %v", c.Path(dir), name, err)
}

// CheckOutside says what is wrong with the files of messaging.brokers and messaging.sinks, and those that they name. It connects to nothing.
func CheckOutside(c *conf.Config) error {
	p := &Platform{Config: c, now: time.Now}
	var wrong []error
	brokers, err := outsideFiles[brokerFile](c, c.Messaging.Brokers)
	wrong = append(wrong, err)
	for _, name := range slices.Sorted(maps.Keys(brokers)) {
		f := brokers[name]
		if err := p.checkBroker(name, &f); err != nil {
			wrong = append(wrong, wrongFile(c, c.Messaging.Brokers, name, err))
		}
	}
	sinks, err := outsideFiles[sinkFile](c, c.Messaging.Sinks)
	wrong = append(wrong, err)
	for _, name := range slices.Sorted(maps.Keys(sinks)) {
		f := sinks[name]
		if _, err := p.sink(name, &f); err != nil {
			wrong = append(wrong, wrongFile(c, c.Messaging.Sinks, name, err))
		}
	}
	if err := errors.Join(wrong...); err != nil {
		return errs.New(errs.Invalid, "%v", err)
	}
	return nil
}

func (p *Platform) sink(name string, f *sinkFile) (sink.Sink, error) {
	for _, filter := range f.Topics {
		if err := mqtt.CheckFilter(filter, &mqtt.Limits{}); err != nil {
			return nil, fmt.Errorf("topics: %q is no filter: %w", filter, err)
		}
		if _, _, shared, _ := mqtt.Shared(filter); shared {
			return nil, fmt.Errorf("topics: %q is shared, which sinks are not: leave $share and the group out", filter)
		}
	}
	if f.Batch < 0 {
		return nil, fmt.Errorf("batch: %d is less than none", f.Batch)
	}
	secure, err := p.peerTLS(f.PeerFiles)
	if err != nil {
		return nil, err
	}
	if f.Plain {
		secure = nil
	}
	switch f.Kind {
	case "postgres":
		url, err := p.secretFile(f.URLFile)
		if err != nil {
			return nil, fmt.Errorf("url_file: %w", err)
		}
		return &sink.Postgres{Name: name, URL: url, Tenant: p.Config.Name, Now: p.now}, nil
	case "webhook":
		return p.webhook(f)
	case "nats":
		if len(f.URLs) == 0 || f.Subject == "" {
			return nil, fmt.Errorf("nats needs urls and subject")
		}
		return &sink.NATS{URLs: f.URLs, Subject: f.Subject, Tenant: p.Config.Name, Name: "mooring-" + name, TLS: secure}, nil
	case "kafka":
		if len(f.Brokers) == 0 || f.Topic == "" {
			return nil, fmt.Errorf("kafka needs brokers and topic")
		}
		return &sink.Kafka{Brokers: f.Brokers, Topic: f.Topic, Tenant: p.Config.Name, TLS: secure}, nil
	}
	return nil, fmt.Errorf("there is no kind %q of sink: use kafka, nats, postgres or webhook", f.Kind)
}

func (p *Platform) webhook(f *sinkFile) (sink.Sink, error) {
	w := sink.Webhook{URL: f.URL, Tenant: p.Config.Name, Binary: f.Binary, Now: p.now}
	for _, name := range f.SecretFiles {
		text, err := p.secretFile(name)
		if err != nil {
			return nil, fmt.Errorf("secret_files: %w", err)
		}
		secret, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, "whsec_"))
		if err != nil {
			return nil, fmt.Errorf("secret_files: %s does not hold base64, with or without whsec_ in front", name)
		}
		w.Secrets = append(w.Secrets, secret)
	}
	var allow []netip.Prefix
	for _, text := range f.Allow {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("allow: %q is no network such as 10.20.0.0/16", text)
		}
		allow = append(allow, network)
	}
	secure, err := p.peerTLS(f.PeerFiles)
	if err != nil {
		return nil, err
	}
	own := secure.Certificates
	if len(own) == 0 {
		w.Client = sink.NewWebhookClient(allow, secure.RootCAs, nil, p.now)
	} else {
		w.Client = sink.NewWebhookClient(allow, secure.RootCAs, &own[0], p.now)
	}
	return sink.NewWebhook(w)
}

// loadOutside reads what is configured of brokers and sinks.
func (p *Platform) loadOutside(context.Context) error {
	if err := p.loadBrokers(); err != nil {
		return err
	}
	return p.loadSinks()
}

// outsideRuns are what keeps brokers told and sinks supplied.
func (p *Platform) outsideRuns() (runs []func(context.Context) error) {
	if p.brokers.outbox != nil {
		runs = append(runs, p.brokers.outbox.Run, p.runChores, p.kickExpired)
	}
	for _, s := range p.sinks {
		runs = append(runs, s.Run)
	}
	for _, r := range p.brokers.nats {
		runs = append(runs, r.Run)
	}
	return runs
}
