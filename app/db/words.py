"""The half of the search by words: how much each weighs among the collections that are searched, which chunks are looked at
for them, and which of these are best.

The score is BM25 as Lucene computes it, of the lexemes that PostgreSQL finds in the question and in the chunks; how many
chunks hold a lexeme, and how long chunks are, is counted for each collection and language.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, groupby
from math import log, pi
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, BindParameter, Double, Row, Text, TextClause, Uuid, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

# Robertson and Zaragoza 2009, and the defaults of Lucene.
K1 = 1.2
B = 0.75
# How a word that the question repeats counts, Robertson et al. 1995; without it the long questions of CISI lose .08 of nDCG@10.
_K3 = 7

# How many chunks may be looked at: 4 µs each. Of the 10,564 passages of five sets 158, the same share as these of 100,000, are
# enough to find what looking at all of them finds, but for .01 of nDCG@10; for the long questions of CISI .03.
_MATCHES = 1_500
# Words come together about twice as often as by chance.
_TOGETHER = 2
# Reading so many entries of the index costs as much as looking at the chunks.
_ENTRIES = 20_000
# A question as long as a document is told by the words that weigh most.
_MOST_TERMS = 32

# Each language of the collections is searched by itself; of more than these, those that most of the question is known in.
_MOST_LANGUAGES = 6

# More chunks than this match a question's words only where words come together far more often than was expected.
_MOST_MATCHES = 4_000
# Scores have room for a multiple of so many terms: few statements, which the server has soon planned.
_SLOTS_BY = 4

# What `ts_rank` makes of a lexeme that stands n times is this times the sum of 1/i² for i up to n, over the sum for all i.
_RANK_OF_ONE = 0.1
_SUM_OF_SQUARES = pi**2 / 6

OF_THESE = "c.collection_id = ANY (:collection_ids)"

_STATISTICS = text(
    """
    WITH spoken AS MATERIALIZED (
        SELECT language, sum(chunk_count)::bigint AS chunk_count, sum(word_count)::bigint AS word_count
        FROM languages WHERE collection_id = ANY (:collection_ids) GROUP BY language
    ), asked AS MATERIALIZED (
        SELECT spoken.language, entry.lexeme, max(cardinality(entry.positions)) AS times
        FROM spoken, unnest(words_of(spoken.language, :question)) entry GROUP BY spoken.language, entry.lexeme
    ), known AS (
        SELECT asked.language, asked.lexeme, asked.times, sum(lexemes.chunk_count)::bigint AS chunk_count
        FROM asked JOIN lexemes
            ON (lexemes.language, lexemes.lexeme) = (asked.language, asked.lexeme) AND lexemes.collection_id = ANY (:collection_ids)
        GROUP BY asked.language, asked.lexeme, asked.times
    )
    SELECT known.language, known.lexeme, known.times, known.chunk_count, spoken.chunk_count AS of_chunks,
        spoken.word_count AS of_words, total.of_all
    FROM (SELECT coalesce(sum(chunk_count), 0)::bigint AS of_all FROM collections) total
        LEFT JOIN (known JOIN spoken USING (language)) ON true
    ORDER BY known.language
    """
).bindparams(bindparam("collection_ids", type_=ARRAY(Uuid(as_uuid=True))), bindparam("question", type_=Text))


@dataclass(frozen=True, slots=True)
class Term:
    """A lexeme that the collections hold. `weight` is what a chunk's score gains from it at the most."""

    lexeme: str
    chunk_count: int
    weight: float

    @property
    def query(self) -> str:
        """As a tsquery's text."""
        return "'" + self.lexeme.replace("\\", "\\\\").replace("'", "''") + "'"


@dataclass(frozen=True, slots=True)
class Lookup:
    """The chunks to score are those of the language that `sought`, a tsquery's text, matches: found in the index of words,
    or among all of the collections' chunks where those are fewer than the entries that would have to be read."""

    language: str
    terms: tuple[Term, ...]
    average_length: float
    sought: str
    by_index: bool


