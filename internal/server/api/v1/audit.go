package v1

import "time"

// Entry is one entry of the audit record, in its place.
type Entry struct {
	Index   int64             `json:"index" doc:"Its place in the record" example:"73894"`
	At      time.Time         `json:"at" doc:"When"`
	Action  string            `json:"action" doc:"What" example:"cert.issue"`
	Actor   string            `json:"actor" doc:"Who" example:"operator:6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c"`
	Device  string            `json:"device,omitempty" doc:"Id of the device that it concerns"`
	Serial  string            `json:"serial,omitempty" doc:"Serial number of the certificate that it concerns"`
	Object  string            `json:"object,omitempty" doc:"What else it was done to"`
	Refused string            `json:"refused,omitempty" doc:"Why it was not done; absent when it was"`
	Detail  map[string]string `json:"detail,omitempty" doc:"Further facts"`
}

// EntryPage is a page of the audit record.
type EntryPage struct {
	Entries []Entry `json:"entries" doc:"In the order that was asked for"`
	Next    int64   `json:"next,omitempty" doc:"The value of after for the next page; absent at the end" example:"73895"`
}

// Checkpoint is the newest signed head of the record.
type Checkpoint struct {
	Size       int64  `json:"size" doc:"How many entries it covers" example:"73895"`
	Checkpoint string `json:"checkpoint" doc:"A signed note (c2sp.org/tlog-checkpoint): keep it elsewhere"`
}

// Proof shows that an entry stands in the record, to somebody who has only the record's public key.
type Proof struct {
	Index int64  `json:"index" doc:"Its place in the record" example:"73894"`
	Entry string `json:"entry,omitempty" doc:"The entry, exactly the octets that were hashed; absent when it has left"`
	Leaf  string `json:"leaf" doc:"The entry's hash, base64 (RFC 6962, section 2.1)"`
	// Left is set when only the hash is left.
	Left  *time.Time `json:"left,omitempty" doc:"When it was decided by policy (retention.audit) that the entry leaves; only its hash is proven then"`
	Proof string     `json:"proof" doc:"The proof (c2sp.org/tlog-proof)"`
}

// Verify asks for everything to be recomputed and compared.
type Verify struct {
	Known []string `json:"known,omitempty" maxItems:"100" doc:"Checkpoints that were kept elsewhere: the record must contain them"`
}

// VerifyLine is one line of the answer to Verify. Exactly one of its fields is set, and the last line has Report or Error.
type VerifyLine struct {
	Progress *Progress     `json:"progress,omitempty" doc:"So much is done"`
	Report   *VerifyReport `json:"report,omitempty" doc:"What was found"`
	Error    *Problem      `json:"error,omitempty" doc:"Why it could not be verified"`
}

// VerifyReport is what Verify found.
type VerifyReport struct {
	Sound      bool      `json:"sound" doc:"Everything fits"`
	Entries    int64     `json:"entries" doc:"Entries in the record" example:"73895"`
	Pending    int64     `json:"pending" doc:"Written meanwhile, and so not verified" example:"0"`
	Root       string    `json:"root" doc:"The root as recomputed, base64"`
	Checkpoint int64     `json:"checkpoint" doc:"Entries under the newest valid checkpoint" example:"73895"`
	Replayed   int64     `json:"replayed,omitempty" doc:"The tables were compared with what was kept when the record had so many entries, and with all that follow; absent: with all entries" example:"73000"`
	Left       int64     `json:"left,omitempty" doc:"Entries that have left (retention.audit), of which only the hashes were verified" example:"72990"`
	Findings   []Finding `json:"findings,omitempty" doc:"What does not fit, at most 100"`
	More       bool      `json:"more,omitempty" doc:"There were further findings"`
}

// Finding names one thing that does not fit.
type Finding struct {
	Table  string `json:"table" doc:"Where the damage is" example:"device"`
	Index  int64  `json:"index" doc:"Of the entry; -1 when it concerns no single one" example:"-1"`
	Action string `json:"action,omitempty" doc:"Of the entry, where it can be read"`
	Batch  string `json:"batch,omitempty" doc:"Where the entry was written: stream/seq/part"`
	Text   string `json:"text" doc:"In one line, with everything above"`
}
