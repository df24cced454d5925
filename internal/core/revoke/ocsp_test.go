package revoke

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"math/big"
	mrand "math/rand/v2"
	"testing"

	xocsp "golang.org/x/crypto/ocsp"

	"mooring/internal/base/errs"
	"mooring/internal/core/ca"
	"mooring/internal/core/device"
	"mooring/internal/core/key"
	"mooring/wire/der"
	"mooring/wire/ocsp"
)

func question(t testing.TB, i *ca.Issuer, hash crypto.Hash, nonce []byte, serials ...[]byte) []byte {
	t.Helper()
	issuer, err := ocsp.NewIssuer(i.Certificate().RawSubject, i.Certificate().RawSubjectPublicKeyInfo)
	must(t, err)
	var ids []ocsp.CertID
	for _, s := range serials {
		id, err := issuer.CertID(hash, s)
		must(t, err)
		ids = append(ids, id)
	}
	q, err := ocsp.AppendRequest(nil, ids, nonce)
	must(t, err)
	return q
}

// ask returns the parsed answer, with its signature checked.
func (w *world) ask(t testing.TB, i *ca.Issuer, q []byte) (*ocsp.Response, *Answer) {
	t.Helper()
	a, err := w.OCSP(t.Context(), q)
	must(t, err)
	r, err := ocsp.ParseResponse(a.DER)
	must(t, err)
	if r.Status != a.Status {
		t.Errorf("the answer says %s, its description %s", r.Status, a.Status)
	}
	if r.Status == ocsp.Successful {
		must(t, r.CheckSignature(i.PublicKey()))
	}
	return r, a
}

func TestOCSP(t *testing.T) {
	w := newWorld(t)
	devices := w.issuer(t, "devices")
	d := w.add(t, "pump")
	c, other := w.issue(t, d.ID, nil), w.issue(t, w.add(t, "valve").ID, nil)
	unknown := append([]byte{0x41}, make([]byte, 15)...)
	nonce := []byte("0123456789abcdef0123456789abcdef")

	for _, hash := range hashes() {
		r, a := w.ask(t, devices, question(t, devices, hash, nil, c.Serial[:]))
		if len(r.Singles) != 1 || r.Singles[0].Status != ocsp.Good || !a.Cacheable || a.NextUpdate != w.now.Load()+12*3600 {
			t.Errorf("%v: got %+v, %+v", hash, r, a)
		}
		if len(r.Certs) != 0 || r.Nonce != nil || !bytes.Equal(r.ResponderName, devices.Certificate().RawSubject) {
			t.Errorf("%v: certificates %d, nonce %x, responder %x", hash, len(r.Certs), r.Nonce, r.ResponderName)
		}
		again, _ := w.ask(t, devices, question(t, devices, hash, nil, c.Serial[:]))
		if !bytes.Equal(again.RawTBS, r.RawTBS) || !bytes.Equal(again.Signature, r.Signature) {
			t.Errorf("%v: the second answer did not come from the cache", hash)
		}
	}

	// An oracle that is not ours.
	a, err := w.OCSP(t.Context(), question(t, devices, crypto.SHA1, nil, c.Serial[:]))
	must(t, err)
	parsed, err := xocsp.ParseResponse(a.DER, devices.Certificate())
	must(t, err)
	if parsed.Status != xocsp.Good || parsed.SerialNumber.Cmp(new(big.Int).SetBytes(c.Serial[:])) != 0 {
		t.Errorf("x/crypto/ocsp reads %+v", parsed)
	}

	// A nonce comes back octet by octet, and nothing of it is kept.
	size := w.Metrics().CacheSize
	r, a := w.ask(t, devices, question(t, devices, crypto.SHA256, nonce, c.Serial[:]))
	if !bytes.Equal(r.Nonce, ocsp.NonceValue(nonce)) || a.Cacheable || w.Metrics().CacheSize != size {
		t.Errorf("nonce: got %x, %+v", r.Nonce, a)
	}

	// Several at once, the answer is the earliest to be renewed.
	r, a = w.ask(t, devices, question(t, devices, crypto.SHA256, nil, c.Serial[:], unknown, other.Serial[:]))
	if len(r.Singles) != 3 || r.Singles[0].Status != ocsp.Good || r.Singles[1].Status != ocsp.Unknown || r.Singles[2].Status != ocsp.Good || a.NextUpdate != w.now.Load()+300 {
		t.Errorf("several: got %+v, %+v", r, a)
	}

	// "good" turns to "revoked" before the call returns, in the answers from the cache as well.
	w.now.Add(60)
	_, err = w.Device(t.Context(), operator, d.ID, device.Lose, Unspecified)
	must(t, err)
	for _, hash := range hashes() {
		r, _ := w.ask(t, devices, question(t, devices, hash, nil, c.Serial[:]))
		if s := r.Singles[0]; s.Status != ocsp.Revoked || s.Reason != int(KeyCompromise) || s.RevokedAt != w.now.Load() {
			t.Errorf("%v after the loss: got %+v", hash, s)
		}
	}
	// What is cached is renewed after half of its validity.
	before, _ := w.ask(t, devices, question(t, devices, crypto.SHA256, nil, other.Serial[:]))
	w.now.Add(6 * 3600)
	after, _ := w.ask(t, devices, question(t, devices, crypto.SHA256, nil, other.Serial[:]))
	if after.Singles[0].ThisUpdate <= before.Singles[0].ThisUpdate {
		t.Error("the answer was not renewed at half of its validity")
	}
}

