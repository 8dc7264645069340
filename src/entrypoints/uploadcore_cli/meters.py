"""The progress line of uploads and downloads. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskProgressColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from uploadcore_cli.display import plain, rate, size
from uploadcore_client import Progress

__all__ = ["Meters"]


class _Name(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.description, overflow="ellipsis", no_wrap=True)


class _Amount(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{size(task.completed)} of {size(task.total or 0)}", style="progress.download", no_wrap=True)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else rate(speed, 1), style="progress.data.speed", no_wrap=True)


class Meters:
    """A progress line on stderr, where stderr is a terminal; nothing elsewhere."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(file=sys.stderr)
        self._bars = Bars(
            _Name(),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            _Amount(),
            _Rate(),
            TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
            expand=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._resumed = 0
        self.last = Progress("", 0, 0)

    def begin(self, name: str) -> None:
        """The next file."""
        for task in self._bars.task_ids:
            self._bars.remove_task(task)
        self._bars.add_task(plain(name), total=None)
        self._resumed = 0
        self.last = Progress("", 0, 0)

    def update(self, reading: Progress) -> None:
        """Show how far it is. For use as a progress callback."""
        self.last = reading
        for task in self._bars.task_ids:
            if reading.resumed != self._resumed:
                # What was there before must not count for the rate.
                self._bars.reset(task, total=reading.total, completed=reading.resumed)
                self._resumed = reading.resumed
            self._bars.update(task, total=reading.total, completed=reading.done)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
