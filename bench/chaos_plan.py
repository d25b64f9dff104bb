"""A programme of chaos as it is drawn from its seed: who asks what, where and when, and what is done to the servers meanwhile."""

from dataclasses import dataclass
from random import Random
from typing import Literal
from uuid import UUID

Kind = Literal["kill", "term", "freeze", "database"]
OnBusy = Literal["reject", "queue", "replace"]
Manner = Literal["stays", "leaves", "slow"]

GROUNDED = "fake-n80-r60-c2"
QUIET = "fake-n5-r100"
_SHORT = ("fake-n1", "fake-n30", "fake-n40-r60", "fake-n20-r15", "fake-n300")
_LONG = ("fake-n150-r60-t100", "fake-n500-r250", "fake-n1500-r800", "fake-n80-r30", "fake-n240-r80-w60")
_HUGE = ("fake-n3000-w300", "fake-n4000-r2500-w200")
_FAULTY = (
    "fake-n60-r60-cut20",
    "fake-n60-cut0-x2",
    "fake-n60-r60-rst25",
    "fake-n60-r60-fin15",
    "fake-n60-r60-garb20",
    "fake-n60-r60-serr20",
    "fake-n60-r60-stall10",
    "fake-n120-drip",
    "fake-n20-long64",
    "fake-n40-e503",
    "fake-n40-e429-x1",
    "fake-n40-e400",
    "fake-n40-hang-x1",
    "fake-n40-hanghdr",
)
BEHAVIOURS = (*_SHORT, *_LONG, *_HUGE, *_FAULTY, QUIET)

LASTS_S = 3.0
"""How long new things happen in a programme."""


def assistant_of(behaviour: str) -> str:
    return f"chaos-{behaviour}"


def may_be_asked_again(behaviour: str) -> bool:
    """Whether one answer may take several calls of the model."""
    return behaviour in _FAULTY


