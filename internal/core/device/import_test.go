package device

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"mooring/internal/base/db"
	"mooring/internal/base/errs"
)

func (w *world) count(t testing.TB, table string) (n int64) {
	t.Helper()
	w.do(t, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Get(ctx, []any{&n}, `SELECT count(*) FROM `+table)
		return err
	})
	return n
}

func hexDigest(c string) string { return strings.Repeat(c, 64/len(c)) }

func TestImport(t *testing.T) {
	probe := newWorld(t)
	id, _ := probe.IDOf("pump-1")
	csvFile := "\xef\xbb\xbfName,group,profile,tags,names,birth,id\r\n" +
		"pump-1,site-a,sensor,floor=2;room=boiler room,dns:Pump-1.example;ip:192.0.2.1," + hexDigest("ab") + "," + id.String() + "\r\n" +
		"\r\n" +
		"pump-2,,,\"note=a, b\",,,\r\n"
	jsonFile := "\xef\xbb\xbf" + `{"name":"pump-1","group":"site-a","profile":"sensor","tags":{"floor":"2","room":"boiler room"},"names":["dns:Pump-1.example","ip:192.0.2.1"],"birth":"` +
		hexDigest("AB") + `","id":"` + id.String() + `"}` + "\r\n\r\n" + `{"name":"pump-2","tags":{"note":"a, b"}}`
	for format, file := range map[string]string{"csv": csvFile, "jsonl": jsonFile} {
		t.Run(format, func(t *testing.T) {
			w := newWorld(t)
			var tokens bytes.Buffer
			src := Source{R: iotest.OneByteReader(strings.NewReader(file)), Name: "f", Format: format, Size: int64(len(file)), Profile: "gateway", Group: "rest", Tokens: &tokens}
			var last, total int64
			report, err := w.Import(t.Context(), operator, src, func(done, of int64) {
				if done < last {
					t.Errorf("progress went back from %d to %d", last, done)
				}
				last, total = done, of
			})
			if err != nil || report.Devices != 2 || report.SHA256 != sha256.Sum256([]byte(file)) {
				t.Fatalf("Import: got %+v, %v", report, err)
			}
			if last != total || total != 2*int64(len(file)) {
				t.Errorf("progress: ended at %d of %d, want %d", last, total, 2*len(file))
			}
			d, err := w.Get(t.Context(), auditor, "pump-1")
			if err != nil || d.Group != "site-a" || d.Profile != "sensor" || !reflect.DeepEqual(d.Tags, map[string]string{"floor": "2", "room": "boiler room"}) ||
				!reflect.DeepEqual(d.Names, []string{"dns:pump-1.example", "ip:192.0.2.1"}) {
				t.Errorf("pump-1: got %+v, %v", d, err)
			}
			if b, err := w.ByBirth(t.Context(), [32]byte(bytes.Repeat([]byte{0xab}, 32))); err != nil || b.ID != d.ID {
				t.Errorf("by birth: got %s, %v", b.ID, err)
			}
			other, err := w.Get(t.Context(), auditor, "pump-2")
			if err != nil || other.Group != "rest" || other.Profile != "gateway" || other.Tags["note"] != "a, b" {
				t.Errorf("pump-2: got %+v, %v", other, err)
			}
			lines := strings.Split(tokens.String(), "\n")
			if len(lines) != 4 || lines[0] != "name,token" || !strings.HasPrefix(lines[1], "pump-1,mt_") {
				t.Fatalf("tokens: got %q", lines)
			}
			hash, err := HashToken(strings.TrimPrefix(lines[2], "pump-2,"))
			if err != nil || other.TokenMatches(hash, w.now.Unix()) != nil {
				t.Errorf("token of pump-2: got %v, %v", err, other.TokenMatches(hash, w.now.Unix()))
			}
			if text, err := w.TokenSecret(t.Context(), "pump-2"); err != nil || "pump-2,"+text != lines[2] {
				t.Errorf("TokenSecret of pump-2: got %q, %v, want that of %q", text, err, lines[2])
			}
			if found := w.verify(t); found != nil {
				t.Errorf("verify: got %q, want nothing", found)
			}
		})
	}
}

