package v1

import "time"

// Job is work on many things at once, in the background.
type Job struct {
	ID        string    `json:"id" doc:"Id" example:"6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c"`
	Kind      string    `json:"kind" doc:"What it does" example:"revoke"`
	State     string    `json:"state" enum:"draft,waiting,scheduled,running,paused,done,aborted,failed" doc:"Where it stands" example:"running"`
	Title     string    `json:"title" doc:"What it does, for people" example:"revoke group plant-4 (keyCompromise)"`
	Unit      string    `json:"unit" doc:"What its items are" example:"certificates"`
	Params    string    `json:"params" doc:"What it was made with, JSON"`
	Sample    []string  `json:"sample" doc:"Some of its items"`
	Ready     bool      `json:"ready" doc:"All its items are known; until then total grows"`
	Total     int64     `json:"total" doc:"Items" example:"100000"`
	Done      int64     `json:"done" doc:"Of these, done" example:"52000"`
	Skipped   int64     `json:"skipped" doc:"Of these, those that needed nothing any more" example:"12"`
	Failed    int64     `json:"failed" doc:"Of these, failed; results says why" example:"0"`
	Rate      float64   `json:"rate" doc:"Items a second" example:"2500"`
	Left      string    `json:"left,omitempty" doc:"How long it will probably still take" example:"19s"`
	Maker     string    `json:"maker" doc:"Who made it" example:"operator:6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c"`
	AskAbove  int64     `json:"ask_above" doc:"With more items a second person must agree; -1: never" example:"100"`
	Undo      string    `json:"undo" doc:"How long it waits between start and first deed" example:"10m0s"`
	NotBefore time.Time `json:"not_before,omitzero" doc:"Nothing is done before"`
	Created   time.Time `json:"created" doc:"When it was made"`
	Began     time.Time `json:"began,omitzero" doc:"When the first deed could be done"`
	Ended     time.Time `json:"ended,omitzero" doc:"When it ended"`
	Note      string    `json:"note,omitempty" doc:"Why it stands as it does, or what was left out"`
}

// JobPage is a page of jobs. While Next is set there are more.
type JobPage struct {
	Jobs []Job  `json:"jobs" doc:"Newest first"`
	Next string `json:"next,omitempty" doc:"Cursor of the next page; absent at the end"`
}

// JobResult is what became of one item of a job.
type JobResult struct {
	N    int64  `json:"n" doc:"Its number among the results"`
	OK   bool   `json:"ok" doc:"It was done"`
	Item string `json:"item" doc:"Which one" example:"4165a1b2c3d4e5f60718293a4b5c6d7e"`
	Text string `json:"text,omitempty" doc:"Why it failed, or what came of it"`
}

// JobResults are results of a job.
type JobResults struct {
	Results []JobResult `json:"results" doc:"In the order of the work"`
	Next    int64       `json:"next,omitempty" doc:"Where to go on; absent at the end"`
}

// NewRevocation asks for the revocation of every certificate that fits. Fields that are given must all fit.
type NewRevocation struct {
	Group      string `json:"group,omitempty" maxLength:"255" doc:"Of devices in this group" example:"plant-4"`
	State      string `json:"state,omitempty" maxLength:"64" doc:"Of devices in this state" example:"enrolled"`
	Tag        string `json:"tag,omitempty" maxLength:"512" doc:"Of devices with this tag: key, or key=value" example:"model=m1"`
	Profile    string `json:"profile,omitempty" maxLength:"64" doc:"Of this profile" example:"device"`
	Issuer     string `json:"issuer,omitempty" maxLength:"64" doc:"By this CA: name or id" example:"devices"`
	Everything bool   `json:"everything,omitempty" doc:"Needed for a filter that fits everything there is"`
	Reason     string `json:"reason,omitempty" maxLength:"64" doc:"A name of RFC 5280, section 5.3.1" example:"keyCompromise"`
	Undo       string `json:"undo,omitempty" maxLength:"32" doc:"How long it waits, visibly, before anything is done; jobs.undo when absent" example:"10m"`
	Start      bool   `json:"start,omitempty" doc:"Start as soon as it is known what it fits; else it stays a draft, to be looked at"`
}

// NewMove asks for the same move of every device that fits. Fields that are given must all fit.
type NewMove struct {
	Move       string `json:"move" enum:"suspend,resume,lost,retire" doc:"What is to be done" example:"suspend"`
	Group      string `json:"group,omitempty" maxLength:"255" doc:"In this group" example:"plant-4"`
	State      string `json:"state,omitempty" maxLength:"64" doc:"In this state" example:"enrolled"`
	Tag        string `json:"tag,omitempty" maxLength:"512" doc:"With this tag: key, or key=value" example:"model=m1"`
	Profile    string `json:"profile,omitempty" maxLength:"64" doc:"With this profile" example:"device"`
	Everything bool   `json:"everything,omitempty" doc:"Needed for a filter that fits everything there is"`
	Reason     string `json:"reason,omitempty" maxLength:"64" doc:"A name of RFC 5280, section 5.3.1; when absent, what goes with the move" example:"keyCompromise"`
	Undo       string `json:"undo,omitempty" maxLength:"32" doc:"How long it waits, visibly, before anything is done; jobs.undo when absent" example:"10m"`
	Start      bool   `json:"start,omitempty" doc:"Start as soon as it is known what it fits; else it stays a draft, to be looked at"`
}

// Approval is something that a second person must agree to.
type Approval struct {
	ID        string    `json:"id" doc:"Id" example:"0d7f3a4a7c9a2d5f9e7f1a2b3c6f0cbd"`
	Kind      string    `json:"kind" doc:"What is to be done" example:"revoke"`
	Object    string    `json:"object" doc:"To what" example:"job 6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c"`
	Digest    string    `json:"digest" doc:"SHA-256 of everything that it depends on"`
	Summary   string    `json:"summary" doc:"The same for people" example:"revoke group plant-4 (keyCompromise): 100000 certificates"`
	Needs     string    `json:"needs" doc:"The permission that whoever agrees needs besides approve.grant" example:"cert.revoke"`
	State     string    `json:"state" enum:"waiting,granted,refused,spent" doc:"Where it stands" example:"waiting"`
	Requester string    `json:"requester" doc:"Who asked; this person cannot agree" example:"operator:6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c"`
	Created   time.Time `json:"created" doc:"When it was asked for"`
	Expires   time.Time `json:"expires" doc:"When the request and its grant end"`
	Decided   time.Time `json:"decided,omitzero" doc:"When it was decided"`
	Decider   string    `json:"decider,omitempty" doc:"Who decided"`
	Spent     time.Time `json:"spent,omitzero" doc:"When it was used"`
}

// ApprovalList holds approvals.
type ApprovalList struct {
	Approvals []Approval `json:"approvals" doc:"Newest first"`
}

// ExportLine is one line of the answer to an export. Exactly one of its fields is set, and the last line has Manifest or Error: a stream that
// ends without either was cut off.
type ExportLine struct {
	Rows     int64    `json:"rows,omitempty" doc:"So many rows are read"`
	Data     string   `json:"data,omitempty" doc:"A piece of the file"`
	Manifest string   `json:"manifest,omitempty" doc:"The signed manifest: it is complete"`
	Error    *Problem `json:"error,omitempty" doc:"It could not be made"`
}
