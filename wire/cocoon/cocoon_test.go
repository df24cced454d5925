package cocoon

import (
	"archive/zip"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"

	"mooring/wire/butterfly"
	"mooring/wire/coer"
	"mooring/wire/its"
	"mooring/wire/scr"
	"mooring/wire/spdu"
)

// BFK-8: the layout of archives.
func TestArchive(t *testing.T) {
	t.Parallel()
	a := &Archive{I: 0x1a, Info: []byte("info"), Files: []File{{0x10, []byte("sixteen")}, {0, []byte("zero")}, {9, []byte("nine")}}}
	b, err := a.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	again, err := a.Bytes()
	if err != nil || !bytes.Equal(b, again) {
		t.Errorf("the same content makes other octets: %v", err)
	}
	r, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range []string{"1a.info", "1a_0", "1a_9", "1a_10"} {
		if f := r.File[n]; f.Name != want || f.Method != zip.Store || f.Flags != 0 {
			t.Errorf("file %d is %+v, want %s", n, f.FileHeader, want)
		}
	}
	back, err := ParseArchive(b)
	if err != nil || back.I != 0x1a || string(back.Info) != "info" || len(back.Files) != 3 || back.Files[2].J != 16 || string(back.Files[2].Octets) != "sixteen" {
		t.Errorf("it is read as %+v, %v", back, err)
	}
}

func TestArchivesThatAreNone(t *testing.T) {
	t.Parallel()
	type file struct {
		name   string
		method uint16
		size   int
	}
	for _, files := range [][]file{
		{}, {{"1a_0", zip.Store, 1}}, {{"x.info", zip.Store, 1}}, {{"01.info", zip.Store, 1}}, {{"1A.info", zip.Store, 1}}, {{"10000.info", zip.Store, 1}},
		{{"1.info", zip.Deflate, 10}}, {{"1.info", zip.Store, MaxFile + 1}}, {{"1.info", zip.Store, 1}, {"2_0", zip.Store, 1}},
		{{"1.info", zip.Store, 1}, {"1_1", zip.Store, 1}, {"1_0", zip.Store, 1}}, {{"1.info", zip.Store, 1}, {"1_1", zip.Store, 1}, {"1_1", zip.Store, 1}},
		{{"1.info", zip.Store, 1}, {"1_00", zip.Store, 1}}, {{"1.info", zip.Store, 1}, {"../1_0", zip.Store, 1}},
	} {
		var b bytes.Buffer
		w := zip.NewWriter(&b)
		for _, f := range files {
			in, err := w.CreateHeader(&zip.FileHeader{Name: f.name, Method: f.method})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := in.Write(make([]byte, f.size)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if a, err := ParseArchive(b.Bytes()); !errors.Is(err, ErrArchive) {
			t.Errorf("%v is read as %+v, %v", files, a, err)
		}
	}
	if _, err := ParseArchive(make([]byte, MaxArchive+1)); !errors.Is(err, ErrArchive) {
		t.Errorf("one of %d octets: %v", MaxArchive+1, err)
	}
}

// Files that share their octets come to no more than the archive.
func TestArchiveOfSharedOctets(t *testing.T) {
	t.Parallel()
	content := make([]byte, MaxFile)
	header := func(tail int, name string) []byte { // what local header and entry of the directory have in common, behind the versions
		b := make([]byte, 22, 22+tail+len(name))
		binary.LittleEndian.PutUint32(b[8:], crc32.ChecksumIEEE(content))
		binary.LittleEndian.PutUint32(b[12:], uint32(len(content)))
		binary.LittleEndian.PutUint32(b[16:], uint32(len(content)))
		binary.LittleEndian.PutUint16(b[20:], uint16(len(name)))
		return append(append(b, make([]byte, tail)...), name...)
	}
	archive := append(append([]byte("PK\x03\x04\x0a\x00"), header(2, "1.info")...), content...)
	start, n := len(archive), 200
	for j := range n {
		name := "1.info"
		if j > 0 {
			name = "1_" + hex(uint32(j))
		}
		archive = append(append(archive, "PK\x01\x02\x0a\x00\x0a\x00"...), header(16, name)...)
	}
	end := make([]byte, 22)
	copy(end, "PK\x05\x06")
	binary.LittleEndian.PutUint16(end[8:], uint16(n))
	binary.LittleEndian.PutUint16(end[10:], uint16(n))
	binary.LittleEndian.PutUint32(end[12:], uint32(len(archive)-start))
	binary.LittleEndian.PutUint32(end[16:], uint32(start))
	archive = append(archive, end...)
	if r, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive))); err != nil || len(r.File) != n {
		t.Fatalf("the ZIP is none: %v", err)
	}
	if _, err := ParseArchive(archive); !errors.Is(err, ErrArchive) || !strings.Contains(err.Error(), "longer than it is") {
		t.Errorf("an archive of %d octets with %d files of %d: %v", len(archive), n, MaxFile, err)
	}
}

