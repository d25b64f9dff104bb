import io
import zipfile
import zlib
from collections.abc import Sequence
from lzma import LZMAError

from app.errors import DocumentRefused
from app.ingest.readers import Allowance, Reading, TooMuchInside
from app.ingest.readers.members import Binder
from app.ingest.readers.text import encoding_of, is_utf8

_MAX_RATIO = 200
_SMALL_BYTES = 16 * 1024 * 1024
_UTF8_NAME = 0x800
_ENCRYPTED = 0x1
_CERTAIN = ("utf-8", "cp932", "euc_jp", "gb18030", "big5", "cp949")
# What systems put into archives for themselves.
_JUNK = ("__MACOSX/", ".DS_Store", "Thumbs.db", "desktop.ini")


def read(content: bytes, allowance: Allowance) -> Reading:
    """The files in the archive's order, each under its path as a heading."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [
                one
                for one in archive.infolist()
                if not one.is_dir() and not one.filename.startswith(_JUNK[0])
            ]
            _check(entries, allowance)
            binder = Binder(allowance, level=1)
            for entry, name in zip(entries, _names(entries), strict=True):
                if not name.endswith(_JUNK):
                    _add(archive, entry, name, binder)
    except zipfile.BadZipFile as error:
        raise DocumentRefused(
            "broken", "The archive is damaged: it has no readable list of files."
        ) from error
    return binder.reading(None, "No file in the archive can be read.")


def _check(entries: Sequence[zipfile.ZipInfo], allowance: Allowance) -> None:
    """Before anything is unpacked. Declared sizes can be relied on: zipfile reads no more than they say."""
    size = sum(entry.file_size for entry in entries)
    packed = sum(entry.compress_size for entry in entries)
    allowance.room.take(members=len(entries), size=size)
    if size > _SMALL_BYTES and size > _MAX_RATIO * packed:
        raise TooMuchInside(f"The archive would unpack to more than {_MAX_RATIO} times its size.")


def _add(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str, binder: Binder) -> None:
    if entry.flag_bits & _ENCRYPTED:
        binder.leave_out(name, DocumentRefused("encrypted", "It is protected with a password."))
        return
    try:
        content = archive.read(entry)
    except (
        zipfile.BadZipFile,
        zlib.error,
        LZMAError,
        EOFError,
        NotImplementedError,
        OSError,
        RuntimeError,
        ValueError,
    ):
        binder.leave_out(name, DocumentRefused("broken", "It is damaged and cannot be unpacked."))
    else:
        binder.add(name, content)


def _names(entries: Sequence[zipfile.ZipInfo]) -> list[str]:
    """Names that are not marked as UTF-8 are in an encoding of the system that packed them, and zipfile takes them for cp437.
    They are too short to tell one alphabet from another."""
    told = [
        None if entry.flag_bits & _UTF8_NAME else entry.orig_filename.encode("cp437", "replace")
        for entry in entries
    ]
    together = b"\n".join(name for name in told if name is not None)
    encoding = "utf-8" if is_utf8(together) else encoding_of(together)
    if encoding not in _CERTAIN:
        encoding = "cp437"
    return [
        entry.filename if name is None else name.decode(encoding, "replace").replace("\\", "/")
        for entry, name in zip(entries, told, strict=True)
    ]
