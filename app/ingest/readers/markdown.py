import re

from app.ingest.headings import front_matter, headings
from app.ingest.readers import Allowance, Reading, one_line, text

_TITLE = re.compile(r"^title:[ \t]*(\S.*)$", re.MULTILINE)
_TITLE_WITHIN = 20_000


def read(content: bytes, allowance: Allowance) -> Reading:
    reading = text.read(content, allowance)
    return Reading(reading.text, title=title_of(reading.text), warnings=reading.warnings)


def title_of(markdown: str) -> str | None:
    """The title that the front matter gives, or the first heading of the first level."""
    head = markdown[:_TITLE_WITHIN]
    if named := _TITLE.search(front_matter(head)):
        return one_line(named[1].strip().strip("\"'"))
    return next((one_line(heading.text) for heading in headings(head) if heading.level == 1), None)
