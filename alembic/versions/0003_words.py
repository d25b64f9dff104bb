"""Words in the text's own language, with what BM25 needs to know of each collection."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# What stands between words and the parser takes for a part of them: its compounds (hosts, paths, signed numbers), and
# punctuation outside ASCII, which is letters to it in some locales.
_BETWEEN_WORDS = (
    r"-/@+<>&:._~\\\u0080-\u00a9\u00ab-\u00b4\u00b6-\u00b9\u00bb-\u00bf\u00d7\u00f7\u037e\u0387\u055a-\u055f\u0589\u058a"
    r"\u05be\u05c0\u05c3\u05c6\u05f3\u05f4\u060c\u061b\u061e\u061f\u066a-\u066d\u06d4\u0964\u0965\u0970\u0e2f\u0e3f\u0e46"
    r"\u0e4f\u0e5a\u0e5b\u104a-\u104f\u17d4-\u17da\u2000-\u200b\u200e-\u206f\u20a0-\u20cf\u2190-\u2bff\u2e00-\u2e7f"
    r"\u3000-\u3004\u3008-\u3020\u3030\u303d\u30a0\u30fb\ufd3e\ufd3f\ufe10-\ufe6f\ufeff-\uff0f\uff1a-\uff20\uff3b-\uff40"
    r"\uff5b-\uff65\ufff0-\uffff"
)
# Thai, Lao, Burmese, Khmer, Chinese, Japanese; and Korean, whose endings no configuration of PostgreSQL takes off.
_WITHOUT_SPACES = (
    r"\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u31f0-\u31ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff"
    r"\U00020000-\U0003ffff"
)

_UP = rf"""
-- Each language is one of PostgreSQL's own configurations, named with its schema, so that neither a search path nor a restored dump changes what is found.
CREATE FUNCTION words_of(language text, body text) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    spaced text := body;
BEGIN
    IF octet_length(body) > length(body) AND body IS NOT NFKC NORMALIZED THEN
        spaced := normalize(body, NFKC);
    END IF;
    spaced := regexp_replace(spaced, '[{_BETWEEN_WORDS}]', ' ', 'g');
    IF spaced ~ '[{_WITHOUT_SPACES}]' THEN
        -- A run is set apart; then each character within it ends one pair and begins the next.
        spaced := regexp_replace(spaced, '([{_WITHOUT_SPACES}]+)', ' \1 ', 'g');
        spaced := regexp_replace(spaced, '(?<=[{_WITHOUT_SPACES}])([{_WITHOUT_SPACES}])(?=[{_WITHOUT_SPACES}])', '\1 \1', 'g');
    END IF;
    RETURN to_tsvector(('pg_catalog.' || language)::regconfig, spaced);
END $$;

DROP TRIGGER chunks_inserted ON chunks;
DROP TRIGGER chunks_deleted ON chunks;
DROP FUNCTION count_new_chunks, uncount_old_chunks;
DROP TABLE lexemes;
ALTER TABLE chunks DROP COLUMN words;

CREATE TABLE lexemes (
    collection_id UUID NOT NULL,
    language TEXT NOT NULL,
    lexeme TEXT NOT NULL,
    chunk_count BIGINT NOT NULL,
    CONSTRAINT lexemes_pkey PRIMARY KEY (collection_id, language, lexeme),
    CONSTRAINT lexemes_collection_id_fkey FOREIGN KEY(collection_id) REFERENCES collections (id) ON DELETE CASCADE
);
CREATE TABLE languages (
    collection_id UUID NOT NULL,
    language TEXT NOT NULL,
    chunk_count BIGINT NOT NULL,
    word_count BIGINT NOT NULL,
    CONSTRAINT languages_pkey PRIMARY KEY (collection_id, language),
    CONSTRAINT languages_collection_id_fkey FOREIGN KEY(collection_id) REFERENCES collections (id) ON DELETE CASCADE
);
-- The counts of a frequent word are written by every document.
ALTER TABLE lexemes SET (fillfactor = 70);
ALTER TABLE languages SET (fillfactor = 50);

