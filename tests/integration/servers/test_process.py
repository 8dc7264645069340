"""The servers of a test run that is killed end too, and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.process import ServerError, ServerProcess, new_folder
from tests.soak.service import wait_until

ROOT = Path(__file__).parents[3]
START = """
from tests.servers.{module} import {name}
server = {name}()
server.start()
print(server.process.pid, server.process.folder, flush=True)
input()
"""


@pytest.mark.parametrize(
    ("module", "name"),
    [
        pytest.param("postgres", "PostgresServer", id="postgres"),
        pytest.param("redis", "RedisServer", id="redis"),
        pytest.param(
            "swift",
            "SwiftServer",
            id="s3-swift",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="Swift runs on Linux only"),
        ),
    ],
)
def test_a_server_ends_with_whoever_started_it(module: str, name: str) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", START.format(module=module, name=name)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert starter.stdout is not None
    pid, folder = starter.stdout.readline().split()
    ran = group_is_alive(int(pid))
    starter.kill()
    starter.communicate()

    wait_until(lambda: not group_is_alive(int(pid)), 30, f"{name} outlives whoever started it")
    wait_until(lambda: not Path(folder).exists(), 30, f"{name} leaves {folder} behind")

    assert ran


def group_is_alive(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_that_ends_at_once_tells_why() -> None:
    server = ServerProcess(["sh", "-c", "echo no port is left >&2; exit 3"], folder=new_folder("broken"))

    with pytest.raises(ServerError, match=r"sh ended: no port is left"):
        server.start(lambda: False)

    assert not server.folder.exists()


def test_a_server_may_be_stopped_twice_and_killed_before() -> None:
    server = ServerProcess(["sleep", "1000"], folder=new_folder("sleeper"))
    server.start(lambda: True)

    server.kill()
    ended, stays = not server.is_running, server.folder.exists()
    server.stop()
    server.stop()

    assert ended
    assert stays
    assert not server.folder.exists()


def test_one_that_was_killed_is_gone_with_whatever_it_started() -> None:
    """PostgreSQL's sessions are in groups of their own, and end a moment after it."""
    starts = (
        "import os, time\n"
        "if os.fork():\n"
        "    time.sleep(1000)\n"
        "os.setsid()\n"
        "open('begun', 'x').close()\n"
        "time.sleep(0.5)\n"
        "open('ended', 'x').close()\n"
    )
    server = ServerProcess([sys.executable, "-c", starts], folder=new_folder("parent"))
    server.start((server.folder / "begun").exists)

    server.kill()
    ended = (server.folder / "ended").exists()
    server.stop()

    assert ended
