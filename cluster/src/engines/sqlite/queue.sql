-- logs.db, version 2: the work queue and the dead letters. They stand beside the logs, so that an append
-- checks its claim in its own transaction.

-- One row: the number of the task pushed last.
CREATE TABLE queue (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    last_task INTEGER NOT NULL
);
INSERT INTO queue (id, last_task) VALUES (1, 0);

-- state: 0 ready, 1 claimed, 2 done, 3 dead. claims: claims made, ever; the last one's number is its
-- receipt. due_ms: a ready task may not be claimed before; a claimed one's claim runs out then.
-- The blobs come last, so that the other columns can be read without them.
CREATE TABLE tasks (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    key TEXT,
    state INTEGER NOT NULL,
    due_ms INTEGER NOT NULL,
    claims INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    attempts_max INTEGER NOT NULL,
    cancelled INTEGER NOT NULL,
    pushed_ms INTEGER NOT NULL,
    changed_ms INTEGER NOT NULL,
    worker TEXT NOT NULL,
    reason TEXT NOT NULL,
    progress BLOB NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX tasks_by_key ON tasks (kind, key) WHERE key IS NOT NULL;
CREATE INDEX tasks_by_state ON tasks (kind, state, id, due_ms);
CREATE INDEX tasks_done ON tasks (changed_ms, id) WHERE state = 2;

-- How many tasks of a kind were finished, ever.
CREATE TABLE task_kinds (
    kind TEXT PRIMARY KEY NOT NULL,
    done INTEGER NOT NULL
) WITHOUT ROWID;

-- Dead letters; number: in the order in which they came.
CREATE TABLE letters (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    index_uid TEXT NOT NULL,
    shard INTEGER NOT NULL,
    incarnation INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    mapping_version INTEGER NOT NULL,
    time_ms INTEGER NOT NULL,
    document_id TEXT NOT NULL,
    error_type TEXT NOT NULL,
    reason TEXT NOT NULL,
    operation BLOB NOT NULL
);
CREATE UNIQUE INDEX letters_by_place ON letters (index_uid, shard, incarnation, seq);

-- Through where each shard's rejections are known.
CREATE TABLE letters_through (
    index_uid TEXT NOT NULL,
    shard INTEGER NOT NULL,
    incarnation INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (index_uid, shard)
) WITHOUT ROWID;

-- One row: sums over the letters kept, and how many made room for newer ones, ever.
CREATE TABLE letter_counts (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    kept INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    aged_out INTEGER NOT NULL
);
INSERT INTO letter_counts (id, kept, bytes, aged_out) VALUES (1, 0, 0, 0);
