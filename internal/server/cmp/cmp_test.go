package cmp_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/core/audit"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/core/revoke"
	"mooring/wire/cmp"
	"mooring/wire/der"
)

// TestAcceptance has a row for each case of the acceptance list of CMP. They share a platform; each has devices of its own.
func TestAcceptance(t *testing.T) {
	p := apptest.Start(t, withCMP, apptest.Variant("device", "approved", "approval: required"), apptest.Variant("device", "field", "evidence: [token, operational, ra]"),
		apptest.Variant("device", "authority", "ext_key_usage: [clientAuth, cmcRA]", "approval: required", "slot: authority"),
		apptest.Variant("device", "made", "server_keygen: ec-p256"))
	refusals.Store(0)
	for _, c := range []struct {
		name string
		run  func(t *testing.T, f *fleet)
	}{
		{"pvno other than 2 or 3", header(cmp.UnsupportedVersion, func(h *cmp.Header) { h.Version = 1 })},
		{"pvno 3", header(-1, func(h *cmp.Header) { h.Version = 3 })},
		{"messageTime missing", header(-1, func(h *cmp.Header) { h.Time = time.Time{} })},
		{"messageTime before the window", header(cmp.BadTime, func(h *cmp.Header) { h.Time = h.Time.Add(-6 * time.Minute) })},
		{"messageTime after the window", header(cmp.BadTime, func(h *cmp.Header) { h.Time = h.Time.Add(6 * time.Minute) })},
		{"sender not directoryName", senderOfAnotherKind},
		{"sender not subject of the protection certificate", signedHeader(cmp.BadMessageCheck, func(h *cmp.Header) { h.Sender = []byte(cmp.Empty) })},
		{"senderKID missing with a MAC", header(cmp.BadMessageCheck, func(h *cmp.Header) { h.SenderKID = nil })},
		{"senderKID missing with a signature", signedHeader(-1, func(h *cmp.Header) { h.SenderKID = nil })},
		{"senderKID wrong with a MAC", header(cmp.BadMessageCheck, func(h *cmp.Header) { h.SenderKID = []byte("somebody") })},
		{"senderKID wrong with a signature", signedHeader(cmp.BadMessageCheck, func(h *cmp.Header) { h.SenderKID = []byte("somebody") })},
		{"transactionID missing", header(cmp.BadDataFormat, func(h *cmp.Header) { h.Transaction = nil })},
		{"transactionID short", header(cmp.BadRequest, func(h *cmp.Header) { h.Transaction = h.Transaction[:15] })},
		{"transactionID in use", transactionInUse},
		{"senderNonce missing", header(cmp.BadSenderNonce, func(h *cmp.Header) { h.SenderNonce = nil })},
		{"senderNonce short", header(cmp.BadSenderNonce, func(h *cmp.Header) { h.SenderNonce = h.SenderNonce[:15] })},
		{"senderNonce reused", nonceReused},
		{"recipNonce on first message", header(cmp.BadRecipientNonce, func(h *cmp.Header) { h.RecipientNonce = random(16) })},
		{"recipNonce wrong", nonceWrong},
		{"protection without alg", octets(cmp.BadMessageCheck, func(t *testing.T, c *client, m []byte) []byte {
			c.secret = ""
			return join(append(parts(t, c.build(&cmp.General{As: cmp.GenM})), []byte{0xa0, 4, 3, 2, 0, 1})...)
		})},
		{"alg without protection", octets(cmp.BadMessageCheck, func(t *testing.T, _ *client, m []byte) []byte { return join(parts(t, m)[:2]...) })},
		{"no protection", octets(cmp.BadMessageCheck, func(_ *testing.T, c *client, _ []byte) []byte {
			c.secret = ""
			return c.build(&cmp.General{As: cmp.GenM})
		})},
		{"not a message", octets(cmp.BadDataFormat, func(*testing.T, *client, []byte) []byte { return []byte("hello") })},
		{"indefinite lengths refused", octets(cmp.BadDataFormat, func(_ *testing.T, _ *client, m []byte) []byte {
			return append(append([]byte{0x30, 0x80}, m[4:]...), 0, 0)
		})},
		{"trailing octets", octets(cmp.BadDataFormat, func(_ *testing.T, _ *client, m []byte) []byte { return append(m, 0) })},
		{"MAC algorithm switched in mid-transaction", macSwitched},
		{"MAC with SHA-1 as PasswordBasedMac has it by default", macOf(-1, cmp.MAC{Old: true, Salt: random(16), Iterations: 500, Derive: cmp.SHA256, HMAC: cmp.SHA1})},
		{"PBMAC1", macOf(-1, cmp.MAC{Salt: random(16), Iterations: 2048, Derive: cmp.SHA512, HMAC: cmp.SHA384, KeyLength: 48})},
		{"iteration bounds: below", macOf(cmp.BadAlg, cmp.MAC{Old: true, Salt: random(16), Iterations: 99, Derive: cmp.SHA256, HMAC: cmp.SHA256})},
		{"iteration bounds: at", macOf(-1, cmp.MAC{Old: true, Salt: random(16), Iterations: 100_000, Derive: cmp.SHA256, HMAC: cmp.SHA256})},
		{"iteration bounds: above", macOf(cmp.BadAlg, cmp.MAC{Old: true, Salt: random(16), Iterations: 100_001, Derive: cmp.SHA256, HMAC: cmp.SHA256})},
		{"MAC wrong", func(t *testing.T, f *fleet) {
			d, _ := f.p.Device(t, f.name(), "device")
			c := byMAC(t, f.p, d.Name, "mt_wrong")
			want(t, c, c.request(cmp.IR), cmp.BadMessageCheck)
		}},
		{"token used", tokenUsed},
		{"certConf", confirmed},
		{"certConf with wrong certReqId", badConfirm(cmp.BadCertID, func(c *client, b cmp.Confirmation) cmp.Confirmation { b[0].ID = 1; return b })},
		{"certConf with wrong certReqId: that of a p10cr", badConfirm(cmp.BadCertID, func(c *client, b cmp.Confirmation) cmp.Confirmation { b[0].ID = -1; return b })},
		{"certConf with wrong hash", badConfirm(cmp.BadCertID, func(c *client, b cmp.Confirmation) cmp.Confirmation { b[0].Hash = random(32); return b })},
		{"certConf with two statuses", badConfirm(cmp.BadRequest, func(c *client, b cmp.Confirmation) cmp.Confirmation { return append(b, b[0]) })},
		{"certConf signed by the new certificate", confirmedByItself},
		{"certConf with hashAlg in v2", badConfirm(cmp.BadRequest, func(c *client, b cmp.Confirmation) cmp.Confirmation {
			b[0].HashAlgorithm = cmp.SHA256Identifier()
			return b
		})},
		{"certConf with hashAlg in v3", badConfirm(-1, func(c *client, b cmp.Confirmation) cmp.Confirmation {
			b[0].HashAlgorithm = cmp.SHA256Identifier()
			c.header = func(h *cmp.Header) { h.Version = 3 }
			return b
		})},
		{"certConf that rejects", confirmRejects},
		{"certConf by an error message", confirmGivesUp},
		{"implicitConfirm asked and granted", implicitly},
		{"two CertReqMsg", func(t *testing.T, f *fleet) {
			c := f.newcomer(t, "device")
			r := c.request(cmp.IR)
			r.List = append(r.List, r.List[0])
			want(t, c, r, cmp.BadRequest)
		}},
		{"certReqId other than 0", func(t *testing.T, f *fleet) {
			c := f.newcomer(t, "device")
			r := c.request(cmp.CR)
			r.List[0].ID = 1
			prove(t, &r.List[0])
			want(t, c, r, cmp.BadRequest)
		}},
		{"POP bad", func(t *testing.T, f *fleet) {
			c := f.newcomer(t, "device")
			r := c.request(cmp.IR)
			r.List[0].Proof.Bits = c.request(cmp.IR).List[0].Proof.Bits
			want(t, c, r, cmp.BadPOP)
		}},
		{"POP missing", func(t *testing.T, f *fleet) {
			c := f.newcomer(t, "device")
			r := c.request(cmp.IR)
			r.List[0].Proof = cmp.Proof{}
			want(t, c, r, cmp.BadPOP)
		}},
		{"raVerified from an end entity by MAC", func(t *testing.T, f *fleet) {
			c := f.newcomer(t, "device")
			r := c.request(cmp.IR)
			r.List[0].Proof = cmp.Proof{Kind: cmp.RAVerified}
			want(t, c, r, cmp.BadPOP)
		}},
		{"raVerified from an end entity by signature", func(t *testing.T, f *fleet) {
			c := f.member(t, "field")
			r := c.request(cmp.CR)
			r.List[0].Template.Subject = c.pair.Leaf.RawSubject
			vouch(t, &r.List[0])
			want(t, c, r, cmp.SignerNotTrusted)
		}},
		{"raVerified from a registration authority", byAuthority},
		{"p10cr certReqId -1", pkcs10},
		{"ir, cr", func(t *testing.T, f *fleet) {
			c := f.newcomer(t, "device")
			c.issued(c.send(c.request(cmp.IR)), cmp.IP)
			c = f.newcomer(t, "device")
			c.issued(c.send(c.request(cmp.CR)), cmp.CP)
		}},
		{"kur", renewed},
		{"kur with a revoked certificate", func(t *testing.T, f *fleet) {
			c := f.member(t, "device")
			f.revoke(t, c.pair.Leaf)
			want(t, c, c.renewal(), cmp.CertRevoked)
		}},
		{"kur with an already updated certificate", updatedBefore},
		{"kur with oldCertID", func(t *testing.T, f *fleet) {
			c := f.member(t, "device")
			r := c.renewal()
			r.List[0].Controls = []cmp.Info{cmp.NewOldCertID(c.pair.Leaf.RawIssuer, c.pair.Leaf.SerialNumber.Bytes())}
			prove(t, &r.List[0])
			c.issued(c.send(r), cmp.KUP)
		}},
		{"kur with oldCertID mismatch", func(t *testing.T, f *fleet) {
			c := f.member(t, "device")
			r := c.renewal()
			r.List[0].Controls = []cmp.Info{cmp.NewOldCertID(c.pair.Leaf.RawIssuer, []byte{1, 2, 3})}
			prove(t, &r.List[0])
			want(t, c, r, cmp.BadCertID)
		}},
		{"kur with another subject", func(t *testing.T, f *fleet) {
			c := f.member(t, "device")
			r := c.renewal()
			r.List[0].Template.Subject = f.member(t, "device").pair.Leaf.RawSubject
			prove(t, &r.List[0])
			want(t, c, r, cmp.NotAuthorized)
		}},
		{"kur by MAC", func(t *testing.T, f *fleet) {
			c := f.newcomer(t, "device")
			want(t, c, c.request(cmp.KUR), cmp.NotAuthorized)
		}},
		{"rr", func(t *testing.T, f *fleet) {
			c := f.member(t, "device")
			want(t, c, c.give(c.pair.Leaf, 1), -1)
			if r, revoked, err := f.p.Revoke.Status(t.Context(), c.pair.Leaf.SerialNumber.Bytes()); err != nil || !revoked || r.Reason != revoke.KeyCompromise {
				t.Errorf("status: got %+v, %v, %v", r, revoked, err)
			}
		}},
		{"rr unprotected", func(t *testing.T, f *fleet) {
			c := f.member(t, "device")
			rr := c.give(c.pair.Leaf, 0)
			c.pair = nil
			want(t, c, rr, cmp.BadMessageCheck)
		}},
		{"rr by MAC", revokedByMAC},
		{"rr with an unknown reason", func(t *testing.T, f *fleet) {
			c := f.member(t, "device")
			want(t, c, c.give(c.pair.Leaf, 7), cmp.BadRequest)
		}},
		{"rr for a hold", func(t *testing.T, f *fleet) {
			c := f.member(t, "device")
			want(t, c, c.give(c.pair.Leaf, 6), cmp.BadRequest)
		}},
		{"rr already revoked", func(t *testing.T, f *fleet) {
			c := f.member(t, "device")
			f.revoke(t, c.pair.Leaf)
			want(t, c, c.give(c.pair.Leaf, 1), cmp.CertRevoked)
		}},
		{"rr for the certificate of another", func(t *testing.T, f *fleet) {
			c := f.member(t, "device")
			want(t, c, c.give(f.member(t, "device").pair.Leaf, 1), cmp.BadCertID)
		}},
		{"rr without a serial number", func(t *testing.T, f *fleet) {
			c := f.member(t, "device")
			rr := c.give(c.pair.Leaf, 1)
			rr[0].Template.Serial = nil
			want(t, c, rr, cmp.AddInfoNotAvailable)
		}},
		{"polling", polled},
		{"polling without a request", func(t *testing.T, f *fleet) {
			c := f.newcomer(t, "device")
			c.theirs = random(16)
			want(t, c, cmp.Poll{0}, cmp.BadRequest)
		}},
		{"polling for a request that is refused", pollRefused},
		{"nested", nestedOne},
		{"nested, several", nestedMany},
		{"raVerified in a nested message", nestedVouch},
		{"nested by an end entity", func(t *testing.T, f *fleet) {
			c, inner := f.member(t, "field"), f.newcomer(t, "field")
			want(t, c, cmp.Messages{inner.build(inner.request(cmp.IR))}, cmp.SignerNotTrusted)
		}},
		{"nested by MAC", func(t *testing.T, f *fleet) {
			c, inner := f.newcomer(t, "field"), f.newcomer(t, "field")
			want(t, c, cmp.Messages{inner.build(inner.request(cmp.IR))}, cmp.NotAuthorized)
		}},
		{"nested in nested", func(t *testing.T, f *fleet) {
			c := f.authority(t)
			inner := byCert(t, f.p, *c.pair)
			inner.sent = inner.build(cmp.Messages{[]byte{0x30, 0}})
			if got := failure(t, inner.read(c.post(c.build(cmp.Messages{inner.sent})))); got != cmp.BadRequest {
				t.Errorf("got %v, want badRequest", got)
			}
		}},
		{"genm caCerts", caCerts},
		{"genm rootCaCert", rootCACert},
		{"genm certReqTemplate", certReqTemplate},
		{"genm crlUpdate", crlUpdate},
		{"genm of an unknown type", func(t *testing.T, f *fleet) {
			c := f.member(t, "device")
			want(t, c, &cmp.General{As: cmp.GenM, List: []cmp.Info{{Type: der.OIDCommonName}}}, cmp.BadRequest)
		}},
		{"error replies protected", func(t *testing.T, f *fleet) { // by MAC, by signature: send checks it
			c := f.newcomer(t, "device")
			want(t, c, cmp.Confirmed{}, cmp.BadRecipientNonce)
			c = f.newcomer(t, "device")
			c.theirs = random(16)
			want(t, c, &cmp.General{As: cmp.GenP}, cmp.BadRequest)
			c = f.member(t, "device")
			want(t, c, &cmp.General{As: cmp.GenM, List: []cmp.Info{{Type: cmp.OIDRootCACert}}}, cmp.BadRequest)
		}},
		{"HTTP/1.0", http10},
		{"application/pkixcmp", mediaTypes},
		{"/.well-known/cmp/p/<name>", paths},
		{"a message over the limit", func(t *testing.T, f *fleet) {
			r, err := http.Post(f.p.Addresses().CMP+cmp.WellKnown, cmp.MediaType, bytes.NewReader(make([]byte, 1<<20)))
			if err != nil {
				t.Fatal(err)
			}
			if r.Body.Close(); r.StatusCode != http.StatusRequestEntityTooLarge {
				t.Errorf("got %d, want 413", r.StatusCode)
			}
			refusals.Add(1)
		}},
		{"EnvelopedData central keygen", madeHere},
		{"central keygen by MAC", func(t *testing.T, f *fleet) {
			c := f.newcomer(t, "made")
			r := &cmp.Requests{As: cmp.IR, List: []cmp.Request{{}}}
			want(t, c, r, cmp.BadCertTemplate)
		}},
		{"replay of the same request gives the same certificate", func(t *testing.T, f *fleet) {
			c := f.newcomer(t, "device")
			one := c.issued(c.send(c.request(cmp.IR)), cmp.IP)
			if two := c.issued(c.read(c.post(c.sent)), cmp.IP); !two.Equal(one) {
				t.Error("another certificate")
			}
		}},
		{"key equal to a CA key, weak keys, names", badRequests},
		{"audit entry on every refusal", recorded}, // the last
	} {
		t.Run(c.name, func(t *testing.T) {
			c.run(t, &fleet{p: p, prefix: strings.NewReplacer(" ", "-", "<", "", ">", "", ",", "").Replace(c.name)})
		})
	}
	if r := p.Verify(t); len(r.Findings) > 0 {
		t.Errorf("the record does not fit: %v", r.Findings)
	}
}

