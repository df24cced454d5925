package app_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	agent "mooring/agent/v2x"
	"mooring/internal/base/conf"
	"mooring/internal/core/access"
	"mooring/internal/core/v2x/trust"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

// inquiry asks the enrolment authority about many tickets in one message, which is signed as what is given.
func (p *v2xPlatform) inquiry(t *testing.T, payload []byte, by spdu.Signer, to *its.Certificate, kind string) (status int, answerType string, body []byte, hash its.RequestHash, session *spdu.Session) {
	t.Helper()
	d, err := spdu.Sign(spdu.Payload(payload), scr.Header(p.at()), by)
	must(t, err)
	request, session, err := scr.Seal(rand.Reader, d, to)
	must(t, err)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.Config.V2XValidationURL()+"/validation", bytes.NewReader(request))
	must(t, err)
	r.Header.Set("Content-Type", kind)
	a, err := http.DefaultClient.Do(r)
	must(t, err)
	defer a.Body.Close()
	body, err = io.ReadAll(a.Body)
	must(t, err)
	return a.StatusCode, a.Header.Get("Content-Type"), body, scr.Hash(request), session
}

// codes are the answers to questions in one message, which have to name the message and be signed by the enrolment authority.
func (p *v2xPlatform) codes(t *testing.T, list []*atRequest, by spdu.Signer) (codes []its.AuthorizationValidationResponseCode) {
	t.Helper()
	status, kind, body, hash, session := p.inquiry(t, questions(t, list...), by, p.ea, scr.ManyRequestType)
	if status != http.StatusOK || kind != scr.ManyResponseType {
		t.Fatalf("status %d, %q", status, kind)
	}
	signed, answers, err := scr.OpenMany(body, session, len(list))
	must(t, err)
	if err := signed.Verify(p.ea, nil); err != nil {
		t.Error(err)
	}
	for i, a := range answers {
		if a.RequestHash != hash {
			t.Errorf("answer %d names another message", i)
		}
		codes = append(codes, a.ResponseCode)
	}
	return codes
}

func questions(t *testing.T, list ...*atRequest) []byte {
	t.Helper()
	q := new(scr.Questions)
	for _, r := range list {
		q.List = append(q.List, its.AuthorizationValidationRequest{SharedAtRequest: r.inner.SharedAtRequest, EcSignature: r.inner.EcSignature})
	}
	b, err := coer.Marshal(q)
	must(t, err)
	return b
}

// Questions about many tickets in one message: each gets its own code, a station that has several of them is counted as often as it may be, and the same question twice counts
// once.
func TestV2XManyQuestions(t *testing.T) {
	t.Parallel()
	p := startV2X(t, func(c *conf.Config) { c.V2X.Tickets = 2 })
	by, err := p.Tickets().Trust.Credential(t.Context(), trust.AA)
	must(t, err)
	one, two := p.car(t, "car-1"), p.car(t, "car-2")
	ask := func(c car, change func(*atRequest)) *atRequest {
		r := p.atRequest(t, c.ec)
		if change != nil {
			change(r)
		}
		r.message(t)
		return r
	}
	first := ask(one, nil)
	got := p.codes(t, []*atRequest{
		first, ask(two, nil), ask(one, nil), first, ask(one, nil),
		ask(two, func(r *atRequest) { r.ecBy = newECKey(t) }),
		ask(two, func(r *atRequest) { r.inner.SharedAtRequest.EaId[0] ^= 1 }),
		ask(two, func(r *atRequest) { r.inner.SharedAtRequest.RequestedSubjectAttributes.AppPermissions[0].Psid = 99 }),
		ask(two, nil), ask(two, nil),
	}, by.Signer)
	want := []its.AuthorizationValidationResponseCode{its.ValidationOk, its.ValidationOk, its.ValidationOk, its.ValidationOk, its.ValidationDeniedTooManyCerts,
		its.ValidationInvalidSignature, its.ValidationWrongEa, its.ValidationDeniedPermissions, its.ValidationOk, its.ValidationDeniedTooManyCerts}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if n, _ := p.counted(t); n != 4 {
		t.Errorf("%d tickets were counted, want 4", n)
	}
	if got := p.ask(t, first, by.Signer).ResponseCode; got != its.ValidationOk {
		t.Errorf("asked again by itself: %v", got)
	}
	if n, _ := p.counted(t); n != 4 {
		t.Errorf("then %d tickets were counted, want 4", n)
	}
}

