"""Text as requests may carry it."""

from typing import Annotated

from pydantic import AfterValidator


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not hold NUL characters")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("must not hold halves of surrogate pairs") from None
    return text


Text = Annotated[str, AfterValidator(_storable)]
"""A string that PostgreSQL can store."""
