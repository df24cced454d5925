package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"time"

	"mooring/agent"
)

const (
	execTime = time.Minute
	execSaid = 2 << 10 // octets of what a command says that are logged
)

// agentExec runs the person's command after a renewal. Its failure is logged and nothing more: the certificate is renewed either way.
func (c *cli) agentExec(ctx context.Context, command string, files agent.Files) {
	log := slog.New(slog.NewTextHandler(c.err, nil))
	if c.json {
		log = slog.New(slog.NewJSONHandler(c.err, nil))
	}
	ctx, cancel := context.WithTimeout(ctx, execTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Env = append(os.Environ(), "MOORING_KEY="+files.Key, "MOORING_CERT="+files.Certificate, "MOORING_CHAIN="+files.Chain, "MOORING_CA="+files.CA)
	var said head
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = 5 * time.Second // for what the command left behind with its output open
	ownGroup(cmd)
	err := cmd.Run()
	text := slog.String("output", string(bytes.TrimSpace(said)))
	switch {
	case err == nil:
		log.LogAttrs(ctx, slog.LevelInfo, "command after the renewal ended", text)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		log.LogAttrs(ctx, slog.LevelError, "command after the renewal was ended: it took longer than a minute", text)
	default:
		log.LogAttrs(ctx, slog.LevelError, "command after the renewal failed", slog.String("error", err.Error()), text)
	}
}

// head keeps the beginning of what is written to it.
type head []byte

// Write keeps as much of p as there is room for.
func (h *head) Write(p []byte) (int, error) {
	*h = append(*h, p[:min(len(p), execSaid-len(*h))]...)
	return len(p), nil
}
