import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ingest.convert import ConvertedDocument, Page
from app.ingest.formats import HTML, MARKDOWN, PDF, PLAIN, Format
from app.ingest.split import Chunk, split

SENTENCE = "The quick brown fox jumps over the lazy dog near the river bank. "


def document(text: str, kind: Format = MARKDOWN, pages: tuple[Page, ...] = ()) -> ConvertedDocument:
    return ConvertedDocument(text, kind.media_type, kind.kind, None, pages, ())


def words(text: str) -> int:
    return len(re.findall(r"\w{1,8}|[^\w\s]", text))


def characters(text: str) -> int:
    return len(text)


def chunks_of(text: str, kind: Format = MARKDOWN, *, max_tokens: int = 100) -> list[Chunk]:
    return split(document(text, kind), count_tokens=words, max_tokens=max_tokens)


def pages_of(*texts: str, labels: str = "") -> ConvertedDocument:
    pages, start = list[Page](), 0
    for index, text in enumerate(texts):
        pages.append(Page(labels[index : index + 1] or str(index + 1), start, start + len(text)))
        start += len(text) + 2
    return document("\n\n".join(texts), PDF, tuple(pages))


_line = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00"), max_size=60),
    st.sampled_from(
        [
            "",
            "# One",
            "## Two",
            "### Three ###",
            "Under\n===",
            "Under\n---",
            "```",
            "~~~python",
            "| a | b |\n| - | - |",
            "- item",
            "1. item",
            "> quote",
            SENTENCE * 4,
            "x" * 300,
            "word " * 80,
            "漢字" * 90,
            " " * 30,
            "\t",
            "---\na: b\n---",
        ]
    ),
)
_text = st.lists(_line, max_size=40).map("\n".join)


@given(
    text=_text,
    kind=st.sampled_from([MARKDOWN, PLAIN, HTML]),
    count=st.sampled_from([words, characters]),
    max_tokens=st.integers(8, 120),
)
@settings(max_examples=200, deadline=None)
def test_chunks_hold_all_text_in_order_with_exact_positions_and_within_the_limit(
    text: str, kind: Format, count: Callable[[str], int], max_tokens: int
):
    chunks = split(document(text, kind), count_tokens=count, max_tokens=max_tokens)
    end = 0
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text == chunk.text.strip() != ""
        assert text[end : chunk.start].strip() == ""
        assert count(chunk.text) <= max_tokens
        end = chunk.end
    assert text[end:].strip() == ""


@given(texts=st.lists(_text.map(str.strip), min_size=1, max_size=6), max_tokens=st.integers(8, 120))
@settings(max_examples=100, deadline=None)
def test_a_chunk_is_on_one_page_and_has_its_label(texts: list[str], max_tokens: int):
    paged = pages_of(*texts)
    chunks = split(paged, count_tokens=words, max_tokens=max_tokens)
    assert "".join("".join(chunk.text.split()) for chunk in chunks) == "".join(paged.text.split())
    for chunk in chunks:
        page = next(page for page in paged.pages if page.start <= chunk.start < page.end)
        assert chunk.end <= page.end
        assert chunk.page_label == page.label


def test_a_document_without_text_has_no_chunks():
    assert chunks_of("") == chunks_of(" \n\n\t") == []


def test_a_short_document_is_one_chunk():
    [chunk] = chunks_of("# Title\n\nOne line.\n")
    assert (chunk.text, chunk.headings) == ("# Title\n\nOne line.", ("Title",))


def test_a_section_knows_the_path_of_its_headings():
    text = f"# A\n\n{SENTENCE * 5}\n\n## B\n\n{SENTENCE * 5}\n\n### C\n\n{SENTENCE * 5}\n\n## D\n\n{SENTENCE * 5}"
    assert [chunk.headings for chunk in chunks_of(text)] == [("A",), ("A", "B"), ("A", "B", "C"), ("A", "D")]


def test_headings_may_be_underlined_and_end_in_marks():
    text = f"Big\n===\n\n{SENTENCE * 5}\n\nSmall\n---\n\n{SENTENCE * 5}\n\n## C# ##\n\n{SENTENCE * 5}"
    assert [chunk.headings for chunk in chunks_of(text)] == [("Big",), ("Big", "Small"), ("Big", "C#")]


def test_what_looks_like_a_heading_in_code_a_table_or_front_matter_is_none():
    text = f"---\ntitle: x\n---\n\n# Real\n\n```sh\n# a comment\n```\n\na | b\n--- | ---\n1 | 2\n\n{SENTENCE}"
    [chunk] = chunks_of(text)
    assert chunk.headings == ("Real",)


