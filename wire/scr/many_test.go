package scr

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"

	"mooring/wire/coer"
	"mooring/wire/its"
)

func someQuestions(t testing.TB, n int) []byte {
	t.Helper()
	key, _, _ := party(t)
	shared := its.SharedAtRequest{EaId: its.HashedId8{1}, CertificateFormat: its.FormatTs103097,
		RequestedSubjectAttributes: its.CertificateSubjectAttributes{AppPermissions: []its.PsidSsp{its.Bitmap(its.PsidCAM, 1, 0, 0)}}}
	signature, err := SignShared(rand.Reader, &shared, 5, Signer(key, nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	q := new(Questions)
	for i := range n {
		shared.KeyTag[0] = byte(i)
		q.List = append(q.List, its.AuthorizationValidationRequest{SharedAtRequest: shared, EcSignature: signature})
	}
	b, err := coer.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Questions are read in their order, with the octets of what stations signed.
func TestQuestions(t *testing.T) {
	t.Parallel()
	b := someQuestions(t, MaxMany)
	list, err := ParseQuestions(b)
	if err != nil || len(list) != MaxMany {
		t.Fatalf("%d questions, %v", len(list), err)
	}
	for i := range list {
		if s := &list[i].SharedAtRequest; s.KeyTag[0] != byte(i) || !bytes.Contains(b, s.Octets) || len(s.Octets) == 0 {
			t.Errorf("question %d is %+v", i, s)
		}
	}
	one := (len(b) - 2) / MaxMany
	for name, b := range map[string][]byte{"none": {1, 0}, "too many": append([]byte{1, MaxMany + 1}, append(bytes.Clone(b[2:]), b[2:2+one]...)...),
		"cut": b[:len(b)-1], "more": append(bytes.Clone(b), 0), "announced": {4, 0xff, 0xff, 0xff, 0xff}} {
		if list, err := ParseQuestions(b); !errors.Is(err, CantParse) {
			t.Errorf("%s: %d questions, %v", name, len(list), err)
		}
	}
	if _, err := coer.Marshal(new(Questions)); err == nil {
		t.Error("a message without questions is written")
	}
}

// Each question gets the answer at its place; a refusal alone is for all of them.
func TestOpenMany(t *testing.T) {
	t.Parallel()
	key, holder, cert := party(t)
	ok := its.AuthorizationValidationResponse{ConfirmedSubjectAttributes: coer.Some(its.CertificateSubjectAttributes{AppPermissions: []its.PsidSsp{its.Bitmap(its.PsidCAM, 1, 0, 0)}})}
	no := its.AuthorizationValidationResponse{ResponseCode: its.ValidationUnknownIts}
	type list = []its.AuthorizationValidationResponse
	for _, row := range []struct {
		name    string
		asked   int
		answers list
		want    []its.AuthorizationValidationResponseCode // nil: refused
	}{
		{"one", 1, list{ok}, []its.AuthorizationValidationResponseCode{0}},
		{"in order", 3, list{no, ok, no}, []its.AuthorizationValidationResponseCode{its.ValidationUnknownIts, 0, its.ValidationUnknownIts}},
		{"refused together", 2, list{no}, []its.AuthorizationValidationResponseCode{its.ValidationUnknownIts, its.ValidationUnknownIts}},
		{"one yes for two", 2, list{ok}, nil}, {"too few", 3, list{no, no}, nil}, {"too many", 1, list{no, no}, nil},
	} {
		signed, err := SignMany(&Answers{row.answers}, 5, Signer(key, cert))
		if err != nil {
			t.Fatal(err)
		}
		request, session, err := Seal(rand.Reader, signed, cert)
		if err != nil {
			t.Fatal(err)
		}
		o, err := Open(request, holder)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := Answer(rand.Reader, o.Session, signed)
		if err != nil {
			t.Fatal(err)
		}
		by, got, err := OpenMany(answer, session, row.asked)
		if row.want == nil {
			if err == nil {
				t.Errorf("%s: %v", row.name, got)
			}
			continue
		}
		if err != nil || by.Verify(cert, nil) != nil || len(got) != len(row.want) {
			t.Fatalf("%s: %v, %v", row.name, got, err)
		}
		for i := range got {
			if got[i].ResponseCode != row.want[i] {
				t.Errorf("%s: answer %d is %v, want %v", row.name, i, got[i].ResponseCode, row.want[i])
			}
		}
	}
}

func FuzzParseQuestions(f *testing.F) {
	f.Add(someQuestions(f, 2))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := ParseQuestions(b)
		if err != nil {
			return
		}
		back, err := coer.Marshal(&Questions{list})
		if err != nil || !bytes.Equal(back, b) {
			t.Fatalf("%x is written as %x, %v", b, back, err)
		}
	})
}
