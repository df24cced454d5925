package its

import "mooring/wire/coer"

// AcpcTreeId names a tree of activation codes, and AcpcNodeValue is the value of a node of it.
type (
	AcpcTreeId    [8]byte
	AcpcNodeValue [16]byte
)

// Code implements coer.Value.
func (i *AcpcTreeId) Code(c *coer.Coder) { coer.Octets(c, i[:]) }

// Code implements coer.Value.
func (v *AcpcNodeValue) Code(c *coer.Coder) { coer.Octets(c, v[:]) }

// AcpcPdu is activation codes, without which certificates that were issued in advance are of no use: of all who may go on, or of one.
type AcpcPdu struct {
	Choice uint8 // 0: Tree, 1: Aprv
	Tree   *AprvBinaryTree
	Aprv   *IndividualAprv
	Other  []byte
}

var acpcChoices = coer.Choices{Names: []string{"tree", "aprv"}, Extensible: true}

// Code implements coer.Value.
func (p *AcpcPdu) Code(c *coer.Coder) {
	switch coer.Choice(c, &p.Choice, &acpcChoices) {
	case 0:
		needed(c, &p.Tree).Code(c)
	case 1:
		needed(c, &p.Aprv).Code(c)
	default:
		c.Other(&p.Other)
	}
	c.EndChoice()
}

// AprvBinaryTree is the values of the nodes below which all may go on.
type AprvBinaryTree struct {
	GenerationTime  Time32
	CurrentI        uint16
	AcpcTreeId      AcpcTreeId
	HashAlgorithmId HashAlgorithm
	Tree            coer.BitString
	NodeValueList   []AcpcNodeValue
	Additions       coer.Additions
}

// Code implements coer.Value.
func (t *AprvBinaryTree) Code(c *coer.Coder) {
	s := c.Extensible(&t.Additions)
	coer.Exactly(c.At("version"), 2)
	t.GenerationTime.Code(c.At("generationTime"))
	coer.Uint16(c.At("currentI"), &t.CurrentI)
	t.AcpcTreeId.Code(c.At("acpcTreeId"))
	t.HashAlgorithmId.Code(c.At("hashAlgorithmId"))
	t.Tree.Code(c.At("tree"))
	list(c.At("nodeValueList"), &t.NodeValueList)
	c.Refuse(len(t.NodeValueList) == 0, noElements)
	s.Additions()
	s.End()
}

// IndividualAprv is the value of one node.
type IndividualAprv struct {
	GenerationTime Time32
	CurrentI       uint16
	AcpcTreeId     AcpcTreeId
	NodeId         coer.BitString
	NodeValue      AcpcNodeValue
	Additions      coer.Additions
}

// Code implements coer.Value.
func (v *IndividualAprv) Code(c *coer.Coder) {
	s := c.Extensible(&v.Additions)
	coer.Exactly(c.At("version"), 2)
	v.GenerationTime.Code(c.At("generationTime"))
	coer.Uint16(c.At("currentI"), &v.CurrentI)
	v.AcpcTreeId.Code(c.At("acpcTreeId"))
	v.NodeId.Code(c.At("nodeId"))
	v.NodeValue.Code(c.At("nodeValue"))
	s.Additions()
	s.End()
}

// AprvHashCalculationInput is what the value of a node is the digest of.
type AprvHashCalculationInput struct {
	AcpcTreeId      AcpcTreeId
	AcpcPeriod      uint16
	ChildNodeId     coer.BitString
	ParentNodeValue AcpcNodeValue
	Additions       coer.Additions
}

// Code implements coer.Value.
func (i *AprvHashCalculationInput) Code(c *coer.Coder) {
	s := c.Extensible(&i.Additions)
	coer.Exactly(c.At("version"), 2)
	i.AcpcTreeId.Code(c.At("acpcTreeId"))
	coer.Uint16(c.At("acpcPeriod"), &i.AcpcPeriod)
	i.ChildNodeId.Code(c.At("childNodeId"))
	i.ParentNodeValue.Code(c.At("parentNodeValue"))
	s.Additions()
	s.End()
}

// CamRaInterfacePdu is what a certificate access manager and a registration authority say to each other.
type CamRaInterfacePdu struct {
	Choice             uint8 // 0: RaCamBatchRequest, 1: CamRaBatchResponse
	RaCamBatchRequest  *RaCamBatchRequest
	CamRaBatchResponse *CamRaBatchResponse
	Other              []byte
}

var camRaChoices = coer.Choices{Names: []string{"raCamBatchRequest", "camRaBatchResponse"}, Extensible: true}

// Code implements coer.Value.
func (p *CamRaInterfacePdu) Code(c *coer.Coder) {
	switch coer.Choice(c, &p.Choice, &camRaChoices) {
	case 0:
		needed(c, &p.RaCamBatchRequest).Code(c)
	case 1:
		needed(c, &p.CamRaBatchResponse).Code(c)
	default:
		c.Other(&p.Other)
	}
	c.EndChoice()
}

// RaCamBatchRequest asks for blinded keys of a device, one for each period.
type RaCamBatchRequest struct {
	EeId       [5]byte
	PeriodList []uint16
	Additions  coer.Additions
}

// Code implements coer.Value.
func (r *RaCamBatchRequest) Code(c *coer.Coder) {
	s := c.Extensible(&r.Additions)
	coer.Exactly(c.At("version"), 2)
	coer.Octets(c.At("eeId"), r.EeId[:])
	for e := range coer.All(c.At("periodList"), &r.PeriodList) {
		coer.Uint16(c, e)
	}
	s.Additions()
	s.End()
}

// CamRaBatchResponse answers RaCamBatchRequest.
type CamRaBatchResponse struct {
	RequestHash HashedId8
	Batch       []CurvePoint // of P-256
	Additions   coer.Additions
}

// Code implements coer.Value.
func (r *CamRaBatchResponse) Code(c *coer.Coder) {
	s := c.Extensible(&r.Additions)
	coer.Exactly(c.At("version"), 2)
	r.RequestHash.Code(c.At("requestHash"))
	for e := range coer.All(c.At("batch"), &r.Batch) {
		e.code(c, 32)
	}
	s.Additions()
	s.End()
}