@dataclass(frozen=True, slots=True)
class Reader:
    """One more reader of a run, who comes from `server` when it has been going on for `delay_s`, and follows it from `share` of what there is."""

    delay_s: float
    server: int
    share: float
    sse: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """`servers` are asked at the same moment with the same request; `then` are those that are resumed from, one after the other."""

    at_s: float
    behaviour: str
    servers: tuple[int, ...]
    key: str | None
    on_busy: OnBusy
    again: bool
    """The newest question once more, in place of a new one."""
    manner: Manner
    leaves_after: int
    away_s: float
    then: tuple[int, ...]
    patience_s: float
    sse: bool
    readers: tuple[Reader, ...]
    stop: tuple[float, int] | None
    """When, and where."""
    whole: bool
    """By `POST /chat`, as one JSON."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """`end` is when it is deleted, where, and whether for good."""

    session_id: str
    turns: tuple[Turn, ...]
    end: tuple[float, int, bool] | None


@dataclass(frozen=True, slots=True)
class Disturbance:
    """`lasts_s`: frozen or away for so long. `signals`: when SIGTERM is sent once more, behind the first. `crash`: of the database."""

    at_s: float
    kind: Kind
    server: int
    lasts_s: float = 0.0
    signals: tuple[float, ...] = ()
    crash: bool = False


@dataclass(frozen=True, slots=True)
class Programme:
    seed: int
    servers: int
    conversations: tuple[Conversation, ...]
    disturbances: tuple[Disturbance, ...]


def draw(seed: int) -> Programme:
    chance = Random(f"freshet {seed}")
    servers = chance.choice((2, 3, 3))
    disturbances = _disturbances(chance, servers)
    moments = [disturbance.at_s for disturbance in disturbances]
    number = chance.randint(6, 10)
    conversations = tuple(_conversation(chance, servers, f"{seed}.{i}", moments) for i in range(number))
    return Programme(seed, servers, conversations, disturbances)


def _disturbances(chance: Random, servers: int) -> tuple[Disturbance, ...]:
    """Server 0 is never ended: it shows over many programmes whether something is left behind in a process."""
    drawn: list[Disturbance] = []
    for _ in range(chance.choice((0, 1, 1, 2, 2, 2, 3, 3))):
        kind: Kind = chance.choice(("kill", "kill", "term", "freeze", "freeze", "database"))
        at_s = chance.uniform(0.2, LASTS_S)
        mortal = chance.randrange(1, servers)
        match kind:
            case "kill":
                drawn.append(Disturbance(at_s, kind, mortal))
            case "term":
                # Again while it drains, and at once again while it stores what it has been made to break off.
                again_s = chance.uniform(0.05, 1.2)
                signals = tuple(
                    again_s + i * chance.uniform(0, 0.15) for i in range(chance.choice((0, 1, 3, 3)))
                )
                drawn.append(Disturbance(at_s, kind, mortal, signals=tuple(sorted(signals))))
            case "freeze":
                # Either clearly within the limit of the heartbeat or clearly beyond it.
                lasts_s = chance.uniform(0.1, 0.9) if chance.random() < 0.4 else chance.uniform(2.0, 3.5)
                drawn.append(Disturbance(at_s, kind, chance.randrange(servers), lasts_s))
            case "database":
                lasts_s = chance.choice((0.0, 0.3, 1.0)) * chance.random()
                drawn.append(Disturbance(at_s, kind, -1, lasts_s, crash=chance.random() < 0.5))
    return tuple(sorted(drawn, key=lambda one: one.at_s))


def _conversation(chance: Random, servers: int, name: str, moments: list[float]) -> Conversation:
    session_id = str(UUID(int=chance.getrandbits(128), version=4))
    turns: list[Turn] = []
    at_s = chance.uniform(0, LASTS_S / 2)
    for i in range(chance.choice((1, 1, 2, 2, 3, 4))):
        if moments and chance.random() < 0.3:
            # Shortly before something happens, or in that very moment.
            at_s = max(at_s, chance.choice(moments) - chance.choice((0.0, 0.01, 0.3)))
        turns.append(_turn(chance, servers, at_s, f"{name}.{i}", is_first=i == 0))
        at_s += chance.choice((0.0, 0.02, 0.3, 1.0)) * chance.random()
    end = None
    if chance.random() < 0.2:
        end = (chance.uniform(0.5, LASTS_S), chance.randrange(servers), chance.random() < 0.6)
    return Conversation(session_id, tuple(turns), end)


def _turn(chance: Random, servers: int, at_s: float, name: str, *, is_first: bool) -> Turn:
    has_key = chance.random() < 0.5
    twice = has_key and chance.random() < 0.5
    asked = tuple(chance.randrange(servers) for _ in range(2 if twice else 1))
    manner: Manner = chance.choice(("stays", "stays", "leaves", "leaves", "leaves", "slow"))
    pool = chance.choice((_SHORT, _SHORT, _LONG, _LONG, _LONG, _FAULTY, (GROUNDED,)))
    if manner == "slow":
        pool = _HUGE
    again = not is_first and chance.random() < 0.2
    return Turn(
        at_s=at_s,
        behaviour=chance.choice(pool),
        servers=asked,
        key=f"key-{name}-{chance.getrandbits(64):016x}" if has_key else None,
        on_busy=chance.choice(("reject", "queue", "replace")),
        again=again,
        manner=manner,
        leaves_after=chance.choice((0, 1, 2, 5, 20, 60)),
        away_s=chance.choice((0.0, 0.0, 0.3, 1.5)) * chance.random(),
        then=tuple(chance.randrange(servers) for _ in range(12)),
        patience_s=chance.choice((1.2, 1.2, 8.0)),
        sse=chance.random() < 0.3,
        readers=tuple(_reader(chance, servers) for _ in range(chance.choice((0, 0, 1, 1, 2, 4)))),
        stop=(chance.uniform(0, 1.0), chance.randrange(servers)) if chance.random() < 0.15 else None,
        whole=not again and manner == "stays" and chance.random() < 0.1,
    )


def _reader(chance: Random, servers: int) -> Reader:
    return Reader(
        delay_s=chance.choice((0.0, 0.1, 0.5, 1.5)) * chance.random(),
        server=chance.randrange(servers),
        share=chance.choice((0.0, 0.5, 1.0)),
        sse=chance.random() < 0.3,
    )
