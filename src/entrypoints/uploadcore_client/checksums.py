"""CRC64NVME of pieces, and of the whole made from them.

A CRC of two adjacent pieces follows from the CRCs of each and the length of the second, so a file that is read part by part, in any
order and by several threads, needs no second reading for its own checksum.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable

from awscrt import checksums

from uploadcore.file import Checksum, ChecksumAlgorithm

__all__ = ["combine", "crc64nvme", "to_checksum"]


def crc64nvme(data: memoryview | bytes, before: int = 0) -> int:
    """The CRC64NVME of what came `before`, followed by `data`.

    >>> f"{crc64nvme(b'123456789'):016x}"
    'ae8b14860a799888'
    """
    crc: int = checksums.crc64nvme(data, before)
    return crc


def combine(pieces: Iterable[tuple[int, int]]) -> int:
    """The CRC64NVME of adjacent pieces.

    Args:
        pieces: `(crc, length in bytes)` of each, in order.

    >>> combine([(crc64nvme(b"1234"), 4), (crc64nvme(b"56789"), 5)]) == crc64nvme(b"123456789")
    True
    """
    whole = 0
    for crc, length in pieces:
        whole = checksums.combine_crc64nvme(whole, crc, length)
    return whole


def to_checksum(crc: int) -> Checksum:
    """A CRC as the API and S3's headers write it: base64 of eight bytes, most significant first.

    >>> to_checksum(0).value
    'AAAAAAAAAAA='
    """
    return Checksum(ChecksumAlgorithm.CRC64NVME, base64.b64encode(crc.to_bytes(8, "big")).decode())