// TestImportProblems holds the exact texts. Nothing may be stored by any of them.
func TestImportProblems(t *testing.T) {
	w := newWorld(t)
	w.add(t, Spec{Name: "known", Birth: birthCertificate(t, "known"), Product: Product{"acme", "known"}})
	known := w.load(t, w.mustID("known"))
	fp := fmt.Sprintf("%x", known.birth())
	many := "name,profile\n"
	for i := range 30 {
		many += fmt.Sprintf("d%d,x\n", i)
	}
	manyWant := ""
	for i := range 20 {
		manyWant += fmt.Sprintf("f:%d: column profile: unknown profile \"x\"\n", i+2)
	}
	tests := []struct{ name, format, file, want string }{
		{"profile", "csv", "name,profile\na,sensor\nb,x\n", "f:3: column profile: unknown profile \"x\"\n"},
		{"no profile", "csv", "name\na\n", "f:2: column profile: required\n"},
		{"name", "csv", "name,profile\n,sensor\na b,sensor\n", "f:2: column name: required\nf:3: column name: \"a b\": must be 1 to 128 characters: letters, digits and . _ - : @ / + without blanks\n"},
		{"unknown column", "csv", "name,colour\na,red\n", "f:1: unknown column \"colour\": the columns are name, group, profile, tags, names, birth, maker, serial, id, separated by commas\n"},
		{"column twice", "csv", "name,Name\n", "f:1: column name: given twice\n"},
		{"no name column", "csv", "group\na\n", "f:1: column name: required, but the first line does not name it\n"},
		{"empty", "csv", "", "f:1: the file is empty: the first line must name the columns\n"},
		{"fields", "csv", "name,profile\na,sensor,3\nb,x\n", "f:2: 3 fields, but the first line names 2 columns\nf:3: column profile: unknown profile \"x\"\n"},
		{"quotes", "csv", "name,profile\na,sensor\nb\"c,sensor\n", "f:3: not CSV: bare \" in non-quoted-field\n"},
		{"open quote", "csv", "name,profile\n\"a,sensor\n" + strings.Repeat("b,sensor\n", 20_000), "f:2: the row has more than 65536 octets; is a quotation mark missing?\n"},
		{"tags", "csv", "name,profile,tags\na,sensor,x\nb,sensor,k=1;k=2\n", "f:2: column tags: \"x\": must be key=value, several separated by ;\nf:3: column tags: key \"k\": given twice\n"},
		{"names", "csv", "name,profile,names\na,sensor,dns:-\n", "f:2: column names: \"dns:-\": must be a DNS name of letters, digits and hyphens, without a wildcard\n"},
		{"birth", "csv", "name,profile,birth\na,sensor,00\n", "f:2: column birth: must be the SHA-256 of the certificate, 64 hexadecimal digits, or the certificate itself in PEM or base64\n"},
		{"id", "csv", "name,profile,id\na,sensor,00\n", "f:2: column id: \"00\" is not the id of this name here\n"},
		{"twice", "csv", "name,profile\na,sensor\nb,sensor\n\na,sensor\na,sensor\n", "f:5: column name: \"a\" stands in line 2 already\nf:6: column name: \"a\" stands in line 5 already\n"},
		{"birth twice", "csv", "name,profile,birth\na,sensor," + hexDigest("0") + "\nb,sensor," + hexDigest("0") + "\n", "f:3: column birth: 00000000… stands in line 2 already\n"},
		{"serial without maker", "csv", "name,profile,maker,serial\na,sensor,,1\nb,sensor,acme,\n", "f:2: column maker: the manufacturer and the serial number belong together: give both or neither\nf:3: column maker: the manufacturer and the serial number belong together: give both or neither\n"},
		{"maker", "csv", "name,profile,maker,serial\na,sensor,a b,1\n", "f:2: column maker: \"a b\": must be 1 to 64 characters: letters, digits and . _ - : @ / + without blanks\n"},
		{"serial", "csv", "name,profile,maker,serial\na,sensor,acme," + strings.Repeat("1", 65) + "\n", "f:2: column serial: " + shown(strings.Repeat("1", 65)) + ": must be at most 64 printable characters without blanks around them\n"},
		{"serial twice", "jsonl", `{"name":"a","profile":"sensor","maker":"acme","serial":"1"}` + "\n" + `{"name":"b","profile":"sensor","maker":"other","serial":"1"}` + "\n" + `{"name":"c","profile":"sensor","maker":"acme","serial":"1"}`, "f:3: column serial: this manufacturer and serial number stand in line 1 already\n"},
		{"serial known", "csv", "name,profile,maker,serial\na,sensor,acme,known\n", "f:2: column serial: another device is registered with this manufacturer and serial number\n"},
		{"known", "csv", "name,profile,birth\na,sensor,\nknown,sensor,\nb,sensor," + fp + "\n", "f:3: column name: a device \"known\" exists already\nf:4: column birth: another device is known by this certificate\n"},
		{"everything", "csv", "name,profile\na,sensor\na,sensor\nc,x\nknown,sensor\n", "f:3: column name: \"a\" stands in line 2 already\nf:4: column profile: unknown profile \"x\"\nf:5: column name: a device \"known\" exists already\n"},
		{"many", "csv", many, manyWant + "and 10 more\n"},
		{"not JSON", "jsonl", "{\"name\":\"a\",\"profile\":\"sensor\"}\n{\n", "f:2: not a JSON object: unexpected EOF\n"},
		{"unknown field", "jsonl", `{"name":"a","colour":"red"}`, "f:1: unknown field \"colour\": the fields are name, group, profile, tags, names, birth, maker, serial, id\n"},
		{"type", "jsonl", `{"name":"a","profile":"sensor","tags":{"k":1}}`, "f:1: field tags: a JSON number is not what belongs here\n"},
		{"two objects", "jsonl", `{"name":"a","profile":"sensor"} {"name":"b"}`, "f:1: more than one JSON object on the line\n"},
		{"long line", "jsonl", `{"name":"` + strings.Repeat("a", maxRow), "f:1: the row has more than 65536 octets\n"},
	}
	for _, test := range tests {
		report, err := w.Import(t.Context(), operator, Source{R: strings.NewReader(test.file), Name: "f", Format: test.format}, nil)
		if got, want := errs.Public(err), test.want+"nothing was stored"; !errs.Is(err, errs.Invalid) || got != want {
			t.Errorf("%s: got %v\n%s\nwant\n%s", test.name, errs.KindOf(err), got, want)
		}
		if report.Devices != 0 || report.Wrong == 0 || len(report.Problems) == 0 {
			t.Errorf("%s: got report %+v", test.name, report)
		}
	}
	for name, src := range map[string]Source{
		"no rows":    {R: strings.NewReader("name\n"), Format: "csv"},
		"no format":  {R: strings.NewReader("name\n"), Format: "xml"},
		"broken":     {R: io.MultiReader(strings.NewReader("name,profile\na,sensor\n"), iotest.ErrReader(errors.New("unplugged"))), Format: "csv"},
		"broken too": {R: io.MultiReader(strings.NewReader("{\"name\":\"a\",\"profile\":\"sensor\"}\n"), iotest.ErrReader(errors.New("unplugged"))), Format: "jsonl"},
		"tokens":     {R: strings.NewReader("name,profile\na,sensor\n"), Format: "csv", Tokens: fullDisk{}},
	} {
		if _, err := w.Import(t.Context(), operator, src, nil); !errs.Is(err, errs.Invalid) || strings.Contains(errs.Public(err), "unplugged") {
			t.Errorf("%s: got %v %q, want Invalid", name, err, errs.Public(err))
		}
	}
	if n := w.count(t, "device"); n != 1 {
		t.Errorf("devices after all that: got %d, want 1", n)
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func (w *world) mustID(name string) ID {
	id, _ := w.IDOf(name)
	return id
}

// TestImportIsAllOrNothing stops an import in the middle of its transaction, and lets another one collide with a device that came between.
func TestImportIsAllOrNothing(t *testing.T) {
	w := newWorld(t)
	var file strings.Builder
	file.WriteString("name,profile\n")
	for i := range 3*importChunk + 7 {
		fmt.Fprintf(&file, "d%d,sensor\n", i)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := w.Import(ctx, operator, Source{R: strings.NewReader(file.String()), Name: "f", Format: "csv", Size: int64(file.Len())}, func(done, total int64) {
		if done > total/2 {
			cancel()
		}
	})
	if n := w.count(t, "device"); !errs.Is(err, errs.Unavailable) || n != 0 {
		t.Errorf("stopped import: got %v and %d devices, want Unavailable and none", err, n)
	}

	w = newWorld(t)
	added := false
	_, err = w.Import(t.Context(), operator, Source{R: strings.NewReader(file.String()), Name: "f", Format: "csv", Tokens: writerFunc(func(p []byte) (int, error) {
		if !added { // tokens are written after the checks and before the transaction
			added = true
			w.add(t, Spec{Name: "d99"})
		}
		return len(p), nil
	})}, nil)
	if !errs.Is(err, errs.Conflict) {
		t.Errorf("collision: got %v, want Conflict", err)
	}
	if n := w.count(t, "device"); n != 1 {
		t.Errorf("devices after a collision: got %d, want 1", n)
	}
	if found := w.verify(t); found != nil {
		t.Errorf("verify: got %q, want nothing", found)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func FuzzRows(f *testing.F) {
	f.Add("csv", "name,profile\na,sensor\n")
	f.Add("jsonl", `{"name":"a"}`)
	f.Fuzz(func(t *testing.T, format, text string) {
		rows, err := newRowReader(format, strings.NewReader(text))
		for n := 0; err == nil; n++ {
			if n > len(text)+1 {
				t.Fatal("more rows than octets")
			}
			var row rawRow
			row, err = rows.next()
			if e, ok := err.(*rowError); ok && !e.final {
				err = nil
			} else if err == nil && row.line < 1 {
				t.Errorf("row without a line: %+v", row)
			}
		}
	})
}

// lookingReader looks into the folder whenever it is read.
type lookingReader struct {
	io.Reader
	look func()
}

func (r lookingReader) Read(p []byte) (int, error) {
	r.look()
	return r.Reader.Read(p)
}

// TestKilledImportLeavesNoNames: from the first row on the temporary file has no name that outlives the process.
func TestKilledImportLeavesNoNames(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // files in use stay there until the import ends
	}
	w := newWorld(t)
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	rows := lookingReader{strings.NewReader("name,profile\na,sensor\n"), func() {
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("the folder holds %v, %v", left, err)
		}
	}}
	if r, err := w.Import(t.Context(), admin, Source{R: rows, Format: "csv"}, nil); err != nil || r.Devices != 1 {
		t.Errorf("got %+v, %v", r, err)
	}
}
