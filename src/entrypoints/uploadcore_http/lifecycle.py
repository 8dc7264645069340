"""Whether this process is fit to serve, as load balancers ask it and as it says itself."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from typing import TextIO

__all__ = ["Lifecycle", "say"]

log = logging.getLogger("uploadcore.http")


@dataclass(slots=True)
class Lifecycle:
    """Two facts, set by whoever runs the application.

    Attributes:
        is_started: Everything is open; in particular the database's schema was seen to fit.
        is_draining: The process is about to stop: it serves what comes, and asks for no more.
    """

    is_started: bool = False
    is_draining: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether new work may be sent here."""
        return self.is_started and not self.is_draining


def say(line: str, stream: TextIO | None = None) -> None:
    """Say to whoever waits for it that the process is at work: nobody who does has to, and a full disk or a closed pipe is no reason to end.

    Args:
        line: What to say.
        stream: Where; by default standard output, where there is one.
    """
    out: TextIO | None = stream or sys.stdout  # none, where the process was started with it closed
    if out is None:
        return
    try:
        out.write(f"{line}\n")
        out.flush()
    except OSError as exc:
        log.warning("%r could not be said on standard output: %s", line, exc.strerror)
        # What is left in the buffer would be tried again at the end, and change the exit status. Source: Python's documentation of SIGPIPE.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, out.fileno())
        os.close(nowhere)
