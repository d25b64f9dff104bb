"""`freshet conform`, by what it prints and by its exit code."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import main
from tests.recorded_stream import DONE, SUMMARY, TOKEN, as_ndjson, as_sse, recorded


def conform(*words: str, typed: bytes = b"") -> Result:
    return CliRunner().invoke(main, ["conform", *words], input=typed, catch_exceptions=False)


@pytest.mark.parametrize(
    ("body", "form"),
    [(as_ndjson(recorded()), "NDJSON"), (as_sse(recorded()), "server-sent events")],
    ids=["ndjson", "sse"],
)
def test_a_good_stream_is_counted_in_one_line(body: bytes, form: str, tmp_path: Path) -> None:
    (tmp_path / "recorded").write_bytes(body)

    from_a_file, piped = conform(str(tmp_path / "recorded")), conform(typed=body)

    assert from_a_file.output == piped.output
    assert from_a_file.output == (
        f"✓ {form} as the protocol has it: 1 start, 1 status, 7 step, 1 sources, 2 token, 1 heartbeat, 1 done\n"
    )
    assert from_a_file.exit_code == 0


def test_each_problem_is_a_line() -> None:
    events = recorded()
    del events[TOKEN]
    events[DONE - 1]["message_id"] = "another"

    result = conform(typed=as_ndjson(events))

    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "line 10: seq is 10, expected 9",
        "line 13: message_id is another, expected answer, as start says",
    ]
    assert result.stderr.startswith("Error: 2 problems in 1 start, 1 status, ")


def test_of_what_was_cut_off_no_end_is_asked() -> None:
    body = as_ndjson(recorded()[:TOKEN])

    assert conform(typed=body).exit_code == 1
    assert conform("--prefix", typed=body).exit_code == 0
    assert conform("--prefix", typed=body[:3]).exit_code == 0


def test_a_resumed_stream_begins_behind_what_was_read() -> None:
    body = as_ndjson(recorded()[SUMMARY:])

    assert conform(typed=body).exit_code == 1
    assert conform("--after", "11", typed=body).exit_code == 0


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (b"", "the input is empty"),
        (b"\x7fELF\x00", "no recorded stream"),
        (b"HTTP/1.1 200 OK", "no recorded stream"),
    ],
)
def test_what_is_no_stream_is_told_in_one_line(typed: bytes, told: str) -> None:
    result = conform(typed=typed)

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert told in result.stderr
    assert len(result.output.splitlines()) == 1


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    for path, told in ((tmp_path / "missing", "No such file"), (tmp_path, "Is a directory")):
        result = conform(str(path))
        assert result.exit_code == 2
        assert told in result.stderr