ALTER TABLE chunks ADD COLUMN language TEXT DEFAULT 'english' NOT NULL;
ALTER TABLE chunks ADD COLUMN words TSVECTOR;
ALTER TABLE chunks ADD COLUMN word_count INTEGER;
-- Kept in the row: the words are read for each candidate.
ALTER TABLE chunks ALTER COLUMN words SET STORAGE main;

CREATE FUNCTION find_words_of_chunk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.words := words_of(NEW.language, NEW.heading || ' ' || NEW.text);
    NEW.word_count := (SELECT coalesce(sum(cardinality(positions)), 0) FROM unnest(NEW.words));
    RETURN NEW;
END $$;
CREATE TRIGGER chunks_words BEFORE INSERT OR UPDATE OF language, heading, text ON chunks
    FOR EACH ROW EXECUTE FUNCTION find_words_of_chunk();
UPDATE chunks SET text = text;
ALTER TABLE chunks ALTER COLUMN words SET NOT NULL, ALTER COLUMN word_count SET NOT NULL;
CREATE INDEX chunks_words_idx ON chunks USING gin (words) WITH (fastupdate = off);

INSERT INTO languages SELECT collection_id, language, count(*), sum(word_count) FROM chunks GROUP BY collection_id, language;
INSERT INTO lexemes
SELECT collection_id, language, entry.lexeme, count(*) FROM chunks, unnest(words) AS entry GROUP BY collection_id, language, entry.lexeme;

-- What BM25 needs to know follows the chunks, whoever writes them, in the transaction that does.
-- A collection's row is locked before its counts are written, so that two transactions wait for each other instead of deadlocking.
CREATE FUNCTION count_new_chunks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM collections WHERE id IN (SELECT collection_id FROM new_chunks) ORDER BY id FOR NO KEY UPDATE;
    UPDATE collections SET chunk_count = collections.chunk_count + added.chunk_count
    FROM (SELECT collection_id, count(*) AS chunk_count FROM new_chunks GROUP BY collection_id) AS added
    WHERE collections.id = added.collection_id;
    INSERT INTO languages AS known (collection_id, language, chunk_count, word_count)
    SELECT collection_id, language, count(*), sum(word_count) FROM new_chunks GROUP BY collection_id, language
    ON CONFLICT (collection_id, language) DO UPDATE
    SET chunk_count = known.chunk_count + excluded.chunk_count, word_count = known.word_count + excluded.word_count;
    INSERT INTO lexemes AS known (collection_id, language, lexeme, chunk_count)
    SELECT collection_id, language, entry.lexeme, count(*) FROM new_chunks, unnest(new_chunks.words) AS entry
    GROUP BY collection_id, language, entry.lexeme
    ON CONFLICT (collection_id, language, lexeme) DO UPDATE SET chunk_count = known.chunk_count + excluded.chunk_count;
    RETURN NULL;
END $$;

CREATE FUNCTION uncount_old_chunks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM collections WHERE id IN (SELECT collection_id FROM old_chunks) ORDER BY id FOR NO KEY UPDATE;
    UPDATE collections SET chunk_count = collections.chunk_count - gone.chunk_count
    FROM (SELECT collection_id, count(*) AS chunk_count FROM old_chunks GROUP BY collection_id) AS gone
    WHERE collections.id = gone.collection_id;
    WITH gone AS (
        SELECT collection_id, language, count(*) AS chunk_count, sum(word_count) AS word_count
        FROM old_chunks GROUP BY collection_id, language
    ), emptied AS (
        DELETE FROM languages known USING gone
        WHERE (known.collection_id, known.language) = (gone.collection_id, gone.language) AND known.chunk_count <= gone.chunk_count
    )
    UPDATE languages known SET chunk_count = known.chunk_count - gone.chunk_count, word_count = known.word_count - gone.word_count
    FROM gone
    WHERE (known.collection_id, known.language) = (gone.collection_id, gone.language) AND known.chunk_count > gone.chunk_count;
    WITH gone AS (
        SELECT collection_id, language, entry.lexeme, count(*) AS chunk_count
        FROM old_chunks, unnest(old_chunks.words) AS entry GROUP BY collection_id, language, entry.lexeme
    ), emptied AS (
        DELETE FROM lexemes known USING gone
        WHERE (known.collection_id, known.language, known.lexeme) = (gone.collection_id, gone.language, gone.lexeme)
            AND known.chunk_count <= gone.chunk_count
    )
    UPDATE lexemes known SET chunk_count = known.chunk_count - gone.chunk_count FROM gone
    WHERE (known.collection_id, known.language, known.lexeme) = (gone.collection_id, gone.language, gone.lexeme)
        AND known.chunk_count > gone.chunk_count;
    RETURN NULL;
