-- +goose Up

-- The certification authorities. A row never changes.
CREATE TABLE ca_issuer (
  cell    smallint NOT NULL,
  id      bytea    NOT NULL,
  name    text     NOT NULL,
  parent  bytea    NOT NULL, -- id, empty for a root
  key     text     NOT NULL, -- where the custody keeps the private key
  der     bytea    NOT NULL,
  created bigint   NOT NULL,
  PRIMARY KEY (cell, id)
);
CREATE UNIQUE INDEX ca_issuer_name ON ca_issuer (cell, name);

-- Every version of a profile that was ever in use.
CREATE TABLE profile_version (
  cell    smallint NOT NULL,
  name    text     NOT NULL,
  version text     NOT NULL,
  yaml    text     NOT NULL,
  seen    bigint   NOT NULL,
  PRIMARY KEY (cell, name, version)
);

-- The certificates. Cell and day follow from the serial number. There is deliberately no index by device: a device's history is the chain
-- from its slot's serial number along prev_serial.
CREATE TABLE cert (
  cell        smallint NOT NULL,
  day         integer  NOT NULL,
  serial      bytea    NOT NULL,
  device      bytea    NOT NULL,
  slot        text     NOT NULL,
  issuer      bytea    NOT NULL,
  profile     text     NOT NULL,
  version     text     NOT NULL,
  prev_serial bytea    NOT NULL,
  not_before  bigint   NOT NULL,
  not_after   bigint   NOT NULL,
  spki        bytea    NOT NULL,
  der         bytea    NOT NULL,
  PRIMARY KEY (cell, day, serial)
);
