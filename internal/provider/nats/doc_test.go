package nats_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// TestManualsConfiguration: what the manual gives as a configuration of NATS is one, and says what the manual means.
func TestManualsConfiguration(t *testing.T) {
	manual, err := os.ReadFile("../../../doc/messaging-fabric.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(manual), "# nats-server.conf of one of three\n")
	text, _, found := strings.Cut(text, "```")
	if !found {
		t.Fatal("the manual has no configuration of NATS")
	}
	p := newPKI(t)
	text = strings.NewReplacer("nats-1.pem", p.cert, "nats-1.key", p.key, "ca.pem", p.ca, "/var/lib/nats", t.TempDir()).Replace(text)
	file := filepath.Join(t.TempDir(), "nats-server.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !o.JetStream || o.SyncInterval != time.Second || !o.TLSMap || len(o.Routes) != 2 || len(o.Accounts) != 1 || len(o.Users) != 1 {
		t.Errorf("the configuration is read as JetStream %v, sync interval %v, mapping of certificates %v, %d routes, %d accounts, %d users",
			o.JetStream, o.SyncInterval, o.TLSMap, len(o.Routes), len(o.Accounts), len(o.Users))
	}
}
