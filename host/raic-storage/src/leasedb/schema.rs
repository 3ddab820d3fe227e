//! The tables of leasedb, as migration steps.
//!
//! Triggers keep `shares.leases`, `usage` and `server_usage`, in the transaction that changes what
//! they count. So these counts are exact after any crash. A quota check reads one row of `usage`
//! for each server, and one of `array_usage`.
//!
//! States of a share (`shares.state`) change by compare-and-set only:
//!
//! - 0, COMING: the share is being written. Its upload's lease holds it until `coming.expires_ms`,
//!   and its space is reserved.
//! - 1, STABLE: the share is whole.
//! - 2, GOING: the share is being deleted. Its name is refused until it has gone.
//!
//! Kinds of a share (`shares.kind`) are 0 for an array's, 1 for an immutable and 2 for a mutable
//! one. `states.rs` has the names of all these numbers.

/// The migration steps of leasedb's tables. Step v leads from version v to version v + 1, as
/// [`crate::Database::migrate`] runs them.
pub(super) const STEPS: &[&str] = &["
CREATE TABLE identity(
    one INTEGER PRIMARY KEY CHECK(one = 1), database_id BLOB NOT NULL, epoch INTEGER NOT NULL, run INTEGER NOT NULL DEFAULT 0);
-- Runs of the daemon: the nonce of each start, and the highest number that this start issued. Each
-- container holds the run that uses it.
CREATE TABLE runs(nonce BLOB PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
-- The wall clock as it was accepted: the start of the machine, how far the wall clock is ahead of
-- the clock that counts since that start, and the latest moment seen.
CREATE TABLE clock(
    one INTEGER PRIMARY KEY CHECK(one = 1), boot_id TEXT NOT NULL, ahead_ms INTEGER NOT NULL, high_ms INTEGER NOT NULL);
CREATE TABLE servers(
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, is_claimed INTEGER NOT NULL DEFAULT 0,
    taken_ms INTEGER, gone_ms INTEGER);
CREATE TABLE accounts(
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, created_ms INTEGER NOT NULL, disabled_ms INTEGER,
    soft_quota INTEGER, hard_quota INTEGER, lease_seconds INTEGER NOT NULL);
INSERT INTO accounts VALUES(0, 'anonymous', 0, NULL, NULL, NULL, 2678400);
INSERT INTO accounts VALUES(1, 'starter', 0, NULL, NULL, NULL, 2678400);
INSERT INTO accounts VALUES(2, 'system', 0, NULL, NULL, NULL, 2678400);
-- Accounts below 16 are the program's own.
UPDATE sqlite_sequence SET seq = 15 WHERE name = 'accounts';

-- No id is ever used again: a claim on a share may outlive the share's row.
CREATE TABLE shares(
    id INTEGER PRIMARY KEY AUTOINCREMENT, server INTEGER NOT NULL REFERENCES servers, storage_index BLOB NOT NULL,
    share INTEGER NOT NULL, kind INTEGER NOT NULL CHECK(kind IN (0, 1, 2)), state INTEGER NOT NULL CHECK(state IN (0, 1, 2)),
    used_space INTEGER NOT NULL CHECK(used_space BETWEEN 0 AND 17592186044416),
    objects INTEGER NOT NULL DEFAULT 0 CHECK(objects >= 0), leases INTEGER NOT NULL DEFAULT 0 CHECK(leases >= 0), lost_ms INTEGER,
    -- 1 if the share was found after a take-over, and no second listing has confirmed it yet.
    is_unconfirmed INTEGER NOT NULL DEFAULT 0,
    -- 1 if a write of a mutable share began and its outcome is unknown: its length must be looked
    -- up.
    is_unmeasured INTEGER NOT NULL DEFAULT 0,
    UNIQUE(server, storage_index, share));
CREATE INDEX shares_unleased ON shares(server, id) WHERE state = 1 AND leases = 0;
CREATE INDEX shares_lost ON shares(server, id) WHERE lost_ms IS NOT NULL;
CREATE INDEX shares_unmeasured ON shares(server, id) WHERE is_unmeasured;
CREATE TABLE coming(
    share INTEGER PRIMARY KEY REFERENCES shares ON DELETE CASCADE, server INTEGER NOT NULL, owner BLOB NOT NULL,
    expires_ms INTEGER NOT NULL, length INTEGER, upload_secret BLOB, account INTEGER NOT NULL, renew_secret BLOB NOT NULL,
    -- 1 if an upload of an earlier run was examined since: it is given up after its rest.
    is_examined INTEGER NOT NULL DEFAULT 0);
CREATE INDEX coming_expires ON coming(server, expires_ms);
CREATE TABLE received(
    share INTEGER NOT NULL REFERENCES coming ON DELETE CASCADE, first INTEGER NOT NULL, past INTEGER NOT NULL,
    PRIMARY KEY(share, first)) WITHOUT ROWID;
CREATE TABLE going(
    share INTEGER PRIMARY KEY REFERENCES shares ON DELETE CASCADE, server INTEGER NOT NULL, until_ms INTEGER NOT NULL,
    next_ms INTEGER NOT NULL, is_whole INTEGER NOT NULL, fence INTEGER NOT NULL DEFAULT 0, claimed_by BLOB,
    deleted_ms INTEGER, attempts INTEGER NOT NULL DEFAULT 0, last_error TEXT);
CREATE INDEX going_next ON going(server, next_ms);

CREATE TABLE leases(
    share INTEGER NOT NULL REFERENCES shares, account INTEGER NOT NULL REFERENCES accounts,
    renew_secret BLOB NOT NULL, renewed_ms INTEGER NOT NULL, expires_ms INTEGER,
    PRIMARY KEY(share, account, renew_secret)) WITHOUT ROWID;
CREATE INDEX leases_expires ON leases(expires_ms) WHERE expires_ms IS NOT NULL;

CREATE TABLE usage(
    account INTEGER NOT NULL REFERENCES accounts, server INTEGER NOT NULL REFERENCES servers, shares INTEGER NOT NULL,
    bytes INTEGER NOT NULL CHECK(typeof(bytes) = 'integer' AND bytes >= 0), PRIMARY KEY(account, server)) WITHOUT ROWID;
-- Bytes that accounts pay for files whose shares `system` leases. A share that an account leases
-- itself is counted in `usage`.
CREATE TABLE array_usage(
    account INTEGER PRIMARY KEY REFERENCES accounts,
    bytes INTEGER NOT NULL CHECK(typeof(bytes) = 'integer' AND bytes >= 0));
CREATE TABLE server_usage(
    server INTEGER PRIMARY KEY REFERENCES servers, shares INTEGER NOT NULL,
    bytes INTEGER NOT NULL CHECK(typeof(bytes) = 'integer' AND bytes >= 0));
CREATE TABLE usage_history(
    day TEXT NOT NULL, account INTEGER NOT NULL REFERENCES accounts, server INTEGER NOT NULL REFERENCES servers,
    shares INTEGER NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY(day, account, server)) WITHOUT ROWID;

CREATE TRIGGER shares_inserted AFTER INSERT ON shares BEGIN
    INSERT INTO server_usage VALUES(NEW.server, 1, NEW.used_space)
        ON CONFLICT(server) DO UPDATE SET shares = shares + 1, bytes = bytes + NEW.used_space;
END;
CREATE TRIGGER shares_deleted AFTER DELETE ON shares BEGIN
    UPDATE server_usage SET shares = shares - 1, bytes = bytes - OLD.used_space WHERE server = OLD.server;
END;
CREATE TRIGGER shares_resized AFTER UPDATE OF used_space ON shares WHEN NEW.used_space <> OLD.used_space BEGIN
    UPDATE server_usage SET bytes = bytes + NEW.used_space - OLD.used_space WHERE server = NEW.server;
    UPDATE usage SET bytes = bytes + NEW.used_space - OLD.used_space
        WHERE server = NEW.server AND account IN (SELECT account FROM leases WHERE share = NEW.id);
END;
-- An account pays once for a share, however many leases it holds on that share.
CREATE TRIGGER leases_inserted AFTER INSERT ON leases BEGIN
    UPDATE shares SET leases = leases + 1 WHERE id = NEW.share;
    INSERT INTO usage(account, server, shares, bytes)
        SELECT NEW.account, server, 1, used_space FROM shares WHERE id = NEW.share AND NOT EXISTS(
            SELECT 1 FROM leases WHERE share = NEW.share AND account = NEW.account AND renew_secret <> NEW.renew_secret)
        ON CONFLICT(account, server) DO UPDATE SET shares = shares + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER leases_deleted AFTER DELETE ON leases BEGIN
    UPDATE usage SET shares = shares - 1, bytes = bytes - (SELECT used_space FROM shares WHERE id = OLD.share)
        WHERE account = OLD.account AND server = (SELECT server FROM shares WHERE id = OLD.share)
          AND NOT EXISTS(SELECT 1 FROM leases WHERE share = OLD.share AND account = OLD.account);
    UPDATE shares SET leases = leases - 1 WHERE id = OLD.share;
END;
-- The history is append-only.
CREATE TRIGGER usage_history_stays BEFORE UPDATE ON usage_history BEGIN SELECT raise(ABORT, 'usage history is append-only'); END;
CREATE TRIGGER usage_history_is_kept BEFORE DELETE ON usage_history BEGIN SELECT raise(ABORT, 'usage history is append-only'); END;

CREATE TABLE slots(
    server INTEGER NOT NULL REFERENCES servers, storage_index BLOB NOT NULL, share INTEGER NOT NULL,
    fence INTEGER NOT NULL, current BLOB, intent BLOB, intent_commit BLOB, is_doubtful INTEGER NOT NULL DEFAULT 0,
    last_generation BLOB NOT NULL, PRIMARY KEY(server, storage_index, share)) WITHOUT ROWID;
CREATE TABLE superseded(
    server INTEGER NOT NULL, storage_index BLOB NOT NULL, share INTEGER NOT NULL, generation BLOB NOT NULL,
    chunks BLOB NOT NULL, until_ms INTEGER NOT NULL, PRIMARY KEY(server, storage_index, share, generation),
    FOREIGN KEY(server, storage_index, share) REFERENCES slots) WITHOUT ROWID;
CREATE INDEX superseded_until ON superseded(server, until_ms);

-- The version of its connector that each cloud runs.
CREATE TABLE pins(cloud TEXT PRIMARY KEY, connector TEXT NOT NULL, sha256 TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE suspects(
    server INTEGER NOT NULL REFERENCES servers, storage_index BLOB NOT NULL, share INTEGER NOT NULL, what INTEGER NOT NULL,
    object TEXT NOT NULL, since_ms INTEGER NOT NULL, passes INTEGER NOT NULL, PRIMARY KEY(server, storage_index, share)) WITHOUT ROWID;
CREATE TABLE walks(
    server INTEGER NOT NULL REFERENCES servers, what TEXT NOT NULL, next INTEGER NOT NULL, ended_ms INTEGER,
    PRIMARY KEY(server, what)) WITHOUT ROWID;
", "
-- Rises when the account's Tahoe secrets are revoked: swissnums are derived from it.
ALTER TABLE accounts ADD COLUMN revocations INTEGER NOT NULL DEFAULT 0;
-- 1 if the server's shares are gone when the daemon ends.
ALTER TABLE servers ADD COLUMN is_volatile INTEGER NOT NULL DEFAULT 0;
-- Renew secrets have 32 bytes now. Those that stand for no client's stay what they are.
UPDATE leases SET renew_secret = renew_secret || renew_secret WHERE length(renew_secret) = 16;
UPDATE coming SET renew_secret = renew_secret || renew_secret WHERE length(renew_secret) = 16;
-- The secret that guards each slot. It is needed to move the slot to a Tahoe storage folder.
CREATE TABLE write_enablers(
    server INTEGER NOT NULL REFERENCES servers, storage_index BLOB NOT NULL, enabler BLOB NOT NULL,
    PRIMARY KEY(server, storage_index)) WITHOUT ROWID;
CREATE TRIGGER enablers_go AFTER DELETE ON shares WHEN OLD.kind = 2 BEGIN
    DELETE FROM write_enablers WHERE server = OLD.server AND storage_index = OLD.storage_index
        AND NOT EXISTS(SELECT 1 FROM shares WHERE server = OLD.server AND storage_index = OLD.storage_index);
END;
-- The ids of a storage server that clients know from before it moved here.
CREATE TABLE tahoe_ids(
    server INTEGER PRIMARY KEY REFERENCES servers, furl_id TEXT NOT NULL UNIQUE, server_id TEXT NOT NULL UNIQUE);
-- What happened, for the operator.
CREATE TABLE events(
    id INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, kind TEXT NOT NULL, server INTEGER REFERENCES servers,
    account INTEGER REFERENCES accounts, text TEXT NOT NULL);
CREATE INDEX events_kind ON events(kind, id);
", "
-- Number of the files that an account pays for.
ALTER TABLE array_usage ADD COLUMN files INTEGER NOT NULL DEFAULT 0 CHECK(files >= 0);
CREATE TABLE array_usage_history(
    day TEXT NOT NULL, account INTEGER NOT NULL REFERENCES accounts, files INTEGER NOT NULL, bytes INTEGER NOT NULL,
    PRIMARY KEY(day, account)) WITHOUT ROWID;
CREATE TRIGGER array_usage_history_stays BEFORE UPDATE ON array_usage_history
BEGIN SELECT raise(ABORT, 'usage history is append-only'); END;
CREATE TRIGGER array_usage_history_is_kept BEFORE DELETE ON array_usage_history
BEGIN SELECT raise(ABORT, 'usage history is append-only'); END;
-- Set while a server holds shares and gets no new ones.
ALTER TABLE servers ADD COLUMN draining_ms INTEGER;
", "
-- Of a server's shares, those that are GOING, those that are STABLE without and with a lease, and
-- those that vanished. What is shown to people reads these and counts no table.
ALTER TABLE server_usage ADD COLUMN going INTEGER NOT NULL DEFAULT 0 CHECK(going >= 0);
ALTER TABLE server_usage ADD COLUMN unleased INTEGER NOT NULL DEFAULT 0 CHECK(unleased >= 0);
ALTER TABLE server_usage ADD COLUMN leased INTEGER NOT NULL DEFAULT 0 CHECK(leased >= 0);
ALTER TABLE server_usage ADD COLUMN lost INTEGER NOT NULL DEFAULT 0 CHECK(lost >= 0);
UPDATE server_usage SET (going, unleased, leased, lost) =
    (SELECT count(*) FILTER (WHERE state = 2), count(*) FILTER (WHERE state = 1 AND leases = 0),
            count(*) FILTER (WHERE state = 1 AND leases > 0), count(lost_ms)
     FROM shares WHERE shares.server = server_usage.server);
DROP INDEX shares_lost;
DROP TRIGGER shares_inserted;
CREATE TRIGGER shares_inserted AFTER INSERT ON shares BEGIN
    INSERT INTO server_usage(server, shares, bytes, going, unleased, leased, lost)
        VALUES(NEW.server, 1, NEW.used_space, NEW.state = 2, NEW.state = 1 AND NEW.leases = 0,
               NEW.state = 1 AND NEW.leases > 0, NEW.lost_ms IS NOT NULL)
        ON CONFLICT(server) DO UPDATE SET
            shares = shares + 1, bytes = bytes + excluded.bytes, going = going + excluded.going,
            unleased = unleased + excluded.unleased, leased = leased + excluded.leased, lost = lost + excluded.lost;
END;
DROP TRIGGER shares_deleted;
CREATE TRIGGER shares_deleted AFTER DELETE ON shares BEGIN
    UPDATE server_usage SET
        shares = shares - 1, bytes = bytes - OLD.used_space, going = going - (OLD.state = 2),
        unleased = unleased - (OLD.state = 1 AND OLD.leases = 0),
        leased = leased - (OLD.state = 1 AND OLD.leases > 0), lost = lost - (OLD.lost_ms IS NOT NULL)
    WHERE server = OLD.server;
END;
CREATE TRIGGER shares_changed AFTER UPDATE OF state, leases, lost_ms ON shares
WHEN NEW.state <> OLD.state OR (NEW.leases > 0) <> (OLD.leases > 0) OR (NEW.lost_ms IS NULL) <> (OLD.lost_ms IS NULL) BEGIN
    UPDATE server_usage SET
        going = going + (NEW.state = 2) - (OLD.state = 2),
        unleased = unleased + (NEW.state = 1 AND NEW.leases = 0) - (OLD.state = 1 AND OLD.leases = 0),
        leased = leased + (NEW.state = 1 AND NEW.leases > 0) - (OLD.state = 1 AND OLD.leases > 0),
        lost = lost + (NEW.lost_ms IS NOT NULL) - (OLD.lost_ms IS NOT NULL)
    WHERE server = NEW.server;
END;
"];
