package policy

import (
	"testing"
	"time"
)

// sixRules is the policy of the figure in doc/benchmarks.md: six rules, of which the last one decides.
const sixRules = `
group meters {
    match any
    allow publish v1/${tenant}/${thing}/state retain yes
    allow publish v1/${tenant}/site/${attr.site}/+/report
    allow publish v1/${tenant}/${thing}/event/+/urgent
    allow subscribe v1/${tenant}/${thing}/cmd/+
    allow subscribe v1/${tenant}/site/${attr.site}/notice
    allow publish v1/${tenant}/${thing}/telemetry/# max_qos 1 size 16KiB
}
`

func benchRights(tb testing.TB) *Rights {
	tb.Helper()
	s, err := Parse("six.policy", []byte(sixRules))
	if err != nil {
		tb.Fatal(err)
	}
	r, err := s.Compile(Subject{Tenant: "acme", Thing: "dev-1", Kind: Device, Tags: map[string]string{"site": "north"}})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// TestQuestionsTakeNoMemory: what is asked for each message must not make garbage.
func TestQuestionsTakeNoMemory(t *testing.T) {
	r, s := benchRights(t), Default()
	gateway, err := s.Compile(Subject{Thing: "gw", Kind: Gateway, Child: func(name string) bool { return name == "c1" }})
	if err != nil {
		t.Fatal(err)
	}
	to := Addressees{Things: make([]string, 0, 4), Children: make([]string, 0, 4)}
	for _, row := range []struct {
		name string
		ask  func() bool
	}{
		{"publish, allowed", func() bool { return r.Publish("v1/acme/dev-1/telemetry/temp", 1, false, 64).OK() }},
		{"publish, denied", func() bool { return !r.Publish("v1/acme/dev-2/telemetry/temp", 1, false, 64).OK() }},
		{"publish for a child", func() bool { return gateway.Publish("v1/c1/telemetry/temp", 1, false, 64).Child == "c1" }},
		{"receive", func() bool { return r.Receive("v1/acme/dev-1/cmd/reboot").OK() }},
		{"subscribe", func() bool { return r.Subscribe("v1/acme/dev-1/cmd/+", 1, false).OK() }},
		{"addressees", func() bool { s.Addressees("v1/dev-1/cmd/reboot", &to); return len(to.Things) == 1 }},
	} {
		t.Run(row.name, func(t *testing.T) {
			if !row.ask() {
				t.Fatal("the answer is another one")
			}
			if n := testing.AllocsPerRun(100, func() { row.ask() }); n != 0 {
				t.Errorf("%v allocations, want 0", n)
			}
		})
	}
}

func BenchmarkSixRules(b *testing.B) {
	r := benchRights(b)
	for _, row := range []struct {
		name, topic string
	}{
		{"last", "v1/acme/dev-1/telemetry/temperature"},
		{"first", "v1/acme/dev-1/state"},
		{"none", "v1/acme/dev-2/telemetry/temperature"},
	} {
		b.Run(row.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r.Publish(row.topic, 1, false, 64)
			}
		})
	}
	b.Run("receive", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.Receive("v1/acme/site/north/notice")
		}
	})
	b.Run("subscribe", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.Subscribe("v1/acme/dev-1/cmd/+", 1, false)
		}
	})
}

func BenchmarkAddressees(b *testing.B) {
	s := Default()
	to := Addressees{Things: make([]string, 0, 4), Children: make([]string, 0, 4)}
	for _, row := range []struct {
		name, topic string
	}{
		{"command", "v1/dev-1/cmd/reboot"},
		{"notice", "v1/group/plant-3/notice"},
		{"telemetry", "v1/dev-1/telemetry/temperature"},
	} {
		b.Run(row.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Addressees(row.topic, &to)
			}
		})
	}
}

func BenchmarkMeter(b *testing.B) {
	r := benchRights(b)
	v := r.Publish("v1/acme/dev-1/telemetry/temperature", 1, false, 64)
	now := time.Unix(1_800_000_000, 0)
	var m Meter
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Millisecond)
		m.Take(r, v, 64, now)
	}
}

func BenchmarkCompile(b *testing.B) {
	s := Default()
	subject := Subject{Thing: "dev-1", Kind: Device, Group: "plant-3"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Compile(subject); err != nil {
			b.Fatal(err)
		}
	}
}
