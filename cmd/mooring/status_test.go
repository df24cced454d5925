package main

import (
	"testing"

	"mooring/internal/server/api/v1"
)

func TestNotReadyIsAnExitCode(t *testing.T) {
	t.Parallel()
	if err := notReady(v1.Readiness{Ready: true, Checks: []v1.Check{{Name: "read", OK: true}}}); err != nil {
		t.Errorf("notReady of a server that is ready = %v, want nil", err)
	}
	err := notReady(v1.Readiness{Checks: []v1.Check{{Name: "read", OK: true, Text: "no"}, {Name: "write", Text: "the disk is full"}}})
	if exitCode(err) != exitUnavailable || err.Error() != "the server is not ready: the disk is full" {
		t.Errorf("notReady = %v with exit code %d, want the failed check and %d", err, exitCode(err), exitUnavailable)
	}
}
