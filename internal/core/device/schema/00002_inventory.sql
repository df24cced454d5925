-- +goose Up

-- What is asked of a fleet and stands in the certificate: the id of the CA, and the kind of key ("ec-p256"). Both are empty for the birth
-- certificates of others. No index holds them: every enrolment would pay for it.
ALTER TABLE slot ADD COLUMN issuer bytea NOT NULL DEFAULT /*sqlite: x'' */ /*postgres: '' */;
ALTER TABLE slot ADD COLUMN alg text NOT NULL DEFAULT '';

-- The inventory: the registry once more, by columns, for searching (see inventory.go). A block holds the devices of a cell from the id
-- "first" up to the next block; each row is one column of one block.
CREATE TABLE inventory (
    cell  smallint NOT NULL,
    kind  smallint NOT NULL,
    first bytea    NOT NULL,
    data  bytea    NOT NULL,
    PRIMARY KEY (cell, kind, first)
) /*sqlite: WITHOUT ROWID */ /*postgres: WITH (fillfactor=50) */;

-- One row. epoch counts the changes to the inventory and is its lock; built says that every device is in it.
CREATE TABLE inventory_state (
    cell  smallint NOT NULL,
    epoch bigint   NOT NULL,
    built smallint NOT NULL,
    PRIMARY KEY (cell)
);

-- The processes that keep it. A row that stays behind after its process died says that the last changes may be missing.
CREATE TABLE inventory_node (
    cell smallint NOT NULL,
    node bytea    NOT NULL,
    at   bigint   NOT NULL,
    PRIMARY KEY (cell, node)
);

INSERT INTO inventory_state (cell, epoch, built) VALUES (0, 0, 0);
