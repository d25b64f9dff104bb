from itertools import product

import numpy as np
import pytest

from app.rag.significance import compare


def test_the_probability_of_a_few_questions_is_that_of_all_exchanges():
    a, b = [0.9, 0.5, 0.7, 0.4, 1.0], [0.4, 0.6, 0.3, 0.4, 0.2]
    differences = [x - y for x, y in zip(a, b, strict=True)]
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=5)
    ]

    compared = compare(a, b)

    assert compared.p == pytest.approx(sum(total >= abs(sum(differences)) - 1e-9 for total in sums) / 32)
    assert compared.difference == pytest.approx(0.32)
    assert (compared.better, compared.worse, compared.equal) == (3, 1, 1)


def test_what_is_the_same_does_not_differ():
    compared = compare([0.1 + 0.2, 1.0], [0.3, 1.0])

    assert (compared.p, compared.difference, compared.low, compared.high, compared.equal) == (1, 0, 0, 0, 2)


def test_a_small_steady_difference_of_many_questions_is_found_and_a_large_wild_one_is_not():
    chance = np.random.default_rng(5)
    b = chance.uniform(0.2, 0.8, 200)

    steady = compare((b + chance.normal(0.02, 0.05, 200)).tolist(), b.tolist())
    wild = compare((b + chance.normal(0.02, 0.6, 200)).tolist(), b.tolist())

    assert steady.p < 0.001
    assert 0 < steady.low < steady.difference < steady.high
    assert wild.p > 0.05
    assert wild.low < 0 < wild.high


def test_exchanging_both_changes_the_sign_alone():
    chance = np.random.default_rng(7)
    a, b = chance.random(40).tolist(), chance.random(40).tolist()

    there, back = compare(a, b), compare(b, a)

    assert there.p == back.p
    assert there.difference == pytest.approx(-back.difference)
    assert (there.better, there.worse) == (back.worse, back.better)


def test_under_no_difference_small_probabilities_are_as_rare_as_they_say():
    chance = np.random.default_rng(11)
    found = [compare(chance.random(30).tolist(), chance.random(30).tolist()).p for _ in range(200)]

    assert sum(p < 0.05 for p in found) < 25
    assert sum(p < 0.5 for p in found) > 60
