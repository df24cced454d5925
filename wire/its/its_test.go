package its

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"mooring/wire/coer"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func marshal(t testing.TB, v coer.Value) []byte {
	t.Helper()
	b, err := coer.Marshal(v)
	if err != nil {
		t.Fatalf("%T: %v", v, err)
	}
	return b
}

func tlm(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/E7A4B2B045E7ACF9.oer")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ENC-1.
func TestENC1TheCertificateOfTheTrustListManager(t *testing.T) {
	t.Parallel()
	b := tlm(t)
	cert, err := ParseCertificate(b)
	if err != nil {
		t.Fatal(err)
	}
	if back := marshal(t, cert); !bytes.Equal(back, b) {
		t.Errorf("it is written as %x", back)
	}
	if !bytes.Equal(cert.Octets, b) || !bytes.Equal(cert.ToBeSigned.Octets, b[5:92]) {
		t.Errorf("kept: %x, %x", cert.Octets, cert.ToBeSigned.Octets)
	}
	if id, err := cert.HashedId8(); err != nil || id.String() != "E7A4B2B045E7ACF9" {
		t.Errorf("HashedId8 is %v, %v", id, err)
	}
	tbs := cert.ToBeSigned
	want := []PsidSsp{Bitmap(PsidCTL, 1, 0xc8)}
	if tbs.Id.Name != "EU-TLM_L2" || tbs.ValidityPeriod.Duration != (Duration{Years, 4}) || !reflect.DeepEqual(tbs.AppPermissions, want) {
		t.Errorf("%+v", tbs)
	}
	if start := tbs.ValidityPeriod.Start.Time(LeapSeconds).Format("2006-01-02 15:04:05"); start != "2023-08-22 21:59:58" {
		t.Errorf("it begins at %s", start)
	}
}

// ENC-2: what others made comes back to the octet, and what is in it: the samples of testdata, and those in the directory that MOORING_V2X_SAMPLES names, for lists that are published
// and not ours to hand on.
func TestENC2Samples(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.oer")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d samples, %v", len(files), err)
	}
	if dir := os.Getenv("MOORING_V2X_SAMPLES"); dir != "" {
		more, err := filepath.Glob(filepath.Join(dir, "*.oer"))
		if err != nil || len(more) == 0 {
			t.Fatalf("%s has %d samples, %v", dir, len(more), err)
		}
		files = append(files, more...)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for b != nil {
			name, v, err := Recognise(b)
			if err != nil {
				t.Errorf("%s: %s, %v", file, name, err)
				break
			}
			if back := marshal(t, v); !bytes.Equal(back, b) {
				t.Errorf("%s: the %s is written as %x", file, name, back)
			}
			t.Logf("%s: %s, %d octets", filepath.Base(file), name, len(b))
			b = inside(v)
		}
	}
}

// inside is what a signed message has of octets.
func inside(v coer.Value) []byte {
	d, ok := v.(*Ieee1609Dot2Data)
	if !ok || d.Content.Choice != ContentSigned || d.Content.SignedData.TbsData.Payload.Data == nil {
		return nil
	}
	return d.Content.SignedData.TbsData.Payload.Data.Content.Opaque
}

// ENC-2: the kinds of messages of which there is no sample of others.
func TestENC2Kinds(t *testing.T) {
	t.Parallel()
	all := scmsSamples(t)
	cert := ticket()
	all["explicit certificate"], all["signed message"] = &cert, signedSample(t)
	for tag, c := range samples(t) {
		all["content "+tag] = &EtsiTs102941Data{Content: *c}
	}
	for _, kind := range []string{"explicit certificate", "acaEeCertResponse", "multiSignedCtl", "compositeCrl", "infoStatus", "signed request", "X.509-signed request", "signed message", "content 85",
		"content 82", "hash CRL", "linked CRL"} {
		v := all[kind]
		if v == nil {
			t.Fatalf("there is no %s", kind)
		}
		b := marshal(t, v)
		back := reflect.New(reflect.TypeOf(v).Elem()).Interface().(coer.Value)
		if err := coer.Unmarshal(b, back); err != nil || !bytes.Equal(marshal(t, back), b) {
			t.Errorf("%s: %v, or it is written in another way", kind, err)
		}
	}
}

func key(curve SignatureAlgorithm, fill byte) PublicVerificationKey {
	return PublicVerificationKey{curve, CurvePoint{Form: CompressedY1, X: bytes.Repeat([]byte{fill}, curve.Size())}}
}

func x32() []byte { return bytes.Repeat([]byte{0xaa}, 32) }
func x48() []byte { return bytes.Repeat([]byte{0xbb}, 48) }

