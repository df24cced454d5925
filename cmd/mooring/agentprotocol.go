package main

import (
	"net"
	"net/url"
	"strings"
)

const protocolUsage = "est (HTTPS), est-coaps (CoAP over DTLS), acme, cmp or scep (both over HTTP); if absent, what the address of the server begins with"

// agentServer returns the address of the server as the protocol has it. given is what was said, known what the agent was enrolled with: its host is that
// of the other protocol too, unless something else was said.
func agentServer(protocol, given, known string) (string, error) {
	scheme := map[string]string{"est": "https", "acme": "acme", "est-coaps": "coaps", "cmp": "cmp", "scep": "scep"}[protocol]
	port := map[string]string{"est": "443", "acme": "8444", "est-coaps": "5684", "cmp": "80", "scep": "80"}[protocol]
	if scheme == "" && protocol != "" {
		return "", usagef("--protocol is est, est-coaps, acme, cmp or scep, not %q", protocol)
	}
	switch {
	case given != "" && scheme != "" && !strings.Contains(given, "://"):
		return scheme + "://" + given, nil
	case given != "" && scheme != "" && !strings.HasPrefix(given, scheme+"://"):
		return "", usagef("with --protocol %s the server begins with %s://", protocol, scheme)
	case given != "":
		return given, nil
	case scheme == "" || strings.HasPrefix(known, scheme+"://"):
		return known, nil
	}
	u, err := url.Parse(known)
	if err != nil || u.Hostname() == "" {
		return "", usagef("give --server, such as %s://pki.example.com:%s", scheme, port)
	}
	return scheme + "://" + net.JoinHostPort(u.Hostname(), port), nil
}
