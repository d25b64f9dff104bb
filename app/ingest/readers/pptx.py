import io
import re
from collections.abc import Iterable, Iterator
from typing import Protocol, cast

from pptx import Presentation
from pptx.enum.shapes import PP_PLACEHOLDER
from pptx.shapes.autoshape import Shape
from pptx.shapes.base import BaseShape
from pptx.shapes.graphfrm import GraphicFrame
from pptx.shapes.group import GroupShape
from pptx.slide import Slide
from pptx.text.text import TextFrame

from app.errors import DocumentRefused
from app.ingest.formats import PPTX
from app.ingest.headings import heading, literal
from app.ingest.readers import Allowance, Draft, Reading, clean, one_line, package
from app.ingest.readers.html import as_table

_MAIN_TYPE = re.compile(rb"presentationml\.(presentation|slideshow|template)\.main\+xml|ms-powerpoint\.")
_MAX_GROUPS = 50
_MAX_INDENT = 8
# What stands on every slide says nothing about one.
_AROUND = {PP_PLACEHOLDER.DATE, PP_PLACEHOLDER.FOOTER, PP_PLACEHOLDER.SLIDE_NUMBER}


class _Notes(Protocol):
    notes_text_frame: TextFrame | None


def read(content: bytes, allowance: Allowance) -> Reading:
    """A page for each slide, labelled by its number, under a heading of its title."""
    with package.opened(content, PPTX.name) as parts:
        title = parts.check_office(_MAIN_TYPE)
        draft = Draft(allowance.characters)
        pages: list[tuple[str, int, int]] = []
        damaged: list[str] = []
        for number, slide in enumerate(Presentation(io.BytesIO(content)).slides, 1):
            try:
                name, blocks = _title(slide), list(_blocks(slide))
            except MemoryError:
                raise
            except Exception:  # noqa: BLE001  # a library may raise anything on a damaged slide, and the others may be whole
                damaged.append(str(number))
                name, blocks = None, []
            start = end = len(draft)
            if name or blocks:
                blocks.insert(0, heading(1, name or f"Slide {number}"))
            for block in blocks:
                _, end = draft.add(block)
            pages.append((str(number), start, end))
    if not draft.text:
        raise _without_text(len(pages), damaged)
    warnings = tuple(f"Slide {number} could not be read and is left out." for number in damaged)
    return Reading(draft.text, title=title, pages=tuple(pages), warnings=warnings)


def _without_text(count: int, damaged: list[str]) -> DocumentRefused:
    if count and len(damaged) == count:
        return DocumentRefused("broken", "The presentation is damaged: none of its slides can be read.")
    return DocumentRefused("no_text", "The presentation holds no text. Text in pictures cannot be read.")


def _title(slide: Slide) -> str | None:
    shape = slide.shapes.title
    return one_line(shape.text_frame.text) if shape is not None else None


def _blocks(slide: Slide) -> Iterator[str]:
    title = slide.shapes.title
    for shape in _shapes(slide.shapes, 0):
        if title is not None and shape.shape_id == title.shape_id:
            continue
        if isinstance(shape, GraphicFrame) and shape.has_table:
            yield as_table([[clean(cell.text) for cell in row.cells] for row in shape.table.rows])
        elif isinstance(shape, Shape) and not _is_around(shape) and (text := _text(shape.text_frame)):
            yield text
    if slide.has_notes_slide:
        frame = cast("_Notes", slide.notes_slide).notes_text_frame
        if frame is not None and (text := _text(frame)):
            yield f"Notes: {text}"


def _shapes(shapes: Iterable[BaseShape], depth: int) -> Iterator[BaseShape]:
    for shape in shapes:
        if isinstance(shape, GroupShape) and depth < _MAX_GROUPS:
            yield from _shapes(shape.shapes, depth + 1)
        else:
            yield shape


def _is_around(shape: Shape) -> bool:
    return shape.is_placeholder and shape.placeholder_format.type in _AROUND


def _text(frame: TextFrame) -> str:
    """Paragraphs a line each, those of a lower level set in, as the points of a list."""
    lines: list[str] = []
    for paragraph in frame.paragraphs:
        text = " ".join(clean(paragraph.text).split())
        if text:
            level = min(paragraph.level, _MAX_INDENT)
            lines.append(f"{'  ' * (level - 1)}- {text}" if level else literal(text))
    return "\n".join(lines)
