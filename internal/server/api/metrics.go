package api

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"mooring/internal/base/web"
	"mooring/internal/core/ca"
	"mooring/internal/server/api/v1"
)

// metrics returns a registry of its own with everything that the parts count.
func (s *server) metrics() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), parts{s})
	r.MustRegister(s.Audit.Metrics()...)
	r.MustRegister(s.Collectors...)
	return r
}

func (s *server) exposition() http.Handler {
	return promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// Sample is one value of a part that the API does not know.
type Sample struct {
	Name, Help string // without "mooring_" in front
	Gauge      bool   // else it only grows
	Value      float64
	Labels     []string // name and value by turns; the same names for the same Name
}

// parts asks the parts of the platform for their counts when metrics are read.
type parts struct{ s *server }

// Describe says nothing: what there is follows from the parts (an unchecked collector).
func (parts) Describe(chan<- *prometheus.Desc) {}

// sink sends one value.
type sink struct{ out chan<- prometheus.Metric }

func (k sink) send(kind prometheus.ValueType, name, help string, value float64, labels ...string) {
	names, values := pairs(labels)
	k.out <- prometheus.MustNewConstMetric(prometheus.NewDesc("mooring_"+name, help, names, nil), kind, value, values...)
}

func (k sink) count(name, help string, value float64, labels ...string) {
	k.send(prometheus.CounterValue, name, help, value, labels...)
}

func (k sink) gauge(name, help string, value float64, labels ...string) {
	k.send(prometheus.GaugeValue, name, help, value, labels...)
}

// pairs takes labels, name and value in turns, apart.
func pairs(labels []string) (names, values []string) {
	for pair := range slices.Chunk(labels, 2) {
		names, values = append(names, pair[0]), append(values, pair[1])
	}
	return names, values
}

// Collect asks each part.
func (p parts) Collect(out chan<- prometheus.Metric) {
	k := sink{out}
	for _, f := range p.s.surfaces() {
		k.surface(f)
	}
	k.count("certificates_issued_total", "Certificates signed.", float64(p.s.CA.Issued()))
	p.s.CA.Each(func(i *ca.Issuer) {
		k.gauge("ca_not_after_seconds", "When the CA's certificate ends, in seconds since 1970.", float64(i.Certificate().NotAfter.Unix()), "ca", i.Name())
	})
	batches, items := p.s.Enrol.Metrics()
	k.count("enrol_batches_total", "Transactions that recorded issues.", float64(batches))
	k.count("enrol_items_total", "Issues recorded, and those that came too late.", float64(items))
	issued := p.s.Enrol.Issued()
	for record, n := range issued.Records {
		k.count("certificates_recorded_total", "Certificates issued to devices, by what is kept of them.", float64(n), "record", string(record))
	}
	k.count("rescues_total", "Certificates issued to devices whose own had expired.", float64(issued.Rescued))
	if p.s.Samples != nil {
		for _, one := range p.s.Samples() {
			kind := prometheus.CounterValue
			if one.Gauge {
				kind = prometheus.GaugeValue
			}
			k.send(kind, one.Name, one.Help, one.Value, one.Labels...)
		}
	}
	k.revocation(p.s)
	jobs := p.s.Jobs.Metrics()
	k.count("job_steps_total", "Steps of jobs.", float64(jobs.Steps))
	k.count("job_items_total", "Items of jobs that were done, and that failed.", float64(jobs.Done), "kind", "done")
	k.count("job_items_total", "Items of jobs that were done, and that failed.", float64(jobs.Failed), "kind", "failed")
	k.count("job_troubles_total", "Times that a job could not go on.", float64(jobs.Troubles))
	fault := 0.0
	if p.s.DB.Fault() != nil {
		fault = 1
	}
	k.gauge("database_fault", "1 when the last write could not be stored.", fault)
	k.gauge("build_info", "What runs; always 1.", 1, "version", p.s.Version.Version, "commit", p.s.Version.Commit)
}

func (k sink) revocation(s *server) {
	m := s.Revoke.Metrics()
	const changed = "Certificates revoked, put on hold and released."
	k.count("revocations_total", changed, float64(m.Revoked), "kind", "revoked")
	k.count("revocations_total", changed, float64(m.Held), "kind", "held")
	k.count("revocations_total", changed, float64(m.Released), "kind", "released")
	k.count("crl_published_total", "Revocation lists published.", float64(m.Lists))
	k.count("crl_deltas_total", "Delta lists made.", float64(m.Deltas))
	k.gauge("revocation_watchers", "Readers of the feed of revocations, at present.", float64(m.Watchers))
	k.count("crl_failures_total", "Revocation lists that could not be made.", float64(m.ListFailures))
	const answers = "Status answers, signed for their question, from the cache, not possible, and refused as malformed or about other CAs."
	k.count("ocsp_answers_total", answers, float64(m.Answers), "kind", "signed")
	k.count("ocsp_answers_total", answers, float64(m.Cached), "kind", "cached")
	k.count("ocsp_answers_total", answers, float64(m.AnswersFailed), "kind", "failed")
	k.count("ocsp_answers_total", answers, float64(m.AnswersRefused), "kind", "refused")
	k.gauge("ocsp_cache_answers", "Status answers in the cache.", float64(m.CacheSize))
	k.gauge("ocsp_cache_octets", "Memory of status answers in the cache.", float64(m.CacheOctets))
	k.count("ocsp_responders_total", "Certificates issued to delegated OCSP responders.", float64(m.Delegates))
}

func (k sink) surface(f Surface) {
	m := f.Gate.Metrics()
	k.gauge("connections_open", "Connections now, with those in their handshake.", float64(m.Open), "surface", f.Name)
	k.count("connections_total", "Connections handed to HTTP.", float64(m.Accepted), "surface", f.Name)
	k.count("handshakes_total", "Finished TLS handshakes.", float64(m.Handshakes), "surface", f.Name)
	k.count("handshakes_resumed_total", "TLS handshakes that resumed a session.", float64(m.Resumed), "surface", f.Name)
	k.count("connections_cut_total", "Connections ended because their client's certificate was revoked.", float64(m.Cut), "surface", f.Name)
	if m.DTLS {
		k.count("cookies_total", "DTLS hellos that were answered with a cookie, for which nothing was remembered.", float64(m.Cookies), "surface", f.Name)
		k.count("associations_idle_total", "DTLS associations ended because nothing came for long.", float64(m.Idle), "surface", f.Name)
		k.count("associations_moved_total", "DTLS associations whose client changed its address and answered from there.", float64(m.Moved), "surface", f.Name)
	}
	for reason, n := range m.Refused {
		k.count("refused_total", "Connections and requests that were turned away, by limit.", float64(n), "surface", f.Name, "reason", reason)
	}
	if f.Counters == nil {
		return
	}
	bounds := web.Bounds()
	desc := prometheus.NewDesc("mooring_request_seconds", "Time to answer requests.", []string{"surface", "route", "class"}, nil)
	for _, c := range f.Counters.Metrics() {
		buckets := make(map[float64]uint64, len(bounds))
		for i, bound := range bounds {
			buckets[bound] = c.Buckets[i]
		}
		k.out <- prometheus.MustNewConstHistogram(desc, c.Count, c.Seconds, buckets, f.Name, c.Route, c.Class)
	}
}

// counts returns our own counters and gauges for the status message.
func (s *server) counts() ([]v1.Count, error) {
	families, err := s.registry.Gather()
	if err != nil {
		return nil, fmt.Errorf("gathering metrics: %w", err)
	}
	counts := []v1.Count{}
	for _, family := range families {
		if !strings.HasPrefix(family.GetName(), "mooring_") {
			continue
		}
		for _, m := range family.GetMetric() {
			if m.GetCounter() == nil && m.GetGauge() == nil {
				continue
			}
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += fmt.Sprintf("{%s=%q}", label.GetName(), label.GetValue())
			}
			counts = append(counts, v1.Count{Name: name, Value: m.GetCounter().GetValue() + m.GetGauge().GetValue()})
		}
	}
	slices.SortFunc(counts, func(a, b v1.Count) int { return cmp.Compare(a.Name, b.Name) })
	return counts, nil
}
