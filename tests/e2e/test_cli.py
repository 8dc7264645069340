"""The command as people use it: real processes, the real service, real signals."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.integration.client.scripted import Handler, far_end
from tests.soak.proxy import CountingProxy
from tests.soak.service import COMMAND, Service, running, wait_until
from tests.soak.worlds import EMBEDDED

MIB = 1024 * 1024
PART = 64 * 1024
SECRET = "a secret of 32 bytes or more, please"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(Service(tmp_path_factory.mktemp("service"))) as service:
        yield service


@pytest.fixture
def blob(tmp_path: Path) -> Callable[..., Path]:
    def make(size: int = 3 * MIB + 11, name: str = "blob.bin") -> Path:
        path = tmp_path / name
        path.write_bytes(os.urandom(size))
        return path

    return make


def finished(service: Service, *arguments: str | Path) -> tuple[int, str, str]:
    process = service.client(*arguments, wait=False)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    return process.returncode, out, err


def documents(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def fetched(service: Service, file_id: str, target: Path) -> bytes:
    status, _, err = finished(service, "get", file_id, "--output", target)
    assert status == 0, err
    return target.read_bytes()


class Interrupted:
    """An upload with many small parts that a signal ended in its middle."""

    def __init__(self, service: Service, path: Path, number: signal.Signals) -> None:
        self.process = service.client("upload", path, "--part-size", str(PART), wait=False)
        state = service.folder / "state"

        def is_under_way() -> bool:
            assert self.process.poll() is None, "it was over before it could be interrupted"
            return any(left.read_text().count("verified") > 20 for left in state.glob("*.journal"))

        wait_until(is_under_way, 30, "the upload does not get under way")
        self.process.send_signal(number)
        self.out, self.err = self.process.communicate(timeout=30)


# --- the main way -------------------------------------------------------------------------------------------------


def test_what_is_uploaded_is_listed_and_comes_back_the_same(
    service: Service, blob: Callable[..., Path], tmp_path: Path
) -> None:
    path = blob(20 * MIB + 3)

    status, out, _ = finished(service, "upload", path, "--title", "Mine", "--part-size", "1MiB", "--json")

    (printed,) = documents(out)
    assert status == 0
    assert (printed["bytes"], printed["bytes_sent"], printed["parts"]) == (20 * MIB + 3, 20 * MIB + 3, 21)
    assert printed["file"]["title"] == "Mine"
    assert printed["file"]["checksum"]["verified_by"] == "store"
    assert any(one["file_id"] == printed["file"]["id"] for one in documents(finished(service, "ls", "--json")[1]))
    assert fetched(service, printed["file"]["id"], tmp_path / "copy") == path.read_bytes()


def test_an_empty_file_goes_there_and_back(service: Service, blob: Callable[..., Path], tmp_path: Path) -> None:
    _, out, _ = finished(service, "upload", blob(0), "--json")

    assert fetched(service, documents(out)[0]["file"]["id"], tmp_path / "copy") == b""


def test_of_several_files_each_has_its_result(service: Service, blob: Callable[..., Path], tmp_path: Path) -> None:
    good, other = blob(1000, "good"), blob(2000, "other")

    status, out, err = finished(service, "upload", good, tmp_path / "missing", tmp_path, "-", other, "--json")

    printed = documents(out)
    assert status == 3
    assert [one.get("error", {}).get("code") for one in printed] == [None, *["file_unreadable"] * 3, None]
    assert len(err.splitlines()) == 3


def test_sha256_on_request_is_what_the_file_is_recorded_with(
    service: Service, blob: Callable[..., Path], tmp_path: Path
) -> None:
    path = blob()

    _, out, _ = finished(service, "upload", path, "--sha256", "--json")

    (printed,) = documents(out)
    assert printed["file"]["checksum"]["algorithm"] == "sha256"
    assert fetched(service, printed["file"]["id"], tmp_path / "copy") == path.read_bytes()


def test_a_terminal_shows_progress(service: Service, blob: Callable[..., Path]) -> None:
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "upload", str(blob(64 * MIB)), "--part-size", str(PART)],
        env={**service.environment, "TERM": "xterm", "COLUMNS": "120"},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(terminal, 65536):
            shown += chunk
    except OSError:  # how Linux tells that the other side of a terminal is closed
        pass
    os.close(terminal)

    assert process.wait(30) == 0
    assert b"blob.bin" in shown
    assert re.search(rb"\d+%", shown)
    assert re.search(rb"MiB/s", shown)


# --- interrupted --------------------------------------------------------------------------------------------------


def test_after_kill_9_of_the_uploader_the_same_command_goes_on(
    service: Service, blob: Callable[..., Path], tmp_path: Path
) -> None:
    path = blob(96 * MIB)
    Interrupted(service, path, signal.SIGKILL)

    printed = service.upload(path)

    again = printed["bytes_sent"] + printed["bytes_resumed"] - path.stat().st_size
    assert printed["bytes_resumed"] > 0
    assert again == 0
    assert printed["bytes_resent"] <= 4 * PART
    assert fetched(service, printed["file"]["id"], tmp_path / "copy") == path.read_bytes()


def test_ctrl_c_says_which_command_goes_on_and_that_command_does(
    service: Service, blob: Callable[..., Path], tmp_path: Path
) -> None:
    path = blob(96 * MIB)

    stopped = Interrupted(service, path, signal.SIGINT)

    assert stopped.process.returncode == 130
    assert "Traceback" not in stopped.err
    command = next(line.strip() for line in stopped.err.splitlines() if line.startswith("  uploadcore "))
    assert re.fullmatch(rf"uploadcore resume [0-9a-f-]+ --url {service.url}", command)
    status, out, _ = finished(service, *shlex.split(command)[1:], "--json")
    (printed,) = documents(out)
    assert status == 0
    assert printed["bytes_resumed"] > 0
    assert fetched(service, printed["file"]["id"], tmp_path / "copy") == path.read_bytes()


def test_resume_alone_goes_on_with_all_that_is_unfinished(service: Service, blob: Callable[..., Path]) -> None:
    Interrupted(service, blob(96 * MIB), signal.SIGKILL)

    status, out, _ = finished(service, "resume", "--json")

    assert status == 0
    assert [Path(one["path"]).name for one in documents(out)] == ["blob.bin"]
    assert finished(service, "resume")[2].startswith("nothing is unfinished")


def test_without_its_journal_an_upload_is_found_by_the_servers_record(
    service: Service, blob: Callable[..., Path], tmp_path: Path
) -> None:
    path = blob(96 * MIB)
    Interrupted(service, path, signal.SIGKILL)
    for journal in (service.folder / "state").iterdir():
        journal.unlink()

    printed = service.upload(path)

    assert printed["bytes_resumed"] > 0
    assert fetched(service, printed["file"]["id"], tmp_path / "copy") == path.read_bytes()


def test_an_upload_outlives_kill_9_of_the_server(tmp_path: Path, blob: Callable[..., Path]) -> None:
    path = blob(64 * MIB)
    with running(Service(tmp_path)) as service:
        process = service.client("upload", path, "--part-size", str(PART), "--json", wait=False)
        wait_until(lambda: any((tmp_path / "state").glob("*.journal")), 30, "it does not begin")
        wait_until(
            lambda: next((tmp_path / "state").glob("*.journal")).read_text().count("verified") > 20,
            30,
            "it does not get under way",
        )
        service.kill()
        service.start()

        out, err = process.communicate(timeout=90)

        assert process.returncode == 0, err
        (printed,) = documents(out)
        assert fetched(service, printed["file"]["id"], tmp_path / "copy") == path.read_bytes()


def test_abort_gives_an_upload_up(service: Service, blob: Callable[..., Path]) -> None:
    Interrupted(service, blob(96 * MIB), signal.SIGKILL)
    (open_upload,) = service.open_uploads()

    status, out, _ = finished(service, "abort", open_upload)

    assert (status, out) == (0, f"{open_upload} aborted\n")
    assert service.open_uploads() == []
    assert finished(service, "resume")[2].startswith("nothing is unfinished")
    assert finished(service, "resume", open_upload, "x")[0] == 3


class StallingProxy(CountingProxy):
    """Forwards what is answered for as long as there is room for it."""

    def __init__(self) -> None:
        super().__init__()
        self._room = math.inf
        self._has_changed = threading.Condition()

    def make_room(self, size: float) -> None:
        with self._has_changed:
            self._room = size
            self._has_changed.notify_all()

    def _pass(self, count: int, is_upstream: bool) -> None:
        super()._pass(count, is_upstream)
        if not is_upstream:
            with self._has_changed:
                self._has_changed.wait_for(lambda: self._room > 0)
                self._room -= count


@pytest.fixture
def proxy() -> Iterator[StallingProxy]:
    proxy = StallingProxy()
    yield proxy
    proxy.make_room(math.inf)
    proxy.close()


def test_a_download_that_was_killed_goes_on(proxy: StallingProxy, blob: Callable[..., Path], tmp_path: Path) -> None:
    path = blob(64 * MIB)
    target = tmp_path / "copy"
    part = tmp_path / ".copy.uploadcore-part"
    with running(EMBEDDED.service(tmp_path, proxy)) as service:
        file_id = service.upload(path)["file"]["id"]
        proxy.make_room(16 * MIB)
        process = service.client("get", file_id, "--output", target, wait=False)
        wait_until(lambda: part.exists() and part.stat().st_size > MIB, 30, "nothing arrives")
        process.kill()
        process.communicate()
        assert not target.exists()
        proxy.make_room(math.inf)

        status, out, _ = finished(service, "get", file_id, "--output", target, "--json")

    assert status == 0
    assert documents(out)[0]["bytes_resumed"] > 0
    assert target.read_bytes() == path.read_bytes()


# --- refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["ls"], ["upload", __file__], ["get", "x"], ["resume", "x", __file__], ["abort", "x"]]
)
def test_without_a_server_it_says_how_to_start_one(service: Service, arguments: list[str]) -> None:
    status, out, err = finished(service, *arguments, "--url", "http://127.0.0.1:9")

    assert (status, out) == (4, "")
    assert err == "uploadcore: no server at http://127.0.0.1:9: start one with 'uploadcore serve'\n"


@pytest.mark.parametrize("arguments", [["get", "nothing"], ["abort", "nothing"], ["resume", "nothing", __file__]])
def test_what_is_unknown_is_not_found(service: Service, arguments: list[str]) -> None:
    status, _, err = finished(service, *arguments)

    assert status == 6
    assert len(err.splitlines()) == 1


def test_a_file_that_is_there_already_is_kept(service: Service, blob: Callable[..., Path]) -> None:
    path = blob(1000)
    file_id = service.upload(path)["file"]["id"]

    status, _, err = finished(service, "get", file_id, "--output", path)

    assert status == 3
    assert "exists already" in err


def test_tokens_quota_and_size_are_one_clear_line_each(tmp_path: Path, blob: Callable[..., Path]) -> None:
    settings = {
        "UPLOADCORE_AUTH_JWT_KEY": SECRET,
        "UPLOADCORE_MAX_SIZE": "10MiB",
        "UPLOADCORE_MAX_BYTES_IN_FLIGHT": "5MiB",
    }
    path = blob(1000)
    with GuardedService(tmp_path, settings) as service:
        nobody = finished(service, "upload", path)
        token = finished(service, "token", "--owner", "alice")[1].strip()
        service.environment["UPLOADCORE_TOKEN"] = token
        alice = finished(service, "upload", path)
        too_much = finished(service, "upload", blob(6 * MIB, "big"))
        too_large = finished(service, "upload", blob(11 * MIB, "bigger"))
        log = service.log.read_text()

    assert (nobody[0], len(nobody[2].splitlines())) == (5, 1)
    assert "--token or UPLOADCORE_TOKEN" in nobody[2]
    assert alice[0] == 0
    assert (too_much[0], len(too_much[2].splitlines())) == (7, 1)
    assert "quota used up" in too_much[2]
    assert (too_large[0], len(too_large[2].splitlines())) == (7, 1)
    assert token not in log
    assert token not in "".join(text for _, out, err in (alice, too_much, too_large) for text in (out, err))


class GuardedService(Service):
    """One that wants tokens: its readiness says so without one."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        super().__init__(folder, **settings)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def test_a_full_disk_is_one_clear_line(service: Service, blob: Callable[..., Path]) -> None:
    def full(handler: Handler, tries: int) -> bool:
        handler.refuse(507, "InsufficientStorage")
        return True

    with far_end() as far:
        far.before_part = full
        status, _, err = finished(service, "upload", blob(), "--url", far.url)

    assert status == 8
    assert err.splitlines()[0].endswith("no room left: the store has no room left; what has arrived stays there")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("arguments", ["events backlog", "doctor --json", "migrate"])
