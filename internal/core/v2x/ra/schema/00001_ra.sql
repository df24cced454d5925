-- +goose Up

-- Requests of stations for tickets by butterfly keys: who asks, what is expanded, and which periods were planned. There is nothing here of tickets: their keys are those
-- that can be computed from this plus a random one that the authorization authority chose (except where v2x.strict says otherwise).
CREATE TABLE v2x_order (
    cell        smallint NOT NULL,
    id          bytea    NOT NULL, -- the last octets of the SHA-256 of the request, by which archives are named
    digest      bytea    NOT NULL, -- the SHA-256
    device      bytea    NOT NULL,
    signer      bytea    NOT NULL, -- HashedId8 of the enrolment credential
    caterpillar bytea    NOT NULL, -- EeRaCertRequest
    tickets     bigint   NOT NULL, -- in each period
    created     bigint   NOT NULL, -- UTC seconds
    until       bigint   NOT NULL, -- the end of the credential, UTC seconds
    first       bigint   NOT NULL, -- period
    next        bigint   NOT NULL, -- the first period that was not planned yet
    ended       bigint   NOT NULL, -- another request took its place: UTC seconds; 0: none
    answer      bytea    NOT NULL,
    PRIMARY KEY (cell, id)
) /*sqlite: WITHOUT ROWID */;
CREATE INDEX v2x_order_device ON v2x_order (device, id);
CREATE INDEX v2x_order_next ON v2x_order (next, id);

-- Caterpillar keys: each is good for one request.
CREATE TABLE v2x_caterpillar (
    cell  smallint NOT NULL,
    key   bytea    NOT NULL, -- SHA-256 of the public key, compressed
    id    bytea    NOT NULL, -- of the request
    until bigint   NOT NULL, -- UTC seconds
    PRIMARY KEY (cell, key)
) /*sqlite: WITHOUT ROWID */;

-- Tickets that were planned and counted, and wait until they are asked for together with those of other stations, or until all of their period are there.
CREATE TABLE v2x_waiting (
    cell   smallint NOT NULL,
    id     bytea    NOT NULL, -- of the request
    i      bigint   NOT NULL,
    j      bigint   NOT NULL,
    since  bigint   NOT NULL, -- UTC seconds
    answer bytea    NOT NULL, -- a message for the station; '' while there is none
    PRIMARY KEY (cell, id, i, j)
) /*sqlite: WITHOUT ROWID */;
CREATE INDEX v2x_waiting_since ON v2x_waiting (since, id, i, j);

-- What stations fetch: the tickets of a period, encrypted to the station.
CREATE TABLE v2x_archive (
    cell   smallint NOT NULL,
    id     bytea    NOT NULL,
    i      bigint   NOT NULL,
    made   bigint   NOT NULL, -- UTC seconds
    ends   bigint   NOT NULL, -- of the period, UTC seconds
    octets bytea    NOT NULL,
    PRIMARY KEY (cell, id, i)
) /*sqlite: WITHOUT ROWID */;
