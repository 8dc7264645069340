"""What a person sees: sizes, times, a progress line. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskProgressColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from uploadcore_client import Progress

__all__ = ["Meters", "duration", "plain", "rate", "size"]


def size(count: float) -> str:
    """Bytes in a unit that is easy to read, powers of 1,024.

    >>> size(999), size(16 * 1024**2), size(9_663_676_416)
    ('999 bytes', '16.0 MiB', '9.0 GiB')
    """
    if count < 1024:
        return f"{count:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1023.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def rate(count: float, seconds: float) -> str:
    """Bytes per second.

    >>> rate(64 * 1024**2, 0.5)
    '128.0 MiB/s'
    """
    return f"{size(count / max(seconds, 1e-3))}/s"


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(0.25), duration(75), duration(7265)
    ('0.2 s', '1:15', '2:01:05')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def plain(text: str) -> str:
    """Text of somebody else's, safe to print: control characters could move the cursor or change the terminal.

    >>> plain(f"a{chr(27)}[2Jb")
    'a?[2Jb'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)


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
