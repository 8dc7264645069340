"""The same without an event loop: from any thread, after a fork, at exit."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from uploadcore import BlockingUploadCore, FileStatus, UploadCore, UploadState
from uploadcore.blocking import (
    BlockingEventService,
    BlockingFileService,
    BlockingUploadService,
    _LoopThread,
    _thread,
)
from uploadcore.errors import UploadNotFoundError
from uploadcore.event_service import EventService
from uploadcore.file_service import FileService
from uploadcore.upload_service import UploadService
from uploadcore_memory import MemoryCache, MemoryDatabase, MemoryObjectStore


def public(cls: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member, eval_str=False)
        for name, member in vars(cls).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("blocking", "asynchronous", "left_out"),
    [
        (BlockingUploadService, UploadService, {"close"}),
        (BlockingFileService, FileService, set()),
        (BlockingEventService, EventService, set()),
        (BlockingUploadCore, UploadCore, set()),
    ],
)
def test_every_signature_is_the_async_classs(blocking: type, asynchronous: type, left_out: set[str]) -> None:
    expected = {name: signature for name, signature in public(asynchronous).items() if name not in left_out}

    assert public(blocking) == expected
    assert left_out <= public(asynchronous).keys()


def test_it_is_made_of_the_same_things() -> None:
    assert inspect.signature(BlockingUploadCore.__init__) == inspect.signature(UploadCore.__init__)


def test_one_blob_from_first_to_last() -> None:
    store = MemoryObjectStore()
    with BlockingUploadCore(store=store, database=MemoryDatabase(), cache=MemoryCache()) as core:
        upload = core.uploads.initiate(owner="u", filename="a.txt", size=25, part_size=10, fingerprint="f")
        assert core.uploads.get(upload.id, owner="u") == upload
        assert core.uploads.find(owner="u", fingerprint="f").uploads == (upload,)
        signed = core.uploads.sign_parts(upload.id, owner="u", part_numbers=[1, 2, 3])
        for part in signed:
            assert _thread.run(store.put(part.request, b"x" * (part.length or 0))).status == 200
        assert core.uploads.list_parts(upload.id, owner="u").ledger.is_whole
        done = core.uploads.complete(upload.id, owner="u")
        assert done.file is not None
        assert core.files.get(done.file.id, owner="u") == done.file
        assert _thread.run(store.fetch(core.files.content(done.file.id, owner="u"))) == b"x" * 25
        file = core.files.update(done.file.id, owner="u", if_version=done.file.version, labels=["x"])
        assert core.files.find(owner="u", label="x").files == (file,)
        assert core.relay().numbered == 1
        assert core.events.backlog() == ()
        assert core.events.dead_letters() == ()
        assert core.events.replay(destination="gone") == core.events.discard(destination="gone") == 0
        assert core.files.delete(done.file.id, owner="u").status is FileStatus.DELETED
        other = core.uploads.initiate(owner="u", filename="b", size=1)
        assert core.uploads.abort(other.id, owner="u").state is UploadState.ABORTED
        assert core.sweep(dry_run=True).failed == 0


def test_many_threads_call_at_once() -> None:
    with BlockingUploadCore(store=MemoryObjectStore(), database=MemoryDatabase()) as core:
        together = threading.Barrier(16)

        def begin(number: int) -> str:
            together.wait()
            return core.uploads.initiate(owner="u", filename=str(number), size=100, part_size=10).id

        with ThreadPoolExecutor(16) as threads:
            ids = set(threads.map(begin, range(16)))
        assert len(ids) == 16
        assert {upload.id for upload in core.uploads.find(owner="u").uploads} == ids


def test_the_background_runs_until_something_ends_it() -> None:
    class Ending(MemoryDatabase):
        async def events_written(self, timeout: timedelta) -> None:  # noqa: ASYNC109 - as the port has it
            raise KeyError("a defect")

    with BlockingUploadCore(store=MemoryObjectStore(), database=Ending()) as core:
        aborted = core.uploads.abort(core.uploads.initiate(owner="u", filename="a", size=1).id, owner="u")
        with pytest.raises(ExceptionGroup) as ended:
            core.run_background()
        assert aborted.state is UploadState.ABORTED
        assert ended.group_contains(KeyError)
        assert core.relay().numbered == 0, "it was numbered before"


def test_errors_come_as_they_are() -> None:
    with (
        BlockingUploadCore(store=MemoryObjectStore(), database=MemoryDatabase()) as core,
        pytest.raises(UploadNotFoundError),
    ):
        core.uploads.get("none", owner="u")


def test_a_call_inside_the_loop_raises_instead_of_waiting_for_itself() -> None:
    with BlockingUploadCore(store=MemoryObjectStore(), database=MemoryDatabase()) as core:

        async def inside() -> Any:
            return core.uploads.find(owner="u")

        with pytest.raises(RuntimeError, match="use the async UploadCore"):
            _thread.run(inside())


def test_the_thread_ends_when_stopped_and_the_next_call_starts_another() -> None:
    core = BlockingUploadCore(store=MemoryObjectStore(), database=MemoryDatabase())
    core.sweep()
    (first,) = (thread for thread in threading.enumerate() if thread.name == "uploadcore")

    _thread.stop()
    assert not first.is_alive()
    _thread.stop()

    assert core.sweep().failed == 0


def test_what_is_forgotten_is_started_again() -> None:
    """What happens in the child of a fork, seen from inside: there, the parent's thread does not run."""
    loop_thread = _LoopThread()

    async def where() -> int:
        return threading.get_ident()

    before, parents = loop_thread.run(where()), (loop_thread._loop, loop_thread._thread)
    loop_thread.forget()
    after = loop_thread.run(where())

    assert before != after
    loop_thread.stop()
    loop_thread._loop, loop_thread._thread = parents
    loop_thread.stop()


