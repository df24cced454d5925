package v1

import "time"

// AnchorState says how far the fleet has come to trust a root that an older one vouches for. Only devices with a certificate count that are neither
// lost nor retired, each by its best evidence.
type AnchorState struct {
	Name        string `json:"name" doc:"Name of the root" example:"root-g2"`
	ID          string `json:"id" doc:"Id of the root" example:"0011223344556677"`
	Subject     string `json:"subject" doc:"Distinguished name (RFC 4514)" example:"CN=Example Root G2,O=Example"`
	Fingerprint string `json:"sha256" doc:"SHA-256 of its certificate"`
	None        int64  `json:"none" doc:"Devices without any evidence"`
	Delivered   int64  `json:"delivered" doc:"Devices that were handed the root and no more (grade 1)"`
	Reported    int64  `json:"reported" doc:"Devices that say that they trust it (grade 2)"`
	Proven      int64  `json:"proven" doc:"Devices that completed a handshake which only this root allows (grade 3)"`
}

// AnchorList holds the roots that the fleet has to come to trust.
type AnchorList struct {
	Anchors []AnchorState `json:"anchors" doc:"The oldest vouched for first; empty but for the time of a rollover"`
}

// MissingAnchor is a device of which there is not the evidence that was asked for.
type MissingAnchor struct {
	ID    string     `json:"id" doc:"Pseudonymous id" example:"6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c"`
	Name  string     `json:"name" doc:"Name" example:"sensor-0017"`
	Group string     `json:"group,omitempty" doc:"Group" example:"hall-3"`
	State string     `json:"state" doc:"Where it stands in its life" example:"enrolled"`
	Grade int        `json:"grade" doc:"The best evidence there is: 0 none, 1 delivered, 2 reported"`
	At    *time.Time `json:"at,omitempty" doc:"Since when there is it"`
}

// MissingAnchorPage is a page of devices. While Next is set there are more.
type MissingAnchorPage struct {
	Devices []MissingAnchor `json:"devices" doc:"In a stable order"`
	Next    string          `json:"next,omitempty" doc:"Cursor of the next page; absent at the end"`
}
