"""One process at a time, by a lock that ends with its holder, however that ends."""

from __future__ import annotations

import os
from pathlib import Path

try:
    import fcntl
except ImportError:
    HAS_LOCKS = False
else:
    HAS_LOCKS = True

__all__ = ["is_at", "try_lock"]


def try_lock(descriptor: int) -> bool:
    """Lock an open file for this process; `False` if another has it.

    Where there is no `flock` (Windows), always `True`: two processes may then work at one transfer, which costs bytes and harms nothing,
    for parts are checked one by one and the whole at its end.
    """
    if not HAS_LOCKS:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Whether this open file is still the one under `path`. Asked once it is locked: who held it before may have moved or replaced it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
