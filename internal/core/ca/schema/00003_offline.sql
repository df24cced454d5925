-- +goose Up

-- CAs that have a key and wait for the certificate that somebody else signs. The row goes when the certificate is imported, or the request
-- is withdrawn.
CREATE TABLE ca_pending (
  cell    smallint NOT NULL,
  name    text     NOT NULL,
  key     text     NOT NULL, -- where the custody keeps the private key
  shards  smallint NOT NULL,
  request bytea    NOT NULL, -- PKCS#10, DER
  created bigint   NOT NULL,
  PRIMARY KEY (cell, name)
);

-- Certificates by which one root vouches for another. A row never changes; after its certificate has ended another one may follow.
CREATE TABLE ca_cross (
  cell    smallint NOT NULL,
  subject bytea    NOT NULL, -- id of the root that is vouched for
  issuer  bytea    NOT NULL, -- id of the root that vouches
  der     bytea    NOT NULL,
  created bigint   NOT NULL,
  PRIMARY KEY (cell, subject, issuer, created)
);

-- How far the ceremony record of an offline root was imported.
CREATE TABLE ca_ceremony (
  cell    smallint NOT NULL,
  root    bytea    NOT NULL,
  entries bigint   NOT NULL,
  head    bytea    NOT NULL, -- hash of the last of them
  PRIMARY KEY (cell, root)
);
