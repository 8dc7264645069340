"""The file to upload."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

from uploadcore_client import FileChangedError, FileUnreadableError
from uploadcore_client.source import SourceFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(random.Random(1).randbytes(3_000_000))
    return path


@pytest.mark.parametrize("positioned", [True, False])
def test_threads_read_at_their_own_offsets_at_once(path: Path, positioned: bool) -> None:
    content, wrong = path.read_bytes(), []
    with SourceFile(path, positioned=positioned) as source:

        def read(offset: int) -> None:
            view = memoryview(bytearray(1000))
            for start in range(offset, len(content), 8_000):
                count = source.read_into(view, start)
                if bytes(view[:count]) != content[start : start + 1000]:
                    wrong.append(start)

        threads = [threading.Thread(target=read, args=(number * 1000,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert wrong == []


@pytest.mark.parametrize("positioned", [True, False])
def test_reading_past_the_end_gives_nothing(path: Path, positioned: bool) -> None:
    with SourceFile(path, positioned=positioned) as source:
        assert source.read_into(memoryview(bytearray(10)), source.size) == 0


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileUnreadableError, match="is a directory"):
        SourceFile(tmp_path)


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(FileUnreadableError, match="does not exist"):
        SourceFile(tmp_path / "nothing")


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(FileUnreadableError, match="no regular file"):
        SourceFile(tmp_path / "pipe")


def test_a_name_too_long_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileUnreadableError, match="can't be read"):
        SourceFile(tmp_path / ("x" * 300))


def test_the_fingerprint_tells_files_apart_by_content_size_and_time(path: Path) -> None:
    with SourceFile(path) as source:
        first = source.fingerprint()
        assert source.fingerprint() == first

    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0" if path.read_bytes()[-1:] != b"\0" else b"\1")
    os.utime(path, ns=(1, source.snapshot.mtime_ns))
    with SourceFile(path) as source:
        by_content = source.fingerprint()
    os.utime(path, ns=(1, 1))
    with SourceFile(path) as source:
        by_time = source.fingerprint()

    assert len({first, by_content, by_time}) == 3


def test_a_copy_of_a_file_has_its_fingerprint(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(path.read_bytes())
    os.utime(copy, ns=(1, path.stat().st_mtime_ns))

    with SourceFile(path) as one, SourceFile(copy) as other:
        assert one.fingerprint() == other.fingerprint()


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1])
def test_small_files_have_fingerprints_too(tmp_path: Path, size: int) -> None:
    path = tmp_path / "small"
    path.write_bytes(bytes(size))

    with SourceFile(path) as source:
        assert len(source.fingerprint()) == 64


def test_a_file_left_alone_is_unchanged(path: Path) -> None:
    with SourceFile(path) as source:
        source.check_unchanged()


def test_a_change_names_the_file(path: Path) -> None:
    with SourceFile(path) as source:
        os.truncate(path, 5)

        with pytest.raises(FileChangedError, match="from 3000000 to 5 bytes") as raised:
            source.check_unchanged()

    assert raised.value.path == path
    assert raised.value.code == "file_changed"
