"""The rules of the code that no tool checks. Each is a function from a file to the places that break it, and is shown to see one."""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Module:
    """`path` is relative to the project."""

    path: Path
    source: str

    @property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(ast.parse(self.source)))

    def line(self, number: int) -> str:
        return self.source.splitlines()[number - 1]

    def is_in(self, *places: str) -> bool:
        return any(self.path.is_relative_to(place) for place in places)


Rule = Callable[[Module], Iterator[int]]
"""The numbers of the lines that break it. Its docstring is what a reader is told."""


def statuses(module: Module) -> Iterator[int]:
    """Which status an error becomes is decided in app/api/errors.py alone: raise an error of app/errors.py."""
    if module.path == Path("app/api/errors.py"):
        return
    for node in module.nodes:
        if _name(node) in {"HTTPException", "JSONResponse", "PlainTextResponse"}:
            yield _line(node)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            yield from (_line(node) for alias in node.names if alias.name == "HTTPException")


def broad_handlers(module: Module) -> Iterator[int]:
    """Catch what you can name. What catches everything tells why in a comment on its line, or raises again at its end."""
    for node in module.nodes:
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = ast.walk(node.type) if node.type is not None else ()
        if node.type is not None and not {_name(part) for part in caught} & {"Exception", "BaseException"}:
            continue
        last = node.body[-1]
        cleans_up = isinstance(last, ast.Raise) and last.exc is None
        head = [
            module.line(number) for number in range(node.lineno, max(node.lineno + 1, node.body[0].lineno))
        ]
        comments = [
            part for line in head if not line.lstrip().startswith("#") for part in line.split("#")[1:]
        ]
        if not cleans_up and not any(not comment.strip().startswith("noqa") for comment in comments):
            yield node.lineno


def loose_tasks(module: Module) -> Iterator[int]:
    """A task belongs to a task group that somebody waits for."""
    groups = {name for node in module.nodes for name in _bound_to_task_groups(node)}
    for node in module.nodes:
        if isinstance(node, ast.Attribute) and node.attr in {"create_task", "ensure_future"}:
            if node.attr == "ensure_future" or _name(node.value) not in groups:
                yield node.lineno
        elif isinstance(node, ast.Name) and node.id in {"create_task", "ensure_future"}:
            yield node.lineno


def heavy_middleware(module: Module) -> Iterator[int]:
    """Middleware is pure ASGI: the framework's own kind costs a task and a queue for each response."""
    for node in module.nodes:
        if _name(node) == "BaseHTTPMiddleware":
            yield _line(node)
        elif isinstance(node, ast.ImportFrom):
            yield from (node.lineno for alias in node.names if alias.name == "BaseHTTPMiddleware")
        elif isinstance(node, ast.Call) and _name(node.func) == "middleware":
            yield node.lineno


def commits(module: Module) -> Iterator[int]:
    """A service opens a transaction in one `async with`, which commits; nothing else does."""
    for node in module.nodes:
        if isinstance(node, ast.Call) and _name(node.func) in {"commit", "rollback"}:
            yield node.lineno


def sessions_of_endpoints(module: Module) -> Iterator[int]:
    """Endpoints are given services: a session from a dependency is held until the last byte has been sent."""
    if not module.is_in("app/api"):
        return
    depended_on = {
        _name(node.args[0])
        for node in module.nodes
        if isinstance(node, ast.Call) and _name(node.func) in {"Depends", "Security"} and node.args
    }
    for node in module.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in depended_on:
            yield from (_line(part) for part in ast.walk(node) if isinstance(part, ast.Yield | ast.YieldFrom))
        elif isinstance(node, ast.ImportFrom) and (node.module or "") == "app.db.engine":
            yield node.lineno
        elif _name(node) == "AsyncSession":
            yield _line(node)


def one_way_migrations(module: Module) -> Iterator[int]:
    """Every migration can be undone: its downgrade does something."""
    if not module.is_in("alembic/versions"):
        return
    functions = [node for node in module.nodes if isinstance(node, ast.FunctionDef)]
    downgrades = [node for node in functions if node.name == "downgrade"]
    if not any(isinstance(part, ast.Call) for node in downgrades for part in _outside_raise(node)):
        yield downgrades[0].lineno if downgrades else 1


def mocks(module: Module) -> Iterator[int]:
    """The world of a test is real, except the model: no mocks."""
    for node in module.nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            )
            if any(name.split(".")[0] in {"mock", "pytest_mock", "respx", "unittest"} for name in modules):
                yield node.lineno
        elif isinstance(node, ast.arg) and node.arg == "mocker":
            yield node.lineno


