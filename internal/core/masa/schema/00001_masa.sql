-- +goose Up

-- Registrars that may ask for vouchers. A row stays when a registrar is removed, so that turn, the number of the change, goes on when it comes back.
CREATE TABLE masa_registrar (
    cell    smallint NOT NULL,
    name    text     NOT NULL,
    state   smallint NOT NULL, -- 1 registered, 2 removed
    grp     text     NOT NULL, -- only the devices of this group; '' = all
    offline smallint NOT NULL, -- 1: vouchers without nonce too
    created bigint   NOT NULL,
    turn    bigint   NOT NULL,
    PRIMARY KEY (cell, name)
) /*sqlite: WITHOUT ROWID */;

-- The certificates that their own lead to, or are, by SHA-256 of the subject.
CREATE TABLE masa_anchor (
    cell      smallint NOT NULL,
    subject   bytea    NOT NULL,
    print     bytea    NOT NULL, -- SHA-256 of the certificate
    registrar text     NOT NULL,
    der       bytea    NOT NULL,
    PRIMARY KEY (cell, subject, print)
) /*sqlite: WITHOUT ROWID */;

-- Every voucher there ever was, by product, numbered from 1. A row never changes and never leaves.
CREATE TABLE masa_voucher (
    cell      smallint NOT NULL,
    maker     text     NOT NULL,
    serial    text     NOT NULL,
    number    bigint   NOT NULL,
    issued    bigint   NOT NULL,
    expires   bigint   NOT NULL, -- 0: it does not, since it has a nonce
    registrar text     NOT NULL, -- '' = this platform's own
    domain    bytea    NOT NULL, -- RFC 8995, section 5.8.2
    nonce     bytea    NOT NULL, -- empty: it has none
    assertion text     NOT NULL,
    request   bytea    NOT NULL, -- SHA-256 of the request
    voucher   bytea    NOT NULL,
    PRIMARY KEY (cell, maker, serial, number)
) /*sqlite: WITHOUT ROWID */;
