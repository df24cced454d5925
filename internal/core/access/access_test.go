package access

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"mooring/internal/base/errs"
)

type refusals struct {
	got  []string
	fail error
}

func (r *refusals) RecordRefusal(_ context.Context, a Actor, p Permission, object, _ string) error {
	r.got = append(r.got, a.String()+" "+string(p)+" "+object)
	return r.fail
}

func TestRequireAllowsAndRecordsRefusals(t *testing.T) {
	for _, row := range []struct {
		name  string
		actor Actor
		perm  Permission
		allow bool
	}{
		{"admin grants", Actor{Kind: KindOperator, ID: "a", Role: RoleAdmin}, Grant, true},
		{"operator runs devices", Actor{Kind: KindOperator, ID: "o", Role: RoleOperator}, DeviceWrite, true},
		{"operator grants nothing", Actor{Kind: KindOperator, ID: "o", Role: RoleOperator}, Grant, false},
		{"operator makes no CA", Actor{Kind: KindOperator, ID: "o", Role: RoleOperator}, CAManage, false},
		{"auditor reads", Actor{Kind: KindOperator, ID: "u", Role: RoleAuditor}, AuditRead, true},
		{"auditor revokes nothing", Actor{Kind: KindOperator, ID: "u", Role: RoleAuditor}, CertRevoke, false},
		{"device reads nothing", Device("d", "est"), DeviceRead, false},
		{"nobody", Actor{}, DeviceRead, false},
		{"invented role", Actor{Kind: KindOperator, Role: "root"}, DeviceRead, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := &refusals{}
			err := NewDecider(r).Require(t.Context(), row.actor, row.perm, "thing")
			if (err == nil) != row.allow {
				t.Fatalf("Require(%v, %v) = %v, want allowed %v", row.actor, row.perm, err, row.allow)
			}
			if !row.allow && (!errs.Is(err, errs.Denied) || len(r.got) != 1) {
				t.Errorf("error %v of kind %v, recorded %q", err, errs.KindOf(err), r.got)
			}
			if row.allow && len(r.got) != 0 {
				t.Errorf("recorded %q for an allowed act", r.got)
			}
		})
	}
}

func TestRefusalStandsWhenItCannotBeRecorded(t *testing.T) {
	err := NewDecider(&refusals{fail: errors.New("disk full")}).Require(t.Context(), Actor{}, DeviceRead, "x")
	if !errs.Is(err, errs.Denied) {
		t.Errorf("got %v, want Denied", err)
	}
}

func TestAuditorsPermissionsAreNotGrownByOthers(t *testing.T) {
	before := len(Permissions(RoleAuditor))
	_ = Permissions(RoleAdmin)
	_ = Permissions(RoleOperator)
	if after := len(Permissions(RoleAuditor)); after != before {
		t.Errorf("auditor has %d permissions, had %d", after, before)
	}
}

func TestStrangersAreNamedByNetwork(t *testing.T) {
	for source, want := range map[string]string{
		"203.0.113.77":        "stranger:203.0.113.0/24",
		"::ffff:203.0.113.77": "stranger:203.0.113.0/24",
		"2001:db8:1:2::3":     "stranger:2001:db8:1::/48",
		"fe80::1%eth0":        "stranger:fe80::/48",
	} {
		if got := Stranger(netip.MustParseAddr(source), "est").String(); got != want {
			t.Errorf("Stranger(%s) = %s, want %s", source, got, want)
		}
	}
	if got := Stranger(netip.Addr{}, "socket").String(); got != "stranger" {
		t.Errorf("without an address got %s", got)
	}
}
