-- +goose Up
CREATE TABLE request (
	cell    smallint NOT NULL,
	device  bytea    NOT NULL,
	id      bytea    NOT NULL, -- what makes two requests the same, SHA-256
	profile text     NOT NULL,
	state   smallint NOT NULL, -- 1 waiting, 2 approved, 3 refused
	subject text     NOT NULL, -- what the requester asked for, for the person who decides
	names   text     NOT NULL,
	keykind text     NOT NULL,
	spki    bytea    NOT NULL,
	created bigint   NOT NULL,
	decided bigint   NOT NULL,
	decider text     NOT NULL,
	PRIMARY KEY (cell, device)
) /*sqlite: WITHOUT ROWID */;
CREATE INDEX request_waiting ON request (created, cell, device) WHERE state = 1;
