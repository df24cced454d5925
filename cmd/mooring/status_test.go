package main

import (
	"reflect"
	"strings"
	"testing"

	"mooring/internal/app"
	"mooring/internal/server/api/v1"
)

// TestReadyNamesEachListener: the log line of a server that is ready has every address of it.
func TestReadyNamesEachListener(t *testing.T) {
	t.Parallel()
	var a app.Addresses
	v := reflect.ValueOf(&a).Elem()
	want := map[string]string{}
	for i := range v.NumField() {
		key, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		want[key] = "at " + key
		v.Field(i).SetString(want[key])
	}
	for _, l := range listeners(a) {
		if want[l.Key] != l.Value.String() {
			t.Errorf("%s is %q, want %q", l.Key, l.Value, want[l.Key])
		}
		delete(want, l.Key)
	}
	if len(want) > 0 {
		t.Errorf("not in the line: %v", want)
	}
}

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
