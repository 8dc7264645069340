"""What an adapter is made with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["AdapterContext"]


@dataclass(frozen=True, slots=True)
class AdapterContext:
    """What an adapter's `from_url(url, context)` may need besides its URL.

    Attributes:
        data_dir: Folder for what the embedded defaults keep, their signing secret included.
        public_url: Where clients reach this service, without a trailing slash.
        part_size_min: Smallest part the store is to take, in bytes, where it takes smaller ones than it says by itself.
    """

    data_dir: Path
    public_url: str
    part_size_min: int | None = None
