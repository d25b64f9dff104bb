"""Tokens of chat sockets."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_UP = (
    """
    CREATE TABLE chat_tokens (
        id UUID NOT NULL,
        token_hash BYTEA NOT NULL,
        name TEXT NOT NULL,
        session_id TEXT NOT NULL,
        user_id UUID,
        assistant_id UUID NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
        CONSTRAINT chat_tokens_pkey PRIMARY KEY (id),
        CONSTRAINT chat_tokens_token_hash_key UNIQUE (token_hash),
        CONSTRAINT chat_tokens_session_id_fkey FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE,
        CONSTRAINT chat_tokens_user_id_fkey FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE,
        CONSTRAINT chat_tokens_assistant_id_fkey FOREIGN KEY(assistant_id) REFERENCES assistants (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX chat_tokens_session_id_idx ON chat_tokens (session_id)",
    "CREATE INDEX chat_tokens_user_id_idx ON chat_tokens (user_id)",
    "CREATE INDEX chat_tokens_assistant_id_idx ON chat_tokens (assistant_id)",
    "CREATE INDEX chat_tokens_expires_at_idx ON chat_tokens (expires_at)",
)


def upgrade() -> None:
    for statement in _UP:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE chat_tokens")
