"""What may be told of redis-py's errors, and the one of our own. Neither ever leaves the package."""

from __future__ import annotations

from redis.exceptions import ConnectionError as RedisConnectionError

__all__ = ["UnansweredError", "reason_of"]


class UnansweredError(Exception):
    """The cache did not answer."""


def reason_of(exc: BaseException) -> str:
    """Why there was no answer, in a few words.

    An error's name; and its text only where redis-py has made it from the system's, which says why a connection fails: an answer of the
    server may quote the command, and so the value.

    >>> reason_of(TimeoutError())
    'TimeoutError'
    >>> reason_of(RedisConnectionError("Error 111 connecting to 127.0.0.1:6379."))
    'ConnectionError: Error 111 connecting to 127.0.0.1:6379.'
    """
    name = type(exc).__name__
    return f"{name}: {exc}" if type(exc) is RedisConnectionError else name
