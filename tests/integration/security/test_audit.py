"""The audit of what is locked: a vulnerability fails it, and one that did not happen is not called a success."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(
    not (ROOT / ".venv" / "audit" / ".audit-done").exists(), reason="scripts/audit has not run here yet"
)

FINDING = {
    "vulns": [
        {
            "id": "PYSEC-0000-1",
            "aliases": ["CVE-0000-1"],
            "summary": "invented by a test",
            "affected": [
                {
                    "package": {"name": "urllib3", "ecosystem": "PyPI"},
                    "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}],
                }
            ],
        }
    ]
}


class Osv:
    """Answers like OSV: nothing is known of most packages."""

    def __init__(self, findings: dict[str, Any], failing_after: int) -> None:
        self.asked: list[str] = []
        osv = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = json.loads(self.rfile.read(int(self.headers["content-length"])))
                osv.asked.append(query["package"]["name"])
                body = json.dumps(findings.get(query["package"]["name"], {})).encode()
                self.send_response(200 if len(osv.asked) <= failing_after else 503)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/query"


@pytest.fixture
def osv(request: pytest.FixtureRequest) -> Iterator[Osv]:
    osv = Osv(*request.param)
    thread = threading.Thread(target=osv.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield osv
    osv.server.shutdown()
    thread.join()
    osv.server.server_close()


def audit(osv: Osv, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "AUDIT_OSV_URL": osv.url}
    return subprocess.run(
        [ROOT / "scripts" / "audit", *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("osv", [({"urllib3": FINDING}, 1_000)], indirect=True)
def test_a_known_vulnerability_fails_the_audit_and_is_named(osv: Osv) -> None:
    audited = audit(osv)

    assert audited.returncode == 1
    assert "urllib3" in audited.stderr
    assert "PYSEC-0000-1, CVE-0000-1; mended in 99.0" in audited.stderr
    assert f"vulnerabilities: 1 in {len(osv.asked)} packages audited, 0 not audited" in audited.stdout
    listed = json.loads((ROOT / "dist" / "sbom.json").read_text())
    assert {part["name"] for part in listed["components"]} >= set(osv.asked)


@pytest.mark.parametrize("osv", [({}, 20)], indirect=True)
def test_an_audit_that_broke_off_is_none(osv: Osv) -> None:
    audited = audit(osv, "--required")

    assert audited.returncode == 1
    assert "nothing was audited" in audited.stderr
    assert "packages audited" not in audited.stdout
