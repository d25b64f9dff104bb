"""An assistant that knows of waters, and what its model says."""

import anyio

from app.errors import ModelIncomplete
from app.llm.protocols import Prompt
from tests.conftest import RunningServer
from tests.scripted_model import Act, says

WATERS = b"# Waters\n\nThe Danube flows into the Black Sea.\n\nLake Constance lies in three countries.\n"


async def ingest_waters(server: RunningServer) -> str:
    """The slug of the assistant."""
    await server.resources.knowledge.ingest_now("waters", "waters.md", WATERS)
    made = await server.resources.assistants.create(
        name="Waters", slug="waters", collections=["waters"], similarity_cutoff=0
    )
    return made.slug


def script(prompt: Prompt, gate: anyio.Event) -> list[Act]:
    """What is asked slowly is answered to its end when somebody has asked to go on. A question that was made to stand alone has more
    words at its end."""
    match prompt.question.split():
        case ["Where", "does", "the", "Danube", *_]:
            return says("It 🐟 flows into", " the Black Sea [1].")
        case ["Slowly", *_]:
            return [["The "], gate, *says("Danube")]
        case ["Go", "on", *_]:
            gate.set()
            return says("Yes")
        case ["Fail", *_]:
            return [["The "], ModelIncomplete("It broke off.")]
        case _:
            return says("You said: ", prompt.question)
