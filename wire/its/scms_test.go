package its

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"mooring/wire/coer"
)

// scmsSamples are contents of messages of IEEE 1609.2 and 1609.2.1, of all kinds.
func scmsSamples(t testing.TB) map[string]coer.Value {
	t.Helper()
	cert := ticket()
	implicit := ticket()
	implicit.Type, implicit.Signature.Present = Implicit, false
	implicit.ToBeSigned.VerifyKeyIndicator = VerificationKeyIndicator{Choice: ReconstructionValue, ReconstructionValue: CurvePoint{Form: CompressedY0, X: x32()}}
	implicit.ToBeSigned.Id = CertificateId{LinkageData: LinkageData{ICert: 3, LinkageValue: LinkageValue{1}, GroupLinkageValue: coer.Some(GroupLinkageValue{JValue: [4]byte{2}})}}
	request := cert.ToBeSigned
	request.CertRequestPermissions, request.CanRequestRollover = []PsidGroupPermissions{Group(SubjectPermissions{Choice: SubjectsAll})}, true
	request.AppExtensions = []AppExtension{{1, []byte{0x2a, 3}}}
	request.CertIssueExtensions = []CertIssueExtension{{1, ExtensionAll, nil}, {2, ExtensionSpecific, []byte{1}}}
	request.CertRequestExtension = []CertRequestExtension{{1, ExtensionAll, nil}}
	request.Region = coer.Some(GeographicRegion{Choice: RegionIdentified, Identified: []IdentifiedRegion{{Country: 276},
		{Choice: CountryAndRegions, Country: 276, Regions: []uint8{1, 2}}, {Choice: CountryAndSubregions, Country: 276, Subregions: []RegionAndSubregions{{1, []uint16{7}}}}}})
	plain := Unsecured([]byte{1})
	seeds := [2]LinkageSeed{{1}, {2}}
	groups := []GroupCrlEntry{{IMax: 9, LinkageSeed1: seeds[0], LinkageSeed2: seeds[1]}}
	individual := []JMaxGroup{{Jmax: 20, Contents: []LAGroup{{La1Id: LaId{1}, La2Id: LaId{2}, Contents: []IMaxGroup{
		{IMax: 7, Contents: []IndividualRevocation{{LinkageSeed1: seeds[0], LinkageSeed2: seeds[1]}}, SingleSeed: seeds[:1]}}}}}}
	pdu := func(p ScmsPdu) *ScmsPdu { return &p }
	crl := func(t TypeSpecificCrlContents) *CrlContents {
		return &CrlContents{CrlSeries: 1, CrlCraca: HashedId8{1}, IssueDate: 2, NextCrl: 3, PriorityInfo: CrlPriorityInfo{Priority: coer.Some[uint8](4)}, TypeSpecific: t}
	}
	eera := func(p EeRaInterfacePdu) *ScmsPdu { return &ScmsPdu{Choice: ScmsEeRa, EeRa: p} }
	mgmt := func(p CertManagementPdu) *ScmsPdu { return &ScmsPdu{Choice: ScmsCert, Cert: p} }
	butterfly := ButterflyParamsOriginal{EncryptionKey: PublicEncryptionKey{PublicKey: BasePublicEncryptionKey{Point: CurvePoint{Form: CompressedY0, X: x32()}}}}
	ask := &ScmsPdu{Choice: ScmsEcaEe, EcaEe: EcaEeInterfacePdu{EeEcaCertRequest: &EeEcaCertRequest{TbsCert: request, CanonicalId: coer.Some("VIN4711")}}}
	return map[string]coer.Value{
		"acaEeCertResponse": pdu(ScmsPdu{AcaEe: AcaEeInterfacePdu{AcaEeCertResponse: &AcaEeCertResponse{Certificate: implicit, PrivateKeyInfo: coer.Some(PrivateKeyInfo{1})}}}),
		"aca-la":            pdu(ScmsPdu{Choice: ScmsAcaLa}),
		"ma-ra":             pdu(ScmsPdu{Choice: ScmsMaRa}),
		"raAcaCertRequest":  pdu(ScmsPdu{Choice: ScmsAcaRa, AcaRa: AcaRaInterfacePdu{RaAcaCertRequest: &RaAcaCertRequest{Type: Implicit, TbsCert: implicit.ToBeSigned}}}),
		"acaRaCertResponse": pdu(ScmsPdu{Choice: ScmsAcaRa, AcaRa: AcaRaInterfacePdu{Choice: 1, AcaRaCertResponse: &AcaRaCertResponse{AcaResponse: AcaResponse{Data: plain}}}}),
		"eeEcaCertRequest":  ask,
		"ecaEeCertResponse": pdu(ScmsPdu{Choice: ScmsEcaEe, EcaEe: EcaEeInterfacePdu{Choice: 1, EcaEeCertResponse: &EcaEeCertResponse{EcaCertChain: []Certificate{cert}, Certificate: cert}}}),
		"eeRaCertRequest":   eera(EeRaInterfacePdu{EeRaCertRequest: &EeRaCertRequest{TbsCert: request, AdditionalParams: &AdditionalParams{Original: butterfly}}}),
		"raEeCertAck":       eera(EeRaInterfacePdu{Choice: EeRaAck, RaEeCertAck: &RaEeCertAck{FirstI: coer.Some[uint16](5)}}),
		"raEeCertInfo":      eera(EeRaInterfacePdu{Choice: EeRaInfo, RaEeCertInfo: &RaEeCertInfo{AcpcTreeId: coer.Some(AcpcTreeId{1})}}),
		"eeRaSuccessor":     eera(EeRaInterfacePdu{Choice: EeRaSuccessor, EeRaSuccessorEnrollmentCertRequest: plain}),
		"compositeCrl":      mgmt(CertManagementPdu{CompositeCrl: &CompositeCrl{Crl: []Ieee1609Dot2Data{*plain}, HomeCtl: *plain}}),
		"certificateChain":  mgmt(CertManagementPdu{Choice: CertManagementChain, CertificateChain: &CertificateChain{HomeCtl: *plain, Others: []Certificate{cert}}}),
		"multiSignedCtl": mgmt(CertManagementPdu{Choice: CertManagementMultiSignedCtl, MultiSignedCtl: &MultiSignedCtl{
			TbsCtl:   FullIeeeTbsCtl{ElectorApprove: []HashedId48{{1}}, ElectorRemove: []HashedId48{}, RootCaApprove: []HashedId32{{1}}, RootCaRemove: []HashedId32{}, Quorum: coer.Some[int64](2)},
			Unsigned: []Certificate{cert}, Signatures: []Ieee1609Dot2Data{*signedSample(t)}}}),
		"tbsCtlSignature": mgmt(CertManagementPdu{Choice: CertManagementTbsCtlSignature, TbsCtlSignature: &ToBeSignedCtlSignature{SequenceNumber: 3}}),
		"infoStatus": mgmt(CertManagementPdu{Choice: CertManagementInfoStatus, InfoStatus: &CertificateManagementInfoStatus{Crl: []CrlInfoStatus{{Series: 1}},
			Ctl: []CtlInfoStatus{{SequenceNumber: 2}}, Ma: []MaInfoStatus{{Psids: []Psid{32, 38}}}, Ra: coer.Some[Time32](9)}}),
		"signed request": &SignedCertificateRequest{TbsRequest: *ask, Signer: SignerIdentifier{Choice: SignerSelf}, Signature: cert.Signature.Value},
		"X.509-signed request": &SignedX509CertificateRequest{TbsRequest: *ask, Signer: X509SignerIdentifier{[][]byte{{0x30, 0}}},
			Signature: Signature{SM2, CurvePoint{X: x32()}, x32()}},
		"hash CRL":   crl(TypeSpecificCrlContents{Hash: ToBeSignedHashIdCrl{CrlSerial: 7, Entries: []HashBasedRevocationInfo{{Id: HashedId10{1}, Expiry: 8}}}}),
		"linked CRL": crl(TypeSpecificCrlContents{Choice: FullLinkedCrl, Linked: ToBeSignedLinkageValueCrl{IRev: 1, Individual: individual, Groups: groups}}),
		"linked CRL of 2025": crl(TypeSpecificCrlContents{Choice: DeltaLinkedCrl, Linked: ToBeSignedLinkageValueCrl{GroupsSingleSeed: []GroupSingleSeedCrlEntry{{IMax: 1}},
			IPeriodInfo: []IPeriodInfo{{1, Duration{Hours, 168}, 3}}}}),
		"linked CRL with algorithms": crl(TypeSpecificCrlContents{Choice: FullLinkedCrlWithAlg, LinkedWithAlg: ToBeSignedLinkageValueCrlWithAlgIdentifier{Groups: groups}}),
		"tree":                       &AcpcPdu{Tree: &AprvBinaryTree{Tree: coer.BitString{Octets: []byte{0xa0}, Unused: 5}, NodeValueList: []AcpcNodeValue{{1}}}},
		"aprv":                       &AcpcPdu{Choice: 1, Aprv: &IndividualAprv{NodeId: coer.BitString{Octets: []byte{0x80}}}},
		"batch request":              &CamRaInterfacePdu{RaCamBatchRequest: &RaCamBatchRequest{PeriodList: []uint16{1, 2}}},
		"batch response":             &CamRaInterfacePdu{Choice: 1, CamRaBatchResponse: &CamRaBatchResponse{Batch: []CurvePoint{{Form: CompressedY1, X: x32()}}}},
		"tree node":                  &AprvHashCalculationInput{ChildNodeId: coer.BitString{Octets: []byte{0xc0}, Unused: 6}},
		"certificates for others":    &Ieee1609dot2Peer2PeerPDU{CaCerts: []Certificate{cert}},
		"SSP of an authority":        &SecurityMgmtSsp{Choice: RoleMa, Version: 2, RelevantPsids: []Psid{32}},
		"SSP of codes":               &AcpcSsp{Cam: []AcpcTreeId{{1}}},
	}
}

