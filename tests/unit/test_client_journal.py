"""The resume journal: private, whole or not there, held by one process, a hint."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from uploadcore.states import PartState
from uploadcore_client import TransferInUseError
from uploadcore_client.journal import Identity, Journals, state_directory

IDENTITY = Identity(server="http://s", path="/f", size=25, mtime_ns=1, sample="x")


def test_it_is_found_again_with_all_that_was_noted(tmp_path: Path) -> None:
    with Journals(tmp_path / "new").open(IDENTITY) as journal:
        key = journal.idempotency_key
        journal.opened("u1")
        journal.note(1, PartState.SENDING)
        journal.note(1, PartState.VERIFIED, 0x1F)
        journal.note(2, PartState.SENDING)

    with Journals(tmp_path / "new").open(IDENTITY) as later:
        assert (later.idempotency_key, later.upload_id) == (key, "u1")
        assert later.states == {1: PartState.VERIFIED, 2: PartState.SENDING}
        assert later.crcs == {1: 0x1F}


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    with Journals(tmp_path / "new").open(IDENTITY):
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()]

    assert modes == [0o600]
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "other",
    [
        replace(IDENTITY, server="http://t"),
        replace(IDENTITY, path="/g"),
        replace(IDENTITY, size=26),
        replace(IDENTITY, mtime_ns=2),
        replace(IDENTITY, sample="y"),
    ],
    ids=["server", "path", "size", "mtime", "sample"],
)
def test_any_other_file_or_server_has_a_journal_of_its_own(tmp_path: Path, other: Identity) -> None:
    with Journals(tmp_path).open(IDENTITY) as journal:
        journal.opened("u1")

    with Journals(tmp_path).open(other) as another:
        assert another.upload_id is None


def test_a_last_line_cut_short_is_ignored(tmp_path: Path) -> None:
    with Journals(tmp_path).open(IDENTITY) as journal:
        journal.opened("u1")
        journal.note(1, PartState.VERIFIED, 1)
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes() + b'[2,"verif')

    with Journals(tmp_path).open(IDENTITY) as later:
        assert later.states == {1: PartState.VERIFIED}


@pytest.mark.parametrize("content", [b"", b"nonsense\n", b'{"format": 99}\n', b"\xff\xfe\n", b"[]\n"])
def test_a_journal_that_can_not_be_read_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    with Journals(tmp_path).open(IDENTITY) as journal:
        journal.opened("u1")
    next(tmp_path.iterdir()).write_bytes(content)

    with Journals(tmp_path).open(IDENTITY) as later:
        assert later.upload_id is None
        later.opened("u2")
    with Journals(tmp_path).open(IDENTITY) as last:
        assert last.upload_id == "u2"


def test_beginning_again_forgets_upload_and_key(tmp_path: Path) -> None:
    with Journals(tmp_path).open(IDENTITY) as journal:
        key = journal.idempotency_key
        journal.opened("u1")
        journal.note(1, PartState.VERIFIED, 1)
        journal.begin_again()
        journal.opened("u2")

    with Journals(tmp_path).open(IDENTITY) as later:
        assert (later.upload_id, later.states) == ("u2", {})
        assert later.idempotency_key != key
    assert len(list(tmp_path.iterdir())) == 1


def test_one_process_at_a_time_holds_it(tmp_path: Path) -> None:
    with Journals(tmp_path).open(IDENTITY), pytest.raises(TransferInUseError):
        Journals(tmp_path).open(IDENTITY)

    Journals(tmp_path).open(IDENTITY).close()


def test_it_is_held_after_it_was_begun_again(tmp_path: Path) -> None:
    with Journals(tmp_path).open(IDENTITY) as journal:
        journal.begin_again()

        with pytest.raises(TransferInUseError):
            Journals(tmp_path).open(IDENTITY)


def test_the_death_of_its_holder_lets_it_go(tmp_path: Path) -> None:
    script = (
        "import os, signal, pathlib\n"
        "from uploadcore_client.journal import Identity, Journals\n"
        f"journal = Journals(pathlib.Path({str(tmp_path)!r})).open(Identity('http://s', '/f', 25, 1, 'x'))\n"
        "journal.opened('u1')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=False)

    with Journals(tmp_path).open(IDENTITY) as later:
        assert later.upload_id == "u1"


def test_deleting_leaves_nothing(tmp_path: Path) -> None:
    with Journals(tmp_path).open(IDENTITY) as journal:
        journal.delete()

    assert list(tmp_path.iterdir()) == []


def test_what_is_left_behind_is_listed_newest_first(tmp_path: Path) -> None:
    journals = Journals(tmp_path)
    for number, moment in ((1, 1_000), (2, 3_000), (3, 2_000)):
        identity = replace(IDENTITY, path=f"/{number}")
        with journals.open(identity) as journal:
            journal.opened(f"u{number}")
        os.utime(tmp_path / identity.filename, (moment, moment))
    journals.open(replace(IDENTITY, path="/without-upload")).close()

    assert [left.upload_id for left in journals.find()] == ["u2", "u3", "u1"]
    assert [left.identity.path for left in journals.find("u3")] == ["/3"]
    assert list(Journals(tmp_path / "none").find()) == []


def test_an_upload_that_is_no_more_is_dropped(tmp_path: Path) -> None:
    journals = Journals(tmp_path)
    with journals.open(IDENTITY) as journal:
        journal.opened("u1")

    journals.drop("u2")
    assert len(list(journals.find())) == 1
    journals.drop("u1")
    assert list(journals.find()) == []


def test_where_none_can_be_kept_uploading_goes_on_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()

    with Journals(tmp_path / "file").open(IDENTITY) as journal:
        journal.opened("u1")
        journal.note(1, PartState.SENDING)
        journal.begin_again()
        journal.delete()

    assert "no resume journal can be kept" in caplog.text


@contextmanager
def no_room() -> Iterator[None]:
    """As on a full disk: nothing that this process writes to a file is taken (but what is there may be shortened)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_without_room_it_is_begun_unwritten_and_let_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with no_room(), Journals(tmp_path).open(IDENTITY) as journal:
        journal.opened("u1")
        key = journal.idempotency_key

    with Journals(tmp_path).open(IDENTITY) as later:
        assert later.upload_id is None
        assert later.idempotency_key not in {"", key}
    assert caplog.text.count("can't be written any more") == 1


