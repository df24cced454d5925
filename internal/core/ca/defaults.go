package ca

import (
	"embed"
	"io/fs"
)

//go:embed profiles/*.yaml
var profileFiles embed.FS

// DefaultProfiles returns the profiles that a new installation starts with. They are meant to be copied into the data directory and edited
// there. Their CAs are called "devices", "birth", "services" and "operators".
func DefaultProfiles() fs.FS {
	sub, err := fs.Sub(profileFiles, "profiles")
	if err != nil {
		panic(err) // the name above is wrong
	}
	return sub
}