@dataclass(frozen=True, slots=True)
class Statistics:
    """A lookup for each language in which the collections hold words of the question; and how many chunks there are in
    all collections, whether they are searched or not."""

    lookups: tuple[Lookup, ...]
    of_all: int


@dataclass(frozen=True, slots=True)
class Matches:
    """The best chunks by words, best first, and their scores; what they were looked up by, and how many chunks there are in
    all collections."""

    chunk_ids: tuple[int, ...]
    scores: tuple[float, ...]
    lookups: tuple[Lookup, ...]
    of_all: int


NOTHING = Matches((), (), (), of_all=0)


async def match(
    session: AsyncSession, question: str, collection_ids: Sequence[UUID], *, depth: int
) -> Matches:
    """The `depth` best by BM25 of the chunks that were looked at."""
    statistics = await look_up(session, question, collection_ids)
    lookups = statistics.lookups
    if not lookups:
        return Matches((), (), (), statistics.of_all)
    statement = _best(depth, tuple((slots(lookup), lookup.by_index) for lookup in lookups))
    values: dict[str, Any] = {"collection_ids": list(collection_ids)}
    for place, lookup in enumerate(lookups):
        values |= values_of_score(place, lookup) | {f"sought_{place}": lookup.sought}
    rows = (await session.execute(statement, values)).all()
    return Matches(tuple(row[0] for row in rows), tuple(row[1] for row in rows), lookups, statistics.of_all)


async def look_up(session: AsyncSession, question: str, collection_ids: Sequence[UUID]) -> Statistics:
    values = {"question": question.replace("\0", " "), "collection_ids": list(collection_ids)}
    rows = (await session.execute(_STATISTICS, values)).all()
    known = (row for row in rows if row.language is not None)
    lookups = [_in_language(list(group)) for _, group in groupby(known, lambda row: row.language)]
    lookups.sort(key=lambda lookup: -sum(term.weight for term in lookup.terms))
    return Statistics(tuple(lookups[:_MOST_LANGUAGES]), rows[0].of_all)


