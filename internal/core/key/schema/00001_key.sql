-- +goose Up

-- How often keys have signed, and how often and how long they may. A key has a row once its use was counted or limited.
CREATE TABLE key_use (
  cell        smallint NOT NULL,
  id          text     NOT NULL, -- as the custodies name the key
  issued      bigint   NOT NULL, -- certificates signed, with those that nodes have reserved and not signed yet
  told        bigint   NOT NULL, -- lists and status answers, in the same way
  max_issued  bigint   NOT NULL, -- no certificate is signed beyond these; 0: no limit at all
  max_told    bigint   NOT NULL, -- no list or answer is signed beyond these
  ends        bigint   NOT NULL, -- no certificate is signed from this second on; 0: no end
  turn        bigint   NOT NULL, -- counts the changes of the limit
  PRIMARY KEY (cell, id)
);
