-- +goose Up

-- Answers lie in the order in which their requests were made, and not in that of digests, by which each was on a page of its own. made is what the request says, in milliseconds of
-- atomic time since 2004, or 0: it does not say, or was answered before this column was.
ALTER TABLE v2x_answer RENAME TO v2x_answer_before;
/*postgres: ALTER INDEX v2x_answer_pkey RENAME TO v2x_answer_before_pkey; */
CREATE TABLE v2x_answer (
    cell    smallint NOT NULL,
    made    bigint   NOT NULL,
    request bytea    NOT NULL, -- SHA-256
    answer  bytea    NOT NULL,
    at      bigint   NOT NULL, -- UTC seconds
    PRIMARY KEY (cell, made, request)
) /*sqlite: WITHOUT ROWID */;
INSERT INTO v2x_answer (cell, made, request, answer, at) SELECT cell, 0, request, answer, at FROM v2x_answer_before;
DROP TABLE v2x_answer_before;
