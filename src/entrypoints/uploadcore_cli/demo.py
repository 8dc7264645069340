"""`demo`: the main job with real processes, `kill -9` on both sides, and a comparison of every byte."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self

import click
import uvicorn  # noqa: F401 - the service is a process of its own; that it can't start is better said before a file is made

from uploadcore.errors import UploadCoreError
from uploadcore.states import PartState
from uploadcore_cli.display import duration, rate, size
from uploadcore_cli.failures import CommandError, ExitStatus
from uploadcore_cli.options import DEFAULT_PARALLEL, ByteCount
from uploadcore_client import Client
from uploadcore_client.journal import Journals, Leftover

__all__ = ["demo"]

MIB = 1024 * 1024
ROOM = 2.2
"""How much room is needed, in sizes of the file: the stored one and the downloaded one, and something for the rest."""
PARTS = 64
"""About so many, so that half-way is half-way with a small file too."""
START_TIMEOUT = 60.0
RUN_TIMEOUT = 3_600.0
NOTICE = 0.002
"""Seconds between looks at the uploader's journal: a small file is through in a tenth of a second."""
MARKER = "made-by-uploadcore-demo"


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=Path(".uploadcore-demo"),
    show_default=True,
    metavar="DIR",
    help="Where to work. Made, and removed again when all went well.",
)
@click.option(
    "--size", "wanted", type=ByteCount(), default="1GiB", show_default=True, metavar="SIZE", help="Of the file to make."
)
def demo(file: Path | None, folder: Path, wanted: int) -> None:
    """Upload FILE (or one made for it), kill -9 the uploader and the service half way, resume, and compare every byte.

    Needs 2.2 times the file's size free. Leaves nothing behind when all went well.
    """
    if file is not None and not file.is_file():
        raise CommandError(f"{file} is no file", ExitStatus.LOCAL_FILE)
    if file is not None:
        wanted = file.stat().st_size
    if wanted < PARTS:
        raise CommandError(f"{wanted} bytes can't be interrupted half way: take {PARTS} or more", ExitStatus.USAGE)
    with _Endings() as endings, _workplace(folder, wanted) as place, contextlib.ExitStack() as stack:
        verdict = _Demo(_Processes(place, stack, endings), stack).run(file, wanted)
        if not verdict:
            raise CommandError(f"bytes differ; everything is left in {place}", ExitStatus.CORRUPT)


class _Endings:
    """SIGTERM ends the demo as Ctrl-C does, with its children; neither between the start of a process and our noting it."""

    def __init__(self) -> None:
        self._is_held = False
        self._waiting: int | None = None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let them wait for the end of the block."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
            if self._waiting is not None:
                self._end(self._waiting, None)

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._end) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._is_held:
            self._waiting = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            sys.exit(128 + number)


def _say(what: str, text: str) -> None:
    click.echo(f"  {what:<9} {text}")


# --- the folder ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _workplace(folder: Path, wanted: int) -> Iterator[Path]:
    """A folder of our own with enough room; removed afterwards unless something went wrong."""
    place = folder.absolute()
    if place.exists() and not (place / MARKER).is_file() and (not place.is_dir() or any(place.iterdir())):
        raise CommandError(f"{place} is not empty and none of ours: choose another with --dir", ExitStatus.LOCAL_FILE)
    shutil.rmtree(place, ignore_errors=True)  # what a demo that failed has left
    try:
        place.mkdir(parents=True)
        (place / MARKER).touch()
        free = shutil.disk_usage(place).free
    except OSError as exc:
        raise CommandError(f"can't work in {place}: {exc.strerror}", ExitStatus.LOCAL_FILE) from exc
    needed = math.ceil(ROOM * wanted)
    click.echo("uploadcore demo")
    _say("folder", f"{place} (needs {size(needed)} free, has {size(free)})")
    if free < needed:
        shutil.rmtree(place, ignore_errors=True)
        raise CommandError(
            f"not enough room in {place.parent}: choose another with --dir, or a smaller --size", ExitStatus.FULL
        )
    try:
        yield place
    except (KeyboardInterrupt, SystemExit):
        shutil.rmtree(place, ignore_errors=True)
        raise
    shutil.rmtree(place)


