package its

import "mooring/wire/coer"

// structure is a type that may stand alone in a file or a message.
type structure struct {
	name string
	make func() coer.Value
}

// structures lists what Recognise tries, in this order: what says most about itself comes first. The others, below the gap, say too little.
var structures = []structure{
	{"Ieee1609Dot2Data", func() coer.Value { return new(Ieee1609Dot2Data) }},
	{"Certificate", func() coer.Value { return new(Certificate) }},
	{"EtsiTs102941Data", func() coer.Value { return new(EtsiTs102941Data) }},
	{"ScmsPdu", func() coer.Value { return new(ScmsPdu) }},
	{"CrlContents", func() coer.Value { return new(CrlContents) }},
	{"SignedCertificateRequest", func() coer.Value { return new(SignedCertificateRequest) }},
	{"SignedX509CertificateRequest", func() coer.Value { return new(SignedX509CertificateRequest) }},
	{"InnerEcRequest", func() coer.Value { return new(InnerEcRequest) }},
	{"InnerAtRequest", func() coer.Value { return new(InnerAtRequest) }},
	{"ToBeSignedCertificate", func() coer.Value { return new(ToBeSignedCertificate) }},
	{"SharedAtRequest", func() coer.Value { return new(SharedAtRequest) }},
	{"AcpcPdu", func() coer.Value { return new(AcpcPdu) }},
	{"CamRaInterfacePdu", func() coer.Value { return new(CamRaInterfacePdu) }},

	{"ToBeSignedData", func() coer.Value { return new(ToBeSignedData) }},
	{"SignedData", func() coer.Value { return new(SignedData) }},
	{"EncryptedData", func() coer.Value { return new(EncryptedData) }},
	{"HeaderInfo", func() coer.Value { return new(HeaderInfo) }},
	{"AprvHashCalculationInput", func() coer.Value { return new(AprvHashCalculationInput) }},
	{"CertificateSubjectAttributes", func() coer.Value { return new(CertificateSubjectAttributes) }},
	{"Ieee1609dot2Peer2PeerPDU", func() coer.Value { return new(Ieee1609dot2Peer2PeerPDU) }},
	{"PublicVerificationKey", func() coer.Value { return new(PublicVerificationKey) }},
	{"PublicEncryptionKey", func() coer.Value { return new(PublicEncryptionKey) }},
	{"Signature", func() coer.Value { return new(Signature) }},
	{"GeographicRegion", func() coer.Value { return new(GeographicRegion) }},
	{"Extension", func() coer.Value { return new(Extension) }},
	{"EtsiTs102941CrlRequest", func() coer.Value { return new(EtsiTs102941CrlRequest) }},
	{"EtsiTs102941CtlRequest", func() coer.Value { return new(EtsiTs102941CtlRequest) }},
	{"EtsiTs102941FullCtlRequest", func() coer.Value { return new(EtsiTs102941FullCtlRequest) }},
	{"CrlSsp", func() coer.Value { return new(CrlSsp) }},
	{"SecurityMgmtSsp", func() coer.Value { return new(SecurityMgmtSsp) }},
	{"AcpcSsp", func() coer.Value { return new(AcpcSsp) }},
	{"FullIeeeTbsCtl", func() coer.Value { return new(FullIeeeTbsCtl) }},
}

const recognisable = 13

// Names are the structures that Make knows.
func Names() []string {
	names := make([]string, len(structures))
	for i, s := range structures {
		names[i] = s.name
	}
	return names
}

// Make returns an empty structure of this name, or nil.
func Make(name string) coer.Value {
	for _, s := range structures {
		if s.name == name {
			return s.make()
		}
	}
	return nil
}

// Recognise reads b as the first structure that it is. If it is none, the error is that of the structure that was read furthest.
func Recognise(b []byte) (name string, v coer.Value, err error) {
	furthest := -1
	for _, s := range structures[:recognisable] {
		v := s.make()
		fault := coer.Unmarshal(b, v)
		if fault == nil {
			return s.name, v, nil
		}
		if e, ok := fault.(*coer.Error); ok && e.Offset > furthest {
			furthest, name, err = e.Offset, s.name, fault
		}
	}
	return name, nil, err
}
