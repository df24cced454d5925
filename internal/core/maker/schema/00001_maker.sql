-- +goose Up

-- Manufacturers whose devices prove who they are by certificates that they were made with. A row stays when a manufacturer is removed, so that
-- turn, the number of the change, goes on when it comes back.
CREATE TABLE maker (
    cell         smallint NOT NULL,
    name         text     NOT NULL,
    state        smallint NOT NULL, -- 1 registered, 2 removed
    organization text     NOT NULL,
    timeless     smallint NOT NULL, -- 1: the ends of its certificates mean nothing
    created      bigint   NOT NULL,
    turn         bigint   NOT NULL,
    PRIMARY KEY (cell, name)
) /*sqlite: WITHOUT ROWID */;

-- Their CA certificates, by SHA-256 of the subject as it stands in what they issued. Two may have one CA when the organization tells them apart.
CREATE TABLE maker_anchor (
    cell    smallint NOT NULL,
    subject bytea    NOT NULL,
    print   bytea    NOT NULL, -- SHA-256 of the certificate
    maker   text     NOT NULL,
    der     bytea    NOT NULL,
    PRIMARY KEY (cell, subject, print, maker)
) /*sqlite: WITHOUT ROWID */;
