// Package broker has MQTT brokers of others end the connections of things that were cut off, and keep them out.
//
// A Driver speaks to one broker: EMQX, RMQTT and VerneMQ by HTTP, mosquitto by its plugin for dynamic security over MQTT. The Outbox keeps what the brokers
// have to be told in the platform's database until each has confirmed it, through failures of brokers and restarts of ours, and says how far behind
// each of them is.
//
//	Outbox.Cut → row for each broker and thing → Run (one node, under a lease) → Driver.Ban, Driver.Kick → confirmed → row goes
//
// To ban comes before to kick, so that nobody is back in between. Brokers that have no list of those who are banned refuse by our webhook (RMQTT, VerneMQ)
// or by the revocation list that package crlfile keeps for them (mosquitto); a thing that was faster than that list is kicked once more after Broker.Again.
//
// The package deliberately decides nothing: who is to be cut, core says.
package broker

import (
	"context"
	"embed"
	"io/fs"
	"time"

	"mooring/internal/base/db"
)

// Driver tells one broker. Names are names of things, which are the client identifiers or user names there, as doc/external-brokers.md has the brokers
// set up. A method returns nil only after the broker has confirmed it for all names; after an error any part may have been done, and the caller does it
// all again. Doing it twice is the same as once, and a thing that the broker does not know is no error. Errors of kind Unavailable and Limited pass; others
// will come again until somebody changes something. Methods are safe for concurrent use and end with ctx. package brokertest has the tests.
type Driver interface {
	// Kick ends the connections of things, and removes their sessions and wills where the broker can do that.
	Kick(ctx context.Context, names []string) error
	// Ban keeps things from connecting until a time, the zero time for ever, as far as the broker has a way to be told that.
	Ban(ctx context.Context, names []string, until time.Time) error
	// Lift takes a ban back.
	Lift(ctx context.Context, names []string) error
}

//go:embed schema/*.sql
var schemaFiles embed.FS

// Schema returns the migrations of the outbox.
func Schema() db.Schema {
	files, err := fs.Sub(schemaFiles, "schema")
	if err != nil {
		panic(err) // "schema" is a valid path; fs.Sub looks at nothing else
	}
	return db.Schema{Name: "broker", FS: files}
}
