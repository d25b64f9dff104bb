"""What is remembered of a conversation beyond its last turns."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE summaries (
            message_id UUID NOT NULL,
            session_id TEXT NOT NULL,
            position BIGINT NOT NULL,
            text TEXT NOT NULL,
            usage JSONB NOT NULL,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            CONSTRAINT summaries_pkey PRIMARY KEY (message_id),
            CONSTRAINT summaries_message_id_fkey FOREIGN KEY(message_id) REFERENCES messages (id) ON DELETE CASCADE,
            CONSTRAINT summaries_session_id_fkey FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
        )
        """
    )
    op.execute("CREATE INDEX summaries_session_id_position_idx ON summaries (session_id, position)")


def downgrade() -> None:
    op.execute("DROP TABLE summaries")
