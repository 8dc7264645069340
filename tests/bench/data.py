"""The client into our own data endpoint, against `curl -T` of the same bytes into the same endpoint.

    python -m tests.bench.data

Both send the same file through signed URLs to a service of its own process, which writes and syncs them. curl sends one part at a time, as a
shell script would; the client sends four at once. In turns; the ratio is the median over the turns.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.bench.server import process, uvicorn
from tests.servers.process import free_port

SIZE = 1024**3
PART = 64 * 1024 * 1024
TURNS = 3


def upload_curl(url: str, file: Path, pieces: list[Path]) -> float:
    """Seconds that curl takes for all parts, initiate and complete included; the file was cut before."""
    begun = time.perf_counter()
    asked = {"filename": file.name, "size": SIZE, "part_size": PART, "sign": SIZE // PART, "content_type": "video/mp4"}
    upload = _call(f"{url}/v1/uploads", asked)
    for part, piece in zip(upload["parts"], pieces, strict=True):
        headers = [option for pair in part["headers"].items() for option in ("-H", ": ".join(pair))]
        subprocess.run(["curl", "-fsS", "-T", piece, *headers, "-o", "/dev/null", part["url"]], check=True)
    _call(f"{url}/v1/uploads/{upload['id']}/complete", {})
    return time.perf_counter() - begun


def upload_ours(url: str, file: Path) -> float:
    """Seconds that our client takes."""
    from uploadcore_client import Client

    begun = time.perf_counter()
    with Client(url, state_dir=file.parent / "state") as client:
        client.upload(file, part_size=PART)
    return time.perf_counter() - begun


def _call(url: str, body: dict[str, object]) -> Any:
    request = urllib.request.Request(url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def main(turns: int = TURNS) -> list[str]:
    """Run; return the lines to print."""
    if shutil.which("curl") is None:
        sys.exit("this benchmark compares with curl: install it (apt-get install curl)")
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        file = folder / "blob"
        with file.open("wb") as blob:
            for _ in range(SIZE // PART):
                blob.write(bytes(PART))
        pieces = [folder / f"piece-{number:02}" for number in range(SIZE // PART)]
        for piece in pieces:
            piece.write_bytes(bytes(PART))
        env = {
            "UPLOADCORE_DATA_DIR": str(folder / "data"),
            "UPLOADCORE_PORT": str(port),
            "UPLOADCORE_LOG_LEVEL": "warning",
        }
        ours, curl = [], []
        with process(uvicorn("tests.bench.signing_app:app", port), port, core=None, env=env):
            url = f"http://127.0.0.1:{port}"
            for _ in range(turns):
                ours.append(upload_ours(url, file))
                curl.append(upload_curl(url, file, pieces))
    ratios = [b / a for a, b in zip(ours, curl, strict=True)]
    rates = [SIZE / 1e9 / statistics.median(seconds) for seconds in (ours, curl)]
    return [
        (
            f"data_endpoint_vs_curl {statistics.median(ratios):.2f} x its speed (min {min(ratios):.2f} max {max(ratios):.2f}); "
            f"{rates[0]:.2f} against {rates[1]:.2f} GB/s"
        )
    ]


if __name__ == "__main__":
    print("\n".join(main()))
