"""What is told of calls to a store: in the log, as JSON; no storage address is in it, and nothing of it on stdout."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx

from tests.integration.http.process import environment, service_process
from tests.integration.s3.faults.scripted import ScriptedS3, edits, refuses
from tests.integration.s3.faults.stores import BUCKET

OPTIONS = "region=us-east-1&part_size_min=1"
BODY = b"0123456789"


def test_no_storage_address_is_in_the_log_even_at_its_most_talkative(far: ScriptedS3, sdk: str, tmp_path: Path) -> None:
    storage = {
        "s3": f"s3://{BUCKET}?endpoint={far.url}&addressing=path&{OPTIONS}",
        "minio": f"minio://{far.url.removeprefix('http://')}/{BUCKET}?secure=false&{OPTIONS}",
    }[sdk]
    far.script("head", refuses(500, "InternalError"))  # is tried again
    # A line that is no header, in an answer that counts all the same: urllib3 warns of it, with the whole URL.
    far.always("list_parts", edits(lambda answer: replace(answer, headers={**answer.headers, "X-A": "b\r\nno header"})))

    log, said = _told_by_an_upload(tmp_path, storage)

    [key] = {call.key for call in far.calls if call.operation == "complete"}
    assert far.count("list_parts") > 0
    for secret in (f"/{BUCKET}", *key.split("/")[1:], *far.secrets, "uploadId="):
        assert secret not in log
    lines = [json.loads(line) for line in log.splitlines()]
    assert {line["logger"] for line in lines if line["event"] == "request"} == {"uploadcore.http"}
    assert "stamina" in {line["logger"] for line in lines}, "what is tried again is told"
    assert said == "", "and not on stdout"


def test_a_sweep_says_on_stderr_what_it_tried_again_and_on_stdout_what_it_did(far: ScriptedS3, tmp_path: Path) -> None:
    storage = f"s3://{BUCKET}?endpoint={far.url}&addressing=path&{OPTIONS}"
    far.script("list_multiparts", refuses(500, "InternalError"))

    ran = subprocess.run(
        [sys.executable, "-m", "uploadcore_cli.main", "sweep", "--json"],
        env=environment(data_dir=str(tmp_path), storage=storage),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert json.loads(ran.stdout)["failed"] == 0
    assert "stamina.retry_scheduled" in ran.stderr


def _told_by_an_upload(folder: Path, storage: str) -> tuple[str, str]:
    """What a service logs, and what it says besides, while a file is uploaded to that store and deleted."""
    with service_process(folder, log_level="debug", storage=storage) as served:
        with httpx.Client(base_url=served.url, timeout=60) as api:
            asked = {"filename": "a", "size": len(BODY), "part_size": 5, "sign": 2}
            upload = api.post("/v1/uploads", json=asked).raise_for_status().json()
            for part in upload["parts"]:
                body = BODY[part["offset"] : part["offset"] + part["length"]]
                httpx.put(part["url"], headers=part["headers"], content=body).raise_for_status()
            api.post(f"/v1/uploads/{upload['id']}/complete").raise_for_status()
            api.delete(f"/v1/files/{upload['file_id']}").raise_for_status()
        served.stop()
        assert served.process.stdout is not None
        return served.log.read_text(), served.process.stdout.read()
