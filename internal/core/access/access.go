// Package access says who acts, what a role may do, and decides. Servers authenticate and hand an Actor over; every core method that
// changes or shows something calls Decider.Require first, which also has the refusal recorded. There is no other place where
// permission is decided.
//
// Roles are fixed sets of permissions. They come from the profile of the certificate that an operator presents (a profile that "grants" a
// role), or from the Unix socket, whose user owns the data anyway. The package deliberately knows no transport, database or certificate.
package access

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"mooring/internal/base/errs"
)

// Role names a fixed set of permissions. The zero value has none.
type Role string

// The roles.
const (
	RoleNone     Role = ""
	RoleAdmin    Role = "admin"    // everything, including what grants roles to others
	RoleOperator Role = "operator" // runs the fleet: devices, tokens, revocation, approvals
	RoleAuditor  Role = "auditor"  // reads everything, changes nothing
	// The operators of the authorities of V2X, each of whom may run one of them and see what is public of all.
	RoleV2XRoot       Role = "v2x-root"
	RoleV2XEnrolment  Role = "v2x-ea"
	RoleV2XTickets    Role = "v2x-aa"
	RoleV2XTrustLists Role = "v2x-tlm"
)

// Permission names one thing that may be done.
type Permission string

// The permissions.
const (
	DeviceRead   Permission = "device.read"
	DeviceWrite  Permission = "device.write"
	DeviceToken  Permission = "device.token"
	DeviceState  Permission = "device.state"
	CertRead     Permission = "cert.read"
	CertRevoke   Permission = "cert.revoke"
	CARead       Permission = "ca.read"
	CAManage     Permission = "ca.manage"
	ProfileRead  Permission = "profile.read"
	AuditRead    Permission = "audit.read"
	EnrolApprove Permission = "enrol.approve"
	ConfigRead   Permission = "config.read"
	CertIssue    Permission = "cert.issue"    // have certificates issued from requests that somebody else made, without the device's own proof
	JobRead      Permission = "job.read"      // see what works in the background
	JobManage    Permission = "job.manage"    // start, pause, resume and cancel it
	ApproveGrant Permission = "approve.grant" // be the second person for what somebody else asked for; it takes the act's own permission besides
	ApproveRead  Permission = "approve.read"  // see what waits for a second person
	// CampaignManage is to make, start, pause, resume and end campaigns, which have many devices renew.
	CampaignManage Permission = "campaign.manage"
	// MakerManage is to say which manufacturers' certificates show whose product a device is.
	MakerManage Permission = "maker.manage"
	// MessageRead is to see the policy of messages, what it decides, who is connected, and what is published.
	MessageRead Permission = "message.read"
	// MessagePublish is to publish in the platform's name, and to end connections that may begin again.
	MessagePublish Permission = "message.publish"
	// MessagePolicy is to say who may publish and subscribe where.
	MessagePolicy Permission = "message.policy"
	// V2XRead is to see the authorities of V2X and their lists.
	V2XRead Permission = "v2x.read"
	// V2XRoot is to run the root of V2X: issue to authorities, revoke them, have it followed by another one. Those below are separate, so that nobody who runs one
	// authority has power over another.
	V2XRoot Permission = "v2x.root"
	// V2XEnrolment is to run the enrolment authority, V2XTickets the authorization authority, V2XManager the trust list manager.
	V2XEnrolment Permission = "v2x.ea"
	V2XTickets   Permission = "v2x.aa"
	V2XManager   Permission = "v2x.tlm"
	Grant        Permission = "access.grant" // add, change or give a token to something whose profile grants a role, or that bears the platform's name
)

// Roles returns all roles that there are.
func Roles() []Role {
	return []Role{RoleAdmin, RoleOperator, RoleAuditor, RoleV2XRoot, RoleV2XEnrolment, RoleV2XTickets, RoleV2XTrustLists}
}

// Permissions returns what role may do, in a fixed order; nothing for an unknown role.
func Permissions(role Role) []Permission {
	read := []Permission{DeviceRead, CertRead, CARead, ProfileRead, AuditRead, ConfigRead, JobRead, ApproveRead, MessageRead, V2XRead}
	operate := []Permission{DeviceWrite, DeviceToken, DeviceState, CertRevoke, EnrolApprove, JobManage, ApproveGrant, CampaignManage, MessagePublish, MessagePolicy}
	switch role {
	case RoleAuditor:
		return read
	case RoleOperator:
		return append(read, operate...)
	case RoleAdmin:
		return append(append(read, operate...), CAManage, MakerManage, Grant, CertIssue, V2XRoot, V2XEnrolment, V2XTickets, V2XManager)
	case RoleV2XRoot:
		return []Permission{V2XRead, V2XRoot}
	case RoleV2XEnrolment:
		return []Permission{V2XRead, V2XEnrolment}
	case RoleV2XTickets:
		return []Permission{V2XRead, V2XTickets}
	case RoleV2XTrustLists:
		return []Permission{V2XRead, V2XManager}
	}
	return nil
}

