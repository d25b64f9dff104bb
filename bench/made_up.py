"""Text and vectors that mean nothing, made the same each time.

What matters for the cost of a search is as in real text: frequencies of words follow Zipf's law, each document has words
of its own, and vectors of one document lie together.
"""

import random
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

CHUNKS_A_DOCUMENT = 100

_VOCABULARY = 60_000
_WORDS_A_CHUNK = 130
_WORDS_A_SENTENCE = 13
_TOPIC_WORDS = 150
_SENTENCES_A_SECTION = 6
_FUNCTION_WORDS = (
    "the of and to in a is that it was for on are as with his they at be this from have or by one had not but what all were"
    " when we there can an your which their if will up other about out many then them these so some her would him into has"
).split()
_ONSETS = "b br c ch cl d dr f fl g gr h j k l m n p pl pr qu r s sh sk sl sp st t tr v w z".split()
_VOWELS = "a e i o u ai ea ee oa ou".split()
_CODAS = "b ck d ft g l ll m n nt p r rd rm rt s st t th x".split()
_ENDINGS = [""] * 6 + "ing ed er s tion ness".split()


@lru_cache
def vocabulary() -> list[str]:
    """Most frequent first, as many of one syllable as there are, as in real languages."""
    choose = random.Random(1)
    words: dict[str, None] = {}
    while len(words) < _VOCABULARY:
        syllables = 1 + min(3, len(words) // 800)
        parts = [choose.choice(_ONSETS) + choose.choice(_VOWELS) for _ in range(choose.randint(1, syllables))]
        words["".join(parts) + choose.choice(_CODAS) + choose.choice(_ENDINGS)] = None
    return list(words)


def texts(chunks: int, chance: np.random.Generator) -> Iterator[list[str]]:
    """One document at a time, as its chunks."""
    words = np.array(vocabulary())
    # As Mandelbrot has Zipf's law: with this shift the most frequent word stands in every third chunk.
    common = 1 / (np.arange(_VOCABULARY) + 20.0)
    common /= common.sum()
    function_words = np.array(_FUNCTION_WORDS)
    for start in range(0, chunks, CHUNKS_A_DOCUMENT):
        shape = min(CHUNKS_A_DOCUMENT, chunks - start), _WORDS_A_CHUNK
        topic = chance.choice(_VOCABULARY, _TOPIC_WORDS, p=common)
        of_topic = topic[chance.zipf(1.4, shape) % _TOPIC_WORDS]
        anything = chance.choice(_VOCABULARY, shape, p=common)
        content = words[np.where(chance.random(shape) < 0.25, of_topic, anything)]
        is_function = chance.random(shape) < 0.45
        chosen = np.where(is_function, chance.choice(function_words, shape), content)
        yield [" ".join(_sentences(row)) for row in chosen.tolist()]


def _sentences(words: list[str]) -> Iterator[str]:
    for at in range(0, len(words), _WORDS_A_SENTENCE):
        yield " ".join(words[at : at + _WORDS_A_SENTENCE]).capitalize() + "."


def vectors(chunks: int, dimensions: int, chance: np.random.Generator) -> Iterator[NDArray[np.float32]]:
    """One document at a time; two chunks of one have a cosine similarity of about .6."""
    spread = np.sqrt(0.4 / 0.6 / dimensions)
    for start in range(0, chunks, CHUNKS_A_DOCUMENT):
        shape = min(CHUNKS_A_DOCUMENT, chunks - start), dimensions
        centre = chance.standard_normal(dimensions)
        rows = centre / np.linalg.norm(centre) + spread * chance.standard_normal(shape)
        yield (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def questions() -> Iterator[str]:
    """Without end, of 13 words each: as frequent as they are in the texts, and no question like another."""
    chance = np.random.default_rng(2)
    while True:
        for text in next(texts(CHUNKS_A_DOCUMENT, chance)):
            yield text.partition(".")[0] + "?"


def markdown(documents: int, chunks: int, seed: int) -> Iterator[str]:
    """Documents with a title and `chunks` sections, each short enough to be one chunk."""
    chance = np.random.default_rng(seed)
    for number in range(1, documents + 1):
        parts = [f"# Document {number} of {seed}"]
        for text in next(texts(chunks, chance)):
            first, *rest = text.split(". ")[: 1 + _SENTENCES_A_SECTION]
            parts += [f"## {' '.join(first.split()[:4])}", ". ".join(rest) + "."]
        yield "\n\n".join(parts) + "\n"