// ENC-3: the worked encodings of the reference, each written and read.
func TestENC3WorkedEncodings(t *testing.T) {
	t.Parallel()
	a, b := strings.Repeat("aa", 32), strings.Repeat("bb", 48)
	region := coer.Some(SspRange{Choice: SspRangeBitmap, SspValue: []byte{1, 0xff, 0xfc}, SspBitmask: []byte{0xff, 0, 3}})
	hash := HashedData{SHA256, x32()}
	for _, row := range []struct {
		name, wire string
		value      coer.Value
	}{
		{"HeaderInfo psid 623 + generationTime 1", "40 02026f 0000000000000001", &HeaderInfo{Psid: 623, GenerationTime: coer.Some[Time64](1)}},
		{"HeaderInfo psid 256 only", "00 020100", &HeaderInfo{Psid: 256}},
		{"HeaderInfo with inlineP2pcdRequest", "c0 0124 0000000000000001 02 04 80 05 0101 010203",
			&HeaderInfo{Psid: 36, GenerationTime: coer.Some[Time64](1), InlineP2pcdRequest: []HashedId3{{1, 2, 3}}, Additions: coer.Additions{Bits: 4}}},
		{"PublicVerificationKey P-256 compressed-y-1", "80 83" + a, &PublicVerificationKey{ECDSANistP256, CurvePoint{Form: CompressedY1, X: x32()}}},
		{"PublicVerificationKey brainpoolP384r1 compressed-y-0", "82 31 82" + b, &PublicVerificationKey{ECDSABrainpoolP384r1, CurvePoint{Form: CompressedY0, X: x48()}}},
		{"PublicEncryptionKey aes128Ccm P-256", "00 80 83" + a, &PublicEncryptionKey{PublicKey: BasePublicEncryptionKey{Point: CurvePoint{Form: CompressedY1, X: x32()}}}},
		{"Signature P-256 x-only", "80 80" + a + a, &Signature{ECDSANistP256, CurvePoint{X: x32()}, x32()}},
		{"Signature brainpoolP384r1 x-only", "82 61 80" + b + b, &Signature{ECDSABrainpoolP384r1, CurvePoint{X: x48()}, x48()}},
		{"SymmetricEncryptionKey aes128Ccm", "80" + a[:32], &SymmetricEncryptionKey{Key: x32()[:16]}},
		{"IssuerIdentifier sha256AndDigest", "80 0102030405060708", &IssuerIdentifier{Digest: HashedId8{1, 2, 3, 4, 5, 6, 7, 8}}},
		{"IssuerIdentifier self sha384", "81 01", &IssuerIdentifier{Choice: IssuerSelf, Self: SHA384}},
		{"IssuerIdentifier sha384AndDigest", "82 08 0102030405060708", &IssuerIdentifier{Choice: IssuerSHA384, Digest: HashedId8{1, 2, 3, 4, 5, 6, 7, 8}}},
		{"bitmapSsp 01c8", "81 03 02 01c8", &ServiceSpecificPermissions{SspBitmap, []byte{1, 0xc8}}},
		{"opaque", "80 02 beef", &ServiceSpecificPermissions{SspOpaque, []byte{0xbe, 0xef}}},
		{"bitmapSspRange", "82 08 03 01fffc 03 ff0003", &region.Value},
		{"PsidGroupPermissions all, all defaults", "00 81", &PsidGroupPermissions{SubjectPermissions{Choice: SubjectsAll}, 1, 0, EndEntityApp}},
		{"PsidGroupPermissions explicit", "e0 80 0101 80 0124 82 08 03 01fffc 03 ff0003 0102 01ff c0",
			&PsidGroupPermissions{SubjectPermissions{Explicit: []PsidSspRange{{36, region}}}, 2, -1, EndEntityApp | EndEntityEnrol}},
		{"GeographicRegion identified countryOnly 65535", "83 0101 80 ffff", &GeographicRegion{Choice: RegionIdentified, Identified: []IdentifiedRegion{{Country: 65535}}}},
		{"SignedDataPayload with data", "40 03 80 01 07", &SignedDataPayload{Data: Unsecured([]byte{7})}},
		{"SignedDataPayload extDataHash", "20 80" + a, &SignedDataPayload{ExtDataHash: coer.Some(hash)}},
		{"SignedDataPayload omitted", "80 02 07 80 00", &SignedDataPayload{Omitted: Omitted, Additions: coer.Additions{Bits: 1}}},
		{"SignedDataPayload omitted by an encoder with an octet", "80 02 07 80 01 00", &SignedDataPayload{Omitted: OmittedAsOctet, Additions: coer.Additions{Bits: 1}}},
		{"ToBeSignedCertificate with usesCubk", "90 83 000000 0000 00000001 84 0001 0101 00 0124 80 80 83" + a + "02 04 80 01 80",
			&ToBeSignedCertificate{Id: CertificateId{Choice: IdNone}, ValidityPeriod: ValidityPeriod{1, Duration{Hours, 1}}, AppPermissions: []PsidSsp{{Psid: 36}},
				VerifyKeyIndicator: VerificationKeyIndicator{VerificationKey: PublicVerificationKey{ECDSANistP256, CurvePoint{Form: CompressedY1, X: x32()}}},
				Flags:              coer.Some(UsesCubk), Additions: coer.Additions{Bits: 4}}},
		{"ToBeSignedCrl without entries", "01 84 00 0101 00000001 00000002 01 00", &EtsiTs102941Data{Content: EtsiTs102941DataContent{Choice: CertificateRevocationList,
			CertificateRevocationList: &ToBeSignedCrl{ThisUpdate: 1, NextUpdate: 2, Entries: []HashedId8{}}}}},
		{"unsecured data", "03 80 02 0102", Unsecured([]byte{1, 2})},
		{"MissingCrlIdentifier", "00 010203 0004", &MissingCrlIdentifier{CracaId: HashedId3{1, 2, 3}, CrlSeries: 4}},
		{"linkage list in the form of 2022", "c0 0001 02 0100 02 07 80 02 0100", &ToBeSignedLinkageValueCrl{IRev: 1, IndexWithinI: 2, Individual: []JMaxGroup{},
			GroupsSingleSeed: []GroupSingleSeedCrlEntry{}, Additions: coer.Additions{Bits: 1}}},
		{"CrlSsp", "00 01 01 0101 0004", &CrlSsp{AssociatedCraca: IssuerIsCraca, Crls: []uint16{4}}},
		{"SecurityMgmtSsp la", "88 00 02 0007", &SecurityMgmtSsp{Choice: RoleLa, Version: 2, LaId: 7}},
		{"SecurityMgmtSsp dc", "8d 02 00 02", &SecurityMgmtSsp{Choice: RoleDc, Version: 2}},
	} {
		t.Run(row.name, func(t *testing.T) {
			want := unhex(t, row.wire)
			if got := marshal(t, row.value); !bytes.Equal(got, want) {
				t.Errorf("written as %x, want %x", got, want)
			}
			back := reflect.New(reflect.TypeOf(row.value).Elem())
			if err := coer.Unmarshal(want, back.Interface().(coer.Value)); err != nil {
				t.Fatal(err)
			}
			forget(back.Elem())
			if !reflect.DeepEqual(back.Interface(), row.value) {
				t.Errorf("read as %+v, want %+v", back.Elem(), reflect.ValueOf(row.value).Elem())
			}
		})
	}
}