def test_what_there_is_no_room_to_write_is_one_clear_line(tmp_path: Path, arguments: str) -> None:
    with Path("/dev/full").open("w") as full:  # a disk without room
        ran = subprocess.run(
            [*COMMAND, *arguments.split()],
            env={**os.environ, "UPLOADCORE_DATA_DIR": str(tmp_path / "data")},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            check=False,
            timeout=60,
        )

    assert (ran.returncode, ran.stderr) == (8, "uploadcore: no room left to write the output\n")


def test_a_port_that_is_taken_is_one_clear_line(service: Service, tmp_path: Path) -> None:
    ran = subprocess.run(
        [*COMMAND, "serve", "--port", str(service.port), "--data-dir", str(tmp_path / "other")],
        env=service.environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 2
    assert f"can't listen on 127.0.0.1:{service.port}" in ran.stderr
    assert "Traceback" not in ran.stderr


# --- demo ---------------------------------------------------------------------------------------------------------


UNENDING = """
import sys, threading

if "upload" in sys.orig_argv:
    from uploadcore_client.parts import PartTable

    verify = PartTable.verify

    def verify_some(table, *arguments):
        verify(table, *arguments)
        if len(table.to_do()) < table.count / 4:
            threading.Event().wait()

    PartTable.verify = verify_some
"""
"""What Python runs first: an upload then comes to three quarters, and to its end only where it is resumed."""


def test_demo_kills_both_sides_and_gets_every_byte_back(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = tmp_path_factory.mktemp("first")
    (first / "sitecustomize.py").write_text(UNENDING)
    paths = os.pathsep.join(filter(None, (str(first), os.environ.get("PYTHONPATH"))))
    ran = subprocess.run(
        [*COMMAND, "demo", "--size", "32MiB"],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )

    assert ran.returncode == 0, ran.stderr
    assert "verdict           every byte came back" in ran.stdout
    assert re.search(r"kill -9 +the uploader, with \d+ of 64 parts stored", ran.stdout)
    assert list(tmp_path.iterdir()) == []


def test_demo_takes_a_file_and_leaves_it_alone(tmp_path: Path, blob: Callable[..., Path]) -> None:
    path = blob(10_000)
    content = path.read_bytes()

    ran = subprocess.run(
        [*COMMAND, "demo", str(path), "--dir", str(tmp_path / "work")],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )

    assert ran.returncode == 0, ran.stderr
    assert path.read_bytes() == content
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_that_is_stopped_takes_its_processes_with_it(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [*COMMAND, "demo", "--size", "512MiB", "--dir", str(tmp_path / "work")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("  upload"):
            break
    assert children(process.pid)

    process.send_signal(number)
    process.communicate(timeout=30)

    assert process.returncode == 128 + number
    assert [name for name in running_commands() if str(tmp_path) in name] == []
    assert not (tmp_path / "work").exists()


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def running_commands() -> list[str]:
    """Command lines and environments of all processes: a child of the demo's has its folder in one of them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.append((process / "environ").read_text() + (process / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_the_module_runs_like_the_command() -> None:
    ran = subprocess.run([sys.executable, "-m", "uploadcore_cli.main", "--version"], capture_output=True, check=True)

    assert ran.stdout.strip()
