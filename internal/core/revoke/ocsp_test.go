package revoke

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"fmt"
	"math/big"
	"testing"

	xocsp "golang.org/x/crypto/ocsp"

	"mooring/internal/core/ca"
	"mooring/internal/core/device"
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
func (w *world) ask(t testing.TB, i *ca.Issuer, q []byte) (*ocsp.Response, Answer) {
	t.Helper()
	a, err := w.OCSP(t.Context(), q)
	must(t, err)
	r, err := ocsp.ParseResponse(a.DER)
	must(t, err)
	if r.Status != a.Status {
		t.Errorf("the answer says %s, its description %s", r.Status, a.Status)
	}
	if r.Status == ocsp.Successful {
		must(t, r.CheckSignature(i.Certificate().PublicKey))
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
		if len(r.Certs) != 0 || r.Nonce != nil || len(r.ResponderKey) != 20 {
			t.Errorf("%v: certificates %d, nonce %x, responder %x", hash, len(r.Certs), r.Nonce, r.ResponderKey)
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

func TestAnswersBounded(t *testing.T) {
	var a answers
	for i := range maxAnswers + 500 {
		serial := fmt.Appendf(nil, "%d", i)
		_, g := a.get(serial, serial, 1)
		a.put(serial, serial, &Answer{Refresh: 100}, g, 1)
	}
	if n := a.size(); n > maxAnswers {
		t.Errorf("the cache holds %d answers, want at most %d", n, maxAnswers)
	}
	serial := []byte(rand.Text())
	for i := range 20 {
		_, g := a.get(serial, []byte{byte(i)}, 1)
		a.put(serial, []byte{byte(i)}, &Answer{Refresh: 100}, g, 1)
	}
	if n := len(a.bySerial[string(serial)]); n != maxVariants {
		t.Errorf("%d answers about one certificate, want %d", n, maxVariants)
	}
	// What was read before a purge must not come in after it.
	_, g := a.get(serial, []byte("x"), 1)
	a.purge(serial)
	a.put(serial, []byte("x"), &Answer{Refresh: 100}, g, 1)
	if kept, _ := a.get(serial, []byte("x"), 1); kept != nil {
		t.Error("an answer from before the purge was kept")
	}
}
