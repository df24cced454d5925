-- +goose Up

-- What is purged is found without an index that each order and each account of a device would have to be written into: the id of an order begins with the
-- time of its making, from which it follows when it ends, and of accounts few are ever purged.
DROP INDEX acme_order_expires;
DROP INDEX acme_account_used;
CREATE INDEX acme_account_passing ON acme_account (used, id) WHERE state <> 1 OR length(device) = 0;
