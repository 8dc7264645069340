"""A disk that fills up: 507, the part absent, and the upload goes on once there is room."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.integration.filesystem.serving import HEADERS, files_below, serving, stored_sizes
from uploadcore.errors import InvalidRequestError, StorageFullError
from uploadcore.upload import Address

MIB = 1024 * 1024
SIZE = 12 * MIB


class Disk:
    """A folder with `SIZE` bytes: a small filesystem of its own, or, where mounting is forbidden, writes that fail as one's would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ballast = folder / "ballast"

    def fill(self, size: int) -> None:
        self.ballast.write_bytes(bytes(size))

    def make_room(self) -> None:
        self.ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    if not is_mounted:
        monkeypatch.setattr(os, "pwritev", _limited(folder))
    yield Disk(folder)
    if is_mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _limited(folder: Path) -> object:
    write = os.pwritev

    def pwritev(descriptor: int, chunks: Sequence[bytes], offset: int) -> int:
        used = sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
        if used + sum(map(len, chunks)) > SIZE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, chunks, offset)

    return pwritev


@pytest.mark.parametrize("offset", [3 * MIB, None], ids=["at its offset", "in a file of its own"])
async def test_a_part_without_room_is_507_and_can_be_sent_again(disk: Disk, offset: int | None) -> None:
    async with serving(disk.folder / "store") as served:
        address = await served.begin()
        await served.put_part(address, 1, b"1" * (3 * MIB))
        disk.fill(6 * MIB)
        length = None if offset is None else 4 * MIB
        signed = await served.sign(address, 2, length, offset=offset or 0)

        refused = await served.send(signed, b"2" * (4 * MIB))

        assert (refused.status_code, "InsufficientStorage" in refused.text) == (507, True)
        assert stored_sizes(await served.store.list_parts(address)) == [(1, 3 * MIB)]
        disk.make_room()
        assert (await served.send(signed, b"2" * (4 * MIB))).status_code == 200
        if offset is not None:
            await served.complete(address)
            assert await served.content() == b"1" * (3 * MIB) + b"2" * (4 * MIB)


async def test_an_object_without_room_is_507_and_leaves_nothing(disk: Disk) -> None:
    async with serving(disk.folder / "store") as served:
        disk.fill(10 * MIB)
        signed = await served.sign_put("up/a", 4 * MIB)
        assert (await served.send(signed, bytes(4 * MIB))).status_code == 507
        assert await served.store.head(Address("files", "up/a")) is None
        assert files_below(served.root) == set()
        disk.make_room()
        assert (await served.send(signed, bytes(4 * MIB))).status_code == 200


async def test_a_marker_without_room_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pwritev(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with serving(tmp_path / "store") as served:
        address = Address("files", "up/installation")
        with monkeypatch.context() as full:
            full.setattr(os, "pwritev", pwritev)
            for _ in range(3):
                with pytest.raises(StorageFullError):
                    await served.store.put_marker(address, HEADERS)
        assert files_below(served.root) == set()
        await served.store.put_marker(address, HEADERS)
        assert await served.store.head(address) is not None


async def test_a_marker_under_a_key_that_is_none_leaves_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path / "store") as served:
        with pytest.raises(InvalidRequestError):
            await served.store.put_marker(Address("files", "a" * 1025), HEADERS)
        assert files_below(served.root) == set()


async def test_a_completion_without_room_to_copy_leaves_the_upload_as_it_was(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.pwritev is not _PWRITEV:  # not mounted: copying must go the way that is limited
        monkeypatch.delattr(os, "copy_file_range")
    async with serving(disk.folder / "store") as served:
        address = await served.begin()
        for number in (1, 2):
            await served.put_part(address, number, b"p" * (2 * MIB), offset=None)
        disk.fill(6 * MIB)
        listed, before = await served.store.list_parts(address), files_below(served.root)
        with pytest.raises(StorageFullError):
            await served.complete(address)
        assert await served.store.list_parts(address) == listed
        assert files_below(served.root) == before
        disk.make_room()
        await served.complete(address)
        assert await served.content() == b"p" * (4 * MIB)


_PWRITEV = os.pwritev