def sleeps(module: Module) -> Iterator[int]:
    """A test waits for what happens, not for time to pass."""
    for node in module.nodes:
        if isinstance(node, ast.Attribute) and node.attr == "sleep" and _name(node.value) == "time":
            yield node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (node.lineno for alias in node.names if alias.name == "sleep")


OF_THE_APP: tuple[Rule, ...] = (
    statuses,
    broad_handlers,
    loose_tasks,
    heavy_middleware,
    commits,
    sessions_of_endpoints,
)
RULES: tuple[tuple[Rule, tuple[str, ...]], ...] = (
    *((rule, ("app", "freshet")) for rule in OF_THE_APP),
    (one_way_migrations, ("alembic",)),
    (mocks, ("tests",)),
    (sleeps, ("tests",)),
)


@pytest.mark.parametrize(("rule", "folders"), RULES, ids=[rule.__name__ for rule, _ in RULES])
def test_the_code_keeps_the_rule(rule: Rule, folders: tuple[str, ...]) -> None:
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert files
    broken = [
        f"{module.path}:{number}"
        for module in (Module(path.relative_to(ROOT), path.read_text()) for path in files)
        for number in sorted(set(rule(module)))
    ]

    assert not broken, f"{rule.__doc__} Broken at {', '.join(broken)}"


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (statuses, "app/services/chat.py", "from fastapi import HTTPException\n"),
        (statuses, "app/api/v1/chat.py", "raise starlette.exceptions.HTTPException(404)\n"),
        (broad_handlers, "app/x.py", "try:\n    a()\nexcept Exception:\n    pass\n"),
        (broad_handlers, "app/x.py", "try:\n    a()\nexcept:\n    pass\n"),
        (
            broad_handlers,
            "app/x.py",
            "try:\n    a()\nexcept (OSError, Exception):  # noqa: BLE001\n    pass\n",
        ),
        (broad_handlers, "app/x.py", "try:\n    a()\nexcept BaseException:\n    b()\n"),
        (broad_handlers, "app/x.py", "try:\n    a()\nexcept Exception:\n    # whatever\n    b()\n"),
        (loose_tasks, "app/x.py", "asyncio.create_task(a())\n"),
        (loose_tasks, "app/x.py", "from asyncio import create_task\ncreate_task(a())\n"),
        (loose_tasks, "app/x.py", "loop.create_task(a())\n"),
        (loose_tasks, "app/x.py", "asyncio.get_running_loop().create_task(a())\n"),
        (loose_tasks, "app/x.py", "asyncio.ensure_future(a())\n"),
        (heavy_middleware, "app/x.py", "class Timer(BaseHTTPMiddleware): ...\n"),
        (heavy_middleware, "app/x.py", "@app.middleware('http')\nasync def timed(request, call_next): ...\n"),
        (commits, "app/db/x.py", "async def add(session):\n    await session.commit()\n"),
        (sessions_of_endpoints, "app/api/x.py", "from app.db.engine import Sessions\n"),
        (
            sessions_of_endpoints,
            "app/api/x.py",
            "async def db():\n    yield a()\nSessionDep = Annotated[A, Depends(db)]\n",
        ),
        (one_way_migrations, "alembic/versions/x.py", "def upgrade():\n    op.create_table('a')\n"),
        (
            one_way_migrations,
            "alembic/versions/x.py",
            "def downgrade():\n    raise NotImplementedError('no way back')\n",
        ),
        (mocks, "tests/x.py", "from unittest.mock import AsyncMock\n"),
        (mocks, "tests/x.py", "def test_a(mocker): ...\n"),
        (sleeps, "tests/x.py", "import time\ntime.sleep(0.1)\n"),
        (sleeps, "tests/x.py", "from time import sleep\n"),
    ],
)
def test_a_rule_sees_what_breaks_it(rule: Rule, path: str, source: str) -> None:
    assert list(rule(Module(Path(path), source)))


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (statuses, "app/api/errors.py", "from starlette.exceptions import HTTPException\n"),
        (broad_handlers, "app/x.py", "try:\n    a()\nexcept OSError:\n    pass\n"),
        (broad_handlers, "app/x.py", "try:\n    a()\nexcept Exception:  # the end of a stream\n    pass\n"),
        (broad_handlers, "app/x.py", "try:\n    a()\nexcept (\n    Exception\n):  # the end\n    pass\n"),
        (broad_handlers, "app/x.py", "try:\n    a()\nexcept BaseException:\n    undo()\n    raise\n"),
        (loose_tasks, "app/x.py", "async with asyncio.TaskGroup() as tasks:\n    tasks.create_task(a())\n"),
        (
            loose_tasks,
            "app/x.py",
            "class A:\n    def b(self):\n        self._c = TaskGroup()\n        self._c.create_task(a())\n",
        ),
        (
            loose_tasks,
            "app/x.py",
            "tasks = await stack.enter_async_context(anyio.create_task_group())\ntasks.create_task(a())\n",
        ),
        (
            sessions_of_endpoints,
            "app/api/x.py",
            "async def chat(resources):\n    return resources.chat\nChat = Annotated[A, Depends(chat)]\n",
        ),
        (one_way_migrations, "alembic/versions/x.py", "def downgrade():\n    op.drop_table('a')\n"),
    ],
)
def test_a_rule_lets_pass_what_keeps_it(rule: Rule, path: str, source: str) -> None:
    assert not list(rule(Module(Path(path), source)))


