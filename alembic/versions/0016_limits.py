"""Budgets, and how much is asked a minute."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_UP = (
    "ALTER TABLE assistants ADD COLUMN budget JSONB",
    "ALTER TABLE runs ADD COLUMN accounts TEXT[]",
    """
    CREATE TABLE spendings (
        account TEXT NOT NULL,
        tokens BIGINT NOT NULL,
        cost DOUBLE PRECISION NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT spendings_pkey PRIMARY KEY (account)
    )
    """,
    """
    CREATE TABLE rate_limits (
        subject TEXT NOT NULL,
        free_at TIMESTAMP WITH TIME ZONE NOT NULL,
        CONSTRAINT rate_limits_pkey PRIMARY KEY (subject)
    )
    """,
)

_DOWN = (
    "DROP TABLE rate_limits",
    "DROP TABLE spendings",
    "ALTER TABLE runs DROP COLUMN accounts",
    "ALTER TABLE assistants DROP COLUMN budget",
)


def upgrade() -> None:
    for statement in _UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in _DOWN:
        op.execute(statement)
