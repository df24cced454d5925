-- +goose Up

-- Whether the record names the ticket yet. It does so when the hour is over, for all tickets of it at once and in the order of their keys: the order in which they
-- were issued is that in which an enrolment authority was asked, and would join the two records.
ALTER TABLE v2x_ticket ADD COLUMN told smallint NOT NULL DEFAULT 0;
CREATE INDEX v2x_ticket_untold ON v2x_ticket (hour, cell, key) WHERE told = 0;
