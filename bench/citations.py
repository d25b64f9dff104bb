"""How well quotes bear claims out: precision and recall of `verified` on labelled claims.

`python -m bench.citations` prints the table of docs/retrieval.md. The claims are of sources written for this purpose; those that
are not borne out differ from the source by a number, a name, a denial, a relation between two things it tells, or are invented.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.rag.quotes import Quotable

_CASES = Path(__file__).with_name("citation_cases.jsonl")
_BORNE_OUT = ("quoted", "paraphrased", "merged")
_OF_ANOTHER = "another source"


@dataclass(frozen=True, slots=True)
class Case:
    """A claim, and the source that it is held against. `is_tuned_on`: the thresholds were chosen with it in sight."""

    kind: str
    claim: str
    source: str
    title: str
    language: str
    is_tuned_on: bool

    @property
    def is_borne_out(self) -> bool:
        return self.kind in _BORNE_OUT


@dataclass(frozen=True, slots=True)
class Agreement:
    precision: float
    recall: float
    claims: int


@dataclass(frozen=True, slots=True)
class Measured:
    """`refused` is the share of the claims of each kind that were not verified, of those that should not be."""

    all_claims: Agreement
    held_out: Agreement
    refused: dict[str, float]
    counts: dict[str, int]


def cases() -> list[Case]:
    """The labelled claims, and those that are borne out held against the other sources of their language."""
    sources = [json.loads(line) for line in _CASES.read_text().splitlines()]
    return [case for number, source in enumerate(sources) for case in _cases_of(source, sources, number)]


def _cases_of(source: dict[str, Any], sources: Sequence[dict[str, Any]], number: int) -> Iterator[Case]:
    is_tuned_on = number % 2 == 0
    for labelled in source["claims"]:
        kind, claim = labelled["kind"], labelled["claim"]
        yield Case(kind, claim, source["source"], source["title"], source["language"], is_tuned_on)
        if kind in _BORNE_OUT:
            for other in sources:
                if other is not source and other["language"] == source["language"]:
                    yield Case(
                        _OF_ANOTHER, claim, other["source"], other["title"], other["language"], is_tuned_on
                    )


def measured(of: Sequence[Case]) -> Measured:
    verified = {case: Quotable(case.source, case.title).quote(case.claim).verified for case in of}
    labelled = [case for case in of if case.kind != _OF_ANOTHER]
    kinds: defaultdict[str, list[bool]] = defaultdict(list)
    for case in of:
        kinds[case.kind].append(verified[case])
    return Measured(
        all_claims=_agreement(labelled, verified),
        held_out=_agreement([case for case in labelled if not case.is_tuned_on], verified),
        refused={
            kind: 1 - sum(found) / len(found) for kind, found in kinds.items() if kind not in _BORNE_OUT
        },
        counts={kind: len(found) for kind, found in kinds.items()},
    )


def _agreement(of: Sequence[Case], verified: dict[Case, bool]) -> Agreement:
    right = sum(case.is_borne_out and verified[case] for case in of)
    return Agreement(
        precision=right / max(1, sum(verified[case] for case in of)),
        recall=right / max(1, sum(case.is_borne_out for case in of)),
        claims=len(of),
    )


def main() -> None:
    found = measured(cases())
    print("| claims | precision | recall |\n| --- | --- | --- |")
    for name, agreement in (("all", found.all_claims), ("held out", found.held_out)):
        print(f"| {name}, {agreement.claims} | {agreement.precision:.2f} | {agreement.recall:.2f} |")
    print("\n| not borne out, as they differ by | claims | refused |\n| --- | --- | --- |")
    for kind, share in found.refused.items():
        print(f"| {kind} | {found.counts[kind]:,} | {share:.0%} |")


if __name__ == "__main__":
    main()
