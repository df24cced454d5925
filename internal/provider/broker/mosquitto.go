package broker

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"mooring/internal/base/errs"
)

// Mosquitto is the driver for mosquitto 2.0 and later, by its plugin for dynamic security. User names there are names of things:
// use_identity_as_username. The driver connects as a client whose name has the plugin's role admin.
//
// What this does: disableClient ends the connections of a user name, which has to be known to the plugin, so it is made known first, without a
// password and a role. What it does not do: to a listener that takes names from certificates, mosquitto 2.0 lets a disabled client in again, as the plugin is
// asked about passwords only. What keeps it out is the revocation list; see Broker.Again.
type Mosquitto struct {
	Address string // host:port
	TLS     *tls.Config
	// ClientID is the driver's; "" = "mooring-kick". With use_username_as_clientid it is the name in the certificate anyway.
	ClientID string
}

// The topics of the plugin.
const (
	controlTopic  = "$CONTROL/dynamic-security/v1"
	responseTopic = controlTopic + "/response"
	atOnce        = 100 // commands in one message
)

// command is one command of the plugin, or the answer to it.
type command struct {
	Command  string `json:"command"`
	Username string `json:"username,omitempty"`
	ID       string `json:"correlationData,omitempty"`
	Error    string `json:"error,omitempty"`
}

// The errors that mean that there is nothing to do. The plugin has no codes.
const (
	alreadyThere = "Client already exists"
	notThere     = "Client not found"
)

// Kick implements Driver.
func (m *Mosquitto) Kick(ctx context.Context, names []string) error {
	return m.have(ctx, names, "createClient", "disableClient")
}

// Ban implements Driver.
func (m *Mosquitto) Ban(ctx context.Context, names []string, _ time.Time) error {
	return m.have(ctx, names, "createClient", "disableClient")
}

// Lift implements Driver.
func (m *Mosquitto) Lift(ctx context.Context, names []string) error {
	return m.have(ctx, names, "enableClient")
}

// have has the plugin do the commands for each name and waits for all answers.
func (m *Mosquitto) have(ctx context.Context, names []string, commands ...string) error {
	c, err := dialMQTT(ctx, m.Address, m.TLS, m.clientID())
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.subscribe(responseTopic); err != nil {
		return err
	}
	next := 0
	for part := range slices.Chunk(names, atOnce/len(commands)) {
		var all []command
		for _, name := range part {
			for _, what := range commands {
				next++
				all = append(all, command{Command: what, Username: name, ID: strconv.Itoa(next)})
			}
		}
		if err := ask(c, all); err != nil {
			return err
		}
	}
	return nil
}

func (m *Mosquitto) clientID() string {
	if m.ClientID == "" {
		return "mooring-kick"
	}
	return m.ClientID
}

// ask sends commands and reads messages until each is answered. Others may use the plugin at the same time, whose answers are on the same topic: those that
// do not fit are passed over.
func ask(c *mqttClient, commands []command) error {
	payload, err := json.Marshal(map[string]any{"commands": commands})
	if err != nil {
		return err
	}
	if err := c.publish(controlTopic, payload); err != nil {
		return err
	}
	open := map[string]command{}
	for _, want := range commands {
		open[want.ID] = want
	}
	for len(open) > 0 {
		text, err := c.receive()
		if err != nil {
			return err
		}
		var answer struct{ Responses []command }
		if json.Unmarshal(text, &answer) != nil {
			continue
		}
		for _, r := range answer.Responses {
			want, ours := open[r.ID]
			if !ours || want.Command != r.Command {
				continue
			}
			if err := verdict(want, r.Error); err != nil {
				return err
			}
			delete(open, r.ID)
		}
	}
	return nil
}

// verdict judges the answer to a command.
func verdict(c command, text string) error {
	switch {
	case text == "", c.Command == "createClient" && text == alreadyThere, c.Command == "enableClient" && text == notThere:
		return nil
	}
	return errs.New(errs.Conflict, "mosquitto refuses %s: %q", c.Command, words([]byte(text)))
}

// errBroker is the error for a connection that is of no more use.
func errBroker(err error, format string, args ...any) error {
	return errs.Wrap(errs.Unavailable, err, "%s", fmt.Sprintf(format, args...))
}
