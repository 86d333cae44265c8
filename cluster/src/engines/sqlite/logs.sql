-- logs.db, version 1. Hashes are 64 bits, stored as the signed number of the same bits.

-- One row: the highest epoch that made a fenced call.
CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epoch INTEGER NOT NULL
);
INSERT INTO meta (id, epoch) VALUES (1, 0);

-- The head of each shard's log. `log` is never given again.
CREATE TABLE logs (
    log INTEGER PRIMARY KEY AUTOINCREMENT,
    index_uid TEXT NOT NULL,
    shard INTEGER NOT NULL,
    incarnation INTEGER NOT NULL,
    last INTEGER NOT NULL,
    chain INTEGER NOT NULL,
    trimmed INTEGER NOT NULL,
    mapping_version INTEGER NOT NULL,
    apply_version INTEGER NOT NULL,
    time_ms INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    UNIQUE (index_uid, shard)
);

-- One row per batch, in order of commit, so that the shards of one group commit share pages.
-- codec: 0 as it is, 1 zstd. body_bytes: the size before compression. The body comes last, so that
-- the other columns can be read without it.
CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    log INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    incarnation INTEGER NOT NULL,
    mapping_version INTEGER NOT NULL,
    apply_version INTEGER NOT NULL,
    time_ms INTEGER NOT NULL,
    previous_chain INTEGER NOT NULL,
    chain INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL,
    body_bytes INTEGER NOT NULL,
    codec INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX records_by_first ON records (log, first);

-- Message ids outlive the rows they stand for.
CREATE TABLE message_ids (
    log INTEGER NOT NULL,
    message_id TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    time_ms INTEGER NOT NULL,
    PRIMARY KEY (log, message_id)
) WITHOUT ROWID;
CREATE INDEX message_ids_by_time ON message_ids (time_ms);

-- Logs that were removed and whose rows are still to be deleted, a few at a time.
CREATE TABLE removed (
    log INTEGER PRIMARY KEY
);
