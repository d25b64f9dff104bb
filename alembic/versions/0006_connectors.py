"""Connectors, which keep collections in step with where documents live: what they have seen, and the log of their syncs."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_UP = """
CREATE TABLE connectors (
    id UUID NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    collection_id UUID NOT NULL,
    place JSONB NOT NULL,
    secrets BYTEA,
    schedule TEXT,
    is_paused BOOLEAN DEFAULT false NOT NULL,
    is_trusted BOOLEAN DEFAULT false NOT NULL,
    next_sync_at TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT connectors_pkey PRIMARY KEY (id),
    CONSTRAINT connectors_name_key UNIQUE (name),
    CONSTRAINT connectors_collection_id_fkey FOREIGN KEY (collection_id) REFERENCES collections (id) ON DELETE CASCADE,
    CONSTRAINT connectors_kind_check CHECK (kind IN ('folder', 'web', 's3'))
);
CREATE INDEX connectors_collection_id_idx ON connectors (collection_id);

CREATE TABLE connector_syncs (
    id UUID NOT NULL,
    position BIGINT GENERATED ALWAYS AS IDENTITY,
    connector_id UUID NOT NULL,
    status TEXT NOT NULL,
    cause TEXT NOT NULL,
    claim_id UUID,
    cancel_requested BOOLEAN DEFAULT false NOT NULL,
    added INTEGER DEFAULT 0 NOT NULL,
    changed INTEGER DEFAULT 0 NOT NULL,
    unchanged INTEGER DEFAULT 0 NOT NULL,
    removed INTEGER DEFAULT 0 NOT NULL,
    passed_over INTEGER DEFAULT 0 NOT NULL,
    failed INTEGER DEFAULT 0 NOT NULL,
    doing TEXT,
    message TEXT,
    errors JSONB DEFAULT '[]'::jsonb NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    ended_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT connector_syncs_pkey PRIMARY KEY (id),
    CONSTRAINT connector_syncs_connector_id_fkey FOREIGN KEY (connector_id) REFERENCES connectors (id) ON DELETE CASCADE,
    CONSTRAINT connector_syncs_status_check CHECK (status IN ('queued', 'running', 'completed', 'incomplete', 'failed', 'cancelled', 'interrupted')),
    CONSTRAINT connector_syncs_cause_check CHECK (cause IN ('manual', 'schedule', 'removal'))
);
CREATE UNIQUE INDEX connector_syncs_one_open_a_connector_key ON connector_syncs (connector_id) WHERE ended_at IS NULL;
CREATE INDEX connector_syncs_connector_id_position_idx ON connector_syncs (connector_id, position);

CREATE TABLE connector_items (
    connector_id UUID NOT NULL,
    key TEXT NOT NULL,
    document_id UUID,
    is_document BOOLEAN NOT NULL,
    state JSONB NOT NULL,
    seen_in UUID NOT NULL,
    CONSTRAINT connector_items_pkey PRIMARY KEY (connector_id, key),
    CONSTRAINT connector_items_connector_id_fkey FOREIGN KEY (connector_id) REFERENCES connectors (id) ON DELETE CASCADE,
    CONSTRAINT connector_items_document_id_fkey FOREIGN KEY (document_id) REFERENCES documents (id) ON DELETE SET NULL
);
CREATE INDEX connector_items_document_id_idx ON connector_items (document_id);
"""

_DOWN = """
DROP TABLE connector_items;
DROP TABLE connector_syncs;
DROP TABLE connectors;
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