// recorded compares the number of refusals of all cases with what the record tells of.
func recorded(t *testing.T, f *fleet) {
	f.p.Restart(t) // those that are like others are counted, and the count is recorded every minute and at the end
	n := int64(0)
	for _, e := range f.p.Record(t) {
		if e.Action == "enrol.refuse" {
			more, _ := strconv.ParseInt(e.Detail["count"], 10, 64)
			n += max(1, more)
		}
	}
	if n != refusals.Load() {
		t.Errorf("the record tells of %d refusals, want %d", n, refusals.Load())
	}
}

// TestAcceptanceInTime has the cases in which time passes or a node goes.
func TestAcceptanceInTime(t *testing.T) {
	p := apptest.Start(t, withCMP)
	for _, c := range []struct {
		name string
		run  func(t *testing.T, f *fleet)
	}{
		{"token expired", tokenExpired},
		{"certConf too late", confirmLate},
		{"certConf at another node", confirmElsewhere},
		{"unconfirmed kur leaves the old valid", unconfirmed},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, &fleet{p: p, prefix: strings.ReplaceAll(c.name, " ", "-")}) })
	}
	if r := p.Verify(t); len(r.Findings) > 0 {
		t.Errorf("the record does not fit: %v", r.Findings)
	}
}

// fleet are the devices of one case.
type fleet struct {
	p      *apptest.Platform
	prefix string
	n      int
}

