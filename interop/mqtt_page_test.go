//go:build interop

package interop

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestInteropMessagingPage runs all commands of doc/messaging.md as they stand there, in their order. Those that go on until somebody stops them are stopped after two seconds.
func TestInteropMessagingPage(t *testing.T) {
	s := mqttSite(t)
	s.sh(t, `mooring device add meter-1 --profile device
mooring device token meter-1 -q > first
mooring agent enrol --dir meter-1 --server "$EST" --name meter-1 --ca root.pem --token-file first`)
	page, err := os.ReadFile("../doc/messaging.md")
	if err != nil {
		t.Fatal(err)
	}
	const fence = "```"
	blocks := regexp.MustCompile("(?s)"+fence+"sh\n(.*?)\n"+fence).FindAllStringSubmatch(string(page), -1)
	if len(blocks) < 5 {
		t.Fatalf("the page has %d blocks of commands", len(blocks))
	}
	const stopped = `stopped() { timeout -s INT 2 "$@" || [ $? = 124 ]; }
mosquitto_sub() { stopped mosquitto_sub "$@"; }
mooring() {
	case "$*" in
	"device tail"* | subscribe*) stopped mooring "$@" ;;
	"policy test meter-1 publish v1/meter-2/"*) if env mooring "$@"; then false; else [ $? = 3 ]; fi ;; # it is refused
	*) env mooring "$@" ;;
	esac
}
`
	for _, b := range blocks {
		first, _, _ := strings.Cut(b[1], "\n")
		t.Run(first, func(t *testing.T) {
			s.sh(t, stopped+strings.ReplaceAll(b[1], "-h localhost", "-h "+s.env["HOST"]))
		})
	}
}