# --- processes ----------------------------------------------------------------------------------------------------


def _port() -> int:
    """A free one, of those that nobody is given who names none: the service is killed, and started there again."""
    while True:
        port = 10_000 + secrets.randbelow(22_000)  # Linux gives those from 32768 on, others from 49152 on
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class _Processes:
    """`uploadcore …` as real processes, each with a session of its own, none of which outlives the demo."""

    def __init__(self, place: Path, stack: contextlib.ExitStack, endings: _Endings) -> None:
        self.place = place
        self._stack = stack
        self._endings = endings
        self._port = _port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.state_dir = place / "state"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("UPLOADCORE_")}
        self._environment = {
            **inherited,
            "UPLOADCORE_DATA_DIR": str(place / "data"),
            "UPLOADCORE_DRAIN_DELAY": "0",
            "UPLOADCORE_LOG_LEVEL": "warning",
            "UPLOADCORE_PORT": str(self._port),
            "UPLOADCORE_STATE_DIR": str(self.state_dir),
            "UPLOADCORE_URL": self.url,
        }

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command; its output goes to a file of its name in the folder."""
        out, err = self.place / f"{arguments[0]}.out", self.place / f"{arguments[0]}.log"
        with out.open("wb") as stdout, err.open("ab") as stderr, self._endings.held():
            process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "uploadcore_cli.main", *arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C is for us: we end them
            )
            self._stack.callback(_kill, process)
        return process

    def start_service(self, client: Client) -> tuple[subprocess.Popen[bytes], float]:
        """Start the service and wait until it answers; with the seconds that took."""
        began_at = time.monotonic()
        process = self.start("serve")

        def is_ready() -> bool:
            if process.poll() is not None:
                self.fail("serve", "the service did not start")
            try:
                client.uploads(limit=1)
            except UploadCoreError:
                return False
            return True

        _until(is_ready, START_TIMEOUT, "the service did not answer", pause=0.05)
        return process, time.monotonic() - began_at

    def run(self, *arguments: str) -> Any:
        """Run a command to its end; what `--json` printed."""
        process = self.start(*arguments)
        try:
            status = process.wait(RUN_TIMEOUT)
        except subprocess.TimeoutExpired:
            status = -1
        if status != 0:
            self.fail(arguments[0], f"'uploadcore {arguments[0]}' ended with status {status}")
        return json.loads((self.place / f"{arguments[0]}.out").read_text().splitlines()[-1])

    def fail(self, name: str, what: str) -> NoReturn:
        """End the demo with the last words of a process."""
        log = (self.place / f"{name}.log").read_text(errors="replace").strip().splitlines()
        raise CommandError(f"{what}; everything is left in {self.place}", advice=[f"  {line}" for line in log[-5:]])


def _kill(process: subprocess.Popen[bytes]) -> None:
    """`kill -9`, and see it gone."""
    process.kill()
    process.wait()


def _until(condition: Callable[[], bool], timeout: float, complaint: str, *, pause: float) -> None:
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise CommandError(complaint)
        time.sleep(pause)


# --- the demo -----------------------------------------------------------------------------------------------------


class _Demo:
    """One run."""

    def __init__(self, processes: _Processes, stack: contextlib.ExitStack) -> None:
        self._place = processes.place
        self._processes = processes
        self._client = stack.enter_context(Client(self._processes.url))

    def run(self, given: Path | None, wanted: int) -> bool:
        """All of it. `True` if every byte came back."""
        source, sha256 = (
            (given.absolute(), _sha256(given)) if given is not None else _made(self._place / "random.bin", wanted)
        )
        _say(
            "file", f"{source} ({size(wanted)})" if given is not None else f"{size(wanted)} of random bytes, made here"
        )
        part_size = _part_size(wanted)
        service, _ = self._processes.start_service(self._client)
        _say("service", f"{self._processes.url}, with SQLite and a folder for its store")
        _say(
            "upload", f"{DEFAULT_PARALLEL} parts at a time, {math.ceil(wanted / part_size)} parts of {size(part_size)}"
        )

        upload_id, first_took = self._upload_until_half(source, part_size)
        _kill(service)
        service, seconds = self._processes.start_service(self._client)
        _say("kill -9", f"the service; started again in {duration(seconds)}")

        began_at = time.monotonic()
        uploaded = self._processes.run("resume", upload_id, str(source), "--json")
        took = first_took + time.monotonic() - began_at
        _say(
            "resume",
            f"{size(uploaded['bytes_resumed'])} were there, {size(uploaded['bytes_sent'])} sent now; completed",
        )
        if given is None:
            source.unlink()  # its SHA-256 is known, and its room is needed
        copy = self._place / "copy.bin"
        got = self._processes.run("get", uploaded["file"]["id"], "--output", str(copy), "--json")
        _say("download", f"{size(got['bytes'])} in {duration(got['seconds'])} ({rate(got['bytes'], got['seconds'])})")
        returned = _sha256(copy)
        service.send_signal(signal.SIGTERM)
        service.wait(RUN_TIMEOUT)
        _report(uploaded, wanted=wanted, seconds=took, sent=sha256, returned=returned)
        return sha256 == returned and copy.stat().st_size == wanted

    def _upload_until_half(self, source: Path, part_size: int) -> tuple[str, float]:
        """Start an upload, and `kill -9` it when half of its parts are there; its id, and the seconds that took."""
        half = math.ceil(source.stat().st_size / part_size) / 2
        began_at = time.monotonic()
        uploader = self._processes.start("upload", str(source), "--json", "--part-size", str(part_size))
        upload_id = ""

        def is_half() -> bool:
            nonlocal upload_id
            left = next(Journals(self._processes.state_dir).find(), None)
            upload_id = upload_id if left is None else left.upload_id
            return uploader.poll() is not None or (left is not None and _count(left, PartState.VERIFIED) >= half)

        _until(is_half, RUN_TIMEOUT, "the uploader got nowhere", pause=NOTICE)
        _kill(uploader)
        seconds = time.monotonic() - began_at
        if uploader.returncode > 0:
            self._processes.fail("upload", f"'uploadcore upload' ended with status {uploader.returncode}")
        if uploader.returncode == 0:
            _say("kill -9", "the uploader was done before it could be killed: nothing to resume this time")
            return json.loads((self._place / "upload.out").read_text())["upload_id"], seconds
        left = next(Journals(self._processes.state_dir).find(upload_id))
        stored, flying = _count(left, PartState.VERIFIED), _count(left, PartState.SENDING)
        _say("kill -9", f"the uploader, with {stored} of {math.ceil(2 * half)} parts stored and {flying} in flight")
        return upload_id, seconds


def _count(left: Leftover, state: PartState) -> int:
    return sum(each is state for each in left.states.values())


def _part_size(wanted: int) -> int:
    """What makes about 64 parts: 16 MiB for 1 GiB."""
    return min(64 * MIB, math.ceil(wanted / PARTS))


def _made(path: Path, wanted: int) -> tuple[Path, str]:
    """A file of random bytes, and its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for offset in range(0, wanted, MIB):
            piece = os.urandom(min(MIB, wanted - offset))
            digest.update(piece)
            file.write(piece)
    return path, digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _report(uploaded: Any, *, wanted: int, seconds: float, sent: str, returned: str) -> None:
    """What a person wants to know, and what to try next."""
    again = uploaded["parts_resent"]
    resent = f" ({size(uploaded['bytes_resent'])}, in flight when the uploader was killed)" if again else ""
    lines = {
        "bytes": f"{wanted:,}",
        "upload": f"{duration(seconds)} in two runs, {rate(wanted, seconds)}",
        "parts sent twice": f"{again} of {uploaded['parts']}{resent}",
        "SHA-256 sent": sent,
        "SHA-256 back": returned,
        "verdict": "every byte came back" if sent == returned else "THE BYTES DIFFER",
    }
    click.echo()
    for what, text in lines.items():
        click.echo(f"  {what:<17} {text}")
    click.echo()
    if sent == returned:
        click.echo("Try next:")
        for command in ("uploadcore serve", "uploadcore upload FILE", "uploadcore ls"):
            click.echo(f"  {command}")
