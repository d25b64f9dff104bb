"""Assistants that say when the documents hold no answer."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "ALTER TABLE assistants ADD COLUMN answerability TEXT DEFAULT 'normal' NOT NULL "
        "CONSTRAINT assistants_answerability_check CHECK (answerability IN ('off', 'normal', 'strict'))"
    )


def downgrade() -> None:
    op.execute("ALTER TABLE assistants DROP COLUMN answerability")
