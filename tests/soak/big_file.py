"""A file much larger than any memory, through the command and the service: the memory of both stays flat, the bytes are equal."""

from __future__ import annotations

import hashlib
import random
import subprocess
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from tests.soak.service import peak_memory, running

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


def watch(process: subprocess.Popen[str], peaks: list[int]) -> None:
    """Note a process's memory until it ends."""
    while process.poll() is None:
        try:
            peaks.append(peak_memory(process.pid))
        except (OSError, RuntimeError):
            return
        time.sleep(0.1)


def run(*, size: int = 10 * GIB, folder: Path | None = None) -> list[str]:
    """Upload it, download it, compare."""
    with tempfile.TemporaryDirectory(dir=folder) as name, running(Path(name)) as service:
        path = service.folder / "big.bin"
        expected = sparse(path, size)
        idle = service.peak_memory()
        begun = time.monotonic()
        client = service.client("upload", path, "--json", wait=False)
        peaks: list[int] = [0]
        watcher = threading.Thread(target=watch, args=(client, peaks))
        watcher.start()
        out, err = client.communicate(timeout=3_600)
        watcher.join()
        took = time.monotonic() - begun
        assert client.returncode == 0, err[-2000:]
        found = service.call("GET", "/v1/uploads?state=completed")["uploads"]
        file_id = found[0]["file_id"]
        digest = hashlib.sha256()
        with urllib.request.urlopen(f"{service.url}/v1/files/{file_id}/content", timeout=120) as answer:
            while chunk := answer.read(MIB):
                digest.update(chunk)
        assert digest.hexdigest() == expected, f"bytes differ: {out[-500:]}"
        return [
            (
                f"big_file: {size / GIB:.2f} GiB in {took:.1f} s ({size / 1e9 / took:.2f} GB/s), SHA-256 equal; peak memory: "
                f"client {max(peaks) / MIB:.0f} MiB, server {service.peak_memory() / MIB:.0f} MiB (idle {idle / MIB:.0f} MiB)"
            )
        ]
