"""In which order things reach the disk: what a power cut may find. `kill -9` can't show that, the calls can."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import uploadcore_filesystem.disk
from tests.integration.filesystem.serving import Served, files_below
from uploadcore.errors import StoreUnavailableError
from uploadcore.upload import Address


class Disk:
    """What is not durable yet: files whose bytes were written, folders whose names were changed; and every call, in order."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root = root
        self.calls: list[tuple[str, str]] = []
        self.dirty: set[str] = set()
        self.checks: list[Callable[[str, str], None]] = []
        self.failing: str | None = None
        self.fails_once = False
        self.spares = 0
        for name in ("pwritev", "fsync", "fdatasync", "ftruncate"):
            monkeypatch.setattr(os, name, self._watched(name, self._of_descriptor))
        for name in ("rename", "link", "unlink"):
            monkeypatch.setattr(os, name, self._watched(name, self._of_path))
        monkeypatch.setattr(os, "open", self._watched("open", self._of_open))
        monkeypatch.setattr(uploadcore_filesystem.disk, "_datasync", os.fdatasync)

    def _watched(self, name: str, noted: Callable[..., None]) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            noted(name, *args)
            return real(*args, **kwargs)

        return call

    def _note(self, name: str, path: str) -> None:
        self.calls.append((name, path))
        for check in self.checks:
            check(name, path)
        if self.failing is not None and (name, path.endswith(self.failing)) == ("fsync", True):
            if self.spares == 0:
                self.failing = None if self.fails_once else self.failing
                raise OSError(5, "the disk is ill")
            self.spares -= 1

    def _relative(self, path: str | os.PathLike[str]) -> str:
        return os.path.relpath(path, self._root)

    def _of_descriptor(self, name: str, descriptor: int, *args: object) -> None:
        path = self._relative(Path(f"/proc/self/fd/{descriptor}").readlink())
        self._note(name, path)
        if name in {"pwritev", "ftruncate"}:
            self.dirty.add(path)
        else:
            self.dirty.discard(path)

    def _of_path(
        self, name: str, first: str | os.PathLike[str], second: str | os.PathLike[str] | None = None, **kwargs: object
    ) -> None:
        paths = [self._relative(path) for path in (first, second) if path is not None]
        for path in paths:
            self._note(name, path)
        self.dirty.update(os.path.dirname(path) for path in paths)

    def _of_open(self, name: str, path: str | os.PathLike[str], flags: int, mode: int = 0o777) -> None:
        if flags & os.O_CREAT and str(path).startswith(str(self._root)):
            self._note("create", self._relative(path))
            self.dirty.add(os.path.dirname(self._relative(path)))


