import os
from pathlib import Path

import pytest

from app.errors import ConnectorRefused
from app.ingest.connectors.folder import Folder, below
from app.ingest.connectors.patterns import Choice
from tests.ingest.connectors.finding import Kept


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "documents"
    (root / "reports" / "old").mkdir(parents=True)
    (root / "a.md").write_text("a")
    (root / "reports" / "b.txt").write_text("b")
    (root / "reports" / "old" / "c.txt").write_text("c")
    return root


def _folder(root: Path, *, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> Folder:
    return Folder(root, Choice(include, exclude), max_file_bytes=1_000)


async def test_files_are_found_with_all_below_and_read_again_when_they_have_changed(root: Path) -> None:
    kept = Kept()

    first = await kept.round(_folder(root))

    assert first.is_complete
    assert {key: one.content for key, one in first.changed.items()} == {
        "a.md": b"a",
        "reports/b.txt": b"b",
        "reports/old/c.txt": b"c",
    }
    (root / "reports" / "b.txt").write_text("B, longer")
    (root / "d.txt").write_text("d")
    (root / "a.md").unlink()

    second = await kept.round(_folder(root))

    assert list(second.changed) == ["d.txt", "reports/b.txt"]
    assert second.unchanged == ["reports/old/c.txt"]


async def test_what_is_hidden_or_of_no_known_format_is_no_item(root: Path) -> None:
    for name in (".git/config.txt", ".secret.txt", "~$a.docx", "picture.png", "program"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")

    found = await Kept().round(_folder(root))

    assert list(found.changed) == ["a.md", "reports/b.txt", "reports/old/c.txt"]


@pytest.mark.parametrize(
    ("include", "exclude", "paths"),
    [
        (("*.txt",), (), ["reports/b.txt", "reports/old/c.txt"]),
        (("reports/*",), (), ["reports/b.txt"]),
        (("reports/**",), ("**/old/*",), ["reports/b.txt"]),
        ((), ("**/*.txt",), ["a.md"]),
        (("**/b.*", "a.m?"), (), ["a.md", "reports/b.txt"]),
        (("[a].md",), (), []),
    ],
)
async def test_patterns_choose_among_the_files(
    root: Path, include: tuple[str, ...], exclude: tuple[str, ...], paths: list[str]
) -> None:
    assert list((await Kept().round(_folder(root, include=include, exclude=exclude))).changed) == paths


async def test_links_are_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    (root / "link.txt").symlink_to(outside / "secret.txt")
    (root / "folder").symlink_to(outside)
    (root / "circle").symlink_to(root)
    os.mkfifo(root / "pipe.txt")

    found = await Kept().round(_folder(root))

    assert found.failed == {}
    assert list(found.changed) == ["a.md", "reports/b.txt", "reports/old/c.txt"]


async def test_a_folder_that_becomes_a_link_after_it_was_listed_is_not_followed(
    root: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b.txt").write_text("x")
    finding = _folder(root).found({})
    await anext(finding)
    (root / "reports").rename(root / "moved")
    (root / "reports").symlink_to(outside)

    rest = [one async for one in finding]

    assert [type(one).__name__ for one in rest] == ["Failed", "Failed"]


async def test_a_folder_inside_that_cannot_be_read_makes_the_listing_incomplete(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def scandir(path: Path) -> object:
        # Root, as whom tests may run, is forbidden nothing.
        if Path(path).name == "old":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)

    found = await Kept().round(_folder(root))

    assert list(found.changed) == ["a.md", "reports/b.txt"]
    assert not found.is_complete


async def test_files_that_are_too_large_or_have_no_textual_name_fail_by_themselves(root: Path) -> None:
    (root / "large.txt").write_bytes(bytes(1_001))
    (root / os.fsdecode(b"\xff.txt")).write_text("x")

    found = await Kept().round(_folder(root))

    assert set(found.failed) == {"large.txt", "\\udcff.txt"}
    assert (len(found.changed), found.is_complete) == (3, True)


async def test_a_folder_that_is_not_there_is_told(root: Path) -> None:
    for path in (root / "nowhere", root / "a.md"):
        with pytest.raises(ConnectorRefused) as refused:
            await _folder(path).check()
        assert refused.value.reason == "missing"
        found = await Kept().round(_folder(path))
        assert found.refusal is not None


def test_a_folder_is_below_those_that_are_allowed_only_if_its_links_are(root: Path, tmp_path: Path) -> None:
    (root / "link").symlink_to(tmp_path)
    allowed = (root,)

    assert below(root, allowed)
    assert below(root / "reports", allowed)
    for path in (
        root / "link",
        root / ".." / "other",
        tmp_path,
        tmp_path / "documents2",
        root / "link" / "x",
    ):
        assert not below(path, allowed)