def slots(lookup: Lookup) -> int:
    """For how many terms there is room in the score; those that there are not weigh nothing."""
    return -(-len(lookup.terms) // _SLOTS_BY) * _SLOTS_BY


def score(place: int, room: int) -> str:
    """BM25 of the chunk `c`, of the language in this place, which takes `values_of_score`.

    A lexeme's part is w f / (f + s), written so that f, which takes the most time, stands in it once.
    """
    saturation = f"{K1} * ({1 - B} + {B} * c.word_count / :average_length_{place})"
    # How often a lexeme stands in a chunk is told fastest by what `ts_rank` makes of it alone, as the rest of the sum of 1/i²
    # beyond n is about 1/(n + 1/2).
    return " + ".join(
        f"coalesce((:weights_{place})[{n}] / (1 + {saturation} / nullif(round(1 / ({_SUM_OF_SQUARES}"
        f" * (1 - ts_rank(c.words, (CAST(:terms_{place} AS tsquery[]))[{n}]) / {_RANK_OF_ONE}::float8)) - 0.5), 0)), 0)"
        for n in range(1, room + 1)
    )


def values_of_score(place: int, lookup: Lookup) -> dict[str, Any]:
    return {
        f"language_{place}": lookup.language,
        f"terms_{place}": [term.query for term in lookup.terms],
        f"weights_{place}": [term.weight for term in lookup.terms],
        f"average_length_{place}": lookup.average_length,
    }


def parameters_of_score(place: int) -> tuple[BindParameter[Any], ...]:
    return (
        bindparam(f"language_{place}", type_=Text),
        bindparam(f"weights_{place}", type_=ARRAY(Double)),
        bindparam(f"average_length_{place}", type_=Double),
    )


@lru_cache(maxsize=256)
def _best(depth: int, shapes: tuple[tuple[int, bool], ...]) -> TextClause:
    """`shapes` are, for each language, for how many terms there is room, and whether chunks are found in the index."""
    matches = " UNION ALL ".join(
        f"(SELECT c.id, {score(place, room)} AS score FROM chunks c WHERE {_is_sought(place, by_index)} LIMIT {_MOST_MATCHES})"
        for place, (room, by_index) in enumerate(shapes)
    )
    parameters = [parameter for place in range(len(shapes)) for parameter in parameters_of_score(place)]
    return text(
        f"SELECT id, score FROM ({matches}) matches ORDER BY score DESC, id LIMIT {depth}"
    ).bindparams(bindparam("collection_ids", type_=ARRAY(Uuid(as_uuid=True))), *parameters)


def _is_sought(place: int, by_index: bool) -> str:
    # In a query of its own, so that the planner does not know how many match, and takes the way that is asked for.
    sought = f"c.words @@ (SELECT CAST(:sought_{place} AS tsquery))"
    condition = f"({OF_THESE}) IS TRUE AND {sought}" if by_index else f"{OF_THESE} AND ({sought}) IS TRUE"
    return f"{condition} AND c.language = :language_{place}"


def _in_language(rows: Sequence[Row[Any]]) -> Lookup:
    language, chunk_count, word_count = rows[0].language, rows[0].of_chunks, rows[0].of_words
    terms = [
        Term(row.lexeme, row.chunk_count, _repeated(row.times) * _idf(row.chunk_count, chunk_count))
        for row in rows
    ]
    heaviest = sorted(terms, key=lambda term: (-term.weight, term.lexeme))[:_MOST_TERMS]
    rarest_first = sorted(heaviest, key=lambda term: (term.chunk_count, term.lexeme))
    of_all = max(rows[0].of_all, chunk_count)
    return plan(language, rarest_first, chunk_count=chunk_count, word_count=word_count, of_all=of_all)


def plan(language: str, terms: Sequence[Term], *, chunk_count: int, word_count: int, of_all: int) -> Lookup:
    """`terms` rarest first, of collections with so many chunks and words in the language, in a database with `of_all` chunks.

    All are looked at whose chunks are few; of the others, chunks that hold two of them, the rarest pairs first.
    """
    others_share = of_all / chunk_count
    if chunk_count <= _MATCHES:
        sought, read = {term: list[Term]() for term in terms}, sum(term.chunk_count for term in terms)
    else:
        sought, read = _worth_looking_at(terms, chunk_count, _ENTRIES / others_share)
    return Lookup(
        language=language,
        terms=tuple(terms),
        average_length=word_count / chunk_count,
        sought=" | ".join(_either(term, partners) for term, partners in sought.items()),
        by_index=read * others_share < chunk_count,
    )


def _worth_looking_at(
    terms: Sequence[Term], chunk_count: int, most_read: float
) -> tuple[dict[Term, list[Term]], int]:
    """The terms that chunks are looked up by, each with those of which one must stand beside it, or none if it is
    enough; and how many chunks hold them, which has to be read."""
    sought: dict[Term, list[Term]] = {}
    matches, read = 0.0, 0
    for term in terms:
        if matches + term.chunk_count > _MATCHES / 2:
            break
        sought[term] = []
        matches += term.chunk_count
    read = sum(term.chunk_count for term in sought)
    rest = terms[len(sought) :]
    if len(rest) == 1 and (not sought or matches + rest[0].chunk_count <= 2 * _MATCHES):
        sought[rest[0]] = []
        read += rest[0].chunk_count
    pairs = sorted(combinations(rest, 2), key=lambda pair: pair[0].chunk_count * pair[1].chunk_count)
    for first, second in pairs:
        matches += _TOGETHER * first.chunk_count * second.chunk_count / chunk_count
        more = 0 if first in sought else first.chunk_count
        if sought and (matches > _MATCHES or read + more > most_read):
            break
        sought.setdefault(first, []).append(second)
        read += more
    return sought, read


def _either(term: Term, partners: Sequence[Term]) -> str:
    if not partners:
        return term.query
    return f"({term.query} & ({' | '.join(partner.query for partner in partners)}))"


def _idf(chunk_count: int, of_chunks: int) -> float:
    return log(1 + (of_chunks - chunk_count + 0.5) / (chunk_count + 0.5))


def _repeated(times: int) -> float:
    return (_K3 + 1) * times / (_K3 + times)
