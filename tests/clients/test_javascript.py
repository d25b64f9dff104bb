"""The JavaScript client: its own tests, its types, and what is built of it."""

import shutil
from pathlib import Path

import pytest

from tests.node import install, node

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "clients" / "js"


def test_its_own_tests_pass() -> None:
    told = node("--test", "tests/clients/js/client.test.mjs", cwd=ROOT)

    assert "fail 0" in told
    assert "pass 0" not in told


def test_the_types_of_its_events_are_those_of_the_schema() -> None:
    made = node(PACKAGE / "scripts" / "events.mjs", "--print", cwd=ROOT)

    assert made == (PACKAGE / "src" / "events.ts").read_text(), "npm run events makes them anew."


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, built with the compiler that its lock names."""
    copy = tmp_path_factory.mktemp("js")
    for name in ("package.json", "package-lock.json", ".npmrc", "tsconfig.json"):
        shutil.copy(PACKAGE / name, copy)
    shutil.copytree(PACKAGE / "src", copy / "src")
    install(copy)
    node(copy / "node_modules" / "typescript" / "bin" / "tsc", cwd=copy)
    return copy


def test_it_is_built_without_an_error_of_types_and_runs(built: Path) -> None:
    program = "import('./dist/index.js').then((client) => console.log(Object.keys(client).sort().join(' ')))"

    exported = node("--eval", program, cwd=built)

    assert exported == "AnswerFailed Disconnected Freshet FreshetError RequestRefused\n"


def test_its_types_lead_through_the_events(built: Path) -> None:
    (built / "src" / "use.ts").write_text("""
        import { Freshet } from "./index.ts";

        export async function use(freshet: Freshet): Promise<string> {
          let text = "";
          for await (const event of freshet.stream({ message: "Hello?", assistant_id: "a" })) {
            if (event.type === "token") text += event.content;
            if (event.type === "done") text += event.usage.total_tokens.toFixed();
            // @ts-expect-error: only a token has it.
            text += event.content;
          }
          // @ts-expect-error: an assistant must be named.
          freshet.stream({ message: "Hello?" });
          return text;
        }
    """)

    node(built / "node_modules" / "typescript" / "bin" / "tsc", "--noEmit", cwd=built)