func TestOCSPRefusals(t *testing.T) {
	w := newWorld(t)
	root, devices, services := w.issuer(t, "root"), w.issuer(t, "devices"), w.issuer(t, "services")
	c := w.issue(t, w.add(t, "pump").ID, nil)
	foreign := question(t, devices, crypto.SHA256, nil, c.Serial[:])
	foreign[len(foreign)-30] ^= 1 // in the hash of the key
	id := func(i *ca.Issuer) ocsp.CertID {
		ids, err := ocsp.NewIssuer(i.Certificate().RawSubject, i.Certificate().RawSubjectPublicKeyInfo)
		must(t, err)
		id, err := ids.CertID(crypto.SHA256, c.Serial[:])
		must(t, err)
		return id
	}
	mixed, err := ocsp.AppendRequest(nil, []ocsp.CertID{id(devices), id(services)}, nil)
	must(t, err)
	for name, row := range map[string]struct {
		request []byte
		want    ocsp.Status
	}{
		"nothing":                     {nil, ocsp.MalformedRequest},
		"noise":                       {[]byte("hello"), ocsp.MalformedRequest},
		"too long":                    {make([]byte, ocsp.MaxRequest+1), ocsp.MalformedRequest},
		"trailing octet":              {append(question(t, devices, crypto.SHA1, nil, c.Serial[:]), 0), ocsp.MalformedRequest},
		"foreign CA":                  {foreign, ocsp.Unauthorized},
		"CA without digitalSignature": {question(t, root, crypto.SHA256, nil, c.Serial[:]), ocsp.Unauthorized},
		"certificates of two CAs":     {mixed, ocsp.Unauthorized},
		"one certificate asked twice": {question(t, services, crypto.SHA256, nil, c.Serial[:], c.Serial[:]), ocsp.Successful},
	} {
		a, err := w.OCSP(t.Context(), row.request)
		if err != nil || a.Status != row.want || a.Cacheable && a.Status != ocsp.Successful {
			t.Errorf("%s: got %s, %v, want %s", name, a.Status, err, row.want)
		}
	}
	// The serial of another CA's certificate is unknown, whoever issued it.
	r, _ := w.ask(t, services, question(t, services, crypto.SHA256, nil, c.Serial[:]))
	if r.Singles[0].Status != ocsp.Unknown {
		t.Errorf("serial of another CA: got %s, want unknown", r.Singles[0].Status)
	}
	if w.Metrics().CacheSize != 0 {
		t.Error("an answer about an unknown certificate was kept: strangers could fill the cache")
	}
}

