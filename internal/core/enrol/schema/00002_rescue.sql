-- +goose Up

-- When the certificate ended by which the device asks, in a rescue; 0 for an ordinary request. The person who decides has to know.
ALTER TABLE request ADD COLUMN rescue bigint NOT NULL DEFAULT 0;
