"""A download against a far end that behaves, and one that does not."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.integration.client.scripted import FarEnd, Handler
from uploadcore.errors import ChecksumMismatchError, FileNotReadyError, NoSuchFileError, StoreUnavailableError
from uploadcore_client import (
    Cancellation,
    Client,
    FileUnwritableError,
    Progress,
    ServerUnreachableError,
    TargetExistsError,
    TransferCancelledError,
    UnexpectedAnswerError,
)

MIB = 1024 * 1024
Clients = Callable[..., Client]


@pytest.fixture(autouse=True)
def stored(far: FarEnd) -> bytes:
    far.files["f1"] = os.urandom(5 * MIB + 77)
    return far.files["f1"]


def cut_after(count: int) -> Callable[[Handler], bool]:
    """Break the connection once, after so many bytes of content."""
    cuts = iter([True])

    def before_content(handler: Handler) -> bool:
        if not next(cuts, False):
            return False
        content = handler.far.files["f1"]
        handler.send_response_only(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.send_header("ETag", handler.far.etag)
        handler.end_headers()
        handler.wfile.write(content[:count])
        handler.cut()
        return True

    return before_content


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "uploadcore-part" in path.name)


def test_a_file_arrives_whole_under_its_name(far: FarEnd, client_of: Clients, stored: bytes, tmp_path: Path) -> None:
    seen: list[Progress] = []

    path = client_of(far).download("f1", tmp_path, progress=seen.append)

    assert path == tmp_path / "blob.bin"
    assert path.read_bytes() == stored
    assert left_behind(tmp_path) == []
    assert (seen[-1].done, seen[-1].total) == (len(stored), len(stored))


def test_an_empty_file_arrives(far: FarEnd, client_of: Clients, tmp_path: Path) -> None:
    far.files["f1"] = b""

    path = client_of(far).download("f1", tmp_path / "empty")

    assert path.read_bytes() == b""


def test_a_broken_connection_goes_on_where_it_broke(
    far: FarEnd, client_of: Clients, stored: bytes, tmp_path: Path
) -> None:
    far.before_content = cut_after(2 * MIB)

    path = client_of(far).download("f1", tmp_path / "copy")

    assert path.read_bytes() == stored
    assert far.ranges[0] is None
    assert far.ranges[1] is not None


def test_a_later_call_goes_on_where_the_first_was_cut(
    far: FarEnd, client_of: Clients, stored: bytes, tmp_path: Path
) -> None:
    cancellation = Cancellation()
    seen: list[Progress] = []
    with pytest.raises(TransferCancelledError):
        client_of(far).download(
            "f1", tmp_path / "copy", progress=lambda _: cancellation.cancel(), cancellation=cancellation
        )
    assert left_behind(tmp_path)

    path = client_of(far).download("f1", tmp_path / "copy", progress=seen.append)

    assert path.read_bytes() == stored
    assert seen[-1].resumed == MIB
    assert far.ranges[-1] == f"bytes={MIB}-"


def test_content_that_changed_meanwhile_comes_from_its_beginning(
    far: FarEnd, client_of: Clients, stored: bytes, tmp_path: Path
) -> None:
    cancellation = Cancellation()
    with pytest.raises(TransferCancelledError):
        client_of(far).download(
            "f1", tmp_path / "copy", progress=lambda _: cancellation.cancel(), cancellation=cancellation
        )
    far.files["f1"], far.etag = os.urandom(4 * MIB), '"two"'

    path = client_of(far).download("f1", tmp_path / "copy")

    assert path.read_bytes() == far.files["f1"]


def test_what_is_left_of_another_file_is_not_taken_up(
    far: FarEnd, client_of: Clients, stored: bytes, tmp_path: Path
) -> None:
    cancellation = Cancellation()
    with pytest.raises(TransferCancelledError):
        client_of(far).download(
            "f1", tmp_path / "copy", progress=lambda _: cancellation.cancel(), cancellation=cancellation
        )
    far.files["f2"] = os.urandom(3 * MIB)

    path = client_of(far).download("f2", tmp_path / "copy")

    assert path.read_bytes() == far.files["f2"]


def test_bytes_that_are_not_the_files_are_not_kept(
    far: FarEnd, client_of: Clients, stored: bytes, tmp_path: Path
) -> None:
    def lie(handler: Handler) -> bool:
        handler.answer(200, os.urandom(len(stored)), ETag=far.etag)
        return True

    far.before_content = lie

    with pytest.raises(ChecksumMismatchError):
        client_of(far).download("f1", tmp_path / "copy")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [403, 500, 503, 429])
def test_a_refusal_for_now_is_tried_again_with_a_fresh_url(
    far: FarEnd, client_of: Clients, stored: bytes, tmp_path: Path, status: int
) -> None:
    refusals = iter([True])

    def refuse(handler: Handler) -> bool:
        if next(refusals, False):
            handler.refuse(status, "SlowDown")
            return True
        return False

    far.before_content = refuse

    path = client_of(far).download("f1", tmp_path / "copy")

    assert path.read_bytes() == stored
    assert far.calls["content"] == 2


@pytest.mark.parametrize(("status", "error"), [(404, FileNotReadyError), (418, UnexpectedAnswerError)])
def test_a_refusal_for_good_is_raised(
    far: FarEnd, client_of: Clients, tmp_path: Path, status: int, error: type[Exception]
) -> None:
    def refuse(handler: Handler) -> bool:
        handler.refuse(status, "NoSuchKey")
        return True

    far.before_content = refuse

    with pytest.raises(error):
        client_of(far).download("f1", tmp_path / "copy")


@pytest.mark.parametrize("location", ["http://127.0.0.1:99999/f1", "http://[::1/f1?signature=SECRET", "ftp://x/f1"])
def test_an_address_that_is_none_is_told_without_quoting_it(
    far: FarEnd, client_of: Clients, tmp_path: Path, location: str
) -> None:
    def misdirect(handler: Handler, route: str) -> bool:
        if route == "content":
            handler.answer(307, Location=location)
        return route == "content"

    far.before_call = misdirect

    with pytest.raises(UnexpectedAnswerError, match=r"no web address$"):
        client_of(far).download("f1", tmp_path / "copy")


def test_a_store_that_never_sends_anything_is_given_up(
    far: FarEnd, client_of: Clients, stored: bytes, tmp_path: Path
) -> None:
    def silent(handler: Handler) -> bool:
        handler.cut()
        return True

    far.before_content = silent

    with pytest.raises(ServerUnreachableError):
        client_of(far).download("f1", tmp_path / "copy")


@pytest.mark.parametrize("etag", ['"one"', 'W/"one"', ""], ids=["strong", "weak", "none"])
@pytest.mark.parametrize("is_cut", [False, True], ids=["ends", "breaks"])
def test_a_store_that_sends_less_than_the_file_has_is_given_up(
    far: FarEnd, client_of: Clients, stored: bytes, tmp_path: Path, *, etag: str, is_cut: bool
) -> None:
    cancellation = Cancellation()
    lengths = itertools.cycle([3 * MIB, 2 * MIB])

    def send_less(handler: Handler) -> bool:
        if len(far.ranges) > 20:
            cancellation.cancel()
        wanted = handler.headers.get("Range")
        if wanted is not None:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            handler.answer(206, ETag=etag, Content_Range=f"bytes {start}-{len(stored) - 1}/{len(stored)}")
            return True
        content = stored[: next(lengths)]
        handler.send_response_only(200)
        handler.send_header("Content-Length", str(len(stored) if is_cut else len(content)))
        handler.send_header("ETag", etag)
        handler.end_headers()
        handler.wfile.write(content)
        handler.cut()
        return True

    far.before_content = send_less

    with pytest.raises((StoreUnavailableError, ServerUnreachableError)):
        client_of(far).download("f1", tmp_path / "copy", cancellation=cancellation)

    assert not (tmp_path / "copy").exists()


def test_a_file_that_is_there_already_stays_unless_it_may_be_replaced(
    far: FarEnd, client_of: Clients, stored: bytes, tmp_path: Path
) -> None:
    (tmp_path / "copy").write_bytes(b"mine")

    with pytest.raises(TargetExistsError):
        client_of(far).download("f1", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"mine"

    client_of(far).download("f1", tmp_path / "copy", replace=True)
    assert (tmp_path / "copy").read_bytes() == stored


def appears(target: Path) -> Callable[[Handler], bool]:
    """Somebody else puts a file there while ours is on its way."""

    def before_content(handler: Handler) -> bool:
        target.write_bytes(b"theirs")
        return False

    return before_content


def test_a_name_that_a_link_to_nowhere_has_is_refused_before_anything_is_fetched(
    far: FarEnd, client_of: Clients, stored: bytes, tmp_path: Path
) -> None:
    (tmp_path / "copy").symlink_to(tmp_path / "nowhere")
    fetched: list[Handler] = []

    def note(handler: Handler) -> bool:
        fetched.append(handler)
        return False

    far.before_content = note

    with pytest.raises(TargetExistsError):
        client_of(far).download("f1", tmp_path / "copy")

    assert fetched == []


def test_a_file_that_appears_meanwhile_stays_unless_it_may_be_replaced(
    far: FarEnd, client_of: Clients, stored: bytes, tmp_path: Path
) -> None:
    far.before_content = appears(tmp_path / "copy")

    with pytest.raises(TargetExistsError):
        client_of(far).download("f1", tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == b"theirs"
    client_of(far).download("f1", tmp_path / "copy", replace=True)
    assert (tmp_path / "copy").read_bytes() == stored
    assert len(far.ranges) == 1  # what had arrived was kept
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("is_there", [True, False])
def test_without_hard_links_a_file_that_appears_meanwhile_stays_too(
    far: FarEnd, client_of: Clients, stored: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_there: bool
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))  # what Linux says of FAT

    monkeypatch.setattr(os, "link", refuse)
    if is_there:
        far.before_content = appears(tmp_path / "copy")

    with pytest.raises(TargetExistsError) if is_there else nullcontext():
        client_of(far).download("f1", tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == (b"theirs" if is_there else stored)


def test_what_has_two_names_because_a_process_ended_between_them_is_not_written_to(
    far: FarEnd, client_of: Clients, stored: bytes, tmp_path: Path
) -> None:
    (tmp_path / "copy").write_bytes(b"finished")
    os.link(tmp_path / "copy", tmp_path / ".copy.uploadcore-part")
    seen: list[bytes] = []

    def look(handler: Handler) -> bool:
        seen.append((tmp_path / "copy").read_bytes())
        return False

    far.before_content = look

    client_of(far).download("f1", tmp_path / "copy", replace=True)

    assert seen == [b"finished"]
    assert (tmp_path / "copy").read_bytes() == stored
    assert left_behind(tmp_path) == []


def test_a_folder_that_is_not_there_is_one_clear_error(
    far: FarEnd, client_of: Clients, stored: bytes, tmp_path: Path
) -> None:
    with pytest.raises(FileUnwritableError, match="No such file or directory"):
        client_of(far).download("f1", tmp_path / "nowhere" / "copy")


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("../../etc/passwd", "passwd"),
        (".bashrc", "_bashrc"),
        ("C:\\evil.exe", "evil.exe"),
        ("..", "f1"),
        ("", "f1"),
        ("a\x1b[2Jb", "a[2Jb"),
        ("/", "f1"),
        ("é" * 200 + ".tar", "é" * 125 + ".tar"),
        ("a" * 300, "a" * 255),
        ("." + "a" * 300, "_" + "a" * 254),
        ("a." + "b" * 300, "a." + "b" * 253),
    ],
)
def test_a_name_given_by_somebody_else_leads_nowhere_else(
    far: FarEnd, client_of: Clients, tmp_path: Path, name: str, taken: str
) -> None:
    original = far.file_document
    far.file_document = lambda file_id, _="": original(file_id, name)  # type: ignore[method-assign, assignment]

    path = client_of(far).download("f1", tmp_path)

    assert path == tmp_path / taken


@pytest.mark.parametrize("name", ["a" * 233, "a" * 234, "a" * 255, "é" * 127])
def test_a_name_as_long_as_names_can_be_is_downloaded_to_and_taken_up(
    far: FarEnd, client_of: Clients, stored: bytes, tmp_path: Path, name: str
) -> None:
    cancellation = Cancellation()
    seen: list[Progress] = []
    with pytest.raises(TransferCancelledError):
        client_of(far).download(
            "f1", tmp_path / name, progress=lambda _: cancellation.cancel(), cancellation=cancellation
        )

    path = client_of(far).download("f1", tmp_path / name, progress=seen.append)

    assert path.read_bytes() == stored
    assert seen[-1].resumed == MIB
    assert left_behind(tmp_path) == []


def test_a_name_that_no_file_can_have_is_one_clear_error(far: FarEnd, client_of: Clients, tmp_path: Path) -> None:
    with pytest.raises(FileUnwritableError, match="File name too long"):
        client_of(far).download("f1", tmp_path / ("a" * 256))

    assert far.ranges == []


def test_a_file_without_content_is_not_ready(far: FarEnd, client_of: Clients, stored: bytes, tmp_path: Path) -> None:
    original = far.file_document

    def uploading(file_id: str, name: str = "") -> dict[str, Any]:
        return {**original(file_id), "status": "uploading", "size": None, "checksum": None}

    far.file_document = uploading  # type: ignore[method-assign]

    with pytest.raises(FileNotReadyError):
        client_of(far).download("f1", tmp_path)


def test_an_unknown_file_is_not_found(far: FarEnd, client_of: Clients, tmp_path: Path) -> None:
    def unknown(handler: Handler, route: str) -> bool:
        handler.problem(404, "file_not_found", file_id="f9")
        return True

    far.before_call = unknown
    far.files["f9"] = b""

    with pytest.raises(NoSuchFileError):
        client_of(far).download("f9", tmp_path)
