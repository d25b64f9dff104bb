"""A change of the embedder, with a bar."""

from app.cli.database import engine_of, with_database
from app.cli.terminal import Terminal
from app.db.engine import Sessions
from app.resources import open_embedder
from app.services.reembed import ReembedService
from app.settings import Settings


def reembed() -> None:
    terminal = Terminal()

    async def change(settings: Settings) -> None:
        async with engine_of(settings) as engine, open_embedder(settings) as embedder:
            with terminal.bar(f"Embedding with {embedder.name}", total=1) as bar:

                def show(done: int, total: int) -> None:
                    bar.show(done, f"{done:,}/{total:,} chunks", total=total)

                changed = await ReembedService(Sessions(engine), embedder).reembed(show)
        words = (
            f"All documents are now embedded by {embedder.name}." if changed else "There was nothing to do."
        )
        terminal.verdict(words, good=True)

    with_database(change)