END $$;

CREATE FUNCTION recount_changed_chunk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM collections WHERE id IN (OLD.collection_id, NEW.collection_id) ORDER BY id FOR NO KEY UPDATE;
    UPDATE collections SET chunk_count = chunk_count + 1 WHERE id = NEW.collection_id;
    INSERT INTO languages AS known VALUES (NEW.collection_id, NEW.language, 1, NEW.word_count)
    ON CONFLICT (collection_id, language) DO UPDATE
    SET chunk_count = known.chunk_count + 1, word_count = known.word_count + excluded.word_count;
    INSERT INTO lexemes AS known SELECT NEW.collection_id, NEW.language, lexeme, 1 FROM unnest(NEW.words)
    ON CONFLICT (collection_id, language, lexeme) DO UPDATE SET chunk_count = known.chunk_count + 1;
    UPDATE collections SET chunk_count = chunk_count - 1 WHERE id = OLD.collection_id;
    UPDATE languages SET chunk_count = chunk_count - 1, word_count = word_count - OLD.word_count
    WHERE (collection_id, language) = (OLD.collection_id, OLD.language);
    DELETE FROM languages WHERE (collection_id, language) = (OLD.collection_id, OLD.language) AND chunk_count <= 0;
    UPDATE lexemes SET chunk_count = chunk_count - 1
    WHERE (collection_id, language) = (OLD.collection_id, OLD.language) AND lexeme = ANY (tsvector_to_array(OLD.words));
    DELETE FROM lexemes
    WHERE (collection_id, language) = (OLD.collection_id, OLD.language) AND lexeme = ANY (tsvector_to_array(OLD.words)) AND chunk_count <= 0;
    RETURN NULL;
END $$;

CREATE TRIGGER chunks_inserted AFTER INSERT ON chunks REFERENCING NEW TABLE AS new_chunks
    FOR EACH STATEMENT EXECUTE FUNCTION count_new_chunks();
CREATE TRIGGER chunks_deleted AFTER DELETE ON chunks REFERENCING OLD TABLE AS old_chunks
    FOR EACH STATEMENT EXECUTE FUNCTION uncount_old_chunks();
-- Of the columns that are counted alone, as changing the embedder writes every row.
CREATE TRIGGER chunks_changed AFTER UPDATE OF collection_id, language, heading, text ON chunks
    FOR EACH ROW EXECUTE FUNCTION recount_changed_chunk();
"""

_DOWN = """
DROP TRIGGER chunks_inserted ON chunks;
DROP TRIGGER chunks_deleted ON chunks;
DROP TRIGGER chunks_changed ON chunks;
DROP TRIGGER chunks_words ON chunks;
DROP FUNCTION count_new_chunks, uncount_old_chunks, recount_changed_chunk, find_words_of_chunk;
DROP TABLE lexemes, languages;
ALTER TABLE chunks DROP COLUMN words, DROP COLUMN word_count, DROP COLUMN language;
DROP FUNCTION words_of;

CREATE TABLE lexemes (
    lexeme TEXT NOT NULL,
    chunk_count BIGINT NOT NULL,
    CONSTRAINT lexemes_pkey PRIMARY KEY (lexeme)
);
ALTER TABLE chunks ADD COLUMN words TSVECTOR GENERATED ALWAYS AS (to_tsvector('english'::regconfig, (heading || ' '::text) || text)) STORED NOT NULL;
ALTER TABLE chunks ALTER COLUMN words SET STORAGE main;
CREATE INDEX chunks_words_idx ON chunks USING gin (words) WITH (fastupdate = off);
INSERT INTO lexemes SELECT entry.lexeme, count(*) FROM chunks, unnest(words) AS entry GROUP BY entry.lexeme;

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
