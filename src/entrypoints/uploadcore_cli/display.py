"""Words for a person: sizes, rates, times, and other people's text."""

from __future__ import annotations

__all__ = ["duration", "plain", "rate", "size"]


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
