-- +goose Up
-- Everything of the record has its home in cell 0.

-- The entries, as the writing transactions left them. Nothing ever changes a row.
CREATE TABLE audit_batch (
	cell   smallint NOT NULL,
	stream bytea    NOT NULL, -- stream, seq: the identity of the transaction
	seq    bigint   NOT NULL,
	part   bigint   NOT NULL, -- numbers the rows of one transaction
	ts     bigint   NOT NULL, -- UTC microseconds, growing from row to row of one process; body repeats it
	n      bigint   NOT NULL, -- how many entries body holds
	body   bytea    NOT NULL,
	mac    bytea    NOT NULL, -- HMAC-SHA256 over all but cell, under a key that the database does not have
	PRIMARY KEY (cell, stream, seq, part)
);
/*postgres: ALTER TABLE audit_batch ALTER COLUMN body SET STORAGE EXTERNAL; */

-- The order that the sequencer gave: the batch whose first entry has the index idx.
CREATE TABLE audit_pos (
	cell   smallint NOT NULL,
	idx    bigint   NOT NULL,
	stream bytea    NOT NULL,
	seq    bigint   NOT NULL,
	part   bigint   NOT NULL,
	n      bigint   NOT NULL,
	PRIMARY KEY (cell, idx),
	UNIQUE (cell, stream, seq, part) -- no batch is ever placed twice, whatever a cursor says
) /*sqlite: WITHOUT ROWID */;

-- The last batch of each stream that has its place in the order.
CREATE TABLE audit_cursor (
	cell   smallint NOT NULL,
	stream bytea    NOT NULL,
	seq    bigint   NOT NULL,
	part   bigint   NOT NULL,
	PRIMARY KEY (cell, stream)
) /*sqlite: WITHOUT ROWID */ /*postgres: WITH (fillfactor = 50) */;

-- The Merkle tree, in tiles of 256 hashes. The last tile of a level grows, the others never change.
CREATE TABLE audit_tile (
	cell  smallint NOT NULL,
	level integer  NOT NULL,
	n     bigint   NOT NULL,
	data  bytea    NOT NULL,
	PRIMARY KEY (cell, level, n)
);
/*postgres: ALTER TABLE audit_tile ALTER COLUMN data SET STORAGE EXTERNAL; */

-- For each 256 entries, which devices, serials and actions they can concern.
CREATE TABLE audit_filter (
	cell  smallint NOT NULL,
	block bigint   NOT NULL,
	data  bytea    NOT NULL,
	PRIMARY KEY (cell, block)
);

-- The present tree: no row while it is empty, one row afterwards.
CREATE TABLE tree (
	cell smallint NOT NULL,
	size bigint   NOT NULL,
	root bytea    NOT NULL,
	PRIMARY KEY (cell)
) /*sqlite: WITHOUT ROWID */ /*postgres: WITH (fillfactor = 50) */;

-- Signed tree heads: the newest, and the last of each 1,024 entries.
CREATE TABLE checkpoint (
	cell smallint NOT NULL,
	size bigint   NOT NULL,
	text bytea    NOT NULL,
	PRIMARY KEY (cell, size)
);