// BFK-6: the name has the last 8 octets of the digest of the request, and the period in hexadecimal digits.
func TestNames(t *testing.T) {
	t.Parallel()
	h := RequestHash(nil) // SHA-256 of nothing ends in a495991b7852b855
	if got, want := ArchiveName(h, 0x10), "A495991B7852B855-10.zip"; got != want {
		t.Errorf("the name is %s, want %s", got, want)
	}
	for _, text := range []string{"A495991B7852B855-10.zip", "a495991b7852b855-10.zip"} {
		if id, i, err := ParseArchiveName(text); err != nil || id != h || i != 0x10 {
			t.Errorf("%s is read as %s, %d, %v", text, id, i, err)
		}
	}
	for _, text := range []string{"", "A495991B7852B855-010.zip", "A495991B7852B855-1A.zip", "A495991B7852B855-10000.zip", "A495991B7852B855.zip", "A495991B7852B85-1.zip",
		"A495991B7852B855-1.zip.zip", "+495991B7852B855-1.zip", "A495991B7852B8_5-1.zip", "A495991B7852B855-.zip", "A495991B7852B855-1"} {
		if id, i, err := ParseArchiveName(text); !errors.Is(err, ErrName) {
			t.Errorf("%q is read as %s, %d, %v", text, id, i, err)
		}
	}
}

// party is an authority.
type party struct {
	cert   *its.Certificate
	signer spdu.Signer
	holder spdu.Holder
}

func newParty(t testing.TB, name string) party {
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
	x := &its.Certificate{Issuer: its.IssuerIdentifier{Choice: its.IssuerSelf}, ToBeSigned: its.ToBeSignedCertificate{Id: its.Name(name), AppPermissions: []its.PsidSsp{its.Bitmap(its.PsidSCR, 1, 0x32)},
		EncryptionKey: coer.Some(scr.EncryptionKey(private)), VerifyKeyIndicator: its.VerificationKeyIndicator{VerificationKey: public}}}
	digest, err := x.Input(nil)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := scr.Signature(key)(digest)
	if err != nil {
		t.Fatal(err)
	}
	x.Signature = coer.Some(sig)
	to, err := spdu.ToCertificate(x)
	if err != nil {
		t.Fatal(err)
	}
	return party{x, scr.Signer(key, x), spdu.Holder{Recipient: to, Private: private}}
}

func someRequests(t testing.TB, n int) (list []its.RaAcaCertRequest) {
	t.Helper()
	for j := range n {
		s, err := butterfly.RandomScalar(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		key := its.Compressed(s.Public().Bytes())
		list = append(list, its.RaAcaCertRequest{GenerationTime: its.Time32(j), Flags: its.ButterflyExplicit, CertEncKey: coer.Some(its.PublicEncryptionKey{PublicKey: its.BasePublicEncryptionKey{Point: key}}),
			TbsCert: its.ToBeSignedCertificate{Id: its.CertificateId{Choice: its.IdNone}, ValidityPeriod: its.ValidityPeriod{Start: 1, Duration: its.Duration{Choice: its.Hours, Value: 168}},
				AppPermissions: []its.PsidSsp{its.Bitmap(its.PsidCAM, 1, 0, 0), its.Bitmap(its.PsidDENM, 1, 0, 0, 0)}, VerifyKeyIndicator: its.VerificationKeyIndicator{VerificationKey: its.PublicVerificationKey{Point: key}}}})
	}
	return list
}

// Many requests and their answers, up to the bound of a message.
func TestMany(t *testing.T) {
	t.Parallel()
	ea, aa := newParty(t, "EA"), newParty(t, "AA")
	list := someRequests(t, MaxTickets)
	request, session, err := Seal(rand.Reader, list, 1, ea.signer, aa.cert)
	if err != nil {
		t.Fatal(err)
	}
	o, err := scr.Open(request, aa.holder)
	if err != nil {
		t.Fatalf("a message with %d requests has %d octets: %v", MaxTickets, len(request), err)
	}
	signed, octets, err := scr.Signed(o.Message)
	if err != nil || signed.Verify(ea.cert, nil) != nil {
		t.Fatalf("it is not signed by who asked: %v", err)
	}
	got, err := ParseRequests(octets)
	if err != nil || len(got) != MaxTickets {
		t.Fatalf("%d requests are read, %v", len(got), err)
	}
	var answers []its.AcaRaCertResponse
	for i := range got {
		h, err := Hash(&got[i])
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, its.AcaRaCertResponse{RequestHash: h, AcaResponse: its.AcaResponse{Choice: its.AcaResponsePrivate, Data: its.Unsecured(make([]byte, 600))}})
	}
	answer, err := Answer(rand.Reader, o.Session, answers, 2, aa.signer)
	if err != nil || len(answer) > MaxAnswer {
		t.Fatalf("an answer of %d octets, %v", len(answer), err)
	}
	by, back, err := OpenAnswer(answer, session)
	if err != nil || by.Verify(aa.cert, nil) != nil || len(back) != MaxTickets {
		t.Fatalf("%d answers are read, %v", len(back), err)
	}
	if want, err := Hash(&list[3]); err != nil || back[3].RequestHash != want {
		t.Errorf("the fourth answer is for %s, want %s, %v", back[3].RequestHash, want, err)
	}
	for _, n := range []int{0, MaxTickets + 1} {
		if _, err := coer.Marshal(&Requests{someRequests(t, n)}); err == nil {
			t.Errorf("a message with %d requests is written", n)
		}
	}
	if _, _, err := OpenAnswer(request, session); err == nil {
		t.Error("a request is taken for an answer")
	}
}