// forget takes out what is kept of the octets that were read, so that a value that was read is like one that was built.
func forget(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			forget(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			forget(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); v.Type().Field(i).Name == "Octets" && v.Type() != reflect.TypeFor[coer.Addition]() {
				f.SetZero()
			} else {
				forget(f)
			}
		}
	}
}

// sample is a message of each kind of content, with as much in it as possible.
func samples(t testing.TB) map[string]*EtsiTs102941DataContent {
	t.Helper()
	cert := ticket()
	attributes := CertificateSubjectAttributes{Id: coer.Some(Name("station")), ValidityPeriod: coer.Some(ValidityPeriod{5, Duration{Hours, 168}}),
		Region: coer.Some(GeographicRegion{Choice: RegionCircular, Circular: CircularRegion{TwoDLocation{-1, 1}, 500}}), AssuranceLevel: coer.Some[SubjectAssurance](0x20),
		AppPermissions: []PsidSsp{Bitmap(PsidCAM, 1, 0xff, 0xfc), {Psid: PsidDENM}}, CertIssuePermissions: []PsidGroupPermissions{Group(SubjectPermissions{Choice: SubjectsAll})}}
	keys := PublicKeys{key(ECDSANistP256, 1), coer.Some(PublicEncryptionKey{PublicKey: BasePublicEncryptionKey{ECIESBrainpoolP256r1, CurvePoint{Form: Uncompressed, X: x32(), Y: x32()}}})}
	signed := signedSample(t)
	encrypted := &Ieee1609Dot2Data{Content: Ieee1609Dot2Content{Choice: ContentEncrypted, EncryptedData: &EncryptedData{
		Recipients: []RecipientInfo{
			{Choice: RecipientPsk, RecipientId: HashedId8{1}},
			{Choice: RecipientSymm, RecipientId: HashedId8{2}, SymmEncKey: SymmetricCiphertext{CcmCiphertext: x32()}},
			{Choice: RecipientCert, RecipientId: HashedId8{3}, EncKey: EncryptedDataEncryptionKey{V: CurvePoint{Form: CompressedY0, X: x32()}, C: x32()[:16], T: x32()[:16]}},
			{Choice: RecipientRek, RecipientId: HashedId8{4}, EncKey: EncryptedDataEncryptionKey{Choice: ECENCSM2, V: CurvePoint{Form: CompressedY0, X: x32()}, C: x32()[:16], T: x32()}},
		}, Ciphertext: SymmetricCiphertext{CcmCiphertext: []byte{1, 2, 3}}}}}
	shared := SharedAtRequest{EaId: HashedId8{9}, CertificateFormat: FormatTs103097, RequestedSubjectAttributes: attributes}
	link := &ToBeSignedLinkCertificate{ExpiryTime: 9, CertificateHash: HashedData{SHA384, x48()}}
	tlmCert, err := ParseCertificate(tlm(t))
	if err != nil {
		t.Fatal(err)
	}
	forget(reflect.ValueOf(tlmCert))
	caterpillar := cert.ToBeSigned
	return map[string]*EtsiTs102941DataContent{
		"80": {Choice: EnrolmentRequest, Data: signed},
		"81": {Choice: EnrolmentResponse, EnrolmentResponse: &InnerEcResponse{Certificate: &cert}},
		"82": {Choice: AuthorizationRequest, AuthorizationRequest: &InnerAtRequest{PublicKeys: keys, SharedAtRequest: shared, EcSignature: EcSignature{EcSignatureEncrypted, encrypted}}},
		"83": {Choice: AuthorizationResponse, AuthorizationResponse: &InnerAtResponse{ResponseCode: DeniedTooManyCerts}},
		"84": {Choice: CertificateRevocationList, CertificateRevocationList: &ToBeSignedCrl{ThisUpdate: 1, NextUpdate: 2, Entries: []HashedId8{{1}, {2}}}},
		"85": {Choice: CertificateTrustListTlm, CertificateTrustList: &CtlFormat{NextUpdate: 3, IsFullCtl: true, CtlSequence: 255, CtlCommands: []CtlCommand{
			{Add: CtlEntry{Choice: CtlRca, Rca: &RootCaEntry{SelfsignedRootCa: *tlmCert, SuccessorTo: tlmCert}}},
			{Add: CtlEntry{Choice: CtlTlm, Tlm: &TlmEntry{SelfSignedTLMCertificate: *tlmCert, AccessPoint: "https://cpoc.example/L2"}}},
			{Add: CtlEntry{Choice: CtlDc, Dc: &DcEntry{Url: "http://dc.example/", Cert: []HashedId8{{1}}}}}}}},
		"86": {Choice: CertificateTrustListRca, CertificateTrustList: &CtlFormat{CtlCommands: []CtlCommand{
			{Add: CtlEntry{Choice: CtlEa, Ea: &EaEntry{EaCertificate: cert, ItsAccessPoint: coer.Some("http://ea.example")}}},
			{Add: CtlEntry{Choice: CtlAa, Aa: &AaEntry{AaCertificate: cert}}},
			{Choice: CtlDeletes, Delete: CtlDelete{Cert: HashedId8{7}}},
			{Choice: CtlDeletes, Delete: CtlDelete{Choice: CtlDeleteDc, Dc: "http://dc.example"}},
			{Choice: 5, Other: []byte{1}}}}},
		"87": {Choice: ValidationRequest, AuthorizationValidationRequest: &AuthorizationValidationRequest{SharedAtRequest: shared, EcSignature: EcSignature{EcSignaturePlain, signed}}},
		"88": {Choice: ValidationResponse, AuthorizationValidationResponse: &AuthorizationValidationResponse{ConfirmedSubjectAttributes: coer.Some(attributes)}},
		"89": {Choice: CaRequest, CaCertificateRequest: &CaCertificateRequest{PublicKeys: keys, RequestedSubjectAttributes: attributes}},
		"8a": {Choice: LinkCertificateTlm, LinkCertificate: link},
		"8b": {Choice: SingleSignedLinkCertificateRca, LinkCertificate: link},
		"8c": {Choice: DoubleSignedLinkCertificateRca, Data: signed},
		"8d": {Choice: ButterflyAuthorizationRequest, ButterflyAuthorizationRequest: &EeRaCertRequest{TbsCert: caterpillar, AdditionalParams: &AdditionalParams{Choice: ButterflyUnified}}},
		"8e": {Choice: X509SignedButterflyAuthorizationRequest, Data: &Ieee1609Dot2Data{Content: Ieee1609Dot2Content{Choice: ContentX509CertificateRequest, Opaque: []byte{1}}}},
		"8f": {Choice: ButterflyAuthorizationResponse, ButterflyAuthorizationResponse: &RaEeCertInfo{CurrentI: 7, NextDlTime: 8}},
		"90": {Choice: ButterflyCertificateRequest, ButterflyCertificateRequest: &RaAcaCertRequest{Flags: ButterflyExplicit | Cubk, TbsCert: caterpillar,
			LinkageInfo: coer.Some(LinkageInfo{EncPlv1: EncryptedIndividualPLV{EncPlv: *encrypted}, EncPlv2: EncryptedIndividualPLV{EncPlv: *encrypted}})}},
		"91": {Choice: ButterflyCertificateResponse, ButterflyCertificateResponse: &AcaRaCertResponse{AcaResponse: AcaResponse{Choice: AcaResponsePrivate, Data: encrypted}}},
		"92": {Choice: ButterflyAtDownloadRequest, ButterflyAtDownloadRequest: &EeRaDownloadRequest{Filename: "E7A4B2B045E7ACF9-3.zip"}},
	}
}

