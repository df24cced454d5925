package audit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"mooring/internal/base/errs"
)

// strangerChecks is what somebody without our code would write from c2sp.org/tlog-proof, with nothing but the modules tlog and note. It
// deliberately calls nothing of this package.
func strangerChecks(proof, entry []byte, vkey string) error {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return err
	}
	head, signed, ok := strings.Cut(string(proof), "\n\n")
	lines := strings.Split(head, "\n")
	if !ok || len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return errors.New("not a proof")
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[1], "index "), 10, 64)
	if err != nil {
		return err
	}
	var hashes tlog.RecordProof
	for _, line := range lines[2:] {
		h, err := tlog.ParseHash(line)
		if err != nil {
			return err
		}
		hashes = append(hashes, h)
	}
	n, err := note.Open([]byte(signed), note.VerifierList(verifier))
	if err != nil {
		return err
	}
	var name, root64 string
	var size int64
	if _, err := fmt.Sscanf(n.Text, "%s\n%d\n%s\n", &name, &size, &root64); err != nil {
		return err
	}
	root, err := tlog.ParseHash(root64)
	if err != nil {
		return err
	}
	if name != verifier.Name() {
		return errors.New("of another log")
	}
	return tlog.CheckRecord(hashes, size, root, index, tlog.RecordHash(entry))
}

func TestAStrangerCanCheckAProof(t *testing.T) {
	l := openLog(t)
	_, vkey, err := NoteKey(origin, bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	fill(t, l, 0, 700)
	sequence(t, l)
	for _, index := range []int64{0, 1, 255, 256, 511, 512, 698, 699} {
		p, err := l.Prove(t.Context(), index)
		if err != nil {
			t.Fatalf("proving entry %d: %v", index, err)
		}
		if err := strangerChecks(p.Text(), p.Entry, vkey); err != nil {
			t.Errorf("a stranger rejects the proof of entry %d: %v\n%s", index, err, p.Text())
		}
		other := bytes.Replace(p.Entry, []byte(`"at":17`), []byte(`"at":18`), 1)
		if err := strangerChecks(p.Text(), other, vkey); err == nil {
			t.Errorf("a stranger accepts a changed entry %d", index)
		}
	}
}

func TestProveNeedsASignedEntry(t *testing.T) {
	l := openLog(t)
	for _, index := range []int64{-1, 0} {
		if _, err := l.Prove(t.Context(), index); !errs.Is(err, errs.NotFound) {
			t.Errorf("proving entry %d of an empty log: %v, want NotFound", index, err)
		}
	}
	if _, _, err := l.Checkpoint(t.Context()); !errs.Is(err, errs.NotFound) {
		t.Errorf("the checkpoint of an empty log: %v, want NotFound", err)
	}
	fill(t, l, 0, 3)
	sequence(t, l)
	if _, err := l.Prove(t.Context(), 3); !errs.Is(err, errs.NotFound) {
		t.Errorf("proving an entry that is not there: %v, want NotFound", err)
	}
	signed, size, err := l.Checkpoint(t.Context())
	if err != nil || size != 3 {
		t.Fatalf("Checkpoint = %d, %v", size, err)
	}
	if want := origin + "\n3\n"; !strings.HasPrefix(string(signed), want) {
		t.Errorf("the checkpoint is %q, want it to start with %q", signed, want)
	}
}

func TestCheckProofRefuses(t *testing.T) {
	l := openLog(t)
	fill(t, l, 0, 9)
	sequence(t, l)
	_, verifier := testKey(t, 1)
	_, stranger := testKey(t, 2)
	p, err := l.Prove(t.Context(), 4)
	if err != nil {
		t.Fatal(err)
	}
	good := string(p.Text())
	if err := CheckProof([]byte(good), p.Entry, verifier); err != nil {
		t.Fatal(err)
	}
	extra := strings.Replace(good, "index", "extra "+base64.StdEncoding.EncodeToString([]byte("hint"))+"\nindex", 1)
	if err := CheckProof([]byte(extra), p.Entry, verifier); err != nil {
		t.Errorf("with an extra line: %v", err)
	}
	hash := p.Hashes[0].String()
	for name, row := range map[string]struct {
		text  string
		entry []byte
		v     note.Verifier
	}{
		"other entry":       {good, sample(3).Bytes(), verifier},
		"other key":         {good, p.Entry, stranger},
		"other index":       {strings.Replace(good, "index 4", "index 5", 1), p.Entry, verifier},
		"index too large":   {strings.Replace(good, "index 4", "index 9", 1), p.Entry, verifier},
		"leading zero":      {strings.Replace(good, "index 4", "index 04", 1), p.Entry, verifier},
		"negative index":    {strings.Replace(good, "index 4", "index -4", 1), p.Entry, verifier},
		"no index":          {strings.Replace(good, "index 4\n", "", 1), p.Entry, verifier},
		"header":            {strings.Replace(good, "@v1", "@v2", 1), p.Entry, verifier},
		"missing hash":      {strings.Replace(good, hash+"\n", "", 1), p.Entry, verifier},
		"doubled hash":      {strings.Replace(good, hash, hash+"\n"+hash, 1), p.Entry, verifier},
		"no hash":           {strings.Replace(good, hash, "x", 1), p.Entry, verifier},
		"bad extra":         {strings.Replace(good, "index", "extra *\nindex", 1), p.Entry, verifier},
		"changed size":      {strings.Replace(good, "\n9\n", "\n10\n", 1), p.Entry, verifier},
		"trailing":          {good + "x", p.Entry, verifier},
		"empty":             {"", p.Entry, verifier},
		"without the blank": {strings.Replace(good, "\n\n", "\n", 1), p.Entry, verifier},
	} {
		if row.text == good && name != "other entry" && name != "other key" {
			t.Fatalf("%s changes nothing", name)
		}
		if err := CheckProof([]byte(row.text), row.entry, row.v); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: got %v, want Invalid", name, err)
		}
	}
}

func FuzzParseProof(f *testing.F) {
	f.Add([]byte("c2sp.org/tlog-proof@v1\nindex 3\n" + strings.Repeat("A", 43) + "=\n\nx\n"))
	f.Add([]byte("c2sp.org/tlog-proof@v1\nextra AAAA\nindex 0\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parseProof(data)
		if err == nil && !bytes.Contains(data, []byte("\nextra ")) && !bytes.Equal(p.Text(), data) {
			t.Errorf("%q was taken and is written as %q", data, p.Text())
		}
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	f.Add("test.example\n5\n" + strings.Repeat("A", 43) + "=\n")
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := parseCheckpoint(text); err == nil && c.text() != text {
			t.Errorf("%q was taken and is written as %q", text, c.text())
		}
	})
}

func TestNoteKey(t *testing.T) {
	seed := bytes.Repeat([]byte{7}, 32)
	signer, vkey, err := NoteKey("fleet.example.com/audit", seed)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatalf("the text %q: %v", vkey, err)
	}
	signed, err := note.Sign(&note.Note{Text: "x\n"}, signer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(signed, note.VerifierList(verifier)); err != nil {
		t.Errorf("what the signer signs, the verifier rejects: %v", err)
	}
	for name, row := range map[string]struct {
		name string
		seed []byte
	}{"short seed": {"a", seed[1:]}, "no name": {"", seed}, "blank": {"a b", seed}, "plus": {"a+b", seed}} {
		if _, _, err := NoteKey(row.name, row.seed); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: got %v, want Invalid", name, err)
		}
	}
}
