import threading
from contextlib import aclosing

import anyio
import numpy as np
import pytest

from app.errors import ModelSilent
from app.llm.maxsim_reranker import MaxSimReranker
from app.llm.minilm import MiniLM
from app.llm.protocols import Matrix

# A question, a passage that answers it among other things, and one that is about its subject and answers nothing.
ANSWERED = (
    (
        "How deep is the Danube at its mouth?",
        (
            "The delta is home to pelicans and sturgeons, and ferries cross it in summer. The Danube is seven metres deep where it"
            " meets the sea. Reeds are cut there in winter, and roofs are made of them."
        ),
        "The Danube is a river of Europe. The Danube flows through ten countries, and the Danube has many mouths.",
    ),
    (
        "What does the library charge for a lost card?",
        (
            "Readers may borrow ten books for four weeks. Films are lent for one week. If you lose your card, the library asks for"
            " five euros. Newspapers lie on the ground floor, and coffee is sold beside the entrance."
        ),
        "The library card is the card of the library. With a card, readers use the library every day.",
    ),
    (
        "What is the temperature at which copper melts?",
        (
            "Tin and zinc are cheaper. Smiths of the valley traded in both, and in salt. Copper melts at 1,085 degrees, lead at 327."
            " The furnaces stood by the river, where wood was floated down."
        ),
        "The temperature of copper is the temperature of the room in which the copper is. Copper is red.",
    ),
)


class HeldMiniLM(MiniLM):
    """Tells what is read, and reads it when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []
        self.may = threading.Event()

    def token_vectors(self, text: str) -> Matrix:
        self.read.append(text)
        assert self.may.wait(20)
        return super().token_vectors(text)


@pytest.fixture(scope="module")
def minilm() -> MiniLM:
    embedder = MiniLM()
    embedder.load()
    return embedder


@pytest.fixture
def reranker(minilm: MiniLM) -> MaxSimReranker:
    return MaxSimReranker(minilm, limit_s=60)


@pytest.mark.parametrize(("question", "answer", "subject"), ANSWERED)
async def test_an_answer_among_other_things_is_above_what_is_only_about_the_subject(
    minilm: MiniLM, reranker: MaxSimReranker, question: str, answer: str, subject: str
):
    by_tokens = await reranker.scores(question, [subject, answer])
    by_whole_texts = await minilm.embed_passages([subject, answer]) @ await minilm.embed_question(question)

    assert by_tokens[1] > by_tokens[0]
    assert by_whole_texts[1] < by_whole_texts[0], "the vectors of whole texts are led astray"


async def test_a_text_is_all_that_it_asks_for(reranker: MaxSimReranker):
    same, other = await reranker.scores("The cat sleeps.", ["The cat sleeps.", "Leases end in May."])

    assert same == pytest.approx(1, abs=1e-5)
    assert other < 0.7


async def test_a_score_is_the_mean_over_the_question_of_the_best_in_the_passage(
    minilm: MiniLM, reranker: MaxSimReranker
):
    question, passage = "cat naps", "A kitten sleeps in the sun."
    cosines = minilm.token_vectors(question) @ minilm.token_vectors(passage).T
    best = [max(row) for row in cosines]

    assert await reranker.scores(question, [passage]) == pytest.approx([np.mean(best)], abs=1e-6)


async def test_reading_tokens_leaves_the_vectors_of_texts_as_they_were(
    minilm: MiniLM, reranker: MaxSimReranker
):
    before = await minilm.embed_passages(["The cat sleeps."])
    await reranker.scores("Who sleeps?", ["The cat sleeps."])

    assert np.array_equal(await minilm.embed_passages(["The cat sleeps."]), before)


async def test_what_has_no_tokens_scores_nothing(reranker: MaxSimReranker):
    assert (await reranker.scores("Who?", [""])).tolist() == [0]
    assert (await reranker.scores("", ["The cat sleeps."])).tolist() == [0]
    assert (await reranker.scores("Who?", [])).shape == (0,)


async def test_a_question_that_takes_too_long_fails_and_reads_no_more():
    embedder = HeldMiniLM()
    embedder.load()
    embedder.may.set()
    async with aclosing(MaxSimReranker(embedder, limit_s=0.001)) as reranker:
        with anyio.fail_after(20), pytest.raises(ModelSilent, match="not ready in time"):
            await reranker.scores("What is long? " * 80, ["A passage of some length. " * 60] * 5)

    assert len(embedder.read) <= 1


async def test_a_question_that_is_called_off_reads_no_more():
    embedder = HeldMiniLM()
    reranker = MaxSimReranker(embedder, limit_s=60)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reranker.scores, "Who?", ["The cat.", "The dog."])
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
            embedder.may.set()

    assert len(embedder.read) == 1


async def test_the_passages_of_one_question_are_read_before_those_of_the_next():
    embedder = HeldMiniLM()
    reranker = MaxSimReranker(embedder, limit_s=60)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for number in range(2):
                texts = [f"Passage {place} for question {number}." for place in range(3)]
                tasks.start_soon(reranker.scores, f"Which is question {number}?", texts)
            await anyio.wait_all_tasks_blocked()
            embedder.may.set()

    assert [("question 0" in text) for text in embedder.read] == [True] * 4 + [False] * 4
