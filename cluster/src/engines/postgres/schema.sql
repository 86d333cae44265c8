-- Version 1. Seqs, epochs and hashes are 64 bits, stored as the signed number of the same bits.
--
-- Rows that are updated all the time get room beside them (fillfactor), so that updates stay on their
-- page and need no index; tables that are written and trimmed are vacuumed by what changed, not by a
-- fraction of their size.

-- One row: the present revision of the store, and the one through which deleted keys are forgotten.
-- Each commit locks it, so revisions are seen in order.
CREATE TABLE store (
    id int PRIMARY KEY CHECK (id = 1),
    revision bigint NOT NULL,
    pruned bigint NOT NULL
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
INSERT INTO store (id, revision, pruned) VALUES (1, 0, 0);

-- A deleted key stays for a while with no value, so that watches learn of it.
CREATE TABLE entries (
    key text COLLATE "C" PRIMARY KEY,
    value bytea,
    revision bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
    toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 500);
CREATE INDEX entries_by_revision ON entries (revision);
CREATE INDEX tombstones ON entries (revision) WHERE value IS NULL;

-- One row: the highest epoch that made a fenced call.
CREATE TABLE fence (
    id int PRIMARY KEY CHECK (id = 1),
    epoch bigint NOT NULL
) WITH (fillfactor = 10);
INSERT INTO fence (id, epoch) VALUES (1, 0);

-- The head of each shard's log. `log` is never given again.
CREATE TABLE logs (
    log bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    index_uid text COLLATE "C" NOT NULL,
    shard int NOT NULL,
    incarnation bigint NOT NULL,
    last bigint NOT NULL,
    chain bigint NOT NULL,
    trimmed bigint NOT NULL,
    mapping_version bigint NOT NULL,
    apply_version int NOT NULL,
    time_ms bigint NOT NULL,
    bytes bigint NOT NULL,
    UNIQUE (index_uid, shard)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- One row per batch. codec: 0 as it is, 1 zstd. body_bytes: the size before compression.
CREATE TABLE records (
    log bigint NOT NULL,
    first bigint NOT NULL,
    last bigint NOT NULL,
    incarnation bigint NOT NULL,
    mapping_version bigint NOT NULL,
    apply_version int NOT NULL,
    time_ms bigint NOT NULL,
    previous_chain bigint NOT NULL,
    chain bigint NOT NULL,
    stored_bytes bigint NOT NULL,
    body_bytes bigint NOT NULL,
    codec bigint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (log, first)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_threshold = 10000,
    toast.autovacuum_vacuum_cost_delay = 0);
-- Bodies are compressed already.
ALTER TABLE records ALTER COLUMN body SET STORAGE EXTERNAL;

-- Message ids outlive the rows they stand for.
CREATE TABLE message_ids (
    log bigint NOT NULL,
    message_id bytea NOT NULL,
    incarnation bigint NOT NULL,
    first bigint NOT NULL,
    last bigint NOT NULL,
    time_ms bigint NOT NULL,
    PRIMARY KEY (log, message_id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX message_ids_by_time ON message_ids (time_ms);

-- Logs that were removed and whose rows are still to be deleted, a few at a time.
CREATE TABLE removed (
    log bigint PRIMARY KEY
);
