package policy

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"mooring/wire/mqtt"
)

// alphabet is of what topics are made here; b is a child, $s one of the server's own names, and one level is empty.
var alphabet = []string{"a", "b", "", "$s"}

// topicsOf returns all topics of up to n levels.
func topicsOf(n int) []string {
	var all []string
	before := []string{""}
	for depth := range n {
		var now []string
		for _, p := range before {
			for _, l := range alphabet {
				if depth > 0 {
					l = p + "/" + l
				}
				now = append(now, l)
			}
		}
		all = append(all, now...)
		before = now
	}
	var named []string
	for _, t := range all {
		if t != "" {
			named = append(named, t)
		}
	}
	return named
}

// randomFilter returns a filter or, with variables, a template.
func randomFilter(rng *rand.Rand, variables bool) string {
	words := []string{"a", "b", "", "+", "+"}
	if variables {
		words = append(words, "${thing}", "${child}")
	} else {
		words = append(words, "$s")
	}
	var levels []string
	for range 1 + rng.IntN(4) {
		levels = append(levels, words[rng.IntN(len(words))])
	}
	if rng.IntN(3) == 0 {
		levels[len(levels)-1] = "#"
	}
	return strings.Join(levels, "/")
}

// plainly says whether a topic is of a template of thing "a" with the child "b": level by level, as the guide explains it.
func plainly(template, topic string) bool {
	ts, levels := strings.Split(template, "/"), strings.Split(topic, "/")
	for i, l := range ts {
		if l == "#" {
			return len(levels) > i && !(i == 0 && strings.HasPrefix(topic, "$"))
		}
		if i >= len(levels) {
			return false
		}
		switch got := levels[i]; l {
		case "+":
			if i == 0 && strings.HasPrefix(got, "$") {
				return false
			}
		case "${child}":
			if got != "b" {
				return false
			}
		case "${thing}":
			if got != "a" {
				return false
			}
		default:
			if l != got {
				return false
			}
		}
	}
	return len(levels) == len(ts)
}

// TestSubscriptionsLieInTheRules holds Subscribe against all topics of up to four levels: what is granted is never more than what may be received.
func TestSubscriptionsLieInTheRules(t *testing.T) {
	t.Parallel()
	topics := topicsOf(4)
	rng := rand.New(rand.NewPCG(4, 2026))
	granted, partial, refused := 0, 0, 0
	for range 400 {
		var templates []string
		text := "group x {\nmatch any\nallow act-for children\n"
		for range 1 + rng.IntN(4) {
			template := randomFilter(rng, true)
			if template == "" {
				continue
			}
			templates = append(templates, template)
			text += fmt.Sprintf("allow subscribe %s shared yes\n", quote(template))
		}
		s, err := Parse("f", []byte(text+"}"))
		if err != nil {
			t.Fatalf("%s\n%v", text, err)
		}
		r, err := s.Compile(Subject{Thing: "a", Kind: Gateway, Child: func(name string) bool { return name == "b" }})
		if err != nil {
			t.Fatal(err)
		}
		may := map[string]bool{}
		for _, topic := range topics {
			may[topic] = r.Receive(topic).OK()
			want := false
			for i, template := range templates {
				want = want || r.rules[i].void == "" && !childIsWord(&r.rules[i]) && plainly(template, topic)
			}
			if may[topic] != want {
				t.Fatalf("%s\nreceive %q: %v, want %v", text, topic, may[topic], want)
			}
		}
		for range 60 {
			filter := randomFilter(rng, false)
			if filter == "" {
				continue
			}
			v := r.Subscribe(filter, 1, rng.IntN(2) == 0)
			if !v.OK() {
				refused++
				continue
			}
			granted++
			if v.Partial {
				partial++
			}
			for _, topic := range topics {
				above := v.Partial && strings.Count(topic, "/") == strings.Count(filter, "/")-1
				if mqtt.Match(filter, topic) && !may[topic] && !above {
					t.Fatalf("%s\nthe filter %q is granted (%+v), and %q may not be received", text, filter, v, topic)
				}
			}
		}
	}
	t.Logf("%d filters were granted, %d of them without the level above, %d refused", granted, partial, refused)
	if granted < 1000 || partial < 100 || refused < 1000 {
		t.Errorf("%d filters granted, %d of them without the level above, %d refused: the draw is too one-sided to show anything", granted, partial, refused)
	}
}

// childIsWord: the templates of the draw may make the child's name a fixed word, which voids a rule for it.
func childIsWord(ru *rule) bool { return ru.template.neverChild.has("b") }

// TestWhatARuleSaysMayBeSubscribedTo: a filter that is a rule's own template is granted.
func TestWhatARuleSaysMayBeSubscribedTo(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(5, 2026))
	for range 500 {
		filter := randomFilter(rng, false)
		if filter == "" || strings.HasPrefix(filter, "$") {
			continue
		}
		s, err := Parse("f", []byte("group x { match any; allow subscribe "+quote(filter)+"\n}"))
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Compile(Subject{Thing: "t", Kind: Device})
		if err != nil {
			t.Fatal(err)
		}
		if v := r.Subscribe(filter, 1, false); !v.OK() || v.Partial != strings.HasSuffix(filter, "/#") {
			t.Errorf("a rule for %q, and the filter %[1]q: %+v", filter, v)
		}
	}
}

// FuzzSubscribe holds one rule, one filter and one topic of any octets against each other.
func FuzzSubscribe(f *testing.F) {
	f.Add("v1/${thing}/cmd/+", "v1/a/cmd/+", "v1/a/cmd/x")
	f.Add("x-${child}-y/#", "x-b-y/#", "x-b-y")
	f.Add("+/${attr.t}/#", "+/ü/+/#", "q/ü//")
	f.Add("#", "+/#", "$s/x")
	f.Fuzz(func(t *testing.T, template, filter, topic string) {
		s, err := Parse("f", []byte("group x { match any; allow act-for children; allow subscribe "+quote(template)+" shared yes\n}"))
		if err != nil {
			return
		}
		r, err := s.Compile(Subject{Thing: "a", Kind: Gateway, Tags: map[string]string{"t": "ü"}, Child: func(name string) bool { return name == "b" }})
		if err != nil {
			t.Fatal(err)
		}
		v := r.Subscribe(filter, 1, true)
		if v.OK() && mqtt.CheckFilter(filter, nil) == nil && mqtt.CheckTopic(topic, nil) == nil && mqtt.Match(filter, topic) && !r.Receive(topic).OK() {
			if !v.Partial || strings.Count(topic, "/") != strings.Count(filter, "/")-1 {
				t.Errorf("a rule for %q; the filter %q is granted (%+v), and %q may not be received", template, filter, v, topic)
			}
		}
		if r.Receive(topic).OK() && mqtt.CheckTopic(topic, nil) == nil && !r.Subscribe(topic, 1, false).OK() {
			t.Errorf("a rule for %q; %q may be received and not subscribed to", template, topic)
		}
		if r.Publish(topic, 0, false, 0).OK() {
			t.Errorf("a rule for subscribing lets %q be published", topic)
		}
	})
}
