"""What the commands show: a line for each step, and a bar for those that take long."""

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

_WIDE = 10_000


class Step:
    """`done` is what the line says when the step is over, or None for no line; it may be changed until then."""

    def __init__(self, done: str) -> None:
        self.done: str | None = done


class Terminal:
    """Writes to standard output, or with `aside` to standard error. No line is broken: some are made to be copied."""

    def __init__(self, *, aside: bool = False) -> None:
        self.console = Console(file=sys.stderr if aside else sys.stdout, highlight=False)
        if not self.console.is_terminal:
            # What reads it can do without tables that are folded to eighty columns.
            self.console.width = _WIDE

    def say(self, text: str = "", style: str = "") -> None:
        self.console.print(Text(text, style), soft_wrap=True)

    def verdict(self, text: str, *, good: bool, aside: str = "") -> None:
        mark = Text("✓ ", "green") if good else Text("✗ ", "bold red")
        self.console.print(mark + Text(text) + Text(f"  {aside}" if aside else "", "dim"), soft_wrap=True)

    @contextmanager
    def step(self, done: str) -> Generator[Step]:
        """Says `done`, and how long it took, when the block ends well."""
        began = time.perf_counter()
        step = Step(done)
        yield step
        if step.done is not None:
            self.verdict(step.done, good=True, aside=f"{time.perf_counter() - began:.1f} s")

    @contextmanager
    def bar(self, doing: str, *, total: float) -> Generator["Bar"]:
        """Gone when the block ends. Nothing is shown where the output is no terminal."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %  {task.fields[note]}"),
            TimeRemainingColumn(compact=True),
        )
        shown = self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=not shown) as progress:
            yield Bar(progress, doing, total)


class Bar:
    def __init__(self, progress: Progress, doing: str, total: float) -> None:
        self._progress = progress
        self._task = progress.add_task(doing, total=total, note="")

    def show(self, done: float, note: str, *, total: float | None = None) -> None:
        self._progress.update(self._task, completed=done, note=note, total=total)
