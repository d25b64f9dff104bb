"""Everything a grounded answer needs: accounts, assistants, knowledge, conversations."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_UP = """
CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE assistants (
    id UUID NOT NULL,
    slug TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT DEFAULT '' NOT NULL,
    instructions TEXT DEFAULT '' NOT NULL,
    context TEXT DEFAULT '' NOT NULL,
    first_message TEXT DEFAULT '' NOT NULL,
    response_shape JSONB,
    model TEXT,
    model_parameters JSONB DEFAULT '{}'::jsonb NOT NULL,
    user_authentication BOOLEAN DEFAULT false NOT NULL,
    is_enabled BOOLEAN DEFAULT true NOT NULL,
    top_k INTEGER DEFAULT 6 NOT NULL,
    similarity_cutoff DOUBLE PRECISION DEFAULT 0.3 NOT NULL,
    language TEXT,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT assistants_pkey PRIMARY KEY (id),
    CONSTRAINT assistants_top_k_check CHECK (top_k BETWEEN 0 AND 50),
    CONSTRAINT assistants_similarity_cutoff_check CHECK (similarity_cutoff BETWEEN -1 AND 1),
    CONSTRAINT assistants_slug_key UNIQUE (slug)
);
CREATE TABLE collections (
    id UUID NOT NULL,
    name TEXT NOT NULL,
    description TEXT DEFAULT '' NOT NULL,
    chunk_count BIGINT DEFAULT 0 NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT collections_pkey PRIMARY KEY (id),
    CONSTRAINT collections_name_key UNIQUE (name)
);
CREATE TABLE embedders (
    only_row BOOLEAN DEFAULT true NOT NULL,
    name TEXT NOT NULL,
    dimensions INTEGER NOT NULL,
    CONSTRAINT embedders_pkey PRIMARY KEY (only_row),
    CONSTRAINT embedders_only_row_check CHECK (only_row)
);
CREATE TABLE lexemes (
    lexeme TEXT NOT NULL,
    chunk_count BIGINT NOT NULL,
    CONSTRAINT lexemes_pkey PRIMARY KEY (lexeme)
);
CREATE TABLE login_failures (
    subject TEXT NOT NULL,
    failures INTEGER NOT NULL,
    last_failed_at timestamptz NOT NULL,
    CONSTRAINT login_failures_pkey PRIMARY KEY (subject)
);
CREATE TABLE processes (
    id UUID NOT NULL,
    started_at timestamptz DEFAULT now() NOT NULL,
    heartbeat_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT processes_pkey PRIMARY KEY (id)
);
CREATE TABLE users (
    id UUID NOT NULL,
    email TEXT NOT NULL,
    name TEXT DEFAULT '' NOT NULL,
    password_hash TEXT NOT NULL,
    role TEXT NOT NULL,
    is_active BOOLEAN DEFAULT true NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT users_pkey PRIMARY KEY (id),
    CONSTRAINT users_role_check CHECK (role IN ('admin', 'user')),
    CONSTRAINT users_email_check CHECK (email = lower(email)),
    CONSTRAINT users_email_key UNIQUE (email)
);
CREATE TABLE api_keys (
    id UUID NOT NULL,
    user_id UUID NOT NULL,
    name TEXT NOT NULL,
    prefix TEXT NOT NULL,
    key_hash BYTEA NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    last_used_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT api_keys_pkey PRIMARY KEY (id),
    CONSTRAINT api_keys_user_id_fkey FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT api_keys_key_hash_key UNIQUE (key_hash)
);
CREATE INDEX api_keys_user_id_idx ON api_keys (user_id);
CREATE TABLE assistant_collections (
    assistant_id UUID NOT NULL,
    collection_id UUID NOT NULL,
    CONSTRAINT assistant_collections_pkey PRIMARY KEY (assistant_id, collection_id),
    CONSTRAINT assistant_collections_assistant_id_fkey FOREIGN KEY(assistant_id) REFERENCES assistants (id) ON DELETE CASCADE,
    CONSTRAINT assistant_collections_collection_id_fkey FOREIGN KEY(collection_id) REFERENCES collections (id) ON DELETE CASCADE
);
CREATE INDEX assistant_collections_collection_id_idx ON assistant_collections (collection_id);
CREATE TABLE documents (
    id UUID NOT NULL,
    collection_id UUID NOT NULL,
    file_name TEXT NOT NULL,
    declared_type TEXT,
    media_type TEXT,
    kind TEXT,
    title TEXT,
    url TEXT,
    content_sha256 BYTEA NOT NULL,
    size_bytes BIGINT NOT NULL,
    status TEXT NOT NULL,
    error_reason TEXT,
    error_message TEXT,
    warnings JSONB DEFAULT '[]'::jsonb NOT NULL,
    pages JSONB DEFAULT '[]'::jsonb NOT NULL,
    text TEXT,
    chunk_count INTEGER DEFAULT 0 NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    updated_at timestamptz DEFAULT now() NOT NULL,
    position BIGINT GENERATED ALWAYS AS IDENTITY,
    CONSTRAINT documents_pkey PRIMARY KEY (id),
    CONSTRAINT documents_collection_id_content_sha256_key UNIQUE (collection_id, content_sha256),
    CONSTRAINT documents_status_check CHECK (status IN ('pending', 'processing', 'ready', 'failed')),
    CONSTRAINT documents_collection_id_fkey FOREIGN KEY(collection_id) REFERENCES collections (id) ON DELETE CASCADE,
    CONSTRAINT documents_position_key UNIQUE (position)
);
CREATE INDEX documents_open_idx ON documents (position) WHERE status IN ('pending', 'processing');
CREATE TABLE refresh_tokens (
    id UUID NOT NULL,
    user_id UUID NOT NULL,
    family_id UUID NOT NULL,
    token_hash BYTEA NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT refresh_tokens_pkey PRIMARY KEY (id),
    CONSTRAINT refresh_tokens_user_id_fkey FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT refresh_tokens_token_hash_key UNIQUE (token_hash)
);
CREATE INDEX refresh_tokens_family_id_idx ON refresh_tokens (family_id);
CREATE INDEX refresh_tokens_user_id_idx ON refresh_tokens (user_id);
CREATE TABLE sessions (
    id TEXT NOT NULL,
    user_id UUID,
    assistant_id UUID,
    forgotten_up_to BIGINT DEFAULT 0 NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    last_active_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT sessions_pkey PRIMARY KEY (id),
    CONSTRAINT sessions_user_id_fkey FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT sessions_assistant_id_fkey FOREIGN KEY(assistant_id) REFERENCES assistants (id) ON DELETE SET NULL
);
CREATE INDEX sessions_assistant_id_idx ON sessions (assistant_id);
CREATE INDEX sessions_user_id_idx ON sessions (user_id);
CREATE TABLE chunks (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    document_id UUID NOT NULL,
    collection_id UUID NOT NULL,
    ordinal INTEGER NOT NULL,
    start_offset INTEGER NOT NULL,
    end_offset INTEGER NOT NULL,
    page_label TEXT,
    heading TEXT DEFAULT '' NOT NULL,
    text TEXT NOT NULL,
    embedding HALFVEC NOT NULL,
    words TSVECTOR GENERATED ALWAYS AS (to_tsvector('english'::regconfig, (heading || ' '::text) || text)) STORED NOT NULL,
    CONSTRAINT chunks_pkey PRIMARY KEY (id),
    CONSTRAINT chunks_document_id_ordinal_key UNIQUE (document_id, ordinal),
    CONSTRAINT chunks_document_id_fkey FOREIGN KEY(document_id) REFERENCES documents (id) ON DELETE CASCADE,
    CONSTRAINT chunks_collection_id_fkey FOREIGN KEY(collection_id) REFERENCES collections (id) ON DELETE CASCADE
);
CREATE INDEX chunks_collection_id_idx ON chunks (collection_id);
CREATE INDEX chunks_words_idx ON chunks USING gin (words) WITH (fastupdate = off);
CREATE TABLE document_files (
    document_id UUID NOT NULL,
    content BYTEA NOT NULL,
    CONSTRAINT document_files_pkey PRIMARY KEY (document_id),
    CONSTRAINT document_files_document_id_fkey FOREIGN KEY(document_id) REFERENCES documents (id) ON DELETE CASCADE
);
CREATE TABLE messages (
    id UUID NOT NULL,
    position BIGINT GENERATED ALWAYS AS IDENTITY,
    session_id TEXT NOT NULL,
    role TEXT NOT NULL,
    status TEXT NOT NULL,
    text TEXT DEFAULT '' NOT NULL,
    finish_reason TEXT,
    error_code TEXT,
    sources JSONB DEFAULT '[]'::jsonb NOT NULL,
    citations JSONB DEFAULT '[]'::jsonb NOT NULL,
    steps JSONB DEFAULT '[]'::jsonb NOT NULL,
    visualization JSONB,
    usage JSONB,
    created_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT messages_pkey PRIMARY KEY (id),
    CONSTRAINT messages_role_check CHECK (role IN ('user', 'assistant')),
    CONSTRAINT messages_status_check CHECK (status IN ('running', 'completed', 'stopped', 'failed')),
    CONSTRAINT messages_session_id_fkey FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE INDEX messages_session_id_position_idx ON messages (session_id, position);
CREATE TABLE runs (
    id UUID NOT NULL,
    session_id TEXT NOT NULL,
    assistant_id UUID,
    user_message_id UUID NOT NULL,
    message_id UUID NOT NULL,
    process_id UUID NOT NULL,
    status TEXT NOT NULL,
    error_code TEXT,
    started_at timestamptz DEFAULT now() NOT NULL,
    ended_at timestamptz,
    CONSTRAINT runs_pkey PRIMARY KEY (id),
    CONSTRAINT runs_status_check CHECK (status IN ('running', 'completed', 'stopped', 'failed')),
    CONSTRAINT runs_session_id_fkey FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE,
    CONSTRAINT runs_assistant_id_fkey FOREIGN KEY(assistant_id) REFERENCES assistants (id) ON DELETE SET NULL,
    CONSTRAINT runs_user_message_id_fkey FOREIGN KEY(user_message_id) REFERENCES messages (id) ON DELETE CASCADE,
    CONSTRAINT runs_message_id_key UNIQUE (message_id),
    CONSTRAINT runs_message_id_fkey FOREIGN KEY(message_id) REFERENCES messages (id) ON DELETE CASCADE
);
CREATE INDEX runs_assistant_id_idx ON runs (assistant_id);
CREATE UNIQUE INDEX runs_one_running_a_session_key ON runs (session_id) WHERE status = 'running';
CREATE INDEX runs_running_process_id_idx ON runs (process_id) WHERE status = 'running';
CREATE INDEX runs_session_id_idx ON runs (session_id);
CREATE INDEX runs_user_message_id_idx ON runs (user_message_id);

-- Document frequencies and collection sizes follow the chunks, whoever writes them: a statement at a time, in the statement's transaction.
-- The rows are written in the order of their keys, so that two transactions wait for each other instead of deadlocking.
CREATE FUNCTION count_new_chunks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO lexemes AS known (lexeme, chunk_count)
    SELECT entry.lexeme, count(*) FROM new_chunks, unnest(new_chunks.words) AS entry GROUP BY entry.lexeme ORDER BY entry.lexeme
    ON CONFLICT (lexeme) DO UPDATE SET chunk_count = known.chunk_count + excluded.chunk_count;
    UPDATE collections SET chunk_count = collections.chunk_count + added.chunk_count
    FROM (SELECT collection_id, count(*) AS chunk_count FROM new_chunks GROUP BY collection_id ORDER BY collection_id) AS added
    WHERE collections.id = added.collection_id;
    RETURN NULL;
END $$;

CREATE FUNCTION uncount_old_chunks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM lexemes WHERE lexeme IN (SELECT entry.lexeme FROM old_chunks, unnest(old_chunks.words) AS entry) ORDER BY lexeme FOR UPDATE;
    UPDATE lexemes SET chunk_count = lexemes.chunk_count - gone.chunk_count
    FROM (SELECT entry.lexeme, count(*) AS chunk_count FROM old_chunks, unnest(old_chunks.words) AS entry GROUP BY entry.lexeme) AS gone
    WHERE lexemes.lexeme = gone.lexeme;
    DELETE FROM lexemes WHERE chunk_count <= 0 AND lexeme IN (SELECT entry.lexeme FROM old_chunks, unnest(old_chunks.words) AS entry);
    UPDATE collections SET chunk_count = collections.chunk_count - gone.chunk_count
    FROM (SELECT collection_id, count(*) AS chunk_count FROM old_chunks GROUP BY collection_id ORDER BY collection_id) AS gone
    WHERE collections.id = gone.collection_id;
    RETURN NULL;
END $$;

CREATE TRIGGER chunks_inserted AFTER INSERT ON chunks REFERENCING NEW TABLE AS new_chunks
    FOR EACH STATEMENT EXECUTE FUNCTION count_new_chunks();
CREATE TRIGGER chunks_deleted AFTER DELETE ON chunks REFERENCING OLD TABLE AS old_chunks
    FOR EACH STATEMENT EXECUTE FUNCTION uncount_old_chunks();

-- Kept in the row: compressing a vector gains nothing and costs each comparison; the words are read for each candidate.
ALTER TABLE chunks ALTER COLUMN embedding SET STORAGE plain;
ALTER TABLE chunks ALTER COLUMN words SET STORAGE main;
"""

_DOWN = """
DROP TABLE runs, messages, document_files, chunks, sessions, refresh_tokens, documents, assistant_collections, api_keys, users, processes, login_failures, lexemes, embedders, collections, assistants;
DROP FUNCTION count_new_chunks, uncount_old_chunks;
"""


def upgrade() -> None:
    for statement in _statements(_UP):
        op.execute(statement)


def downgrade() -> None:
    for statement in _statements(_DOWN):
        op.execute(statement)


def _statements(script: str) -> list[str]:
    """asyncpg takes one statement at a time; here each ends with a semicolon at the end of a line that no function body is open on."""
    statements = [""]
    for line in script.splitlines():
        statements[-1] += line + "\n"
        if line.endswith(";") and statements[-1].count("$$") % 2 == 0:
            statements.append("")
    return [statement for statement in statements if statement.strip()]
