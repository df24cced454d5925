-- +goose Up

-- The certificates of roots and authorities that this store knows: those whose keys are here, and those that its root issued to others.
CREATE TABLE v2x_authority (
    cell    smallint NOT NULL,
    id      bytea    NOT NULL, -- HashedId8 of the certificate
    role    smallint NOT NULL, -- 1 root, 2 enrolment authority, 3 authorization authority
    name    text     NOT NULL,
    own     text     NOT NULL, -- custody's id of the private key; '' = it is not here
    secret  text     NOT NULL, -- name of the secret that the key for decryption comes from; '' = it is not here
    cert    bytea    NOT NULL,
    url     text     NOT NULL, -- where stations reach it, for the trust list
    peer    text     NOT NULL, -- where authorization authorities reach it
    created bigint   NOT NULL, -- UTC seconds
    revoked bigint   NOT NULL, -- UTC seconds; 0: it is not
    PRIMARY KEY (cell, id)
) /*sqlite: WITHOUT ROWID */;

-- Keys for which a certificate was asked, until it is there.
CREATE TABLE v2x_pending (
    cell    smallint NOT NULL,
    spki    bytea    NOT NULL, -- SHA-256 of the public key, compressed
    role    smallint NOT NULL,
    name    text     NOT NULL,
    own     text     NOT NULL,
    secret  text     NOT NULL,
    created bigint   NOT NULL,
    PRIMARY KEY (cell, spki)
) /*sqlite: WITHOUT ROWID */;

-- The lists of roots, as they are given out. The newest full list and revocation list of a root are in force; deltas stay for those who come late.
CREATE TABLE v2x_list (
    cell    smallint NOT NULL,
    root    bytea    NOT NULL, -- HashedId8
    kind    smallint NOT NULL, -- 1 full trust list, 2 delta, 3 revocation list
    number  bigint   NOT NULL, -- from 0; of trust lists, its last octet is the sequence number
    created bigint   NOT NULL,
    ends    bigint   NOT NULL,
    octets  bytea    NOT NULL,
    PRIMARY KEY (cell, root, kind, number)
) /*sqlite: WITHOUT ROWID */;
