-- +goose Up

-- What ends when is found in the inventory, in every combination of filters. Every enrolment and every renewal paid for these two indexes with pages
-- of the log. The column repeated the group of the device for the first of them.
DROP INDEX slot_grp_expiry;
DROP INDEX slot_expiry;
ALTER TABLE slot DROP COLUMN grp;
