"""A folder of this machine, with all below it. Links are not followed, so that nothing outside of it is read."""

import os
import stat
from collections.abc import AsyncGenerator, Generator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from anyio import to_thread

from app.errors import ConnectorRefused
from app.ingest.connectors import Changed, Failed, Found, Incomplete, State, Unchanged
from app.ingest.connectors.patterns import Choice, is_readable

_MOST_FILES = 200_000
_MOST_DEPTH = 64
_NO_LINKS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class _File:
    """`path` is relative to the folder; `version` changes when the file is written."""

    path: str
    version: str
    size: int


@dataclass(slots=True)
class _Listing:
    files: list[_File] = field(default_factory=list["_File"])
    failed: list[Failed] = field(default_factory=list[Failed])
    missed: str | None = None


@dataclass(frozen=True, slots=True)
class Folder:
    root: Path
    choice: Choice
    max_file_bytes: int

    async def check(self) -> None:
        await to_thread.run_sync(self._check)

    async def found(self, known: Mapping[str, State]) -> AsyncGenerator[Found]:
        """In the order of their paths. Files whose name begins with a dot, or tells of no format that can be read, are no items."""
        await self.check()
        listing = await to_thread.run_sync(self._list)
        for failure in listing.failed:
            yield failure
        for file in listing.files:
            before = known.get(file.path)
            if before is not None and before.get("version") == file.version:
                yield Unchanged(file.path)
            else:
                yield await to_thread.run_sync(partial(self._read, file))
        if listing.missed is not None:
            yield Incomplete(listing.missed)

    def _check(self) -> None:
        try:
            os.close(os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except FileNotFoundError as error:
            raise ConnectorRefused("missing", f"There is no folder {self.root}.") from error
        except NotADirectoryError as error:
            raise ConnectorRefused("missing", f"{self.root} is no folder.") from error
        except PermissionError as error:
            raise ConnectorRefused("forbidden", f"The server may not read the folder {self.root}.") from error
        except OSError as error:
            raise ConnectorRefused("unreachable", f"The folder {self.root} cannot be read.") from error

    def _list(self) -> _Listing:
        listing = _Listing()
        folders = [self.root]
        while folders:
            folder = folders.pop()
            try:
                for entry in self._entries(folder):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False):
                        self._add(entry, listing)
            except OSError as error:
                listing.missed = f"The folder {_shown(folder)} cannot be read: {error.strerror}."
            if len(listing.files) > _MOST_FILES:
                raise ConnectorRefused("malformed", f"The folder has more than {_MOST_FILES:,} files.")
        listing.files.sort(key=lambda file: file.path)
        return listing

    def _entries(self, folder: Path) -> Generator["os.DirEntry[str]"]:
        if len(folder.relative_to(self.root).parts) > _MOST_DEPTH:
            return
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not entry.name.startswith((".", "~$")))

    def _add(self, entry: "os.DirEntry[str]", listing: _Listing) -> None:
        path = PurePosixPath(os.path.relpath(entry.path, self.root)).as_posix()
        if not is_readable(path) or not self.choice.takes(path):
            return
        if not path.isprintable():
            listing.failed.append(Failed(_shown(path), "The name holds characters that are no text."))
            return
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError as error:
            listing.failed.append(Failed(path, f"The file cannot be read: {error.strerror}."))
            return
        listing.files.append(_File(path, _version(found), found.st_size))

    def _read(self, file: _File) -> Found:
        if file.size > self.max_file_bytes:
            return Failed(file.path, f"The file is larger than {self.max_file_bytes:,} bytes.")
        try:
            descriptor = self._open(file.path)
            with os.fdopen(descriptor, "rb") as opened:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    return Failed(file.path, "This is no file any more.")
                version = _version(os.fstat(descriptor))
                content = opened.read(self.max_file_bytes + 1)
                if len(content) > self.max_file_bytes or _version(os.fstat(descriptor)) != version:
                    return Failed(file.path, "The file is being written: it is taken the next time.")
        except OSError as error:
            return Failed(file.path, f"The file cannot be read: {error.strerror}.")
        name = PurePosixPath(file.path).name
        return Changed(file.path, name, content, state={"version": version})

    def _open(self, path: str) -> int:
        """Step by step, as a folder may have become a link since it was listed."""
        *folders, name = PurePosixPath(path).parts
        place = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for folder in folders:
                below = os.open(folder, _NO_LINKS | os.O_DIRECTORY, dir_fd=place)
                os.close(place)
                place = below
            return os.open(name, _NO_LINKS | os.O_NONBLOCK, dir_fd=place)
        finally:
            os.close(place)


def below(path: Path, allowed: tuple[Path, ...]) -> bool:
    """Whether the path, with its links followed, is one of these folders or lies in one."""
    real = path.resolve()
    return any(real.is_relative_to(folder.resolve()) for folder in allowed)


def _version(found: os.stat_result) -> str:
    return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}"


def _shown(path: object) -> str:
    """Names that are no text, with what is none written out."""
    return str(path).encode("utf-8", "backslashreplace").decode()
