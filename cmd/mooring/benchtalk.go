package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"mooring/internal/app/bench"
)

const benchConnectHelp = `Measures what it costs that a device connects by MQTT: mutual TLS 1.3 with CONNECT and CONNACK, with full handshakes and with resumed sessions, each
for a device of its own, against a server in a process of its own; the memory of idle connections with one subscription; and one decision of the policy.

The floor of a connection is a loop of crypto/tls that accepts the same clients, verifies their certificates, reads once and answers four octets.`

const benchMessageHelp = `Measures what one message costs that a device publishes by MQTT, with QoS 0 and with QoS 1, which is acknowledged when it is stored. All devices
together publish at a steady rate over kept connections.

The floor is the reading of the same octets from TLS connections by another process. p50 and p99 are from a message to its acknowledgement.`

const benchCutHelp = `Measures how long a device stays connected that is suspended: from the operator's request to the closed socket, as the device sees it; the same for
devices that read nothing while the server has much to say to them; and how long it takes until all are gone when the certificate of their CA is revoked. A
device that reads nothing goes on sending, and is gone when that is refused.

With --nodes that many servers share one PostgreSQL database on this machine, in which a schema is made and dropped, and three NATS servers, which this program
runs in itself. Devices are connected to all nodes by turns, and the first node is asked to cut them off. CPU time is that of all nodes and of PostgreSQL, not of
the NATS servers; memory is that of the largest node.`

const benchCutExample = `  mooring bench cut
  mooring bench cut --devices 1000 --n 50 --json
  mooring bench cut --nodes 3 --database postgres://postgres@127.0.0.1/postgres`

const benchCoAPHelp = `Measures devices that talk over CoAP and DTLS: a handshake with a message, and a message over a kept association. With --memory also the memory that kept
associations take, which needs some five minutes more, until garbage has left.

The floor of a handshake is the cryptography that it demands of the server: one key agreement, one signature, two verifications.`

func (c *cli) benchTalkCommand(name, short, help string, o bench.TalkOptions, measure func(context.Context, bench.TalkOptions, func(bench.Line) error) error) *cobra.Command {
	var profile string
	cmd := &cobra.Command{
		Use: name, Short: short, Long: help,
		Example: "  mooring bench " + name + "\n  mooring bench " + name + " --devices 200 --json",
		Args:    needs(),
	}
	f := cmd.Flags()
	f.IntVar(&o.Devices, "devices", o.Devices, "connected devices, each with a certificate of its own")
	f.IntVar(&o.N, "n", o.N, "operations in each measurement")
	if o.Rounds > 0 {
		f.IntVar(&o.Rounds, "rounds", o.Rounds, "measurements of each case; the median is printed")
	}
	if o.Clients > 0 {
		f.IntVar(&o.Clients, "clients", o.Clients, "devices that connect at once")
	}
	if o.Rate > 0 {
		f.IntVar(&o.Rate, "rate", o.Rate, "messages a second of all devices together")
	}
	if name == "coap" {
		f.BoolVar(&o.Memory, "memory", false, "measure the memory of kept associations, too: some five minutes")
	}
	f.StringVar(&profile, "cpu-profile", "", "file for a profile of the server's CPU time")
	if name == "cut" {
		cmd.Example = benchCutExample
		f.IntVar(&o.Nodes, "nodes", 1, "servers that share a database; more than one need PostgreSQL. Each has its number at the end of its --cpu-profile")
		f.StringVar(&o.Database, "database", "sqlite", "\"sqlite\" or the URL of a PostgreSQL server on this machine")
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case o.Devices < 1 || o.Devices > 50_000 || o.N < 1 || o.N > 10_000_000:
			return usagef("--devices must lie between 1 and 50000, --n between 1 and 10000000")
		case o.Rounds < 0 || o.Rounds > 1000 || o.Clients < 0 || o.Clients > 1000 || o.Rate < 0 || o.Rate > 1_000_000:
			return usagef("--rounds and --clients must lie between 1 and 1000, --rate between 1 and 1000000")
		case name == "cut" && (o.Nodes < 1 || o.Nodes > 9):
			return usagef("--nodes must lie between 1 and 9")
		case name == "cut" && o.Database != "sqlite" && !strings.HasPrefix(o.Database, "postgres"):
			return usagef("--database is \"sqlite\" or a URL such as postgres://postgres@127.0.0.1/postgres")
		}
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("finding this program: %w", err)
		}
		ctx := cmd.Context()
		o.Progress = func(text string) { c.advise("%s", text) }
		o.Serve = profiledServers(ctx, self, profile, o.Nodes)
		o.Bare = func(identity, issuers, ready string) *exec.Cmd {
			return exec.CommandContext(ctx, self, "bench", "bare-tls", identity, issuers, ready)
		}
		return c.bench(func(print func(bench.Line) error) error { return measure(ctx, o, print) })
	}
	return cmd
}

// profiledServers returns what serves directories with profiles of the CPU time; those of several nodes have numbers.
func profiledServers(ctx context.Context, self, profile string, nodes int) func(dir, ready string) *exec.Cmd {
	number := 0
	return func(dir, ready string) *exec.Cmd {
		path := profile
		if number++; path != "" && nodes > 1 {
			path = fmt.Sprintf("%s.%d", profile, number)
		}
		return serveProcess(ctx, self, dir, ready, path)
	}
}

func (c *cli) benchTalkCommands() []*cobra.Command {
	return []*cobra.Command{
		c.benchTalkCommand("connect", "Measure connections by MQTT", benchConnectHelp, bench.TalkOptions{Devices: 5000, N: 2000, Rounds: 5, Clients: 16}, bench.Connect),
		c.benchTalkCommand("message", "Measure messages by MQTT", benchMessageHelp, bench.TalkOptions{Devices: 500, N: 20_000, Rounds: 5, Rate: 4000}, bench.Message),
		c.benchTalkCommand("coap", "Measure messages over CoAP", benchCoAPHelp, bench.TalkOptions{Devices: 500, N: 2000, Rounds: 3, Clients: 8}, bench.CoAP),
		c.benchTalkCommand("cut", "Measure how long a device that is cut off stays connected", benchCutHelp, bench.TalkOptions{Devices: 10_000, N: 200}, bench.Cut),
		{
			Use: "bare-tls IDENTITY ISSUERS READY", Short: "Accept TLS connections", Long: "Accepts connections by TLS and nothing else: what the benchmarks of connections and messages compare with.", Hidden: true, Args: cobra.ExactArgs(3),
			Example: "  mooring bench bare-tls bare.pem root.pem ready",
			RunE:    func(_ *cobra.Command, args []string) error { return bench.ServeBareTLS(args[0], args[1], args[2]) },
		},
	}
}
