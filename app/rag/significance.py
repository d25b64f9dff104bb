"""Whether one search is better than another on the same questions, or only luckier.

The paired randomisation test: were both the same, each question's two figures could as well be exchanged. How often a
random exchange makes a difference as large as the one that was seen is p (Smucker, Allan and Carterette 2007, who find it
the one to use for retrieval). The interval is the bootstrap's: the questions drawn anew, with repetition.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

PERMUTATIONS = 10_000
# Of so many questions that differ, all exchanges are fewer than the random ones would be.
_EXACT_UP_TO = 13
_SEED = 20_070_706
# What a sum of floats may be off by.
_EQUAL = 1e-9
_ROWS_AT_ONCE = 500

_Differences = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`difference` is the mean of a - b; `low` and `high` are the ends of its 95 % interval. `p` is two-sided.

    `better`, `worse` and `equal` count the questions by which of the two, a or b, has the larger figure."""

    difference: float
    low: float
    high: float
    p: float
    better: int
    worse: int
    equal: int


def compare(a: Sequence[float], b: Sequence[float]) -> Comparison:
    """Figures of the same questions, in the same order. The same figures give the same numbers each time."""
    differences = np.subtract(a, b, dtype=np.float64)
    differences[np.abs(differences) < _EQUAL] = 0
    low, high = _interval(differences)
    return Comparison(
        difference=float(differences.mean()),
        low=low,
        high=high,
        p=_probability(differences[differences != 0]),
        better=int((differences > 0).sum()),
        worse=int((differences < 0).sum()),
        equal=int((differences == 0).sum()),
    )


def _probability(differences: _Differences) -> float:
    """Questions without a difference have no part in the sum, whichever way they are exchanged."""
    seen = abs(differences.sum()) - _EQUAL
    count = len(differences)
    if count == 0:
        return 1.0
    if count <= _EXACT_UP_TO:
        signs = np.array(list(product((1.0, -1.0), repeat=count)))
        sums: _Differences = signs @ differences
        return np.count_nonzero(np.abs(sums) >= seen) / len(sums)
    chance = np.random.default_rng(_SEED)
    as_large = 0
    for _ in range(PERMUTATIONS // _ROWS_AT_ONCE):
        signs = 1 - 2 * chance.integers(0, 2, (_ROWS_AT_ONCE, count), dtype=np.int8)
        as_large += int((abs(signs @ differences) >= seen).sum())
    # What was seen is itself one of the exchanges, so that p is never 0.
    return (as_large + 1) / (PERMUTATIONS + 1)


def _interval(differences: _Differences) -> tuple[float, float]:
    chance = np.random.default_rng(_SEED)
    count = len(differences)
    means = np.concatenate(
        [
            differences[chance.integers(0, count, (_ROWS_AT_ONCE, count))].mean(axis=1)
            for _ in range(PERMUTATIONS // _ROWS_AT_ONCE)
        ]
    )
    low, high = np.percentile(means, [2.5, 97.5]).tolist()
    return low, high
