"""Ratings of answers."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE feedback (
            message_id UUID NOT NULL,
            position BIGINT GENERATED ALWAYS AS IDENTITY,
            rating TEXT NOT NULL,
            comment TEXT,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            CONSTRAINT feedback_pkey PRIMARY KEY (message_id),
            CONSTRAINT feedback_position_key UNIQUE (position),
            CONSTRAINT feedback_rating_check CHECK (rating IN ('up', 'down')),
            CONSTRAINT feedback_message_id_fkey FOREIGN KEY(message_id) REFERENCES messages (id) ON DELETE CASCADE
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE feedback")
