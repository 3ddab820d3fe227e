//! The catalog's tables. What can be counted is counted by triggers, so that no query has to read a
//! table to count it.

pub(super) const STEPS: &[&str] = &["
CREATE TABLE array(id BLOB NOT NULL);
CREATE TABLE buckets(
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, owner INTEGER NOT NULL,
    -- The class of new files; NULL is the array's default.
    class TEXT,
    -- 0: off, 1: on, 2: suspended.
    versioning INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    -- Number and bytes of the current files.
    files INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0);
-- `sequence` orders all versions of all files, and rises with every commit.
CREATE TABLE files(
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    bucket INTEGER NOT NULL REFERENCES buckets, name TEXT NOT NULL, version BLOB NOT NULL UNIQUE,
    is_current INTEGER NOT NULL, is_delete_mark INTEGER NOT NULL,
    -- 1 if it was stored while its bucket kept no versions. Each name has at most one such version.
    is_unversioned INTEGER NOT NULL,
    -- Who pays `paid` bytes for the file: the content of its extents times n/k, each rounded up.
    account INTEGER NOT NULL, paid INTEGER NOT NULL,
    size INTEGER NOT NULL, stored_ms INTEGER NOT NULL, source_modified_ms INTEGER,
    content_hash BLOB, etag TEXT, content_type TEXT,
    -- JSON: user metadata, tags, checksums; NULL if there are none.
    details TEXT);
CREATE UNIQUE INDEX files_current ON files(bucket, name) WHERE is_current AND NOT is_delete_mark;
CREATE INDEX files_versions ON files(bucket, name, sequence DESC);
CREATE TRIGGER files_added AFTER INSERT ON files WHEN NEW.is_current AND NOT NEW.is_delete_mark BEGIN
    UPDATE buckets SET files = files + 1, bytes = bytes + NEW.size WHERE id = NEW.bucket;
END;
CREATE TRIGGER files_removed AFTER DELETE ON files WHEN OLD.is_current AND NOT OLD.is_delete_mark BEGIN
    UPDATE buckets SET files = files - 1, bytes = bytes - OLD.size WHERE id = OLD.bucket;
END;
CREATE TRIGGER files_superseded AFTER UPDATE OF is_current ON files
WHEN OLD.is_current AND NOT NEW.is_current AND NOT OLD.is_delete_mark BEGIN
    UPDATE buckets SET files = files - 1, bytes = bytes - OLD.size WHERE id = OLD.bucket;
END;
CREATE TRIGGER files_restored AFTER UPDATE OF is_current ON files
WHEN NEW.is_current AND NOT OLD.is_current AND NOT NEW.is_delete_mark BEGIN
    UPDATE buckets SET files = files + 1, bytes = bytes + NEW.size WHERE id = NEW.bucket;
END;
-- A stream is written once. `homes` has the number of each share's cloud, 4 bytes for each share.
CREATE TABLE streams(
    storage_index BLOB PRIMARY KEY, class TEXT, role INTEGER NOT NULL, k INTEGER NOT NULL,
    n INTEGER NOT NULL, segment_size INTEGER NOT NULL, padded INTEGER NOT NULL,
    manifest_length INTEGER NOT NULL, may_ignore INTEGER NOT NULL, key_id BLOB NOT NULL,
    nonce BLOB NOT NULL, wrapped_key BLOB NOT NULL, homes BLOB NOT NULL, roots BLOB NOT NULL) WITHOUT ROWID;
-- A part of a file: `length` bytes of a stream's content, from `start`.
CREATE TABLE extents(
    file INTEGER NOT NULL REFERENCES files ON DELETE CASCADE, position INTEGER NOT NULL,
    offset INTEGER NOT NULL, length INTEGER NOT NULL, storage_index BLOB NOT NULL REFERENCES streams,
    start INTEGER NOT NULL, PRIMARY KEY(file, position)) WITHOUT ROWID;
CREATE INDEX extents_offset ON extents(file, offset);
CREATE INDEX extents_storage_index ON extents(storage_index);
-- Shares that were not stored when their stream was.
CREATE TABLE lacking(
    storage_index BLOB NOT NULL REFERENCES streams, share INTEGER NOT NULL, server INTEGER NOT NULL,
    reason TEXT NOT NULL, PRIMARY KEY(storage_index, share)) WITHOUT ROWID;
CREATE TABLE lacking_by_server(server INTEGER PRIMARY KEY, shares INTEGER NOT NULL);
CREATE TRIGGER lacking_added AFTER INSERT ON lacking BEGIN
    INSERT INTO lacking_by_server VALUES(NEW.server, 1)
        ON CONFLICT(server) DO UPDATE SET shares = shares + 1;
END;
CREATE TRIGGER lacking_removed AFTER DELETE ON lacking BEGIN
    UPDATE lacking_by_server SET shares = shares - 1 WHERE server = OLD.server;
END;
-- Clouds that have a copy of the keyring, with its newest generation.
CREATE TABLE keyring_copies(server INTEGER PRIMARY KEY, key_id BLOB NOT NULL);
-- Generations of the keyring that were once on n-k+1 clouds. They may be used for ever.
CREATE TABLE keyring_active(key_id BLOB PRIMARY KEY) WITHOUT ROWID;
"];
