-- Version 2: the work queue and the dead letters.

-- One row: the number of the task pushed last. Pushes lock it, so ids grow in the order of commits.
CREATE TABLE queue (
    id int PRIMARY KEY CHECK (id = 1),
    last_task bigint NOT NULL
) WITH (fillfactor = 10);
INSERT INTO queue (id, last_task) VALUES (1, 0);

-- state: 0 ready, 1 claimed, 2 done, 3 dead. claims: claims made, ever; the last one's number is its
-- receipt. due_ms: a ready task may not be claimed before; a claimed one's claim runs out then. Times are
-- milliseconds since the epoch by the server's clock. key: the bytes of a text, which may hold zeros.
CREATE TABLE tasks (
    id bigint PRIMARY KEY,
    kind text COLLATE "C" NOT NULL,
    key bytea,
    state int NOT NULL,
    due_ms bigint NOT NULL,
    claims bigint NOT NULL,
    attempts bigint NOT NULL,
    attempts_max bigint NOT NULL,
    cancelled boolean NOT NULL,
    pushed_ms bigint NOT NULL,
    changed_ms bigint NOT NULL,
    worker text NOT NULL,
    reason text NOT NULL,
    progress bytea NOT NULL,
    body bytea NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0, toast.autovacuum_vacuum_scale_factor = 0.02,
    toast.autovacuum_vacuum_threshold = 1000);
CREATE UNIQUE INDEX tasks_by_key ON tasks (kind, key) WHERE key IS NOT NULL;
CREATE INDEX tasks_open ON tasks (kind, id) WHERE state IN (0, 1);
CREATE INDEX tasks_by_state ON tasks (kind, state, id);
CREATE INDEX tasks_done ON tasks (changed_ms, id) WHERE state = 2;

-- How many tasks of a kind were finished, ever.
CREATE TABLE task_kinds (
    kind text COLLATE "C" PRIMARY KEY,
    done bigint NOT NULL
) WITH (fillfactor = 20);

-- Dead letters; number: in the order in which they came.
CREATE TABLE letters (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    index_uid text COLLATE "C" NOT NULL,
    shard int NOT NULL,
    incarnation bigint NOT NULL,
    seq bigint NOT NULL,
    bytes bigint NOT NULL,
    mapping_version bigint NOT NULL,
    time_ms bigint NOT NULL,
    document_id bytea NOT NULL,
    error_type text NOT NULL,
    reason text NOT NULL,
    operation bytea NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
CREATE UNIQUE INDEX letters_by_place ON letters (index_uid, shard, incarnation, seq);

-- Through where each shard's rejections are known.
CREATE TABLE letters_through (
    index_uid text COLLATE "C" NOT NULL,
    shard int NOT NULL,
    incarnation bigint NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (index_uid, shard)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- One row: sums over the letters kept, and how many made room for newer ones, ever. Who deletes letters
-- locks it first.
CREATE TABLE letter_counts (
    id int PRIMARY KEY CHECK (id = 1),
    kept bigint NOT NULL,
    bytes bigint NOT NULL,
    aged_out bigint NOT NULL
) WITH (fillfactor = 10);
INSERT INTO letter_counts (id, kept, bytes, aged_out) VALUES (1, 0, 0, 0);
