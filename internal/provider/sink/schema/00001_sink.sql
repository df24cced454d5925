-- +goose Up

-- How far each sink is that cannot keep that itself. born is when the stream was made: a stream that is made anew counts from 1 again.
CREATE TABLE sink_cursor (
    cell smallint NOT NULL,
    sink text     NOT NULL,
    born bigint   NOT NULL,
    seq  bigint   NOT NULL,
    PRIMARY KEY (cell, sink)
) /*sqlite: WITHOUT ROWID */;

-- Messages that a sink would not take. event is the message as JSON (CloudEvents 1.0).
CREATE TABLE sink_dead (
    cell   smallint NOT NULL,
    sink   text     NOT NULL,
    born   bigint   NOT NULL,
    seq    bigint   NOT NULL,
    at     bigint   NOT NULL, -- when it was given up, Unix seconds
    reason text     NOT NULL,
    event  bytea    NOT NULL,
    PRIMARY KEY (cell, sink, born, seq)
) /*sqlite: WITHOUT ROWID */;
