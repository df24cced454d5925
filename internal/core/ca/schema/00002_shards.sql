-- +goose Up

-- Into how many CRLs the revocations of a CA are divided; 0 for one list. It stands in the certificates and never changes.
ALTER TABLE ca_issuer ADD COLUMN shards integer NOT NULL DEFAULT 0;
