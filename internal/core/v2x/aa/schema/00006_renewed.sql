-- +goose Up

-- The key of the ticket, by which its row is written anew when it is named. On PostgreSQL a row says by which transaction it was written, which is when it was issued, and with which cocoon key: it
-- would say so until the ticket ends. Rows of SQLite say nothing of the kind and lie by their keys; there it is empty, as in rows of before.
ALTER TABLE v2x_untold ADD COLUMN key bytea NOT NULL DEFAULT /*sqlite: x'' */ /*postgres: '' */;
