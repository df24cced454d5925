-- +goose Up

-- Tickets that were issued. There is nothing here of who has one: neither credentials nor their digests, and nothing that the enrolment authority keeps.
CREATE TABLE v2x_ticket (
    cell   smallint NOT NULL,
    key    bytea    NOT NULL, -- SHA-256 of the public key, compressed: each key has one ticket
    id     bytea    NOT NULL, -- HashedId8 of the certificate
    hour   bigint   NOT NULL, -- of issue, UTC seconds
    ends   bigint   NOT NULL, -- UTC seconds
    PRIMARY KEY (cell, key)
) /*sqlite: WITHOUT ROWID */;

-- Answers, for who sends the same request again. They are encrypted with keys that are not kept, and go after some minutes.
CREATE TABLE v2x_answer (
    cell    smallint NOT NULL,
    request bytea    NOT NULL, -- SHA-256
    answer  bytea    NOT NULL,
    at      bigint   NOT NULL,
    PRIMARY KEY (cell, request)
) /*sqlite: WITHOUT ROWID */;
