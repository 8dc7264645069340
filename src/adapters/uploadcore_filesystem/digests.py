"""Checksums over bytes that stream by."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

from awscrt import checksums as crt

from uploadcore.errors import ChecksumMismatchError
from uploadcore.file import Checksum, ChecksumAlgorithm

__all__ = ["StreamDigest", "as_checksum", "as_number", "combined"]


def as_checksum(crc64: int) -> Checksum:
    """A CRC64NVME as the core and S3's headers write it."""
    return Checksum(ChecksumAlgorithm.CRC64NVME, base64.b64encode(crc64.to_bytes(8, "big")).decode())


def as_number(checksum: Checksum) -> int:
    """The same the other way round."""
    return int.from_bytes(base64.b64decode(checksum.value), "big")


def combined(parts: Iterable[tuple[int, int]]) -> int:
    """The CRC64NVME of a whole, from each part's own and its length in bytes, without reading a byte.

    >>> import awscrt.checksums
    >>> halves = [(awscrt.checksums.crc64nvme(b"12345"), 5), (awscrt.checksums.crc64nvme(b"6789"), 4)]
    >>> combined(halves) == awscrt.checksums.crc64nvme(b"123456789")
    True
    """
    whole = 0
    for crc64, size in parts:
        whole = crt.combine_crc64nvme(whole, crc64, size)
    return whole


class StreamDigest:
    """CRC64NVME of everything, and beside it whatever the sender promised.

    Args:
        promised: What the bytes must turn out to have, if anything was said.
    """

    def __init__(self, promised: Checksum | None) -> None:
        self.crc64 = 0
        self._crc32c = 0
        self._sha256 = hashlib.sha256()
        self._promised = promised

    def update(self, chunks: Iterable[bytes]) -> None:
        """Go on with these bytes. The interpreter is free meanwhile: both libraries let go of its lock."""
        algorithm = self._promised.algorithm if self._promised else None
        for chunk in chunks:
            self.crc64 = crt.crc64nvme(chunk, self.crc64)
            if algorithm is ChecksumAlgorithm.CRC32C:
                self._crc32c = crt.crc32c(chunk, self._crc32c)
            elif algorithm is ChecksumAlgorithm.SHA256:
                self._sha256.update(chunk)

    def verify(self) -> None:
        """Hold what came against what was promised.

        Raises:
            ChecksumMismatchError: They differ.
        """
        if self._promised is None:
            return
        digest = {
            ChecksumAlgorithm.CRC64NVME: self.crc64.to_bytes(8, "big"),
            ChecksumAlgorithm.CRC32C: self._crc32c.to_bytes(4, "big"),
            ChecksumAlgorithm.SHA256: self._sha256.digest(),
        }[self._promised.algorithm]
        if base64.b64decode(self._promised.value) != digest:
            raise ChecksumMismatchError(
                f"the {self._promised.algorithm} of what arrived is not the one that was sent along"
            )