def test_short_sections_become_one_chunk_under_what_their_headings_share():
    text = "# FAQ\n\n## Is it free?\n\nYes.\n\n## Is it fast?\n\nYes, very.\n\n## Is it small?\n\nNo."
    [chunk] = chunks_of(text)
    assert chunk.headings == ("FAQ",)


def test_sections_long_enough_for_themselves_stay_apart():
    text = f"# A\n\n{SENTENCE * 4}\n\n# B\n\n{SENTENCE * 4}"
    assert [chunk.headings for chunk in chunks_of(text)] == [("A",), ("B",)]


def test_no_chunk_is_only_a_heading():
    long = SENTENCE * 60
    text = f"# Title\n\n## First\n\n{long}\n\n## Empty\n\n## Second\n\n{long}\n\n## Last\n"
    for chunk in chunks_of(text):
        assert any(line and not line.startswith("#") for line in chunk.text.split("\n"))


def test_a_heading_goes_with_the_paragraph_under_it_even_if_that_has_to_be_split_for_it():
    text = "## " + "very " * 30 + "long\n\n" + "word " * 96
    first = chunks_of(text)[0]
    assert first.text.startswith("## very")
    assert first.text.endswith("word")


def test_a_heading_longer_than_a_chunk_is_split_as_text():
    chunks = chunks_of("# " + "very " * 300 + "long\n\nText.")
    assert len(chunks) > 2
    assert chunks[-1].text.endswith("Text.")


def test_a_long_heading_that_nothing_stands_under_is_kept():
    text = ".,;:" * 1000 + "\n\n# " + "word " * 40 + "last"
    chunks = chunks_of(text)
    assert chunks[-1].text == "# " + "word " * 40 + "last"


def test_a_long_stretch_of_blanks_is_in_no_chunk():
    for blank in (" ", "\n", "\x1f\n"):
        assert [chunk.text for chunk in chunks_of("a\n\n" + blank * 50_000 + "\n\nb", PLAIN)] == ["a", "b"]


def test_a_code_block_and_a_table_that_fit_are_whole():
    code = "```python\n" + "\n".join(f"value_{index} = {index}" for index in range(12)) + "\n```"
    table = "| a | b |\n| - | - |\n" + "\n".join(f"| {index} | x |" for index in range(12))
    text = f"# T\n\n{SENTENCE * 6}\n\n{code}\n\n{SENTENCE * 6}\n\n{table}\n\n{SENTENCE * 6}"
    chunks = chunks_of(text)
    assert any(code in chunk.text for chunk in chunks)
    assert any(table in chunk.text for chunk in chunks)


def test_each_part_of_a_long_table_has_the_names_of_its_columns():
    rows = "\n".join(f"| thing {number} | {number}.50 | Berlin |" for number in range(60))
    text = f"# Prices\n\nThese are they.\n\n| item | price | place |\n| :-- | --: | --- |\n{rows}\n\n{SENTENCE * 8}"

    chunks = chunks_of(text)

    parts = [chunk for chunk in chunks if chunk.text.startswith("| thing")]
    assert len(parts) > 4
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.headings == (("Prices", "item | price | place") if chunk in parts else ("Prices",))


def test_long_text_is_split_between_sentences_though_its_lines_are_wrapped():
    sentence = "Every sentence here is about as long as a line and a half of the page\nthat it stands on, as in most printed books. "
    for kind in (PLAIN, MARKDOWN, PDF):
        chunks = chunks_of(sentence * 40, kind)
        assert len(chunks) > 5
        assert all(chunk.text.endswith(".") and chunk.text.startswith("Every") for chunk in chunks)


def test_chunks_are_near_the_target_and_none_is_a_scrap():
    sizes = [words(chunk.text) for chunk in chunks_of(SENTENCE * 400)]
    assert sum(sizes) / len(sizes) > 65
    assert min(sizes) >= 20


def test_a_page_is_not_joined_with_the_next_however_little_it_says():
    chunks = split(
        pages_of("Cover", SENTENCE * 2, SENTENCE * 3, labels="iv1"), count_tokens=words, max_tokens=100
    )
    assert [chunk.page_label for chunk in chunks] == ["i", "v", "1"]


def test_text_without_a_blank_is_split_by_length():
    chunks = chunks_of("x" * 100_000, PLAIN, max_tokens=254)
    assert len(chunks) < 100
    assert max(words(chunk.text) for chunk in chunks) <= 254


def test_each_text_is_counted_about_once():
    counted = 0

    def count(text: str) -> int:
        nonlocal counted
        counted += len(text)
        return words(text)

    text = f"# A\n\n{SENTENCE * 2000}"
    split(document(text), count_tokens=count, max_tokens=254)
    assert counted < 2.2 * len(text)


def test_a_limit_too_small_to_hold_a_word_is_refused():
    with pytest.raises(ValueError, match="max_tokens is 7"):
        chunks_of("text", max_tokens=7)
