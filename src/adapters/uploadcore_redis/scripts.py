"""What must happen in one step at the server: comparing versions and storing.

A key of the cache is two keys of Redis. The *value* is `version SP share LF bytes`: its version, and for how many milliseconds a process
may go on using it after it read it (see `near.py`). The *marker*, which outlives it, is `newest SP deleted`: the newest version that was
seen, and the one up to which all are deleted, -1 for none. Versions are compared as numbers, which in Lua are exact up to 2⁵³.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1
from typing import NamedTuple

__all__ = ["DELETE", "SET_IF_NEWER", "Keys", "Script", "StoredValue", "decode_value", "encode_value", "keys_of"]

_READ_MARKER = """
local newest, deleted = -1, -1
local marker = redis.call('GET', KEYS[2])
if marker then
  local n, d = string.match(marker, '^(%-?%d+) (%-?%d+)$')
  newest, deleted = tonumber(n) or -1, tonumber(d) or -1
end
-- An eviction may have taken the marker and left the value.
local held = tonumber(string.match(redis.call('GETRANGE', KEYS[1], 0, 31), '^(%d+) ') or -1)
newest = math.max(newest, held)
local version = tonumber(ARGV[1])
local function mark(newest, deleted, life)
  life = math.max(redis.call('PTTL', KEYS[2]), tonumber(life))
  redis.call('SET', KEYS[2], string.format('%.0f %.0f', newest, deleted), 'PX', string.format('%.0f', life))
end
"""

_SET_IF_NEWER = """
if version < newest or version <= deleted then
  return {0, newest, deleted}
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
mark(version, deleted, ARGV[4])
return {1, version, deleted}
"""

_DELETE = """
newest, deleted = math.max(newest, version), math.max(deleted, version)
if held <= version then
  redis.call('DEL', KEYS[1])
end
mark(newest, deleted, ARGV[2])
return {1, newest, deleted}
"""


@dataclass(frozen=True, slots=True)
class Script:
    """A script, and what the server knows it by once it has run: the SHA-1 of its text (EVALSHA)."""

    text: str
    sha: str


def _script(text: str) -> Script:
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


SET_IF_NEWER = _script(_READ_MARKER + _SET_IF_NEWER)
"""KEYS value marker, ARGV version value-with-header value-ms marker-ms → stored (1 or 0), newest, deleted."""

DELETE = _script(_READ_MARKER + _DELETE)
"""KEYS value marker, ARGV version marker-ms → 1, newest, deleted."""


class Keys(NamedTuple):
    """The two keys in Redis."""

    value: str
    marker: str


def keys_of(prefix: str, key: str) -> Keys:
    """Where a key of the cache is kept.

    What is in braces decides the slot in a Cluster: both are in one. It ends with the first closing brace, and must not be empty.

    >>> keys_of("uploadcore:", "upload:1")
    Keys(value='uploadcore:{upload:1}', marker='uploadcore:{upload:1}:version')
    """
    value = f"{prefix}{{{key.replace('%', '%25').replace('}', '%7D') or '%'}}}"
    return Keys(value, f"{value}:version")


class StoredValue(NamedTuple):
    """A value as it is kept in Redis; `share_ms`: how long a process may use it after reading it."""

    value: bytes
    version: int
    share_ms: int


def encode_value(stored: StoredValue) -> bytes:
    """The bytes for Redis."""
    return b"%d %d\n%b" % (stored.version, stored.share_ms, stored.value)


def decode_value(encoded: bytes) -> StoredValue | None:
    r"""What `encode_value` was given; `None` if the bytes are something else.

    >>> decode_value(b"7 500\nhello")
    StoredValue(value=b'hello', version=7, share_ms=500)
    """
    header, _, value = encoded.partition(b"\n")
    version, _, share_ms = header.partition(b" ")
    if not (version.isdigit() and share_ms.isdigit()):
        return None
    return StoredValue(value, int(version), int(share_ms))
