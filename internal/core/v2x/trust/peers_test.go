package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"mooring/wire/butterfly"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
)

// peerAuthority is an authority with keys for signatures and encryption, whose certificate was read.
func peerAuthority(t *testing.T, name string) (key *ecdsa.PrivateKey, x *its.Certificate, id its.HashedId8) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := scr.VerificationKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	private, err := butterfly.RandomScalar(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x = &its.Certificate{ToBeSigned: its.ToBeSignedCertificate{Id: its.Name(name), ValidityPeriod: its.ValidityPeriod{Start: 1, Duration: its.Duration{Choice: its.Years, Value: 1}},
		AppPermissions: []its.PsidSsp{its.Bitmap(its.PsidSCR, 1, 0x32)}, EncryptionKey: coer.Some(scr.EncryptionKey(private)),
		VerifyKeyIndicator: its.VerificationKeyIndicator{VerificationKey: public}}}
	signer := scr.Signer(key, x)
	signature, err := signer.Sign(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	x.Signature = coer.Some(signature)
	octets, err := coer.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	if x, err = its.ParseCertificate(octets); err != nil {
		t.Fatal(err)
	}
	if id, err = x.HashedId8(); err != nil {
		t.Fatal(err)
	}
	return key, x, id
}

// A peer is prepared once, also where its certificate is another value; another certificate is another peer, whatever it is called; those beyond the bound verify
// as well, and take no room.
func TestPeers(t *testing.T) {
	t.Parallel()
	var p Peers
	for i := range peersMost + 2 {
		key, x, id := peerAuthority(t, "an authority")
		peer, err := p.Of(id, x)
		if err != nil {
			t.Fatal(err)
		}
		again, err := its.ParseCertificate(append([]byte(nil), x.Octets...))
		if err != nil {
			t.Fatal(err)
		}
		same, err := p.Of(id, again)
		if err != nil || (same == peer) != (i < peersMost) {
			t.Errorf("authority %d: the same peer again is %v (%v)", i, same == peer, err)
		}
		signed, err := scr.Sign(its.EtsiTs102941DataContent{Choice: its.ValidationRequest, AuthorizationValidationRequest: &its.AuthorizationValidationRequest{
			EcSignature:     its.EcSignature{Choice: its.EcSignaturePlain, Data: its.Unsecured(nil)},
			SharedAtRequest: its.SharedAtRequest{CertificateFormat: its.FormatTs103097, RequestedSubjectAttributes: its.CertificateSubjectAttributes{AppPermissions: []its.PsidSsp{its.Bitmap(its.PsidCAM, 1, 0, 0)}}}}}, 1, scr.Signer(key, x))
		if err != nil {
			t.Fatal(err)
		}
		if err := signed.Content.SignedData.VerifyBy(peer.Signatory); err != nil {
			t.Errorf("authority %d: its signature: %v", i, err)
		}
		_, other, _ := peerAuthority(t, "another one")
		changed, err := p.Of(id, other)
		if err != nil || changed == peer || signed.Content.SignedData.VerifyBy(changed.Signatory) == nil {
			t.Errorf("authority %d: a certificate with another key is taken for the same peer (%v)", i, err)
		}
		if _, err := p.Of(id, x); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(p.kept); n != peersMost {
		t.Errorf("%d peers are kept, want %d", n, peersMost)
	}
	none := &its.Certificate{ToBeSigned: its.ToBeSignedCertificate{VerifyKeyIndicator: its.VerificationKeyIndicator{Choice: its.VerificationKey}}}
	if _, err := p.Of(its.HashedId8{1}, none); err == nil {
		t.Error("a certificate without keys makes a peer")
	}
}
