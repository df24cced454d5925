// Package cocoon has what butterfly provisioning of tickets needs beside the messages of package its (TS 102 941, 6.2.3.5; IEEE 1609.2.1, 8.2): the archives in which a
// vehicle fetches its tickets, and messages in which one authority asks another one for many tickets at once.
//
// An archive has the tickets of one request and one period i. It is a ZIP whose files are stored as they are, since their content is encrypted:
//
//	HASHEDID8-i.zip   HASHEDID8: of the request, 16 digits; i and j: hexadecimal, lower case, without leading zeros (an i of digits alone is hexadecimal too)
//	    i.info        RaEeCertInfo, in a message
//	    i_j           the message with the ticket j
//
// The same content makes the same octets.
//
// A message for many tickets is ours; between authorities of others each request is a message of its own. Signed and encrypted are, as everything in TS 102 941,
//
//	request   SEQUENCE (SIZE (1..256)) OF RaAcaCertRequest
//	answer    SEQUENCE (SIZE (0..256)) OF AcaRaCertResponse
//
// where requestHash is the last 8 octets of the SHA-256 of the one RaAcaCertRequest. A request without an answer was refused.
package cocoon

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

// Bounds of a message for many tickets. The request is no longer than its.MaxRequest.
const (
	MaxTickets = 256
	MaxAnswer  = 512 << 10
)

// Requests asks for many tickets.
type Requests struct{ List []its.RaAcaCertRequest }

// Code implements coer.Value.
func (r *Requests) Code(c *coer.Coder) {
	for e := range coer.All(c, &r.List) {
		e.Code(c)
	}
	c.Refuse(len(r.List) == 0 || len(r.List) > MaxTickets, "there are 1 to 256 requests")
}

// ParseRequests reads what was signed of a request.
func ParseRequests(b []byte) ([]its.RaAcaCertRequest, error) {
	r := new(Requests)
	err := coer.Unmarshal(b, r)
	return r.List, err
}

// Responses answers it.
type Responses struct{ List []its.AcaRaCertResponse }

// Code implements coer.Value.
func (r *Responses) Code(c *coer.Coder) {
	for e := range coer.All(c, &r.List) {
		e.Code(c)
	}
	c.Refuse(len(r.List) > MaxTickets, "there are at most 256 answers")
}

// Hash is how the answer to one of many requests names it.
func Hash(r *its.RaAcaCertRequest) (id its.HashedId8, err error) {
	b, err := coer.Marshal(r)
	if err != nil {
		return id, err
	}
	sum := sha256.Sum256(b)
	return its.HashedId8(sum[len(sum)-len(id):]), nil
}

// Seal signs requests, and encrypts them to the authority that is to answer. The session is for the answer.
func Seal(random io.Reader, list []its.RaAcaCertRequest, at its.Time64, by spdu.Signer, to *its.Certificate) ([]byte, *spdu.Session, error) {
	b, err := coer.Marshal(&Requests{list})
	if err != nil {
		return nil, nil, err
	}
	signed, err := spdu.Sign(spdu.Payload(b), scr.Header(at), by)
	if err != nil {
		return nil, nil, err
	}
	return scr.Seal(random, signed, to)
}

// Answer signs answers and encrypts them with the key of the request.
func Answer(random io.Reader, s *spdu.Session, list []its.AcaRaCertResponse, at its.Time64, by spdu.Signer) ([]byte, error) {
	b, err := coer.Marshal(&Responses{list})
	if err != nil {
		return nil, err
	}
	signed, err := spdu.Sign(spdu.Payload(b), scr.Header(at), by)
	if err != nil {
		return nil, err
	}
	return scr.Answer(random, s, signed)
}

// OpenAnswer opens the answer to the requests of a session. The caller verifies the signature.
func OpenAnswer(answer []byte, s *spdu.Session) (*its.SignedData, []its.AcaRaCertResponse, error) {
	d, err := its.ParseData(answer, MaxAnswer)
	if err != nil {
		return nil, nil, err
	}
	inner, err := s.Open(d)
	if err != nil {
		return nil, nil, err
	}
	signed, octets, err := scr.Signed(inner)
	if err != nil {
		return nil, nil, err
	}
	r := new(Responses)
	if err := coer.Unmarshal(octets, r); err != nil {
		return nil, nil, err
	}
	return signed, r.List, nil
}

// RequestHash is how archives and answers name the request of a vehicle: the last 8 octets of the SHA-256 of the encrypted request. (TS 102 941 speaks of the first 16,
// which the type does not hold.)
func RequestHash(request []byte) its.HashedId8 {
	sum := sha256.Sum256(request)
	return its.HashedId8(sum[24:])
}

// ArchiveName is the name of the archive of a request for a period.
func ArchiveName(request its.HashedId8, i uint16) string {
	return request.String() + "-" + hex(uint32(i)) + ".zip"
}

// ErrName is that a name is none of an archive.
var ErrName = errors.New("the name of an archive is the 16 digits of its request, a hyphen, and its period in hexadecimal digits")

// ParseArchiveName reads it. The digits of the request may be of either case.
func ParseArchiveName(name string) (request its.HashedId8, i uint16, err error) {
	head, tail, ok := strings.Cut(name, "-")
	text, zipped := strings.CutSuffix(tail, ".zip")
	n, err := strconv.ParseUint(head, 16, 64)
	if !ok || !zipped || err != nil || len(head) != 16 || head[0] == '+' {
		return request, 0, ErrName
	}
	number, err := parseHex(text, 16)
	if err != nil {
		return request, 0, ErrName
	}
	for k := range request {
		request[k] = byte(n >> (56 - 8*k))
	}
	return request, uint16(number), nil
}

func hex(n uint32) string { return strconv.FormatUint(uint64(n), 16) }

// parseHex reads a number in the shortest form.
func parseHex(text string, bits int) (uint32, error) {
	n, err := strconv.ParseUint(text, 16, bits)
	if err != nil || hex(uint32(n)) != text {
		return 0, fmt.Errorf("%q is no number of %d bits in the shortest hexadecimal form", text, bits)
	}
	return uint32(n), nil
}
