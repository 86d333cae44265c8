-- store.db, version 1.

-- One row: the present revision, and the revision through which deleted keys have been forgotten.
CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL,
    pruned INTEGER NOT NULL
);
INSERT INTO meta (id, revision, pruned) VALUES (1, 0, 0);

-- A deleted key stays for a while with no value, so that watches learn of it.
CREATE TABLE entries (
    key TEXT PRIMARY KEY NOT NULL,
    value BLOB,
    revision INTEGER NOT NULL
);
CREATE INDEX entries_by_revision ON entries (revision);
CREATE INDEX tombstones ON entries (revision) WHERE value IS NULL;
