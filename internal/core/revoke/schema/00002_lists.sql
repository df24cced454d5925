-- +goose Up

-- The lists that are published now, one for each CA or for each shard of one, and a complete one (shard -1) for a CA that has shards. What a list
-- says follows from revoked, so the row holds what does not: number, times and signature. So a revocation writes the same few octets however
-- long the list is.
DROP TABLE crl;
CREATE TABLE crl (
  cell           smallint NOT NULL,
  issuer         bytea    NOT NULL,
  shard          integer  NOT NULL,
  kind           smallint NOT NULL, -- 0 made of the rows of revoked, 1 kept in crl_chunk, 2 kept in crl_chunk and made elsewhere
  number         bigint   NOT NULL,
  this_update    bigint   NOT NULL,
  next_update    bigint   NOT NULL,
  covers         bigint   NOT NULL, -- the changes up to this one are in it
  regular_number bigint   NOT NULL, -- of the last list that was made on schedule and not because of a change: the base of delta lists
  regular_update bigint   NOT NULL, -- its this_update
  regular_covers bigint   NOT NULL,
  floor_update   bigint   NOT NULL, -- left out are the entries up to change floor_covers whose certificates expired before floor_update
  floor_covers   bigint   NOT NULL,
  due            bigint   NOT NULL, -- when it must be made anew; 253402300799 for never
  delta          smallint NOT NULL, -- 1: it names the address of a delta list
  size           bigint   NOT NULL, -- octets
  signature      bytea    NOT NULL,
  digest         bytea    NOT NULL, -- SHA-256 of the whole list
  PRIMARY KEY (cell, issuer, shard)
) /*sqlite: WITHOUT ROWID */ /*postgres: WITH (fillfactor=50) */;
CREATE INDEX crl_due ON crl (cell, due);

-- The octets of lists that are too big to make at each question, or that others made. Those of the list before stay for downloads under way.
CREATE TABLE crl_chunk (
  cell   smallint NOT NULL,
  issuer bytea    NOT NULL,
  shard  integer  NOT NULL,
  number bigint   NOT NULL,
  seq    integer  NOT NULL, -- 0 the outer header, then pieces of the same length
  data   bytea    NOT NULL,
  PRIMARY KEY (cell, issuer, shard, number, seq)
);

-- The delta list that was made to the full list of the same number, when somebody asked for it.
CREATE TABLE crl_delta (
  cell      smallint NOT NULL,
  issuer    bytea    NOT NULL,
  shard     integer  NOT NULL,
  number    bigint   NOT NULL,
  signature bytea    NOT NULL,
  digest    bytea    NOT NULL,
  PRIMARY KEY (cell, issuer, shard)
);
