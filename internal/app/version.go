package app

import (
	"runtime/debug"

	v1 "mooring/internal/server/api/v1"
)

// Version returns what the program was built from, as far as the Go toolchain wrote it into the binary.
func Version() v1.Version {
	v := v1.Version{Version: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version, v.Go = info.Main.Version, info.GoVersion
	if v.Version == "" || v.Version == "(devel)" { // what Go writes where it knows no better
		v.Version = "unreleased"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Commit = s.Value
		}
	}
	return v
}
