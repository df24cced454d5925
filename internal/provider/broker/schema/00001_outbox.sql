-- +goose Up

-- What brokers have yet to be told. There is one row for a broker and a thing, whatever was wanted last: so a row that is confirmed late tells whether it is
-- still the same wish.
CREATE TABLE broker_outbox (
    cell   smallint NOT NULL,
    broker text     NOT NULL,
    thing  text     NOT NULL,
    wish   smallint NOT NULL, -- 1 cut, 2 lift, 3 kick once more
    until  bigint   NOT NULL, -- of a ban, Unix seconds; 0 = for ever
    since  bigint   NOT NULL, -- when it was wished for, Unix milliseconds
    due    bigint   NOT NULL, -- not to be tried before, Unix milliseconds
    tries  integer  NOT NULL,
    turn   bytea    NOT NULL, -- another with each wish
    PRIMARY KEY (cell, broker, thing)
) /*sqlite: WITHOUT ROWID */;

CREATE INDEX broker_outbox_due ON broker_outbox (cell, broker, due);
