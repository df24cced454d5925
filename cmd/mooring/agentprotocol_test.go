package main

import "testing"

func TestAgentServer(t *testing.T) {
	for _, row := range []struct{ protocol, given, known, want string }{
		{"", "", "https://a:1", "https://a:1"},
		{"", "coaps://b", "https://a:1", "coaps://b"},
		{"est-coaps", "", "https://a:1", "coaps://a:5684"},
		{"est-coaps", "", "coaps://a:1", "coaps://a:1"},
		{"est-coaps", "b:7", "https://a:1", "coaps://b:7"},
		{"est-coaps", "coaps://b:7", "", "coaps://b:7"},
		{"est", "", "coaps://a:1", "https://a:443"},
		{"cmp", "b:8081", "", "cmp://b:8081"},
		{"cmp", "", "https://a:1", "cmp://a:80"},
		{"scep", "b:8090/scep/printer", "", "scep://b:8090/scep/printer"},
		{"", "cmp://b/other/path", "", "cmp://b/other/path"},
		{"est-coaps", "https://b", "", ""},
		{"est-coaps", "", "", ""},
		{"carrier-pigeon", "b", "", ""},
	} {
		got, err := agentServer(row.protocol, row.given, row.known)
		if got != row.want || (err == nil) != (row.want != "") {
			t.Errorf("%+v: %q, %v", row, got, err)
		}
	}
}
