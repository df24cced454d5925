package agent

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"

	"mooring/agent/est"
)

// linked leaves in the bundle only those roots that the device may come to trust. At the first contact, and when it was given another root to
// believe the server by, that is what the server names. Later a root must be linked to one that is trusted already.
func (a *Agent) linked(ctx context.Context, bundle *est.Bundle) error {
	given, err := a.folder.readCertificates(serverCAFile)
	if err != nil {
		return err
	}
	trusted, err := a.folder.readCertificates(caFile)
	if err != nil || len(given) > 0 || len(trusted) == 0 {
		return err
	}
	linked, others := bundle.Linked(trusted, a.options.Now())
	for _, root := range others {
		a.options.Log.LogAttrs(ctx, slog.LevelWarn, "server names a root that no trusted root vouches for; it is not believed", slog.String("root", root.Subject.String()))
	}
	if len(linked) == 0 { // what is trusted stays
		linked = trusted
	}
	bundle.Roots = linked
	return nil
}

// report has the session say what the device trusts.
func (a *Agent) report(session *est.Session) error {
	roots, err := a.folder.trusted()
	if err == nil {
		session.Report(roots)
	}
	return err
}

// Probe connects to a server with the identity of the device and asks for the CA certificates. It shows the server, and the caller, that the device
// trusts one of the roots of that server; nothing is changed. The server is that of the configuration unless another one is given, such as
// one with a name that leads to a new root only.
func (a *Agent) Probe(ctx context.Context, server string) ([]*x509.Certificate, error) {
	identity, err := a.Identity()
	if err != nil {
		return nil, err
	}
	roots, err := a.folder.trusted()
	if err != nil {
		return nil, err
	}
	config := a.estConfig()
	config.Roots = roots
	if server != "" {
		config.Server = server
	}
	client, err := est.New(config)
	if err != nil {
		return nil, err
	}
	session, err := client.Connect(ctx, est.Credential{Certificate: identity.TLS()})
	if err != nil {
		return nil, err
	}
	defer session.Close()
	session.Report(roots)
	if _, err := session.CACerts(ctx); err != nil {
		return nil, fmt.Errorf("asking for the CA certificates: %w", err)
	}
	return roots, nil
}
