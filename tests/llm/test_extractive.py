import re
import time
from contextlib import aclosing

import anyio
import pytest

from app.llm.extractive import NOTHING_FOUND, ExtractiveModel
from app.llm.protocols import Finish, Passage, Prompt

ABOUT = """\
# Harbour

Harbour keeps a copy of your files on a server of your own. It is written in Rust, and runs on Linux and macOS.

## Install

```bash
curl -LO https://example.com/harbour.tar.gz
harbour init --port 7070
```

You need 200 MB of disk space, e.g. on a Raspberry Pi. The first copy takes a while, because every file is read.
To stop the server, press Ctrl-C.

## Settings

| Name | Default | Meaning |
| --- | --- | --- |
| `PORT` | `7070` | the port the server listens on |
| `KEEP_DAYS` | `30` | how long deleted files are kept |
"""
MORE = """\
## Devices

- **Phones**: the app for Android copies photos at night.
- **Laptops**: install the client, and choose the folders.
1. Copies are encrypted with a key that never leaves the device!
2. Who loses the key, loses the copies. Is there a way back? No.

> Harbour is licensed under the MIT License.
"""
GERMAN = "Die Kopie gehört dem Benutzer, der sie angelegt hat. Für alle anderen ist sie unsichtbar."
CHINESE = "副本属于创建它的用户。其他人看不到它。密钥永远不会离开设备。"

PASSAGES = (
    Passage(1, ABOUT, 0.42),
    Passage(2, MORE, 0.38),
    Passage(3, GERMAN, 0.2),
    Passage(4, CHINESE, 0.2),
)


async def answer(question: str, *passages: Passage) -> str:
    text, finishes = "", 0
    prompt = Prompt(messages=[], question=question, passages=passages)
    async with aclosing(ExtractiveModel().stream(prompt)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Finish):
                finishes += 1
                assert piece.reason == "stop"
                assert piece.usage is not None
                assert piece.usage.output_tokens > 0
            else:
                assert not finishes, "nothing is said after the end"
                text += "".join(piece)
    assert finishes == 1
    return text


def quotes_of(text: str) -> list[tuple[str, int]]:
    quotes: list[tuple[str, int]] = []
    for paragraph in text.split("\n\n"):
        match = re.fullmatch(r"(.+) \[(\d+)\]", paragraph)
        assert match is not None, paragraph
        quotes.append((match[1], int(match[2])))
    return quotes


def plain(text: str) -> str:
    return " ".join(text.replace("**", "").split())


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("What is Harbour?", "Harbour keeps a copy of your files on a server of your own."),
        ("Which language is it written in?", "It is written in Rust, and runs on Linux and macOS."),
        ("Does it run on macOS?", "It is written in Rust, and runs on Linux and macOS."),
        ("How do I stop the server?", "To stop the server, press Ctrl-C."),
        ("How much disk space do I need?", "You need 200 MB of disk space, e.g. on a Raspberry Pi."),
        ("Can I use a Raspberry Pi?", "You need 200 MB of disk space, e.g. on a Raspberry Pi."),
        ("How long does the first copy take?", "The first copy takes a while, because every file is read."),
        ("Which port does it listen on?", "`PORT` | `7070` | the port the server listens on"),
        ("How long are deleted files kept?", "`KEEP_DAYS` | `30` | how long deleted files are kept"),
        ("Is there an app for phones?", "Phones: the app for Android copies photos at night."),
        ("Are the copies encrypted?", "Copies are encrypted with a key that never leaves the device!"),
        ("What happens if I lose the key?", "Who loses the key, loses the copies."),
        ("What license is it under?", "Harbour is licensed under the MIT License."),
        ("Under which LICENSES is Harbour licensed?", "Harbour is licensed under the MIT License."),
        ("How do I choose folders?", "Laptops: install the client, and choose the folders."),
        ("Wem gehört die Kopie?", "Die Kopie gehört dem Benutzer, der sie angelegt hat."),
        ("Für wen ist sie unsichtbar?", "Für alle anderen ist sie unsichtbar."),
        ("副本属于谁？", "副本属于创建它的用户。"),
        ("密钥会离开设备吗？", "密钥永远不会离开设备。"),
    ],
)
async def test_the_sentence_that_answers_comes_first(question: str, sentence: str):
    assert quotes_of(await answer(question, *PASSAGES))[0][0] == sentence