@pytest.fixture
def disk(served: Served, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(served.root, monkeypatch)


@pytest.mark.parametrize("offset", [0, None], ids=["at its offset", "in a file of its own"])
async def test_a_part_is_listed_after_its_bytes_are_durable_and_answered_after_its_record_is(
    served: Served, disk: Disk, offset: int | None
) -> None:
    address = await served.begin()
    upload = f"multiparts/{address.storage_upload_id}"

    def check(name: str, path: str) -> None:
        if name == "create" and path.startswith(f"{upload}/parts/"):
            assert not [dirty for dirty in disk.dirty if dirty.startswith(upload)], "bytes, or their name, not durable"

    disk.checks.append(check)
    await served.put_part(address, 1, b"x" * 10, offset=offset)
    assert any(name == "create" and path.startswith(f"{upload}/parts/") for name, path in disk.calls)
    assert f"{upload}/parts" not in disk.dirty


async def test_a_part_is_unlisted_durably_before_a_byte_of_it_is_overwritten(served: Served, disk: Disk) -> None:
    address = await served.begin()
    parts = f"multiparts/{address.storage_upload_id}/parts"
    await served.put_part(address, 1, b"x" * 10)
    disk.calls.clear()

    def check(name: str, path: str) -> None:
        if name == "pwritev" and path.endswith("/data"):
            assert parts not in disk.dirty
            assert any(call == "unlink" and gone.startswith(parts) for call, gone in disk.calls)

    disk.checks.append(check)
    await served.put_part(address, 1, b"y" * 10)
    assert ("pwritev", f"multiparts/{address.storage_upload_id}/data") in disk.calls


async def test_an_unlisting_that_may_not_be_durable_is_done_again_before_bytes_are_overwritten(
    served: Served, disk: Disk
) -> None:
    address = await served.begin()
    parts = f"multiparts/{address.storage_upload_id}/parts"
    await served.put_part(address, 1, b"x" * 10)
    signed = await served.sign(address, 1, 10)
    disk.failing = parts
    assert (await served.send(signed, b"y" * 10)).status_code == 503
    disk.failing = None
    disk.calls.clear()

    assert (await served.send(signed, b"z" * 10)).status_code == 200

    assert disk.calls.index(("fsync", parts)) < disk.calls.index(
        ("pwritev", f"multiparts/{address.storage_upload_id}/data")
    )
    assert len(list((served.root / parts).iterdir())) == 1


async def test_a_part_whose_record_may_not_be_durable_is_not_listed(served: Served, disk: Disk) -> None:
    address = await served.begin()
    parts = f"multiparts/{address.storage_upload_id}/parts"
    disk.failing = parts
    assert (await served.send(await served.sign(address, 1, 1), b"y")).status_code == 503
    disk.failing = None
    assert await served.store.list_parts(address) == []
    assert list((served.root / parts).iterdir()) == []
    await served.put_part(address, 1, b"y")


async def test_everything_is_durable_when_completion_returns(served: Served, disk: Disk) -> None:
    address = await served.begin()
    await served.put_part(address, 1, b"x" * 10, offset=None)
    await served.put_part(address, 2, b"y" * 10, offset=None)

    def check(name: str, path: str) -> None:
        if name == "rename" and path.startswith("objects/") and not path.endswith(".json"):
            assert not [dirty for dirty in disk.dirty if dirty.startswith(f"multiparts/{address.storage_upload_id}")]

    disk.checks.append(check)
    await served.complete(address)
    assert not [dirty for dirty in disk.dirty if dirty.startswith("objects")]


async def test_the_seal_is_durable_before_the_list_is_read(served: Served, disk: Disk) -> None:
    address = await served.begin()
    await served.put_part(address, 1, b"x" * 10)
    disk.calls.clear()
    await served.complete(address)
    upload = f"multiparts/{address.storage_upload_id}"
    assert [call for call in disk.calls if call[1].startswith("multiparts")][:2] == [
        ("create", f"{upload}/sealed"),
        ("fsync", upload),
    ]


async def test_a_completion_that_fails_half_way_is_finished_by_the_next(served: Served, disk: Disk) -> None:
    address = await served.begin()
    await served.put_part(address, 1, b"x" * 10)
    listed = await served.store.list_parts(address)
    disk.failing, disk.spares = f"objects/{hashlib.sha256(b'up/a').hexdigest()[:2]}", 1
    with pytest.raises(StoreUnavailableError):
        await served.complete(address)
    disk.failing = None
    assert (await served.send(await served.sign(address, 2, 1, offset=10), b"y")).status_code in {404, 409}

    await served.store.complete_multipart(address, listed, size=10, checksum=None)

    assert await served.content() == b"x" * 10


async def test_a_decided_upload_stays_sealed_when_sealing_it_again_fails(served: Served, disk: Disk) -> None:
    address = await served.begin()
    signed = await served.sign(address, 1, 8)
    await served.send(signed, b"1" * 8)
    listed = await served.store.list_parts(address)
    for failing in ("objects", f"multiparts/{address.storage_upload_id}"):
        disk.failing, disk.fails_once = failing, True
        with pytest.raises(StoreUnavailableError):
            await served.store.complete_multipart(address, listed, size=8, checksum=None)
        assert disk.failing is None, "it failed where it was to"

    assert (await served.send(signed, b"2" * 8)).status_code == 409
    await served.store.complete_multipart(address, listed, size=8, checksum=None)

    assert await served.content() == b"1" * 8


async def test_an_undecided_upload_takes_parts_again_when_sealing_it_fails(served: Served, disk: Disk) -> None:
    address = await served.begin()
    await served.put_part(address, 1, b"1" * 8)
    disk.failing, disk.fails_once = f"multiparts/{address.storage_upload_id}", True
    with pytest.raises(StoreUnavailableError):
        await served.complete(address)

    await served.put_part(address, 1, b"2" * 8)
    await served.complete(address)

    assert await served.content() == b"2" * 8


async def test_a_decision_that_can_not_be_carried_out_can_be_aborted(served: Served, disk: Disk) -> None:
    address = await served.begin()
    await served.put_part(address, 1, b"x" * 10)
    disk.failing = f"multiparts/{address.storage_upload_id}/chunks"
    folder = served.root / "objects"
    folder.rmdir()
    folder.write_bytes(b"in the way")
    with pytest.raises(StoreUnavailableError):
        await served.complete(address)
    folder.unlink()
    folder.mkdir()
    await served.store.abort_multipart(address)
    assert await served.store.head(address) is None
    assert [path for path in served.root.rglob("*") if path.is_file() and path.name != "lock"] == []


async def test_aborting_what_was_completed_but_for_the_answer_spares_the_object(served: Served, disk: Disk) -> None:
    address = await served.begin()
    await served.put_part(address, 1, b"x" * 10)
    disk.failing, disk.spares, disk.fails_once = f"objects/{hashlib.sha256(b'up/a').hexdigest()[:2]}", 1, True
    with pytest.raises(StoreUnavailableError):
        await served.complete(address)
    await served.store.abort_multipart(address)
    assert await served.content() == b"x" * 10
    assert len(files_below(served.root)) == 2


async def test_an_object_that_was_refused_half_way_does_not_come_back(served: Served, disk: Disk) -> None:
    signed = await served.sign_put("up/a", 1)
    disk.failing, disk.fails_once = f"objects/{hashlib.sha256(b'up/a').hexdigest()[:2]}", True
    assert (await served.send(signed, b"1")).status_code == 503
    assert files_below(served.root) == set()
    await served.store.close()
    await served.store.open()
    assert await served.store.head(Address("files", "up/a")) is None
    assert (await served.send(signed, b"1")).status_code == 200
