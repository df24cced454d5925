package api

import (
	"net/http"

	"mooring/internal/core/access"
	"mooring/internal/server/api/v1"
)

// routes is the table of everything under /v1.
func routes() []route {
	const get, post, patch = http.MethodGet, http.MethodPost, http.MethodPatch
	return []route{
		{get, "/v1/devices", "list-devices", access.DeviceRead, "List devices",
			"Filters that are given must all fit. While next is set there are more, also behind a page that is short or empty.", 0, answers((*server).listDevices)},
		{post, "/v1/devices", "add-device", access.DeviceWrite, "Register a device",
			"With token also the permission device.token; a profile that grants a role also access.grant.", http.StatusCreated, answers((*server).addDevice)},
		{post, "/v1/devices/import", "import-devices", access.DeviceWrite, "Register the devices of a file, all or none", aboutImport, 0, importRoute},
		{get, "/v1/devices/{device}", "get-device", access.DeviceRead, "Show a device", "", 0, answers((*server).getDevice)},
		{patch, "/v1/devices/{device}", "change-device", access.DeviceWrite, "Change a device", "What is absent stays.", 0, answers((*server).changeDevice)},
		{post, "/v1/devices/{device}/token", "give-token", access.DeviceToken, "Give a device a new one-time token",
			"The token is shown once; an older one is void.", 0, answers((*server).giveToken)},
		{post, "/v1/devices/{device}/suspend", "suspend-device", access.DeviceState, "Bar a device for now",
			"Its certificates are put on hold with it. Needs the permission cert.revoke as well.", 0, answers((*server).suspend)},
		{post, "/v1/devices/{device}/resume", "resume-device", access.DeviceState, "Let a suspended device in again",
			"The hold of its certificates is lifted. Needs the permission cert.revoke as well.", 0, answers((*server).resume)},
		{post, "/v1/devices/{device}/lost", "lose-device", access.DeviceState, "Report a device lost",
			"Its certificates are revoked with it, and it never comes back. Needs the permission cert.revoke as well.", 0, answers((*server).lose)},
		{post, "/v1/devices/{device}/retire", "retire-device", access.DeviceState, "Retire a device",
			"Its certificates are revoked with it, and it never comes back. Needs the permission cert.revoke as well.", 0, answers((*server).retire)},

		{get, "/v1/certificates", "list-certificates", access.CertRead, "List certificates",
			"Filters that are given must all fit. While next is set there are more, also behind a page that is short or empty.", 0, answers((*server).listCertificates)},
		{get, "/v1/certificates/{serial}", "get-certificate", access.CertRead, "Show a certificate", "", 0, certificateRoute},
		{post, "/v1/certificates/{serial}/revoke", "revoke-certificate", access.CertRevoke, "Revoke a certificate",
			"To revoke twice changes nothing.", 0, answers((*server).revokeCertificate)},
		{post, "/v1/certificates/{serial}/release", "release-certificate", access.CertRevoke, "Lift the hold of a certificate", "", 0, answers((*server).releaseCertificate)},

		{get, "/v1/cas", "list-cas", access.CARead, "List certification authorities", "", 0, answers((*server).listCAs)},
		{post, "/v1/cas", "create-ca", access.CAManage, "Make a certification authority", "", http.StatusCreated, answers((*server).createCA)},
		{get, "/v1/cas/{ca}", "get-ca", access.CARead, "Show a certification authority with its chain", "", 0, answers((*server).getCA)},
		{get, "/v1/profiles", "list-profiles", access.ProfileRead, "List profiles", "", 0, answers((*server).listProfiles)},
		{get, "/v1/profiles/{profile}", "get-profile", access.ProfileRead, "Show a profile with its source", "", 0, answers((*server).getProfile)},

		{get, "/v1/requests", "list-requests", access.DeviceRead, "List requests that wait for a decision", "", 0, answers((*server).listRequests)},
		{post, "/v1/requests/{device}/approve", "approve-request", access.EnrolApprove, "Approve a waiting request",
			"Compare the key's digest with what the device shows first.", 0, answers((*server).approve)},
		{post, "/v1/requests/{device}/refuse", "refuse-request", access.EnrolApprove, "Refuse a waiting request", "", 0, answers((*server).refuse)},

		{get, "/v1/audit", "list-audit", access.AuditRead, "Read the audit record",
			"An entry appears a fraction of a second after what it tells of.", 0, answers((*server).listAudit)},
		{get, "/v1/audit/checkpoint", "get-checkpoint", access.AuditRead, "Show the newest signed head of the record", "", 0, answers((*server).checkpoint)},
		{get, "/v1/audit/proof/{index}", "prove-entry", access.AuditRead, "Prove that an entry stands in the record", "", 0, answers((*server).prove)},
		{post, "/v1/audit/verify", "verify-audit", access.AuditRead, "Recompute the record and compare every table with it",
			"The answer is a stream of JSON lines; the last one has report or error.", 0, streams[verifyInput, v1.VerifyLine]((*server).verify)},

		{get, "/v1/whoami", "whoami", "", "Show who you are", "Any known caller may ask.", 0, answers((*server).whoami)},
		{get, "/v1/version", "version", "", "Show what runs", "Any known caller may ask.", 0, answers((*server).version)},
		{get, "/v1/status", "status", access.ConfigRead, "Show how the server does", "", 0, answers((*server).status)},
	}
}

// none is the input of a route that takes none.
type none struct{}

// oneDevice is the input of a route about one device.
type oneDevice struct {
	Device string `path:"device" maxLength:"255" doc:"Name or id" example:"sensor-0017"`
}
