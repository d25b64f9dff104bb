"""Collections of what is attached to a session."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_UP = (
    "ALTER TABLE collections ADD COLUMN session_id TEXT "
    "CONSTRAINT collections_session_id_fkey REFERENCES sessions (id) ON DELETE CASCADE "
    "CONSTRAINT collections_session_id_key UNIQUE",
)


def upgrade() -> None:
    for statement in _UP:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DELETE FROM collections WHERE session_id IS NOT NULL")
    op.execute("ALTER TABLE collections DROP COLUMN session_id")
