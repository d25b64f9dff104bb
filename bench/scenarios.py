"""What is measured: the work, who does it, and what DESIGN promises for it."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Target = Literal["source", "pass_through", "upstream", "freshet"]

# Asked in turn, with the request's number in it, so that no answer can come from a cache of questions.
QUESTIONS = (
    "How is a stream resumed after a lost connection? ($I)",
    "Which settings does the server read from its environment? ($I)",
    "What happens to an answer when its reader leaves? ($I)",
    "How are documents cut into passages? ($I)",
    "Which errors can a client retry, and after how long? ($I)",
    "Where are the vectors kept, and how are they searched? ($I)",
    "How does an administrator add a user? ($I)",
    "What is stored of a conversation, and who may read it? ($I)",
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`clients` ask `requests` times each, the next when the last has ended, for answers of `tokens`."""

    name: str
    title: str
    goal: str
    clients: int
    requests: int
    tokens: int
    per_second: float = 0.0
    """Tokens a second of each stream; 0 is full speed."""
    targets: Sequence[Target] = ("pass_through", "freshet")
    searches: bool = False
    """Whether Freshet's assistant has documents, and questions are of their words."""

    @property
    def behaviour(self) -> str:
        return f"fake-n{self.tokens}-r{self.per_second:g}-ts"


@dataclass(frozen=True, slots=True)
class Held:
    """Streams that are open for longer than the measurement, in servers started for it."""

    name: str
    title: str
    goal: str
    levels: Sequence[int]
    behaviour: str


@dataclass(frozen=True, slots=True)
class Ingest:
    """`documents` of about `chunks` each are uploaded, and the embedder is given the same passages."""

    name: str
    title: str
    goal: str
    documents: int
    chunks: int
    rounds: int


SCENARIOS = (
    Scenario(
        "flood",
        "100 clients, 500 tokens at full speed",
        "at most 30 µs of CPU a token",
        clients=100,
        requests=3,
        tokens=500,
        targets=("source", "pass_through", "freshet"),
    ),
    Scenario(
        "paced",
        "40 clients, 150 tokens at 25 a second",
        "at most 130 µs of CPU a token",
        clients=40,
        requests=1,
        tokens=150,
        per_second=25,
        targets=("source", "pass_through", "freshet"),
    ),
    Scenario(
        "first_token_1",
        "first token with retrieval, 1 client",
        "at most 10 ms beyond the upstream and the embedder",
        clients=1,
        requests=150,
        tokens=2,
        targets=("upstream", "pass_through", "freshet"),
        searches=True,
    ),
    Scenario(
        "first_token_50",
        "first token with retrieval, 50 clients",
        "",
        clients=50,
        requests=10,
        tokens=2,
        targets=("upstream", "pass_through", "freshet"),
        searches=True,
    ),
    Scenario(
        "short",
        "32 clients, 30 answers of 10 tokens each",
        "at most 10 ms of CPU a request",
        clients=32,
        requests=30,
        tokens=10,
    ),
)

HELD = Held(
    "hold",
    "1,000 open streams, a token each 5 s",
    "at most 60 KiB a stream",
    levels=(0, 1000),
    behaviour="fake-n1000-r0.2",
)

AT_ONCE = Scenario(
    "at_once",
    "1,000 streams at once, 25 tokens at 5 a second",
    "no failure",
    clients=1000,
    requests=1,
    tokens=25,
    per_second=5,
)


INGEST = Ingest(
    "ingest",
    "40 Markdown documents of about 5 chunks",
    "",
    documents=40,
    chunks=5,
    rounds=2,
)

NAMES = tuple(scenario.name for scenario in (*SCENARIOS, HELD, AT_ONCE, INGEST))


def bodies(target: Target, assistant: str, questions: Iterable[str]) -> list[str]:
    """The request bodies for one target; all of them ask the upstream's model `bench`, which does as it was last told."""
    if target == "freshet":
        return [json.dumps({"message": question, "assistant_id": assistant}) for question in questions]
    return [
        json.dumps({"model": "bench", "stream": True, "messages": [{"role": "user", "content": question}]})
        for question in questions
    ]


def path(target: Target, scenario: Scenario | Held) -> str:
    match target:
        case "freshet":
            return "/api/v1/chat/stream"
        case "upstream":
            return "/v1/chat/completions"
        case "source" if isinstance(scenario, Scenario):
            return f"/?n={scenario.tokens}&r={scenario.per_second:g}"
        case _:
            return "/"
