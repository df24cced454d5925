-- +goose Up

-- Certificates whose receivers have not yet said that they have them (CMP). What is not confirmed in time is revoked, by whichever node sees it.
CREATE TABLE unconfirmed (
	cell           smallint NOT NULL,
	device         bytea    NOT NULL,
	serial         bytea    NOT NULL,
	transaction_id bytea    NOT NULL,
	cert           bytea    NOT NULL, -- DER
	until          bigint   NOT NULL,
	PRIMARY KEY (cell, device, serial)
) /*sqlite: WITHOUT ROWID */;
CREATE INDEX unconfirmed_until ON unconfirmed (until);