// ticket is an explicit authorization ticket for CAM and DENM.
func ticket() Certificate {
	return Certificate{Issuer: IssuerIdentifier{Digest: HashedId8{1, 2, 3, 4, 5, 6, 7, 8}},
		ToBeSigned: ToBeSignedCertificate{Id: CertificateId{Choice: IdNone}, ValidityPeriod: ValidityPeriod{700000000, Duration{Hours, 168}},
			AssuranceLevel: coer.Some[SubjectAssurance](0x40),
			AppPermissions: []PsidSsp{Bitmap(PsidCAM, 1, 0xff, 0xfc), Bitmap(PsidDENM, 1, 0xff, 0xff, 0xff)}, VerifyKeyIndicator: VerificationKeyIndicator{VerificationKey: key(ECDSANistP256, 0xcc)}},
		Signature: coer.Some(Signature{ECDSANistP256, CurvePoint{X: x32()}, x32()})}
}

func signedSample(t testing.TB) *Ieee1609Dot2Data {
	t.Helper()
	cert := ticket()
	inner := InnerEcRequest{ItsId: []byte("station"), CertificateFormat: 1, PublicKeys: PublicKeys{VerificationKey: key(ECDSANistP256, 3)},
		RequestedSubjectAttributes: CertificateSubjectAttributes{AppPermissions: []PsidSsp{Bitmap(PsidSCR, 1, 0xc0)}}}
	return &Ieee1609Dot2Data{Content: Ieee1609Dot2Content{Choice: ContentSigned, SignedData: &SignedData{
		TbsData: ToBeSignedData{Payload: SignedDataPayload{Data: Unsecured(marshal(t, &inner))},
			HeaderInfo: HeaderInfo{Psid: PsidSCR, GenerationTime: coer.Some[Time64](1), ExpiryTime: coer.Some[Time64](2), GenerationLocation: coer.Some(ThreeDLocation{UnknownLatitude, UnknownLongitude, 3}),
				P2pcdLearningRequest: coer.Some(HashedId3{1}), MissingCrlIdentifier: coer.Some(MissingCrlIdentifier{CrlSeries: 1}),
				EncryptionKey:      coer.Some(EncryptionKey{Public: PublicEncryptionKey{PublicKey: BasePublicEncryptionKey{Point: CurvePoint{Form: Uncompressed, X: x32(), Y: x32()}}}}),
				InlineP2pcdRequest: []HashedId3{{1}, {2}}, RequestedCertificate: &cert, PduFunctionalType: coer.Some[uint8](1),
				ContributedExtensions: []ContributedExtensionBlock{{ContributorETSI, [][]byte{{1, 2, 3}}}, {99, [][]byte{{}}}}}},
		Signer:    SignerIdentifier{Choice: SignerCertificate, Certificate: []Certificate{ticket()}},
		Signature: Signature{ECDSANistP384, CurvePoint{Form: CompressedY0, X: x48()}, x48()}}}}
}

