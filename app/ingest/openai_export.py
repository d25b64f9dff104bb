"""What people have saved of OpenAI's Assistants API: what its calls returned, in files of whichever shape.

The folders, or files of the same names, are `assistants`, `threads`, `messages`, `files`, `vector_stores` and
`vector_store_files`. A file holds an object, an array, a list object with `data`, or one of these a line.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, cast

import msgspec

from app import json_text
from app.errors import InvalidInput

# In seconds since 1970, and before the year 2200.
Time = Annotated[float, msgspec.Meta(ge=0, le=7_258_118_400)]


class Tool(msgspec.Struct):
    type: str = ""


class FileSearch(msgspec.Struct):
    vector_store_ids: list[str] = []


class ToolResources(msgspec.Struct):
    file_search: FileSearch | None = None


class SavedAssistant(msgspec.Struct):
    id: str
    name: str | None = None
    description: str | None = None
    instructions: str | None = None
    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[Tool] = []
    tool_resources: ToolResources | None = None


class CitedFile(msgspec.Struct):
    file_id: str
    quote: str | None = None


class Annotation(msgspec.Struct):
    """`text` is the mark as it stands in the value."""

    type: str
    text: str = ""
    file_citation: CitedFile | None = None


class TextValue(msgspec.Struct):
    value: str
    annotations: list[Annotation] = []


class Part(msgspec.Struct):
    type: str
    text: TextValue | str | None = None


class SavedMessage(msgspec.Struct):
    id: str
    role: str
    content: list[Part] | str
    created_at: Time | None = None
    thread_id: str | None = None
    assistant_id: str | None = None


class SavedThread(msgspec.Struct):
    id: str
    created_at: Time | None = None


class SavedFile(msgspec.Struct):
    id: str
    filename: str | None = None


class SavedVectorStore(msgspec.Struct):
    id: str
    name: str | None = None


class FileOfVectorStore(msgspec.Struct):
    id: str
    vector_store_id: str


Saved = SavedAssistant | SavedThread | SavedMessage | SavedFile | SavedVectorStore | FileOfVectorStore
T = TypeVar("T", bound=Saved)

# By the folder, and by what an object calls itself.
_KINDS: dict[str, tuple[str, type[Saved]]] = {
    "assistants": ("assistant", SavedAssistant),
    "threads": ("thread", SavedThread),
    "messages": ("thread.message", SavedMessage),
    "files": ("file", SavedFile),
    "vector_stores": ("vector_store", SavedVectorStore),
    "vector_store_files": ("vector_store.file", FileOfVectorStore),
}
_OF_OBJECT = dict(_KINDS.values())
_ID = re.compile(r"file-[A-Za-z0-9]+")
_FIELD = re.compile(r"`\$\.?([^`]+)`")


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """`file` is where, below the folder of the export."""

    file: str
    thing: T


@dataclass(frozen=True, slots=True)
class Unread:
    """`id` is that of the object, as far as it could be told."""

    file: str
    id: str
    reason: str


@dataclass(slots=True)
class Export:
    """`contents` are of files, by their ids."""

    things: list[Found[Any]] = field(default_factory=list[Found[Any]])
    contents: dict[str, Path] = field(default_factory=dict[str, Path])
    unread: list[Unread] = field(default_factory=list[Unread])

    def of(self, kind: type[T]) -> list[Found[T]]:
        """In the order of the files that they stand in."""
        return [found for found in self.things if isinstance(found.thing, kind)]


def read(directory: Path) -> Export:
    """Raises `InvalidInput` if there is nothing to be read."""
    if not directory.is_dir():
        raise InvalidInput(f"{directory} is no folder.")
    export = Export()
    kept: list[Path] = []
    for folder, (_, kind) in _KINDS.items():
        kept += [
            path
            for path in _paths(directory, folder)
            if not _read_file(export, path, path.relative_to(directory).as_posix(), kind)
        ]
    export.contents = _contents([found.thing for found in export.of(SavedFile)], kept)
    if not export.things and not export.unread:
        raise InvalidInput(f"{directory} holds none of {', '.join(_KINDS)}, as folders or as files of JSON.")
    return export


def _paths(directory: Path, folder: str) -> Iterator[Path]:
    for suffix in (".json", ".jsonl"):
        if (path := directory / f"{folder}{suffix}").is_file():
            yield path
    below = sorted(path for path in (directory / folder).rglob("*") if path.is_file())
    yield from (path for path in below if folder == "files" or path.suffix in {".json", ".jsonl"})


def _read_file(export: Export, path: Path, name: str, kind: type[Saved]) -> bool:
    """False for a file that was uploaded, and tells nothing of others: they stand in the folder `files`."""
    uploaded = kind is SavedFile and "/" in name
    if uploaded and path.suffix not in {".json", ".jsonl"}:
        return False
    try:
        items = list(_items(path.read_bytes()))
    except OSError as error:
        export.unread.append(Unread(name, "", f"It cannot be read: {error.strerror}."))
        return True
    if uploaded and any(isinstance(item, str) or item.get("object") != "file" for item in items):
        return False
    for item in items:
        if isinstance(item, str):
            export.unread.append(Unread(name, "", item))
        else:
            _add(export, name, path, item, kind)
    return True


def _items(content: bytes) -> Iterator[dict[str, Any] | str]:
    """Each object, or why there is none."""
    try:
        yield from _objects(msgspec.json.decode(content))
        return
    except (msgspec.DecodeError, UnicodeDecodeError):
        lines = [line for line in content.splitlines() if line.strip()]
    if len(lines) < 2 or not lines[0].rstrip().endswith((b"}", b"]")):
        yield "It is empty." if not lines else "It is no JSON: it breaks off, or was never any."
        return
    for number, line in enumerate(lines, 1):
        try:
            yield from _objects(msgspec.json.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError):
            yield f"Its line {number} is no JSON."


def _objects(value: Any) -> Iterator[dict[str, Any] | str]:
    match value:
        case {"data": list()} if value.get("object", "list") == "list":
            yield from _objects(value["data"])
        case dict():
            yield cast("dict[str, Any]", value)
        case list():
            for item in cast("list[Any]", value):
                yield from _objects(item)
        case _:
            yield "It holds something that is no object."


def _add(export: Export, name: str, path: Path, item: dict[str, Any], kind: type[Saved]) -> None:
    said = item.get("object")
    kind = SavedMessage if "role" in item and "content" in item else kind
    kind = _OF_OBJECT.get(said, kind) if isinstance(said, str) else kind
    item_id = str(item.get("id", ""))
    if b"\\u0000" in json_text.encode(item):
        export.unread.append(Unread(name, item_id, "It holds NUL characters."))
        return
    try:
        thing = msgspec.convert(item, kind)
    except msgspec.ValidationError as error:
        found = _FIELD.search(str(error))
        where = f": its {found[1]}" if found is not None else ""
        reason = f"It is not as the API returned such objects{where}."
        export.unread.append(Unread(name, item_id, reason))
        return
    if isinstance(thing, SavedMessage) and thing.thread_id is None:
        thing.thread_id = _thread_of(path)
    export.things.append(Found(name, thing))
    inside = item.get("messages") if isinstance(thing, SavedThread) else None
    for message in _objects(inside) if inside else ():
        if isinstance(message, str):
            export.unread.append(Unread(name, thing.id, message))
        else:
            _add(export, name, path, {"thread_id": thing.id, **message}, SavedMessage)


def _thread_of(path: Path) -> str:
    """`messages/THREAD.json`, `messages/THREAD/1.json` or `threads/THREAD/messages.json`."""
    return path.stem if path.parent.name == "messages" else path.parent.name


def _contents(files: list[SavedFile], kept: list[Path]) -> dict[str, Path]:
    """By an id in the name or of the folder, else by the name that the file had, where one file alone had it."""
    by_name: dict[str, Path] = {}
    for path in kept:
        begins = _ID.match(path.name)
        for name in (path.name, path.stem, path.parent.name, begins[0] if begins is not None else ""):
            by_name.setdefault(name, path)
    names = Counter(file.filename for file in files)
    found: dict[str, Path] = {}
    for file in files:
        path = by_name.get(file.id)
        if path is None and file.filename and names[file.filename] == 1:
            path = by_name.get(file.filename)
        if path is not None:
            found[file.id] = path
    return found
