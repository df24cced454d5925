-- +goose Up

-- Public keys that were reported as compromised: nobody gets a certificate for one of them again.
CREATE TABLE blocked_key (
  cell   smallint NOT NULL, -- the first octet of spki
  spki   bytea    NOT NULL, -- SHA-256 of the key, as in certificates
  at     bigint   NOT NULL, -- when the certificate below was revoked, UTC seconds
  serial bytea    NOT NULL, -- of the certificate whose revocation blocked the key
  PRIMARY KEY (cell, spki)
) /*sqlite: WITHOUT ROWID */;