# Put together here, as this file is one of those that are looked through.
_HOSTS = (
    "py" + "pi.org",
    "pythonhosted" + ".org",
    "npm" + "js.org",
    "npm" + "js.com",
    "debian" + ".org/debian",
)
_REGISTRY = re.compile("|".join(map(re.escape, _HOSTS)))
_PLACE = re.compile(
    r"(?<![\w.~}])/(?:" + "|".join(("w" + "ork", "r" + "oot", "h" + "ome", "U" + "sers")) + r")/"
)
_UNFINISHED = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK")) + r")\b")

TEXT_RULES = (
    (_REGISTRY, "No host of a package registry: which one is asked is set up where it is installed."),
    (_PLACE, "No path of one machine."),
    (_UNFINISHED, "What is not done is not noted in the code."),
)


@pytest.mark.parametrize(("pattern", "message"), TEXT_RULES, ids=["registry", "place", "unfinished"])
def test_no_file_of_the_project_holds(pattern: re.Pattern[str], message: str) -> None:
    broken = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in _text_files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]

    assert not broken, f"{message} Broken at {', '.join(broken)}"


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (_REGISTRY, f"--index-url https://{_HOSTS[0]}/simple"),
        (_PLACE, "open('/ho" + "me/ada/notes.txt')"),
        (_UNFINISHED, "# TO" + "DO: later"),
    ],
)
def test_a_text_rule_sees_what_breaks_it(pattern: re.Pattern[str], text: str) -> None:
    assert pattern.search(text)


def test_the_project_is_not_tied_to_one_host_of_repositories() -> None:
    assert not (ROOT / ".github").exists()
    assert not (ROOT / ".gitlab-ci.yml").exists()


def test_every_target_of_make_that_is_documented_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    # In code alone: in prose, one makes decisions too.
    code = "\n".join(
        part for page in pages for part in re.findall(r"```.*?```|`[^`\n]+`", page.read_text(), re.DOTALL)
    )
    named = set(re.findall(r"\bmake ([a-z]+)", code))

    assert {"run", "test", "check", "bench"} <= named
    assert named <= targets


def _text_files() -> Iterator[Path]:
    """What belongs to the project and is text: not what is installed, built, cached or kept beside it."""
    hidden = {".ci", ".gitignore", ".dockerignore"}
    made = {"__pycache__", "node_modules", "dist"}
    for top in sorted(ROOT.iterdir()):
        if top.name in {"build", "dist", "node_modules"} or (
            top.name.startswith(".") and top.name not in hidden
        ):
            continue
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and not made & set(path.parts) and b"\0" not in path.read_bytes()[:8192]:
                yield path


def _name(node: ast.AST) -> str:
    """The last part of a name or of what is called, such as `create_task` of `asyncio.create_task`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    return _name(node.func) if isinstance(node, ast.Call) else ""


def _line(node: ast.AST) -> int:
    return getattr(node, "lineno", 1)


def _bound_to_task_groups(node: ast.AST) -> Iterator[str]:
    bound: list[tuple[ast.AST, ast.AST | None]] = []
    if isinstance(node, ast.Assign):
        bound = [(node.value, target) for target in node.targets]
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        bound = [(node.value, node.target)]
    elif isinstance(node, ast.withitem):
        bound = [(node.context_expr, node.optional_vars)]
    for value, target in bound:
        makers = {_name(part) for part in ast.walk(value) if isinstance(part, ast.Call)}
        if target is not None and makers & {"TaskGroup", "create_task_group"}:
            yield _name(target)


def _outside_raise(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.Raise):
            yield child
            yield from _outside_raise(child)
