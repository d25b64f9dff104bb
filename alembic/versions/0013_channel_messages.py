"""What has been said over channels whose answers are brought, and who asks such a channel."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_UP = (
    """
    CREATE TABLE channel_messages (
        channel TEXT NOT NULL,
        key TEXT NOT NULL,
        position BIGINT GENERATED ALWAYS AS IDENTITY,
        conversation TEXT NOT NULL,
        content JSONB NOT NULL,
        posted JSONB DEFAULT '[]'::jsonb NOT NULL,
        tries INTEGER DEFAULT 0 NOT NULL,
        due_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        received_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        answered_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT channel_messages_pkey PRIMARY KEY (channel, key)
    )
    """,
    "CREATE INDEX channel_messages_open_idx ON channel_messages (channel, conversation, position) WHERE answered_at IS NULL",
    "CREATE INDEX channel_messages_answered_at_idx ON channel_messages (answered_at)",
    """
    CREATE TABLE channel_pollers (
        channel TEXT NOT NULL,
        process_id UUID NOT NULL,
        until TIMESTAMP WITH TIME ZONE NOT NULL,
        CONSTRAINT channel_pollers_pkey PRIMARY KEY (channel)
    )
    """,
)


def upgrade() -> None:
    for statement in _UP:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE channel_messages, channel_pollers")
