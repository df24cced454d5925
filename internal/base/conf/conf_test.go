package conf

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"mooring/internal/base/errs"
)

func TestEmptyFileIsTheDefault(t *testing.T) {
	for _, text := range []string{"", "# only a comment\n", "---\n", "listen:\n  # est: x\nlog:\n"} {
		c, err := Parse("m.yaml", []byte(text))
		if err != nil {
			t.Fatalf("Parse(%q): %v", text, err)
		}
		if !reflect.DeepEqual(c, Default()) {
			t.Errorf("Parse(%q) = %+v, want the default", text, c)
		}
	}
}

// Every field is in the table: the table's parsers, run on its examples, must change or keep each leaf, and the count must fit.
func TestTableBindsEveryField(t *testing.T) {
	leaves := 0
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for i := range typ.NumField() {
			if f := typ.Field(i).Type; f.Kind() == reflect.Struct {
				walk(f)
			} else if typ.Field(i).IsExported() {
				leaves++
			}
		}
	}
	walk(reflect.TypeFor[Config]())
	if got := len(Describe()); got != leaves-1 { // all but Dir
		t.Errorf("the table has %d keys, Config has %d fields for them", got, leaves-1)
	}
	keys := map[string]bool{}
	for _, f := range Describe() {
		if keys[f.Key] || f.Meaning == "" || f.Type == "" || !strings.HasSuffix(f.Meaning, ".") && !strings.Contains(f.Meaning, "\"1.3\"") {
			t.Errorf("key %q: twice, or without a type or a sentence: %+v", f.Key, f)
		}
		keys[f.Key] = true
		if group, _, ok := strings.Cut(f.Key, "."); ok && groups()[group] == "" {
			t.Errorf("key %q is in no described group", f.Key)
		}
	}
}

func TestExamplesAreReadBack(t *testing.T) {
	for _, f := range Describe() {
		text := f.Key + ": " + f.Example
		if group, name, ok := strings.Cut(f.Key, "."); ok {
			text = group + ":\n  " + name + ": " + f.Example
		}
		switch f.Key { // examples that need company
		case "public_urls.est":
			text += "\nnames: [pki.example.com]"
		case "names":
			text += "\npublic_urls: {est: \"https://pki.example.com\"}"
		case "keys.custody":
			text += "\n  pkcs11: {module: /m.so, token: t, pin_file: p}"
		case "keys.pkcs11.module":
			text = "keys: {pkcs11: {module: " + f.Example + ", token: t, pin_file: p}}"
		case "keys.pkcs11.token":
			text = "keys: {pkcs11: {module: /m.so, token: " + f.Example + ", pin_file: p}}"
		case "keys.pkcs11.pin_file":
			text = "keys: {pkcs11: {module: /m.so, token: t, pin_file: " + f.Example + "}}"
		case "database.password_file":
			text += "\n  url: postgres://m@h/d"
		}
		if _, err := Parse("m.yaml", []byte(text)); err != nil {
			t.Errorf("example of %s: %v\n%s", f.Key, err, text)
		}
	}
}