// idOf returns octets that end like a CertID of ours.
func idOf(serial [16]byte, form byte) []byte { return append([]byte{form, 0x02, 16}, serial[:]...) }

func keep(a *answers, id []byte, now int64) {
	_, g := a.get(id, now)
	a.put(id, &Answer{DER: append(bytes.Repeat([]byte{1}, 300), id...), Refresh: now + 50, NextUpdate: now + 100}, g)
}

func TestAnswersBounded(t *testing.T) {
	const kept = 10 * answerShards
	a := answers{limit: 10 * (300 + 19 + answerCost)}
	serials := make([][16]byte, 3*kept)
	for i := range serials {
		_, _ = rand.Read(serials[i][:])
		serials[i][15] = byte(i) // so that every shard gets as many
		keep(&a, idOf(serials[i], 0), 1)
		if i >= kept-1 { // the very first ones are asked for all the time
			for j := range answerShards {
				_, _ = a.get(idOf(serials[j], 0), 1)
			}
		}
	}
	if n, octets := a.size(); n != kept || octets > a.limit*answerShards {
		t.Errorf("the cache holds %d answers in %d octets, want %d in at most %d", n, octets, kept, a.limit*answerShards)
	}
	for j := range answerShards {
		if answer, _ := a.get(idOf(serials[j], 0), 1); answer == nil {
			t.Errorf("answer %d was dropped although it was asked for all the time", j)
		}
	}
	for i := range 20 {
		keep(&a, idOf(serials[0], byte(i)), 1)
	}
	asked := a.purge(serials[0][:])
	if len(asked) > maxVariants {
		t.Errorf("%d answers about one certificate, want at most %d", len(asked), maxVariants)
	}
	if answer, _ := a.get(idOf(serials[0], 0), 1); answer != nil {
		t.Error("an answer is there after its purge")
	}
	// What was read before a purge must not come in after it.
	id := idOf(serials[0], 99)
	_, g := a.get(id, 1)
	a.purge(serials[0][:])
	a.put(id, &Answer{DER: id, NextUpdate: 100}, g)
	if answer, _ := a.get(id, 1); answer != nil {
		t.Error("an answer from before the purge was kept")
	}
	a.clear()
	if n, octets := a.size(); n != 0 || octets != 0 {
		t.Errorf("after clear: %d answers in %d octets", n, octets)
	}
}

// TestAnswersAgainstModel compares the cache with a plain map under random use.
func TestAnswersAgainstModel(t *testing.T) {
	r := mrand.New(mrand.NewPCG(1, 2))
	a, model := answers{limit: 1 << 30}, map[string]bool{}
	for step := range 20_000 {
		serial := [16]byte{1, 15: byte(r.IntN(200))}
		id := idOf(serial, byte(r.IntN(4)))
		switch r.IntN(10) {
		case 0:
			for _, asked := range a.purge(serial[:]) {
				if !model[string(asked)] {
					t.Fatalf("step %d: %x was purged and not there", step, asked)
				}
				delete(model, string(asked))
			}
		case 1, 2, 3:
			keep(&a, id, 1)
			model[string(id)] = true
		default:
			if answer, _ := a.get(id, 1); (answer != nil) != model[string(id)] || answer != nil && !bytes.Equal(answer.id(), id) {
				t.Fatalf("step %d: got %v for %x, want it there: %v", step, answer, id, model[string(id)])
			}
		}
	}
	if n, _ := a.size(); n != len(model) {
		t.Errorf("%d answers, want %d", n, len(model))
	}
}