def run(script: str) -> str:
    """In a process of its own, where warnings are errors."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


PRELUDE = """
import gc, os, sys, threading, warnings
from uploadcore import BlockingUploadCore
from uploadcore_memory import MemoryDatabase, MemoryObjectStore

def begin():
    with BlockingUploadCore(store=MemoryObjectStore(), database=MemoryDatabase()) as core:
        return core.uploads.initiate(owner="u", filename="a", size=25, part_size=10).part_count
"""


def test_it_works_again_in_the_child_of_a_fork() -> None:
    script = """
assert begin() == 3
warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on: a process with threads forks
child = os.fork()
if child == 0:
    assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
    count = begin()
    gc.collect()
    assert [thread.name for thread in threading.enumerate()] == ["MainThread", "uploadcore"]
    print("child", count, flush=True)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert begin() == 3
print("parent", flush=True)
"""
    assert run(PRELUDE + script) == "child 3\nparent\n"


def test_it_is_joined_at_exit_and_what_it_still_runs_is_cancelled() -> None:
    script = """
import asyncio, atexit
from uploadcore.blocking import _thread

async def work():
    try:
        await asyncio.Event().wait()
    finally:
        print("cancelled", flush=True)

async def begin_work():
    _thread.kept = asyncio.create_task(work())
    await asyncio.sleep(0)

begin()
_thread.run(begin_work())
print("end", flush=True)
"""
    assert run(PRELUDE + script) == "end\ncancelled\n"


def test_ctrl_c_in_the_waiting_thread_lets_the_call_go() -> None:
    script = """
import asyncio, signal
from uploadcore.blocking import _thread

async def work():
    try:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        os.write(1, b"let go\\n")  # in one piece: two threads print
        raise

try:
    _thread.run(work())
except KeyboardInterrupt:
    os.write(1, b"interrupted\\n")
"""
    assert sorted(run(PRELUDE + script).split("\n")) == ["", "interrupted", "let go"]
