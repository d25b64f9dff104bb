"""Answers that are given again, for as long as the documents are the same."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_UP = (
    "ALTER TABLE collections ADD COLUMN version BIGINT DEFAULT 0 NOT NULL",
    "ALTER TABLE assistants ADD COLUMN answer_cache_s DOUBLE PRECISION "
    "CONSTRAINT assistants_answer_cache_s_check CHECK (answer_cache_s > 0)",
    "ALTER TABLE assistants ADD COLUMN answer_cache_similarity DOUBLE PRECISION DEFAULT 0.9 NOT NULL "
    "CONSTRAINT assistants_answer_cache_similarity_check CHECK (answer_cache_similarity BETWEEN 0 AND 1)",
    """
    CREATE TABLE kept_answers (
        id UUID NOT NULL,
        assistant_id UUID NOT NULL,
        scope BYTEA NOT NULL,
        question TEXT NOT NULL,
        guard TEXT NOT NULL,
        embedding HALFVEC NOT NULL,
        corpus_version BIGINT NOT NULL,
        events JSONB NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT kept_answers_pkey PRIMARY KEY (id),
        CONSTRAINT kept_answers_assistant_id_fkey FOREIGN KEY(assistant_id) REFERENCES assistants (id) ON DELETE CASCADE
    )
    """,
    # A question may be as long as a page, and an entry of an index not.
    "CREATE UNIQUE INDEX kept_answers_scope_question_key ON kept_answers (scope, md5(question))",
    "CREATE INDEX kept_answers_assistant_id_created_at_idx ON kept_answers (assistant_id, created_at)",
    # The chunks' own triggers count on each change of chunks, whoever makes it, and have locked the row.
    """
    CREATE FUNCTION count_version() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.version := OLD.version + 1;
        RETURN NEW;
    END $$
    """,
    "CREATE TRIGGER collections_version BEFORE UPDATE OF chunk_count ON collections FOR EACH ROW EXECUTE FUNCTION count_version()",
    # What a source tells of its document.
    """
    CREATE FUNCTION count_renamed_document() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE collections SET version = version + 1 WHERE id = NEW.collection_id;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER documents_renamed AFTER UPDATE OF file_name, title, url, kind ON documents FOR EACH ROW
    WHEN (OLD.chunk_count > 0 AND (OLD.file_name, OLD.title, OLD.url, OLD.kind) IS DISTINCT FROM (NEW.file_name, NEW.title, NEW.url, NEW.kind))
    EXECUTE FUNCTION count_renamed_document()
    """,
    # Of another version they are not found; what was deleted must not stay in them either.
    """
    CREATE FUNCTION forget_answers() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        DELETE FROM kept_answers WHERE assistant_id IN (SELECT assistant_id FROM assistant_collections WHERE collection_id = OLD.id);
        RETURN OLD;
    END $$
    """,
    "CREATE TRIGGER collections_changed AFTER UPDATE ON collections FOR EACH ROW WHEN (OLD.version <> NEW.version) "
    "EXECUTE FUNCTION forget_answers()",
    "CREATE TRIGGER collections_deleted BEFORE DELETE ON collections FOR EACH ROW EXECUTE FUNCTION forget_answers()",
)

_DOWN = (
    "DROP TRIGGER collections_changed ON collections",
    "DROP TRIGGER collections_deleted ON collections",
    "DROP TRIGGER collections_version ON collections",
    "DROP TRIGGER documents_renamed ON documents",
    "DROP FUNCTION forget_answers, count_version, count_renamed_document",
    "DROP TABLE kept_answers",
    "ALTER TABLE assistants DROP COLUMN answer_cache_s, DROP COLUMN answer_cache_similarity",
    "ALTER TABLE collections DROP COLUMN version",
)


def upgrade() -> None:
    for statement in _UP:
        op.execute(statement)


def downgrade() -> None:
    for statement in _DOWN:
        op.execute(statement)
