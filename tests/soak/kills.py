"""`kill -9`, of the client and of the server, at random moments of an upload: everything resumes and completes.

What is sent again never exceeds what was in flight: parallel parts of one part size each. A proxy between them counts.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from tests.soak.proxy import CountingProxy
from tests.soak.service import Service
from tests.soak.worlds import EMBEDDED, World

MIB = 1024 * 1024
PARALLEL = 4
OVERHEAD = MIB
"""Bytes that requests need besides the bodies of parts, generously."""


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


class Killing:
    """Uploads through a proxy that counts, killed at random moments."""

    def __init__(
        self, world: World, service: Service, proxy: CountingProxy, *, size: int, part_size: int, chance: random.Random
    ) -> None:
        self.world = world
        self.service = service
        self.proxy = proxy
        self.size = size
        self.chance = chance
        self.options = ["--json", "--parallel", str(PARALLEL), "--part-size", str(part_size)]
        self.in_flight = PARALLEL * part_size
        self.took = 2.0
        self.interrupted = 0
        self.most_again = 0

    def begun(self, number: int) -> tuple[Path, str, subprocess.Popen[str]]:
        """A new file, its SHA-256, and a client that has begun to upload it a random while ago."""
        path = self.service.folder / f"blob-{number}.bin"
        expected = blob(path, self.size, self.chance)
        self.proxy.take()
        client = self.service.client("upload", path, *self.options, wait=False)
        # What is killed while it is being opened leaves an empty multipart upload, which goes as an orphan a day later.
        while client.poll() is None and not self._is_open(path):
            time.sleep(0.02)
        time.sleep(self.chance.uniform(0, 0.7) * self.took)
        self.interrupted += client.poll() is None
        return path, expected, client

    def _is_open(self, path: Path) -> bool:
        found = self.service.call("GET", "/v1/uploads?limit=1")["uploads"]
        return bool(found) and found[0]["filename"] == path.name and found[0]["state"] != "pending"

    def ended(self, path: Path, expected: str) -> None:
        """Bring the upload to its end; check its bytes, and how many were sent in all."""
        begun = time.monotonic()
        printed = self.service.upload(path, *self.options)
        self.took = max(0.5, 0.7 * self.took + 0.3 * (time.monotonic() - begun))
        self.check(path, expected, printed["file"]["id"])

    def check(self, path: Path, expected: str, file_id: str) -> None:
        again = self.proxy.take() - self.size
        assert again <= self.in_flight + OVERHEAD, f"{again} bytes sent twice, {self.in_flight} were in flight"
        self.most_again = max(self.most_again, again)
        assert downloaded(self.service, file_id) == expected, f"bytes of {path} differ"
        path.unlink()

    def line(self, name: str, kills: int) -> str:
        strays = self.service.open_uploads()
        assert not strays, f"still open: {strays}"
        left = self.world.left(self.service)
        assert not left, f"left in the store: {left}"
        return (
            f"{self.world.name}{name}: {kills} kills of uploads of {self.size // MIB} MiB, {self.interrupted} in the middle, all completed, "
            f"bytes equal, at most {max(0, self.most_again) / MIB:.1f} MiB sent twice "
            f"({self.in_flight / MIB:.0f} MiB in flight), nothing left open or in the store"
        )


def kill_clients(killing: Killing, kills: int) -> str:
    """Kill the client once per upload, and run it again."""
    for number in range(kills):
        path, expected, client = killing.begun(number)
        client.kill()
        client.communicate()
        found = killing.service.call("GET", "/v1/uploads?state=completed&limit=1")["uploads"]
        if found and found[0]["filename"] == path.name:  # it was faster: another run would upload the file once more
            killing.check(path, expected, found[0]["file_id"])
        else:
            killing.ended(path, expected)
    return killing.line("kill_clients", kills)


def kill_servers(killing: Killing, kills: int) -> str:
    """Kill the server once per upload and start it again; the client goes on by itself, or is run again."""
    for number in range(kills):
        path, expected, client = killing.begun(number)
        killing.service.kill()
        killing.service.start()
        out, _ = client.communicate(timeout=600)
        if client.returncode == 0:
            killing.check(path, expected, json.loads(out.splitlines()[-1])["file"]["id"])
        else:
            killing.ended(path, expected)
    return killing.line("kill_servers", kills)


def run(
    *, seed: int, kills: int = 20, size: int = 256 * MIB, part_size: int = 4 * MIB, world: World = EMBEDDED
) -> list[str]:
    """All of it, against one service."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        proxy = CountingProxy()
        service = world.service(Path(folder), proxy)
        service.start()
        try:
            lines = []
            for kill in (kill_clients, kill_servers):
                killing = Killing(world, service, proxy, size=size, part_size=part_size, chance=chance)
                lines.append(kill(killing, kills))
            return lines
        finally:
            service.kill()
            proxy.close()
