-- +goose Up

-- 1 = somebody wants the message to be handed over once more.
ALTER TABLE sink_dead ADD COLUMN retry smallint NOT NULL DEFAULT 0;
