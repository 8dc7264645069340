"""The account of what was removed from a store, or would be: as the store listed it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Freed"]


@dataclass(slots=True)
class Freed:
    """What was removed.

    Attributes:
        multiparts: Multipart uploads in progress.
        parts: Their parts.
        objects: Objects.
        bytes: Of those parts and objects.
    """

    multiparts: int = 0
    parts: int = 0
    objects: int = 0
    bytes: int = 0

    def add(self, other: Freed) -> None:
        """Count in what another account says."""
        self.multiparts += other.multiparts
        self.parts += other.parts
        self.objects += other.objects
        self.bytes += other.bytes
