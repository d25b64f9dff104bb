"""What clients of OpenAI's Responses note of a run and of a session."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE runs ADD COLUMN request JSONB")
    op.execute("ALTER TABLE sessions ADD COLUMN client_metadata JSONB")


def downgrade() -> None:
    op.execute("ALTER TABLE sessions DROP COLUMN client_metadata")
    op.execute("ALTER TABLE runs DROP COLUMN request")