func TestSCMSMessages(t *testing.T) {
	t.Parallel()
	for name, v := range scmsSamples(t) {
		t.Run(name, func(t *testing.T) {
			b := marshal(t, v)
			var back coer.Value
			for _, s := range structures {
				if made := s.make(); strings.HasSuffix(typeName(v), "."+s.name) {
					back = made
				}
			}
			if back == nil {
				t.Fatalf("%T has no name in structures", v)
			}
			if err := coer.Unmarshal(b, back); err != nil {
				t.Fatalf("%x: %v", b, err)
			}
			if again := marshal(t, back); !bytes.Equal(again, b) {
				t.Errorf("%x\nis written as\n%x", b, again)
			}
			var parsed any
			if text, err := json.Marshal(coer.Describe(back)); err != nil || json.Unmarshal(text, &parsed) != nil {
				t.Errorf("%s, %v", text, err)
			}
		})
	}
}

// Requests are signed as they are written; what stands for the signer is its certificate, in the form of its kind.
func TestInputOfRequests(t *testing.T) {
	t.Parallel()
	all := scmsSamples(t)
	r := all["signed request"].(*SignedCertificateRequest)
	x := all["X.509-signed request"].(*SignedX509CertificateRequest)
	cert := ticket()
	h := func(b []byte) []byte { return SHA256.Sum(b) }
	tbs := marshal(t, &r.TbsRequest)
	for what, row := range map[string]struct {
		got  func() ([]byte, error)
		want []byte
	}{
		"self":                 {func() ([]byte, error) { return r.Input(nil) }, h(append(h(tbs), h(nil)...))},
		"with a certificate":   {func() ([]byte, error) { return r.Input(&cert) }, h(append(h(tbs), h(marshal(t, &cert))...))},
		"with X.509":           {x.Input, h(append(h(tbs), h([]byte{0x30, 0})...))},
		"with X.509 of nobody": {(&SignedX509CertificateRequest{TbsRequest: r.TbsRequest}).Input, nil},
	} {
		if got, err := row.got(); !bytes.Equal(got, row.want) || (err == nil) != (row.want != nil) {
			t.Errorf("%s: %x, %v; want %x", what, got, err, row.want)
		}
	}
}
