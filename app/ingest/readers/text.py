import codecs
import re
from itertools import islice

from app.errors import DocumentRefused
from app.ingest.formats import SUPPORTED, is_binary
from app.ingest.readers import Allowance, Reading, clean, too_long

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What documents are written in, the likeliest first. The detector knows many more, and finds them where they are not.
_LIKELY = [
    "cp1252",
    "cp1250",
    "cp1251",
    "koi8_r",
    "cp1253",
    "cp1254",
    "cp1255",
    "cp1256",
    "cp1257",
    "cp932",
    "euc_jp",
    "gb18030",
    "big5",
    "cp949",
    "iso2022_jp",
    "cp500",
    "cp037",
]
# The labels of HTML pages mean these supersets: https://encoding.spec.whatwg.org, section 4.2.
_SUPERSETS = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
_SAMPLE_BYTES = 65_536
_UNREADABLE = "Some bytes are no text in the encoding {encoding} and were replaced."


def read(content: bytes, allowance: Allowance) -> Reading:
    text, warnings = decode(content, allowance.characters)
    return Reading(text, warnings=warnings)


def decode(content: bytes, limit: int, *, hint: str | None = None) -> tuple[str, tuple[str, ...]]:
    """The text of bytes in any encoding, and warnings. `hint` is the encoding that the document itself names; it is
    believed only where the bytes do not say otherwise. A character takes at most four bytes, so `limit` bounds the work."""
    if len(content) > 4 * limit:
        raise too_long(limit)
    text, encoding = _decode(content, hint)
    warnings = (
        (_UNREADABLE.format(encoding=encoding),)
        if "\ufffd" in text and b"\xef\xbf\xbd" not in content
        else ()
    )
    text = clean(text)
    if len(text) > limit:
        raise too_long(limit)
    if not text.strip():
        raise DocumentRefused("no_text", "The file holds nothing but blank space.")
    return text, warnings


def _decode(content: bytes, hint: str | None) -> tuple[str, str]:
    for bom, encoding in _BOMS:
        if content.startswith(bom):
            return content[len(bom) :].decode(encoding, "replace"), encoding
    if b"\x00" in content and (encoding := _utf16_without_bom(content)):
        return content.decode(encoding, "replace"), encoding
    if is_binary(content):
        raise DocumentRefused(
            "unsupported", f"The file is no text: it is full of control characters. {SUPPORTED}"
        )
    named = _codec(hint)
    if named is not None and named.startswith("iso2022") and b"\x1b" in content:
        return content.decode(named, "replace"), named
    if is_utf8(content):
        return content.decode("utf-8", "replace"), "utf-8"
    if named is not None:
        try:
            return content.decode(named), named
        except UnicodeDecodeError:
            pass
    encoding = encoding_of(content)
    return content.decode(encoding, "replace"), encoding


def _utf16_without_bom(content: bytes) -> str | None:
    """Text in the Latin script has a zero in every second byte. Others are rare without a mark, and then not found."""
    head = content[:_SAMPLE_BYTES]
    low, high = head[::2], head[1::2]
    if high.count(0) > 0.4 * len(high) and not is_binary(low):
        return "utf-16-le"
    if low.count(0) > 0.4 * len(low) and not is_binary(high):
        return "utf-16-be"
    return None


def is_utf8(content: bytes) -> bool:
    """UTF-8 with a few bad bytes, as where a file was cut, is still more likely UTF-8 than anything else."""
    text = content.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    return (
        bad == 0
        or b"\xef\xbf\xbd" in content
        or 20 * bad < sum(1 for _ in islice(re.finditer(r"[^\x00-\x7f]", text), 20 * bad + 1))
    )


def _codec(label: str | None) -> str | None:
    if not label:
        return None
    try:
        name = codecs.lookup(label.strip()).name
    except (LookupError, ValueError):
        return None
    # A page that is read byte by byte up to its own label cannot be in UTF-16, and these two are no encodings of text.
    if name.startswith(("utf-16", "utf-32")) or name in ("utf-8", "utf-7", "idna", "punycode"):
        return None
    return _SUPERSETS.get(name, name)


def encoding_of(content: bytes) -> str:
    """The likeliest encoding of text that is not UTF-8, as far as a few bytes can tell."""
    from charset_normalizer import from_bytes  # 40 ms, and most text is UTF-8

    matches = from_bytes(content[:_SAMPLE_BYTES], cp_isolation=list(_LIKELY))
    western = any("cp1252" in match.could_be_from_charset and match.chaos < 0.1 for match in matches)
    best = matches.best()
    return "cp1252" if western or best is None else best.encoding
