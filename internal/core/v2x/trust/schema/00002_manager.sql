-- +goose Up

-- Link certificates, by which a root or a trust list manager vouches for the one that follows it.
CREATE TABLE v2x_link (
    cell    smallint NOT NULL,
    new     bytea    NOT NULL, -- HashedId8 of the successor
    old     bytea    NOT NULL, -- HashedId8 of who vouches
    role    smallint NOT NULL, -- as in v2x_authority
    created bigint   NOT NULL, -- UTC seconds
    octets  bytea    NOT NULL, -- of a root: signed by both
    PRIMARY KEY (cell, new)
) /*sqlite: WITHOUT ROWID */;

-- The roots on the list of the trust list manager, those of others among them.
CREATE TABLE v2x_listed (
    cell      smallint NOT NULL,
    id        bytea    NOT NULL, -- HashedId8 of the root's certificate
    cert      bytea    NOT NULL,
    successor bytea    NOT NULL, -- certificate of the root that it follows; empty: none
    url       text     NOT NULL, -- of the distribution centre of its lists
    created   bigint   NOT NULL, -- UTC seconds
    PRIMARY KEY (cell, id)
) /*sqlite: WITHOUT ROWID */;