// ENC-3: all contents of TS 102 941 have their tags, and come back, also where others write a length before the version.
func TestENC3ContentTags(t *testing.T) {
	t.Parallel()
	all := samples(t)
	if len(all) != len(managementChoices.Names) {
		t.Errorf("%d of %d contents", len(all), len(managementChoices.Names))
	}
	for tag, content := range all {
		t.Run(tag, func(t *testing.T) {
			b := marshal(t, &EtsiTs102941Data{Content: *content})
			if want := unhex(t, "01"+tag); !bytes.HasPrefix(b, want) {
				t.Errorf("%x... instead of %x", b[:2], want)
			}
			long := &EtsiTs102941Data{Content: *content, LongVersion: true}
			if with, back := marshal(t, long), new(EtsiTs102941Data); !bytes.Equal(with, append([]byte{1}, b...)) || coer.Unmarshal(with, back) != nil || !back.LongVersion || !bytes.Equal(marshal(t, back), with) {
				t.Errorf("with a length before the version it is %x..., and comes back as %x...", with[:4], marshal(t, back)[:4])
			}
			d, err := ParseManagement(b)
			if err != nil {
				t.Fatal(err)
			}
			if back := marshal(t, d); !bytes.Equal(back, b) {
				t.Errorf("%x\nis written as\n%x", b, back)
			}
			if name, _, err := Recognise(b); name != "EtsiTs102941Data" || err != nil {
				t.Errorf("it is recognised as %s, %v", name, err)
			}
			n := coer.Describe(d)
			if _, err := json.Marshal(n); err != nil || !strings.Contains(n.String(), managementChoices.Names[content.Choice]) {
				t.Errorf("%v\n%s", err, n)
			}
		})
	}
}

