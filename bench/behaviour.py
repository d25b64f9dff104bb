"""How the fake upstream answers, written as a model name."""

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

SYNTAX = """\
A behaviour is a model name: "fake", then parts joined by "-" in any order, for example fake-n200-r25-t50.
  n200   tokens in the answer (default 200); token i is the text " i"
  r25    tokens a second, in each stream; 0 is as fast as the reader takes them (default 0)
  t50    milliseconds before the first token (default 0)
  c4     tokens in one write (default 1)
  w16    pad every token to this many characters
  ts     stamp every token with the monotonic clock, in nanoseconds, when it is written: " i@123456789"
Faults, of which a name has at most one; k is the number of tokens before it:
  e503   answer with this HTTP status; 429 carries Retry-After: 1
  hang   accept the request and never answer            hanghdr  send the headers, and nothing after them
  cut5   close the connection after 5 tokens            rst5     the same, as a TCP reset
  fin5   end the body in order, with no finish reason   stall5   fall silent after 5 tokens, until released
  garb5  one line that is no JSON after 5 tokens        serr5    an error object in the stream, then its end
  long64 the first token is 64 KiB long                 drip     every frame in two writes, 2 ms apart
  x2     only the first 2 requests of this name meet the fault
Every other model name behaves as was last set by GET /set/<behaviour>."""

Fault = Literal["status", "hang", "hanghdr", "cut", "rst", "fin", "stall", "garb", "serr", "long", "drip"]
_FAULTS: dict[str, Fault] = {
    "e": "status",
    "hang": "hang",
    "hanghdr": "hanghdr",
    "cut": "cut",
    "rst": "rst",
    "fin": "fin",
    "stall": "stall",
    "garb": "garb",
    "serr": "serr",
    "long": "long",
    "drip": "drip",
}
_PART = re.compile(r"([a-z]+)([0-9]+(?:\.[0-9]+)?)?")


@dataclass(frozen=True, slots=True)
class Behaviour:
    tokens: int = 200
    per_second: float = 0.0
    first_after_ms: float = 0.0
    per_write: int = 1
    width: int = 0
    stamped: bool = False
    fault: Fault | None = None
    fault_at: int = 0
    """What stands behind the fault's name: tokens before it, the HTTP status, or KiB."""
    fault_requests: int = 0
    """How many requests meet the fault; 0 is all of them."""

    @property
    def breaks_stream(self) -> bool:
        """Whether the tokens of a stream have to be written one by one because something happens between them."""
        return self.fault is not None and self.fault not in ("status", "hang", "hanghdr")


@lru_cache(4096)
def behaviour_of(name: str) -> Behaviour:
    """Raises ValueError, with the part that it does not know."""
    head, *parts = name.split("-")
    if head != "fake":
        raise ValueError(f"a behaviour begins with 'fake': {name!r}")
    behaviour = Behaviour()
    for part in parts:
        behaviour = _with_part(behaviour, part)
    if behaviour.tokens < 0 or behaviour.per_write < 1:
        raise ValueError(f"a write has at least one token: {name!r}")
    return behaviour


def _with_part(behaviour: Behaviour, part: str) -> Behaviour:
    match = _PART.fullmatch(part)
    if match is None:
        raise ValueError(f"no such behaviour: {part!r}")
    key, digits = match.groups()
    number = float(digits or 0)
    if key in _FAULTS:
        return replace(behaviour, fault=_FAULTS[key], fault_at=int(number))
    match key:
        case "n":
            return replace(behaviour, tokens=int(number))
        case "r":
            return replace(behaviour, per_second=number)
        case "t":
            return replace(behaviour, first_after_ms=number)
        case "c":
            return replace(behaviour, per_write=int(number))
        case "w":
            return replace(behaviour, width=int(number))
        case "x":
            return replace(behaviour, fault_requests=int(number))
        case "ts":
            return replace(behaviour, stamped=True)
        case _:
            raise ValueError(f"no such behaviour: {part!r}")
