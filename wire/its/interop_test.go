//go:build interop

package its

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mooring/wire/coer"
)

// TestInteropTshark has Wireshark's dissector of IEEE 1609.2 read what we write: it must find the parts, and nothing that is malformed or left over. It does not judge
// whether the form is canonical.
func TestInteropTshark(t *testing.T) {
	cert := ticket()
	implicit := ticket()
	implicit.Type, implicit.Signature.Present = Implicit, false
	implicit.ToBeSigned.VerifyKeyIndicator = VerificationKeyIndicator{Choice: ReconstructionValue, ReconstructionValue: CurvePoint{Form: CompressedY0, X: x32()}}
	real, err := ParseCertificate(tlm(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		value *Ieee1609Dot2Data
		want  []string
	}{
		"unsecured":              {Unsecured([]byte{1, 2, 3}), []string{"unsecuredData"}},
		"real certificate":       {withSigner(*real), []string{"EU-TLM_L2", "ecdsaBrainpoolP384r1", "bitmapSsp"}},
		"ticket":                 {withSigner(cert), []string{"explicit", "ecdsaNistP256Signature", "x-only", "hours"}},
		"implicit ticket":        {withSigner(implicit), []string{"implicit", "reconstructionValue"}},
		"authority":              {withSigner(ofRole(EtsiAA)), []string{"certIssuePermissions", "eciesNistP256", "aes128Ccm"}},
		"root":                   {withSigner(ofRole(EtsiRCA)), []string{"self: sha256", "all"}},
		"request in a signature": {&Ieee1609Dot2Data{Content: Ieee1609Dot2Content{Choice: ContentSigned, SignedData: tsharkSigned(t)}}, []string{"generationTime", "inlineP2pcdRequest", "digest"}},
		"external payload":       {externalPayload(), []string{"extDataHash", "sha256HashedData"}},
		"encrypted to a certificate": {&Ieee1609Dot2Data{Content: Ieee1609Dot2Content{Choice: ContentEncrypted, EncryptedData: &EncryptedData{
			Recipients: []RecipientInfo{{Choice: RecipientCert, RecipientId: HashedId8{3}, EncKey: EncryptedDataEncryptionKey{V: CurvePoint{Form: CompressedY0, X: x32()}, C: x32()[:16], T: x32()[:16]}}},
			Ciphertext: SymmetricCiphertext{CcmCiphertext: x48()}}}}, []string{"certRecipInfo", "eciesNistP256", "ccmCiphertext"}},
		"answer under a key": {&Ieee1609Dot2Data{Content: Ieee1609Dot2Content{Choice: ContentEncrypted, EncryptedData: &EncryptedData{
			Recipients: []RecipientInfo{{RecipientId: HashedId8{3}}}, Ciphertext: SymmetricCiphertext{CcmCiphertext: x48()}}}}, []string{"pskRecipInfo", "aes128ccm"}},
	} {
		t.Run(name, func(t *testing.T) {
			text := dissect(t, marshal(t, row.value))
			for _, bad := range []string{"Malformed", "not decoded", "Undecoded", "Trailer"} {
				if strings.Contains(text, bad) {
					t.Errorf("%q in\n%s", bad, text)
				}
			}
			for _, want := range append(row.want, "protocolVersion: 3") {
				if !strings.Contains(text, want) {
					t.Errorf("%q is not in\n%s", want, text)
				}
			}
		})
	}
}

// withSigner is a message that is signed with the certificate, so that it can be dissected.
func withSigner(x Certificate) *Ieee1609Dot2Data {
	return &Ieee1609Dot2Data{Content: Ieee1609Dot2Content{Choice: ContentSigned, SignedData: &SignedData{
		TbsData:   ToBeSignedData{Payload: SignedDataPayload{Data: Unsecured(nil)}, HeaderInfo: HeaderInfo{Psid: PsidSCMS}},
		Signer:    SignerIdentifier{Choice: SignerCertificate, Certificate: []Certificate{x}},
		Signature: Signature{R: CurvePoint{X: x32()}, S: x32()}}}}
}

func tsharkSigned(t *testing.T) *SignedData {
	b := marshal(t, &EtsiTs102941Data{Content: EtsiTs102941DataContent{Choice: AuthorizationResponse, AuthorizationResponse: &InnerAtResponse{ResponseCode: UnknownIts}}})
	return &SignedData{TbsData: ToBeSignedData{Payload: SignedDataPayload{Data: Unsecured(b)},
		HeaderInfo: HeaderInfo{Psid: PsidSCR, GenerationTime: coer.Some[Time64](1), InlineP2pcdRequest: []HashedId3{{1, 2, 3}}}},
		Signature: Signature{R: CurvePoint{X: x32()}, S: x32()}}
}

func externalPayload() *Ieee1609Dot2Data {
	return &Ieee1609Dot2Data{Content: Ieee1609Dot2Content{Choice: ContentSigned, SignedData: &SignedData{
		TbsData:   ToBeSignedData{Payload: SignedDataPayload{ExtDataHash: coer.Some(HashedData{Hash: x32()})}, HeaderInfo: HeaderInfo{Psid: PsidSCR}},
		Signature: Signature{R: CurvePoint{X: x32()}, S: x32()}}}}
}

// dissect returns what tshark prints of a message.
func dissect(t *testing.T, b []byte) string {
	t.Helper()
	dir := t.TempDir()
	var dump strings.Builder
	for i := 0; i < len(b); i += 16 {
		fmt.Fprintf(&dump, "%06x % x\n", i, b[i:min(i+16, len(b))])
	}
	text, capture := filepath.Join(dir, "text"), filepath.Join(dir, "capture")
	if err := os.WriteFile(text, []byte(dump.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("text2pcap", "-q", "-l", "147", text, capture).CombinedOutput(); err != nil {
		t.Fatalf("text2pcap: %v\n%s", err, out)
	}
	out, err := exec.Command("tshark", "-r", capture, "-V", "-o", `uat:user_dlts:"User 0 (DLT=147)","ieee1609dot2.data","0","","0",""`).CombinedOutput()
	if err != nil {
		t.Fatalf("tshark: %v\n%s", err, out)
	}
	return string(out)
}
