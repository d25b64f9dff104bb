"""What was saved of the Assistants API: read in the shapes that people keep it in, and imported once."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.db.engine import Sessions
from app.errors import InvalidInput
from app.ingest.convert import Converter
from app.ingest.openai_export import SavedAssistant, SavedFile, SavedMessage, SavedThread, read
from app.services.accounts import AccountService
from app.services.assistants import AssistantService
from app.services.importing import Importer, Report, id_of
from app.services.knowledge import KnowledgeService
from app.services.viewer import ANONYMOUS, Viewer
from tests.queued import do_next
from tests.words_embedder import WordsEmbedder

THREAD = "thread_abc123abc123abc123abc123"
OTHER = "thread_def456def456def456def456"
RIVERS = b"# Rivers\n\nA freshet is the flood of a river from melted snow."


def _assistant(**fields: Any) -> dict[str, Any]:
    return {"id": "asst_1", "object": "assistant", "name": "Rivers", "model": "gpt-4o", **fields}


def _message(
    number: int, role: str, text: str, *, thread: str = THREAD, cites: str | None = None, **fields: Any
) -> dict[str, Any]:
    mark = "【4:0†rivers.md】"
    citation = {"type": "file_citation", "text": mark, "file_citation": {"file_id": cites}}
    value = {
        "value": text + (mark if cites else "") + ".",
        "annotations": [citation | {"start_index": 0, "end_index": 1}] if cites else [],
    }
    return {
        "id": f"msg_{thread}_{number}",
        "object": "thread.message",
        "created_at": 1_700_000_000 + number,
        "thread_id": thread,
        "role": role,
        "content": [{"type": "text", "text": value}],
        "attachments": [],
        **fields,
    }


CONVERSATION = [
    _message(1, "user", "What is a freshet?"),
    _message(2, "assistant", "A flood", cites="file-rivers1", assistant_id="asst_1"),
    _message(3, "user", "And when"),
]


def _write(directory: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return directory


def _listed(*items: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": list(items), "first_id": "a", "last_id": "b", "has_more": False}


def _export(directory: Path) -> Path:
    return _write(
        directory,
        {
            "assistants.json": _listed(
                _assistant(
                    instructions="Be brief.",
                    temperature=0.5,
                    top_p=None,
                    tools=[{"type": "file_search"}, {"type": "code_interpreter"}],
                    tool_resources={"file_search": {"vector_store_ids": ["vs_1"]}, "code_interpreter": {}},
                )
            ),
            "vector_stores.json": [{"id": "vs_1", "object": "vector_store", "name": "Rivers / all"}],
            "vector_store_files/vs_1.json": _listed(
                {"id": "file-rivers1", "object": "vector_store.file", "vector_store_id": "vs_1"}
            ),
            "files/file-rivers1.json": {"id": "file-rivers1", "object": "file", "filename": "rivers.md"},
            "files/rivers.md": RIVERS,
            "threads/a.json": {"id": THREAD, "object": "thread", "created_at": 1_700_000_000},
            f"messages/{THREAD}.json": _listed(*reversed(CONVERSATION)),
        },
    )


@pytest.fixture
async def knowledge(sessions: Sessions) -> AsyncGenerator[KnowledgeService]:
    async with Converter() as converter:
        yield KnowledgeService(sessions, WordsEmbedder(), converter, max_upload_bytes=1_000)


async def _import(
    sessions: Sessions,
    knowledge: KnowledgeService,
    directory: Path,
    viewer: Viewer = ANONYMOUS,
    *,
    dry_run: bool = False,
) -> Report:
    importer = Importer(sessions, knowledge, read(directory), viewer, dry_run=dry_run)
    return await importer.run(lambda done, total: None)


def _counts(report: Report) -> dict[str, dict[str, int]]:
    return {kind: {**counter} for kind, counter in report.counts.items()}


async def _rows(sessions: Sessions, statement: str) -> list[Any]:
    async with sessions.read() as session:
        return list((await session.execute(text(statement))).all())


ALL = ("collections", "documents", "assistants", "sessions")


async def test_everything_is_made_once(sessions: Sessions, knowledge: KnowledgeService, tmp_path: Path):
    directory = _export(tmp_path)
    would = await _import(sessions, knowledge, directory, dry_run=True)
    assert await _rows(sessions, "SELECT id::text FROM collections UNION ALL SELECT id FROM sessions") == []

    report = await _import(sessions, knowledge, directory)

    made = {**{kind: {"made": 1} for kind in ALL}, "messages": {"made": 3}}
    assert _counts(report) == _counts(would) == made
    assert report.refused == would.refused == []
    assert [note.text for note in report.notes] == ["Its tool code_interpreter is left out."]
    assert report.cited == 1
    again = await _import(sessions, knowledge, directory)
    assert _counts(again) == {**{kind: {"unchanged": 1} for kind in ALL}, "messages": {"unchanged": 3}}
    assert again.refused == []

    assistant = await AssistantService(sessions).get("rivers", ANONYMOUS)
    assert (assistant.id, assistant.instructions, assistant.model) == (id_of("asst_1"), "Be brief.", "gpt-4o")
    assert (assistant.model_parameters, assistant.user_authentication) == ({"temperature": 0.5}, True)
    assert [collection.name for collection in assistant.collections] == ["Rivers - all"]
    assert await do_next(sessions, knowledge)
    (document,) = await knowledge.documents(collection="Rivers - all", status="ready", before=None, limit=9)
    assert (document.file_name, document.origin, document.chunk_count) == ("rivers.md", "file-rivers1", 1)
    ((user_id, assistant_id, began, active),) = await _rows(
        sessions,
        "SELECT user_id, assistant_id, extract(epoch FROM created_at)::int, extract(epoch FROM last_active_at)::int"
        " FROM sessions",
    )
    assert (user_id, assistant_id) == (None, assistant.id)
    assert (began, active) == (1_700_000_000, 1_700_000_003)
    said = await _rows(sessions, "SELECT role, text, sources, parent_id, id FROM messages ORDER BY position")
    assert [(role, text) for role, text, *_ in said] == [
        ("user", "What is a freshet?."),
        ("assistant", "A flood [1]."),
        ("user", "And when."),
    ]
    assert [row.parent_id for row in said] == [None, said[0].id, said[1].id]
    (source,) = said[1].sources
    assert (source["id"], source["name"]) == ("1", "rivers.md")
    assert source["metadata"]["document_id"] == str(document.id)


async def test_conversations_become_a_users_own(
    sessions: Sessions, knowledge: KnowledgeService, accounts: AccountService, tmp_path: Path
):
    ada = await accounts.create_user("ada@example.com", "a password of the tests", "user")
    bob = await accounts.create_user("bob@example.com", "a password of the tests", "user")
    directory = _write(tmp_path, {"threads.json": {"id": "short"}, "messages/short.json": CONVERSATION[:0]})
    refused = await _import(sessions, knowledge, directory)
    assert "at least 22 characters that nobody can guess" in refused.refused[0].text
    assert refused.counts == {}

    await _import(sessions, knowledge, directory, Viewer(ada))
    others = await _import(sessions, knowledge, directory, Viewer(bob))

    assert await _rows(sessions, "SELECT user_id FROM sessions") == [(ada.id,)]
    assert [remark.text for remark in others.refused] == [
        "There is a session of this id, and it is another user's."
    ]


async def test_what_is_broken_is_told_and_the_rest_is_made(
    sessions: Sessions, knowledge: KnowledgeService, tmp_path: Path
):
    image = {"type": "image_file", "image_file": {"file_id": "file-x"}}
    directory = _write(
        tmp_path,
        {
            "assistants/broken.json": b'{"object": "list", "data": [{"id": "asst_1", "ob',
            "assistants/empty.json": b"",
            "assistants/good.json": _assistant(),
            "assistants/long.json": _assistant(id="asst_2", instructions="x" * 50_001),
            "assistants/wrong.json": _assistant(id="asst_3", instructions=["no", "text"]),
            "assistants/number.json": [7],
            "assistants/nul.json": _assistant(id="asst_4", name="a\0b"),
            "assistants/nowhere.json": _assistant(
                id="asst_5", tool_resources={"file_search": {"vector_store_ids": ["vs_gone"]}}
            ),
            "files.json": [
                {"id": "file-gone1", "filename": "gone.md"},
                {"id": "file-large1", "filename": "large.md"},
                {"id": "file-json1", "filename": "facts.json"},
            ],
            "files/file-large1.md": b"x" * 1_001,
            "files/file-json1.json": {"a": "fact"},
            "messages.jsonl": b"\n".join(
                json.dumps(message).encode()
                for message in (
                    *CONVERSATION,
                    _message(4, "user", "A picture", content=[image]),
                    _message(5, "tool", "A tool"),
                    _message(6, "user", "Later", created_at=10**12),
                    _message(
                        7, "user", "Elsewhere", thread=OTHER, content=[*CONVERSATION[0]["content"], image]
                    ),
                )
            )
            + b'\n{"id": "msg_8", "thr',
        },
    )

    report = await _import(sessions, knowledge, directory)

    assert _counts(report) == {
        "documents": {"made": 1},
        "assistants": {"made": 2},
        "sessions": {"made": 2},
        "messages": {"made": 4},
    }
    assert sorted((remark.file, remark.id, remark.text) for remark in report.refused) == [
        ("assistants/broken.json", "", "It is no JSON: it breaks off, or was never any."),
        ("assistants/empty.json", "", "It is empty."),
        ("assistants/long.json", "asst_2", "Its instructions are longer than 50,000 characters."),
        ("assistants/nul.json", "asst_4", "It holds NUL characters."),
        ("assistants/number.json", "", "It holds something that is no object."),
        ("assistants/wrong.json", "asst_3", "It is not as the API returned such objects: its instructions."),
        ("files.json", "file-gone1", "There is no content of the file gone.md."),
        ("files.json", "file-large1", "The file is larger than 1,000 bytes."),
        ("messages.jsonl", "", "Its line 8 is no JSON."),
        ("messages.jsonl", f"msg_{THREAD}_4", "It holds no text."),
        ("messages.jsonl", f"msg_{THREAD}_5", "A message of the role tool has no place in a session."),
        ("messages.jsonl", f"msg_{THREAD}_6", "It is not as the API returned such objects: its created_at."),
    ]
    assert sorted(note.text for note in report.notes) == [
        "It cites the file file-rivers1, which is not here.",
        "Its part of type image_file is left out.",
        "Its vector store vs_gone is not among what was saved.",
    ]
    again = await _import(sessions, knowledge, directory)
    assert all(set(counter) == {"unchanged"} for counter in again.counts.values())
    assert len(again.refused) == len(report.refused)


async def test_names_that_are_taken_and_messages_that_came_later_disturb_nothing(
    sessions: Sessions, knowledge: KnowledgeService, tmp_path: Path
):
    await knowledge.create_collection("rivers")
    await AssistantService(sessions).create(name="Rivers")
    stores = [{"id": f"vs_{number}", "object": "vector_store", "name": "rivers"} for number in (1, 2)]
    directory = _write(
        tmp_path,
        {"vector_stores.json": stores, "assistants.json": _assistant(), "messages.json": CONVERSATION},
    )
    await _import(sessions, knowledge, directory)
    names = [row.name for row in await _rows(sessions, "SELECT name FROM collections ORDER BY name")]
    assert names == ["rivers", "rivers (vs_1)", "rivers (vs_2)"]
    assert (await AssistantService(sessions).get("rivers-2", ANONYMOUS)).id == id_of("asst_1")

    _write(directory, {"messages.json": [*CONVERSATION, _message(4, "assistant", "In spring")]})
    later = await _import(sessions, knowledge, directory)
    assert [remark.text for remark in later.refused] == [
        "The session was imported without it; erase that, and import it again."
    ]
    _write(
        directory,
        {"messages.json": [_message(1, "user", "Again", thread=OTHER) | {"id": CONVERSATION[0]["id"]}]},
    )
    moved = await _import(sessions, knowledge, directory)
    assert [remark.text for remark in moved.refused] == ["Some of its messages are in another session."]


@pytest.mark.parametrize(
    "files",
    [
        {"threads.json": [{"id": THREAD, "messages": CONVERSATION}], "assistants.jsonl": _assistant()},
        {
            "threads/t.json": {"id": THREAD, "messages": _listed(*CONVERSATION)},
            "assistants/a.json": [_assistant()],
        },
        {
            f"threads/{THREAD}/messages.json": CONVERSATION,
            "threads.json": {"id": THREAD},
            "assistants.json": [_assistant()],
        },
        {
            f"messages/{THREAD}/1.json": _listed(CONVERSATION[0]),
            f"messages/{THREAD}/2.json": {"data": CONVERSATION[1:], "has_more": False},
            "threads.json": {"id": THREAD},
            "assistants.json": _assistant(),
        },
    ],
)
def test_the_same_is_read_from_each_shape(files: dict[str, Any], tmp_path: Path):
    bare = json.loads(json.dumps(files).replace(f'"thread_id": "{THREAD}", ', ""))
    export = read(_write(tmp_path, bare))
    assert export.unread == []
    assert [found.thing.id for found in export.of(SavedAssistant)] == ["asst_1"]
    assert [found.thing.id for found in export.of(SavedThread)] == [THREAD]
    assert [(found.thing.id, found.thing.thread_id) for found in export.of(SavedMessage)] == [
        (message["id"], THREAD) for message in CONVERSATION
    ]


@pytest.mark.parametrize(
    "kept",
    [
        "files/file-a1",
        "files/file-a1.md",
        "files/file-a1_rivers.md",
        "files/file-a1/content.bin",
        "files/rivers.md",
    ],
)
def test_the_content_of_a_file_is_found_under_each_of_its_names(kept: str, tmp_path: Path):
    files = {"files/file-a1.json": {"id": "file-a1", "object": "file", "filename": "rivers.md"}, kept: RIVERS}
    export = read(_write(tmp_path, files))
    assert [found.thing.id for found in export.of(SavedFile)] == ["file-a1"]
    assert export.contents == {"file-a1": tmp_path / kept}


def test_two_files_of_one_name_are_not_taken_for_each_other(tmp_path: Path):
    saved = [{"id": f"file-a{number}", "object": "file", "filename": "rivers.md"} for number in (1, 2)]
    assert read(_write(tmp_path, {"files.json": saved, "files/rivers.md": RIVERS})).contents == {}


def test_a_folder_that_holds_nothing_is_refused(tmp_path: Path):
    for directory in (tmp_path, tmp_path / "nowhere", _write(tmp_path, {"x": b"x"}) / "x"):
        with pytest.raises(InvalidInput):
            read(directory)
