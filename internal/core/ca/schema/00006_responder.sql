-- +goose Up

-- OCSP responders that a CA whose key is elsewhere certified; their keys are here. A row never changes. Their requests wait in ca_pending, under
-- the name of the CA with "ocsp:" before it.
CREATE TABLE ca_responder (
  cell    smallint NOT NULL,
  issuer  bytea    NOT NULL, -- id of the CA
  key     text     NOT NULL, -- where the custody keeps the private key
  der     bytea    NOT NULL,
  created bigint   NOT NULL,
  PRIMARY KEY (cell, issuer, created)
);
