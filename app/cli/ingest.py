"""Files and folders, brought into a collection."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
from anyio import to_thread
from pydantic import SecretStr
from rich.table import Table

from app.cli.database import with_resources
from app.cli.terminal import Bar, Terminal
from app.db.documents import DocumentView, Progress
from app.errors import FreshetError, InvalidInput, TooLarge
from app.ingest.formats import FORMATS
from app.resources import Resources

_EXTENSIONS = {f".{extension}" for one in FORMATS for extension in one.extensions}

# How much of the work on a document is over when the embedding begins, and when it ends.
_BEFORE_EMBEDDING, _AFTER_EMBEDDING = 0.1, 0.95


@dataclass(frozen=True, slots=True)
class Outcome:
    """`refusal` says why there is no document that answers can be drawn from."""

    path: Path
    document: DocumentView | None
    refusal: str | None


@dataclass(frozen=True, slots=True)
class Found:
    files: list[Path]
    passed_over: int


def find(paths: Sequence[Path]) -> Found:
    """The files that are named, and those below the folders that are named whose extension can be read; each once."""
    files: list[Path] = []
    passed_over = 0
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
        readable = sorted(file for file in inside if file.suffix.lower() in _EXTENSIONS)
        files += readable
        passed_over += len(inside) - len(readable)
    return Found(list(dict.fromkeys(files)), passed_over)


async def ingest_files(
    resources: Resources,
    collection: str,
    files: Sequence[Path],
    terminal: Terminal,
    *,
    password: SecretStr | None = None,
) -> list[Outcome]:
    """In the order of the files, some at a time, with a bar that counts in bytes."""
    work = _Work(resources, collection, files, password)
    with terminal.bar("Ingesting", total=max(1, sum(work.sizes))) as bar:
        limiter = anyio.CapacityLimiter(resources.settings.ingest.ingest_concurrency)
        async with anyio.create_task_group() as tasks:
            for index in range(len(files)):
                await limiter.acquire_on_behalf_of(index)
                tasks.start_soon(work.do, index, bar, partial(limiter.release_on_behalf_of, index))
    return [outcome for outcome in work.outcomes if outcome is not None]


class _Work:
    def __init__(
        self, resources: Resources, collection: str, files: Sequence[Path], password: SecretStr | None
    ) -> None:
        self._knowledge = resources.knowledge
        self._collection = collection
        self._files = files
        self._password = password
        self.sizes = [file.stat().st_size if file.is_file() else 0 for file in files]
        self.outcomes: list[Outcome | None] = [None] * len(files)
        self._shares = [0.0] * len(files)
        self._chunks = [0] * len(files)

    async def do(self, index: int, bar: Bar, release: "partial[None]") -> None:
        path = self._files[index]

        def report(progress: Progress) -> None:
            self._shares[index] = _share(progress)
            self._chunks[index] = progress.done
            self._show(bar)

        try:
            content = await to_thread.run_sync(self._content, path)
            document = await self._knowledge.ingest_now(
                self._collection, path.name, content, password=self._password, on_progress=report
            )
            self._chunks[index] = document.chunk_count
            self.outcomes[index] = Outcome(path, document, document.error_message)
        except (InvalidInput, TooLarge) as refused:
            self.outcomes[index] = Outcome(path, None, refused.message)
        except OSError as error:
            self.outcomes[index] = Outcome(path, None, f"It cannot be read: {error.strerror}.")
        finally:
            release()
        self._shares[index] = 1.0
        self._show(bar)

    def _content(self, path: Path) -> bytes:
        """No more of it than tells that it is too large."""
        with path.open("rb") as file:
            return file.read(self._knowledge.max_upload_bytes + 1)

    def _show(self, bar: Bar) -> None:
        over = sum(outcome is not None for outcome in self.outcomes)
        done = sum(share * size for share, size in zip(self._shares, self.sizes, strict=True))
        bar.show(done, f"{over:,}/{len(self._files):,} documents, {sum(self._chunks):,} chunks")


def _share(progress: Progress) -> float:
    if progress.stage == "storing":
        return _AFTER_EMBEDDING
    if progress.total == 0:
        return 0.0
    return _BEFORE_EMBEDDING + (_AFTER_EMBEDDING - _BEFORE_EMBEDDING) * progress.done / progress.total


class _SomeRefused(FreshetError):
    """What was refused has been shown; this is for the exit code."""


def ingest(paths: Sequence[Path], *, collection: str, password: str | None = None) -> None:
    terminal = Terminal()
    found = find(paths)
    if not found.files:
        raise InvalidInput(f"There is no file that can be read among {found.passed_over:,} files.")

    async def add(resources: Resources) -> list[Outcome]:
        secret = SecretStr(password) if password else None
        return await ingest_files(resources, collection, found.files, terminal, password=secret)

    with terminal.step("") as step:
        outcomes = with_resources(add)
        ready = [one.document for one in outcomes if one.document is not None and one.refusal is None]
        chunks = sum(document.chunk_count for document in ready)
        step.done = (
            f"{_count(len(ready), 'document')} with {_count(chunks, 'chunk')} in collection {collection}"
        )
    if found.passed_over:
        terminal.say(f"{_count(found.passed_over, 'file')} of other kinds passed over", "dim")
    refused = [one for one in outcomes if one.refusal is not None]
    if refused:
        table = Table("refused", "why", box=None, pad_edge=False, header_style="bold")
        for one in refused:
            table.add_row(str(one.path), one.refusal)
        terminal.console.print(table)
        raise _SomeRefused(f"{_count(len(refused), 'file')} of {len(outcomes):,} refused.")


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
