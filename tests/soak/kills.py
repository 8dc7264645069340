"""`kill -9`, of the client and of the server, at random moments of an upload: everything resumes and completes.

What is sent again never exceeds what was in flight: parallel parts of one part size each.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
import time
import urllib.request
from pathlib import Path

from tests.soak.service import Service, running

MIB = 1024 * 1024
PARALLEL = 4


def blob(path: Path, size: int, chance: random.Random) -> str:
    """Write a file of random bytes; its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(size // MIB):
            chunk = chance.randbytes(MIB)
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def downloaded(service: Service, file_id: str) -> str:
    """SHA-256 of a file's content, fetched as any client would: through the redirect to the signed URL."""
    digest = hashlib.sha256()
    with urllib.request.urlopen(f"{service.url}/v1/files/{file_id}/content", timeout=120) as answer:
        while chunk := answer.read(MIB):
            digest.update(chunk)
    return digest.hexdigest()


def options(part_size: int) -> list[str]:
    return ["--parallel", str(PARALLEL), "--part-size", str(part_size)]


def kill_clients(service: Service, *, kills: int, size: int, part_size: int, chance: random.Random) -> str:
    """Kill the client once per upload, run it again, compare."""
    in_flight = PARALLEL * part_size
    most_again = interrupted = 0
    took = 2.0
    for number in range(kills):
        path = service.folder / f"client-{number}.bin"
        expected = blob(path, size, chance)
        first = service.client("upload", path, "--json", *options(part_size), wait=False)
        time.sleep(chance.uniform(0.2, 1.0) * took)
        first.kill()
        first.communicate()
        begun = time.monotonic()
        printed = service.upload(path, *options(part_size))
        took = max(0.5, 0.7 * took + 0.3 * (time.monotonic() - begun))
        again = printed["bytes_sent"] + printed["bytes_resumed"] - size
        assert again <= in_flight, f"{again} bytes sent twice, {in_flight} were in flight"
        most_again = max(most_again, again)
        interrupted += 0 < printed["bytes_resumed"] < size
        assert downloaded(service, printed["file"]["id"]) == expected, f"bytes of {path} differ"
        path.unlink()
    return (
        f"kill_clients: {kills} kills of uploads of {size // MIB} MiB ({in_flight} bytes in flight), "
        f"{_checked(service, interrupted, most_again)}"
    )


def kill_servers(service: Service, *, kills: int, size: int, part_size: int, chance: random.Random) -> str:
    """Kill the server once per upload, start it again; the client goes on by itself, or is run again."""
    in_flight = PARALLEL * part_size
    most_again = interrupted = 0
    for number in range(kills):
        path = service.folder / f"server-{number}.bin"
        expected = blob(path, size, chance)
        client = service.client("upload", path, "--json", *options(part_size), wait=False)
        time.sleep(chance.uniform(0.2, 1.5))
        interrupted += client.poll() is None
        service.kill()
        service.start()
        client.communicate(timeout=600)
        printed = service.upload(path, *options(part_size))
        again = printed["bytes_sent"] + printed["bytes_resumed"] - size
        most_again = max(most_again, again)
        assert downloaded(service, printed["file"]["id"]) == expected, f"bytes of {path} differ"
        path.unlink()
    return (
        f"kill_servers: {kills} kills of uploads of {size // MIB} MiB ({in_flight} bytes in flight), "
        f"{_checked(service, interrupted, most_again)}"
    )


def _checked(service: Service, interrupted: int, most_again: int) -> str:
    strays = service.open_uploads()
    assert not strays, f"still open: {strays}"
    return f"{interrupted} in the middle, all completed, bytes equal, at most {most_again} bytes sent twice, none left open"


def run(*, seed: int, kills: int = 20, size: int = 256 * MIB, part_size: int = 4 * MIB) -> list[str]:
    """All of it, against one service."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as service:
        return [
            kill_clients(service, kills=kills, size=size, part_size=part_size, chance=chance),
            kill_servers(service, kills=kills, size=size, part_size=part_size, chance=chance),
        ]
