-- +goose Up

-- The row of a device is the lock for everything about that device. Issuing changes only state, issued, updated and token_used, and no
-- index holds any of these.
CREATE TABLE device (
    cell        smallint NOT NULL,
    id          bytea    NOT NULL,
    state       smallint NOT NULL,
    policy      bigint   NOT NULL,
    name        text     NOT NULL,
    names       text     NOT NULL DEFAULT '',
    grp         text     NOT NULL DEFAULT '',
    tags        text     NOT NULL DEFAULT '',
    profile     text     NOT NULL,
    issued      bigint   NOT NULL DEFAULT 0,
    token       bytea    NOT NULL,
    token_until bigint   NOT NULL DEFAULT 0,
    token_used  bigint   NOT NULL DEFAULT 0,
    created     bigint   NOT NULL,
    updated     bigint   NOT NULL,
    PRIMARY KEY (cell, id)
) /*sqlite: WITHOUT ROWID */ /*postgres: WITH (fillfactor=80) */;

CREATE INDEX device_grp ON device (grp, cell, id);

-- One row per device and purpose. grp repeats device.grp, so that what expires soon in one group is one index range.
CREATE TABLE slot (
    cell        smallint NOT NULL,
    device      bytea    NOT NULL,
    slot        text     NOT NULL,
    serial      bytea    NOT NULL,
    prev_serial bytea    NOT NULL,
    not_after   bigint   NOT NULL DEFAULT 0,
    spki        bytea    NOT NULL,
    request     bytea    NOT NULL,
    revoked     bigint   NOT NULL DEFAULT 0,
    grp         text     NOT NULL DEFAULT '',
    fingerprint bytea    NOT NULL,
    PRIMARY KEY (cell, device, slot)
) /*sqlite: WITHOUT ROWID */ /*postgres: WITH (fillfactor=80) */;

CREATE INDEX slot_grp_expiry ON slot (grp, not_after, cell, device) WHERE revoked = 0;
CREATE INDEX slot_expiry ON slot (not_after, cell, device) WHERE revoked = 0;

-- Birth certificates of other authorities, by SHA-256 of the certificate. cell is the fingerprint's first octet.
CREATE TABLE birth (
    cell        smallint NOT NULL,
    fingerprint bytea    NOT NULL,
    device_cell smallint NOT NULL,
    device      bytea    NOT NULL,
    PRIMARY KEY (cell, fingerprint)
) /*sqlite: WITHOUT ROWID */;

-- Apart from device, so that a fleet that reports in never dirties the rows that issuing locks.
CREATE TABLE last_seen (
    cell smallint NOT NULL,
    id   bytea    NOT NULL,
    at   bigint   NOT NULL,
    PRIMARY KEY (cell, id)
) /*sqlite: WITHOUT ROWID */ /*postgres: WITH (fillfactor=80) */;
