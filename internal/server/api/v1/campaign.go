package v1

import "time"

// DeviceSelector selects devices. All that is given must fit; what is said about certificates, one and the same, which is not revoked.
type DeviceSelector struct {
	Group      string    `json:"group,omitempty" doc:"In this group" example:"plant-3"`
	State      string    `json:"state,omitempty" enum:"registered,enrolled,suspended,lost,retired" doc:"In this state"`
	Profile    string    `json:"profile,omitempty" doc:"With this profile" example:"device"`
	Tag        string    `json:"tag,omitempty" doc:"With this tag: key, or key=value"`
	Issuer     string    `json:"issuer,omitempty" doc:"Holding a certificate of this CA, by name or id" example:"devices"`
	Algorithm  string    `json:"algorithm,omitempty" doc:"Holding a certificate for a key of this kind" example:"ec-p256"`
	SeenBefore time.Time `json:"seen_before,omitzero" doc:"Last heard of before this time, or never"`
	SeenAfter  time.Time `json:"seen_after,omitzero" doc:"Last heard of at this time or later"`
}

// CampaignPlan is what a campaign does.
type CampaignPlan struct {
	Name      string         `json:"name" minLength:"1" maxLength:"64" doc:"Its name, unique" example:"p384"`
	Select    DeviceSelector `json:"select" doc:"The devices, as they are when it is started; empty: all"`
	Action    string         `json:"action" enum:"renew,rekey,move" doc:"Another certificate; one for a new key; one by another CA" example:"rekey"`
	Algorithm string         `json:"algorithm,omitempty" maxLength:"32" doc:"With rekey: the kind of the new key" example:"ec-p384"`
	To        string         `json:"to,omitempty" maxLength:"64" doc:"With move: the CA, which the profiles must name by then"`
	Rate      string         `json:"rate" maxLength:"32" doc:"How many have their turn: percent per day or hour" example:"5%/day"`
	Window    string         `json:"window,omitempty" maxLength:"32" doc:"Times of day, UTC, between which turns come; the whole day when absent" example:"08:00-18:00"`
	MaxFailed string         `json:"max_failed" maxLength:"32" doc:"It pauses when more than so many of those that had their chance fail" example:"1%"`
	Deadline  time.Time      `json:"deadline" doc:"When it ends" example:"2027-03-01T00:00:00Z"`
	Grace     string         `json:"grace,omitempty" doc:"How long after its turn a device may still renew without what is demanded; 168h when absent" example:"168h"`
	Patience  string         `json:"patience,omitempty" doc:"When a device that was told and has no new certificate counts as failed; 72h when absent" example:"72h"`
	RevokeOld bool           `json:"revoke_old,omitempty" doc:"Revoke the old certificate once the new one was used; needs cert.revoke"`
	ByIssue   bool           `json:"by_issue,omitempty" doc:"Take the issue for success, for devices that are not seen to use their certificates"`
}

// Campaign is a campaign as it stands.
type Campaign struct {
	CampaignPlan
	ID       string           `json:"id" doc:"Its id" example:"6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c"`
	State    string           `json:"state" enum:"draft,approved,running,paused,done,aborted" doc:"Where it stands" example:"running"`
	Note     string           `json:"note,omitempty" doc:"Why it stands as it does"`
	Maker    string           `json:"maker" doc:"Who made it" example:"operator:6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c"`
	Approval string           `json:"approval,omitempty" doc:"The approval of a second person that it needs"`
	Created  time.Time        `json:"created" doc:"When it was made"`
	Started  time.Time        `json:"started,omitzero" doc:"When it was started"`
	Ended    time.Time        `json:"ended,omitzero" doc:"When it ended"`
	Released string           `json:"released" doc:"How many have had their turn" example:"35%"`
	LastTurn time.Time        `json:"last_turn,omitzero" doc:"When the last device has its turn, if nothing stops the campaign"`
	Filled   bool             `json:"filled" doc:"Whether all devices were taken in"`
	Progress CampaignProgress `json:"progress" doc:"How many devices stand where"`
}

// CampaignProgress is how many devices of a campaign stand where.
type CampaignProgress struct {
	Total   int64 `json:"total" doc:"All" example:"41230"`
	Waiting int64 `json:"waiting" doc:"For their turn, or for their asking" example:"26000"`
	Told    int64 `json:"told" doc:"Asked, were told, and have no new certificate yet" example:"120"`
	Issued  int64 `json:"issued" doc:"Have a new certificate and were not seen to use it" example:"12"`
	Closing int64 `json:"closing" doc:"Used it, and the old one is about to be revoked" example:"1"`
	Done    int64 `json:"done" doc:"Are done" example:"15000"`
	Failed  int64 `json:"failed" doc:"Failed" example:"7"`
	Skipped int64 `json:"skipped" doc:"Nothing is wanted of them as they are" example:"90"`
}

// CampaignList holds campaigns, the newest first.
type CampaignList struct {
	Campaigns []Campaign `json:"campaigns" doc:"The newest first"`
}

// CampaignDevice is a device in a campaign.
type CampaignDevice struct {
	Device   string    `json:"device" doc:"Id of the device" example:"6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c"`
	Name     string    `json:"name" doc:"Its name" example:"sensor-0017"`
	Standing string    `json:"standing" enum:"waiting,told,issued,closing,done,failed,skipped" doc:"Where it stands" example:"waiting"`
	Since    time.Time `json:"since" doc:"Since when"`
	Turn     time.Time `json:"turn" doc:"When its turn comes or came"`
	Wave     int64     `json:"wave" doc:"In which day or hour of the campaign that is, from 1" example:"3"`
	Waves    int64     `json:"waves" doc:"Of how many" example:"20"`
	Reason   string    `json:"reason,omitempty" doc:"Why it is not done" example:"its turn has not come: wave 3 of 20, about 2026-12-02 14:10 UTC"`
}

// CampaignDevicePage is a page of the devices of a campaign.
type CampaignDevicePage struct {
	Devices []CampaignDevice `json:"devices" doc:"By standing, and then in the order of their turns"`
	Next    string           `json:"next,omitempty" doc:"Cursor of the next page; absent at the end"`
}
