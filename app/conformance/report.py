"""The whole check: form and rules, and a count of what there was."""

from collections import Counter
from dataclasses import dataclass

from app.conformance.form import Entry, Form, Problem, entries, form_of
from app.conformance.rules import Rules
from app.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Report:
    """`counts` are by type, those that came first first; `problems` are in the order of their lines."""

    form: Form
    problems: list[Problem]
    counts: Counter[str]


def check(body: bytes, *, after: int = 0, prefix: bool = False, form: Form | None = None) -> Report:
    """Hold a stream that was resumed behind the event `after` against the protocol; a `prefix` may lack its end.

    Raises `InvalidInput` for what begins like neither form, if none is given.
    """
    form = form or form_of(body)
    if form is None:
        raise InvalidInput(
            "There is nothing to check: the input is empty."
            if not body
            else "This is no recorded stream: it begins neither with a line of JSON nor with a server-sent event."
        )
    rules = Rules(after=after)
    counts: Counter[str] = Counter()
    for found in entries(body, form, prefix=prefix):
        if isinstance(found, Entry):
            counts[str(found.event.get("type"))] += 1
            rules.read(found)
        else:
            rules.problems.append(found)
    if not prefix:
        rules.end(body.rstrip(b"\n").count(b"\n") + 1)
    return Report(form, sorted(rules.problems, key=lambda problem: problem.line), counts)
