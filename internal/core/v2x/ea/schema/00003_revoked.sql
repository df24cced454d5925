-- +goose Up

-- Enrolment credentials that were revoked by themselves. Those of a station that is stopped in the registry are not here.
CREATE TABLE v2x_credential_revoked (
    cell   smallint NOT NULL,
    id     bytea    NOT NULL, -- of the credential
    at     bigint   NOT NULL, -- UTC seconds
    PRIMARY KEY (cell, id)
) /*sqlite: WITHOUT ROWID */;
