package v1

import "time"

// Status is how the platform does, in a few numbers. Counts are since the start of this process.
type Status struct {
	Version   Version    `json:"version" doc:"What runs"`
	Started   time.Time  `json:"started" doc:"When this process began"`
	Ready     Readiness  `json:"ready" doc:"Whether it can do its work"`
	Issued    uint64     `json:"issued" doc:"Certificates signed" example:"12"`
	Listeners []Listener `json:"listeners" doc:"Where it listens"`
	Counts    []Count    `json:"counts" doc:"What else is counted, by name"`
}

// Listener is one address that the server listens on.
type Listener struct {
	Name       string            `json:"name" doc:"The surface" example:"est"`
	Address    string            `json:"address" doc:"Where" example:"[::]:8443"`
	Open       int               `json:"open" doc:"Connections now" example:"3"`
	Accepted   uint64            `json:"accepted" doc:"Connections accepted" example:"1024"`
	Handshakes uint64            `json:"handshakes" doc:"Finished TLS handshakes" example:"1000"`
	Resumed    uint64            `json:"resumed" doc:"Those of them that resumed a session" example:"12"`
	Refused    map[string]uint64 `json:"refused,omitempty" doc:"Refused, by cause"`
}

// Count is one number with its name.
type Count struct {
	Name  string  `json:"name" doc:"As in /metrics, with its labels" example:"mooring_enrol_batches_total"`
	Value float64 `json:"value" doc:"Value" example:"7"`
}

// Readiness says whether the server can do its work.
type Readiness struct {
	Ready  bool    `json:"ready" doc:"All checks passed"`
	Checks []Check `json:"checks" doc:"Each check"`
}

// Check is one condition of readiness.
type Check struct {
	Name string `json:"name" doc:"What was checked" example:"database"`
	OK   bool   `json:"ok" doc:"Whether it is as it should be"`
	Text string `json:"text,omitempty" doc:"What is wrong, in general terms" example:"the last write could not be stored"`
}
