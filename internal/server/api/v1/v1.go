// Package v1 holds the messages of version 1 of the REST API: what stands in the bodies of requests and answers under /v1. The server
// (package api) and the typed client (package client) share them, and the OpenAPI document is generated from them.
//
// Conventions: JSON; times are RFC 3339 in UTC with whole seconds, and a time that does not apply is left out; lengths of time are written
// as Go does ("168h", "30m"); ids, serial numbers and digests are lower-case hexadecimal digits; certificates are PEM (RFC 7468). A page of a
// listing carries "next", which is the cursor of the page after it, and is empty at the end. Refusals are problem details (RFC 9457).
//
// A field is only ever added within a version. The package deliberately has no behaviour and knows no slice of the platform.
package v1

// Reason says why a certificate is revoked, or why a device is moved, which revokes what it holds.
type Reason struct {
	Reason string `json:"reason,omitempty" maxLength:"64" doc:"A name of RFC 5280, section 5.3.1; when absent, what goes with the act" example:"keyCompromise"`
}

// Progress is one line of a progress stream: so much is done of a total, which is 0 until it is known.
type Progress struct {
	Done  int64 `json:"done" doc:"How much is done" example:"250000"`
	Total int64 `json:"total" doc:"Of how much; 0 until that is known" example:"1000000"`
}

// Problem is why a request was refused (RFC 9457).
type Problem struct {
	Title  string  `json:"title" doc:"The status in words" example:"Forbidden"`
	Status int     `json:"status" doc:"The HTTP status" example:"403"`
	Detail string  `json:"detail" doc:"What is wrong and what to do" example:"this needs the permission device.write, which the role \"auditor\" does not have"`
	Errors []Field `json:"errors,omitempty" doc:"The parts of the request that are wrong"`
}

// Field names one part of a request that is wrong.
type Field struct {
	Where string `json:"where" doc:"Which part of the request" example:"body.name"`
	Text  string `json:"text" doc:"What is wrong with it" example:"expected length >= 1"`
}

// Who is the caller as the server knows it.
type Who struct {
	Actor       string   `json:"actor" doc:"As the audit record names you" example:"operator:6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c"`
	Kind        string   `json:"kind" enum:"operator,device,local,system,stranger" doc:"What you are" example:"operator"`
	ID          string   `json:"id" doc:"Your pseudonymous id" example:"6f0cbd0d7f3a4a7c9a2d5f9e7f1a2b3c"`
	Role        string   `json:"role" doc:"Your role; empty for none" example:"operator"`
	Via         string   `json:"via" doc:"The surface you came by" example:"api"`
	Permissions []string `json:"permissions" doc:"What your role may do" example:"[\"device.read\"]"`
}

// Version says what runs.
type Version struct {
	Version string `json:"version" doc:"Of the program" example:"0.2.0"`
	Commit  string `json:"commit,omitempty" doc:"The state of the source that it was built from" example:"dbdaf0e"`
	Go      string `json:"go" doc:"Of the compiler" example:"go1.26"`
	API     string `json:"api" doc:"Of this interface" example:"v1"`
}
