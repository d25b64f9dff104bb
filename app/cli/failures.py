"""Telling what is expected to go wrong from what is a bug, also when tasks have wrapped it up."""

from collections.abc import Iterator
from typing import cast

from app.errors import FreshetError


def expected_in(error: BaseException) -> FreshetError | None:
    """The first of an error that holds nothing but what is expected."""
    leaves = list(_leaves(error))
    expected = [leaf for leaf in leaves if isinstance(leaf, FreshetError)]
    return expected[0] if len(expected) == len(leaves) else None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        yield error
        return
    group = cast("BaseExceptionGroup[BaseException]", error)
    for part in group.exceptions:
        yield from _leaves(part)
