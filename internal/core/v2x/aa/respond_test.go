package aa

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"testing"

	"mooring/internal/core/v2x/trust"
	"mooring/wire/butterfly"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

// testResponder is an authority with a certificate that nobody signed for, which answers compact unified requests too.
func testResponder(t testing.TB) *Responder {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := scr.VerificationKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	bitmap := func(p its.Psid, value, mask []byte) its.PsidSspRange {
		return its.PsidSspRange{Psid: p, SspRange: coer.Some(its.SspRange{Choice: its.SspRangeBitmap, SspValue: value, SspBitmask: mask})}
	}
	x := &its.Certificate{ToBeSigned: its.ToBeSignedCertificate{Id: its.Name("AA"), ValidityPeriod: its.ValidityPeriod{Start: 1000, Duration: its.Duration{Choice: its.Years, Value: 5}},
		AppPermissions:       []its.PsidSsp{its.Bitmap(its.PsidSCR, 1, 0x32)},
		CertIssuePermissions: []its.PsidGroupPermissions{its.Group(its.SubjectPermissions{Explicit: []its.PsidSspRange{bitmap(its.PsidCAM, []byte{1, 0xff, 0xfc}, []byte{0xff, 0, 3})}})},
		VerifyKeyIndicator:   its.VerificationKeyIndicator{VerificationKey: public}, Flags: coer.Some(its.UsesCubk)}}
	sign := scr.Signature(key)
	if err := trust.Sign(x, nil, sign); err != nil {
		t.Fatal(err)
	}
	r, err := NewResponder(x, sign, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// testOrder is a vehicle's keys for one ticket, and the request for it.
func testOrder(t testing.TB, v butterfly.Variant, flags its.RaAcaCertRequestFlags) (signing, encryption butterfly.Scalar, q its.RaAcaCertRequest) {
	t.Helper()
	scalar := func() butterfly.Scalar {
		s, err := butterfly.RandomScalar(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	k := butterfly.CaterpillarKeys{Variant: v, SigningKey: scalar(), EncryptionKey: scalar()}
	rand.Read(k.SigningExpansion[:])
	rand.Read(k.EncryptionExpansion[:])
	signing, encryption = k.Cocoon(7, 3)
	public := k.Public()
	s, e := public.Cocoon(7, 3)
	q = its.RaAcaCertRequest{Flags: flags, TbsCert: its.ToBeSignedCertificate{Id: its.CertificateId{Choice: its.IdNone}, AppPermissions: []its.PsidSsp{its.Bitmap(its.PsidCAM, 1, 0, 0)},
		ValidityPeriod:     its.ValidityPeriod{Start: 2000, Duration: its.Duration{Choice: its.Hours, Value: 168}},
		VerifyKeyIndicator: its.VerificationKeyIndicator{VerificationKey: its.PublicVerificationKey{Point: its.Compressed(s.Bytes())}}}}
	if v != butterfly.CompactUnified {
		q.CertEncKey = coer.Some(its.PublicEncryptionKey{PublicKey: its.BasePublicEncryptionKey{Point: its.Compressed(e.Bytes())}})
	}
	return signing, encryption, q
}

// Every variant: only the vehicle reads its ticket, whose key is the one that it can compute, and with the flag none of those that others can.
func TestRespond(t *testing.T) {
	t.Parallel()
	r := testResponder(t)
	for _, row := range []struct {
		name    string
		variant butterfly.Variant
		flags   its.RaAcaCertRequestFlags
	}{
		{"BFK-1 original", butterfly.Original, its.ButterflyExplicit},
		{"BFK-2 unified", butterfly.Unified, its.ButterflyExplicit},
		{"BFK-4 original, strict", butterfly.Original, 0},
		{"BFK-4 unified, strict", butterfly.Unified, 0},
		{"SCM-5 compact unified", butterfly.CompactUnified, its.ButterflyExplicit | its.Cubk},
	} {
		signing, encryption, q := testOrder(t, row.variant, row.flags)
		a, err := r.Respond(&q, 3_000_000_000)
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		message := a.Answer.Data
		if compact := row.variant == butterfly.CompactUnified; compact != (a.Answer.Choice == its.AcaResponseCubk) {
			t.Errorf("%s: the answer is of the form %d", row.name, a.Answer.Choice)
		} else if !compact {
			d := message.Content.SignedData
			if err := d.Verify(r.by, nil); err != nil || d.Signer.Choice != its.SignerCertificate || d.TbsData.HeaderInfo.GenerationTime.Present {
				t.Errorf("%s: the answer is not signed as it should be: %v", row.name, err)
			}
			message = new(its.Ieee1609Dot2Data)
			if err := coer.Unmarshal(d.TbsData.Payload.Data.Content.Opaque, message); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.Ticket.Verify(r.by); err != nil {
			t.Errorf("%s: the ticket: %v", row.name, err)
		}
		private := readTicket(t, row.name, message, signing, encryption)
		point := a.Ticket.ToBeSigned.VerifyKeyIndicator.VerificationKey.Point
		if !bytes.Equal(private.Public().Bytes()[1:], point.X) {
			t.Errorf("%s: the ticket has another key than the vehicle", row.name)
		}
		if same := bytes.Equal(point.X, q.TbsCert.VerifyKeyIndicator.VerificationKey.Point.X); same != (row.flags&its.ButterflyExplicit == 0) {
			t.Errorf("%s: that the ticket has the cocoon key is %v", row.name, same)
		}
	}
}

// readTicket opens a message as the vehicle does, and returns the private key of the ticket.
func readTicket(t *testing.T, name string, d *its.Ieee1609Dot2Data, signing, encryption butterfly.Scalar) butterfly.Scalar {
	t.Helper()
	to, err := spdu.ToKey(scr.EncryptionKey(encryption))
	if err != nil {
		t.Fatal(err)
	}
	inner, _, err := spdu.Open(d, spdu.Holder{Recipient: to, Private: encryption})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	p, err := its.ParseScms(inner.Content.Opaque)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	info, ok := p.AcaEe.AcaEeCertResponse.PrivateKeyInfo.Get()
	if !ok {
		return signing
	}
	s, err := butterfly.NewScalar(info[:])
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return signing.Add(s)
}

// What no request may be.
func TestRespondRefuses(t *testing.T) {
	t.Parallel()
	r := testResponder(t)
	for _, row := range []struct {
		name   string
		change func(q *its.RaAcaCertRequest)
		want   error
	}{
		{"implicit", func(q *its.RaAcaCertRequest) { q.Type = its.Implicit }, errKind},
		{"SCM-7 compact with a key", func(q *its.RaAcaCertRequest) { q.Flags |= its.Cubk }, errKind},
		{"SCM-7 plain", func(q *its.RaAcaCertRequest) { q.CertEncKey.Present = false }, errKind},
		{"unknown flag", func(q *its.RaAcaCertRequest) { q.Flags |= 0x20 }, errKind},
		{"another curve", func(q *its.RaAcaCertRequest) {
			q.TbsCert.VerifyKeyIndicator.VerificationKey.Choice = its.ECDSABrainpoolP256r1
		}, errKind},
		{"off the curve", func(q *its.RaAcaCertRequest) {
			q.TbsCert.VerifyKeyIndicator.VerificationKey.Point.X = bytes.Repeat([]byte{0xff}, 32)
		}, errKind},
		{"encryption off the curve", func(q *its.RaAcaCertRequest) { q.CertEncKey.Value.PublicKey.Point.X = bytes.Repeat([]byte{0xff}, 32) }, errKind},
		{"BFK-11 encryption key in the ticket", func(q *its.RaAcaCertRequest) { q.TbsCert.EncryptionKey = q.CertEncKey }, errContent},
		{"name", func(q *its.RaAcaCertRequest) { q.TbsCert.Id = its.Name("car") }, errContent},
		{"issuing", func(q *its.RaAcaCertRequest) { q.TbsCert.CertIssuePermissions = r.by.ToBeSigned.CertIssuePermissions }, errContent},
		{"no application", func(q *its.RaAcaCertRequest) { q.TbsCert.AppPermissions = nil }, errContent},
		{"application of authorities", func(q *its.RaAcaCertRequest) {
			q.TbsCert.AppPermissions = []its.PsidSsp{its.Bitmap(its.PsidSCR, 1, 0xc0)}
		}, errPermission},
		{"application that is not given", func(q *its.RaAcaCertRequest) {
			q.TbsCert.AppPermissions = []its.PsidSsp{its.Bitmap(its.PsidDENM, 1, 0, 0, 0)}
		}, errPermission},
		{"before the authority", func(q *its.RaAcaCertRequest) { q.TbsCert.ValidityPeriod.Start = 999 }, errPeriod},
		{"after the authority", func(q *its.RaAcaCertRequest) {
			q.TbsCert.ValidityPeriod.Duration = its.Duration{Choice: its.Years, Value: 5}
		}, errPeriod},
		{"no time", func(q *its.RaAcaCertRequest) { q.TbsCert.ValidityPeriod.Duration.Value = 0 }, errPeriod},
	} {
		_, _, q := testOrder(t, butterfly.Unified, its.ButterflyExplicit)
		row.change(&q)
		if a, err := r.Respond(&q, 3_000_000_000); !errors.Is(err, row.want) {
			t.Errorf("%s: %v, %v, want %v", row.name, a, err, row.want)
		}
	}
	_, _, good := testOrder(t, butterfly.Unified, its.ButterflyExplicit)
	bad := good
	bad.Type = its.Implicit
	all, err := r.RespondAll([]its.RaAcaCertRequest{good, bad, good}, 3_000_000_000, 2)
	if err != nil || all[0] == nil || all[1] != nil || all[2] == nil {
		t.Errorf("of three, the second of which is wrong: %v, %v", all, err)
	}
	r.Random = bytes.NewReader(nil)
	if _, err := r.RespondAll([]its.RaAcaCertRequest{good, good}, 3_000_000_000, 2); err == nil {
		t.Error("without randomness there are tickets")
	}
}

func BenchmarkRespond(b *testing.B) {
	r := testResponder(b)
	for name, v := range map[string]butterfly.Variant{"private": butterfly.Unified, "compact": butterfly.CompactUnified} {
		flags := its.ButterflyExplicit
		if v == butterfly.CompactUnified {
			flags |= its.Cubk
		}
		_, _, q := testOrder(b, v, flags)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := r.Respond(&q, 3_000_000_000); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
