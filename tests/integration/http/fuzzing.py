"""Schemathesis over the OpenAPI document of a real service: all checks, stateful. Used by the tests, small, and by soak, in full."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

from tests.integration.http.process import Served, service_process
from tests.integration.http.service import KEY, token

CONFIG = Path(__file__).with_name("schemathesis.toml")
_PASSED = re.compile(r"(\d+) generated, (\d+) passed")
_SERVER_ERROR = re.compile(r'"status":5\d\d')


class FuzzingFailedError(AssertionError):
    """Some check failed; the message is schemathesis's report."""


def run_schemathesis(max_examples: int, seed: int) -> str:
    """Run every phase; return one line that says what was run.

    Args:
        max_examples: Cases per operation and phase.
        seed: Makes the run repeatable.

    Raises:
        FuzzingFailedError: A check failed, or the service answered 5xx.
    """
    with tempfile.TemporaryDirectory() as folder, service_process(Path(folder), auth_jwt_key=KEY) as served:
        bearer = token("fuzz", exp=4_102_444_800)  # outlasts any run
        _seed(served, bearer)
        ran = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                "--config-file",
                str(CONFIG),
                "run",
                f"{served.url}/schema",
                "--phases=examples,coverage,fuzzing,stateful",
                f"--max-examples={max_examples}",
                f"--seed={seed}",
                f"--header=Authorization: Bearer {bearer}",
                "--max-redirects=0",
                "--continue-on-failure",
                "--no-color",
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
        )
        server_errors = len(_SERVER_ERROR.findall(served.log.read_text()))
    counted = _PASSED.search(ran.stdout)
    if ran.returncode != 0 or counted is None or server_errors:
        raise FuzzingFailedError(f"{server_errors} answers of 5xx\n{ran.stdout[-20_000:]}{ran.stderr[-2_000:]}")
    return f"schemathesis {counted[1]} cases, all checks, stateful: {counted[2]} passed, {server_errors} answers of 5xx (seed {seed})"


def _seed(served: Served, bearer: str) -> None:
    """Uploads in several states, completed ones among them: what generated requests alone would hardly ever bring about."""
    with httpx.Client(base_url=served.url, headers={"authorization": f"Bearer {bearer}"}) as api:
        for number in range(4):
            asked = {"filename": f"seed-{number}.bin", "size": 5, "sign": 1, "fingerprint": "seed"}
            upload = api.post("/v1/uploads", json=asked).raise_for_status().json()
            if number == 0:
                continue
            for part in upload["parts"]:
                httpx.request(part["method"], part["url"], headers=part["headers"], content=b"x" * 5).raise_for_status()
            if number > 1:
                api.post(f"/v1/uploads/{upload['id']}/complete").raise_for_status()
                shown = {"labels": ["seed"], "visibility": "public" if number == 2 else "unlisted"}
                api.patch(f"/v1/files/{upload['file_id']}", json=shown).raise_for_status()
