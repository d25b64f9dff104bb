import pytest

from app import wording


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in wording.sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One is here. Two is there!", ["One is here.", "Two is there!"]),
        ("A sentence that\ngoes on. Another.", ["A sentence that\ngoes on.", "Another."]),
        ("It is, e.g. Rust, or so. Dr. Who knows.", ["It is, e.g. Rust, or so.", "Dr. Who knows."]),
        ("# Title\nBelow it.", ["Title", "Below it."]),
        ("- one thing\n- another. And more\n\n2. last", ["one thing", "another.", "And more", "last"]),
        ("| a | 1 |\n| --- | --- |\n| b | 2 |", ["| a | 1 |", "| b | 2 |"]),
        ("```\ncode here\n```\nText.", ["code here", "Text."]),
        ("第一句。第二句！第三句", ["第一句。", "第二句！", "第三句"]),
        ("  \n ... \n", []),
        ("", []),
    ],
)
def test_a_text_is_told_apart_into_its_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_what_does_not_end_is_cut_at_a_blank():
    parts = sentences("word " * 1_000)
    assert all(0 < len(part) <= 600 for part in parts)
    assert "".join(parts).replace(" ", "") == "word" * 1_000


@pytest.mark.parametrize("text", ["x" * 100_000, ". " * 50_000, "\n" * 100_000, "- " * 50_000, " " * 100_000])
def test_an_enormous_text_has_sentences_of_bounded_length(text: str) -> None:
    assert all(end - start <= 600 for start, end in wording.sentences(text))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1,000", "1000"),
        ("1.000", "1000"),
        ("12'345'678", "12345678"),
        ("1,234.50", "1234.5"),
        ("4.50", "4,5"),
        ("007", "7"),
        ("3.0", "3"),
    ],
)
def test_a_number_is_the_same_however_it_is_written(one: str, other: str) -> None:
    assert wording.numbers(one) == wording.numbers(other)


@pytest.mark.parametrize(
    ("one", "other"), [("4.5", "45"), ("1.2", "1.20.3"), ("10", "100"), ("2024-01", "202401")]
)
def test_other_numbers_stay_others(one: str, other: str) -> None:
    assert wording.numbers(one) != wording.numbers(other)


def test_numbers_may_be_spelled_out():
    assert wording.numbers("within seven days, zwölf Monate", spelled=True) == {"7", "12"}
    assert wording.numbers("one of seven days") == frozenset()


def test_words_meet_by_their_stems_and_common_words_are_left_out():
    assert wording.content_words("The streams were streamed") == wording.content_words("streaming")
    assert wording.content_words("Es ist, was es ist") == frozenset()
