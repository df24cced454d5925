-- +goose Up

-- Who may publish and subscribe where, in every version that was ever set. The newest one holds.
CREATE TABLE message_policy (
    cell    smallint NOT NULL,
    version bigint   NOT NULL, -- from 1
    text    text     NOT NULL,
    who     text     NOT NULL,
    at      bigint   NOT NULL,
    PRIMARY KEY (cell, version)
) /*sqlite: WITHOUT ROWID */;

-- The processes that hold connections, and when each was heard of last. Whoever leads says the wills of those that are gone.
CREATE TABLE message_node (
    cell smallint NOT NULL,
    node text     NOT NULL,
    at   bigint   NOT NULL,
    PRIMARY KEY (cell, node)
) /*sqlite: WITHOUT ROWID */;
