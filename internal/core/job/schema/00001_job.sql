-- +goose Up

-- Work in the background. All of it stands in cell 0: there are few jobs at a time, and they are forgotten when they are old.
CREATE TABLE job (
  cell          smallint NOT NULL,
  id            bytea    NOT NULL,
  turn          bigint   NOT NULL, -- how often the row was written
  kind          text     NOT NULL,
  state         smallint NOT NULL, -- 1 draft, 2 waiting, 3 scheduled, 4 running, 5 paused, 6 done, 7 aborted, 8 failed
  title         text     NOT NULL, -- what it does, for people
  params        text     NOT NULL, -- JSON, as its worker understands it
  sample        text     NOT NULL, -- JSON: some of its items, for people
  auto          smallint NOT NULL, -- 1: it starts as soon as it is ready
  ready         smallint NOT NULL, -- 1: all its items are known
  place         text     NOT NULL, -- where the search for items goes on
  chunks        bigint   NOT NULL, -- rows of job_chunk
  digest        bytea    NOT NULL, -- over them, in their order
  kept          smallint NOT NULL, -- 1: they are all there; 0: they are no longer needed and go
  next          bigint   NOT NULL, -- the chunk that is worked on next
  total         bigint   NOT NULL, -- items
  done          bigint   NOT NULL,
  skipped       bigint   NOT NULL, -- that needed nothing
  failed        bigint   NOT NULL,
  results       bigint   NOT NULL, -- rows of job_result
  result_digest bytea    NOT NULL, -- over them, in their order
  maker         text     NOT NULL, -- kind, id, role and surface of whoever made it
  maker_id      text     NOT NULL,
  role          text     NOT NULL,
  via           text     NOT NULL,
  ask_above     bigint   NOT NULL, -- a second person must agree when there are more items than this; -1: never
  undo          bigint   NOT NULL, -- seconds between start and first deed
  not_before    bigint   NOT NULL, -- UTC seconds
  created       bigint   NOT NULL,
  began         bigint   NOT NULL,
  ended         bigint   NOT NULL,
  busy          bigint   NOT NULL, -- milliseconds of work so far
  note          text     NOT NULL, -- why it stands as it does
  PRIMARY KEY (cell, id)
) /*sqlite: WITHOUT ROWID */ /*postgres: WITH (fillfactor=80) */;

CREATE INDEX job_state ON job (cell, state, created, id);
CREATE INDEX job_time ON job (cell, created, id);

-- The items of a job, some hundreds in a row.
CREATE TABLE job_chunk (
  cell  smallint NOT NULL,
  job   bytea    NOT NULL,
  n     bigint   NOT NULL, -- from 0
  items bigint   NOT NULL,
  body  bytea    NOT NULL,
  PRIMARY KEY (cell, job, n)
);

-- What became of single items: of those that failed the first ones, of the others where the kind of job wants it.
CREATE TABLE job_result (
  cell smallint NOT NULL,
  job  bytea    NOT NULL,
  n    bigint   NOT NULL, -- from 0
  ok   smallint NOT NULL,
  item text     NOT NULL,
  text text     NOT NULL, -- why it failed, or what came of it
  PRIMARY KEY (cell, job, n)
) /*sqlite: WITHOUT ROWID */;
