"""A file much larger than any memory, through the command and the service: the memory of both stays flat, the bytes are equal."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tests.soak.service import peak_memory, running
from tests.soak.worlds import EMBEDDED, World

MIB = 1024 * 1024
GIB = 1024 * MIB


def sparse(path: Path, size: int) -> str:
    """A sparse file with some bytes in it; its SHA-256."""
    chance = random.Random(size)
    with path.open("wb") as file:
        file.truncate(size)
        for _ in range(64):
            file.seek(chance.randrange(size - MIB))
            file.write(chance.randbytes(MIB))
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(MIB):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class Figures:
    """Of one upload. Sizes in bytes, times in seconds; `idle` is the memory of a process that did nothing yet."""

    size: int
    took: float
    client_idle: int
    client_peak: int
    server_idle: int
    server_peak: int

    def line(self, world: World = EMBEDDED) -> str:
        return (
            f"{world.name}big_file: {self.size / GIB:.2f} GiB in {self.took:.1f} s ({self.size / 1e9 / self.took:.2f} GB/s), SHA-256 equal; "
            f"peak memory: client {self.client_peak / MIB:.0f} MiB (idle {self.client_idle / MIB:.0f}), "
            f"server {self.server_peak / MIB:.0f} MiB (idle {self.server_idle / MIB:.0f})"
        )


def measured(*, size: int, world: World = EMBEDDED) -> Figures:
    """Upload a file, download it, compare."""
    with tempfile.TemporaryDirectory() as name, running(world.service(Path(name))) as service:
        path = service.folder / "big.bin"
        expected = sparse(path, size)
        listing, _ = peaks(service.client("ls", wait=False))
        server_idle = service.peak_memory()
        begun = time.monotonic()
        client_peak, printed = peaks(service.client("upload", path, "--json", wait=False))
        took = time.monotonic() - begun
        digest = hashlib.sha256()
        file_id = json.loads(printed.splitlines()[-1])["file"]["id"]
        with urllib.request.urlopen(f"{service.url}/v1/files/{file_id}/content", timeout=120) as answer:
            while chunk := answer.read(MIB):
                digest.update(chunk)
        assert digest.hexdigest() == expected, "bytes differ"
        return Figures(size, took, listing, client_peak, server_idle, service.peak_memory())


def peaks(client: subprocess.Popen[str]) -> tuple[int, str]:
    """Peak memory of a client that runs to its end, and what it printed."""
    peak = 0

    def watch() -> None:
        nonlocal peak
        while client.poll() is None:
            try:
                peak = max(peak, peak_memory(client.pid))
            except (OSError, RuntimeError):
                return
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, err = client.communicate(timeout=3_600)
    watcher.join()
    assert client.returncode == 0, err[-2000:]
    return peak, out


def run(*, size: int = 10 * GIB, world: World = EMBEDDED) -> list[str]:
    """At full scale."""
    return [measured(size=size, world=world).line(world)]