func TestWrittenFileIsReadBack(t *testing.T) {
	c := Default()
	c.Name = `Acme "Süd" \ Co`
	c.Names = []string{"pki.example.com", "2001:db8::7"}
	c.PublicURLs.EST = "https://pki.example.com"
	c.Listen.EST = "[::]:8443"
	c.Keys.Custody = "pkcs11"
	c.Keys.PKCS11 = PKCS11{Module: "/usr/lib/softhsm/libsofthsm2.so", Token: "mooring", PINFile: "token.pin"}
	c.Limits.BodySize = 4096
	c.TLS.Hybrid = false
	c.TLS.SessionLifetime = 0
	c.CRL.Refresh = 90 * time.Minute
	c.OCSP.Responder = "off"
	c.OCSP.Issuers = []string{"devices=delegated", "services=ca"}
	text := c.Write()
	got, err := Parse("m.yaml", text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if !reflect.DeepEqual(got, c) {
		t.Errorf("got %+v, want %+v from\n%s", got, c, text)
	}
	if s := string(text); !strings.Contains(s, "\n  est: \"[::]:8443\"\n") || !strings.Contains(s, "\n  # api: \"127.0.0.1:9443\"\n") || !strings.Contains(s, "\n  refresh: 1h30m\n") {
		t.Errorf("changed keys are not live or others not commented out:\n%s", s)
	}
}

func TestErrorsNameLineAndRemedy(t *testing.T) {
	for _, row := range []struct{ text, want string }{
		{"\n\nlisen:\n  est: x", `m.yaml:3: unknown key "lisen" (did you mean "listen"?)`},
		{"listen:\n  ets: x", `m.yaml:2: unknown key "listen.ets" (did you mean "listen.est"?)`},
		{"audit:\n  zebra: x", `m.yaml:2: unknown key "audit.zebra": known here are origin`},
		{"listen:\n  est: 8443", `m.yaml:2: listen.est wants a host:port, such as "0.0.0.0:8443", not the number 8443`},
		{"listen:\n  est: localhost", `m.yaml:2: listen.est "localhost" is not host:port, such as 127.0.0.1:8443 or [::1]:8443`},
		{"listen:\n  est: 127.0.0.1:99999", `m.yaml:2: listen.est "127.0.0.1:99999" has the port "99999": use a number from 0 to 65535`},
		{"listen:\n  est: 1.2.3:80", `m.yaml:2: listen.est "1.2.3:80" has the host "1.2.3": use an IP address or a DNS name`},
		{"listen: [a]", `m.yaml:1: listen wants keys below it, as in "est: …", not a list`},
		{"- a", `m.yaml:1: the file wants keys below it, as in "version: …", not a list`},
		{"listen:\n  est: 0.0.0.0:80\n  api: 127.0.0.1:80", `m.yaml:3: listen.est and listen.api both want 127.0.0.1:80: give each its own port`},
		{"listen:\n  est: 127.0.0.1:8080", `m.yaml:2: listen.est and listen.status both want 127.0.0.1:8080: give each its own port`},
		{"public_urls:\n  status: https://a.example", `m.yaml:2: public_urls.status "https://a.example" must be http: what a certificate check needs cannot itself wait for a certificate check`},
		{"public_urls:\n  est: http://localhost", `m.yaml:2: public_urls.est "http://localhost" must start with https://`},
		{"public_urls:\n  est: https://a.example", `m.yaml:2: public_urls.est has the host "a.example", which is not in names: the server's certificate would not fit it; add it to names`},
		{"names: []", `m.yaml:1: names is empty: give at least one DNS name or IP address`},
		{"names: [a_b]", `m.yaml:1: names has "a_b", which is neither a DNS name nor an IP address`},
		{"names: pki", `m.yaml:1: names wants a list of DNS names and IP addresses, such as ["pki.example.com", "192.0.2.7"], not a text`},
		{"ocsp:\n  issuers: [devices=maybe]", `m.yaml:2: ocsp.issuers has "devices=maybe", which is not the name of a CA, "=" and one of ca, delegated, off`},
		{"ocsp:\n  issuers: [a=off, a=ca]", `m.yaml:2: ocsp.issuers has the CA "a" twice`},
		{"ocsp:\n  responder_validity: 31d", `m.yaml:2: ocsp.responder_validity 31d is not between 7d and 30d`},
		{"keys:\n  custody: pkcs11", `m.yaml:2: keys.custody is pkcs11, which takes keys.pkcs11.module, keys.pkcs11.token, keys.pkcs11.pin_file`},
		{"keys:\n  custody: tpm", `m.yaml:2: keys.custody "tpm" is not one of file, pkcs11`},
		{"keys:\n  pkcs11:\n    module: /m.so\n    token: t", `m.yaml:3: a PKCS #11 token takes keys.pkcs11.pin_file too`},
		{"keys:\n  pkcs11:\n    module: m.so\n    token: t\n    pin_file: p", `m.yaml:3: keys.pkcs11.module "m.so" is not an absolute path`},
		{"keys:\n  pkcs11:\n    modul: m.so", `m.yaml:3: unknown key "keys.pkcs11.modul" (did you mean "keys.pkcs11.module"?)`},
		{"crl:\n  validity: 7", `m.yaml:2: crl.validity wants a duration, such as 3d, not the number 7`},
		{"crl:\n  validity: 7w", `m.yaml:2: crl.validity "7w" is not a duration such as 90d, 12h, 30m or 10s`},
		{"crl:\n  refresh: 8d", `m.yaml:2: crl.refresh (8d) must be shorter than crl.validity (7d), or lists expire before the next is there`},
		{"limits:\n  connections: 0", `m.yaml:2: limits.connections 0 is not between 1 and 1048576`},
		{"limits:\n  connections: \"5\"", `m.yaml:2: limits.connections wants a whole number, such as 20000, not a text`},
		{"tls:\n  hybrid: maybe", `m.yaml:2: tls.hybrid wants true or false, such as false, not a text`},
		{"tls:\n  min_version: \"1.1\"", `m.yaml:2: tls.min_version "1.1" is not one of 1.2, 1.3`},
		{"tls:\n  min_version: 1.3", `m.yaml:2: tls.min_version wants 1.2 or 1.3, such as "1.3", not the number 1.3`},
		{"database:\n  url: postgres://u:hunter2@h/d", `m.yaml:2: database.url holds a password: put it into a file of its own and name that file in database.password_file`},
		{"database:\n  url: mysql://u:hunter2@h/d", `m.yaml:2: database.url starts with neither sqlite:FILE nor postgres://`},
		{"keys:\n  unlock: hunter2", `m.yaml:2: keys.unlock must be file:PATH, fd:N or prompt`},
		{"version: 2", `m.yaml:1: version 2 is not between 1 and 1`},
		{"name: &a x", `m.yaml:1: name wants a text, such as "Acme Vehicles", not an anchor, alias or tag`},
		{"name: a\n---\nname: b", `m.yaml:3: a second document starts here: the file must be one`},
	} {
		_, err := Parse("m.yaml", []byte(row.text))
		if got := errs.Public(err); got != row.want || !errs.Is(err, errs.Invalid) {
			t.Errorf("Parse(%q)\n got %s\nwant %s", row.text, got, row.want)
		}
	}
}

func TestDoubledKeysAndBadYAMLAreRefused(t *testing.T) {
	for _, text := range []string{"name: a\nname: b", "log:\n  level: info\n  level: info", "name: [", "\tname: a", "name: a\nlog:\n  level: info\nlog:\n  format: json"} {
		_, err := Parse("m.yaml", []byte(text))
		if !errs.Is(err, errs.Invalid) || !strings.HasPrefix(errs.Public(err), "m.yaml:") {
			t.Errorf("Parse(%q) = %v, want an error with its line", text, err)
		}
	}
}

func TestAllErrorsComeTogether(t *testing.T) {
	_, err := Parse("m.yaml", []byte("lisen: 1\nlog:\n  level: loud\n  format: xml\ncrl:\n  validity: x\n"))
	if got := strings.Count(errs.Public(err), "m.yaml:"); got != 4 {
		t.Errorf("got %d errors, want 4:\n%v", got, err)
	}
}

func TestLoadResolvesPathsAgainstTheDirectory(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir); !errs.Is(err, errs.NotFound) || !strings.HasPrefix(err.Error(), "no configuration at "+filepath.Join(dir, FileName)+": set MOORING_DIR or --dir") || strings.Count(err.Error(), dir) != 1 {
		t.Errorf("Load of an empty directory: %v, want the advice to run init", err)
	}
	if err := os.WriteFile(filepath.Join(dir, FileName), []byte("name: Größe & Co\nkeys: {unlock: \"fd:3\"}\nlisten: {socket: /run/m.sock}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	database, err := c.DatabaseURL()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range [][2]string{
		{c.KeyDir(), filepath.Join(dir, "keys")},
		{c.ProfileDir(), filepath.Join(dir, "profiles")},
		{c.SocketPath(), "/run/m.sock"},
		{c.UnlockSource(), "fd:3"},
		{Default().UnlockSource(), "file:keys/unlock"},
		{database, "sqlite:" + filepath.Join(dir, "mooring.db")},
		{c.AuditOrigin(), "gr-e-co/audit"},
	} {
		if row[0] != row[1] {
			t.Errorf("got %q, want %q", row[0], row[1])
		}
	}
}

func TestPasswordComesFromAPrivateFile(t *testing.T) {
	c := Default()
	c.Dir = t.TempDir()
	c.Database = Database{URL: "postgres://m@h:5432/d?sslmode=require", PasswordFile: "pw"}
	if _, err := c.DatabaseURL(); !errs.Is(err, errs.Unavailable) {
		t.Errorf("missing file: %v", err)
	}
	file := filepath.Join(c.Dir, "pw")
	if err := os.WriteFile(file, []byte("a b@/\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.DatabaseURL(); !errs.Is(err, errs.Denied) || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("file readable by all: %v", err)
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := c.DatabaseURL()
	if want := "postgres://m:a%20b%40%2F@h:5432/d?sslmode=require"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestDurations(t *testing.T) {
	for _, row := range []struct {
		text string
		want time.Duration
		back string
	}{
		{"90d", 90 * 24 * time.Hour, "90d"}, {"1d12h", 36 * time.Hour, "1d12h"}, {"12h", 12 * time.Hour, "12h"}, {"90m", 90 * time.Minute, "1h30m"},
		{"250ms", 250 * time.Millisecond, "250ms"}, {"0s", 0, "0s"}, {"0d", 0, "0s"}, {"1.5h", 90 * time.Minute, "1h30m"}, {"61s", 61 * time.Second, "1m1s"},
	} {
		got, err := ParseDuration(row.text)
		if err != nil || got != row.want || FormatDuration(got) != row.back {
			t.Errorf("ParseDuration(%q) = %v, %v, written %q; want %v, %q", row.text, got, err, FormatDuration(got), row.want, row.back)
		}
	}
	for _, text := range []string{"", "d", "-1d", "-1h", "1", "0", "1d0", "1d-1h", "+1h", "1w", "1.5d", "200000d", "106751d23h59m", "1h1d", "1d1d"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("ParseDuration(%q) = %v, want an error", text, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Default().Write())
	f.Add([]byte("a: &x [1]\nb: *x\n<<: {c: !!int 1}\n? [k]\n: v"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("m.yaml", data)
		if err != nil {
			if !errs.Is(err, errs.Invalid) {
				t.Fatalf("kind %v: %v", errs.KindOf(err), err)
			}
			return
		}
		again, err := Parse("m.yaml", c.Write())
		if err != nil || !reflect.DeepEqual(c, again) {
			t.Fatalf("written and read back: %v\n%s", err, c.Write())
		}
	})
}

// What is told follows what is bound, unless it is set.
func TestPublicURLsAreDerived(t *testing.T) {
	for _, row := range []struct{ text, est, status, warning string }{
		{"", "https://localhost:8443", "http://localhost:8080", ""},
		{"listen: {est: \"0.0.0.0:9000\", status: \":9001\"}", "https://localhost:9000", "http://localhost:9001", ""},
		{"names: [pki.example.com, localhost]\nlisten: {est: \"0.0.0.0:443\", status: \"0.0.0.0:80\"}", "https://pki.example.com", "http://pki.example.com", ""},
		{"names: [\"2001:db8::7\"]", "https://[2001:db8::7]:8443", "http://[2001:db8::7]:8080", ""},
		{"listen: {status: \"127.0.0.1:9001\"}\npublic_urls: {status: \"http://localhost:8080\"}", "https://localhost:8443", "http://localhost:8080",
			"public_urls.status names port 8080 of this machine, but listen.status is on port 9001: nobody answers where devices are sent; remove public_urls.status, or give it port 9001"},
		{"public_urls: {est: \"https://127.0.0.1\"}", "https://127.0.0.1", "http://localhost:8080",
			"public_urls.est names port 443 of this machine, but listen.est is on port 8443: nobody answers where devices are sent; remove public_urls.est, or give it port 8443"},
		{"listen: {status: \"127.0.0.1:9001\"}\npublic_urls: {status: \"http://status.example.com\"}", "https://localhost:8443", "http://status.example.com", ""}, // behind a proxy
	} {
		c, err := Parse("m.yaml", []byte(row.text))
		if err != nil {
			t.Errorf("%q: %v", row.text, err)
			continue
		}
		if c.ESTURL() != row.est || c.StatusURL() != row.status || strings.Join(c.Warnings(), "\n") != row.warning {
			t.Errorf("%q: got %s, %s and %q, want %s, %s and %q", row.text, c.ESTURL(), c.StatusURL(), c.Warnings(), row.est, row.status, row.warning)
		}
		again, err := Parse("m.yaml", c.Write())
		if err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("%q: written and read back: %+v, %v, want %+v", row.text, again, err, c)
		}
	}
}

// A file of defaults says nothing but the version, and shows what holds.
func TestDefaultsAreCommentedOut(t *testing.T) {
	c := Default()
	c.Listen.EST = "127.0.0.1:9000"
	var live []string
	for line := range strings.Lines(string(c.Write())) {
		if s := strings.TrimSpace(line); s != "" && !strings.HasPrefix(s, "#") && !strings.HasSuffix(s, ":") {
			live = append(live, s)
		}
	}
	if got := strings.Join(live, "; "); got != `version: 1; est: "127.0.0.1:9000"` {
		t.Errorf("these keys are not commented out: %s", got)
	}
	if text := string(c.Write()); !strings.Contains(text, "\n  # est: \"https://localhost:9000\"\n") {
		t.Errorf("the derived address is not shown:\n%s", text)
	}
}

func TestResponderOf(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, FileName), []byte("ocsp:\n  responder: off\n  issuers: [devices=delegated]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.OCSP.ResponderOf("devices") + " " + c.OCSP.ResponderOf("services"); got != "delegated off" {
		t.Errorf("responders %q, want delegated and off", got)
	}
	for want, keys := range map[string][]string{"mooring.yaml:3": {"ocsp.issuers", "ocsp.responder"}, "mooring.yaml:2": {"ocsp.responder"}, "mooring.yaml": {"listen.est"}} {
		if got := c.Place(keys...); got != want {
			t.Errorf("Place(%v) = %q, want %q", keys, got, want)
		}
	}
}