func FuzzParseRequests(f *testing.F) {
	b, err := coer.Marshal(&Requests{someRequests(f, 2)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := ParseRequests(b)
		if err != nil {
			return
		}
		back, err := coer.Marshal(&Requests{list})
		if err != nil || !bytes.Equal(back, b) {
			t.Fatalf("%x is written as %x, %v", b, back, err)
		}
	})
}

func FuzzOpenAnswer(f *testing.F) {
	ea, aa := newParty(f, "EA"), newParty(f, "AA")
	request, session, err := Seal(rand.Reader, someRequests(f, 1), 1, ea.signer, aa.cert)
	if err != nil {
		f.Fatal(err)
	}
	o, err := scr.Open(request, aa.holder)
	if err != nil {
		f.Fatal(err)
	}
	answer, err := Answer(rand.Reader, o.Session, nil, 2, aa.signer)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(answer)
	f.Add(request)
	f.Fuzz(func(t *testing.T, b []byte) {
		if by, list, err := OpenAnswer(b, session); err == nil && by.Verify(aa.cert, nil) == nil && len(list) > 0 {
			t.Fatalf("%x has %d answers that nobody gave", b, len(list))
		}
	})
}

// What is in an answer, as whoever has the key of the session could make it: only what the authority signed has its signature.
func FuzzAnswerInside(f *testing.F) {
	ea, aa := newParty(f, "EA"), newParty(f, "AA")
	request, session, err := Seal(rand.Reader, someRequests(f, 1), 1, ea.signer, aa.cert)
	if err != nil {
		f.Fatal(err)
	}
	o, err := scr.Open(request, aa.holder)
	if err != nil {
		f.Fatal(err)
	}
	b, err := coer.Marshal(&Responses{})
	if err != nil {
		f.Fatal(err)
	}
	signed, err := spdu.Sign(spdu.Payload(b), scr.Header(2), aa.signer)
	if err != nil {
		f.Fatal(err)
	}
	inner, err := coer.Marshal(signed)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(inner)
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := its.ParseData(b, its.MaxRequest)
		if err != nil {
			return
		}
		answer, err := scr.Answer(rand.Reader, o.Session, d)
		if err != nil {
			return
		}
		if by, list, err := OpenAnswer(answer, session); err == nil && by.Verify(aa.cert, nil) == nil && len(list) > 0 {
			t.Fatalf("%x has %d answers that nobody gave", b, len(list))
		}
	})
}

func FuzzResponses(f *testing.F) {
	b, err := coer.Marshal(&Responses{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	sealed := its.Unsecured([]byte("x"))
	some, err := coer.Marshal(&Responses{[]its.AcaRaCertResponse{{GenerationTime: 1, AcaResponse: its.AcaResponse{Choice: its.AcaResponseCubk, Data: sealed}}}})
	if err == nil {
		f.Add(some)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := new(Responses)
		if coer.Unmarshal(b, r) != nil {
			return
		}
		if back, err := coer.Marshal(r); err != nil || !bytes.Equal(back, b) {
			t.Fatalf("%x is written as %x, %v", b, back, err)
		}
	})
}

func FuzzParseArchive(f *testing.F) {
	b, err := (&Archive{I: 7, Info: []byte("info"), Files: []File{{0, []byte("a")}, {1, []byte("b")}}}).Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseArchive(b)
		if err != nil {
			return
		}
		c, err := a.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ParseArchive(c); err != nil || fmt.Sprint(back) != fmt.Sprint(a) {
			t.Fatalf("%+v is written and read as %+v, %v", a, back, err)
		}
	})
}

func FuzzParseArchiveName(f *testing.F) {
	f.Add("A495991B7852B855-10.zip")
	f.Fuzz(func(t *testing.T, text string) {
		if id, i, err := ParseArchiveName(text); err == nil && !strings.EqualFold(ArchiveName(id, i), text) {
			t.Fatalf("%q is read as %s, %d", text, id, i)
		}
	})
}
