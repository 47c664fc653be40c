-- A store as the first version of the schema left it: one reservation settled (40 of 100 nano-USD), one open (30).
PRAGMA application_id = 1886350457;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE accounts (
        key           TEXT PRIMARY KEY,  -- Account.key
        spent         INTEGER NOT NULL,
        reserved      INTEGER NOT NULL,
        keep_until_ms INTEGER            -- NULL: kept for ever
    ) WITHOUT ROWID
    ;
INSERT INTO "accounts" VALUES('budget|project=acme|1-2000000000000',40,30,2100000000000);
CREATE TABLE reservations (
        id            TEXT PRIMARY KEY,
        state         TEXT NOT NULL,     -- State
        fingerprint   TEXT NOT NULL,
        entries       TEXT NOT NULL,     -- JSON; amounts as held now, or at last
        balances      TEXT NOT NULL,     -- JSON; before the hold, as reserve answered them
        record        TEXT NOT NULL,     -- JSON; pending while reserved, final after
        expires_at_ms INTEGER NOT NULL,
        ended_at_ms   INTEGER            -- NULL while reserved
    );
INSERT INTO "reservations" VALUES('settled','settled','f','[{"account":{"limit":"budget","scope":"project=acme","starts_at_ms":1,"ends_at_ms":2000000000000,"keep_until_ms":2100000000000},"metric":"cost_usd","amount":100,"cap":1000,"enforce":true,"on_expiry":null,"carry":null}]','[{"spent":0,"reserved":0,"carried":0}]','{"request_id":"settled","at_ms":1800000000000,"outcome":"served","decision":"allow","provider":"openai","endpoint":"chat_completions","model":"gpt-4o","attributes":{"project":"acme"},"denied_by":[],"shadow_denied_by":[],"status":null,"response_model":null,"streamed":false,"usage":null,"usage_source":"none","terms":{},"expected":null,"maximum":null,"estimated_cost_nanos":0,"actual_cost_nanos":40,"confidence":null,"duration_ms":0,"policy_us":0,"error":null}',1800000120000,1800000000000);
INSERT INTO "reservations" VALUES('open','reserved','f','[{"account":{"limit":"budget","scope":"project=acme","starts_at_ms":1,"ends_at_ms":2000000000000,"keep_until_ms":2100000000000},"metric":"cost_usd","amount":30,"cap":1000,"enforce":true,"on_expiry":null,"carry":null}]','[{"spent":0,"reserved":100,"carried":0}]','{"request_id":"open","at_ms":1800000000000,"outcome":"served","decision":"allow","provider":"openai","endpoint":"chat_completions","model":"gpt-4o","attributes":{"project":"acme"},"denied_by":[],"shadow_denied_by":[],"status":null,"response_model":null,"streamed":false,"usage":null,"usage_source":"none","terms":{},"expected":null,"maximum":null,"estimated_cost_nanos":0,"actual_cost_nanos":null,"confidence":null,"duration_ms":0,"policy_us":0,"error":null}',1800000120000,NULL);
CREATE TABLE usage (
        request_id    TEXT NOT NULL UNIQUE,
        at_ms         INTEGER NOT NULL,
        attributes    TEXT NOT NULL,     -- one "name":"value" a line, between newlines
        record        TEXT NOT NULL      -- JSON
    );
INSERT INTO "usage" VALUES('settled',1800000000000,'
"project":"acme"
','{"request_id":"settled","at_ms":1800000000000,"outcome":"served","decision":"allow","provider":"openai","endpoint":"chat_completions","model":"gpt-4o","attributes":{"project":"acme"},"denied_by":[],"shadow_denied_by":[],"status":null,"response_model":null,"streamed":false,"usage":null,"usage_source":"none","terms":{},"expected":null,"maximum":null,"estimated_cost_nanos":0,"actual_cost_nanos":40,"confidence":null,"duration_ms":0,"policy_us":0,"error":null}');
CREATE INDEX accounts_to_forget ON accounts (keep_until_ms) WHERE keep_until_ms IS NOT NULL;
CREATE INDEX reservations_to_expire ON reservations (expires_at_ms) WHERE state = 'reserved';
CREATE INDEX reservations_to_forget ON reservations (ended_at_ms) WHERE ended_at_ms IS NOT NULL;
CREATE INDEX usage_by_age ON usage (at_ms, request_id, attributes);
COMMIT;