// ParseRole returns the role called name.
func ParseRole(name string) (Role, error) {
	if r := Role(name); Permissions(r) != nil {
		return r, nil
	}
	return RoleNone, errs.New(errs.Invalid, "unknown role %q: use admin, operator, auditor, v2x-root, v2x-ea, v2x-aa or v2x-tlm", name)
}

// Kind says how an actor became known.
type Kind string

// The kinds of actors.
const (
	KindOperator Kind = "operator" // a person or service with an operator certificate
	KindLocal    Kind = "local"    // a user of the server's machine, by the Unix socket
	KindDevice   Kind = "device"   // a device that proved its identity
	KindSystem   Kind = "system"   // the platform itself
	KindStranger Kind = "stranger" // nobody we know
	// KindRegistrar is a registrar of somebody else's domain, which asks for vouchers.
	KindRegistrar Kind = "registrar"
)

// Actor is who does something. The zero value is nobody and may do nothing.
type Actor struct {
	Kind Kind
	ID   string // pseudonymous: the hex id of a device or operator, "uid=0", or a component's name
	Role Role
	Via  string // the surface it came by: "api", "socket", "est", …
}

// System returns the actor for what component does on its own, such as "init" or "crl".
func System(component string) Actor { return Actor{Kind: KindSystem, ID: component, Role: RoleAdmin} }

// Device returns the actor for a device that proved its identity over the surface via.
func Device(id, via string) Actor { return Actor{Kind: KindDevice, ID: id, Via: via} }

// Registrar returns the actor for the registrar that is registered under a name, over the surface via.
func Registrar(name, via string) Actor { return Actor{Kind: KindRegistrar, ID: name, Via: via} }

// Stranger returns the actor for somebody unknown who came from source over the surface via. It names the network, not the address: /24 of
// IPv4 and /48 of IPv6, which is enough to count by and to act against.
func Stranger(source netip.Addr, via string) Actor {
	bits := 48
	if source = source.Unmap(); source.Is4() {
		bits = 24
	}
	network, err := source.WithZone("").Prefix(bits)
	if err != nil || !network.IsValid() { // no address, as on a Unix socket
		return Actor{Kind: KindStranger, Via: via}
	}
	return Actor{Kind: KindStranger, ID: network.String(), Via: via}
}

// String returns the form that the audit record holds, such as "operator:6f…" or "local:uid=0".
func (a Actor) String() string {
	if a.Kind == "" {
		return string(KindStranger)
	}
	if a.ID == "" {
		return string(a.Kind)
	}
	return string(a.Kind) + ":" + a.ID
}

// May reports whether a's role includes p.
func (a Actor) May(p Permission) bool { return slices.Contains(Permissions(a.Role), p) }

// Refusals keeps the record of what was refused. It returns an error when the record could not be written; the refusal stands either way.
type Refusals interface {
	RecordRefusal(ctx context.Context, actor Actor, perm Permission, object, reason string) error
}

// Decider is the one place that decides.
type Decider struct{ refusals Refusals }

// NewDecider returns a Decider that has refusals recorded by r.
func NewDecider(r Refusals) *Decider { return &Decider{refusals: r} }

// Require returns nil when actor may do perm to object, and otherwise an error of kind Denied after the refusal has been recorded.
// The text names the missing permission and the actor's own role, nothing about the object.
func (d *Decider) Require(ctx context.Context, actor Actor, perm Permission, object string) error {
	if actor.May(perm) {
		return nil
	}
	role := string(actor.Role)
	if role == "" {
		role = "none"
	}
	reason := fmt.Sprintf("needs the permission %s, which the role %q does not have", perm, role)
	denied := errs.New(errs.Denied, "this %s", reason)
	if err := d.refusals.RecordRefusal(ctx, actor, perm, object, reason); err != nil {
		return errs.Wrap(errs.Denied, err, "%s", errs.Public(denied))
	}
	return denied
}
