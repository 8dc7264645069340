"""Whether this process is fit to serve, as load balancers ask it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Lifecycle"]


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
