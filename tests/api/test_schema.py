"""What the API says of itself, held against what it does, by a tool that makes up requests from the schema."""

import sys
from pathlib import Path

import anyio
import httpx

from tests.conftest import RunningServer

# Whether a body that fits its schema can also be meant (a collection that exists, a file that is one) no schema can say. In a
# multipart form everything is text: there is no type that a field could violate. And a session may be named "stream" or
# "events.schema.json", so that DELETE is taken at those paths too, as `Allow` says. A connector is not made, as its place, which
# may be anywhere on the internet, would be looked at.
_CONFIGURATION = """
checks.positive_data_acceptance.enabled = false

[[operations]]
include-path = "/api/v1/documents"
include-method = "POST"
checks.negative_data_rejection.enabled = false

[[operations]]
include-path = "/api/v1/connectors"
include-method = "POST"
enabled = false

[[operations]]
include-path = "/api/v1/chat/stream"
checks.allow_header_conformance.enabled = false

[[operations]]
include-path = "/api/v1/chat/events.schema.json"
checks.allow_header_conformance.enabled = false
"""


async def test_the_api_does_what_its_schema_says(
    server: RunningServer, admin_client: httpx.AsyncClient, tmp_path: Path
):
    await server.resources.assistants.create(name="Public", slug="public")
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
    options = {
        "--header": f"Authorization: {admin_client.headers['authorization']}",
        "--phases": "examples,coverage,fuzzing",
        "--max-examples": "8",
        "--seed": "1",
        "--generation-database": "none",
        "--warnings": "off",
    }
    await anyio.Path(tmp_path / "schemathesis.toml").write_text(_CONFIGURATION)
    with anyio.fail_after(400):
        done = await anyio.run_process(
            [*command, *(part for option in options.items() for part in option)], check=False, cwd=tmp_path
        )
    assert done.returncode == 0, done.stdout.decode()[-8_000:]
