-- +goose Up

-- What somebody asked for and a second person must agree to. All of it stands in cell 0: there are few rows, and they go when their time is over.
CREATE TABLE approval (
  cell      smallint NOT NULL,
  id        bytea    NOT NULL,
  kind      text     NOT NULL, -- what is to be done, such as "revoke"
  object    text     NOT NULL, -- to what
  digest    bytea    NOT NULL, -- SHA-256 of everything else that makes it this act
  needs     text     NOT NULL, -- the permission of the act, which whoever grants must have as well
  summary   text     NOT NULL, -- for the person who decides
  state     smallint NOT NULL, -- 1 waiting, 2 granted, 3 refused, 4 spent
  requester text     NOT NULL,
  created   bigint   NOT NULL, -- UTC seconds
  expires   bigint   NOT NULL,
  decided   bigint   NOT NULL, -- 0 = not yet
  decider   text     NOT NULL,
  spent     bigint   NOT NULL, -- 0 = not yet
  PRIMARY KEY (cell, id)
) /*sqlite: WITHOUT ROWID */;

CREATE INDEX approval_act ON approval (cell, kind, object);
CREATE INDEX approval_time ON approval (cell, created, id);
