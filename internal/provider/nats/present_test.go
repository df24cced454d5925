package nats

import (
	"testing"
	"time"
)

func TestPresent(t *testing.T) {
	now := time.Unix(1_790_000_000, 0)
	listed := func() *present {
		p := newPresent()
		p.listed = true
		return p
	}
	for name, row := range map[string]struct {
		p    *present
		do   func(p *present)
		want bool
	}{
		"nothing is there":                    {listed(), func(*present) {}, true},
		"it is not known yet what is there":   {newPresent(), func(*present) {}, false},
		"about to be put":                     {listed(), func(p *present) { p.put("k", 0, now) }, false},
		"dropped":                             {listed(), func(p *present) { p.put("k", 0, now)(true, now); p.drop("k")() }, true},
		"put while it was dropped":            {listed(), func(p *present) { p.put("k", 0, now)(true, now); d := p.drop("k"); p.put("k", 0, now)(true, now); d() }, false},
		"put first while nothing was dropped": {listed(), func(p *present) { d := p.drop("k"); p.put("k", 0, now); d() }, false},
		"put before it was dropped, and perhaps stored behind that": {listed(), func(p *present) { p.put("k", time.Hour, now); p.drop("k")() }, false},
		"put before it was dropped, and the answer was lost while it was": {listed(), func(p *present) {
			ended := p.put("k", time.Hour, now)
			d := p.drop("k")
			ended(false, now)
			d()
		}, false},
		"dropped after two puts ended": {listed(), func(p *present) {
			one, other := p.put("k", time.Hour, now), p.put("k", 0, now)
			one(true, now)
			other(false, now)
			p.drop("k")()
		}, true},
		"two puts, of which one ended": {listed(), func(p *present) {
			p.put("k", time.Hour, now)
			p.put("k", time.Hour, now)(true, now)
			p.drop("k")()
		}, false},
		"its life is over, and one is under way": {listed(), func(p *present) {
			p.put("k", time.Hour, now)
			p.forget(now.Add(2 * time.Hour))
		}, false},
		"it lay there at the start": {listed(), func(p *present) { p.add("k"); p.forget(now.Add(1000 * time.Hour)) }, false},
		"for ever":                  {listed(), func(p *present) { p.put("k", 0, now)(true, now); p.forget(now.Add(1000 * time.Hour)) }, false},
		"its life is not over":      {listed(), func(p *present) { p.put("k", time.Hour, now)(true, now); p.forget(now.Add(time.Hour)) }, false},
		"its life is over": {listed(), func(p *present) {
			p.put("k", time.Hour, now)(true, now)
			p.forget(now.Add(time.Hour + presentSlack + time.Second))
		}, true},
		"what would end sooner was not put": {listed(), func(p *present) {
			p.put("k", 0, now)(true, now)
			p.put("k", time.Second, now)(false, now)
			p.forget(now.Add(time.Hour))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			row.do(row.p)
			if got := row.p.lacks("k"); got != row.want {
				t.Errorf("lacks is %v, want %v", got, row.want)
			}
		})
	}
}

func TestPresentIsBounded(t *testing.T) {
	p := newPresent()
	p.listed = true
	for i := range uint64(maxPresent) {
		p.keys[i] = sitting{}
	}
	p.put("one more", 0, time.Time{})
	if p.keys != nil || p.lacks("another") {
		t.Error("with too many sessions each must be looked for")
	}
}