// TestRenewal looks at what happens to an answer in the second half of its life.
func TestRenewal(t *testing.T) {
	w := newWorld(t)
	devices := w.issuer(t, "devices")
	c := w.issue(t, w.add(t, "pump").ID, nil)
	q := question(t, devices, crypto.SHA1, nil, c.Serial[:])
	if w.KeptOCSP(q, w.now.Load()) != nil {
		t.Error("an answer was kept before there was one")
	}
	_, first := w.ask(t, devices, q)
	if w.KeptOCSP(q, w.now.Load()) != first {
		t.Error("the fast way finds another answer than the slow one")
	}
	if n := testing.AllocsPerRun(100, func() { w.KeptOCSP(q, first.ThisUpdate) }); n > 0 {
		t.Errorf("the fast way allocates %v times", n)
	}
	w.now.Add(6 * 3600)
	if w.KeptOCSP(q, w.now.Load()) != nil {
		t.Error("the fast way gives an answer past half of its life")
	}
	// A key that is away: the old answer is good to its end, the next attempt is some seconds off, and then there is none.
	custody := w.Keys
	w.Keys = noKeys{custody}
	a, err := w.OCSP(t.Context(), q)
	if a != first || err == nil {
		t.Errorf("without a key: got %+v, %v, want the old answer and the cause", a, err)
	}
	if a, err := w.OCSP(t.Context(), q); a != first || err != nil || w.KeptOCSP(q, w.now.Load()) != first {
		t.Errorf("directly after: got %+v, %v, want the old answer without another attempt", a, err)
	}
	w.now.Add(6*3600 + 1)
	if a, err := w.OCSP(t.Context(), q); a.Status != ocsp.TryLater || err == nil {
		t.Errorf("after its end: got %s, %v, want tryLater", a.Status, err)
	}
	w.Keys = custody
	if _, a := w.ask(t, devices, q); a.ThisUpdate != w.now.Load() {
		t.Errorf("with the key: got an answer of %d, want one of %d", a.ThisUpdate, w.now.Load())
	}
}

type noKeys struct{ key.Custody }

func (noKeys) Signer(context.Context, key.ID) (crypto.Signer, error) {
	return nil, errs.New(errs.Unavailable, "away")
}

// TestRevokedAnswersAreReady revokes and then takes the key away: the news is there already, in every form in which it was asked for, and
// in the most common form where nobody has asked.
func TestRevokedAnswersAreReady(t *testing.T) {
	w := newWorld(t)
	devices := w.issuer(t, "devices")
	asked, quiet := w.issue(t, w.add(t, "pump").ID, nil), w.issue(t, w.add(t, "valve").ID, nil)
	for _, hash := range hashes() {
		w.ask(t, devices, question(t, devices, hash, nil, asked.Serial[:]))
	}
	for _, c := range []*ca.Certificate{asked, quiet} {
		_, err := w.Certificate(t.Context(), operator, c.Serial[:], CertificateHold)
		must(t, err)
	}
	custody := w.Keys
	w.Keys = noKeys{custody}
	questions := [][]byte{question(t, devices, crypto.SHA1, nil, quiet.Serial[:])}
	for _, hash := range hashes() {
		questions = append(questions, question(t, devices, hash, nil, asked.Serial[:]))
	}
	for i, q := range questions {
		if r, _ := w.ask(t, devices, q); r.Status != ocsp.Successful || r.Singles[0].Status != ocsp.Revoked || r.Singles[0].Reason != int(CertificateHold) {
			t.Errorf("question %d: got %+v, want revoked from before the key went", i, r)
		}
	}
	w.Keys = custody
	_, err := w.Release(t.Context(), operator, asked.Serial[:])
	must(t, err)
	w.Keys = noKeys{custody}
	if r, _ := w.ask(t, devices, questions[1]); r.Singles[0].Status != ocsp.Good {
		t.Errorf("after the release: got %+v, want good", r)
	}
}

// TestLiveRate asks for more live signatures than are allowed.
func TestLiveRate(t *testing.T) {
	w := newWorld(t)
	w.liveRate = bucket{rate: 3}
	devices := w.issuer(t, "devices")
	c := w.issue(t, w.add(t, "pump").ID, nil)
	nonce := question(t, devices, crypto.SHA1, []byte{1}, c.Serial[:])
	unknown := question(t, devices, crypto.SHA1, nil, append([]byte{0x41}, make([]byte, 15)...))
	several := question(t, devices, crypto.SHA1, nil, c.Serial[:], c.Serial[:])
	plain := question(t, devices, crypto.SHA1, nil, c.Serial[:])
	for i, row := range []struct {
		q    []byte
		want ocsp.Status
	}{{nonce, 0}, {unknown, 0}, {several, 0}, {nonce, ocsp.TryLater}, {unknown, ocsp.TryLater}, {several, ocsp.TryLater}, {plain, 0}, {plain, 0}} {
		a, err := w.OCSP(t.Context(), row.q)
		if a.Status != row.want || (err == nil) != (row.want == 0) || err != nil && errs.KindOf(err) != errs.Limited {
			t.Errorf("question %d: got %s, %v, want %s", i, a.Status, err, row.want)
		}
	}
	w.now.Add(1)
	if a, err := w.OCSP(t.Context(), nonce); a.Status != ocsp.Successful || err != nil {
		t.Errorf("a second later: got %s, %v", a.Status, err)
	}
}

