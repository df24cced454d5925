-- +goose Up

-- The inventory has become smaller, and its rows are six parts of a block instead of twelve columns. It is made anew from the registry. In SQLite
-- it has row ids now: an index that holds large values has all of them read while it looks for one.
DROP TABLE inventory;

CREATE TABLE inventory (
    cell  smallint NOT NULL,
    kind  smallint NOT NULL,
    first bytea    NOT NULL,
    data  bytea    NOT NULL,
    PRIMARY KEY (cell, kind, first)
) /*postgres: WITH (fillfactor=50) */;

-- PostgreSQL would spend more on compressing these small columns, and on opening them again for each search, than it saves.
/*postgres: ALTER TABLE inventory ALTER COLUMN data SET STORAGE EXTERNAL; */

UPDATE inventory_state SET epoch = epoch + 1, built = 0 WHERE cell = 0;
