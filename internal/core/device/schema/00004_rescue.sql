-- +goose Up

-- When the device last got a certificate by one that had expired, UTC seconds; 0 = never. Like token_used it is changed by issuing, and no
-- index holds it.
ALTER TABLE device ADD COLUMN rescued bigint NOT NULL DEFAULT 0;
