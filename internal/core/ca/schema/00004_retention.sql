-- +goose Up

-- The certificates that live or are kept for years, class 0x42 of their serial numbers. They stand apart, since those of cert leave by the
-- month of their issue, and one that stays would keep its month.
CREATE TABLE cert_long (
  cell        smallint NOT NULL,
  day         integer  NOT NULL,
  serial      bytea    NOT NULL,
  device      bytea    NOT NULL,
  slot        text     NOT NULL,
  issuer      bytea    NOT NULL,
  profile     text     NOT NULL,
  version     text     NOT NULL,
  prev_serial bytea    NOT NULL,
  not_before  bigint   NOT NULL,
  not_after   bigint   NOT NULL,
  spki        bytea    NOT NULL,
  der         bytea    NOT NULL,
  PRIMARY KEY (cell, day, serial)
);
/*postgres: ALTER TABLE cert_long ALTER COLUMN der SET STORAGE EXTERNAL; */
INSERT INTO cert_long SELECT cell, day, serial, device, slot, issuer, profile, version, prev_serial, not_before, not_after, spki, der FROM cert
  WHERE /*sqlite: substr(serial, 1, 1) = x'42' */ /*postgres: substring(serial FROM 1 FOR 1) = '\x42'::bytea */;
DELETE FROM cert WHERE /*sqlite: substr(serial, 1, 1) = x'42' */ /*postgres: substring(serial FROM 1 FOR 1) = '\x42'::bytea */;

-- PostgreSQL keeps cert in one partition for each month of issue, called cert_m and the number of the month since 1970. There is no default
-- partition: it would be read through whenever another one is attached. cert_month are the months that have one; state 1 it is in use, 2 its
-- certificates were given up, which is on record, and it is being taken away.
/*postgres: CREATE TABLE cert_month (cell smallint NOT NULL, month integer NOT NULL, state smallint NOT NULL, PRIMARY KEY (cell, month)); */
/*postgres: ALTER TABLE cert RENAME TO cert_before; */
/*postgres: ALTER INDEX cert_pkey RENAME TO cert_before_pkey; */
/*postgres: CREATE TABLE cert (LIKE cert_before) PARTITION BY RANGE (day); */
/*postgres: ALTER TABLE cert ADD PRIMARY KEY (cell, day, serial); */
/*postgres: ALTER TABLE cert ALTER COLUMN der SET STORAGE EXTERNAL; */
-- +goose StatementBegin
/*postgres:
DO $$
DECLARE
  m integer;
BEGIN
  FOR m IN SELECT DISTINCT (EXTRACT(YEAR FROM date '1970-01-01' + day)::integer - 1970) * 12 + EXTRACT(MONTH FROM date '1970-01-01' + day)::integer - 1 FROM cert_before LOOP
    EXECUTE format('CREATE TABLE cert_m%s PARTITION OF cert FOR VALUES FROM (%s) TO (%s)', m,
      make_date(1970 + m / 12, m % 12 + 1, 1) - date '1970-01-01', make_date(1970 + (m + 1) / 12, (m + 1) % 12 + 1, 1) - date '1970-01-01');
    INSERT INTO cert_month (cell, month, state) VALUES (0, m, 1);
  END LOOP;
  INSERT INTO cert SELECT cell, day, serial, device, slot, issuer, profile, version, prev_serial, not_before, not_after, spki, der FROM cert_before;
  DROP TABLE cert_before;
END $$;
*/
-- +goose StatementEnd