// TestSharedName makes two CAs of one subject, which two nodes can when they do it at once: only by their keys can their answers be told apart.
func TestSharedName(t *testing.T) {
	w := newWorld(t)
	devices := w.issuer(t, "devices")
	q := question(t, devices, crypto.SHA1, nil, w.issue(t, w.add(t, "pump").ID, nil).Serial[:])
	if r, _ := w.ask(t, devices, q); r.ResponderName == nil {
		t.Error("a CA alone of its name is not named by it")
	}
	other := ca.New(ca.Deps{DB: w.DB, Audit: w.Audit, Access: w.Access, Keys: w.Keys, Now: w.Now})
	must(t, other.Load(t.Context())) // and knows nothing of what comes now
	spec := ca.Spec{Name: "twin-1", Parent: "root", Subject: []der.Attribute{{Type: der.OIDCommonName, Value: "Twins"}}, Algorithm: key.P256, Validity: 10 * 365 * 86400}
	first, err := w.CA.Create(t.Context(), admin, spec)
	must(t, err)
	spec.Name = "twin-2"
	_, err = other.Create(t.Context(), admin, spec)
	must(t, err)
	must(t, w.CA.Load(t.Context()))
	second, err := w.CA.Issuer("twin-2")
	must(t, err)
	w.now.Add(6 * 3600)
	for _, i := range []*ca.Issuer{first, second} {
		if r, _ := w.ask(t, i, question(t, i, crypto.SHA1, nil, []byte{1})); r.ResponderName != nil || len(r.ResponderKey) != 20 {
			t.Errorf("%s is named by %x", i.Name(), r.ResponderName)
		}
	}
	if r, _ := w.ask(t, devices, q); r.ResponderName == nil {
		t.Error("a CA alone of its name is not named by it any more")
	}
}

// TestStrict answers for certificates that were never issued.
func TestStrict(t *testing.T) {
	w := newWorld(t)
	w.Deps.OCSP.Strict = true
	devices := w.issuer(t, "devices")
	r, _ := w.ask(t, devices, question(t, devices, crypto.SHA1, nil, append([]byte{0x41}, make([]byte, 15)...)))
	if s := r.Singles[0]; s.Status != ocsp.Revoked || s.Reason != int(CertificateHold) || s.RevokedAt != 0 || w.Metrics().CacheSize != 0 {
		t.Errorf("got %+v, want revoked on hold since 1970, and nothing kept", s)
	}
	// Of certificates that are not kept nobody can say that.
	for _, class := range []byte{0x44, 0x45} {
		r, _ := w.ask(t, devices, question(t, devices, crypto.SHA1, nil, append([]byte{class}, make([]byte, 15)...)))
		if s := r.Singles[0]; s.Status != ocsp.Unknown {
			t.Errorf("class %x: got %+v, want unknown", class, s)
		}
	}
}

func BenchmarkKept(b *testing.B) {
	w := newWorld(b)
	devices := w.issuer(b, "devices")
	c := w.issue(b, w.add(b, "pump").ID, nil)
	q := question(b, devices, crypto.SHA1, nil, c.Serial[:])
	w.ask(b, devices, q)
	b.ReportAllocs()
	for b.Loop() {
		if w.KeptOCSP(q, w.now.Load()) == nil {
			b.Fatal("not kept")
		}
	}
}
