package agent

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"strings"

	"mooring/agent/est"
	"mooring/agent/scep"
	"mooring/wire/der"
	wire "mooring/wire/est"
)

// bySCEP tells whether the server is spoken to by SCEP: its URL begins with "scep".
func (a *Agent) bySCEP() bool { return strings.HasPrefix(a.config.Server, scep.Scheme+"://") }

// orderBySCEP is order by SCEP. The key is kept until it is certified, so that an order that is made again is the same one to the server.
func (a *Agent) orderBySCEP(ctx context.Context, roots []*x509.Certificate, proof est.Credential, old *Identity) error {
	kind, err := a.keyKind(new(wire.CSRAttrs), old)
	if err != nil {
		return err
	}
	if a.config.KeyType == "" && !strings.HasPrefix(string(kind), "rsa-") {
		kind = der.KeyKind("rsa-3072") // the protocol has no other keys
	}
	made, err := a.nextKey(kind, old)
	if err != nil {
		return err
	}
	key, ok := made.(*rsa.PrivateKey)
	if !ok {
		return fmt.Errorf("SCEP has RSA keys only, and the device is to have one of kind %s: choose rsa-3072, or another protocol", kind)
	}
	client, err := scep.New(scep.Config{Server: a.config.Server, Roots: roots, Now: a.options.Now, Dial: a.options.Dial})
	if err != nil {
		return err
	}
	order := scep.Order{Key: key, Subject: a.subject, Names: a.names}
	if old != nil {
		order.Old = old.Certificate()
	}
	result, err := client.Order(ctx, scep.Credential{Name: proof.User, Secret: proof.Secret, Certificate: proof.Certificate}, order)
	if err != nil {
		return err
	}
	bundle := est.Bundle{Roots: roots, Others: result.Others}
	chain, err := bundle.Chain(result.Certificate, a.options.Now())
	if err != nil {
		return err
	}
	if old == nil {
		if err := writeCertificates(a.folder.path(caFile), roots...); err != nil {
			return err
		}
		if err := a.folder.remove(serverCAFile); err != nil {
			return err
		}
	}
	return a.received(ctx, result.Certificate, chain, old)
}