// ENC-4: encodings that are not canonical.
func TestENC4NotCanonical(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, structure, wire, want string
	}{
		{"long length", "Ieee1609Dot2Data", "03 80 8101 07", "content.unsecuredData at octet 2: the length has more octets"},
		{"DEFAULT written", "ToBeSignedCertificate", "08 83 000000 0000 00000001 84 0001 0101 80 81 0101 80 80 83" + strings.Repeat("aa", 32), "the default value is written"},
		{"BOOLEAN 01", "EtsiTs102941Data", "01 85 00 0101 00000001 01 00 0100", "content.certificateTrustListTlm.isFullCtl at octet 9: a BOOLEAN is 00 or FF"},
		{"Psid with a leading zero", "HeaderInfo", "00 020024", "psid at octet 1: the integer has more octets"},
		{"padding bits", "HeaderInfo", "01 0124", "bits of the preamble that stand for nothing"},
		{"empty bitmap", "HeaderInfo", "80 0124 02 04 00", "there are none"},
		{"octets behind", "Ieee1609Dot2Data", "03 80 01 07 00", "there are 1 octets after its end"},
		{"another version", "Certificate", "80 02 00 81 01", "version at octet 1: it is 2 and not 3"},
		{"CHN-8 no end entities", "ToBeSignedCertificate", "08 83 000000 0000 00000001 84 0001 0101 20 81 00 80 80 83" + strings.Repeat("aa", 32), "certIssuePermissions[0].eeType at octet 18: it names no kind"},
		{"no permissions", "ToBeSignedCertificate", "00 83 000000 0000 00000001 84 0001 80 80 83" + strings.Repeat("aa", 32), "permissions of at least one kind"},
		{"payload of nothing", "ToBeSignedData", "00 00 0124", "a payload has at least one component"},
		{"NULL of two octets", "ToBeSignedData", "80 02 07 80 02 0000 00 0124", "a NULL has no octets"},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := coer.Unmarshal(unhex(t, row.wire), Make(row.structure))
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("%v, want %s", err, row.want)
			}
		})
	}
}

// ENC-5: keys and signatures in several forms are one certificate; what stands behind the extension marker of the header stays as it is.
func TestENC5CanonicalValues(t *testing.T) {
	t.Parallel()
	y := append(x32()[:31:31], 0x03)
	forms := []Certificate{ticket(), ticket(), ticket(), ticket()}
	forms[1].Signature.Value.R.Form = CompressedY1
	forms[2].Signature.Value.R = CurvePoint{Uncompressed, x32(), y}
	k := &forms[3].ToBeSigned.VerifyKeyIndicator.VerificationKey.Point
	k.Form, k.Y = Uncompressed, y
	want, err := forms[0].HashedId8()
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range forms {
		b := marshal(t, &x)
		if i > 0 && bytes.Equal(b, marshal(t, &forms[0])) {
			t.Errorf("form %d is written as form 0", i)
		}
		read, err := ParseCertificate(b)
		if id, err2 := read.HashedId8(); err != nil || err2 != nil || id != want {
			t.Errorf("form %d: %v, %v, %v; want %v", i, id, err, err2, want)
		}
	}
	d := signedSample(t).Content.SignedData
	d.TbsData.HeaderInfo.RequestedCertificate = &forms[3]
	canonical, err := coer.Normal(&d.TbsData)
	if err != nil || !bytes.Contains(canonical, marshal(t, &forms[3])) {
		t.Errorf("%v: the requested certificate was changed in %x", err, canonical)
	}
	inner := signedSample(t)
	inner.Content.SignedData.Signer.Certificate = []Certificate{forms[3]}
	inner.Content.SignedData.Signature.R.Form = CompressedY0
	within, err := coer.Normal(inner)
	if err != nil || !bytes.Contains(within, marshal(t, &forms[3])) || bytes.Contains(within, append([]byte{0x82}, x48()...)) {
		t.Errorf("%v: the signer was changed, or the signature was not, in %x", err, within)
	}
	if p := unhex(t, "80 00 80 82"+strings.Repeat("aa", 32)); !bytes.Contains(canonical, p) {
		t.Errorf("the encryption key is not compressed in %x", canonical)
	}
}

// ENC-6: neither depth nor announced lengths and numbers cost memory.
func TestENC6Bombs(t *testing.T) {
	const most = 64 << 10
	deep := bytes.Repeat(unhex(t, "03 81 00 40"), 10000)
	wide := append(unhex(t, "80 03 00 81 00 08 83 000000 0000 00000001 84 0001 01 ff"), bytes.Repeat([]byte{0x81}, 20)...)
	for name, b := range map[string][]byte{
		"messages in messages":         deep,
		"length":                       unhex(t, "03 80 84 ffffffff"),
		"number of recipients":         unhex(t, "03 82 04 ffffffff 80"),
		"64-bit number":                unhex(t, "03 82 08 ffffffffffffffff 80"),
		"more permissions than octets": wide,
		"lists in lists":               append(unhex(t, "01 01 01 00 0000 0000000000000000 00000000 00000000 00 82 40 0000 00"), bytes.Repeat([]byte{1, 0x10}, 300)...),
	} {
		for _, s := range structures {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := coer.Unmarshal(b, s.make())
			runtime.ReadMemStats(&after)
			if cost := after.TotalAlloc - before.TotalAlloc; cost > most || err == nil {
				t.Errorf("%s as %s: it took %d octets of memory, at most %d; %v", name, s.name, cost, most, err)
			}
		}
	}
	fault := (*coer.Error)(nil)
	if err := coer.Unmarshal(deep, new(Ieee1609Dot2Data)); !errors.As(err, &fault) || fault.Kind != coer.Excessive {
		t.Errorf("%v", err)
	}
}