// AUT-47 with many questions in each message, several of which come at the same time: one station gets a hundred tickets and not one more.
func TestV2XManyQuestionsLimit(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	by, err := p.Tickets().Trust.Credential(t.Context(), trust.AA)
	must(t, err)
	c := p.car(t, "car-1")
	var lists [4][]*atRequest
	for i := range lists {
		for range 30 {
			r := p.atRequest(t, c.ec)
			r.message(t)
			lists[i] = append(lists[i], r)
		}
	}
	var ok, denied atomic.Int64
	var all sync.WaitGroup
	for _, list := range lists {
		all.Go(func() {
			for _, code := range p.codes(t, list, by.Signer) {
				switch code {
				case its.ValidationOk:
					ok.Add(1)
				case its.ValidationDeniedTooManyCerts:
					denied.Add(1)
				}
			}
		})
	}
	all.Wait()
	if ok.Load() != 100 || denied.Load() != 20 {
		t.Errorf("%d may have a ticket and %d not, want 100 and 20", ok.Load(), denied.Load())
	}
	if n, _ := p.counted(t); n != 100 {
		t.Errorf("%d tickets were counted", n)
	}
}

// What is wrong with a message for many concerns all of them.
func TestV2XManyUnreadable(t *testing.T) {
	t.Parallel()
	p := startV2X(t, nil)
	by, err := p.Tickets().Trust.Credential(t.Context(), trust.AA)
	must(t, err)
	c := p.car(t, "car-1")
	r := p.atRequest(t, c.ec)
	r.message(t)
	two := questions(t, r, r)
	single, err := scr.Encode(its.EtsiTs102941DataContent{Choice: its.ValidationRequest, AuthorizationValidationRequest: &its.AuthorizationValidationRequest{
		SharedAtRequest: r.inner.SharedAtRequest, EcSignature: r.inner.EcSignature}})
	must(t, err)
	tooMany := []byte{1, 129}
	for range 129 {
		tooMany = append(tooMany, two[2:2+(len(two)-2)/2]...)
	}
	wrong := scr.Signer(newECKey(t), by.Certificate)
	for _, row := range []struct {
		name    string
		payload []byte
		by      spdu.Signer
		to      *its.Certificate
		kind    string
		status  int
		want    its.AuthorizationValidationResponseCode
	}{
		{"none", []byte{1, 0}, by.Signer, p.ea, scr.ManyRequestType, 200, its.ValidationCantParse},
		{"too many", tooMany, by.Signer, p.ea, scr.ManyRequestType, 200, its.ValidationCantParse},
		{"cut", two[:len(two)-1], by.Signer, p.ea, scr.ManyRequestType, 200, its.ValidationCantParse},
		{"the message of the standard", single, by.Signer, p.ea, scr.ManyRequestType, 200, its.ValidationCantParse},
		{"signed by somebody else", two, wrong, p.ea, scr.ManyRequestType, 200, its.ValidationInvalidAaSignature},
		{"signed by a station", two, scr.Signer(c.ec.Key, c.ec.Certificate), p.ea, scr.ManyRequestType, 200, its.ValidationInvalidAa},
		{"for somebody else", two, by.Signer, p.aa, scr.ManyRequestType, 400, 0},
		{"of another type", two, by.Signer, p.ea, "application/octet-stream", 415, 0},
	} {
		status, _, body, hash, session := p.inquiry(t, row.payload, row.by, row.to, row.kind)
		if status != row.status {
			t.Errorf("%s: status %d, want %d", row.name, status, row.status)
		}
		if row.status != http.StatusOK || status != row.status {
			continue
		}
		signed, answers, err := scr.OpenMany(body, session, 3)
		must(t, err)
		if err := signed.Verify(p.ea, nil); err != nil {
			t.Error(err)
		}
		for _, a := range answers {
			if a.ResponseCode != row.want || a.RequestHash != hash {
				t.Errorf("%s: got %v, want %v", row.name, a.ResponseCode, row.want)
			}
		}
	}
	if n, _ := p.counted(t); n != 0 {
		t.Errorf("%d tickets were counted", n)
	}
}

