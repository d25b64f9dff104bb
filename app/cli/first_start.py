"""What a server that starts for the first time has to show: an admin, and assistants that know Freshet's documentation."""

from contextlib import suppress
from pathlib import Path
from uuid import UUID

import app
from app.cli.ingest import ingest_files
from app.cli.terminal import Terminal
from app.errors import Conflict
from app.resources import Resources
from app.services.knowledge import KnowledgeService

_PROJECT = Path(app.__file__).resolve().parents[1]
_COLLECTION = "freshet-docs"
_PAGE = 100
_FOR_BUILDERS = frozenset({"architecture.md", "decisions.md", "performance.md"})

_INSTRUCTIONS = """\
You answer questions about Freshet, a server that answers questions from an organisation's own documents.
Use only the passages you are given, and mark each statement with the number of the passage it comes from, as [1].
Quote commands, paths, settings and field names exactly. When the passages do not answer the question, say so and name
what they do cover. Be brief: a few sentences, or a short list of steps."""


class Admin:
    """`password` is known only when the admin was made just now."""

    def __init__(self, email: str, password: str | None) -> None:
        self.email = email
        self.password = password


async def prepare(resources: Resources, terminal: Terminal) -> Admin:
    """Makes what is missing; of the documentation, ingests what has changed."""
    record, password = await resources.accounts.ensure_admin(resources.settings.security.admin_email)
    if password is not None:
        terminal.verdict(f"Admin {record.email} made", good=True)
    await _ingest_documentation(resources, terminal)
    await _make_assistants(resources, terminal)
    return Admin(record.email, password)


def documentation() -> list[Path]:
    """The pages for those who use Freshet. How it was decided and measured is for those who build it, and would make a first
    start a third longer."""
    pages = (
        _PROJECT / "README.md",
        *sorted(_PROJECT.glob("docs/*.md")),
        *sorted(_PROJECT.glob("docs/doors/*.md")),
    )
    return [page for page in pages if page.is_file() and page.name not in _FOR_BUILDERS]


async def _ingest_documentation(resources: Resources, terminal: Terminal) -> None:
    files = documentation()
    with suppress(Conflict):
        await resources.knowledge.create_collection(_COLLECTION, description="The documentation of Freshet.")
    known = await _documents(resources.knowledge)
    with terminal.step("") as step:
        outcomes = await ingest_files(resources, _COLLECTION, files, terminal)
        documents = {one.document.id: one.document for one in outcomes if one.document is not None}
        new = [document for key, document in documents.items() if key not in known]
        chunks = sum(document.chunk_count for document in documents.values())
        step.done = f"Documentation ingested: {len(new)} documents" if new else "Documentation unchanged"
        step.done += f" ({len(documents)} in all, {chunks} chunks)"
    for one in outcomes:
        if one.refusal is not None:
            terminal.verdict(f"{one.path.name}: {one.refusal}", good=False)
    for gone in known - documents.keys():
        await resources.knowledge.delete_document(gone)


async def _documents(knowledge: KnowledgeService) -> set[UUID]:
    known: set[UUID] = set()
    before: int | None = None
    while page := await knowledge.documents(collection=_COLLECTION, status=None, before=before, limit=_PAGE):
        known |= {document.id for document in page}
        before = page[-1].position
    return known


async def _make_assistants(resources: Resources, terminal: Terminal) -> None:
    with suppress(Conflict):
        await resources.assistants.create(
            name="Freshet's documentation",
            slug="freshet-docs",
            description="Answers questions about Freshet from its own documentation.",
            instructions=_INSTRUCTIONS,
            first_message="Ask me how to run Freshet, connect a model, add documents or read the stream.",
            collections=[_COLLECTION],
        )
        terminal.verdict("Assistant freshet-docs made, for everybody", good=True)
    with suppress(Conflict):
        await resources.assistants.create(
            name="Freshet's documentation, for members",
            slug="members",
            description="The same knowledge as freshet-docs, for signed-in users alone.",
            instructions=_INSTRUCTIONS,
            first_message="Welcome back. What would you like to know about Freshet?",
            user_authentication=True,
            collections=[_COLLECTION],
        )
        terminal.verdict("Assistant members made, for signed-in users", good=True)