// Sixteen messages within each other are read.
func TestENC6DepthThatIsAllowed(t *testing.T) {
	t.Parallel()
	d := Unsecured([]byte{1})
	for range 16 {
		outer := signedSample(t)
		outer.Content.SignedData.TbsData.Payload.Data = d
		d = outer
	}
	b := marshal(t, d)
	if back, err := ParseData(b, MaxRequest); err != nil || !bytes.Equal(marshal(t, back), b) {
		t.Errorf("%v", err)
	}
	if _, err := ParseData(b, len(b)-1); err == nil {
		t.Error("more was taken than the limit")
	}
}

// ENC-7, CHN-9, CHN-15: what is not known survives, unless it is critical.
func TestENC7Unknown(t *testing.T) {
	t.Parallel()
	a := strings.Repeat("aa", 32)
	body := "83 000000 0000 00000001 84 0001"
	for _, row := range []struct {
		name, structure, wire string
		critical              bool
	}{
		{"addition of the header", "HeaderInfo", "80 0124 02 00 05 0101 02 beef", false},
		{"foreign contribution", "HeaderInfo", "80 0124 02 04 10 09 01 01 63 01 01 03 010203", false},
		{"addition of a certificate", "ToBeSignedCertificate", "90" + body + "0101 00 0124 80 80 83" + a + "02 03 08 02 beef", false},
		{"kind of permission", "ToBeSignedCertificate", "10" + body + "0101 80 0124 85 02 beef 80 80 83" + a, false},
		{"entry of a trust list", "EtsiTs102941Data", "01 85 00 0101 00000001 ff 00 0101 80 89 02 beef", false},
		{"addition of a trust list", "EtsiTs102941Data", "01 85 80 0101 00000001 ff 00 0100 02 07 80 01 07", false},
		{"content of TS 102 941", "EtsiTs102941Data", "01 a0 02 beef", false},
		{"content of a message", "Ieee1609Dot2Data", "03 8f 01 00", false},
		{"part of a country", "GeographicRegion", "83 0101 84 01 07", false},
		{"region", "GeographicRegion", "84 01 07", true},
		{"hash algorithm", "SignedData", "03", true},
		{"kind of certificate", "Certificate", "80 03 02", true},
		{"issuer", "Certificate", "80 03 00 84 01 07", true},
		{"signature", "Signature", "85 01 07", true},
		{"verification key", "PublicVerificationKey", "85 01 07", true},
		{"key indicator", "ToBeSignedCertificate", "10" + body + "0101 00 0124 82 01 07", true},
		{"certificate id", "ToBeSignedCertificate", "10 84 01 07", true},
		{"subject permissions", "ToBeSignedCertificate", "08" + body + "0101 00 82 01 07", true},
		{"hashed data", "ToBeSignedData", "20 83 01 07", true},
		{"signer", "SignedData", "00 40 03 80 01 07 00 0124 83 01 07", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := unhex(t, row.wire)
			v := Make(row.structure)
			err := coer.Unmarshal(b, v)
			fault := (*coer.Error)(nil)
			switch {
			case row.critical:
				if !errors.As(err, &fault) || fault.Kind != coer.Unknown {
					t.Errorf("%v is not of kind Unknown", err)
				}
			case err != nil:
				t.Error(err)
			case !bytes.Equal(marshal(t, v), b):
				t.Errorf("%x is written as %x", b, marshal(t, v))
			}
		})
	}
}