def test_without_room_it_forgets_the_upload_that_is_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Journals(tmp_path).open(IDENTITY) as journal:
        key = journal.idempotency_key
        journal.opened("u1")
        journal.note(1, PartState.VERIFIED, 1)

        with no_room():
            journal.begin_again()
            journal.opened("u2")

        assert (journal.upload_id, journal.states) == ("u2", {})
        assert journal.idempotency_key not in {"", key}
    assert list(Journals(tmp_path).find()) == []
    assert [path.name for path in tmp_path.iterdir()] == [IDENTITY.filename]
    assert "can't be written any more" in caplog.text


def test_begun_again_once_there_is_room_it_is_whole(tmp_path: Path) -> None:
    with Journals(tmp_path).open(IDENTITY) as journal:
        journal.opened("u1")
        with no_room():
            journal.note(1, PartState.SENDING)

        journal.begin_again()
        journal.opened("u2")

    with Journals(tmp_path).open(IDENTITY) as later:
        assert (later.upload_id, later.states) == ("u2", {})


def test_one_that_found_no_room_is_still_held_and_is_deleted_at_the_end(tmp_path: Path) -> None:
    with Journals(tmp_path).open(IDENTITY) as journal:
        journal.opened("u1")
        with no_room():
            journal.note(1, PartState.SENDING)

        with pytest.raises(TransferInUseError):
            Journals(tmp_path).open(IDENTITY)
        journal.delete()

    assert list(tmp_path.iterdir()) == []


def test_the_variable_says_where_journals_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UPLOADCORE_STATE_DIR", str(tmp_path))
    assert state_directory() == tmp_path

    monkeypatch.delenv("UPLOADCORE_STATE_DIR")
    assert "uploadcore" in str(state_directory())