// gateway stands before the enrolment authority, where the authorization authority asks. It hands messages about one ticket on, and so it does with those about many, unless
// another handler is there for these.
type gateway struct {
	single http.Handler
	many   atomic.Pointer[http.HandlerFunc]
	seen   atomic.Int64 // messages about many
	fault  atomic.Bool  // those about one fail
}

// ServeHTTP implements http.Handler.
func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	to := g.single
	if r.Header.Get("Content-Type") == scr.ManyRequestType {
		g.seen.Add(1)
		if many := g.many.Load(); many != nil {
			to = many
		}
	} else if g.fault.Load() {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	to.ServeHTTP(w, r)
}

// through has the authorization authority ask through a gateway.
func through(t *testing.T) (*v2xPlatform, *gateway) {
	t.Helper()
	p := startV2X(t, nil)
	u, err := url.Parse(p.Config.V2XValidationURL())
	must(t, err)
	g := &gateway{single: httputil.NewSingleHostReverseProxy(u)}
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	must(t, p.V2X.Trust.Move(t.Context(), access.System("test"), p.made.EA, p.Config.V2XEAURL()+"/enrolment", server.URL+"/validation"))
	p.fetch(t)
	return p, g
}

// untilMany has many cars ask for a ticket at once, again and again until they were asked about in one message, and returns how many got tickets and the refusals of the others.
func (p *v2xPlatform) untilMany(t *testing.T, g *gateway, cars []car) (got int, refused map[string]int) {
	t.Helper()
	refused = map[string]int{}
	for before := g.seen.Load(); g.seen.Load() == before; {
		n, others := p.allAsk(t, cars)
		got += n
		for code, n := range others {
			refused[code] += n
		}
	}
	return got, refused
}