// CRT-8: the two kinds of certificates.
func TestCRT8KindsOfCertificates(t *testing.T) {
	t.Parallel()
	implicit := ticket()
	implicit.Type = Implicit
	implicit.ToBeSigned.VerifyKeyIndicator = VerificationKeyIndicator{Choice: ReconstructionValue, ReconstructionValue: CurvePoint{Form: CompressedY0, X: x32()}}
	implicit.Signature.Present = false
	if b := marshal(t, &implicit); len(b) != 87-5 {
		t.Logf("an implicit ticket has %d octets", len(b))
	}
	read, err := ParseCertificate(marshal(t, &implicit))
	if err != nil || read.Type != Implicit {
		t.Errorf("%v", err)
	}
	for name, change := range map[string]func(*Certificate){
		"implicit with signature": func(x *Certificate) {
			*x = implicit
			x.Signature.Present = true
			x.Signature.Value = ticket().Signature.Value
		},
		"implicit with key": func(x *Certificate) {
			*x = implicit
			x.ToBeSigned.VerifyKeyIndicator = ticket().ToBeSigned.VerifyKeyIndicator
		},
		"explicit without signature":   func(x *Certificate) { x.Signature.Present = false },
		"explicit with reconstruction": func(x *Certificate) { x.ToBeSigned.VerifyKeyIndicator = implicit.ToBeSigned.VerifyKeyIndicator },
	} {
		x := ticket()
		change(&x)
		if b, err := coer.Marshal(&x); err == nil {
			t.Errorf("%s is written as %x", name, b)
		}
	}
	// What cannot be written, others may: the same octets with another kind, or with and without the signature that stands at the end.
	of := ticket()
	explicit, other := marshal(t, &of), marshal(t, &implicit)
	signature := marshal(t, &of.Signature.Value)
	unsigned := explicit[:len(explicit)-len(signature)]
	as := func(preamble, kind byte, rest ...[]byte) []byte {
		b := slices.Concat(rest...)
		b[0], b[2] = preamble, kind
		return b
	}
	for name, b := range map[string][]byte{
		"implicit with signature":      as(0x80, 1, other, signature),
		"implicit with key":            as(0x00, 1, unsigned),
		"explicit without signature":   as(0x00, 0, unsigned),
		"explicit with reconstruction": as(0x80, 0, other, signature),
	} {
		if _, err := ParseCertificate(b); err == nil {
			t.Errorf("%s is read", name)
		}
	}
	for name, b := range map[string][]byte{"explicit": as(0x80, 0, unsigned, signature), "implicit": as(0x00, 1, other)} {
		if _, err := ParseCertificate(b); err != nil {
			t.Errorf("%s, put together likewise: %v", name, err)
		}
	}
}

// A ticket is read with at most one allocation.
func TestTicketsTakeOneAllocation(t *testing.T) {
	region := ticket()
	region.ToBeSigned.Region = coer.Some(GeographicRegion{Choice: RegionIdentified, Identified: []IdentifiedRegion{{Country: 65535}}})
	region.ToBeSigned.EncryptionKey = coer.Some(PublicEncryptionKey{PublicKey: BasePublicEncryptionKey{Point: CurvePoint{Form: CompressedY0, X: x32()}}})
	plain := ticket()
	for name, b := range map[string][]byte{"plain": marshal(t, &plain), "with region and encryption key": marshal(t, &region)} {
		n := testing.AllocsPerRun(100, func() {
			if _, err := ParseCertificate(b); err != nil {
				t.Fatal(err)
			}
		})
		if n > 1 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkParseCertificate(b *testing.B) {
	cert := ticket()
	octets := marshal(b, &cert)
	b.ReportAllocs()
	b.SetBytes(int64(len(octets)))
	for b.Loop() {
		if _, err := ParseCertificate(octets); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMarshalCertificate(b *testing.B) {
	cert := ticket()
	room := make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := coer.Append(room, &cert); err != nil {
			b.Fatal(err)
		}
	}
}

// Moments go to times and back; the beginning of 2004 is 0 but for the leap seconds.
func TestTimes(t *testing.T) {
	t.Parallel()
	for _, n := range []Time64{5e6, 5e6 + 1, 619826403e6} {
		if back := TimeAt(n.Time(LeapSeconds), LeapSeconds); back != n {
			t.Errorf("%d comes back as %d", n, back)
		}
	}
	if n := TimeAt(time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), LeapSeconds); n != 0 {
		t.Errorf("before the beginning: %d", n)
	}
	day := ValidityPeriod{Start: 100, Duration: Duration{Hours, 24}}
	for n, want := range map[Time64]bool{100e6 - 1: false, 100e6: true, 86500e6 - 1: true, 86500e6: false} {
		if got := day.Contains(n); got != want {
			t.Errorf("%d lies within: %v", n, got)
		}
	}
}

func typeName(v any) string { return reflect.TypeOf(v).String() }

// A message is recognised, and what lies in it is shown in its place.
func TestRecognise(t *testing.T) {
	t.Parallel()
	name, v, err := Recognise(marshal(t, signedSample(t)))
	if name != "Ieee1609Dot2Data" || err != nil {
		t.Fatalf("%s, %v", name, err)
	}
	text := coer.Describe(v).String()
	for _, want := range []string{"content signedData\n", "unsecuredData\n", "itsId: 73746174696f6e\n", "psid: 623  (certificate requests)\n", "aes128Ccm"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	if name, v, err := Recognise(tlm(t)[:100]); v != nil || err == nil || name != "Certificate" || !strings.Contains(err.Error(), "signature.ecdsaBrainpoolP384r1Signature") {
		t.Errorf("%s, %v, %v", name, v, err)
	}
	if Make("Certificates") != nil || len(Names()) != len(structures) {
		t.Error("there is a structure of no name, or a name of no structure")
	}
}
