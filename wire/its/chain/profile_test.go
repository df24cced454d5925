package chain

import (
	"strings"
	"testing"

	"mooring/wire/coer"
	"mooring/wire/its"
)

// What TS 103 097, clause 5, demands of messages, each rule kept and broken.
func TestCheckData(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.check(t); err != nil {
		t.Fatal(err)
	}
	signed := func(change func(*its.SignedData)) *its.Ieee1609Dot2Data {
		s := &its.SignedData{TbsData: its.ToBeSignedData{Payload: its.SignedDataPayload{Data: its.Unsecured([]byte{1})}, HeaderInfo: its.HeaderInfo{Psid: 36, GenerationTime: coer.Some(now)}}}
		if change != nil {
			change(s)
		}
		return &its.Ieee1609Dot2Data{Content: its.Ieee1609Dot2Content{Choice: its.ContentSigned, SignedData: s}}
	}
	header := func(change func(*its.HeaderInfo)) *its.Ieee1609Dot2Data {
		return signed(func(s *its.SignedData) { change(&s.TbsData.HeaderInfo) })
	}
	by := func(certificates ...its.Certificate) *its.Ieee1609Dot2Data {
		return signed(func(s *its.SignedData) {
			s.Signer = its.SignerIdentifier{Choice: its.SignerCertificate, Certificate: certificates}
		})
	}
	around := func(d *its.Ieee1609Dot2Data) *its.Ieee1609Dot2Data {
		return signed(func(s *its.SignedData) { s.TbsData.Payload.Data = d })
	}
	encrypted := func(to its.RecipientChoice) *its.Ieee1609Dot2Data {
		return &its.Ieee1609Dot2Data{Content: its.Ieee1609Dot2Content{Choice: its.ContentEncrypted, EncryptedData: &its.EncryptedData{Recipients: []its.RecipientInfo{{Choice: its.RecipientCert}, {Choice: to}}}}}
	}
	external := func(h its.HashAlgorithm) *its.Ieee1609Dot2Data {
		return signed(func(s *its.SignedData) {
			s.TbsData.Payload = its.SignedDataPayload{ExtDataHash: coer.Some(its.HashedData{Choice: h})}
		})
	}
	american := *w.at.cert
	american.ToBeSigned.Id = its.CertificateId{Choice: its.IdBinary, BinaryId: []byte{1}}
	noTime := header(func(h *its.HeaderInfo) { h.GenerationTime.Present = false })
	for _, row := range []struct {
		name string
		d    *its.Ieee1609Dot2Data
		want string // "": nothing is lacking
	}{
		{"unsecured", its.Unsecured([]byte{1}), ""},
		{"signed, by digest", signed(nil), ""},
		{"signed, with the certificate", by(*w.at.cert), ""},
		{"signed by an authority, with the certificate", by(*w.root.cert), ""},
		{"signed by the holder of a key", signed(func(s *its.SignedData) { s.Signer.Choice = its.SignerSelf }), ""},
		{"signed, of something else", external(its.SHA256), ""},
		{"signed twice", around(signed(nil)), ""},
		{"signed and encrypted", around(encrypted(its.RecipientCert)), ""},
		{"encrypted to a message", encrypted(its.RecipientSignedData), ""},
		{"an answer", encrypted(its.RecipientPsk), ""},
		{"no time", noTime, "lacks generationTime"},
		{"no time inside", around(noTime), "lacks generationTime"},
		{"p2pcdLearningRequest", header(func(h *its.HeaderInfo) { h.P2pcdLearningRequest.Present = true }), "p2pcdLearningRequest"},
		{"missingCrlIdentifier", header(func(h *its.HeaderInfo) { h.MissingCrlIdentifier.Present = true }), "missingCrlIdentifier"},
		{"two certificates", by(*w.at.cert, *w.aa.cert), "2 certificates"},
		{"no certificate", by(), "0 certificates"},
		{"a certificate of America", by(american), "profile of no role"},
		{"digest by SHA-384", external(its.SHA384), "none of SHA-256"},
		{"nothing signed", signed(func(s *its.SignedData) { s.TbsData.Payload = its.SignedDataPayload{} }), "signs nothing"},
		{"payload left out", signed(func(s *its.SignedData) { s.TbsData.Payload = its.SignedDataPayload{Omitted: its.NotOmitted + 1} }), "left out"},
		{"encrypted with a shared key", encrypted(its.RecipientSymm), "neither of a certificate"},
		{"encrypted to a key", encrypted(its.RecipientRek), "neither of a certificate"},
		{"a request for a certificate", &its.Ieee1609Dot2Data{Content: its.Ieee1609Dot2Content{Choice: its.ContentEncrypted + 1}}, "neither signed"},
	} {
		err := CheckData(row.d)
		if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %q", row.name, err, row.want)
		}
	}
}