func (p *v2xPlatform) allAsk(t *testing.T, cars []car) (got int, refused map[string]int) {
	t.Helper()
	refused = map[string]int{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, c := range cars {
		all.Go(func() {
			ticket, err := c.client.Ticket(t.Context(), c.ec, agent.Order{})
			var no *agent.Refused
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && ticket != nil:
				got++
			case asRefused(err, &no):
				refused[no.Code]++
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	return got, refused
}

func (p *v2xPlatform) cars(t *testing.T, n int) (cars []car) {
	t.Helper()
	for i := range n {
		cars = append(cars, p.car(t, fmt.Sprint("car-", i)))
	}
	return cars
}

// Cars that ask at the same time are asked about in one message, and each gets its own ticket.
func TestV2XManyAtOnce(t *testing.T) {
	t.Parallel()
	p, g := through(t)
	cars := p.cars(t, 12)
	got, refused := p.untilMany(t, g, cars)
	if len(refused) > 0 {
		t.Errorf("refused: %v", refused)
	}
	if ea, aa := p.counted(t); ea != got || aa != got {
		t.Errorf("%d tickets were counted and %d issued, %d received", ea, aa, got)
	}
}

// An enrolment authority of others does not know messages about many tickets: it is asked about one after the other, and for a while it is not tried again.
func TestV2XManyUnknown(t *testing.T) {
	t.Parallel()
	p, g := through(t)
	cars := p.cars(t, 12)
	unknown := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnsupportedMediaType) })
	g.many.Store(&unknown)
	got, refused := p.untilMany(t, g, cars)
	tried := g.seen.Load()
	for range 3 {
		n, others := p.allAsk(t, cars)
		got += n
		for code, n := range others {
			refused[code] += n
		}
	}
	if g.seen.Load() != tried {
		t.Error("it was tried again at once")
	}
	if len(refused) > 0 {
		t.Errorf("refused: %v", refused)
	}
	if ea, aa := p.counted(t); ea != got || aa != got {
		t.Errorf("%d tickets were counted and %d issued, %d received", ea, aa, got)
	}
	p.clock.Move(11 * time.Minute)
	p.fetch(t)
	p.untilMany(t, g, cars)
}

// An enrolment authority that answers nothing at all for a moment is not taken for one that does not know messages about many tickets.
func TestV2XManyFault(t *testing.T) {
	t.Parallel()
	p, g := through(t)
	cars := p.cars(t, 12)
	fault := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	g.many.Store(&fault)
	g.fault.Store(true)
	got, refused := p.untilMany(t, g, cars)
	if n := refused[its.AaEaCantReachEa.String()]; got != 0 || n < len(cars) || len(refused) != 1 {
		t.Errorf("%d got tickets, refused: %v", got, refused)
	}
	g.many.Store(nil)
	g.fault.Store(false)
	if got, refused := p.untilMany(t, g, cars); got < len(cars) || len(refused) > 0 {
		t.Errorf("%d got tickets, refused: %v", got, refused)
	}
}

// AUT-18 where many are asked about at once: an answer that is not one to the message is nobody's, and what it says of each goes to that one.
func TestV2XManyAnswers(t *testing.T) {
	t.Parallel()
	p, g := through(t)
	cars := p.cars(t, 12)
	ea, err := p.V2X.Trust.Credential(t.Context(), trust.EA)
	must(t, err)
	aa, err := p.Tickets().Trust.Credential(t.Context(), trust.AA)
	must(t, err)
	type list = []its.AuthorizationValidationResponse
	say := func(request []byte, by spdu.Signer, change func(list) list) []byte {
		o, err := scr.Open(request, ea.Holder)
		if err != nil {
			t.Error(err)
			return nil
		}
		_, octets, err := scr.Signed(o.Message)
		asked, err2 := scr.ParseQuestions(octets)
		answers := make(list, len(asked))
		for i := range answers {
			answers[i] = its.AuthorizationValidationResponse{RequestHash: o.Hash, ResponseCode: its.ValidationUnknownIts}
		}
		if change != nil {
			answers = change(answers)
		}
		d, err3 := scr.SignMany(&scr.Answers{List: answers}, p.at(), by)
		if err := errors.Join(err, err2, err3); err != nil {
			t.Error(err)
			return nil
		}
		answer, err := scr.Answer(rand.Reader, o.Session, d)
		if err != nil {
			t.Error(err)
		}
		return answer
	}
	answers := func(do func(request []byte) []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			w.Header().Set("Content-Type", scr.ManyResponseType)
			_, _ = w.Write(do(b))
		}
	}
	stranger, cannot := scr.Signer(newECKey(t), ea.Certificate), its.AaEaCantReachEa.String()
	for _, row := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"each refused", answers(func(b []byte) []byte { return say(b, ea.Signer, nil) }), its.UnknownIts.String()},
		{"all refused", answers(func(b []byte) []byte {
			return say(b, ea.Signer, func(l list) list { l[0].ResponseCode = its.ValidationInvalidAa; return l[:1] })
		}), its.InvalidAa.String()},
		{"too few", answers(func(b []byte) []byte {
			return say(b, ea.Signer, func(l list) list {
				l[0].ResponseCode, l[0].ConfirmedSubjectAttributes = its.ValidationOk, coer.Some(its.CertificateSubjectAttributes{AppPermissions: agent.Applications()})
				return l[:1]
			})
		}), cannot},
		{"one too many", answers(func(b []byte) []byte { return say(b, ea.Signer, func(l list) list { return append(l, l[0]) }) }), cannot},
		{"to another message", answers(func(b []byte) []byte {
			return say(b, ea.Signer, func(l list) list { l[len(l)-1].RequestHash[0] ^= 1; return l })
		}), cannot},
		{"signed by somebody else", answers(func(b []byte) []byte { return say(b, aa.Signer, nil) }), cannot},
		{"signed in the name of the authority", answers(func(b []byte) []byte { return say(b, stranger, nil) }), cannot},
		{"garbage", answers(func([]byte) []byte { return []byte{1, 2, 3} }), cannot},
		{"too busy", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, cannot},
	} {
		g.many.Store(&row.answer)
		before, _ := p.counted(t)
		got, refused := p.untilMany(t, g, cars)
		if n := refused[row.want]; n < 2 || len(refused) != 1 {
			t.Errorf("%s: refused are %v, want two or more for %s", row.name, refused, row.want)
		}
		if after, aa := p.counted(t); after-before != got || aa != after {
			t.Errorf("%s: %d tickets were counted, %d received", row.name, after-before, got)
		}
	}
}
