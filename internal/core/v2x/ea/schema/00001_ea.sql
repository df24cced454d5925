-- +goose Up

-- Enrolment credentials. There is nothing here of tickets: neither their keys nor the tags of their requests.
CREATE TABLE v2x_credential (
    cell    smallint NOT NULL,
    id      bytea    NOT NULL, -- HashedId8 of the certificate
    device  bytea    NOT NULL,
    cert    bytea    NOT NULL,
    issued  bigint   NOT NULL, -- UTC seconds
    expires bigint   NOT NULL,
    PRIMARY KEY (cell, id)
) /*sqlite: WITHOUT ROWID */;

-- Keys that had a credential: each key has one.
CREATE TABLE v2x_credential_key (
    cell    smallint NOT NULL,
    key     bytea    NOT NULL, -- SHA-256 of the public key, compressed
    expires bigint   NOT NULL,
    PRIMARY KEY (cell, key)
) /*sqlite: WITHOUT ROWID */;

-- Answers to enrolments, for who sends the same request again.
CREATE TABLE v2x_enrolment (
    cell    smallint NOT NULL,
    request bytea    NOT NULL, -- SHA-256
    answer  bytea    NOT NULL,
    at      bigint   NOT NULL,
    PRIMARY KEY (cell, request)
) /*sqlite: WITHOUT ROWID */;

-- The row that whoever counts tickets of a station writes first, so that nobody else counts at the same time.
CREATE TABLE v2x_station (
    cell    smallint NOT NULL,
    device  bytea    NOT NULL,
    turn    bigint   NOT NULL,
    PRIMARY KEY (cell, device)
) /*sqlite: WITHOUT ROWID */;

-- How many tickets of a station are valid when.
CREATE TABLE v2x_interval (
    cell    smallint NOT NULL,
    device  bytea    NOT NULL,
    start   bigint   NOT NULL, -- seconds as certificates have them
    ends    bigint   NOT NULL, -- exclusive
    tickets bigint   NOT NULL,
    PRIMARY KEY (cell, device, start, ends)
) /*sqlite: WITHOUT ROWID */;

-- Validations that were counted, so that one that is asked for again is not counted again. It says nothing of the station, and goes after some minutes.
CREATE TABLE v2x_validation (
    cell    smallint NOT NULL,
    digest  bytea    NOT NULL, -- SHA-256 of the encrypted signature and what it signs
    start   bigint   NOT NULL,
    ends    bigint   NOT NULL,
    at      bigint   NOT NULL,
    PRIMARY KEY (cell, digest)
) /*sqlite: WITHOUT ROWID */;
