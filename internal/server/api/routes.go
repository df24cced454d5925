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
			"With token also the permission device.token; a profile that grants a role or has its holders speak for the platform also access.grant.", http.StatusCreated, answers((*server).addDevice)},
		{post, "/v1/devices/import", "import-devices", access.DeviceWrite, "Register the devices of a file, all or none", aboutImport, 0, importRoute},
		{get, "/v1/inventory/count", "count-devices", access.DeviceRead, "Count devices", "Filters that are given must all fit.", 0, answers((*server).countDevices)},
		{get, "/v1/inventory/renewals", "forecast-renewals", access.DeviceRead, "Forecast when certificates are to be renewed",
			"Of active devices; filters that are given must all fit.", 0, answers((*server).forecastRenewals)},
		{get, "/v1/campaigns", "list-campaigns", access.DeviceRead, "List campaigns", "", 0, answers((*server).listCampaigns)},
		{post, "/v1/campaigns", "create-campaign", access.CampaignManage, "Plan a campaign, which has many devices renew",
			"It does nothing until it is started. With revoke_old also the permission cert.revoke.", http.StatusCreated, answers((*server).createCampaign)},
		{get, "/v1/campaigns/{campaign}", "get-campaign", access.DeviceRead, "Show a campaign with its progress", "", 0, answers((*server).getCampaign)},
		{post, "/v1/campaigns/{campaign}/start", "start-campaign", access.CampaignManage, "Start a campaign", "One for many devices must have been approved by a second person.", 0, answers((*server).startCampaign)},
		{post, "/v1/campaigns/{campaign}/pause", "pause-campaign", access.CampaignManage, "Pause a campaign", "Nobody is told any more and nothing is demanded.", 0, answers((*server).pauseCampaign)},
		{post, "/v1/campaigns/{campaign}/resume", "resume-campaign", access.CampaignManage, "Let a paused campaign go on", "Its failures so far do not stop it again.", 0, answers((*server).resumeCampaign)},
		{post, "/v1/campaigns/{campaign}/abort", "abort-campaign", access.CampaignManage, "End a campaign for good", "Certificates that were issued stay.", 0, answers((*server).abortCampaign)},
		{get, "/v1/campaigns/{campaign}/devices", "list-campaign-devices", access.DeviceRead, "List the devices of a campaign, with the reason for each that waits", "", 0, answers((*server).campaignDevices)},
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

		{get, "/v1/revocations/events", "watch-revocations", access.CertRead, "Follow revocations as they happen", aboutEvents, 0, eventsRoute},

		{get, "/v1/messaging/policy", "get-message-policy", access.MessageRead, "Show who may publish and subscribe where", "", 0, answers((*server).getPolicy)},
		{post, "/v1/messaging/policy", "set-message-policy", access.MessagePolicy, "Replace who may publish and subscribe where",
			"All mistakes are told with their lines, and then nothing is changed. Live connections are held to it at once.", 0, answers((*server).setPolicy)},
		{post, "/v1/messaging/policy/test", "test-message-policy", access.MessageRead, "Tell whether a device may do something, and why", "", 0, answers((*server).testPolicy)},
		{get, "/v1/messaging/connections", "list-connections", access.MessageRead, "List live connections of this server", "", 0, answers((*server).listConnections)},
		{post, "/v1/messaging/connections/end", "end-connections", access.MessagePublish, "End the connections of a device to this server",
			"It may connect again.", 0, answers((*server).endConnections)},
		{post, "/v1/messaging/messages", "publish-message", access.MessagePublish, "Publish a message", "It is answered when the message is stored.", 0, answers((*server).publish)},
		{get, "/v1/messaging/messages", "follow-messages", access.MessageRead, "Follow messages as they are published",
			"A stream of JSON lines, from now on; it takes nothing away from those for whom the messages are.", 0, streams[messagesInput, v1.MessageLine]((*server).messages)},

		{get, "/v1/messaging/sinks", "list-sinks", access.MessageRead, "List where messages are passed on to", "", 0, answers((*server).listSinks)},
		{get, "/v1/messaging/sinks/{sink}/dead", "list-dead-letters", access.MessageRead, "List messages that a sink's receiver refused", "", 0, answers((*server).listDead)},
		{post, "/v1/messaging/sinks/{sink}/retry", "retry-dead-letters", access.MessagePublish, "Have dead letters handed over once more",
			"It is answered when that is noted; the server that supplies the sink does it within seconds.", 0, answers((*server).retryDead)},
		{post, "/v1/messaging/sinks/{sink}/drop", "drop-dead-letters", access.MessagePublish, "Forget dead letters", "", 0, answers((*server).dropDead)},

		{post, "/v1/certificates/revoke", "revoke-certificates", access.CertRevoke, "Revoke every certificate that fits, as a job", aboutMany,
			http.StatusCreated, answers((*server).revokeMany)},
		{post, "/v1/certificates/revoke-file", "revoke-file", access.CertRevoke, "Revoke the certificates of a file, as a job",
			"The body has one serial number a line, in hexadecimal digits. Lines that are wrong, and numbers of no certificate, are named and then nothing is done.",
			http.StatusCreated, textRoute((*server).revokeFile, "text/plain")},
		{post, "/v1/devices/move", "move-devices", access.DeviceState, "Change the state of every device that fits, as a job", aboutMany +
			" Needs the permission cert.revoke as well.", http.StatusCreated, answers((*server).moveMany)},

		{post, "/v1/certificates/issue-bundle", "issue-bundle", access.CertIssue, "Issue certificates for a bundle of requests, as a job",
			"The body is PEM, one certification request after the other, each for the device that its common name names; or one JSON object a line with device " +
				"and csr (PEM, or DER in base64). The results of the job name the serial number for each request, or why it was refused.",
			http.StatusCreated, textRoute((*server).issueBundle, "application/x-pem-file", "application/jsonl")},
		{get, "/v1/export/{what}", "export", access.AuditRead, "Export devices or certificates with a signed manifest",
			"Needs the permission device.read or cert.read as well. The answer is a stream of JSON lines whose data make the file; the last one has manifest or error. " +
				"The file is the state of one moment.", 0, streams[exportInput, v1.ExportLine]((*server).export)},

		{get, "/v1/jobs", "list-jobs", access.JobRead, "List jobs, newest first", "", 0, answers((*server).listJobs)},
		{get, "/v1/jobs/{job}", "get-job", access.JobRead, "Show a job with its progress", "", 0, answers((*server).getJob)},
		{get, "/v1/jobs/{job}/results", "get-job-results", access.JobRead, "Show what became of single items",
			"Of items that failed the first thousand are kept, of others only where the kind of job needs it.", 0, answers((*server).jobResults)},
		{post, "/v1/jobs/{job}/start", "start-job", access.JobRead, "Start a draft",
			"Whoever made it starts it, and needs the permission of its kind, such as cert.revoke.", 0, answers((*server).startJob)},
		{post, "/v1/jobs/{job}/pause", "pause-job", access.JobManage, "Pause a job before its next step", "", 0, answers((*server).pauseJob)},
		{post, "/v1/jobs/{job}/resume", "resume-job", access.JobManage, "Let a paused or failed job go on",
			"Needs the permission of its kind as well, such as cert.revoke.", 0, answers((*server).resumeJob)},
		{post, "/v1/jobs/{job}/cancel", "cancel-job", access.JobManage, "End a job before its next step", "What was done stays done.", 0, answers((*server).cancelJob)},

		{get, "/v1/approvals", "list-approvals", access.ApproveRead, "List what waits for a second person", "", 0, answers((*server).listApprovals)},
		{get, "/v1/approvals/{approval}", "get-approval", access.ApproveRead, "Show what waits for a second person", "", 0, answers((*server).getApproval)},
		{post, "/v1/approvals/{approval}/grant", "grant-approval", access.ApproveGrant, "Agree to what somebody else asked for",
			"Needs the permission of the act as well. Whoever asked cannot agree.", 0, answers((*server).grantApproval)},
		{post, "/v1/approvals/{approval}/refuse", "refuse-approval", access.ApproveGrant, "Turn down what somebody asked for", "", 0, answers((*server).refuseApproval)},

		{get, "/v1/cas", "list-cas", access.CARead, "List certification authorities", "", 0, answers((*server).listCAs)},
		{post, "/v1/cas", "create-ca", access.CAManage, "Make a certification authority", "", http.StatusCreated, answers((*server).createCA)},
		{get, "/v1/cas/{ca}", "get-ca", access.CARead, "Show a certification authority with its chain", "", 0, answers((*server).getCA)},
		{post, "/v1/cas/{ca}/limit", "limit-ca", access.CAManage, "Limit the use of a certification authority's key",
			"What was signed before counts. An empty limit lifts it.", 0, answers((*server).limitCA)},
		{get, "/v1/v2x/authorities", "list-v2x-authorities", access.V2XRead, "List the authorities for vehicles", "Roots, the trust list manager, and the authorities that the roots issued to.", 0, answers((*server).listV2X)},
		{post, "/v1/v2x/authorities", "issue-v2x-authority", access.V2XRoot, "Have the root issue to an authority for vehicles",
			"What the certificate says follows from its role; of the request come keys and name. Compare the digest of an initial request with what its operators say on another way.", http.StatusCreated, answers((*server).issueV2X)},
		{get, "/v1/v2x/authorities/{authority}", "get-v2x-authority", access.V2XRead, "Show an authority for vehicles with its certificate and lists", "", 0, answers((*server).getV2X)},
		{post, "/v1/v2x/authorities/{authority}/revoke", "revoke-v2x-authority", access.V2XRoot, "Revoke an authority for vehicles, or a root, for good",
			"A root that is revoked stands on its own revocation list, and nobody below it is believed.", 0, answers((*server).revokeV2X)},
		{post, "/v1/v2x/authorities/{authority}/move", "move-v2x-authority", access.V2XRoot, "Say where an authority for vehicles is reached", "", 0, answers((*server).moveV2X)},
		{post, "/v1/v2x/root/rekey", "rekey-v2x-root", access.V2XRoot, "Make the root for vehicles that follows the present one",
			"Both vouch for that by a link certificate. The present one goes on with its lists until it ends.", http.StatusCreated, answers((*server).rekeyRoot)},
		{get, "/v1/v2x/lists/{authority}/{list}", "get-v2x-list", access.V2XRead, "Get a list of a root or trust list manager", "", 0, answers((*server).getV2XList)},
		{post, "/v1/v2x/ea/request", "request-v2x-ea", access.V2XEnrolment, "Have the enrolment authority ask for its certificate", "", http.StatusCreated, answers((*server).askEA)},
		{post, "/v1/v2x/ea/install", "install-v2x-ea", access.V2XEnrolment, "Give the enrolment authority its certificate", "", 0, answers((*server).installEA)},
		{get, "/v1/v2x/ea/stations/{device}", "get-v2x-station", access.V2XEnrolment, "Show what the enrolment authority knows of a station",
			"Its credentials, and how many tickets it has in which week: nothing says which tickets.", 0, answers((*server).getStation)},
		{post, "/v1/v2x/ea/credentials/{credential}/revoke", "revoke-v2x-credential", access.V2XEnrolment, "Revoke one enrolment credential of a station for good",
			"From then on no request that it signs gets a ticket or another credential. The station may have others, and get another one by its canonical key: to stop it, suspend the device. To revoke twice changes nothing.",
			0, answers((*server).revokeCredential)},
		{get, "/v1/v2x/aa/authorities", "list-v2x-aa-authorities", access.V2XRead, "List what the authorization authority's own store has of authorities", aboutAA, 0, answers((*server).listTickets)},
		{post, "/v1/v2x/aa/request", "request-v2x-aa", access.V2XTickets, "Have the authorization authority ask for its certificate", aboutAA, http.StatusCreated, answers((*server).askAA)},
		{post, "/v1/v2x/aa/install", "install-v2x-aa", access.V2XTickets, "Give the authorization authority its certificate", aboutAA, 0, answers((*server).installAA)},
		{post, "/v1/v2x/aa/verify", "verify-v2x-aa", access.AuditRead, "Verify the authorization authority's own record", aboutAA, 0, answers((*server).verifyAA)},
		{post, "/v1/v2x/manager", "create-v2x-manager", access.V2XManager, "Make a trust list manager", "", http.StatusCreated, answers((*server).createManager)},
		{post, "/v1/v2x/manager/rekey", "rekey-v2x-manager", access.V2XManager, "Make the trust list manager that follows the present one",
			"The present one vouches for it by a link certificate. Its last list stays available.", http.StatusCreated, answers((*server).rekeyManager)},
		{get, "/v1/v2x/manager/roots", "list-v2x-roots", access.V2XRead, "List the roots on the list of the trust list manager", "", 0, answers((*server).listedRoots)},
		{post, "/v1/v2x/manager/roots", "admit-v2x-root", access.V2XManager, "Put a root on the list of the trust list manager", "", http.StatusCreated, answers((*server).admitRoot)},
		{post, "/v1/v2x/manager/roots/{root}/remove", "expel-v2x-root", access.V2XManager, "Take a root off the list of the trust list manager", "", 0, answers((*server).expelRoot)},
		{get, "/v1/keys", "list-keys", access.CARead, "List the private keys of certification authorities",
			"Where each is kept, whether it can be used, and how often it was.", 0, answers((*server).listKeys)},
		{post, "/v1/cas/import", "import-ca", access.CAManage, "Take in the certificate of a CA that somebody else signed",
			"The CA waits for it (request-ca), or its key is elsewhere, as that of an offline root. CAs above it that are not known are taken in too.", http.StatusCreated, answers((*server).importCA)},
		{post, "/v1/cas/import-crl", "import-crl", access.CAManage, "Take in the revocation list of a CA whose key is elsewhere", "", 0, answers((*server).importCRL)},
		{post, "/v1/cas/import-record", "import-ceremony", access.CAManage, "Take the ceremony record of an offline root into the audit record", "", 0, answers((*server).importRecord)},
		{get, "/v1/ca-requests", "list-ca-requests", access.CARead, "List CAs that wait for their certificates", "", 0, answers((*server).listCARequests)},
		{post, "/v1/ca-requests", "request-ca", access.CAManage, "Make the key of a CA and a request for its certificate", "", http.StatusCreated, answers((*server).requestCA)},
		{post, "/v1/ca-requests/{ca}/withdraw", "withdraw-ca", access.CAManage, "Give up the request of a CA", "", 0, answers((*server).withdrawCA)},
		{get, "/v1/ca-crosses", "list-crosses", access.CARead, "List the certificates by which roots vouch for each other", "", 0, answers((*server).listCrosses)},
		{post, "/v1/ca-crosses", "cross-cas", access.CAManage, "Have two roots vouch for each other",
			"What only an offline root can sign is left out: have it signed there, and import it.", http.StatusCreated, answers((*server).crossCAs)},
		{post, "/v1/ca-crosses/import", "import-cross", access.CAManage, "Take in a cross certificate that was signed elsewhere", "", http.StatusCreated, answers((*server).importCross)},
		{get, "/v1/ca-responders", "list-responders", access.CARead, "List the OCSP responders of CAs whose keys are elsewhere", "", 0, answers((*server).listResponders)},
		{post, "/v1/ca-responders", "request-responder", access.CAManage, "Make the key of an OCSP responder and a request for its certificate",
			"For a CA whose key is elsewhere, such as an offline root. The request waits among those of CAs.", http.StatusCreated, answers((*server).requestResponder)},
		{post, "/v1/ca-responders/import", "import-responder", access.CAManage, "Take in the certificate of an OCSP responder that a CA signed elsewhere", "", http.StatusCreated, answers((*server).importResponder)},
		{get, "/v1/anchors", "list-anchors", access.DeviceRead, "List the roots that the fleet has to come to trust, and how far it does", "", 0, answers((*server).listAnchors)},
		{get, "/v1/anchors/{anchor}/missing", "list-missing-anchor", access.DeviceRead, "List devices that have not shown that they trust a root",
			"Devices that are lost or retired, or never had a certificate, are left out.", 0, answers((*server).missingAnchor)},
		{get, "/v1/acme/accounts", "list-acme-accounts", access.DeviceRead, "List accounts at the ACME server", "", 0, answers((*server).listACMEAccounts)},
		{get, "/v1/acme/accounts/{account}", "get-acme-account", access.DeviceRead, "Show an account at the ACME server", "", 0, answers((*server).getACMEAccount)},
		{post, "/v1/acme/accounts/{account}/deactivate", "end-acme-account", access.DeviceState, "Take an account at the ACME server away",
			"It never comes back; its certificates stay.", 0, answers((*server).endACMEAccount)},
		{get, "/v1/acme/accounts/{account}/orders", "list-acme-orders", access.DeviceRead, "List the orders of an account that are still kept", "", 0, answers((*server).listACMEOrders)},
		{get, "/v1/manufacturers", "list-manufacturers", access.DeviceRead, "List the manufacturers whose certificates show which product a device is", "", 0, answers((*server).listMakers)},
		{post, "/v1/manufacturers", "add-manufacturer", access.MakerManage, "Register a manufacturer, or more CA certificates of one",
			"A device with a certificate of the manufacturer still needs an entry in the registry with its serial number.", http.StatusCreated, answers((*server).addMaker)},
		{get, "/v1/manufacturers/{manufacturer}", "get-manufacturer", access.DeviceRead, "Show a manufacturer with its CA certificates", "", 0, answers((*server).getMaker)},
		{post, "/v1/manufacturers/{manufacturer}/masa", "change-manufacturer-masa", access.MakerManage, "Say anew who gives out the vouchers for a manufacturer's devices",
			"It replaces what was said before, with the certificates.", 0, answers((*server).changeMakerMASA)},
		{post, "/v1/manufacturers/{manufacturer}/remove", "remove-manufacturer", access.MakerManage, "Trust the certificates of a manufacturer no longer",
			"What its devices have from this platform stays.", 0, answers((*server).removeMaker)},
		{get, "/v1/masa", "show-masa", access.CARead, "Show what vouchers are signed with", "", 0, answers((*server).showMASA)},
		{get, "/v1/masa/registrars", "list-registrars", access.DeviceRead, "List the registrars that may ask for vouchers", "", 0, answers((*server).listRegistrars)},
		{post, "/v1/masa/registrars", "add-registrar", access.MakerManage, "Let a registrar ask for vouchers, or add certificates of one", "", http.StatusCreated, answers((*server).addRegistrar)},
		{get, "/v1/masa/registrars/{registrar}", "get-registrar", access.DeviceRead, "Show a registrar with its certificates", "", 0, answers((*server).getRegistrar)},
		{post, "/v1/masa/registrars/{registrar}/remove", "remove-registrar", access.MakerManage, "Have a registrar ask no more",
			"The vouchers that it has stay what they are.", 0, answers((*server).removeRegistrar)},
		{get, "/v1/masa/vouchers", "list-vouchers", access.DeviceRead, "List the vouchers that were issued for a device", "", 0, answers((*server).listVouchers)},
		{get, "/v1/profiles", "list-profiles", access.ProfileRead, "List profiles", "", 0, answers((*server).listProfiles)},
		{get, "/v1/profiles/{profile}", "get-profile", access.ProfileRead, "Show a profile with its source", "", 0, answers((*server).getProfile)},

		{get, "/v1/retention", "get-retention", access.CertRead, "Show what is kept for how long, and what left last", "", 0, answers((*server).getRetention)},
		{post, "/v1/retention/run", "run-retention", access.CAManage, "Delete what is over now",
			"Certificates that have expired and whose retention has passed, and entries of the audit record (retention.audit), before which the whole record is verified; the server looks for them by itself, too.", 0, answers((*server).runRetention)},

		{get, "/v1/requests", "list-requests", access.DeviceRead, "List requests that wait for a decision", "", 0, answers((*server).listRequests)},
		{post, "/v1/requests/{device}/approve", "approve-request", access.EnrolApprove, "Approve a waiting request",
			"Compare the key's digest with what the device shows first, and name the request that you compared.", 0, answers((*server).approve)},
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

const aboutMany = "Fields that are given must all fit. The job first finds what fits, and keeps it: what is done later is exactly that. Unless it is to start, it then " +
	"waits as a draft to be looked at. Above approve.revoke_above items a second person must agree; then it waits for the time undo; then it is done in steps."

// none is the input of a route that takes none.
type none struct{}

// oneDevice is the input of a route about one device.
type oneDevice struct {
	Device string `path:"device" maxLength:"255" doc:"Name or id" example:"sensor-0017"`
}

// aboutAA is said of all that concerns the authorization authority.
const aboutAA = "It has a store of its own, and must run in this process."
