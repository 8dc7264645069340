"""The fence itself, call by call: what the threads of two requests may do, in the orders that matter."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from uploadcore.errors import NoSuchMultipartError
from uploadcore.ports import ObjectHeaders
from uploadcore_filesystem import IncompleteBodyError, PartGrant, PutGrant, SealedError, SupersededError
from uploadcore_filesystem.multipart import Multipart
from uploadcore_filesystem.multipart_folder import MultipartFolder, MultipartInfo
from uploadcore_filesystem.objects import ObjectFolder
from uploadcore_filesystem.writing import ObjectWriter, PartWriter

LIMIT = 100


@pytest.fixture
def objects(tmp_path: Path) -> ObjectFolder:
    objects = ObjectFolder(tmp_path)
    objects.prepare()
    return objects


@pytest.fixture
def multiparts(tmp_path: Path) -> MultipartFolder:
    multiparts = MultipartFolder(tmp_path)
    multiparts.prepare()
    return multiparts


@pytest.fixture
def upload_id(objects: ObjectFolder, multiparts: MultipartFolder) -> str:
    return multiparts.create(objects, MultipartInfo("key", ObjectHeaders("video/mp4"), datetime.now(UTC)))


@pytest.fixture
def multipart(multiparts: MultipartFolder, upload_id: str) -> Iterator[Multipart]:
    with multiparts.use(upload_id) as multipart:
        yield multipart


def begun(multiparts: MultipartFolder, upload_id: str, *, bound: bool = True, key: str = "key") -> PartWriter:
    grant = PartGrant(key, upload_id, 1, 0 if bound else None, 4 if bound else None, None)
    writer = PartWriter(multiparts, grant, LIMIT)
    writer.begin()
    return writer


@pytest.mark.parametrize("bound", [True, False])
def test_a_writer_that_was_superseded_can_do_nothing_more(
    multiparts: MultipartFolder, multipart: Multipart, upload_id: str, bound: bool
) -> None:
    older = begun(multiparts, upload_id, bound=bound)
    older.write([b"ol"])
    newer = begun(multiparts, upload_id, bound=bound)
    newer.write([b"new!"])
    with pytest.raises(SupersededError):
        older.write([b"d!"])
    newer.commit()
    with pytest.raises(SupersededError):
        older.commit()
    older.discard()
    older.discard()
    newer.discard()
    assert [part.size for part in multipart.parts()] == [4]
    if bound:
        assert (multipart.folder / "data").read_bytes() == b"new!"
    assert len(list((multipart.folder / "chunks").iterdir())) == (0 if bound else 1)


def test_a_writer_that_ended_does_not_stand_in_a_newer_ones_way(
    multiparts: MultipartFolder, multipart: Multipart, upload_id: str
) -> None:
    older = begun(multiparts, upload_id)
    newer = begun(multiparts, upload_id)
    older.discard()
    newest = begun(multiparts, upload_id)
    with pytest.raises(SupersededError):
        newer.write([b"x"])
    newest.write([b"last"])
    newest.commit()
    assert (multipart.folder / "data").read_bytes() == b"last"


def test_a_sealed_upload_cuts_its_writers_and_admits_none(
    multiparts: MultipartFolder, multipart: Multipart, objects: ObjectFolder, upload_id: str
) -> None:
    before = begun(multiparts, upload_id)
    multipart._seal(objects)
    for late in (before.write, lambda _: before.commit()):
        with pytest.raises(SupersededError):
            late([b"x"])
    before.discard()
    with pytest.raises(SealedError):
        begun(multiparts, upload_id)


def test_a_seal_outlives_the_process(
    multiparts: MultipartFolder, multipart: Multipart, objects: ObjectFolder, upload_id: str, tmp_path: Path
) -> None:
    multipart._seal(objects)
    after_restart = MultipartFolder(tmp_path)
    objects.recover(after_restart.folder)
    after_restart.clean()
    with pytest.raises(SealedError):
        begun(after_restart, upload_id)
    with after_restart.use(upload_id) as reloaded:
        assert reloaded.parts() == []


def test_a_part_longer_than_signed_writes_nothing_beyond_its_place(
    multiparts: MultipartFolder, multipart: Multipart, upload_id: str
) -> None:
    writer = begun(multiparts, upload_id)
    writer.write([b"123"])
    with pytest.raises(IncompleteBodyError):
        writer.write([b"45"])
    writer.discard()
    assert (multipart.folder / "data").read_bytes() == b"123"
    assert multipart.parts() == []


def test_an_upload_of_another_key_is_unknown(multiparts: MultipartFolder, upload_id: str) -> None:
    for wrong, key in ((upload_id, "other"), ("0" * 32, "key"), ("../multiparts", "key"), ("", "key")):
        with pytest.raises(NoSuchMultipartError):
            begun(multiparts, wrong, key=key)
    begun(multiparts, upload_id).discard()


def test_an_object_that_was_cut_is_not_put_in_place(objects: ObjectFolder, tmp_path: Path) -> None:
    writer = ObjectWriter(objects, PutGrant("key", None, None, ObjectHeaders("video/mp4")), LIMIT)
    writer.begin()
    writer.write([b"x"])
    writer.cut()
    for late in (writer.write, lambda _: writer.commit()):
        with pytest.raises(SupersededError):
            late([b"y"])
    writer.discard()
    assert objects.read("key") is None
    assert list((tmp_path / "incoming").iterdir()) == []
