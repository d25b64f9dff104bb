"""What lets an answer outlive its connection, its reader and its process: the lines of runs, queues, keys, branches."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_UP = """
ALTER TABLE assistants ADD COLUMN unread_limit_s DOUBLE PRECISION;
ALTER TABLE assistants ADD CONSTRAINT assistants_unread_limit_s_check CHECK (unread_limit_s >= 0);

ALTER TABLE sessions ADD COLUMN title TEXT;
DROP INDEX sessions_user_id_idx;
CREATE INDEX sessions_user_id_last_active_at_idx ON sessions (user_id, last_active_at);

ALTER TABLE messages ADD COLUMN parent_id UUID;
ALTER TABLE messages ADD COLUMN is_shown BOOLEAN DEFAULT true NOT NULL;
UPDATE messages SET parent_id = before.id FROM (
    SELECT position, lag(id) OVER (PARTITION BY session_id ORDER BY position) AS id FROM messages
) AS before WHERE before.position = messages.position;
ALTER TABLE messages ADD CONSTRAINT messages_parent_id_fkey FOREIGN KEY (parent_id) REFERENCES messages (id) ON DELETE CASCADE;
CREATE INDEX messages_parent_id_idx ON messages (parent_id);
ALTER TABLE messages DROP CONSTRAINT messages_status_check;
ALTER TABLE messages ADD CONSTRAINT messages_status_check CHECK (status IN ('queued', 'running', 'completed', 'stopped', 'failed'));

ALTER TABLE runs ADD COLUMN language TEXT;
ALTER TABLE runs ADD COLUMN stop_requested BOOLEAN DEFAULT false NOT NULL;
ALTER TABLE runs ADD COLUMN idempotency_scope TEXT;
ALTER TABLE runs ADD COLUMN idempotency_key TEXT;
ALTER TABLE runs ADD COLUMN request_sha256 BYTEA;
ALTER TABLE runs ADD COLUMN last_seq INTEGER;
ALTER TABLE runs ADD COLUMN log BYTEA;
ALTER TABLE runs ADD COLUMN was_abandoned BOOLEAN DEFAULT false NOT NULL;
-- It is compressed already, and hardly any query wants it.
ALTER TABLE runs ALTER COLUMN log SET STORAGE external;
ALTER TABLE runs DROP CONSTRAINT runs_status_check;
ALTER TABLE runs ADD CONSTRAINT runs_status_check CHECK (status IN ('queued', 'running', 'completed', 'stopped', 'failed'));
DROP INDEX runs_running_process_id_idx;
CREATE INDEX runs_open_process_id_idx ON runs (process_id) WHERE status IN ('queued', 'running');
CREATE INDEX runs_open_session_id_idx ON runs (session_id) WHERE status IN ('queued', 'running');
CREATE UNIQUE INDEX runs_idempotency_scope_idempotency_key_key ON runs (idempotency_scope, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE run_lines (
    run_id UUID NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    lines BYTEA NOT NULL,
    CONSTRAINT run_lines_pkey PRIMARY KEY (run_id, first_seq),
    CONSTRAINT run_lines_run_id_fkey FOREIGN KEY (run_id) REFERENCES runs (id) ON DELETE CASCADE
);
-- Written and deleted five times a second: compressing would cost more than it saves, and what is deleted must not pile up.
ALTER TABLE run_lines ALTER COLUMN lines SET STORAGE external;
ALTER TABLE run_lines SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000);
"""

_DOWN = """
DROP TABLE run_lines;

UPDATE runs SET status = 'failed', error_code = 'interrupted', ended_at = now() WHERE status = 'queued';
DROP INDEX runs_idempotency_scope_idempotency_key_key;
DROP INDEX runs_open_session_id_idx;
DROP INDEX runs_open_process_id_idx;
CREATE INDEX runs_running_process_id_idx ON runs (process_id) WHERE status = 'running';
ALTER TABLE runs DROP CONSTRAINT runs_status_check;
ALTER TABLE runs ADD CONSTRAINT runs_status_check CHECK (status IN ('running', 'completed', 'stopped', 'failed'));
ALTER TABLE runs DROP COLUMN language, DROP COLUMN stop_requested, DROP COLUMN idempotency_scope, DROP COLUMN idempotency_key, DROP COLUMN request_sha256, DROP COLUMN last_seq, DROP COLUMN log, DROP COLUMN was_abandoned;

DELETE FROM messages WHERE NOT is_shown;
UPDATE messages SET status = 'failed', error_code = 'interrupted' WHERE status = 'queued';
ALTER TABLE messages DROP CONSTRAINT messages_status_check;
ALTER TABLE messages ADD CONSTRAINT messages_status_check CHECK (status IN ('running', 'completed', 'stopped', 'failed'));
ALTER TABLE messages DROP COLUMN parent_id, DROP COLUMN is_shown;

DROP INDEX sessions_user_id_last_active_at_idx;
CREATE INDEX sessions_user_id_idx ON sessions (user_id);
ALTER TABLE sessions DROP COLUMN title;

ALTER TABLE assistants DROP COLUMN unread_limit_s;
"""


def upgrade() -> None:
    for statement in _statements(_UP):
        op.execute(statement)


def downgrade() -> None:
    for statement in _statements(_DOWN):
        op.execute(statement)


def _statements(script: str) -> list[str]:
    """asyncpg takes one statement at a time; here each ends with a semicolon at the end of a line."""
    return [statement for statement in script.split(";\n") if statement.strip()]
