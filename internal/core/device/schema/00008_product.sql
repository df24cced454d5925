-- +goose Up

-- As whose product the device stands on an ownership list: the name of the manufacturer and the serial number, a line each; '' = on none. The table
-- birth leads to the device from a keyed digest of it, too. Issuing does not change it, and no index holds it.
ALTER TABLE device ADD COLUMN product text NOT NULL DEFAULT '';
