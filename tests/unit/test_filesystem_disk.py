"""The filesystem store's way with the disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploadcore.errors import StorageFullError, StoreUnavailableError
from uploadcore_filesystem.disk import copy_range, map_os_errors, write_at


@given(chunks=st.lists(st.binary(max_size=20), max_size=10), at_once=st.integers(1, 25))
def test_all_is_written_however_little_the_system_takes_at_a_time(chunks: list[bytes], at_once: int) -> None:
    written = bytearray()

    def pwritev(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        taken = b"".join(buffers)[:at_once]
        assert offset == 7 + len(written)
        written.extend(taken)
        return len(taken)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwritev", pwritev)
        assert write_at(0, chunks, 7) == len(b"".join(chunks))
    assert bytes(written) == b"".join(chunks)


@pytest.mark.parametrize("refusal", [None, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_range_is_copied_with_or_without_the_kernels_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int | None
) -> None:
    if refusal is not None:

        def refuse(*_: object) -> int:
            raise OSError(refusal, os.strerror(refusal))

        monkeypatch.setattr(os, "copy_file_range", refuse)
    content = os.urandom(3_000_000)
    (tmp_path / "source").write_bytes(content)
    (tmp_path / "target").write_bytes(b"head")
    source, target = os.open(tmp_path / "source", os.O_RDONLY), os.open(tmp_path / "target", os.O_RDWR)
    try:
        copy_range(source, 1000, target, 4, 2_500_000)
        with pytest.raises(OSError, match="shorter"):
            copy_range(source, 2_999_999, target, 0, 2)
    finally:
        os.close(source)
        os.close(target)
    assert (tmp_path / "target").read_bytes()[4:] == content[1000:2_501_000]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_of_any_kind_is_told_as_such(number: int) -> None:
    with pytest.raises(StorageFullError, match=r"^storing: ") as caught, map_os_errors("storing"):
        raise OSError(number, os.strerror(number))
    assert isinstance(caught.value.__cause__, OSError)


def test_any_other_refusal_says_nothing_of_room() -> None:
    with pytest.raises(StoreUnavailableError, match="storing: Input/output error"), map_os_errors("storing"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
