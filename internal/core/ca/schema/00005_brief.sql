-- +goose Up

-- The certificates of class 0x44 (recorded in brief) that are valid, by device: so that all of a device's, a CA's or a profile's can be found when
-- trust in these ends. Rows leave soon after the end of their certificates, so that the table grows with the fleet. Those that were issued
-- before this table was made are not in it; they end within 7 days of that.
CREATE TABLE cert_brief (
  cell      smallint NOT NULL, -- of the serial number, which is the device's
  device    bytea    NOT NULL,
  serial    bytea    NOT NULL,
  slot      text     NOT NULL,
  issuer    bytea    NOT NULL,
  profile   text     NOT NULL,
  not_after bigint   NOT NULL,
  spki      bytea    NOT NULL,
  PRIMARY KEY (cell, device, serial)
) /*sqlite: WITHOUT ROWID */;
