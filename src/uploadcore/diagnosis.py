"""What `uploadcore doctor` finds. An adapter that can examine what it stands on is `Diagnosable`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Protocol, runtime_checkable

__all__ = ["Diagnosable", "Finding", "Needs", "Verdict"]


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    """Nothing wrong, and something that could be better, or that could not be looked at."""
    WARNING = "warning"
    """It works, and somebody will suffer."""
    FAILED = "failed"
    """Uploads fail, or lose data."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        check: Its stable name, such as `store.cors`.
        verdict: How it stands.
        message: What was found, in one line. No credential, signature or token.
        fix: What to do about it; empty where there is nothing to do.
    """

    check: str
    verdict: Verdict
    message: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Needs:
    """What the configuration asks of the adapters.

    Attributes:
        key_prefix: First component of every storage key.
        upload_lifetime: From initiate to the deadline: as long as an idle multipart upload has to live.
        origins: Of the browser applications that upload.
    """

    key_prefix: str
    upload_lifetime: timedelta
    origins: tuple[str, ...] = ()


@runtime_checkable
class Diagnosable(Protocol):
    """An adapter that can be examined, open, and in part set right."""

    def diagnose(self, needs: Needs, *, apply: bool) -> AsyncIterator[Finding]:
        """Look at everything that can be wrong, one finding each, by trying it. Leaves nothing behind. Raises nothing for what it finds.

        Args:
            needs: What the configuration asks for.
            apply: Set right what can be set right from here, and say so.
        """
