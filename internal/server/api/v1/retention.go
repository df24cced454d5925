package v1

import "time"

// Retention says what is kept of certificates for how long, and what left last.
type Retention struct {
	Hold     bool               `json:"hold" doc:"Nothing is deleted, whatever profiles say (retention.hold)"`
	AtLeast  string             `json:"at_least" doc:"For so long after its end a certificate stays in any case: as long as a revocation list is valid" example:"7d"`
	Profiles []RetentionProfile `json:"profiles" doc:"By name"`
	Months   []string           `json:"months,omitempty" doc:"Months of issue whose certificates have a place of their own; PostgreSQL only" example:"[\"2026-11\"]"`
	Last     []Purge            `json:"last" doc:"What left last, newest first"`
	Audit    *RetentionAudit    `json:"audit,omitempty" doc:"Of the audit record; absent for whoever may not read it"`
}

// RetentionAudit says how long entries of the audit record are kept, and what has left.
type RetentionAudit struct {
	Keep    string     `json:"keep,omitempty" doc:"For how long, by whole months (retention.audit); absent: for ever" example:"730d"`
	Entries int64      `json:"entries" doc:"In the record, those that have left included" example:"73895"`
	Until   string     `json:"until,omitempty" doc:"The month up to whose end entries have left; absent: none has" example:"2024-03"`
	At      *time.Time `json:"at,omitempty" doc:"When that was decided"`
	From    int64      `json:"from,omitempty" doc:"Verifications compare the tables with what was kept at this entry, and with all that follow" example:"72990"`
	Octets  int64      `json:"octets,omitempty" doc:"Of what was kept there" example:"131072"`
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
	Entries      int64    `json:"entries,omitempty" doc:"Entries of the audit record of which only the hashes are kept now" example:"72990"`
	Until        string   `json:"until,omitempty" doc:"The month up to whose end entries of the audit record left in this pass" example:"2024-03"`
}