@pytest.mark.parametrize(
    "question", ["Copies?", "server files key", "What is Harbour?", "用户", "Kopie Benutzer"]
)
async def test_every_quote_stands_in_the_passage_that_its_mark_names(question: str):
    texts = {passage.number: plain(passage.text) for passage in PASSAGES}
    quotes = quotes_of(await answer(question, *PASSAGES))
    assert 1 <= len(quotes) <= 3
    for quote, number in quotes:
        assert quote in texts[number]


async def test_a_mark_is_the_number_of_the_source_and_not_its_place():
    text = await answer("Wem gehört die Kopie?", Passage(7, GERMAN, 0.3))
    assert quotes_of(text)[0][1] == 7


@pytest.mark.parametrize(
    "question",
    [
        "What is the capital of France?",
        "Who wrote Hamlet?",
        "Was ist die Hauptstadt von Frankreich?",
        "法国的首都是哪里？",
        "thanks!",
        "???",
        "the of and",
    ],
)
async def test_what_the_sources_do_not_answer_is_not_answered(question: str):
    assert await answer(question, *PASSAGES) == NOTHING_FOUND


@pytest.mark.parametrize("text", ["", " \n\t ", "# Only a heading", "```\n```", "| --- | --- |", "…", "-"])
async def test_a_passage_that_says_nothing_is_no_answer(text: str):
    assert await answer("What is Harbour?", Passage(1, text, 0.9)) == NOTHING_FOUND
    assert await answer("What is Harbour?") == NOTHING_FOUND


async def test_what_means_the_same_in_other_words_is_quoted_from_its_beginning():
    passage = Passage(1, "# Fees\n\nMembers pay ten euros. Children pay nothing. Pay by card.", 0.7)
    quotes = quotes_of(await answer("How expensive is it?", passage))
    assert quotes == [("Members pay ten euros.", 1), ("Children pay nothing.", 1)]


async def test_a_sentence_that_overlapping_passages_share_is_quoted_once():
    whole = Passage(1, "Harbour keeps copies. To stop the server, press Ctrl-C.", 0.5)
    part = Passage(2, "server, press Ctrl-C.\nUnrelated words follow here.", 0.5)
    text = await answer("How do I stop the server with Ctrl-C?", whole, part)
    assert text.count("press Ctrl-C") == 1


async def test_a_sentence_goes_on_over_the_ends_of_lines_and_a_title_is_none():
    text = "Tapas\n\nA tapa is an appetizer or\nsnack in Spanish cuisine [3]. It is\neaten cold.\n"
    quotes = quotes_of(await answer("What are tapas in Spain?", Passage(1, text, 0.6)))
    assert quotes[0] == ("A tapa is an appetizer or snack in Spanish cuisine.", 1)
    assert "Tapas" not in [quote for quote, _ in quotes]


async def test_names_in_code_stay_as_they_are():
    text = "Each module has an `__init__` file, and snake_case names are **bold**."
    assert quotes_of(await answer("Which file has each module?", Passage(1, text, 0.5))) == [
        ("Each module has an `__init__` file, and snake_case names are bold.", 1)
    ]


async def test_the_words_come_one_by_one_and_make_the_text():
    prompt = Prompt(messages=[], question="How do I stop the server?", passages=PASSAGES)
    pieces: list[str] = []
    async with aclosing(ExtractiveModel().stream(prompt)) as batches:
        async for batch in batches:
            if not isinstance(batch, Finish):
                pieces += batch
    assert pieces == ["To", " stop", " the", " server,", " press", " Ctrl-C.", " [1]"]


@pytest.mark.parametrize(
    "text",
    [
        "x" * 1_000_000,
        "answer " * 150_000,
        "answer. " * 120_000,
        ". " * 400_000,
        "." * 1_000_000,
        ")" * 500_000 + ".",
        " " * 1_000_000 + "answer",
        "| - " * 250_000 + "answer",
        "\n" * 1_000_000,
        "答" * 300_000,
        "```\n" * 200_000,
        "A. " * 300_000,
    ],
    ids=lambda text: f"{text[:8]!r}",
)
async def test_an_enormous_passage_is_read_in_bounded_time_and_quoted_in_part(text: str):
    began = time.process_time()
    with anyio.fail_after(60):
        said = await answer("What is the answer 答答?", Passage(1, text, 0.6))
    # Linear takes under two seconds here; what is quadratic takes minutes.
    assert time.process_time() - began < 10
    assert len(said) < 2_000


async def test_an_enormous_question_is_read_in_bounded_time():
    began = time.process_time()
    await answer("why " * 12_000 + " stop the server?", *PASSAGES)
    await answer(" ".join(f"w{i}" for i in range(10_000)), *PASSAGES)
    assert time.process_time() - began < 10
