-- +goose Up

-- Cocoon keys that have a ticket, so that whoever asks again gets the same one. The answer is encrypted to the vehicle: nobody here can read it any more, and
-- which ticket it has stands nowhere. It goes after some days.
CREATE TABLE v2x_cocoon (
    cell   smallint NOT NULL,
    asked  bytea    NOT NULL, -- SHA-256 of the cocoon key
    answer bytea    NOT NULL, -- an AcaResponse
    hour   bigint   NOT NULL, -- of issue, UTC seconds
    PRIMARY KEY (cell, asked)
) /*sqlite: WITHOUT ROWID */;
