-- +goose Up

-- Revocations and holds, by serial number. A released hold stays as a row with reason 8 (removeFromCRL), since a delta list must tell of it
-- and its number must not be given again.
CREATE TABLE revoked (
  cell      smallint NOT NULL,
  serial    bytea    NOT NULL,
  issuer    bytea    NOT NULL,
  crl_shard integer  NOT NULL,
  at        bigint   NOT NULL, -- UTC seconds; of the first hold when a hold became final
  reason    smallint NOT NULL,
  not_after bigint   NOT NULL, -- of the certificate
  device    bytea    NOT NULL,
  origin    smallint NOT NULL, -- 0 the certificate by itself, 1 together with its device
  turn      integer  NOT NULL, -- how often the row was written
  change    bigint   NOT NULL, -- the number of the latest change within issuer and shard, see crl_scope
  PRIMARY KEY (cell, serial)
) /*sqlite: WITHOUT ROWID */;

-- What is new since a change, and all of a list, in the order in which it was committed.
CREATE UNIQUE INDEX revoked_change ON revoked (issuer, crl_shard, change);

-- One row for each list. It is locked by whoever adds to the list and whoever makes it, so that both numbers follow the order of the commits.
CREATE TABLE crl_scope (
  cell    smallint NOT NULL,
  issuer  bytea    NOT NULL,
  shard   integer  NOT NULL,
  changes bigint   NOT NULL, -- how many changes there were
  number  bigint   NOT NULL, -- the last CRL number that was given out
  PRIMARY KEY (cell, issuer, shard)
) /*sqlite: WITHOUT ROWID */ /*postgres: WITH (fillfactor=80) */;

-- The list that is published now. It stands apart from crl_scope, so that counting does not rewrite it.
CREATE TABLE crl (
  cell           smallint NOT NULL,
  issuer         bytea    NOT NULL,
  shard          integer  NOT NULL,
  number         bigint   NOT NULL,
  this_update    bigint   NOT NULL,
  next_update    bigint   NOT NULL,
  covers         bigint   NOT NULL, -- the changes up to this one are in it
  regular_update bigint   NOT NULL, -- this_update of the last list that was made on schedule and not because of a change
  regular_covers bigint   NOT NULL,
  digest         bytea    NOT NULL, -- SHA-256 of der
  der            bytea    NOT NULL,
  PRIMARY KEY (cell, issuer, shard)
);