func (f *fleet) name() string { f.n++; return fmt.Sprintf("%s.%d", f.prefix, f.n) }

// newcomer is a device with a token.
func (f *fleet) newcomer(t *testing.T, profile string) *client {
	t.Helper()
	d, token := f.p.Device(t, f.name(), profile)
	return byMAC(t, f.p, d.Name, token)
}

// member is a device with a certificate.
func (f *fleet) member(t *testing.T, profile string) *client {
	t.Helper()
	_, pair := f.p.Enrolled(t, f.name(), profile)
	return byCert(t, f.p, pair)
}

// authority is a registration authority.
func (f *fleet) authority(t *testing.T) *client {
	t.Helper()
	d, token := f.p.Device(t, f.name(), "authority")
	key := apptest.Key(t)
	r := enrol.Request{Protocol: "est", Op: enrol.Enrol, Basic: true, User: d.Name, Secret: token, CSR: apptest.CSR(t, key, der.RequestSpec{})}
	if _, err := f.p.Enrol.Submit(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if _, err := f.p.Enrol.Decide(t.Context(), apptest.Operator(), d.Name, "", true); err != nil {
		t.Fatal(err)
	}
	answer, err := f.p.Enrol.Submit(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return byCert(t, f.p, f.p.Pair(t, key, answer.Certificate.DER))
}

func (f *fleet) revoke(t *testing.T, cert *x509.Certificate) {
	t.Helper()
	if _, err := f.p.Revoke.Certificate(t.Context(), apptest.Operator(), cert.SerialNumber.Bytes(), revoke.KeyCompromise); err != nil {
		t.Fatal(err)
	}
}

// request asks for a certificate for a new key.
func (c *client) request(as cmp.Kind) *cmp.Requests {
	c.t.Helper()
	return &cmp.Requests{As: as, List: []cmp.Request{c.wanted(apptest.Key(c.t), nil)}}
}

// renewal asks for another certificate like the present one.
func (c *client) renewal() *cmp.Requests {
	c.t.Helper()
	return &cmp.Requests{As: cmp.KUR, List: []cmp.Request{c.wanted(apptest.Key(c.t), c.pair.Leaf)}}
}

// give asks to revoke.
func (c *client) give(cert *x509.Certificate, reason int) cmp.Revocations {
	return cmp.Revocations{{Template: cmp.Template{Serial: cert.SerialNumber.Bytes(), Issuer: cert.RawIssuer}, Reason: reason}}
}

// prove signs a request again that was changed.
func prove(t *testing.T, r *cmp.Request) {
	t.Helper()
	key := apptest.Key(t)
	var err error
	if r.Template.SPKI, err = der.EncodePublicKey(key.Public()); err != nil {
		t.Fatal(err)
	}
	if err := r.Prove(key, rand.Reader); err != nil {
		t.Fatal(err)
	}
}

// vouch replaces the proof of a request by the word of an authority.
func vouch(t *testing.T, r *cmp.Request) {
	t.Helper()
	if err := r.Complete(); err != nil {
		t.Fatal(err)
	}
	r.Proof = cmp.Proof{Kind: cmp.RAVerified}
}

// want sends a body and compares the failure in the answer; -1 = none.
func want(t *testing.T, c *client, body cmp.Body, f cmp.Failure) {
	t.Helper()
	answer := c.send(body)
	if got := failure(t, answer); got != f {
		t.Errorf("got %v in %+v, want %v", got, answer, f)
	}
}

// header makes a case of a first message by MAC whose header was changed.
func header(f cmp.Failure, change func(*cmp.Header)) func(*testing.T, *fleet) {
	return func(t *testing.T, fl *fleet) {
		c := fl.newcomer(t, "device")
		c.header = change
		want(t, c, c.request(cmp.IR), f)
	}
}

// signedHeader is header for a message that is signed.
func signedHeader(f cmp.Failure, change func(*cmp.Header)) func(*testing.T, *fleet) {
	return func(t *testing.T, fl *fleet) {
		c := fl.member(t, "device")
		c.header = change
		want(t, c, c.renewal(), f)
	}
}

// octets makes a case of a message whose octets were changed.
func octets(f cmp.Failure, change func(*testing.T, *client, []byte) []byte) func(*testing.T, *fleet) {
	return func(t *testing.T, fl *fleet) {
		c := fl.newcomer(t, "device")
		out := change(t, c, c.build(c.request(cmp.IR)))
		c.sent = out
		if got := failure(t, c.read(c.post(out))); got != f {
			t.Errorf("got %v, want %v", got, f)
		}
	}
}

func senderOfAnotherKind(t *testing.T, f *fleet) {
	c := f.newcomer(t, "device")
	c.raw = func(m []byte) []byte {
		at := bytes.Index(m, []byte{0xa4, 2, 0x30, 0})
		m[at] = 0xa5 // ediPartyName
		return m
	}
	want(t, c, c.request(cmp.IR), cmp.BadMessageCheck)
}

func transactionInUse(t *testing.T, f *fleet) {
	c := f.newcomer(t, "device")
	c.issued(c.send(c.request(cmp.IR)), cmp.IP)
	c.theirs = nil
	want(t, c, c.request(cmp.IR), cmp.TransactionIDInUse)
}

func nonceReused(t *testing.T, f *fleet) {
	c := f.newcomer(t, "device")
	var mine []byte
	c.header = func(h *cmp.Header) { mine = h.SenderNonce }
	cert := c.issued(c.send(c.request(cmp.IR)), cmp.IP)
	c.header = func(h *cmp.Header) { h.SenderNonce = mine }
	want(t, c, confirm(cert), cmp.BadSenderNonce)
}

func nonceWrong(t *testing.T, f *fleet) {
	c := f.newcomer(t, "device")
	cert := c.issued(c.send(c.request(cmp.IR)), cmp.IP)
	c.header = func(h *cmp.Header) { h.RecipientNonce = random(16) }
	want(t, c, confirm(cert), cmp.BadRecipientNonce)
	c = f.newcomer(t, "device")
	cert = c.issued(c.send(c.request(cmp.IR)), cmp.IP)
	c.header = func(h *cmp.Header) { h.RecipientNonce = nil }
	want(t, c, confirm(cert), cmp.BadRecipientNonce)
}

func macSwitched(t *testing.T, f *fleet) {
	c := f.newcomer(t, "device")
	cert := c.issued(c.send(c.request(cmp.IR)), cmp.IP)
	c.mac = &cmp.MAC{Secret: []byte(c.secret), Old: true, Salt: random(16), Iterations: 500, Derive: cmp.SHA256, HMAC: cmp.SHA256}
	want(t, c, confirm(cert), cmp.WrongIntegrity)
}

func macOf(fail cmp.Failure, m cmp.MAC) func(*testing.T, *fleet) {
	return func(t *testing.T, f *fleet) {
		c := f.newcomer(t, "device")
		m.Secret = []byte(c.secret)
		c.mac = &m
		want(t, c, c.request(cmp.IR), fail)
	}
}

func tokenUsed(t *testing.T, f *fleet) {
	c := f.newcomer(t, "device")
	c.header = implicit
	c.issued(c.send(c.request(cmp.IR)), cmp.IP)
	c.id, c.theirs = random(16), nil
	want(t, c, c.request(cmp.IR), cmp.NotAuthorized)
}

func tokenExpired(t *testing.T, f *fleet) {
	d := f.p.Add(t, device.Spec{Name: f.name(), Profile: "device"})
	text, _, err := f.p.Devices.Token(t.Context(), apptest.Operator(), d.ID, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	c := byMAC(t, f.p, d.Name, text)
	f.p.Clock.Move(2 * time.Minute)
	want(t, c, c.request(cmp.IR), cmp.NotAuthorized)
}

func confirmed(t *testing.T, f *fleet) {
	c := f.newcomer(t, "device")
	cert := c.issued(c.send(c.request(cmp.IR)), cmp.IP)
	if b := c.send(confirm(cert)); b.Kind() != cmp.PKIConf {
		t.Errorf("got %s %+v, want pkiconf", b.Kind(), b)
	}
	if b := c.read(c.post(c.sent)); b.Kind() != cmp.PKIConf {
		t.Errorf("the same certConf again: got %s %+v, want pkiconf", b.Kind(), b)
	}
	c.id, c.theirs = random(16), nil
	if _, err := f.p.Enrol.Authenticate(t.Context(), [][]byte{cert.Raw}); err != nil {
		t.Errorf("the certificate: got %v", err)
	}
}

func badConfirm(fail cmp.Failure, change func(*client, cmp.Confirmation) cmp.Confirmation) func(*testing.T, *fleet) {
	return func(t *testing.T, f *fleet) {
		c := f.newcomer(t, "device")
		cert := c.issued(c.send(c.request(cmp.IR)), cmp.IP)
		body := change(c, cmp.Confirmation{{Hash: confirm(cert)[0].Hash}})
		want(t, c, body, fail)
	}
}

func confirmedByItself(t *testing.T, f *fleet) {
	c := f.newcomer(t, "device")
	key := apptest.Key(t)
	cert := c.issued(c.send(&cmp.Requests{As: cmp.IR, List: []cmp.Request{c.wanted(key, nil)}}), cmp.IP)
	pair := f.p.Pair(t, key, cert.Raw)
	c.pair = &pair
	want(t, c, confirm(cert), cmp.NotAuthorized)
}

func confirmRejects(t *testing.T, f *fleet) {
	for _, body := range []cmp.Confirmation{nil, {{}}} {
		c := f.newcomer(t, "device")
		cert := c.issued(c.send(c.request(cmp.IR)), cmp.IP)
		if len(body) > 0 {
			body = confirm(cert)
			body[0].Status = cmp.Refused(cmp.IncorrectData, "not what was asked for")
		}
		if b := c.send(body); b.Kind() != cmp.PKIConf {
			t.Errorf("got %s %+v, want pkiconf", b.Kind(), b)
		}
		if r, revoked, err := f.p.Revoke.Status(t.Context(), cert.SerialNumber.Bytes()); err != nil || !revoked || r.Reason != revoke.Superseded {
			t.Errorf("a certificate that was rejected: got %+v, %v, %v, want revoked", r, revoked, err)
		}
	}
}

func confirmGivesUp(t *testing.T, f *fleet) {
	c := f.newcomer(t, "device")
	c.issued(c.send(c.request(cmp.IR)), cmp.IP)
	if b := c.send(&cmp.Failed{Status: cmp.Refused(cmp.SystemFailure, "out of memory")}); b.Kind() != cmp.PKIConf {
		t.Errorf("got %s %+v, want pkiconf", b.Kind(), b)
	}
}

func confirmLate(t *testing.T, f *fleet) {
	c := f.newcomer(t, "device")
	cert := c.issued(c.send(c.request(cmp.IR)), cmp.IP)
	f.p.Clock.Move(7 * time.Minute)
	if n, err := f.p.Enrol.Lapse(t.Context()); n < 1 || err != nil {
		t.Fatalf("Lapse: got %d, %v", n, err)
	}
	want(t, c, confirm(cert), cmp.BadCertID)
}

// confirmElsewhere sends the certConf to a node that knows nothing of the exchange: the same one, after a start.
func confirmElsewhere(t *testing.T, f *fleet) {
	c := f.newcomer(t, "device")
	cert := c.issued(c.send(c.request(cmp.IR)), cmp.IP)
	f.p.Restart(t)
	if b := c.send(confirm(cert)); b.Kind() != cmp.PKIConf {
		t.Errorf("got %s %+v, want pkiconf", b.Kind(), b)
	}
	c = f.newcomer(t, "device")
	c.issued(c.send(c.request(cmp.IR)), cmp.IP)
	f.p.Restart(t)
	want(t, c, cmp.Confirmation{{Hash: random(32)}}, cmp.BadCertID)
}

func implicitly(t *testing.T, f *fleet) {
	c := f.newcomer(t, "device")
	c.header = implicit
	c.sent = c.build(c.request(cmp.IR))
	out := c.post(c.sent)
	m, err := cmp.Parse(out)
	if err != nil {
		t.Fatal(err)
	}
	if _, granted := cmp.Find(m.Header.Info, cmp.OIDImplicitConfirm); !granted {
		t.Errorf("generalInfo: got %v, want implicitConfirm", m.Header.Info)
	}
	c.issued(c.read(out), cmp.IP)
	c = f.newcomer(t, "device")
	c.sent = c.build(c.request(cmp.IR))
	if m, err = cmp.Parse(c.post(c.sent)); err != nil {
		t.Fatal(err)
	}
	if _, granted := cmp.Find(m.Header.Info, cmp.OIDImplicitConfirm); granted {
		t.Error("implicitConfirm was granted to somebody who did not ask")
	}
	if _, told := cmp.Find(m.Header.Info, cmp.OIDConfirmWaitTime); !told {
		t.Error("the time to confirm is missing")
	}
	roots := m.Body.(*cmp.Responses).CAPubs
	if len(roots) != 1 || len(m.Certs) == 0 {
		t.Errorf("with a MAC come %d roots and %d other certificates, want 1 and some", len(roots), len(m.Certs))
	}
}

func byAuthority(t *testing.T, f *fleet) {
	c := f.authority(t)
	d := f.p.Add(t, device.Spec{Name: f.name(), Profile: "field"})
	subject, err := der.BuildName([]der.Attribute{{Type: der.OIDCommonName, Value: d.Name}})
	if err != nil {
		t.Fatal(err)
	}
	r := c.request(cmp.IR)
	r.List[0].Template.Subject = subject
	vouch(t, &r.List[0])
	cert := c.issued(c.send(r), cmp.IP)
	if cert.Subject.CommonName != d.Name {
		t.Errorf("the certificate is for %v", cert.Subject)
	}
	issues := func(e audit.Entry) bool { return e.Action == "cert.issue" && e.Device == d.ID.String() }
	for _, e := range f.p.Record(t) {
		if issues(e.Entry) && (e.Detail["evidence"] != "ra" || e.Detail["authority"] == "") {
			t.Errorf("the record says %+v", e.Entry)
		}
	}
	plain := f.p.Add(t, device.Spec{Name: f.name(), Profile: "device"})
	c.id, c.theirs = random(16), nil
	r = c.request(cmp.IR)
	if r.List[0].Template.Subject, err = der.BuildName([]der.Attribute{{Type: der.OIDCommonName, Value: plain.Name}}); err != nil {
		t.Fatal(err)
	}
	vouch(t, &r.List[0])
	want(t, c, r, cmp.NotAuthorized) // its profile does not list ra
}

func pkcs10(t *testing.T, f *fleet) {
	c := f.newcomer(t, "device")
	b := c.send(cmp.PKCS10(apptest.CSR(t, apptest.Key(t), der.RequestSpec{})))
	cert := c.issued(b, cmp.CP)
	if id := b.(*cmp.Responses).List[0].ID; id != -1 {
		t.Errorf("certReqId: got %d, want -1", id)
	}
	body := confirm(cert)
	body[0].ID = -1
	if b := c.send(body); b.Kind() != cmp.PKIConf {
		t.Errorf("got %s %+v, want pkiconf", b.Kind(), b)
	}
}

func renewed(t *testing.T, f *fleet) {
	c := f.member(t, "device")
	cert := c.issued(c.send(c.renewal()), cmp.KUP)
	if b := c.send(confirm(cert)); b.Kind() != cmp.PKIConf {
		t.Errorf("got %s %+v, want pkiconf", b.Kind(), b)
	}
}

func updatedBefore(t *testing.T, f *fleet) {
	c := f.member(t, "device")
	for range 2 { // the one that asked stays good until the newest is used
		key := apptest.Key(t)
		next := byCert(t, f.p, *c.pair)
		next.header = implicit
		cert := next.issued(next.send(&cmp.Requests{As: cmp.KUR, List: []cmp.Request{next.wanted(key, c.pair.Leaf)}}), cmp.KUP)
		if old := *c.pair; f.n == 1 {
			f.n++
			pair := f.p.Pair(t, key, cert.Raw)
			c.pair = &pair
			defer func() {
				late := byCert(t, f.p, old)
				want(t, late, late.renewal(), cmp.NotAuthorized)
			}()
		}
	}
}

func unconfirmed(t *testing.T, f *fleet) {
	c := f.member(t, "device")
	next := c.issued(c.send(c.renewal()), cmp.KUP)
	f.p.Clock.Move(7 * time.Minute)
	if n, err := f.p.Enrol.Lapse(t.Context()); n < 1 || err != nil {
		t.Fatalf("Lapse: got %d, %v", n, err)
	}
	if _, revoked, err := f.p.Revoke.Status(t.Context(), next.SerialNumber.Bytes()); err != nil || !revoked {
		t.Errorf("the unconfirmed one: got %v, %v, want revoked", revoked, err)
	}
	again := byCert(t, f.p, *c.pair)
	again.issued(again.send(again.renewal()), cmp.KUP)
}

func revokedByMAC(t *testing.T, f *fleet) {
	d, pair := f.p.Enrolled(t, f.name(), "device")
	c := byMAC(t, f.p, d.Name, f.p.Token(t, d.ID))
	want(t, c, c.give(pair.Leaf, 1), -1)
	if _, revoked, err := f.p.Revoke.Status(t.Context(), pair.Leaf.SerialNumber.Bytes()); err != nil || !revoked {
		t.Errorf("status: got %v, %v, want revoked", revoked, err)
	}
	again := byMAC(t, f.p, d.Name, c.secret)
	want(t, again, c.give(pair.Leaf, 1), cmp.CertRevoked)
	// A token that was used for a certificate is good for none of this.
	used := f.newcomer(t, "device")
	cert := used.issued(used.send(used.request(cmp.IR)), cmp.IP)
	used.id, used.theirs = random(16), nil
	want(t, used, used.give(cert, 1), cmp.NotAuthorized)
}

func polled(t *testing.T, f *fleet) {
	c := f.newcomer(t, "approved")
	answer := c.send(c.request(cmp.IR)).(*cmp.Responses)
	if s := answer.List[0].Status; s.Status != cmp.Waiting || answer.List[0].Certificate != nil {
		t.Fatalf("got %+v, want waiting", answer.List[0])
	}
	later, ok := c.send(cmp.Poll{0}).(cmp.Wait)
	if !ok || later[0].After < 1 || later[0].ID != 0 || len(later[0].Reason) != 1 {
		t.Fatalf("got %+v, want pollRep", later)
	}
	want(t, c, cmp.Poll{1}, cmp.BadRequest)
	if _, err := f.p.Enrol.Decide(t.Context(), apptest.Operator(), c.name, "", true); err != nil {
		t.Fatal(err)
	}
	// The refused pollReq ended nothing.
	cert := c.issued(c.send(cmp.Poll{0}), cmp.IP)
	if b := c.send(confirm(cert)); b.Kind() != cmp.PKIConf {
		t.Errorf("got %s %+v, want pkiconf", b.Kind(), b)
	}
}

func pollRefused(t *testing.T, f *fleet) {
	c := f.newcomer(t, "approved")
	c.send(c.request(cmp.CR))
	if _, err := f.p.Enrol.Decide(t.Context(), apptest.Operator(), c.name, "", false); err != nil {
		t.Fatal(err)
	}
	want(t, c, cmp.Poll{0}, cmp.NotAuthorized)
	want(t, c, cmp.Poll{0}, cmp.BadRequest)
}

func nestedOne(t *testing.T, f *fleet) {
	c, inner := f.authority(t), f.newcomer(t, "field")
	inner.sent = inner.build(inner.request(cmp.IR))
	c.sent = c.build(cmp.Messages{inner.sent})
	cert := inner.issued(inner.read(c.post(c.sent)), cmp.IP)
	if cert.Subject.CommonName != inner.name {
		t.Errorf("the certificate is for %v", cert.Subject)
	}
	if b := inner.send(confirm(cert)); b.Kind() != cmp.PKIConf { // directly this time
		t.Errorf("got %s %+v, want pkiconf", b.Kind(), b)
	}
	c.id = random(16)
	other := f.newcomer(t, "field")
	other.sent = other.build(other.request(cmp.IR))
	other.sent[len(other.sent)-1] ^= 1
	if got := failure(t, other.read(c.post(c.build(cmp.Messages{other.sent})))); got != cmp.BadMessageCheck {
		t.Errorf("a message that was changed inside: got %v, want badMessageCheck", got)
	}
}

func nestedMany(t *testing.T, f *fleet) {
	c := f.authority(t)
	one, two := f.newcomer(t, "field"), f.member(t, "field")
	one.sent, two.sent = one.build(one.request(cmp.IR)), two.build(two.renewal())
	answers, ok := c.send(cmp.Messages{one.sent, two.sent}).(cmp.Messages)
	if !ok || len(answers) != 2 {
		t.Fatalf("got %d answers", len(answers))
	}
	one.issued(one.read(answers[0]), cmp.IP)
	two.issued(two.read(answers[1]), cmp.KUP)
}

// nestedVouch has devices claim to be a registration authority in messages that a registration authority passes on, as it must whatever is in them.
func nestedVouch(t *testing.T, f *fleet) {
	ra := f.authority(t)
	// through asks for a certificate for another device, in a message that is passed on.
	through := func(inner *client) (victim device.Device, answer cmp.Body) {
		victim = f.p.Add(t, device.Spec{Name: f.name(), Profile: "field"})
		inner.id, inner.theirs, ra.id = random(16), nil, random(16)
		r := inner.request(cmp.IR)
		var err error
		if r.List[0].Template.Subject, err = der.BuildName([]der.Attribute{{Type: der.OIDCommonName, Value: victim.Name}}); err != nil {
			t.Fatal(err)
		}
		vouch(t, &r.List[0])
		inner.sent = inner.build(r)
		return victim, inner.read(ra.post(ra.build(cmp.Messages{inner.sent})))
	}
	fresh, used := f.newcomer(t, "field"), f.newcomer(t, "field")
	used.issued(used.send(used.request(cmp.IR)), cmp.IP)
	var victims []string
	for _, c := range []struct {
		name  string
		inner *client
		want  cmp.Failure
	}{
		{"by MAC", fresh, cmp.BadPOP},
		{"by MAC with a used token", used, cmp.BadPOP},
		{"by a device's certificate", f.member(t, "field"), cmp.SignerNotTrusted},
	} {
		victim, answer := through(c.inner)
		victims = append(victims, victim.ID.String())
		if got := failure(t, answer); got != c.want {
			t.Errorf("%s: got %v in %+v, want %v", c.name, got, answer, c.want)
		}
	}
	for _, e := range f.p.Record(t) {
		if e.Action == "cert.issue" && slices.Contains(victims, e.Device) {
			t.Errorf("a certificate was issued: %+v", e.Entry)
		}
	}
	other := f.authority(t) // the word of an authority counts when another one passes it on
	victim, answer := through(other)
	if cert := other.issued(answer, cmp.IP); cert.Subject.CommonName != victim.Name {
		t.Errorf("the certificate is for %v", cert.Subject)
	}
}
