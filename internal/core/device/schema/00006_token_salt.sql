-- +goose Up

-- From it and the deployment key follows the token, so that a message authentication code made with the token can be checked. Empty when no
-- token was given out, or one before there was this column. Issuing does not change it, and no index holds it.
ALTER TABLE device ADD COLUMN token_salt bytea NOT NULL DEFAULT /*sqlite: x'' */ /*postgres: '' */;
