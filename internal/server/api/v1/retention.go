package v1

import "time"

// Retention says what is kept of certificates for how long, and what left last.
type Retention struct {
	Hold     bool               `json:"hold" doc:"Nothing is deleted, whatever profiles say (retention.hold)"`
	AtLeast  string             `json:"at_least" doc:"For so long after its end a certificate stays in any case: as long as a revocation list is valid" example:"7d"`
	Profiles []RetentionProfile `json:"profiles" doc:"By name"`
	Months   []string           `json:"months,omitempty" doc:"Months of issue whose certificates have a place of their own; PostgreSQL only" example:"[\"2026-11\"]"`
	Last     []Purge            `json:"last" doc:"What left last, newest first"`
}

// RetentionProfile is what a profile says.
type RetentionProfile struct {
	Name      string `json:"name" doc:"Name of the profile" example:"device"`
	Record    string `json:"record" enum:"full,brief,ephemeral" doc:"What is kept of each certificate"`
	Retention string `json:"retention,omitempty" doc:"How long after its end a certificate is kept; absent when none is" example:"1y"`
}

// Purge tells of certificates that left.
type Purge struct {
	At           time.Time `json:"at" doc:"When"`
	What         string    `json:"what" doc:"The month of their issue, or long for those that were kept for years" example:"2024-03"`
	Certificates int64     `json:"certificates" doc:"How many" example:"10000"`
	Whole        bool      `json:"whole,omitempty" doc:"The month left as a whole"`
	Index        int64     `json:"index" doc:"Place of the entry in the audit record"`
}

// RetentionRun is what one pass did.
type RetentionRun struct {
	Certificates int64    `json:"certificates" doc:"How many left" example:"10000"`
	Months       []string `json:"months,omitempty" doc:"Months that left as a whole" example:"[\"2024-03\"]"`
}
