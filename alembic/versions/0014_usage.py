"""What answers have taken."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_UP = (
    "ALTER TABLE runs ADD COLUMN user_id UUID",
    """
    CREATE TABLE usage (
        run_id UUID NOT NULL,
        session_id TEXT,
        user_id UUID,
        assistant_id UUID,
        model TEXT,
        status TEXT NOT NULL,
        input_tokens BIGINT NOT NULL,
        output_tokens BIGINT NOT NULL,
        embedding_tokens BIGINT NOT NULL,
        is_estimated BOOLEAN NOT NULL,
        cost DOUBLE PRECISION,
        ended_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT usage_pkey PRIMARY KEY (run_id),
        CONSTRAINT usage_session_id_fkey FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE SET NULL,
        CONSTRAINT usage_user_id_fkey FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE SET NULL,
        CONSTRAINT usage_assistant_id_fkey FOREIGN KEY(assistant_id) REFERENCES assistants (id) ON DELETE SET NULL
    )
    """,
    "CREATE INDEX usage_session_id_idx ON usage (session_id)",
    "CREATE INDEX usage_user_id_ended_at_idx ON usage (user_id, ended_at)",
    "CREATE INDEX usage_assistant_id_idx ON usage (assistant_id)",
    "CREATE INDEX usage_ended_at_idx ON usage (ended_at)",
)

_DOWN = ("DROP TABLE usage", "ALTER TABLE runs DROP COLUMN user_id")


def upgrade() -> None:
    for statement in _UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in _DOWN:
        op.execute(statement)
