"""Memory stays flat whatever the size: 64 MiB, and one buffer for each part in flight."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.sink import Sink

MIB = 1024 * 1024
SCRIPT = """
import re, sys
from pathlib import Path
from uploadcore_client import Client
url, path, state, parallel, part_size = sys.argv[1:]
with Client(url, parallel=int(parallel), state_dir=Path(state)) as client:
    client.upload(path, part_size=int(part_size))
# Not getrusage: its maximum includes that of the process this one was started from.
print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])
"""


@pytest.fixture
def sink() -> Iterator[Sink]:
    sink = Sink(0, None)
    thread = threading.Thread(target=sink.serve, daemon=True)
    thread.start()
    yield sink
    sink.listener.close()


@pytest.mark.parametrize(
    ("parallel", "part_size"), [(4, 128 * MIB), (16, 2 * MIB)], ids=["few-large-parts", "many-small-parts"]
)
def test_memory_does_not_grow_with_the_file(sink: Sink, tmp_path: Path, parallel: int, part_size: int) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1024 * MIB)

    arguments = [sink.url, str(path), str(tmp_path / "state"), str(parallel), str(part_size)]
    ran = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True)

    print(f"peak {int(ran.stdout) // 1024} MiB")
    assert int(ran.stdout) * 1024 <= (64 + parallel) * MIB
