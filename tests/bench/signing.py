"""Signing over HTTP, with a warm token, against a bare Litestar JSON handler without authentication; each on one core.

    python -m tests.bench.signing

Both are served the same way, one after the other, in turns; the ratio is the median over the turns.
"""

from __future__ import annotations

import json
import os
import secrets
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import jwt

from tests.bench.load import post, rate
from tests.bench.server import process, uvicorn
from tests.servers.process import free_port

TURNS = 5
SECONDS = 2.0


def token(key: str) -> str:
    """A token as an issuer would make it."""
    now = int(time.time())
    claims = {"sub": "u_1", "aud": "uploadcore", "iss": "uploadcore", "iat": now, "exp": now + 3600}
    return jwt.encode(claims, key, algorithm="HS256")


def initiated(port: int, bearer: str) -> str:
    """Path of the signing call of a new upload with 1,000 parts."""
    asked = {"filename": "trip.mp4", "size": 1_000 * 8 * 1024 * 1024, "content_type": "video/mp4"}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/uploads",
        data=json.dumps(asked).encode(),
        headers={"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return f"/v1/uploads/{json.load(answer)['id']}/part-urls"


def main(turns: int = TURNS) -> list[str]:
    """Run; return the lines to print."""
    key, cores = secrets.token_hex(32), sorted(os.sched_getaffinity(0))
    server_core, own_core = cores[0], cores[-1]
    with tempfile.TemporaryDirectory() as folder:
        env = {
            "UPLOADCORE_DATA_DIR": str(Path(folder) / "data"),
            "UPLOADCORE_AUTH_JWT_KEY": key,
            "UPLOADCORE_LOG_LEVEL": "warning",
        }
        ours, bare = free_port(), free_port()
        with (
            process(uvicorn("tests.bench.signing_app:app", ours), ours, core=server_core, env=env),
            process(uvicorn("tests.bench.bare:app", bare), bare, core=server_core),
        ):
            if len(cores) > 1:
                os.sched_setaffinity(0, {own_core})
            bearer = token(key)
            path = initiated(ours, bearer)
            lines = []
            for count, target in ((1, 0.65), (100, 0.18)):
                numbers = json.dumps({"part_numbers": list(range(1, count + 1))}).encode()
                one = json.dumps({"part_numbers": [1]}).encode()
                ratios, ours_rates, bare_rates = _turns(
                    turns, (ours, post(path, numbers, token=bearer)), (bare, post("/bare", one))
                )
                lines.append(
                    f"sign_{count}_vs_bare_litestar {statistics.median(ratios):.2f} (target {target}; min {min(ratios):.2f} "
                    f"max {max(ratios):.2f}; {statistics.median(ours_rates):.0f} against {statistics.median(bare_rates):.0f} "
                    f"requests/s on one core)"
                )
            os.sched_setaffinity(0, set(cores))
    return lines


def _turns(
    turns: int, ours: tuple[int, bytes], bare: tuple[int, bytes]
) -> tuple[list[float], Sequence[float], Sequence[float]]:
    for port, request in (ours, bare):
        rate(port, request, seconds=SECONDS / 2)
    ours_rates, bare_rates = [], []
    for _ in range(turns):
        ours_rates.append(rate(*ours, seconds=SECONDS))
        bare_rates.append(rate(*bare, seconds=SECONDS))
    return [a / b for a, b in zip(ours_rates, bare_rates, strict=True)], ours_rates, bare_rates


if __name__ == "__main__":
    print("\n".join(main()))
