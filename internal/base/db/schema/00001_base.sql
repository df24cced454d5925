-- +goose Up
CREATE TABLE stream (
	cell    smallint NOT NULL,
	stream  bytea    NOT NULL,
	node    text     NOT NULL,
	next    bigint   NOT NULL, -- the sequence number that the next batch will take
	checked bigint   NOT NULL, -- counts how often an outcome was asked for, so that asking is a write
	closed  bigint   NOT NULL, -- 1: nothing can be committed under this stream any more
	PRIMARY KEY (cell, stream)
) /*sqlite: WITHOUT ROWID */ /*postgres: WITH (fillfactor = 50) */;

CREATE TABLE lease (
	cell   smallint NOT NULL,
	name   text     NOT NULL,
	holder text     NOT NULL,
	epoch  bigint   NOT NULL,
	until  bigint   NOT NULL, -- Unix seconds
	PRIMARY KEY (cell, name)
) /*sqlite: WITHOUT ROWID */;
