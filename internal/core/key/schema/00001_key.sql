-- +goose Up

-- How often keys have signed, and how often and how long they may. A key has a row once its use was counted or limited.
CREATE TABLE key_use (
  cell        smallint NOT NULL,
  id          text     NOT NULL, -- as the custodies name the key
  uses        bigint   NOT NULL, -- signatures, with those that nodes have reserved and not made yet
  max_uses    bigint   NOT NULL, -- no certificate is signed beyond these; 0: no limit
  status_uses bigint   NOT NULL, -- how many lists and answers may be signed beyond max_uses
  ends        bigint   NOT NULL, -- no certificate is signed from this second on; 0: no end
  turn        bigint   NOT NULL, -- counts the changes of the limit
  PRIMARY KEY (cell, id)
);
