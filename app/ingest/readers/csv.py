import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice

from app.errors import DocumentRefused
from app.ingest.readers import Allowance, Draft, Reading, records
from app.ingest.readers.text import decode

# The comma is the last, as it stands in numbers and in text as well.
_DELIMITERS = "\t;|,"
# Spreadsheets put this into the first line.
_NAMED_DELIMITER = re.compile(r"sep=(.)\n")
_SAMPLE_ROWS = 50
_SAMPLE_CHARACTERS = 200_000


def read(content: bytes, allowance: Allowance) -> Reading:
    text, warnings = decode(content, allowance.characters)
    draft = Draft(allowance.characters)
    # A quote that is never closed makes the rest of a file one field.
    csv.field_size_limit(max(1, len(text)))
    try:
        named = _NAMED_DELIMITER.match(text)
        delimiter = named[1] if named else _delimiter(text)
        for paragraph in records.paragraphs(_rows(text[named.end() :] if named else text, delimiter)):
            draft.add(paragraph)
    except csv.Error as error:
        raise DocumentRefused("broken", f"The table is damaged: {error}.") from error
    return Reading(draft.text, warnings=warnings)


def _rows(text: str, delimiter: str) -> Iterator[list[str]]:
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)


def _delimiter(text: str) -> str:
    """The one that cuts the most rows into the same number of fields, of two or more."""
    sample = text[:_SAMPLE_CHARACTERS]
    return max(_DELIMITERS, key=lambda delimiter: _evenness(sample, delimiter))


def _evenness(sample: str, delimiter: str) -> float:
    widths = Counter(len(row) for row in islice(_rows(sample, delimiter), _SAMPLE_ROWS) if row)
    width, rows = widths.most_common(1)[0] if widths else (0, 0)
    return rows / widths.total() if width > 1 else 0.0
