package v1

import "time"

// Key is a private key of a CA, as far as others may know it.
type Key struct {
	ID         string    `json:"id" doc:"Id; that of a key in a token begins with pkcs11:" example:"9f40cb43a8d7f4d5"`
	CAs        []string  `json:"cas,omitempty" doc:"Names of the CAs that sign with it; absent when none does" example:"[\"devices\"]"`
	Custody    string    `json:"custody" doc:"Where it is kept" example:"file"`
	State      string    `json:"state" enum:"usable,missing,locked" doc:"usable; missing from where it is kept; locked: it, or where it is kept, cannot be used now"`
	Problem    string    `json:"problem,omitempty" doc:"Why it is not usable" example:"the token \"mooring\" is not there: plug it in, or correct keys.pkcs11.token"`
	Label      string    `json:"label,omitempty" doc:"What was written beside it when it was made; absent when it is not usable" example:"ca devices"`
	Algorithm  string    `json:"algorithm,omitempty" doc:"Kind of key; absent when it is not usable" example:"ec-p256"`
	Uses       int64     `json:"uses" doc:"Certificates signed with it; those of other nodes in the last hour may be missing" example:"4711"`
	StatusUses int64     `json:"status_uses" doc:"Revocation lists and status answers signed with it, in the same way" example:"1024"`
	Limit      *KeyLimit `json:"limit,omitempty" doc:"How often and how long it may sign certificates; absent when as it likes"`
}

// KeyLimit bounds the use of a key. When the first or the last of its bounds is reached, no certificate is signed any more; revocation lists and status
// answers are, and have a bound of their own.
type KeyLimit struct {
	MaxUses    int64      `json:"max_uses,omitempty" minimum:"0" maximum:"9007199254740992" doc:"How many certificates it may sign; 0 or absent: any number" example:"1000000"`
	StatusUses int64      `json:"status_uses,omitempty" minimum:"0" maximum:"9007199254740992" doc:"With max_uses, how many lists and status answers it may sign; 0 or absent: 1,000,000" example:"1000000"`
	Until      *time.Time `json:"until,omitempty" doc:"From when on it signs no certificate any more; absent: never" example:"2036-01-01T00:00:00Z"`
}

// SetKeyLimit is a limit as it was set.
type SetKeyLimit struct {
	KeyLimit
	Note string `json:"note,omitempty" doc:"What is to be known about it, such as that the CA issues nothing from now on" example:"from now on the CA issues nothing: its key has signed 17 certificates already"`
}

// KeyPage is one page of keys.
type KeyPage struct {
	Keys []Key  `json:"keys" doc:"By id"`
	Next string `json:"next,omitempty" doc:"The after of the next page; absent when this is the last"`
}
