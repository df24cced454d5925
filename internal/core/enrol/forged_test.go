package enrol_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net/http"
	"net/url"
	"testing"

	"mooring/internal/app/apptest"
	"mooring/internal/base/db"
	"mooring/internal/core/access"
	"mooring/internal/core/ca"
	"mooring/internal/core/enrol"
)

// write changes the database behind the platform's back. Each statement must concern exactly one row.
func write(t *testing.T, p *apptest.Platform, stmts ...*db.Stmt) {
	t.Helper()
	err := p.DB.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		for _, s := range stmts {
			if n, err := tx.Exec(ctx, s.SQL, s.Args...); err != nil || n != 1 {
				t.Errorf("%s: %d rows, %v", s.SQL, n, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// plant makes a row of the certificate that by makes for the victim's device, puts it into the victim's slot, and returns the credential.
// issuer is the CA that the row names.
func plant(t *testing.T, p *apptest.Platform, victim tls.Certificate, by issuing, issuer ca.IssuerID, profile string) tls.Certificate {
	t.Helper()
	row := *mustGet(t, p, victim)
	row.Serial[15] ^= 1
	role, err := url.Parse("urn:mooring:role:admin")
	if err != nil {
		t.Fatal(err)
	}
	forged := by.pair(t, func(c *x509.Certificate) {
		c.SerialNumber = new(big.Int).SetBytes(row.Serial[:])
		c.Subject, c.URIs = victim.Leaf.Subject, []*url.URL{role}
	})
	row.DER, row.Issuer, row.Profile, row.SPKIHash = forged.Leaf.Raw, issuer, profile, sha256.Sum256(forged.Leaf.RawSubjectPublicKeyInfo)
	err = p.DB.Do(t.Context(), func(ctx context.Context, tx *db.Tx) error {
		if err := tx.Send(ctx, p.CA.InsertStmts(tx, []*ca.Certificate{&row})...); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE slot SET serial = $1 WHERE cell = $2 AND device = $3 AND slot = $4`, row.Serial[:], int64(row.Cell), row.Device[:], row.Slot)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return forged
}

func wantStranger(t *testing.T, p *apptest.Platform, cert tls.Certificate) {
	t.Helper()
	id, err := p.Enrol.Authenticate(t.Context(), cert.Certificate)
	if !errors.Is(err, enrol.ErrUnauthenticated) {
		t.Errorf("got %+v, %v, want a stranger", id, err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: p.TLS(&cert)}}
	defer client.CloseIdleConnections()
	reply, err := client.Get(p.Addresses().API + "/v1/devices")
	if err != nil {
		t.Fatal(err)
	}
	reply.Body.Close()
	if reply.StatusCode != http.StatusUnauthorized {
		t.Errorf("the API answers %s, want 401", reply.Status)
	}
}

// TestAForgedRowIsNobody: whoever can write to the database makes a row for a certificate that no CA of ours has signed.
func TestAForgedRowIsNobody(t *testing.T) {
	p := apptest.Start(t, nil)
	p.Tampered = true
	admin := p.OperatorCert(t)
	operators, err := p.CA.Issuer("operators")
	if err != nil {
		t.Fatal(err)
	}
	if got := role(t, p, admin); got != access.RoleAdmin {
		t.Fatalf("before: the role %q, want admin", got)
	}
	forged := plant(t, p, admin, authority(t), operators.ID(), "operator-admin")
	wantStranger(t, p, forged)
	_, meter := p.Enrolled(t, "meter-1", "device")
	wantStranger(t, p, plant(t, p, meter, authority(t), ca.IssuerID{1, 2, 3}, "device")) // of a CA that does not exist
}

// TestAForgedCAIsNotOurs: and he puts a CA of his own in the place of ours, which a restart reads.
func TestAForgedCAIsNotOurs(t *testing.T) {
	p := apptest.Start(t, nil)
	p.Tampered = true
	admin, his := p.OperatorCert(t), authority(t)
	sum := sha256.Sum256(append(append([]byte(nil), his.cert.RawSubject...), his.cert.RawSubjectPublicKeyInfo...))
	id := ca.IssuerID(sum[:8])
	write(t, p, &db.Stmt{SQL: `UPDATE ca_issuer SET id = $1, parent = $2, der = $3 WHERE name = 'operators'`, Args: []any{id[:], []byte{}, his.cert.Raw}})
	forged := plant(t, p, admin, his, id, "operator-admin")
	p.Stop(t)
	p.Restart(t)
	if i, err := p.CA.Issuer("operators"); err != nil || i.ID() != id {
		t.Fatalf("the forged CA was not read: %v", err)
	}
	wantStranger(t, p, forged)
}

// TestARoleStandsInTheCertificate: rows alone give nobody a role, whatever profile they name.
func TestARoleStandsInTheCertificate(t *testing.T) {
	p := apptest.Start(t, nil)
	p.Tampered = true
	promote := func(t *testing.T, cert tls.Certificate) {
		t.Helper()
		c := mustGet(t, p, cert)
		write(t, p,
			&db.Stmt{SQL: `UPDATE cert SET profile = 'operator-admin' WHERE cell = $1 AND serial = $2`, Args: []any{int64(c.Cell), c.Serial[:]}},
			&db.Stmt{SQL: `UPDATE device SET profile = 'operator-admin' WHERE id = $1`, Args: []any{c.Device[:]}})
	}
	for _, profile := range []string{"auditor", "device"} {
		t.Run(profile, func(t *testing.T) {
			_, cert := p.Enrolled(t, "was-"+profile, profile)
			promote(t, cert)
			if got := role(t, p, cert); got != access.RoleNone {
				t.Errorf("the role %q, want none", got)
			}
		})
	}
	t.Run("the role by another CA of ours", func(t *testing.T) {
		devices, err := p.CA.Issuer("devices")
		if err != nil {
			t.Fatal(err)
		}
		_, cert := p.Enrolled(t, "meter-1", "device")
		forged := plant(t, p, cert, ours(t, p), devices.ID(), "operator-admin")
		promote(t, forged)
		if got := role(t, p, forged); got != access.RoleNone {
			t.Errorf("the role %q, want none", got)
		}
	})
	t.Run("the role by the right CA", func(t *testing.T) { // so that the rows above fail for no other reason
		operators, err := p.CA.Issuer("operators")
		if err != nil {
			t.Fatal(err)
		}
		key, err := p.Keys.Signer(t.Context(), operators.Key())
		if err != nil {
			t.Fatal(err)
		}
		_, cert := p.Enrolled(t, "meter-2", "device")
		signed := plant(t, p, cert, issuing{key, operators.Certificate()}, operators.ID(), "operator-admin")
		promote(t, signed)
		if got := role(t, p, signed); got != access.RoleAdmin {
			t.Errorf("the role %q, want admin", got)
		}
	})
}
