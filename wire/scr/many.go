package scr

import (
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/spdu"
)

// Content types of questions about many tickets in one message, and of their answer. They are ours: an enrolment authority of others does not know the first one, and is
// asked about each ticket by itself, as TS 102 941 has it. Signed and encrypted are, as everything else,
//
//	request   SEQUENCE (SIZE (1..128)) OF AuthorizationValidationRequest
//	answer    SEQUENCE (SIZE (1..128)) OF AuthorizationValidationResponse
//
// The answers are in the order of the requests, and each names the message as a whole. A single one that is not ok is the answer to all of them.
const (
	ManyRequestType  = "application/vnd.mooring.its-requests"
	ManyResponseType = "application/vnd.mooring.its-responses"
	MaxMany          = 128
)

// Questions are what an authorization authority asks about many tickets. The message is no longer than its.MaxRequest.
type Questions struct {
	List []its.AuthorizationValidationRequest
}

// Code implements coer.Value.
func (q *Questions) Code(c *coer.Coder) {
	for e := range coer.All(c, &q.List) {
		e.Code(c)
	}
	c.Refuse(len(q.List) == 0 || len(q.List) > MaxMany, "there are 1 to 128")
}

// Answers answer them.
type Answers struct {
	List []its.AuthorizationValidationResponse
}

// Code implements coer.Value.
func (a *Answers) Code(c *coer.Coder) {
	for e := range coer.All(c, &a.List) {
		e.Code(c)
	}
	c.Refuse(len(a.List) == 0 || len(a.List) > MaxMany, "there are 1 to 128")
}

// ParseQuestions reads what was signed of a request. The error is a Fault.
func ParseQuestions(b []byte) ([]its.AuthorizationValidationRequest, error) {
	q := new(Questions)
	if coer.Unmarshal(b, q) != nil {
		return nil, CantParse
	}
	return q.List, nil
}

// SignMany signs questions or answers.
func SignMany(v coer.Value, at its.Time64, s spdu.Signer) (*its.Ieee1609Dot2Data, error) {
	b, err := coer.Marshal(v)
	if err != nil {
		return nil, err
	}
	return spdu.Sign(spdu.Payload(b), Header(at), s)
}

// OpenMany opens the answer to a number of questions, each of which gets its own. The caller verifies the signature.
func OpenMany(answer []byte, s *spdu.Session, questions int) (*its.SignedData, []its.AuthorizationValidationResponse, error) {
	signed, octets, err := openAnswer(answer, s)
	if err != nil {
		return nil, nil, err
	}
	a := new(Answers)
	if err := coer.Unmarshal(octets, a); err != nil {
		return nil, nil, err
	}
	if one := a.List[0]; len(a.List) == 1 && one.ResponseCode != its.ValidationOk {
		for len(a.List) < questions {
			a.List = append(a.List, one)
		}
	}
	if len(a.List) != questions {
		return nil, nil, CantParse
	}
	return signed, a.List, nil
}
