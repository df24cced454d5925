-- +goose Up

-- Campaigns. turn counts the changes that have an entry in the record; filled and cursor say how far the search for the devices has come.
CREATE TABLE campaign (
    cell     smallint NOT NULL,
    id       bytea    NOT NULL,
    name     text     NOT NULL,
    turn     bigint   NOT NULL,
    state    smallint NOT NULL,
    spec     text     NOT NULL,
    maker    text     NOT NULL,
    created  bigint   NOT NULL,
    approval bytea    NOT NULL, -- of the second person, empty when none is needed
    started  bigint   NOT NULL,
    elapsed  bigint   NOT NULL, -- seconds that it has run for, without the stretch since resumed
    resumed  bigint   NOT NULL, -- since when it runs, 0 when it does not
    excused  bigint   NOT NULL, -- failures that a person has looked at
    note     text     NOT NULL,
    ended    bigint   NOT NULL,
    filled   smallint NOT NULL,
    cursor   text     NOT NULL,
    PRIMARY KEY (cell, id)
);
CREATE UNIQUE INDEX campaign_name ON campaign (cell, name);

-- The devices of a campaign. place is when a device's turn comes, as a fraction of 2^31 of the whole; base is the certificate that it had when
-- it was taken in.
CREATE TABLE campaign_device (
    cell     smallint NOT NULL,
    campaign bytea    NOT NULL,
    device   bytea    NOT NULL,
    place    bigint   NOT NULL,
    state    smallint NOT NULL,
    at       bigint   NOT NULL,
    base     bytea    NOT NULL,
    note     text     NOT NULL,
    PRIMARY KEY (cell, campaign, device)
) /*sqlite: WITHOUT ROWID */ /*postgres: WITH (fillfactor=70) */;
CREATE INDEX campaign_turn ON campaign_device (campaign, state, place, device);

-- How many devices of a campaign stand in each state, by cell so that nobody queues.
CREATE TABLE campaign_count (
    cell     smallint NOT NULL,
    campaign bytea    NOT NULL,
    state    smallint NOT NULL,
    n        bigint   NOT NULL,
    PRIMARY KEY (cell, campaign, state)
) /*sqlite: WITHOUT ROWID */ /*postgres: WITH (fillfactor=70) */;
