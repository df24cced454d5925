package enrol_test

import (
	"slices"
	"testing"
	"time"

	"mooring/internal/app/apptest"
	"mooring/internal/core/device"
	"mooring/internal/core/enrol"
	"mooring/internal/core/revoke"
)

// TestWhoCameBackIsAskedAgain: who showed a certificate is remembered, and whatever is decided about the device, its certificate or its CA counts at once.
func TestWhoCameBackIsAskedAgain(t *testing.T) {
	move := func(to device.Move) func(*apptest.Platform, device.Device, []byte) error {
		return func(p *apptest.Platform, d device.Device, _ []byte) error {
			_, err := p.Revoke.Device(t.Context(), apptest.Operator(), d.ID, to, revoke.Unspecified)
			return err
		}
	}
	revoked := func(r revoke.Reason) func(*apptest.Platform, device.Device, []byte) error {
		return func(p *apptest.Platform, _ device.Device, serial []byte) error {
			_, err := p.Revoke.Certificate(t.Context(), apptest.Operator(), serial, r)
			return err
		}
	}
	rows := []struct {
		name string
		do   func(*apptest.Platform, device.Device, []byte) error
		want func(id *enrol.Identity, err error) bool
	}{
		{"nothing", func(*apptest.Platform, device.Device, []byte) error { return nil }, mayTalk},
		{"it moves to a group", func(p *apptest.Platform, d device.Device, _ []byte) error {
			group := "other"
			_, err := p.Devices.Change(t.Context(), apptest.Operator(), d.ID, device.Change{Group: &group})
			return err
		}, func(id *enrol.Identity, err error) bool { return mayTalk(id, err) && id.Device.Group == "other" }},
		{"suspended", move(device.Suspend), mayNot},
		{"lost", move(device.Lose), mayNot},
		{"retired", move(device.Retire), mayNot},
		{"revoked", revoked(revoke.KeyCompromise), mayNot},
		{"on hold", revoked(revoke.CertificateHold), mayNot},
		{"expired", func(p *apptest.Platform, _ device.Device, _ []byte) error {
			p.Clock.Move(100 * 365 * 24 * time.Hour)
			return nil
		}, mayNot},
		{"the clock was set back", func(p *apptest.Platform, _ device.Device, _ []byte) error {
			p.Clock.Move(-365 * 24 * time.Hour)
			return nil
		}, mayNot},
		{"its CA is revoked", func(p *apptest.Platform, _ device.Device, _ []byte) error {
			issuer, err := p.CA.Issuer("devices")
			if err != nil {
				return err
			}
			_, err = p.Revoke.Certificate(t.Context(), apptest.Operator(), issuer.Certificate().SerialNumber.Bytes(), revoke.KeyCompromise)
			return err
		}, mayNot},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			p := apptest.Start(t, nil)
			d, cert := p.Enrolled(t, "meter-1", "device")
			other, otherCert := p.Enrolled(t, "meter-2", "device")
			var first *enrol.Identity
			for range 3 {
				id, err := p.Enrol.Present(t.Context(), cert.Certificate)
				if !mayTalk(id, err) || id.Device.ID != d.ID || first != nil && (id.Own.Profile != first.Own.Profile || !slices.Equal(id.Slot.Serial, first.Slot.Serial)) {
					t.Fatalf("before: %+v, %v", id, err)
				}
				first = id
			}
			if err := row.do(p, d, cert.Leaf.SerialNumber.Bytes()); err != nil {
				t.Fatal(err)
			}
			if id, err := p.Enrol.Present(t.Context(), cert.Certificate); !row.want(id, err) {
				t.Errorf("afterwards: %+v, %v", id, err)
			}
			if id, err := p.Enrol.Present(t.Context(), otherCert.Certificate); err == nil && id.Device.ID != other.ID {
				t.Errorf("another device is taken for %s", id.Device.Name)
			}
		})
	}
}

func mayTalk(id *enrol.Identity, err error) bool { return err == nil && id.Device.State.Active() }

func mayNot(id *enrol.Identity, err error) bool { return err != nil || !id.Device.State.Active() }
