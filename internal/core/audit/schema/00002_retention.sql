-- +goose Up

-- A position knows the stamp of its batch, so that it still tells when its entries were written after their body has left.
ALTER TABLE audit_pos ADD COLUMN ts bigint NOT NULL DEFAULT 0;
UPDATE audit_pos SET ts = b.ts FROM audit_batch b WHERE b.cell = audit_pos.cell AND b.stream = audit_pos.stream AND b.seq = audit_pos.seq AND b.part = audit_pos.part;

-- What every slice knew of its tables when the tree had idx entries. With it the record is verified from there on, when the bodies before have
-- left: those written up to the end of month, a number of months since 1970. Newest row counts; others are on their way out.
CREATE TABLE audit_snapshot (
	cell  smallint NOT NULL,
	idx   bigint   NOT NULL,
	month integer  NOT NULL,
	at    bigint   NOT NULL, -- UTC seconds
	PRIMARY KEY (cell, idx)
);
CREATE TABLE audit_snapshot_part (
	cell smallint NOT NULL,
	idx  bigint   NOT NULL,
	part bigint   NOT NULL,
	data bytea    NOT NULL,
	PRIMARY KEY (cell, idx, part)
);
/*postgres: ALTER TABLE audit_snapshot_part ALTER COLUMN data SET STORAGE EXTERNAL; */

-- PostgreSQL keeps audit_batch in one partition for each month, called audit_m and the number of the month since 1970, without a default
-- partition. audit_month are the months that have one; state 1 it is in use, 2 it was given up, which is on record, and is being taken away.
/*postgres: CREATE TABLE audit_month (cell smallint NOT NULL, month integer NOT NULL, state smallint NOT NULL, PRIMARY KEY (cell, month)); */
/*postgres: ALTER TABLE audit_batch RENAME TO audit_batch_before; */
/*postgres: ALTER INDEX audit_batch_pkey RENAME TO audit_batch_before_pkey; */
/*postgres: CREATE TABLE audit_batch (LIKE audit_batch_before) PARTITION BY RANGE (ts); */
/*postgres: ALTER TABLE audit_batch ADD PRIMARY KEY (cell, stream, seq, part, ts); */
/*postgres: ALTER TABLE audit_batch ALTER COLUMN body SET STORAGE EXTERNAL; */
-- +goose StatementBegin
/*postgres:
DO $$
DECLARE
  m integer;
BEGIN
  FOR m IN SELECT DISTINCT (EXTRACT(YEAR FROM to_timestamp(ts / 1000000) AT TIME ZONE 'UTC')::integer - 1970) * 12 + EXTRACT(MONTH FROM to_timestamp(ts / 1000000) AT TIME ZONE 'UTC')::integer - 1 FROM audit_batch_before LOOP
    EXECUTE format('CREATE TABLE audit_m%s PARTITION OF audit_batch FOR VALUES FROM (%s) TO (%s)', m,
      (make_date(1970 + m / 12, m % 12 + 1, 1) - date '1970-01-01')::bigint * 86400000000, (make_date(1970 + (m + 1) / 12, (m + 1) % 12 + 1, 1) - date '1970-01-01')::bigint * 86400000000);
    INSERT INTO audit_month (cell, month, state) VALUES (0, m, 1);
  END LOOP;
  INSERT INTO audit_batch SELECT cell, stream, seq, part, ts, n, body, mac FROM audit_batch_before;
  DROP TABLE audit_batch_before;
END $$;
*/
-- +goose StatementEnd
