package acme_test

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/base/conf"
	"mooring/internal/core/acme"
	"mooring/internal/core/device"
	wire "mooring/wire/acme"
	"mooring/wire/attest"
	"mooring/wire/der"
)

// attested is a thing with a key, and what it says of the key in a format.
type attested struct {
	key   *ecdsa.PrivateKey
	claim func(by *maker, token, keyAuthorization string) []byte
}

// things are devices with a serial number that attest in each format.
func things(t testing.TB, now time.Time) map[string]func(serial string) attested {
	t.Helper()
	digest := func(text string) []byte { sum := sha256.Sum256([]byte(text)); return sum[:] }
	certify := func(by *maker, key *ecdsa.PrivateKey, change func(*x509.Certificate)) []byte {
		c := &x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "attested"}, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour)}
		change(c)
		return by.sign(t, c, by.root, key).Raw
	}
	extensions := func(c *x509.Certificate, list ...pkix.Extension) {
		c.ExtraExtensions = append(c.ExtraExtensions, list...)
	}
	encoded := func(v any, parameters string) []byte {
		raw, err := asn1.MarshalWithParams(v, parameters)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	field := func(tag int, content []byte) asn1.RawValue {
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: true, Bytes: content}
	}
	return map[string]func(serial string) attested{
		attest.Step: func(serial string) attested {
			key := apptest.Key(t)
			return attested{key, func(by *maker, _, auth string) []byte {
				return by.statement(t, key, now, auth, der.PermanentIdentifier(serial, ""))
			}}
		},
		attest.Apple: func(serial string) attested {
			key := apptest.Key(t)
			return attested{key, func(by *maker, token, _ string) []byte {
				leaf := certify(by, key, func(c *x509.Certificate) {
					extensions(c, pkix.Extension{Id: []int{1, 2, 840, 113635, 100, 8, 11, 1}, Value: digest(token)}, pkix.Extension{Id: []int{1, 2, 840, 113635, 100, 8, 9, 1}, Value: []byte(serial)})
				})
				return encodeCBOR(t, map[string]any{"fmt": attest.Apple, "attStmt": map[string]any{"x5c": [][]byte{leaf}}})
			}}
		},
		attest.AndroidKey: func(serial string) attested {
			key := apptest.Key(t)
			return attested{key, func(by *maker, _, auth string) []byte {
				hardware := append(append(encoded(field(1, encoded([]int{2}, "set")), ""), encoded(field(702, encoded(0, "")), "")...), encoded(field(713, encoded([]byte(serial), "")), "")...)
				description := encoded(struct {
					Version           int
					Level             asn1.Enumerated
					Mint              int
					MintLevel         asn1.Enumerated
					Challenge, Unique []byte
					Software, TEE     asn1.RawValue
				}{300, 1, 300, 1, digest(auth), nil, asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true}, asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: hardware}}, "")
				leaf := certify(by, key, func(c *x509.Certificate) {
					extensions(c, pkix.Extension{Id: []int{1, 3, 6, 1, 4, 1, 11129, 2, 1, 17}, Value: description})
				})
				return encodeCBOR(t, map[string]any{"fmt": attest.AndroidKey, "attStmt": map[string]any{"x5c": [][]byte{leaf}}})
			}}
		},
		attest.TPM: func(serial string) attested { // by an attestation key that its manufacturer certified
			tpm := newSoftTPM(t)
			return attested{tpm.key, func(by *maker, _, auth string) []byte {
				san, err := der.BuildAltNames(der.AltNames{Other: []der.OtherName{der.PermanentIdentifier(serial, "")}})
				if err != nil {
					t.Fatal(err)
				}
				leaf := certify(by, tpm.ak, func(c *x509.Certificate) {
					c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}}
					extensions(c, pkix.Extension{Id: []int{2, 5, 29, 17}, Critical: true, Value: san})
				})
				return tpm.statement(t, [][]byte{leaf}, auth)
			}}
		},
	}
}

// TestEachFormat has the case "device-attest: each format" of the acceptance list: from the statement to the certificate, and what is wrong with it.
func TestEachFormat(t *testing.T) {
	w, m := attestWorld(t, func(c *conf.Config) {
		c.ACME.Attest.Apple, c.ACME.Attest.AndroidKey, c.ACME.Attest.TPM = c.ACME.Attest.Step, c.ACME.Attest.Step, c.ACME.Attest.Step
	})
	stranger := newMaker(t, time.Now())
	for format, thing := range things(t, w.Clock.Now()) {
		serial := "SN-" + strings.ToUpper(format)
		a := w.boundTo(t, w.Add(t, device.Spec{Name: "each-" + format, Profile: "attested", Tags: map[string]string{acme.TagSerial: serial}}))
		t.Run("device-attest: each format, "+format, func(t *testing.T) {
			it := thing(serial)
			_, o := a.order(t, permanent(serial))
			if z := a.attest(t, o, func(token, auth string) []byte { return it.claim(m, token, auth) }); z.Status != wire.StatusValid {
				t.Fatalf("the authorization is %s: %+v", z.Status, z.Challenges[0].Error)
			}
			want(t, a.post(t, o.Finalize, csr(t, apptest.Key(t))), 403, "badAttestationStatement") // for another key
			done := into[wire.Order](t, a.post(t, o.Finalize, csr(t, it.key)))
			raw := decodePEM(t, a.post(t, done.Certificate, nil).Text)[0]
			if names := altNames(t, raw); len(names.Other) != 1 || !names.Other[0].Same(der.PermanentIdentifier(serial, "")) || !it.key.PublicKey.Equal(parse(t, raw).PublicKey) {
				t.Errorf("the certificate has the names %+v and the key %v", names, parse(t, raw).PublicKey)
			}
		})
		for name, claim := range map[string]func(token, auth string) []byte{
			"nonce mismatch":              func(token, auth string) []byte { return thing(serial).claim(m, "x"+token, "x"+auth) },
			"wrong root":                  func(token, auth string) []byte { return thing(serial).claim(stranger, token, auth) },
			"identifier not in statement": func(token, auth string) []byte { return thing("SN-OTHER").claim(m, token, auth) },
		} {
			t.Run("device-attest: "+name+", "+format, func(t *testing.T) {
				_, o := a.order(t, permanent(serial))
				z := a.attest(t, o, claim)
				if z.Status != wire.StatusInvalid || z.Challenges[0].Error == nil || z.Challenges[0].Error.Type != wire.ErrorPrefix+"badAttestationStatement" {
					t.Errorf("the authorization is %s, the challenge %+v", z.Status, z.Challenges)
				}
			})
		}
	}
	if r := w.Verify(t); len(r.Findings) > 0 {
		t.Errorf("the record does not fit: %v", r.Findings)
	}
}
