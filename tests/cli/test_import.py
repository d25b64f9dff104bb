"""`freshet import openai`, by what it prints and its exit code."""

import json
from pathlib import Path
from typing import Any

from tests.cli.conftest import Freshet

MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "thread_id": "thread_abc123abc123abc123abc123",
    "role": "user",
    "content": [{"type": "text", "text": {"value": "Hello?", "annotations": []}}],
}


async def test_an_import_is_told_as_a_table_and_as_json(
    freshet: Freshet, on_new_database: None, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "messages.json").write_text(json.dumps([MESSAGE]))

    tried = await freshet("import", "openai", str(saved), "--dry-run")
    first = await freshet("import", "openai", str(saved))
    (saved / "assistants.json").write_text('{"object": "list", "da')
    second = await freshet("import", "openai", str(saved), "--json")

    assert (tried.exit_code, first.exit_code, second.exit_code) == (0, 0, 1)
    assert tried.output.startswith("Nothing was changed.")
    assert [line.split() for line in first.output.splitlines()[1:]] == [
        ["sessions", "1", "0", "0"],
        ["messages", "1", "0", "0"],
    ]
    told = json.loads(second.stdout)
    assert told["counts"]["messages"] == {"made": 0, "changed": 0, "unchanged": 1}
    assert [refused["file"] for refused in told["refused"]] == ["assistants.json"]
    assert second.stderr == "Error: 1 refused.\n"

    for wrong in ("nowhere", "saved/messages.json"):
        refused = await freshet("import", "openai", str(tmp_path / wrong))
        assert (refused.exit_code, "is no folder" in refused.output) == (1, True)
