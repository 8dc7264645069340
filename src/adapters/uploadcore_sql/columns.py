"""How values that are more than one column, or none that SQL knows, lie in the tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

from uploadcore.file import Checksum, ChecksumAlgorithm
from uploadcore_sql.text import check_text

__all__ = ["checksum_from", "checksum_values", "json_text", "mapping_from"]


def json_text(value: Mapping[str, str] | tuple[str, ...]) -> str:
    """A mapping or a tuple, to be stored as text.

    Raises:
        InvalidRequestError: There is U+0000 in it, which would lie there escaped, where nobody sees it.

    >>> json_text({"camera": "x100"}), json_text(("a", "b"))
    ('{"camera":"x100"}', '["a","b"]')
    """
    if isinstance(value, Mapping):
        check_text(value)
        check_text(value.values())
    else:
        check_text(value)
    return json.dumps(dict(value) if isinstance(value, Mapping) else value, ensure_ascii=False, separators=(",", ":"))


def mapping_from(stored: str) -> Mapping[str, str]:
    """A mapping that was stored as text."""
    return MappingProxyType(json.loads(stored))


def checksum_values(checksum: Checksum | None, prefix: str = "") -> dict[str, str | None]:
    """The two columns of a checksum, by name.

    >>> checksum_values(None, "expected_")
    {'expected_checksum_algorithm': None, 'expected_checksum': None}
    """
    return {
        f"{prefix}checksum_algorithm": None if checksum is None else checksum.algorithm.value,
        f"{prefix}checksum": None if checksum is None else checksum.value,
    }


def checksum_from(algorithm: str | None, value: str | None) -> Checksum | None:
    """The checksum that was stored in two columns."""
    if algorithm is None or value is None:
        return None
    return Checksum(ChecksumAlgorithm(algorithm), value)
