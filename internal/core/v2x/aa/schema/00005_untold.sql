-- +goose Up

-- The tickets that the record does not name yet. It does so when the hour is over, for all of them at once and in the order of their digests. An index of v2x_ticket said which
-- they are, each ticket was written once more when it was named, and its hour stayed with it until it ended.
CREATE TABLE v2x_untold (
    cell smallint NOT NULL,
    hour bigint   NOT NULL, -- of issue, UTC seconds
    id   bytea    NOT NULL, -- HashedId8 of the certificate
    PRIMARY KEY (cell, hour, id)
) /*sqlite: WITHOUT ROWID */;
INSERT INTO v2x_untold (cell, hour, id) SELECT cell, hour, id FROM v2x_ticket WHERE told = 0;
DROP INDEX v2x_ticket_untold;
ALTER TABLE v2x_ticket DROP COLUMN told;
ALTER TABLE v2x_ticket DROP COLUMN hour;
