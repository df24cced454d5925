-- +goose Up

-- The best evidence that a device trusts a root, and since when there is it. Rows change only when there is better evidence. Apart from device
-- for the reason that last_seen is.
CREATE TABLE anchor_seen (
    cell   smallint NOT NULL,
    device bytea    NOT NULL,
    anchor bytea    NOT NULL, -- id of the root
    grade  smallint NOT NULL,
    at     bigint   NOT NULL,
    PRIMARY KEY (cell, device, anchor)
) /*sqlite: WITHOUT ROWID */ /*postgres: WITH (fillfactor=80) */;
